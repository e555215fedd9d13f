"""``python -m tests.chaos``: one trial, its report on the terminal. Exit code 1 where a promise was broken."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.chaos.trial import trial


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=120, help="of faults; quiet and audit come after")
    parser.add_argument("--jobs", type=int, default=0, help="default: four a second")
    parser.add_argument("--poison", type=int, default=2, help="of the jobs kill their worker")
    parser.add_argument("--folder", type=Path, help="for logs, diary and report; default: a new one, kept")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        parser.error(f"{folder} is not empty: an older trial's records would be audited with this one's")
    jobs = given.jobs or int(4 * given.seconds)
    report = trial(folder, seed=given.seed, seconds=given.seconds, jobs=jobs, poison=given.poison)
    print(report.text())
    print(f"logs, diary and report in {folder}")
    return 1 if report.findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
