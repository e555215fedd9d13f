"""A short trial with a fixed seed: every kind of fault once. ``make chaos SEED=… SECONDS=…`` runs longer ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.trial import trial
from tests.servers import find_redis_server


@pytest.mark.skipif(find_redis_server() is None, reason="needs a redis-server or valkey-server")
def test_nothing_is_lost_or_doubled(tmp_path: Path):
    report = trial(tmp_path, seed=7, seconds=20, jobs=100, poison=1)
    print(report.text())
    assert report.findings == []
