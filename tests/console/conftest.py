"""One stack and one browser for all tests here; each test has a tab of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.console.stack import Stack


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    driver = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    del driver
    from tests.console.browser import chromium, find_chromium

    binary = find_chromium()
    if binary is None:
        pytest.skip("no chromium on PATH")
    with chromium(binary) as running:
        yield running


@pytest.fixture(scope="session")
def stack(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(redis_url, tmp_path_factory.mktemp("console")) as running:
        yield running


@pytest.fixture
def visit(browser, stack: Stack) -> Iterator[Callable[..., Any]]:
    """Opens tabs. At the end none of them may have complained, or put the key into an address."""
    from tests.console.browser import Visit

    opened = []

    def make(key: str | None = None, **options: Any) -> Visit:
        options.setdefault("viewport", {"width": 1280, "height": 860})
        opened.append(Visit(browser, stack.url, key or stack.key, **options))
        return opened[-1]

    yield make
    for tab in opened:
        addresses = [request.url for request in tab.requests]
        here = tab.page.url
        complaints = list(tab.complaints)
        tab.close()
        assert complaints == []
        assert all(address.startswith((stack.url, *tab.besides)) for address in addresses), "nothing from elsewhere"
        assert not any(tab.key in address for address in [*addresses, here])
