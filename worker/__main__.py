"""``python -m worker``: a worker, set up by the environment alone."""

from __future__ import annotations

import sys

from shared.errors import ConfigurationError
from worker.lifecycle import EXIT_CONFIGURATION


def main() -> None:
    """Run until a signal. Exit codes: 0 after a drain, 69 the model cannot be loaded, 70 the engine broke, 78 a setting is
    wrong."""
    try:
        from worker.app import app  # noqa: PLC0415 - settings are read on import, and a wrong one is to end with a sentence
    except ConfigurationError as error:
        print(error.message, file=sys.stderr)
        raise SystemExit(EXIT_CONFIGURATION) from error
    app.worker_main(["worker", "--without-gossip", "--without-mingle"])


if __name__ == "__main__":
    main()
