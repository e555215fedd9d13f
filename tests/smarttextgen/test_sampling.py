"""What can be said about sampling, from Python and from a shell, and what comes back."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from smarttextgen import Alternative, Client, Ended, Job, Logprobs, Output, Restarted, TokenLogprob, Transcript
from smarttextgen.cli import app, batch, jobs
from smarttextgen.cli.generation import Generation
from smarttextgen.decode import decode
from smarttextgen.types import GenerateOptions
from tests.smarttextgen.fake_api import KEY, FakeApi

EVERYTHING: dict[str, Any] = {
    "min_p": 0.1, "presence_penalty": 0.5, "frequency_penalty": -0.5, "logit_bias": {"5": -100.0}, "stop_token_ids": [1, 2],
    "min_tokens": 3, "ignore_eos": True, "logprobs": 2, "echo": True, "response_format": {"type": "json_object"}, "adapter": "tea",
}  # fmt: skip
WORDS = [
    "--min-p", "0.1", "--presence-penalty", "0.5", "--frequency-penalty", "-0.5", "--logit-bias", "5=-100", "--stop-token-id", "1",
    "--stop-token-id", "2", "--min-tokens", "3", "--ignore-eos", "--logprobs", "2", "--echo", "--json-object", "--adapter", "tea",
]  # fmt: skip


def run(api: FakeApi, *words: str) -> Result:
    return CliRunner().invoke(app, list(words), env={"SMARTTEXTGEN_URL": api.url, "SMARTTEXTGEN_API_KEY": KEY})


def test_the_client_says_it_all(api: FakeApi) -> None:
    with Client(api.url, KEY) as client:
        client.submit("hello", **{**EVERYTHING, "logit_bias": {5: -100.0}})
        client.submit((7, 8))
        client.batches.create(["a", (1, 2)], logprobs=0)
        client.batches.create(["a", {"prompt": [1, 2], "custom_id": "c"}])
    single, ids = api.requests("POST", "/api/generate")
    assert single.body == {"prompt": "hello", **EVERYTHING}
    assert ids.body == {"prompt": [7, 8]}
    prompts, requests = api.requests("POST", "/api/generate_batch")
    assert prompts.body == {"prompts": ["a", [1, 2]], "logprobs": 0}
    assert requests.body == {"requests": [{"prompt": "a"}, {"prompt": [1, 2], "custom_id": "c"}]}


def test_the_shell_says_it_all(api: FakeApi, tmp_path: Path) -> None:
    assert run(api, "submit", "hello", *WORDS, "--no-wait").exit_code == 0
    assert api.requests("POST", "/api/generate")[0].body == {"prompt": "hello", **EVERYTHING}
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        '"a"\n{"prompt": [1, 2], "logprobs": 1, "logit_bias": {"1": 2}, "response_format": {"type": "text"}}\n'
    )
    run(api, "batch", str(file), "--n", "2", *WORDS)
    body = api.requests("POST", "/api/generate_batch")[0].body
    assert {name: body[name] for name in EVERYTHING} == EVERYTHING
    assert body["n"] == 2
    assert body["requests"][1] == {
        "prompt": [1, 2],
        "logprobs": 1,
        "logit_bias": {"1": 2},
        "response_format": {"type": "text"},
    }


@pytest.mark.parametrize("written", ["[464, 2068]", "464,2068", "464 2068\n"])
def test_a_prompt_of_token_ids(api: FakeApi, written: str) -> None:
    assert run(api, "submit", written, "--token-ids", "--no-wait").exit_code == 0
    assert api.requests("POST", "/api/generate")[0].body == {"prompt": [464, 2068]}


def test_a_schema_comes_from_a_file(api: FakeApi, tmp_path: Path) -> None:
    file = tmp_path / "tea.json"
    file.write_text('{"type": "object"}')
    assert run(api, "submit", "hello", "--json-schema", str(file), "--no-wait").exit_code == 0
    asked = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
    assert api.requests("POST", "/api/generate")[0].body["response_format"] == asked
    assert run(api, "submit", "hello", "--regex", "a+", "--no-wait").exit_code == 0
    assert api.requests("POST", "/api/generate")[1].body["response_format"] == {"type": "regex", "regex": "a+"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--logit-bias", "5"), "5"),
        (("--logit-bias", "a=1"), "a=1"),
        (("--regex", "a", "--json-object"), "one of"),
        (("--json-schema", "no-such-file"), "no-such-file"),
        (("--token-ids",), "whole numbers"),
        (("--stop-token-id", "x"), "stop-token-id"),
    ],
)
def test_wrong_words_are_named_and_nothing_is_sent(api: FakeApi, words: tuple[str, ...], said: str) -> None:
    result = run(api, "submit", "hello", *words)
    assert (result.exit_code, api.seen) == (2, [])
    assert said in result.stderr


def test_a_schema_that_is_no_json_is_named(api: FakeApi, tmp_path: Path) -> None:
    file = tmp_path / "tea.json"
    file.write_text("{tea}")
    result = run(api, "submit", "hello", "--json-schema", str(file))
    assert (result.exit_code, api.seen) == (2, [])
    assert "holds no JSON" in result.stderr


def test_submit_and_batch_have_the_same_options() -> None:
    of_generation = {field.name for field in fields(Generation)}
    for command in (jobs.submit, batch.batch):
        assert of_generation <= set(inspect.signature(command).parameters)
    written_otherwise = {"webhook_events_filter", "stop_token_ids", "response_format"}
    only_in_files = {"queue_timeout_s", "execution_timeout_s", "result_ttl_s", "cache", "metadata"}
    missing = set(GenerateOptions.__annotations__) - of_generation
    assert missing == written_otherwise | only_in_files


SHOWN = {
    "content": [
        {"token_id": 1, "token": "<s>", "logprob": None, "top_logprobs": []},
        {"token_id": 5, "token": " a", "logprob": -0.5, "top_logprobs": [{"token_id": 7, "token": " b", "logprob": -1.0}]},
    ]
}  # fmt: skip
TOKENS = (TokenLogprob(1, "<s>", None), TokenLogprob(5, " a", -0.5, (Alternative(7, " b", -1.0),)))


def test_what_comes_back_is_typed() -> None:
    data = {"id": "job_1", "choices": [{"index": 0, "text": " a", "logprobs": SHOWN}], "input": "", "input_token_ids": [1, 5],
            "system_fingerprint": "fp_1"}  # fmt: skip
    job = decode(Job, data)
    assert job.choices[0].logprobs == Logprobs(TOKENS)
    assert (job.input_token_ids, job.system_fingerprint) == ((1, 5), "fp_1")
    assert (
        decode(Job, json.loads(json.dumps({"id": "job_1", "choices": [{"logprobs": None}]}))).choices[0].logprobs
        is None
    )


def test_a_transcript_collects_tokens() -> None:
    output = decode(Output, {"id": 3, "index": 0, "delta": " a", "logprobs": SHOWN})
    assert output.logprobs == Logprobs(TOKENS)
    events = [
        output,
        Restarted(4),
        Output(5, 0, "b", Logprobs(TOKENS[:1])),
        Output(6, 0, "c"),
        Output(7, 0, "", Logprobs(TOKENS[1:])),
    ]
    transcript = Transcript.of([*events, Ended(8, Job("job_1"))])
    assert (transcript.text(), transcript.tokens(), transcript.tokens(1)) == ("bc", TOKENS, ())
