"""The job store: the one owner of every job's state."""
