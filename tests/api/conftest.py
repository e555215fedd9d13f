from __future__ import annotations

import pytest

from tests.api.house import House, build


@pytest.fixture
def house() -> House:
    return build()


@pytest.fixture(scope="module")
def shared_house() -> House:
    """For tests that leave no trace, and there are many of them."""
    return build()
