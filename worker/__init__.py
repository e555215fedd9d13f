"""The worker: takes jobs from the queue, runs them on the engine, writes their end to the store."""
