"""Trying a prompt: each mode, options, cancel, retry, and text that stays text."""

from __future__ import annotations

from collections.abc import Callable

from tests.console.stack import Stack

EVIL = "<img src=x onerror=alert(1)><script>document.title='owned'</script><b>bold</b> & \"quotes\" 中文 🙂"


def _id(live) -> str:
    return live.locator("code.id").get_attribute("title")


def _job(stack: Stack, live) -> dict:
    return stack.api.call("GET", f"/api/jobs/{_id(live)}").json


def test_each_mode_answers(visit: Callable, stack: Stack) -> None:
    tab = visit()
    tab.enter()
    for mode in ("General", "Recommendation", "Support", "E-commerce"):
        live = tab.ask(f"I ask {mode}.", mode=mode, max_length="40", seed="7")
        live.filter(has_text=f"I ask {mode}.").and_(tab.page.locator("[data-status=succeeded]")).wait_for()
        job = _job(stack, live)
        name = mode.lower().replace("-", "")
        assert (job["mode"], job["input"]) == (name, f"I ask {mode}.")
        assert live.locator(".output .text").inner_text() == job["output"]
        tiles = dict(zip(live.locator("dt").all_inner_texts(), live.locator("dd").all_inner_texts(), strict=True))
        assert tiles["Tokens out"] == str(job["usage"]["completion_tokens"]) == "40"
        assert tiles["Ran"].endswith("s")


def test_what_people_write_stays_text(visit: Callable, stack: Stack) -> None:
    tab = visit()
    tab.enter()
    live = tab.ask(EVIL, max_length="200")
    live.and_(tab.page.locator("[data-status=succeeded]")).wait_for()
    assert live.locator(".output .text").inner_text().startswith(EVIL)
    assert tab.page.locator("#main :is(img, script, b)").count() == 0
    tab.page.goto(f"{tab.url}/#/jobs/{_id(live)}")
    tab.page.locator("dialog .quote").wait_for()
    assert tab.page.locator("dialog .quote").inner_text() == EVIL
    assert EVIL in tab.page.locator(".row-link").first.inner_text()
    assert tab.page.locator("#main :is(img, script, b)").count() == 0
    assert "owned" not in tab.page.title()


def test_wrong_options_are_said_at_their_field(visit: Callable) -> None:
    tab = visit()
    tab.expected = {422}
    tab.enter()
    tab.ask("Hello", temperature="9")
    tab.page.locator("#o-temperature-error").filter(has_text="less than or equal to 2").wait_for()
    tab.page.locator(".failure").filter(has_text="did not take one of the values").wait_for()
    assert tab.page.locator(".answer .live").count() == 0
    tab.page.get_by_role("button", name="Back to the defaults").click()
    tab.page.get_by_role("button", name="Generate").click()
    tab.page.locator(".live[data-status=succeeded]").wait_for()


def test_nothing_is_sent_without_a_prompt_or_with_too_long_a_one(visit: Callable) -> None:
    tab = visit()
    tab.enter()
    tab.page.get_by_role("button", name="Generate").click(force=True)
    assert tab.page.evaluate("document.activeElement.id") == "prompt"
    tab.page.get_by_label("Prompt", exact=True).fill("x" * 8001)
    assert tab.page.locator(".count-over").inner_text() == "8,001 of 8,000 characters"
    tab.page.get_by_role("button", name="Generate").click(force=True)
    assert not [request for request in tab.requests if request.method == "POST"]


def test_cancel_and_run_again(visit: Callable, stack: Stack) -> None:
    tab = visit()
    tab.enter()
    live = tab.ask("A long one", max_length="500", temperature="0.8")
    live.and_(tab.page.locator("[data-status=running]")).wait_for()
    live.get_by_role("button", name="Cancel").click()
    live.and_(tab.page.locator("[data-status=canceled]")).wait_for()
    assert _job(stack, live)["status"] == "canceled"
    live.get_by_role("button", name="Run again").click()
    live.get_by_text("attempt 2").wait_for()
    live.and_(tab.page.locator("[data-status=running]")).wait_for()
    live.get_by_role("button", name="Cancel").click()
    live.and_(tab.page.locator("[data-status=canceled]")).wait_for()
    assert _job(stack, live)["attempt"] == 2


def test_the_place_in_line_and_the_keyboard_alone(visit: Callable, stack: Stack) -> None:
    """Sign in, choose a mode, ask, see the place in line, cancel, sign out: without a mouse."""
    stack.api.call("POST", "/api/admin/queues/demo/pause")
    try:
        ahead = [stack.api.call("POST", "/api/generate", {"prompt": f"ahead {n}"}).json["id"] for n in range(2)]
        tab = visit()
        keys = tab.page.keyboard
        tab.open()
        tab.page.get_by_label("API key", exact=True).wait_for()
        keys.type(tab.key)
        keys.press("Enter")
        tab.page.locator("#prompt").wait_for()
        tab.page.get_by_role("radio").first.wait_for(state="attached")  # the modes come with an answer of their own
        keys.press("Tab")
        assert tab.page.evaluate("document.activeElement.className") == "skip"
        keys.press("Enter")
        assert tab.page.evaluate("document.activeElement.id") == "main"
        keys.press("Tab")
        keys.press("ArrowRight")
        assert tab.page.evaluate("document.activeElement.value") == "recommendation"
        keys.press("Tab")
        assert tab.page.evaluate("document.activeElement.id") == "prompt"
        keys.type("Something for a rainy day")
        keys.press("Control+Enter")
        live = tab.page.locator(".live[data-status=queued]")
        live.get_by_text("Number 3 in line").wait_for()
        for _ in range(40):
            keys.press("Tab")
            if tab.page.evaluate("document.activeElement.innerText") == "Cancel":
                break
        outline = tab.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", "the focus is seen"
        keys.press("Enter")
        tab.page.locator(".live[data-status=canceled]").wait_for()
        for job_id in ahead:
            stack.api.call("POST", f"/api/jobs/{job_id}/cancel")
    finally:
        stack.api.call("POST", "/api/admin/queues/demo/resume")


def test_the_request_as_curl_has_no_key(visit: Callable) -> None:
    tab = visit()
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.enter()
    tab.page.get_by_label("Prompt", exact=True).fill("it's me")
    tab.page.get_by_role("button", name="Copy as curl").click()
    tab.page.get_by_role("button", name="Copied").wait_for()
    copied = tab.page.evaluate("navigator.clipboard.readText()")
    assert "X-API-Key: $KEY" in copied
    assert tab.key not in copied
    assert """{"prompt":"it'\\''s me","mode":"general"}""" in copied


def test_the_form_is_still_there_when_one_comes_back(visit: Callable) -> None:
    tab = visit()
    tab.enter()
    live = tab.ask("Remember me", max_length="30")
    live.and_(tab.page.locator("[data-status=succeeded]")).wait_for()
    text = live.locator(".output .text").inner_text()
    tab.page.get_by_role("link", name="Queue").click()
    tab.page.get_by_role("heading", name="Queue", exact=True).wait_for()
    tab.page.get_by_role("link", name="Playground").click()
    assert tab.page.get_by_label("Prompt", exact=True).input_value() == "Remember me"
    tab.page.locator(".live[data-status=succeeded]").wait_for()
    assert tab.page.locator(".live .output .text").inner_text() == text
