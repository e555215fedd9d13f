"""The images, built once a run, and one stack that the tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.containers.stack import Stack, why_not


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """Locally a missing Docker engine skips these tests; in CI (the variable CI is set) it fails them."""
    if reason := why_not():
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def stack(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("stack"))
    stack.write_env()
    stack.build()
    try:
        stack.up()
        yield stack
    finally:
        stack.down()
