"""What a request says about sampling reaches the job, and what the job brought is shown."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from shared.job import Choice, JobSpec, JobStatus, Outcome, PromptEcho, Structure, Usage
from shared.logprobs import Place, TokenLogprob, pack
from shared.store.events import Said, entry_of
from tests.api.house import House, build, error_of
from tests.api.test_batches import _lines
from tests.servers import until

PLACES = (
    Place(TokenLogprob(5, " a", -0.5), (TokenLogprob(5, " a", -0.5), TokenLogprob(7, " b", -1.0))),
    Place(TokenLogprob(9, "�", -2.25)),
)
SHOWN = [
    {"token_id": 5, "token": " a", "logprob": -0.5,
     "top_logprobs": [{"token_id": 5, "token": " a", "logprob": -0.5}, {"token_id": 7, "token": " b", "logprob": -1.0}]},
    {"token_id": 9, "token": "�", "logprob": -2.25, "top_logprobs": []},
]  # fmt: skip
ASKED: dict[str, Any] = {
    "min_p": 1, "presence_penalty": -2, "frequency_penalty": 2.0, "logit_bias": {"17": -100, "3": 1.5}, "stop_token_ids": [0, 9],
    "min_tokens": 500, "ignore_eos": True, "logprobs": 20, "echo": True, "response_format": {"type": "regex", "regex": "[0-9]+"},
}  # fmt: skip


def spec_of(house: House, **body: Any) -> JobSpec:
    house.submit(**body)
    return house.store.submitted[-1][1]


def test_everything_that_may_be_said_reaches_the_job(house: House) -> None:
    spec = spec_of(house, **ASKED)
    assert (spec.min_p, spec.presence_penalty, spec.frequency_penalty) == (1.0, -2.0, 2.0)
    assert spec.logit_bias == ((3, 1.5), (17, -100.0))
    assert (spec.stop_token_ids, spec.min_tokens, spec.ignore_eos) == ((0, 9), 500, True)
    assert (spec.logprobs, spec.echo, spec.structure) == (20, True, Structure("regex", "[0-9]+"))


def test_most_logit_biases_and_stop_tokens_are_taken(house: House) -> None:
    spec = spec_of(house, logit_bias={str(token): 0.5 for token in range(300)}, stop_token_ids=list(range(64)))
    assert (len(spec.logit_bias), len(spec.stop_token_ids)) == (300, 64)


@pytest.mark.parametrize(
    ("asked", "structure"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, ("json_schema", '{"type":"object"}')),
        ({"type": "regex", "regex": "a|b"}, ("regex", "a|b")),
        (
            {"type": "json_schema", "json_schema": {"name": "tea", "strict": True, "schema": {"b": 1, "a": "茶"}}},
            ("json_schema", '{"b":1,"a":"茶"}'),  # in the order that was given
        ),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, ("json_schema", "{}")),
    ],
    ids=str,
)
def test_a_response_format_is_a_structure(house: House, asked: Any, structure: tuple[str, str] | None) -> None:
    body = json.dumps({"prompt": "a", "response_format": asked})  # the test client's own writing sorts names
    assert house.call("POST", "/api/generate", data=body, content_type="application/json").status_code == 202
    assert house.store.submitted[-1][1].structure == structure


def test_the_options_of_a_batch_hold_for_jobs_that_say_nothing(house: House) -> None:
    requests = [{"prompt": "a"}, {"prompt": [1, 2], "response_format": None, "logit_bias": {}, "logprobs": None}]
    response = house.call("POST", "/api/generate_batch", json={"requests": requests, **ASKED})
    assert response.status_code == 202
    first, second = (spec for _, spec in house.store.submitted)
    assert (first.structure, first.logprobs, first.prompt, first.min_p) == (Structure("regex", "[0-9]+"), 20, "a", 1.0)
    assert (second.structure, second.logprobs, second.logit_bias) == (None, None, ())
    assert (second.prompt, second.prompt_token_ids, second.min_p) == ("", (1, 2), 1.0)
    house.call("POST", "/api/generate_batch", json={"prompts": ["a", [3]], "response_format": {"type": "json_object"}})
    assert [(spec.prompt, spec.prompt_token_ids) for _, spec in house.store.submitted[2:]] == [("a", ()), ("", (3,))]
    assert all(spec.structure == ("json_schema", '{"type":"object"}') for _, spec in house.store.submitted[2:])


def test_the_same_request_under_an_id_is_the_same_whatever_the_order(house: House) -> None:
    one = {"prompt": "a", "logit_bias": {"1": 1, "2": 2}, "response_format": {"type": "regex", "regex": "a"}}
    other = {"response_format": {"regex": "a", "type": "regex"}, "logit_bias": {"2": 2.0, "1": 1.0}, "prompt": "a"}
    assert [house.call("PUT", "/api/jobs/mine", json=body).status_code for body in (one, other)] == [201, 200]
    assert house.call("PUT", "/api/jobs/mine", json=one | {"logprobs": 0}).status_code == 409


class TestTokenIds:
    def test_they_are_shown_as_they_were_given(self, house: House) -> None:
        job_id = house.submit([1, 2, 3], user_id="u")
        house.run(job_id)
        job = house.call("GET", f"/api/jobs/{job_id}").json
        assert (job["input"], job["input_token_ids"], job["output"], job["history"]) == ("", [1, 2, 3], "world", [])
        assert house.call("GET", "/api/history/u").json["history"] == []

    def test_a_token_that_the_model_does_not_have_is_named(self, house: House) -> None:
        house.announce(vocab_size=100)
        for body, param in (
            ({"prompt": [99, 100]}, "prompt.1"),
            ({"prompt": "a", "logit_bias": {"100": 1}}, "logit_bias.100"),
            ({"prompt": "a", "stop_token_ids": [1, 2**31 - 1]}, "stop_token_ids.1"),
        ):
            before = house.written()
            response = house.call("POST", "/api/generate", json=body)
            assert (response.status_code, error_of(response)["param"]) == (422, param)
            many = house.call("POST", "/api/generate_batch", json={"requests": [{"prompt": "a"}, body]})
            assert (many.status_code, error_of(many)["param"]) == (422, f"requests.1.{param}")
            assert house.written() == before
        house.submit([99], logit_bias={"99": 1}, stop_token_ids=[0])

    def test_a_wrong_token_of_a_batchs_prompts_is_named(self, house: House) -> None:
        house.announce(vocab_size=100)
        response = house.call("POST", "/api/generate_batch", json={"prompts": ["a", [1, 100]]})
        assert error_of(response)["param"] == "prompts.1.1"

    def test_they_and_the_answer_have_to_fit_the_context_without_a_template(self, house: House) -> None:
        house.announce(context_length=128, mode_tokens={"general/en": 50})
        response = house.call("POST", "/api/generate", json={"prompt": [1] * 29, "max_length": 100})
        error = error_of(response)
        assert (response.status_code, error["code"], error["param"]) == (422, "context_length_exceeded", "prompt")
        house.submit([1] * 28, max_length=100)

    def test_an_operator_may_refuse_them(self) -> None:
        house = build(token_id_prompts=False)
        response = house.call("POST", "/api/generate", json={"prompt": [1]})
        assert (response.status_code, error_of(response)["param"]) == (422, "prompt")
        house.submit("text")


class TestAdapters:
    def test_they_are_listed_and_taken(self, house: House) -> None:
        house.announce(adapters=("haiku", "tea"))
        assert house.call("GET", "/api/models").json["data"][0]["adapters"] == ["haiku", "tea"]
        assert spec_of(house, adapter="tea").adapter == "tea"

    def test_another_one_is_refused(self, house: House) -> None:
        house.announce(adapters=("haiku",))
        response = house.call("POST", "/api/generate", json={"prompt": "a", "adapter": "tea"})
        error = error_of(response)
        assert (response.status_code, error["code"], error["param"]) == (422, "adapter_not_found", "adapter")

    def test_before_the_model_is_known_the_worker_decides(self, house: House) -> None:
        assert spec_of(house, adapter="tea").adapter == "tea"


def test_logprobs_may_be_bounded_by_the_operator() -> None:
    house = build(max_logprobs=2)
    response = house.call("POST", "/api/generate", json={"prompt": "a", "logprobs": 3})
    assert (response.status_code, error_of(response)["param"]) == (422, "logprobs")
    house.submit(logprobs=2)


class TestLogprobs:
    OUTCOME = Outcome(
        JobStatus.SUCCEEDED,
        (Choice(0, "a�", "stop", pack(PLACES)), Choice(1, "", "stop")),
        Usage(3, 2, 1),
        system_fingerprint="fp_7",
    )

    def test_a_job_shows_them_and_lists_do_not(self, house: House) -> None:
        job_id = house.submit(logprobs=2)
        house.end(job_id, self.OUTCOME)
        job = house.call("GET", f"/api/jobs/{job_id}").json
        assert [choice["logprobs"] for choice in job["choices"]] == [{"content": SHOWN}, None]
        assert (job["system_fingerprint"], job["usage"]["cached_tokens"]) == ("fp_7", 1)
        (listed,) = house.call("GET", "/api/jobs").json["data"]
        assert [choice["logprobs"] for choice in listed["choices"]] == [None, None]
        assert listed == job | {"choices": [choice | {"logprobs": None} for choice in job["choices"]]}

    def test_a_line_of_a_batch_shows_them(self, house: House) -> None:
        path = house.call("POST", "/api/generate_batch", json={"prompts": ["a"], "logprobs": 2}).json["urls"]["results"]
        house.end(house.store.submitted[0][0].id, self.OUTCOME)
        (line,) = _lines(house.call("GET", path))
        assert (line["choices"][0]["logprobs"], line["system_fingerprint"]) == ({"content": SHOWN}, "fp_7")

    def test_a_stream_tells_them_with_the_text(self, house: House) -> None:
        ref = house.claim(house.submit(logprobs=2))
        entries = (entry_of(0, "a", PLACES[:1]), entry_of(0, "", PLACES[1:]), entry_of(0, "plain"))
        house.store.finish(ref, "w1", 1, self.OUTCOME, Said(ref, 1, 0, entries))
        text = house.call("GET", f"/api/jobs/{ref.id}/stream").text
        *outputs, end = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")][2:]
        assert outputs == [
            {"index": 0, "delta": "a", "logprobs": {"content": SHOWN[:1]}},
            {"index": 0, "delta": "", "logprobs": {"content": SHOWN[1:]}},
            {"index": 0, "delta": "plain"},
        ]
        assert end["choices"][0]["logprobs"] is None
        assert end["choices"][0]["text"] == "a�"

    def test_an_answer_with_them_is_replayed_whole(self, house: House) -> None:
        def run() -> None:
            until(lambda: house.store.submitted, 5)
            house.end(house.store.submitted[0][0].id, self.OUTCOME)

        sent = {"headers": {"Idempotency-Key": "k"}, "json": {"prompt": "a", "logprobs": 2}}
        worker = threading.Thread(target=run)
        worker.start()
        first = house.call("POST", "/api/generate?wait=5", **sent)
        worker.join()
        again = house.call("POST", "/api/generate?wait=5", **sent)
        assert (first.status_code, first.json["choices"][0]["logprobs"]) == (200, {"content": SHOWN})
        assert (again.status_code, again.headers["Idempotent-Replayed"], again.json) == (200, "true", first.json)


class TestEcho:
    def test_the_prompt_stands_before_each_answer(self, house: House) -> None:
        job_id = house.submit("hello", echo=True, n=2, user_id="u")
        choices = (Choice(0, " world", "stop"), Choice(1, " there", "stop"))
        house.end(job_id, Outcome(JobStatus.SUCCEEDED, choices, echo=PromptEcho("hello")))
        job = house.call("GET", f"/api/jobs/{job_id}").json
        assert [choice["text"] for choice in job["choices"]] == ["hello world", "hello there"]
        assert job["output"] == "hello world"
        assert job["history"] == [{"input": "hello", "output": " world"}]  # a conversation holds no echoes

    def test_so_do_its_logprobs_where_it_is_token_ids(self, house: House) -> None:
        first = Place(TokenLogprob(1, "<s>", None))
        job_id = house.submit([1, 5], echo=True, logprobs=2)
        echo = PromptEcho("<s> a", pack((first, PLACES[0])))
        house.end(job_id, Outcome(JobStatus.SUCCEEDED, (Choice(0, "�", "stop", pack(PLACES[1:])),), echo=echo))
        (choice,) = house.call("GET", f"/api/jobs/{job_id}").json["choices"]
        start = {"token_id": 1, "token": "<s>", "logprob": None, "top_logprobs": []}
        assert choice["logprobs"] == {"content": [start, *SHOWN]}

    def test_a_batch_shows_it_too(self, house: House) -> None:
        batch = house.call("POST", "/api/generate_batch", json={"prompts": ["a"], "echo": True}).json
        outcome = Outcome(JobStatus.SUCCEEDED, (Choice(0, "b", "stop"),), echo=PromptEcho("a"))
        house.end(house.store.submitted[0][0].id, outcome)
        assert house.call("GET", batch["urls"]["self"]).json["outputs"] == ["ab"]
        (line,) = _lines(house.call("GET", batch["urls"]["results"]))
        assert (line["output"], line["choices"][0]["text"]) == ("ab", "ab")


def test_usage_adds_up_the_tokens_that_were_reused(house: House) -> None:
    for cached in (2, 3):
        house.end(house.submit(), Outcome(JobStatus.SUCCEEDED, (Choice(0, "a", "stop"),), Usage(10, 1, cached)))
    (row,) = house.call("GET", "/api/usage").json["data"]
    assert (row["prompt_tokens"], row["cached_tokens"], row["total_tokens"]) == (20, 5, 22)
