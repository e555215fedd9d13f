"""One's jobs, usage, the queue, and what administrators do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from tests.console.stack import Stack
from tests.servers import until


@pytest.fixture
def paused(stack: Stack) -> Iterator[None]:
    """Nothing leaves the queue."""
    stack.api.call("POST", "/api/admin/queues/demo/pause")
    yield
    stack.api.call("POST", "/api/admin/queues/demo/purge")
    stack.api.call("POST", "/api/admin/queues/demo/resume")


def _submit(stack: Stack, prompt: str, **options) -> dict:
    return stack.api.call("POST", "/api/generate", {"prompt": prompt, "max_length": 20, **options}).json


def _done(stack: Stack, prompt: str, **options) -> dict:
    made = stack.api.call("POST", "/api/generate?wait=20", {"prompt": prompt, "max_length": 20, **options})
    assert made.status == 200, made.body
    return made.json


def test_the_list_with_its_filters_and_pages(visit: Callable, stack: Stack) -> None:
    for number in range(25):
        _submit(stack, f"page filler {number}", user_id="filler")
    _done(stack, "the last one", user_id="filler", mode="support")
    tab = visit()
    tab.enter("jobs")
    rows = tab.page.locator(".rows > .row")
    tab.page.get_by_label("User").fill("filler")
    tab.page.get_by_label("User").press("Enter")
    until(lambda: rows.count() == 20 and "the last one" in rows.first.inner_text(), what="the first page")
    tab.page.get_by_role("button", name="Older").click()
    tab.page.get_by_text("Page 2").wait_for()
    until(lambda: rows.count() == 6, what="the second page")
    assert "page filler 0" in rows.last.inner_text()
    tab.page.get_by_role("button", name="Newer").click()
    until(lambda: rows.count() == 20, what="the first page again")
    tab.page.get_by_label("Mode").select_option("support")
    until(lambda: rows.count() == 1, what="one mode")
    assert re.search(
        r"Succeeded\s+the last one\s+Support\s+.*\d+ tokens · [\d.]+ m?s", rows.first.inner_text(), re.DOTALL
    )
    tab.page.get_by_role("radio", name="Failed").check(force=True)
    tab.page.get_by_text("No job matches").wait_for()


def test_one_job_in_its_drawer(visit: Callable, stack: Stack) -> None:
    _done(stack, "first turn", user_id="turner")
    job = _done(stack, "second turn", user_id="turner", metadata={"order": "A-1"})
    tab = visit()
    tab.enter("jobs")
    link = tab.page.get_by_role("link", name="second turn")
    link.focus()
    tab.page.keyboard.press("Enter")
    drawer = tab.page.get_by_role("dialog", name="Job")
    drawer.get_by_text("Conversation so far: 2 turns").wait_for()
    assert drawer.locator(".turn-in").all_inner_texts() == ["first turn", "second turn"]
    assert drawer.locator(".output .text").inner_text() == job["output"]
    drawer.get_by_text("Details").click()
    assert "A-1" in drawer.locator(".facts").inner_text()
    assert tab.page.url.endswith(f"#/jobs/{job['id']}")
    tab.page.keyboard.press("Escape")
    drawer.wait_for(state="detached")
    assert link.evaluate("link => link === document.activeElement"), "the focus is where it was"
    tab.page.goto(f"{tab.url}/#/jobs/{job['id']}")
    drawer.get_by_role("button", name="Delete").click()
    tab.page.get_by_role("dialog", name="Delete this job?").get_by_role("button", name="Delete").click()
    tab.page.get_by_text("The job was deleted.").wait_for()
    drawer.wait_for(state="detached")
    assert stack.api.call("GET", f"/api/jobs/{job['id']}").status == 404
    tab.expected = {404}
    tab.page.goto(f"{tab.url}/#/jobs/{job['id']}")
    drawer.get_by_role("alert").filter(has_text="There is no such thing").wait_for()


def test_jobs_that_wait_are_canceled_and_run_again_from_the_list(visit: Callable, stack: Stack, paused: None) -> None:
    _submit(stack, "ahead of it")
    _submit(stack, "wait for me")
    tab = visit()
    tab.enter("jobs")
    row = tab.page.locator(".row", has_text="wait for me")
    row.get_by_text("Number 2 in line").wait_for()
    row.get_by_role("button", name="Cancel “wait for me”").click()
    row.locator(".badge-canceled").wait_for()
    row.get_by_role("button", name="Run “wait for me” again").click()
    row.locator(".badge-queued").wait_for()


def test_usage_is_drawn_and_told(visit: Callable, stack: Stack) -> None:
    _done(stack, "count me")
    used = stack.api.call("GET", "/api/usage?group_by=day,model&days=30").json["data"]
    tab = visit()
    tab.enter("usage")
    plot = tab.page.get_by_role("slider")
    plot.wait_for()
    assert tab.page.locator("rect.series-0").count() == len(used) == 1
    assert f"{used[0]['total_tokens']:,} Tokens" in plot.get_attribute("aria-valuetext")
    plot.focus()
    tab.page.keyboard.press("ArrowLeft")
    assert plot.get_attribute("aria-valuetext").endswith(": 0 Tokens")
    tab.page.get_by_role("radio", name="7 days").check(force=True)
    until(lambda: plot.get_attribute("aria-valuemax") == "6", what="seven days")
    tab.page.get_by_text("The same as a table").click()
    cells = tab.page.locator("tbody tr").first.locator("td").all_inner_texts()
    assert cells == [
        "demo",
        *(
            f"{used[0][name]:,}"
            for name in ("jobs", "prompt_tokens", "cached_tokens", "completion_tokens", "total_tokens")
        ),
    ]


def test_the_queue_and_its_operations(visit: Callable, stack: Stack) -> None:
    tab = visit()
    tab.enter("operations")
    queue = tab.page.locator("section", has_text="Queues").locator(".row", has_text="demo")
    queue.get_by_role("button", name="Pause").click()
    queue.get_by_text("Paused").wait_for()
    _submit(stack, "stuck")
    tab.page.get_by_role("link", name="Queue").click()
    model = tab.page.locator(".model", has_text="demo")
    model.get_by_text("1 job waits").wait_for()
    assert "1 worker" in model.inner_text()
    tab.page.get_by_role("link", name="Operations").click()
    queue.get_by_text("1 waiting").wait_for()
    queue.get_by_role("button", name="Purge").click()
    tab.page.get_by_role("dialog").get_by_text("1 waiting job will be canceled").wait_for()
    tab.page.get_by_role("dialog").get_by_role("button", name="Purge").click()
    queue.get_by_text("0 waiting").wait_for()
    queue.get_by_role("button", name="Resume").click()
    queue.get_by_text("Open").wait_for()
    worker = tab.page.locator("section", has_text="Workers").locator(".row")
    assert "of 2 slots busy" in worker.inner_text()


def test_a_part_that_is_not_there_is_no_failure(visit: Callable) -> None:
    tab = visit()
    tab.expected = {404}
    tab.page.route(
        "**/api/webhooks*",
        lambda route: route.fulfill(
            status=404, json={"error": {"message": "Not Found.", "type": "x", "param": None, "code": "not_found"}}
        ),
    )
    tab.enter("webhooks")
    tab.page.get_by_text("Not on this deployment").wait_for()
    assert tab.page.get_by_role("alert").count() == 0


def test_a_lost_connection_is_said_and_ends_by_itself(visit: Callable) -> None:
    tab = visit()
    tab.enter("queue")
    tab.page.locator(".model").wait_for()
    tab.context.set_offline(True)
    tab.page.get_by_role("alert").filter(has_text="The API does not answer").wait_for()
    assert tab.page.locator(".model").count() == 1, "what was known stays"
    tab.context.set_offline(False)
    tab.page.get_by_role("alert").wait_for(state="detached", timeout=20_000)
    assert all("ERR_INTERNET_DISCONNECTED" in said for said in tab.complaints)
    tab.complaints.clear()
