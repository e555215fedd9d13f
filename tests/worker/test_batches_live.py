"""Batches through a real API and a real worker."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.settings import Settings
from tests.api.live import Answer, LiveApi
from tests.servers import until

SIZE = 700  # two chunks


@pytest.fixture
def api(settings: Settings, tmp_path: Path) -> Iterator[LiveApi]:
    with LiveApi(settings.redis_url, settings.redis_prefix, tmp_path) as live:
        yield live


def _submit(api: LiveApi, size: int, **options) -> str:
    requests = [{"prompt": f"prompt {n}", "custom_id": f"row-{n}"} for n in range(size)]
    answer = api.call("POST", "/api/generate_batch", {"requests": requests, **options})
    assert answer.status == 202, answer.body
    return str(answer.json["urls"]["self"])


def _page(api: LiveApi, path: str, cursor: str | None, limit: int = 1000) -> tuple[list[dict], Answer]:
    query = f"?limit={limit}" + (f"&cursor={cursor}" if cursor else "")
    answer = api.call("GET", f"{path}/results{query}")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
    return [json.loads(line) for line in answer.body.splitlines()], answer


def _follow(api: LiveApi, path: str, timeout_s: float = 60) -> tuple[list[dict], int]:
    """All results, as a client reads them: page by page until the batch is over. Also how many pages brought some before
    it was."""
    lines: list[dict] = []
    cursor, early, deadline = None, 0, time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        page, answer = _page(api, path, cursor)
        over = answer.headers["x-batch-status"] in ("completed", "canceled")
        lines += page
        cursor = answer.headers["x-next-cursor"]
        if over and not page:
            return lines, early
        early += bool(page) and not over
        time.sleep(0.05)
    raise AssertionError(f"{len(lines)} results after {timeout_s} s")


def test_results_are_read_while_it_runs(start_worker, ready, api: LiveApi):
    ready(start_worker())
    path = _submit(api, SIZE, max_length=10)
    lines, early = _follow(api, path)
    assert sorted(line["index"] for line in lines) == list(range(SIZE)), "each once"
    assert early > 0, "before it was over"
    assert {line["status"] for line in lines} == {"succeeded"}
    assert all(line["custom_id"] == f"row-{line['index']}" for line in lines)
    # A page may be cut anywhere, and gone on with by the cursor of the last line that arrived.
    again, answer = _page(api, path, lines[99]["cursor"], limit=300)
    assert again == lines[100:400]
    assert answer.headers["x-next-cursor"] == lines[399]["cursor"]
    batch = api.call("GET", path).json
    assert (batch["status"], batch["counts"]["succeeded"], batch["jobs"]) == ("completed", SIZE, None)


def test_a_wait_ends_with_the_batch(start_worker, ready, api: LiveApi):
    ready(start_worker())
    answer = api.call("POST", "/api/generate_batch?wait=30", {"prompts": ["a"] * 50, "max_length": 10})
    assert (answer.status, answer.json["status"], len(answer.json["outputs"])) == (200, "completed", 50)


def test_a_cancel_in_the_middle(start_worker, ready, api: LiveApi):
    ready(start_worker(ECHO_TOKEN_DELAY_S="0.01"))
    path = _submit(api, SIZE, max_length=20)
    until(lambda: api.call("GET", path).json["counts"]["succeeded"] >= 20)
    answer = api.call("POST", f"{path}/cancel")
    assert answer.json["counts"]["queued"] == 0
    assert (answer.status, answer.json["status"]) in ((202, "canceling"), (200, "canceled"))
    lines, _ = _follow(api, path)
    assert sorted(line["index"] for line in lines) == list(range(SIZE)), "results survive, and each job has one"
    batch = api.call("GET", path).json
    assert batch["status"] == "canceled"
    ended = {status: sum(line["status"] == status for line in lines) for status in ("succeeded", "canceled")}
    assert {status: batch["counts"][status] for status in ended} == ended
    assert ended["succeeded"] >= 20
    assert ended["canceled"] >= SIZE / 2
    assert api.call("POST", f"{path}/cancel").status == 200
    assert api.call("DELETE", path).status == 204
    assert api.call("GET", path).status == 404
    assert api.call("GET", "/api/jobs").json["data"] == []


def test_the_largest_batch(api: LiveApi):
    """Nobody works here: ten thousand are admitted, counted, listed and removed."""
    path = _submit(api, 10_000)
    counts = api.call("GET", path).json["counts"]
    assert (counts["total"], counts["queued"]) == (10_000, 10_000)
    newest = api.call("GET", "/api/jobs?limit=1").json["data"][0]
    assert (newest["custom_id"], newest["queue_position"]) == ("row-9999", 10_000)
    longest = 10_000 * [{"prompt": "x"}]
    assert api.call("POST", "/api/generate_batch", {"requests": [*longest, {"prompt": "x"}]}).status == 422
    assert api.raw(api.head("/api/generate_batch", "Content-Length: 99999999") + b"{").status == 413
    assert api.call("GET", "/api/batches").json["data"][1:] == [], "nothing of them was admitted"
    canceled = api.call("POST", f"{path}/cancel")
    assert (canceled.status, canceled.json["counts"]["canceled"]) == (200, 10_000)
    assert len(_page(api, path, None)[0]) == 1000
    assert api.call("DELETE", path).status == 204
    assert api.redis.keys(f"{{{api.settings.redis_prefix}}}:job:*") == []
