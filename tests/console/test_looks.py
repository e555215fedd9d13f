"""Phone, light and dark, languages, and what axe finds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.console.stack import Stack

VIEWS = ("playground", "jobs", "batches", "queue", "usage", "webhooks", "operations")
PHONE = {"viewport": {"width": 375, "height": 740}, "has_touch": True, "is_mobile": True}
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RULES = {
    "light": {"runOnly": {"type": "tag", "values": WCAG}},
    "dark": {"runOnly": {"type": "rule", "values": ["color-contrast"]}},  # the rest is the same page
}


@pytest.fixture(scope="module")
def job(stack: Stack) -> dict:
    """Something to be seen in the lists."""
    words = {"prompt": "a-very-long-word-" * 20, "max_length": 60, "user_id": "looker"}
    return stack.api.call("POST", "/api/generate?wait=20", words).json


def _settled(tab) -> None:
    tab.page.locator(".loading").last.wait_for(state="detached")


def test_on_a_phone_nothing_is_wider_than_the_screen(visit: Callable, job: dict) -> None:
    tab = visit(**PHONE)
    tab.expected = {404, 405}
    tab.open()
    tab.page.get_by_label("API key", exact=True).wait_for()
    widths = {"signin": tab.page.evaluate("document.documentElement.scrollWidth")}
    tab.enter()
    for view in (*VIEWS, f"jobs/{job['id']}"):
        tab.page.goto(f"{tab.url}/#/{view}")
        _settled(tab)
        if view == "playground":
            tab.page.locator("details.options summary").click()
        widths[view] = tab.page.evaluate(
            "Math.max(document.documentElement.scrollWidth, document.querySelector('dialog')?.scrollWidth ?? 0)"
        )
    assert widths == dict.fromkeys(widths, 375)
    for target in tab.page.locator("dialog button:visible").all():
        assert min(target.bounding_box()["height"], target.bounding_box()["width"]) >= 24


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit: Callable, job: dict, scheme: str) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
    ).Axe()
    tab = visit(color_scheme=scheme, reduced_motion="reduce")
    tab.expected = {404, 405}
    tab.open()
    tab.page.get_by_label("API key", exact=True).wait_for()
    found = {"signin": axe.run(tab.page, options=RULES[scheme]).response["violations"]}
    tab.enter()
    for view in (*VIEWS, f"jobs/{job['id']}"):
        tab.page.goto(f"{tab.url}/#/{view}")
        _settled(tab)
        for folded in tab.page.locator("details:not([open]) > summary:visible").all():
            folded.click()
        found[view] = axe.run(tab.page, options=RULES[scheme]).response["violations"]
    wrong = [
        (view, violation["id"], [(node["target"], node["failureSummary"]) for node in violation["nodes"]][:3])
        for view, violations in found.items()
        for violation in violations
    ]
    assert wrong == []


def _background(tab) -> str:
    return tab.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")


def test_light_and_dark(visit: Callable) -> None:
    light, dark = visit(color_scheme="light"), visit(color_scheme="dark")
    for tab in (light, dark):
        tab.enter("queue")
    assert (_background(light), _background(dark)) == ("rgb(247, 245, 241)", "rgb(18, 20, 22)")
    for name in ("light", "dark"):
        light.page.get_by_role("button", name="Theme:").click()
        light.page.get_by_role("status").filter(has_text=f"Theme: {name}").wait_for()
    assert _background(light) == _background(dark)
    light.page.reload()
    light.page.locator("#main h1").wait_for()
    assert _background(light) == _background(dark), "it is remembered"


def test_in_chinese(visit: Callable) -> None:
    tab = visit()
    tab.enter("usage")
    tab.page.get_by_role("button", name="繁體中文").click()
    tab.page.get_by_role("heading", name="用量").wait_for()
    assert tab.page.evaluate("document.documentElement.lang") == "zh-Hant"
    tab.page.reload()
    tab.page.get_by_role("heading", name="用量").wait_for()
