"""The SDK against a real HTTP server that speaks the contract."""

from __future__ import annotations

import dataclasses
import socket
import threading
import time

import pytest

import smarttextgen
from smarttextgen import (
    APIError,
    AuthenticationError,
    Client,
    ConfigurationError,
    ConflictError,
    ConnectionFailedError,
    GoneError,
    InvalidRequestError,
    Job,
    JobFailedError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    UnavailableError,
    WaitTimeoutError,
)
from tests.smarttextgen.fake_api import ADMIN_KEY, KEY, Failure, FakeApi


def error_body(code: str = "some_code", message: str = "Some message.", param: str | None = None) -> dict[str, object]:
    return {"error": {"message": message, "type": "t", "param": param, "code": code}}


# --- jobs


def test_generate_returns_the_finished_job(client: Client) -> None:
    job = client.generate("hello", mode="general", temperature=0.0)
    assert job.succeeded
    assert job.output == "echo: hello"
    assert job.choices[0].finish_reason == "stop"
    assert job.history[0].output == "echo: hello"
    assert job.usage is not None
    assert job.usage.completion_tokens == 10


def test_submit_sends_what_was_given_and_nothing_else(api: FakeApi, client: Client) -> None:
    job = client.submit("hello", max_length=20, stop=["\n"], metadata={"a": 1}, seed=None)
    assert api.requests("POST", "/api/generate")[0].body == {
        "prompt": "hello",
        "max_length": 20,
        "stop": ["\n"],
        "metadata": {"a": 1},
    }
    assert (job.status, job.queue_position, job.eta_seconds) == ("queued", 1, 2.5)
    assert job.urls is not None
    assert job.urls.self == "/api/jobs/job_1"


def test_records_are_frozen(client: Client) -> None:
    job = client.submit("hello")
    with pytest.raises(dataclasses.FrozenInstanceError):
        job.status = "succeeded"  # type: ignore[misc]  # that is the test


def test_unknown_fields_are_dropped_and_nulls_are_defaults(api: FakeApi, client: Client) -> None:
    api.end = {"status": "succeeded", "metadata": None, "cached": None, "error": None}
    job = client.generate("hello")
    assert (job.metadata, job.cached, job.error) == ({}, False, None)


def test_generate_raises_with_the_job_that_failed(api: FakeApi, client: Client) -> None:
    api.end = {"status": "failed", "error": {"code": "generation_failed", "message": "Out of luck", "retryable": True}}
    with pytest.raises(JobFailedError, match="Out of luck") as raised:
        client.generate("hello")
    assert raised.value.job.error is not None
    assert raised.value.job.error.retryable


def test_jobs_walks_all_pages(api: FakeApi, client: Client) -> None:
    for number in range(5):
        client.submit(f"prompt {number}")
    assert [job.id for job in client.jobs()] == ["job_5", "job_4", "job_3", "job_2", "job_1"]
    assert len(api.requests("GET", "/api/jobs")) == 3
    assert list(client.jobs(status="failed")) == []


def test_cancel_and_delete(client: Client) -> None:
    job = client.submit("hello")
    assert client.cancel(job.id).status == "canceled"
    client.delete(job.id)
    with pytest.raises(NotFoundError):
        client.get(job.id)


def test_retry_is_not_sent_twice(api: FakeApi, client: Client) -> None:
    """Its answer may be what got lost: a second one would be refused, and hide that the first one worked."""
    job = client.submit("hello")
    assert client.retry(job.id).status == "queued"
    api.fail_next(Failure(0, handled=True))
    with pytest.raises(ConnectionFailedError):
        client.retry(job.id)
    assert len(api.requests("POST", f"/api/jobs/{job.id}/retry")) == 2


def test_ids_are_escaped(api: FakeApi, client: Client) -> None:
    with pytest.raises(NotFoundError):
        client.get("../health")
    assert api.seen[-1].path.startswith("/api/jobs/")


def test_history_modes_models_health(api: FakeApi, client: Client) -> None:
    api.histories["ann/1"] = [{"input": "hi", "output": "hello"}]
    assert [turn.output for turn in client.history("ann/1")] == ["hello"]
    client.delete_history("ann/1")
    assert client.history("ann/1") == ()
    assert [mode.name for mode in client.modes()] == ["general", "support"]
    assert client.models()[0].name == "demo"
    assert client.health().workers == 1


def test_admin_keys(api: FakeApi, client: Client) -> None:
    with Client(api.url, ADMIN_KEY) as admin:
        made = admin.keys.create("shop", "backend", scopes=["generate"], max_queued=5)
        assert made.key == "sk-new"
        assert api.seen[-1].body == {"tenant": "shop", "name": "backend", "scopes": ["generate"], "max_queued": 5}
        assert admin.keys.list()[0].tenant == "shop"
        assert admin.keys.rotate(made.id).key == "sk-rotated"
        admin.keys.revoke(made.id)
        assert admin.keys.list() == ()
    with pytest.raises(PermissionDeniedError):
        client.keys.list()


# --- waiting


def test_wait_tells_each_state(api: FakeApi, client: Client) -> None:
    api.polls_to_end = 3
    seen: list[str] = []
    job = client.wait(client.submit("hello").id, 10, on_update=lambda each: seen.append(each.status))
    assert job.succeeded
    assert seen == ["queued", "queued", "succeeded"]


def test_wait_gives_up_in_time_with_the_latest_state(api: FakeApi, client: Client) -> None:
    api.polls_to_end = 10**6
    job = client.submit("hello")
    with pytest.raises(WaitTimeoutError) as raised:
        client.wait(job.id, 0.3)
    assert raised.value.job is not None
    assert raised.value.job.status == "queued"


def test_wait_survives_an_api_that_restarts(api: FakeApi, client: Client) -> None:
    job = client.submit("hello")
    api.fail_next(Failure(0), Failure(503, {"Retry-After": "0"}), Failure(500), Failure(502), Failure(0))
    assert client.wait(job.id, 20).succeeded


def test_wait_says_why_when_the_job_was_never_seen() -> None:
    with Client("http://127.0.0.1:9", KEY) as away, pytest.raises(ConnectionFailedError):
        away.wait("job_1", 0.2)


def test_wait_does_not_hide_that_there_is_no_such_job(client: Client) -> None:
    with pytest.raises(NotFoundError):
        client.wait("job_9", 5)


# --- retries


@pytest.mark.parametrize(
    "failure",
    [Failure(429, {"Retry-After": "0"}), Failure(503), Failure(502), Failure(0), Failure(0, handled=True)],
    ids=["rate_limited", "unavailable", "bad_gateway", "dropped_before_handling", "dropped_after_handling"],
)
def test_a_create_is_retried_under_one_idempotency_key(api: FakeApi, client: Client, failure: Failure) -> None:
    api.fail_next(failure)
    job = client.submit("hello")
    keys = [each.headers["idempotency-key"] for each in api.requests("POST", "/api/generate")]
    assert len(keys) == 2
    assert keys[0] == keys[1]
    assert list(api.jobs) == [job.id]


def test_a_new_key_is_not_asked_for_twice(api: FakeApi) -> None:
    """Its answer is kept nowhere: a lost one is an error, not a second key. A refusal may be repeated."""
    with Client(api.url, ADMIN_KEY) as admin:
        api.fail_next(Failure(503), Failure(429, {"Retry-After": "0"}))
        assert admin.keys.create("shop", "backend").id == "key_1"
        api.fail_next(Failure(0, handled=True))
        with pytest.raises(ConnectionFailedError):
            admin.keys.create("shop", "backend")
    assert len(api.seen) == 4


def test_each_create_has_a_key_of_its_own(api: FakeApi, client: Client) -> None:
    client.submit("hello")
    client.submit("hello")
    client.submit("hello", idempotency_key="mine")
    keys = [each.headers["idempotency-key"] for each in api.requests("POST", "/api/generate")]
    assert len(set(keys)) == 3
    assert keys[2] == "mine"


def test_first_try_still_being_handled_is_asked_again(api: FakeApi, client: Client) -> None:
    api.fail_next(Failure(409, {"Retry-After": "0"}, error_body("idempotency_in_progress")))
    assert client.submit("hello").id == "job_1"


def test_retry_after_is_honoured(api: FakeApi, client: Client) -> None:
    api.fail_next(Failure(429, {"Retry-After": "1"}))
    started = time.monotonic()
    client.submit("hello")
    assert time.monotonic() - started >= 1.0


@pytest.mark.parametrize(
    "failure",
    [
        Failure(429, {"Retry-After": "0", "x-should-retry": "false"}),
        Failure(429, {"Retry-After": "3600"}),
        Failure(409),
        Failure(422),
        Failure(500),
    ],
    ids=["told_not_to", "too_long_to_wait", "final_conflict", "invalid", "server_error"],
)
def test_what_is_not_retried(api: FakeApi, client: Client, failure: Failure) -> None:
    api.fail_next(failure)
    with pytest.raises(APIError) as raised:
        client.submit("hello")
    assert raised.value.status == failure.status
    assert len(api.seen) == 1


def test_retries_end(api: FakeApi) -> None:
    api.fail_next(*[Failure(503)] * 3)
    with Client(api.url, KEY, max_retries=2) as client, pytest.raises(UnavailableError):
        client.submit("hello")
    assert len(api.seen) == 3


# --- errors


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequestError),
        (401, AuthenticationError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (405, APIError),
        (409, ConflictError),
        (410, GoneError),
        (413, InvalidRequestError),
        (415, InvalidRequestError),
        (422, InvalidRequestError),
        (429, RateLimitedError),
        (500, ServerError),
        (503, UnavailableError),
        (504, ServerError),
    ],
)
def test_every_status_has_its_error(api: FakeApi, status: int, kind: type[APIError]) -> None:
    api.fail_next(Failure(status, {"Retry-After": "7"}, error_body("a_code", "What happened.", "prompt")))
    with Client(api.url, KEY, max_retries=0) as client, pytest.raises(APIError) as raised:
        client.submit("hello")
    error = raised.value
    assert type(error) is kind
    assert str(error) == error.message == "What happened."
    assert (error.status, error.code, error.param) == (status, "a_code", "prompt")
    assert (error.request_id, error.retry_after) == ("req-1", 7.0)


def test_an_error_page_of_a_proxy_is_an_error_too(api: FakeApi, client: Client) -> None:
    api.fail_next(Failure(500, body=b"<html>oops</html>"))
    with pytest.raises(ServerError, match="answered 500"):
        client.submit("hello")


def test_another_service_is_not_taken_for_ours(api: FakeApi, client: Client) -> None:
    api.fail_next(Failure(200, body=["what?"]))
    with pytest.raises(APIError, match="not a Job"):
        client.submit("hello")


def test_nobody_listens() -> None:
    with socket.socket() as bound:  # bound, so nobody else gets the port; not listening
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with Client(url, KEY, max_retries=1) as client, pytest.raises(ConnectionFailedError, match="No answer from"):
            client.submit("hello")


@pytest.mark.parametrize("url", ["nonsense", "ftp://host", "http://"])
def test_a_wrong_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Client(url)


# --- configuration


def test_url_and_key_come_from_the_environment(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTTEXTGEN_URL", api.url + "/")
    monkeypatch.setenv("SMARTTEXTGEN_API_KEY", KEY)
    with Client() as client:
        assert client.submit("hello").id == "job_1"
    assert api.seen[0].headers["x-api-key"] == KEY


def test_a_client_can_be_shared_between_threads(api: FakeApi, client: Client) -> None:
    jobs: list[Job] = []
    threads = [threading.Thread(target=lambda: jobs.append(client.generate("hello"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job.id for job in jobs}) == len(api.jobs) == 8


def test_all_is_exact() -> None:
    """Everything public is in __all__, in order; nothing else is."""
    modules = (
        smarttextgen.client,
        smarttextgen.errors,
        smarttextgen.events,
        smarttextgen.types,
        smarttextgen.verification,
    )
    public = {
        name
        for name, value in vars(smarttextgen).items()
        if getattr(value, "__module__", "") in {module.__name__ for module in modules} and not name.startswith("_")
    } | {"StreamEvent"}  # a name for a type: it knows no module
    assert set(smarttextgen.__all__) == public
    assert list(smarttextgen.__all__) == sorted(smarttextgen.__all__)
    for name in smarttextgen.__all__:
        assert getattr(smarttextgen, name).__doc__
