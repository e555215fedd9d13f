"""A short trial with a fixed seed: every kind of fault once. ``make chaos SEED=… SECONDS=…`` runs longer ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.trial import trial


@pytest.mark.usefixtures("redis_binary")
def test_nothing_is_lost_or_doubled(tmp_path: Path):
    report = trial(tmp_path, seed=7, seconds=20, jobs=100, poison=1)
    print(report.text())
    assert report.findings == []
