"""The images, built once a run, and one stack that the tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.containers.stack import Stack, why_not


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if reason := why_not():
        pytest.skip(reason)
    stack = Stack(tmp_path_factory.mktemp("stack"))
    stack.write_env()
    stack.build()
    try:
        stack.up()
        yield stack
    finally:
        stack.down()
