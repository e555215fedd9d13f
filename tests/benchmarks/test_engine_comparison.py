"""The comparison of engines, run whole on the tiny shape; vLLM is left out, as where nobody has it."""

from __future__ import annotations

import copy
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import engine, processes
from benchmarks.agreement import NEAR_TIE, agreement, plain_gaps
from benchmarks.engines.__main__ import main as engine_process
from benchmarks.engines.contender import ARRIVALS, TOGETHER, Stream, Task
from benchmarks.plot import draw
from benchmarks.report import markdown, same_tokens
from benchmarks.summary import of_run, percentile
from benchmarks.workload import Job, arrival_times, make_workload, model_folder, warm_up_jobs

REQUESTS = 4


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


def run_in_part(task: Task, python: Path | str) -> dict[str, Any]:
    """One in a process of its own, as all are; the others here, since each process takes seconds to load its libraries."""
    if (task.engine, task.workload) == ("ours", TOGETHER):
        return processes.run_engine(task, python)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own
        engine_process(task)
    return json.loads(Path(task.result).read_text()) | {"peak_bytes": psutil.Process().memory_info().rss}


@pytest.fixture(scope="module")
def runs(out: Path) -> list[dict[str, Any]]:
    """What every run told, with all answers; the report is then in ``out``."""
    kept: list[dict[str, Any]] = []
    whole = engine.shape_report

    def keep(options: Any, shape: str, runs: list[dict[str, Any]], arrivals: Any) -> dict[str, Any]:
        kept.extend(copy.deepcopy(runs))
        return whole(options, shape, runs, arrivals)

    arguments = f"--shapes tiny --requests {REQUESTS} --naive-requests 2 --repeats 1 --threads 1 --rate 20"
    places = ["--folder", str(out), "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "shape_report", keep)
        patch.setattr(engine, "run_engine", run_in_part)
        patch.delenv("VLLM_PYTHON", raising=False)
        patch.setattr(processes, "VLLM_PYTHONS", ("build/none",))
        engine.main([*arguments.split(), *places])
    return kept


@pytest.fixture
def report(runs: list[dict[str, Any]], out: Path) -> dict[str, Any]:
    assert runs
    [path] = out.glob("engine-tiny-*.json")
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def test_every_engine_is_there_with_its_figures(report: dict[str, Any]) -> None:
    part = report["shapes"]["tiny"]
    assert list(part["engines"]) == ["naive", "static", "cb", "ours"]
    for name, figures in part["engines"].items():
        together = figures[TOGETHER]
        assert together["requests"] == (2 if name == "naive" else REQUESTS)
        assert 0 < together["tokens_per_s"]["min"] <= together["tokens_per_s"]["median"]
        assert 50e6 < together["peak_bytes"]["max"] < 4e9
    for name in ("cb", "ours"):
        arrivals = part["engines"][name][ARRIVALS]
        assert (
            0
            < arrivals["first_p50"]["median"]
            <= arrivals["latency_p50"]["median"]
            <= arrivals["latency_p95"]["median"]
        )
        assert 0 < arrivals["gap_p50"]["median"] <= arrivals["gap_p99"]["median"]
    assert part["engines"]["static"][ARRIVALS] is None
    assert part["workload"]["output_tokens"] == sum(job.output_tokens for job in make_workload(2, REQUESTS))


def test_all_greedy_answers_agree(report: dict[str, Any]) -> None:
    found = report["shapes"]["tiny"]["agreement"]
    assert {name: each["wrong"] for name, each in found.items()} == dict.fromkeys(("naive", "static", "cb", "ours"), 0)
    assert found["ours"]["requests"] == REQUESTS


def test_answers_vary(runs: list[dict[str, Any]]) -> None:
    """A model that repeats one token would let an engine with wrong positions agree."""
    assert all(len(set(answer)) > 10 for run in runs for answer in run["outputs"])


def test_vllm_is_left_out_with_the_reason(report: dict[str, Any], out: Path) -> None:
    assert set(report["skipped"]) == {"vllm", "vllm-eager"}
    assert "make test-vllm" in (out / "engine-tiny.md").read_text()


def test_a_python_that_is_named_has_to_be_there(out: Path) -> None:
    with pytest.raises(SystemExit, match="No vLLM"):
        processes.vllm_python(str(out / "none"))


def test_a_python_without_vllm_is_none_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_PYTHON", raising=False)
    monkeypatch.setattr(processes, "VLLM_PYTHONS", (sys.executable,))
    assert processes.vllm_python(None) is None


def test_no_path_of_the_machine_is_in_the_figures(report: dict[str, Any], out: Path) -> None:
    assert str(out) not in json.dumps(report)


def test_the_picture_names_the_engines(report: dict[str, Any], out: Path) -> None:
    assert (out / "engine-tiny.svg").read_text().startswith("<?xml")
    draw(report, out / "again.png")
    assert (out / "again.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("victim", [TOGETHER, ARRIVALS])
def test_a_wrong_token_is_told(runs: list[dict[str, Any]], report: dict[str, Any], out: Path, victim: str) -> None:
    spoilt = copy.deepcopy(runs)
    [run] = [run for run in spoilt if run["engine"] == "ours" and run["workload"] == victim]
    run["outputs"][1][5] = (run["outputs"][1][5] + 1) % 5000
    options = engine._parse(["--shapes", "tiny", "--requests", str(REQUESTS), "--folder", str(out)])
    part = engine.shape_report(options, "tiny", spoilt, None)
    found = part["agreement"]["ours"]
    assert (found["same"], found["wrong"]) == (REQUESTS - 1, 1)
    [where] = found["parted"]
    assert (where["request"], where["at_token"]) == (1, 5)
    assert where["gap"] > NEAR_TIE
    assert part["agreement"]["cb"]["wrong"] == 0
    assert f"{REQUESTS - 1}/{REQUESTS} (1 WRONG)" in markdown(report | {"shapes": {"tiny": part}})


def test_a_near_tie_is_no_defect() -> None:
    jobs = [Job((1, 2), 3)]
    answers = [("naive", [[5, 6, 7]]), ("cb", [[5, 6, 7]]), ("ours", [[5, 9, 8]])]
    asked: list[Any] = []

    def gaps(questions: list[Any]) -> list[float]:
        asked.extend(questions)
        return [NEAR_TIE / 2 if token == 9 else 0.0 for _, token in questions]

    found = agreement(jobs, answers, gaps)
    assert set(asked) == {((1, 2, 5), 9), ((1, 2, 5), 6)}
    assert same_tokens(found["ours"]) == "0/1 (1 near-tie)"
    assert same_tokens(found["naive"]) == "1/1"


def test_most_engines_may_be_wrong() -> None:
    answers = [("naive", [[5, 6]]), ("cb", [[5, 7]]), ("ours", [[5, 7]])]
    found = agreement([Job((1,), 2)], answers, lambda asked: [1.0 if token == 7 else 0.0 for _, token in asked])
    assert {name: each["wrong"] for name, each in found.items()} == {"naive": 0, "cb": 1, "ours": 1}


def test_gaps_are_of_the_plain_model(runs: list[dict[str, Any]], out: Path) -> None:
    [naive] = [run for run in runs if run["engine"] == "naive"]
    prompt, tokens = make_workload(5000, 1)[0].prompt, naive["outputs"][0]
    best, other = plain_gaps(model_folder("tiny", out))(
        [((*prompt, *tokens[:3]), tokens[3]), (prompt, (tokens[0] + 1) % 5000)]
    )
    assert best == 0
    assert other > NEAR_TIE


def test_waits_count_from_when_a_request_was_due() -> None:
    streams = [
        {"due": 1.0, "times": [1.5, 1.6, 2.0], "counts": [1, 2, 1]},
        {"due": 0.0, "times": [3.0, 3.1], "counts": [1, 1]},
    ]
    run = {"workload": ARRIVALS, "seconds": 3.0, "cpu_seconds": 6.0, "peak_bytes": 1, "outputs": [[0] * 4, [0] * 2]}
    figures = of_run(run | {"streams": streams})
    assert (figures["first_p50"], figures["first_p99"]) == (0.5, 3.0)
    assert (figures["latency_p50"], figures["latency_p95"]) == (1.0, 3.1)
    assert figures["gap_p50"] == pytest.approx(0.1)
    assert figures["gap_p99"] == pytest.approx(0.4)
    assert (figures["tokens_per_s"], figures["tokens_per_delivery"]) == (2.0, 6 / 5)


def test_percentiles_are_of_values_that_were_there() -> None:
    assert [percentile([4, 1, 3, 2], share) for share in (0.0, 0.25, 0.5, 0.51, 1.0)] == [1, 1, 2, 3, 4]


def test_arrivals_are_the_same_each_time_and_as_many_as_asked() -> None:
    times = arrival_times(2000, 4.0)
    assert times == arrival_times(2000, 4.0) == sorted(times)
    assert times[0] == 0
    assert 2000 / times[-1] == pytest.approx(4.0, rel=0.1)


def test_warm_up_uses_other_prompts() -> None:
    """An engine that reuses prefixes must not have seen those of the workload."""
    assert not {job.prompt[:4] for job in warm_up_jobs(5000)} & {job.prompt[:4] for job in make_workload(5000)}


def test_nothing_delivered_is_no_delivery() -> None:
    stream = Stream(0.0)
    stream.deliver(0.0, 0)
    assert not stream.times


def test_an_engine_that_fails_is_told_with_its_output(out: Path) -> None:
    task = Task("none", "tiny", TOGETHER, str(out), str(out / "none.json"), REQUESTS)
    with pytest.raises(SystemExit, match="No engine is called 'none'"):
        processes.run_engine(task)
