"""Puts a fleet right that has no worker up: ``python -m shared.reconcile``. Where workers are up, they do it themselves.

REDIS_URL=… python -m shared.reconcile --json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass

from shared.errors import SmartTextGenError
from shared.queue import make_celery, send_hints
from shared.settings import Settings, load_settings
from shared.store.connection import connect, key_prefix
from shared.store.protocol import JobStore, Patience
from shared.store.redis import RedisStore
from shared.store.retention import Retention


@dataclass(frozen=True, slots=True)
class Report:
    """What was put right, and what waits now. ``reaped``: workers that were gone."""

    reaped: list[str]
    hints_sent: int
    waiting: dict[str, int]
    workers: int


def reconcile(settings: Settings, store: JobStore) -> Report:
    """Make passes for a little longer than a lease: after a time without any, the first pass gives every worker one lease
    to show that it lives, since Redis may have been what was away. So does one of ours that comes late: until that is over too.

    Raises: StoreUnavailableError.
    """
    patience = Patience(settings.hint_grace_s, settings.priority_age_s, settings.max_crashes, pause_s=0)
    pause_s = min(settings.reconcile_s, settings.worker_lease_s / 4)  # passes that are far apart look like outages
    celery = make_celery(settings)
    reaped: list[str] = []
    sent = 0
    until = time.monotonic() + settings.worker_lease_s + 2 * pause_s
    try:
        while True:
            done = store.reconcile(patience)
            send_hints(celery, done.hints, prefix=settings.redis_prefix)
            reaped += done.reaped
            sent += len(done.hints)
            if time.monotonic() > until and not done.held:
                break
            time.sleep(pause_s)
    finally:
        celery.close()
    fleet = store.fleet()
    return Report(reaped, sent, fleet.queue_lengths, len(fleet.workers))


def main(argv: list[str] | None = None) -> int:
    """Say what was done. Exit code 1 with a sentence where Redis is away."""
    parser = argparse.ArgumentParser(prog="python -m shared.reconcile", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    try:
        settings = load_settings()
        store = RedisStore(connect(settings), key_prefix(settings), Retention.of(settings))
        report = reconcile(settings, store)
    except SmartTextGenError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(json.dumps(asdict(report)) if arguments.json else _sentences(report))
    return 0


def _sentences(report: Report) -> str:
    gone = ", ".join(report.reaped) or "none"
    waiting = ", ".join(f"{count} for {model}" for model, count in sorted(report.waiting.items()) if count) or "none"
    return f"Workers found gone: {gone}.\nHints sent: {report.hints_sent}.\nJobs waiting: {waiting}.\nWorkers up: {report.workers}."


if __name__ == "__main__":
    raise SystemExit(main())
