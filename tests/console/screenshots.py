"""Pictures of the console for the docs: ``python -m tests.console.screenshots [FOLDER] [--all]``. A real stack with the bundled model;
``--all`` takes every view, light, dark and on a phone, for a person to look at."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from shared.modes import BUNDLED
from tests.console.browser import Visit, chromium, find_chromium
from tests.console.stack import Stack
from tests.servers import RedisServer, find_redis_server

DOCS = Path(__file__).resolve().parents[2] / "docs" / "images"
DESK = {"viewport": {"width": 1280, "height": 860}}
PHONE = {"viewport": {"width": 390, "height": 760}, "device_scale_factor": 1.5, "is_mobile": True, "has_touch": True}
VIEWS = ("playground", "jobs", "batches", "queue", "usage", "webhooks", "operations")
ASKED = [
    ("recommendation", "I like quiet walks near water."), ("support", "My parcel has not arrived."),
    ("ecommerce", "wool hiking socks, grey"), ("general", "What should I know before a day hike?"),
    ("recommendation", "A gift for someone who drinks a lot of tea"),
    ("ecommerce", "a red enamel kettle"),
]  # fmt: skip


def _fill(stack: Stack) -> None:
    """Some days' worth of jobs: ended ones, one that was canceled, one that expired, and some that wait."""
    for mode, prompt in ASKED:
        body = {"prompt": prompt, "mode": mode, "max_length": 80, "temperature": 0.3, "user_id": "ann"}
        stack.api.call("POST", "/api/generate?wait=60", body, timeout=90)
    stack.api.call(
        "POST",
        "/api/generate_batch?wait=60",
        {"prompts": ["a tent for two", "a red kettle"], "mode": "ecommerce"},
        timeout=90,
    )
    hook = {"url": "http://127.0.0.1:9/hooks", "description": "The shop's backend"}
    endpoint = stack.api.call("POST", "/api/webhooks", hook).json["id"]
    for _ in range(2):
        stack.api.call("POST", f"/api/webhooks/{endpoint}/test")
    stack.api.call("POST", "/api/admin/queues/demo/pause")
    stack.api.call(
        "POST", "/api/generate_batch", {"prompts": ["a lantern", "a map case", "a flask"], "mode": "ecommerce"}
    )
    stack.api.call("POST", "/api/generate?wait=5", {"prompt": "Too late for this one", "queue_timeout_s": 1})
    job = stack.api.call("POST", "/api/generate", {"prompt": "Not needed any more", "mode": "support"}).json
    stack.api.call("POST", f"/api/jobs/{job['id']}/cancel")
    for prompt in ("a folding bicycle", "thick socks for winter", "a lamp for reading in bed"):
        stack.api.call("POST", "/api/generate", {"prompt": prompt, "mode": "ecommerce"})


def _shoot(browser: Browser, stack: Stack, folder: Path, name: str, place: str, **options: Any) -> None:
    tab = Visit(browser, stack.url, stack.key, reduced_motion="reduce", **options)
    tab.enter(place)
    if place == "playground":
        tab.ask("I like quiet walks near water.", mode="Recommendation")
        tab.page.locator(".live[data-status=succeeded]").wait_for(timeout=60_000)
        if not options.get("is_mobile"):
            tab.page.evaluate("scrollTo(0, 0)")
    tab.page.locator(".loading").last.wait_for(state="detached")
    tab.page.wait_for_timeout(400)
    tab.page.screenshot(path=folder / f"{name}.png")
    tab.close()


def main(folder: Path, everything: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    redis, binary = find_redis_server(), find_chromium()
    assert redis, "no Redis-compatible server"
    assert binary, "no chromium"
    env = {"ENGINE": "transformers", "MODES_FILE": str(BUNDLED), "ENGINE_SLOTS": "4", "ECHO_TOKEN_DELAY_S": "0"}
    with ExitStack() as parts:
        scratch = Path(parts.enter_context(tempfile.TemporaryDirectory()))
        server = parts.enter_context(RedisServer(redis, scratch))
        stack = parts.enter_context(Stack(server.url, scratch, **env))
        browser = parts.enter_context(chromium(binary))
        _shoot(browser, stack, folder, "console-playground", "playground", color_scheme="light", **DESK)
        _shoot(browser, stack, folder, "console-phone", "playground", color_scheme="dark", **PHONE)
        _fill(stack)
        _shoot(browser, stack, folder, "console-jobs", "jobs", color_scheme="dark", **DESK)
        if not everything:
            return
        one = {
            "jobs": stack.api.call("GET", "/api/jobs?status=succeeded").json["data"][2]["id"],
            "batches": stack.api.call("GET", "/api/batches").json["data"][0]["id"],
            "webhooks": stack.api.call("GET", "/api/webhooks").json["data"][0]["id"],
        }
        for scheme in ("light", "dark"):
            for view in (*VIEWS[1:], *(f"{name}/{found}" for name, found in one.items())):
                name = f"{view.split('/')[0]}{'-one' if '/' in view else ''}-{scheme}"
                _shoot(browser, stack, folder, name, view, color_scheme=scheme, **DESK)
                _shoot(browser, stack, folder, f"phone-{name}", view, color_scheme=scheme, **PHONE)


if __name__ == "__main__":
    named = [argument for argument in sys.argv[1:] if argument != "--all"]
    main(Path(named[0]) if named else DOCS, "--all" in sys.argv)
