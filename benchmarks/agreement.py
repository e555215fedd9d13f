"""Did all engines give the same greedy tokens? Where they part: is it rounding, or a defect?

Engines add the same numbers in different orders, so where two tokens are almost equally probable they may choose
differently, and what follows differs too. So wherever answers part, the plain model computes the logits once more: the chosen
token has to be within ``NEAR_TIE`` of the best one. Otherwise the answer is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.workload import Job

# In standard deviations of the logits at that place. Rounding in float32 moves them by less than 0.0001 of one; the best two of
# 50,000 random logits are 0.2 of one apart in the mean.
NEAR_TIE = 1e-3

Answer = tuple[int, ...]
Question = tuple[Answer, int]
"""A prefix, and the token that was chosen after it."""


def agreement(
    jobs: Sequence[Job],
    runs: Iterable[tuple[str, Sequence[Sequence[int]]]],
    gaps: Callable[[list[Question]], list[float]],
) -> dict[str, dict[str, Any]]:
    """runs: an engine's name and its answers to the first of ``jobs``, as often as it has run. gaps: of each question, how far
    the chosen token is from the best (``plain_gaps``); called once, and only if answers part.

    Returns for each engine: ``requests`` compared, those that were the ``same`` as most engines' in each run, ``near_ties``,
    ``wrong``, and ``parted``, each with its place and its gap.
    """
    answers: dict[int, dict[Answer, list[str]]] = {}
    for engine, outputs in runs:
        for request, tokens in enumerate(outputs):
            answers.setdefault(request, {}).setdefault(tuple(tokens), []).append(engine)
    disputed = {request: given for request, given in answers.items() if len(given) > 1}
    questions = {request: _questions(jobs[request], _accepted(given), given) for request, given in disputed.items()}
    flat = [question for asked in questions.values() for question in asked.values()]
    found = dict(zip(flat, gaps(flat) if flat else [], strict=True))
    engines = dict.fromkeys(engine for given in answers.values() for names in given.values() for engine in names)
    return {engine: _of_engine(engine, answers, questions, found) for engine in engines}


def _accepted(given: dict[Answer, list[str]]) -> Answer:
    """What most engines answered, each engine counted once; of equals the first."""
    return max(given, key=lambda answer: len(set(given[answer])))


def _parting(one: Answer, other: Answer) -> int:
    """The first place where they differ."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _questions(job: Job, accepted: Answer, given: dict[Answer, list[str]]) -> dict[tuple[Answer, int], Question]:
    """By answer and place: what to ask of each answer where it parts from the accepted one, and of that one there too."""
    asked: dict[tuple[Answer, int], Question] = {}
    for answer in given:
        if answer != accepted:
            at = _parting(answer, accepted)
            for side in (answer, accepted):
                asked[side, at] = ((*job.prompt, *side[:at]), side[at])
    return asked


def _of_engine(
    engine: str,
    answers: dict[int, dict[Answer, list[str]]],
    questions: dict[int, dict[tuple[Answer, int], Question]],
    found: dict[Question, float],
) -> dict[str, Any]:
    """What ``agreement`` says of one engine."""
    parted: list[dict[str, Any]] = []
    verdicts: Counter[str] = Counter()
    for request, given in answers.items():
        mine = [answer for answer, names in given.items() if engine in names]
        if not mine:
            continue
        accepted, verdict = _accepted(given), "same"
        for (answer, at), question in questions.get(request, {}).items():
            gap = found[question]
            if answer not in mine or (answer == accepted and gap <= NEAR_TIE):
                continue
            worse = "wrong" if gap > NEAR_TIE else "near_ties"
            verdict = worse if verdict != "wrong" else verdict
            parted.append({"request": request, "at_token": at, "token": question[1], "gap": gap, "verdict": worse})
        verdicts[verdict] += 1
    counts = {name: verdicts[name] for name in ("same", "near_ties", "wrong")}
    return {"requests": verdicts.total()} | counts | {"parted": parted}


def plain_gaps(folder: Path) -> Callable[[list[Question]], list[float]]:
    """Asks transformers' own model in ``folder``, in float32, one prefix after the other."""

    def gaps(questions: list[Question]) -> list[float]:
        # Here, so that a process that only starts others stays small.
        import torch

        from benchmarks.engines.plain import load_plain

        model = load_plain(folder)
        result = []
        with torch.inference_mode():
            for prefix, token in questions:
                logits = model(torch.tensor([prefix])).logits[0, -1]
                result.append(float((logits.max() - logits[token]) / logits.std()))
        return result

    return gaps
