"""Batches and webhooks, from making one to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.console.stack import Stack
from tests.servers import until
from tests.webhooks.receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def test_a_batch_from_its_prompts_to_its_results(visit: Callable, stack: Stack) -> None:
    tab = visit()
    tab.enter("batches")
    tab.page.get_by_role("button", name="New batch").click()
    tab.page.get_by_label("Prompts").fill("one tent\n\n  two <b>kettles</b>  \nthree socks\n")
    tab.page.get_by_label("Mode").select_option("ecommerce")
    tab.page.get_by_role("button", name="Submit 3 prompts").click()
    drawer = tab.page.get_by_role("dialog", name="Batch")
    drawer.get_by_text("Completed").wait_for(timeout=20_000)
    drawer.get_by_text("3 of 3").wait_for()
    drawer.get_by_role("link", name="two <b>kettles</b>").wait_for()
    with tab.page.expect_download() as download:
        drawer.get_by_role("button", name="Results so far").click()
    lines = download.value.path().read_text().splitlines()
    assert len(lines) == 3
    assert any("two <b>kettles</b>" in line for line in lines)
    drawer.get_by_role("link", name="one tent").click()
    tab.page.get_by_role("dialog", name="Job").get_by_text("one tent", exact=True).wait_for()
    assert tab.page.get_by_role("dialog").count() == 1
    tab.page.go_back()
    drawer.get_by_role("button", name="Delete").click()
    tab.page.get_by_role("dialog", name="Delete this batch?").get_by_role("button", name="Delete").click()
    tab.page.get_by_text("The batch was deleted.").wait_for()


def test_a_batch_is_canceled(visit: Callable, stack: Stack) -> None:
    stack.api.call("POST", "/api/admin/queues/demo/pause")
    try:
        made = stack.api.call("POST", "/api/generate_batch", {"prompts": ["a", "b", "c", "d"]}).json
        tab = visit()
        tab.enter("batches")
        row = tab.page.locator(".row", has_text=made["id"])
        row.get_by_text("0 of 4").wait_for()
        row.get_by_role("link").click()
        drawer = tab.page.get_by_role("dialog", name="Batch")
        drawer.get_by_role("button", name="Cancel").click()
        drawer.locator(".live-head .badge-canceled").wait_for()
        drawer.get_by_text("4 of 4").wait_for()
    finally:
        stack.api.call("POST", "/api/admin/queues/demo/resume")


def test_an_endpoint_from_its_secret_to_its_deliveries(visit: Callable, receiver: Receiver) -> None:
    tab = visit()
    tab.expected = {422}
    tab.enter("webhooks")
    tab.page.get_by_text("No endpoints yet").wait_for()
    tab.page.get_by_role("button", name="New endpoint").click()
    tab.page.get_by_label("Address").fill("http://10.1.2.3/")
    tab.page.get_by_role("button", name="Create").click()
    tab.page.locator("#hook-url-error").wait_for()
    tab.page.get_by_label("Address").fill(receiver.url)
    tab.page.get_by_role("button", name="Create").click()
    shown = tab.page.get_by_role("dialog", name="Signing secret")
    secret = shown.locator("code").inner_text()
    assert secret.startswith("whsec_")
    shown.get_by_role("button", name="Done").click()
    tab.page.get_by_role("link", name=receiver.url).click()
    drawer = tab.page.get_by_role("dialog", name="Endpoint")
    drawer.get_by_text("Nothing delivered yet").wait_for()
    drawer.get_by_role("button", name="Send a test").click()
    until(lambda: len(receiver.received) == 1, what="the test")
    assert receiver.received[0].verify(secret)
    row = drawer.locator(".rows > .row").first
    row.get_by_text("Delivered").wait_for()
    assert "HTTP 200" in row.inner_text()
    row.get_by_role("button", name="Send again").click()
    until(lambda: len(receiver.received) == 2, what="the same again")
    drawer.get_by_role("button", name="Disable").click()
    drawer.locator(".live-head").get_by_text("Disabled").wait_for()
    drawer.get_by_role("button", name="New secret").click()
    tab.page.get_by_role("dialog", name="Make a new signing secret?").get_by_role("button", name="New secret").click()
    shown.wait_for()
    assert shown.locator("code").inner_text() not in ("", secret)
    shown.get_by_role("button", name="Done").click()
    drawer.get_by_role("button", name="Delete").click()
    tab.page.get_by_role("dialog", name="Delete this endpoint?").get_by_role("button", name="Delete").click()
    tab.page.get_by_text("No endpoints yet").wait_for()


def test_where_jobs_call_by_themselves(visit: Callable, stack: Stack, receiver: Receiver) -> None:
    body = {"prompt": "call me", "max_length": 20, "webhook": receiver.url}
    job = stack.api.call("POST", "/api/generate?wait=20", body).json
    until(lambda: receiver.received, what="the callback")
    tab = visit()
    tab.enter("webhooks")
    tab.page.get_by_role("link", name="Jobs' own addresses").click()
    drawer = tab.page.get_by_role("dialog", name="Jobs' own addresses")
    row = drawer.locator(".rows > .row", has_text=job["id"])
    row.get_by_text("Delivered").wait_for()
    drawer.get_by_role("button", name="Show the secret").click()
    secret = tab.page.get_by_role("dialog", name="Signing secret").locator("code").inner_text()
    assert receiver.received[0].verify(secret)["type"] == "job.succeeded"
