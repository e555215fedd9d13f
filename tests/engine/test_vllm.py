"""vLLM behind our contract, beside what the contract suite asks of every engine: the same tokens as ``model.generate``, what
may be reused by whom, structure, and processes that die. Run by `make test-vllm`, where vLLM is."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from shared.errors import EngineStoppedError, InvalidRequestError, ModelLoadError
from tests.engine.conftest import Listener, greedy, run, submit, tiny_model, vllm_config
from tests.engine.test_greedy_equivalence import generate, make_jobs
from tests.servers import until
from worker.engine.factory import build_engine
from worker.engine.protocol import Delta, Engine, EngineRequest, FinishReason, Grammar, SamplingParams, Structure
from worker.heartbeat import Pulse

pytest.importorskip("vllm", reason="vLLM is not installed; make test-vllm has it")
psutil = pytest.importorskip("psutil")

GONE_S = 15


@pytest.fixture
def engine(vllm_engine: Callable[[], Engine]) -> Engine:
    return vllm_engine()


def drawn(tokens: int, **changes: Any) -> SamplingParams:
    return SamplingParams(**({"max_tokens": tokens, "ignore_eos": True} | changes))


def some_prompt(length: int, seed: int = 1) -> tuple[int, ...]:
    dice = random.Random(seed)
    return tuple(dice.randrange(3, 400) for _ in range(length))


@pytest.fixture(scope="module")
def model(vllm_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(vllm_folder).eval()


def test_greedy_is_generate_token_by_token(engine: Engine, model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    jobs = make_jobs(14, len(tokenizer))
    expected = [generate(model, *job) for job in jobs]
    params = [greedy(tokens, repetition_penalty=penalty) for _, tokens, penalty in jobs]
    together = [submit(engine, job[0], param) for job, param in zip(jobs, params, strict=True)]
    assert [handle.result(60).completions[0].token_ids for handle in together] == expected
    assert len({token for answer in expected for token in answer}) > 30, "answers too dull to prove anything"


def test_compiled_as_it_is_by_default_it_answers_the_same(
    vllm_folder: Path, model: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    jobs = make_jobs(8, len(tokenizer))
    engine = build_engine(vllm_config(vllm_folder, enforce_eager=False))
    engine.start()
    try:
        handles = [submit(engine, prompt, greedy(tokens, repetition_penalty=more)) for prompt, tokens, more in jobs]
        answers = [handle.result(120).completions[0].token_ids for handle in handles]
    finally:
        engine.shutdown()
    assert answers == [generate(model, *job) for job in jobs]


def test_a_seeded_answer_is_the_same_in_company_and_after_a_long_prompt(engine: Engine) -> None:
    """A prompt over the budget that was asked for: computed in chunks, a seeded one ends vLLM's process on a CPU."""
    prompts = [some_prompt(length, length) for length in (3, 40, 150)]
    alone = [run(engine, prompt, drawn(30, seed=9)).completions for prompt in prompts]
    handles = [submit(engine, prompt, drawn(30, seed=9)) for prompt in prompts for _ in range(4)]
    together = [handle.result(60).completions for handle in handles]
    assert together == [answer for answer in alone for _ in range(4)]
    assert engine.healthy()


def test_completion_i_uses_seed_plus_i(engine: Engine) -> None:
    prompt = some_prompt(8)
    several = run(engine, prompt, drawn(12, seed=20, n=3)).completions
    alone = [run(engine, prompt, drawn(12, seed=20 + at)).completions[0] for at in range(3)]
    assert [c.token_ids for c in several] == [c.token_ids for c in alone]
    assert len({c.token_ids for c in several}) == 3


def test_a_prompt_is_reused_within_its_scope_alone(engine: Engine) -> None:
    prompt = some_prompt(200, seed=77)

    def ask(scope: str | None) -> tuple[int, tuple[int, ...]]:
        result = engine.submit(EngineRequest(prompt, greedy(6), reuse_scope=scope)).result(60)
        return result.usage.cached_tokens, result.completions[0].token_ids

    first, again, other, nobodys, nobodys_again = ask("a"), ask("a"), ask("b"), ask(None), ask(None)
    assert first[0] == 0
    assert 100 <= again[0] < 200
    assert (other[0], nobodys[0], nobodys_again[0]) == (0, 0, 0)
    assert len({tokens for _, tokens in (first, again, other, nobodys, nobodys_again)}) == 1


def test_log_probabilities_are_the_models(engine: Engine, model: Any) -> None:
    prompt = some_prompt(9)
    params = drawn(5, seed=3, temperature=1.7, top_k=9, logprobs=2, prompt_logprobs=1)
    result = run(engine, prompt, params)
    (completion,) = result.completions
    with torch.inference_mode():
        expected = model(torch.tensor([prompt + completion.token_ids])).logits[0].float().log_softmax(-1)
    places = [*(result.prompt_places or ()), *(completion.places or ())]
    tokens = (*prompt, *completion.token_ids)
    assert len(result.prompt_places or ()) == len(prompt) - 1
    assert len(places) == len(tokens) - 1
    for at, place in enumerate(places):
        assert place.chosen.token == tokens[at + 1]
        assert place.chosen.logprob == pytest.approx(float(expected[at, tokens[at + 1]]), abs=1e-3)
        best = expected[at].topk(len(place.best))
        assert [each.token for each in place.best] == best.indices.tolist()
        assert [each.logprob for each in place.best] == pytest.approx(best.values.tolist(), abs=1e-3)
    assert {len(place.best) for place in result.prompt_places or ()} == {1}
    assert {len(place.best) for place in completion.places or ()} == {2}


def test_bias_stop_tokens_and_least_length(engine: Engine) -> None:
    prompt = some_prompt(7)
    assert set(run(engine, prompt, greedy(5, logit_bias=((123, 100.0),))).completions[0].token_ids) == {123}
    free = run(engine, prompt, greedy(20)).completions[0]
    stop = free.token_ids[8]
    ended = run(engine, prompt, greedy(20, stop_token_ids=(stop,))).completions[0]
    assert ended.finish_reason is FinishReason.STOP
    assert ended.token_ids == free.token_ids[: free.token_ids.index(stop) + 1]
    longer = run(engine, prompt, greedy(20, stop_token_ids=(stop,), min_tokens=15)).completions[0]
    assert len(longer.token_ids) >= 15


def test_an_answer_matches_its_structure(engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {"size": {"enum": ["small", "large"]}, "warm": {"type": "boolean"}},
        "required": ["size", "warm"],
        "additionalProperties": False,
    }
    params = SamplingParams(max_tokens=120, seed=4, structure=Structure(Grammar.JSON_SCHEMA, json.dumps(schema)))
    plain = submit(engine, some_prompt(5), greedy(30))
    (completion,) = run(engine, some_prompt(5), params).completions
    answer = json.loads(completion.text)
    assert answer["size"] in ("small", "large")
    assert isinstance(answer["warm"], bool)
    assert plain.result(60).completions[0].finish_reason is FinishReason.LENGTH
    number = SamplingParams(max_tokens=60, seed=4, structure=Structure(Grammar.REGEX, "[0-9]{4}-[ab]{2}"))
    assert re.fullmatch("[0-9]{4}-[ab]{2}", run(engine, some_prompt(5), number).completions[0].text)


@pytest.mark.parametrize(
    "structure", [Structure(Grammar.JSON_SCHEMA, "{"), Structure(Grammar.REGEX, "(")], ids=["schema", "regex"]
)
def test_a_structure_that_is_none_is_refused_at_once(engine: Engine, structure: Structure) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine.submit(EngineRequest((5,), SamplingParams(structure=structure)))
    assert caught.value.param == "structure"
    assert engine.healthy()


def test_adapters_run_beside_the_model_and_say_what_the_merged_model_says(
    vllm_folder: Path, tmp_path: Path, model: Any
) -> None:
    """One adapter on the query projections; the merged model is made by hand."""
    rank, dice = 4, torch.Generator().manual_seed(5)
    merged = AutoModelForCausalLM.from_pretrained(vllm_folder).eval()
    tensors = {}
    for at, layer in enumerate(merged.model.layers):
        weight = layer.self_attn.q_proj.weight
        down = torch.randn(rank, weight.shape[1], generator=dice) * 0.3
        up = torch.randn(weight.shape[0], rank, generator=dice) * 0.3
        weight.data += 2.0 * up @ down
        path = f"base_model.model.model.layers.{at}.self_attn.q_proj"
        tensors |= {f"{path}.lora_A.weight": down, f"{path}.lora_B.weight": up}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": ["q_proj"], "bias": "none"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    engine = build_engine(vllm_config(vllm_folder, adapters=(("pirate", str(tmp_path)),)))
    engine.start()
    try:
        assert engine.info.adapters == ("pirate",)
        prompts = [some_prompt(12, seed) for seed in range(4)]
        both = [
            (engine.submit(EngineRequest(prompt, greedy(20), adapter="pirate")), submit(engine, prompt, greedy(20)))
            for prompt in prompts
        ]
        for prompt, (adapted, plain) in zip(prompts, both, strict=True):
            assert adapted.result(60).completions[0].token_ids == generate(merged, prompt, 20, 1.0)
            assert plain.result(60).completions[0].token_ids == generate(model, prompt, 20, 1.0)
        assert generate(merged, prompts[0], 20, 1.0) != generate(model, prompts[0], 20, 1.0)
    finally:
        engine.shutdown()


def test_an_adapter_that_is_not_there_is_named(vllm_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="pirate"):
        build_engine(vllm_config(vllm_folder, adapters=(("pirate", str(tmp_path / "none")),))).start()


def test_an_adapter_that_nobody_gave_it_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine.submit(EngineRequest((5,), adapter="pirate"))
    assert caught.value.param == "adapter"


def test_it_tells_what_it_counts(engine: Engine) -> None:
    before = engine.stats()
    run(engine, some_prompt(30, seed=5), greedy(20, n=2))
    until(lambda: engine.stats().steps >= before.steps + 20)
    after = engine.stats()
    assert 30 <= after.prompt_tokens - before.prompt_tokens <= 60
    assert sum(after.token_gaps.counts) - sum(before.token_gaps.counts) == 2 * 19
    assert sum(after.step_rows) > sum(before.step_rows)
    assert after.kv_cache_usage == 0.0
    memory = engine.device_memory()
    assert memory is not None
    assert memory.used > psutil.Process().memory_info().rss + 2**28, "vLLM's processes are not in it"


def core_of(engine: Any) -> Any:
    """vLLM's engine process, as psutil has it."""
    (process,) = engine._vllm.llm.engine_core.resources.engine_manager.processes
    return psutil.Process(process.pid)


def test_its_process_dies_and_everybody_hears_of_it(engine: Engine) -> None:
    core = core_of(engine)

    def kill(_delta: Delta) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):  # another's first token came before
            core.kill()

    # Killed on the engine's thread at the very first token: on a busy machine it would else be done before.
    handles = [submit(engine, some_prompt(10, at), greedy(240), kill) for at in range(6)]
    for handle in handles:
        with pytest.raises(EngineStoppedError):
            handle.result(30)
    until(lambda: not engine.healthy(), 10)
    with pytest.raises(EngineStoppedError):
        submit(engine, (5,), greedy(1))
    began = time.monotonic()
    engine.shutdown(drain_s=20)
    assert time.monotonic() - began < 15


def test_an_idle_one_whose_process_dies_is_not_healthy(engine: Engine) -> None:
    assert engine.healthy()
    core_of(engine).kill()
    until(lambda: not engine.healthy(), 10)


def test_a_process_that_hangs_is_told_by_the_pulse_and_can_be_ended(engine: Engine) -> None:
    core = core_of(engine)
    family = [core, *core.children(recursive=True)]
    pulse = Pulse(engine, 1.5)
    heard = Listener()
    handle = submit(engine, some_prompt(10), greedy(240), heard)
    assert heard.heard.wait(30)
    assert pulse()
    core.suspend()
    until(lambda: not pulse(), 20)
    began = time.monotonic()
    engine.shutdown()
    assert time.monotonic() - began < 15
    with pytest.raises(EngineStoppedError):
        handle.result(0)
    until(lambda: not any(alive(process) for process in family), GONE_S)


def alive(process: Any) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


OWNER = """
import sys, time
from tests.engine.conftest import vllm_config
from worker.engine.factory import build_engine
if __name__ == "__main__":
    engine = build_engine(vllm_config(sys.argv[1]))
    engine.start()
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("when", ["ready", "loading"])
def test_nothing_is_left_of_an_owner_that_is_killed(vllm_folder: Path, tmp_path: Path, when: str) -> None:
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    owner = subprocess.Popen([sys.executable, script, vllm_folder], stdout=subprocess.PIPE, env=env)
    try:
        process = psutil.Process(owner.pid)
        if when == "ready":
            assert owner.stdout is not None
            assert owner.stdout.readline().strip() == b"ready"
        else:
            until(lambda: len(engine_processes(process)) > 1, 120, what="vLLM's worker process")
        family = process.children(recursive=True)
        assert len(family) >= 2
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
    until(lambda: not any(alive(each) for each in family), GONE_S, what=f"the end of {family}")


def engine_processes(owner: Any) -> list[Any]:
    """Those of vLLM that have got as far as to name themselves."""
    return [
        each for each in owner.children(recursive=True) if b"VLLM" in Path(f"/proc/{each.pid}/cmdline").read_bytes()
    ]


def test_a_model_that_it_loads_and_cannot_run_is_refused_at_start(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    tiny_model("gpt2", len(tokenizer)).save_pretrained(tmp_path)  # heads of 16 numbers: no kernel for a CPU
    tokenizer.save_pretrained(tmp_path)
    engine = build_engine(vllm_config(tmp_path))
    before = {process.pid for process in psutil.Process().children(recursive=True) if alive(process)}
    with pytest.raises(ModelLoadError, match="vLLM could not load model"):
        engine.start()
    assert not engine.healthy()

    def left() -> list[Any]:
        family = psutil.Process().children(recursive=True)
        return [each for each in family if alive(each) and each.pid not in before]

    until(lambda: not left(), GONE_S)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="There is no folder"):
        build_engine(vllm_config(tmp_path / "none")).start()
