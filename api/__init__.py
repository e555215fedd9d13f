"""The HTTP API: thin, stateless, and without a model."""
