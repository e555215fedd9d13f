"""Fixtures of the client's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from smarttextgen import Client, transport, waiting
from tests.smarttextgen.fake_api import KEY, FakeApi


@pytest.fixture(autouse=True)
def no_user_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the person who runs the tests has set, or runs, is not seen by them."""
    for name in ("SMARTTEXTGEN_URL", "SMARTTEXTGEN_API_KEY", "API_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SMARTTEXTGEN_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without their waiting."""
    monkeypatch.setattr(transport, "_backoff", lambda state: 0.01)
    monkeypatch.setattr(waiting, "SHORTEST_PAUSE_S", 0.01)
    monkeypatch.setattr(waiting, "DEFAULT_PAUSE_S", 0.01)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as fake:
        yield fake


@pytest.fixture
def client(api: FakeApi) -> Iterator[Client]:
    with Client(api.url, KEY, timeout=5) as made:
        yield made
