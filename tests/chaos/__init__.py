"""The chaos suite: the whole platform as real processes, faults by a seeded schedule, clients that write down what they saw,
and an audit that reads Redis by itself. ``python -m tests.chaos --seed N --seconds S --jobs J``."""
