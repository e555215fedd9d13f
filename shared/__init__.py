"""What the API, the workers and the courier have in common: plain data, the job store, settings, names."""
