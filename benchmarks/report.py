"""The comparison as Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks.engines.contender import ARRIVALS, TOGETHER

TITLES = {
    "naive": "`model.generate`, one by one",
    "static": "`model.generate`, one static batch",
    "cb": "transformers' continuous batching",
    "vllm-eager": "vLLM, eager",
    "vllm": "vLLM, compiled",
    "ours": "SmartTextGen",
}
HOW = """Random weights from the same file, float32, greedy, end-of-text ignored, exactly the tokens that are asked for. Medians of the
rounds, least and most in brackets; ratios are of medians. The clock starts after loading and a warm-up. Peak memory is of all
processes of an engine, from its start, pages that processes share counted once."""
MODELS = {"gpt2": "GPT-2, 82M", "qwen2": "Qwen2, 75M", "tiny": "GPT-2, 4.7M"}


def markdown(report: dict[str, Any]) -> str:
    """Two tables for each shape, and what they were measured on."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        "# Engines compared",
        "",
        f"`python -m benchmarks.engine`, {report['date']}, {report['machine']}; {versions}.",
        "",
        HOW,
    ]
    for shape, part in report["shapes"].items():
        lines += ["", f"## {MODELS[shape]}", "", *_together(part), "", *_arrivals(part), "", *_notes(part)]
    lines += [f"- {engine} is not here: {reason}" for engine, reason in report["skipped"].items()]
    return "\n".join(lines) + "\n"


def _together(part: dict[str, Any]) -> list[str]:
    work, engines = part["workload"], part["engines"]
    lines = [
        f"All {work['requests']} requests at once, {work['prompt_tokens']} prompt and {work['output_tokens']} output tokens:",
        "",
        "| engine | rounds | tok/s | to naive | to vLLM | tok/CPU s | peak memory | same tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    bases = [engines[name][TOGETHER] if name in engines else None for name in ("naive", part["faster_vllm"])]
    for name, each in engines.items():
        figures = each[TOGETHER]
        few = "" if figures["requests"] == work["requests"] else f" (first {figures['requests']} requests)"
        ratios = [
            f"{figures['tokens_per_s']['median'] / base['tokens_per_s']['median']:.2f}" if base else "–"
            for base in bases
        ]
        lines.append(
            f"| {TITLES[name]}{few} | {figures['rounds']} | {_spread(figures['tokens_per_s'], '.1f')} | {ratios[0]} | {ratios[1]} | "
            f"{figures['tokens_per_cpu_s']['median']:.1f} | {_peak(figures)} | {same_tokens(part['agreement'][name])} |"
        )
    return lines


def _arrivals(part: dict[str, Any]) -> list[str]:
    arrivals = part["arrivals"]
    if not arrivals:
        return []
    how = f"{arrivals['requests']} requests arriving at random (Poisson), {arrivals['rate']:.2f} a second: {arrivals['because']}."
    what = "Seconds from when a request was due; milliseconds between two deliveries to a reader; p50 · p95 · p99:"
    lines = [
        f"{how} {what}",
        "",
        "| engine | rounds | tok/s | first token, s | between tokens, ms | whole answer (spread of p95), s | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, each in part["engines"].items():
        figures = each[ARRIVALS]
        if figures is None:
            lines.append(f"| {TITLES[name]} | – | – | – | – | – | – |")
            continue
        first = " · ".join(f"{figures[f'first_p{share}']['median']:.2f}" for share in (50, 95, 99))
        gap = " · ".join(f"{1000 * figures[f'gap_p{share}']['median']:.0f}" for share in (50, 95, 99))
        whole = " · ".join(
            [
                f"{figures['latency_p50']['median']:.2f}",
                _spread(figures["latency_p95"], ".2f"),
                f"{figures['latency_p99']['median']:.2f}",
            ]
        )
        lines.append(
            f"| {TITLES[name]} | {figures['rounds']} | {figures['tokens_per_s']['median']:.1f} | {first} | {gap} | {whole} | "
            f"{_peak(figures)} |"
        )
    return lines


def _notes(part: dict[str, Any]) -> list[str]:
    """What a reader looks for first, and every place where answers part."""
    lines = []
    ours, other = part["engines"].get("ours"), part["engines"].get(part["faster_vllm"])
    if ours and other:
        rate = ours[TOGETHER]["tokens_per_s"]["median"] / other[TOGETHER]["tokens_per_s"]["median"]
        lines.append(f"- Ours to vLLM's faster mode ({part['faster_vllm']}), tokens a second at once: {rate:.2f}.")
        if ours[ARRIVALS] and other[ARRIVALS]:
            latency = ours[ARRIVALS]["latency_p95"]["median"] / other[ARRIVALS]["latency_p95"]["median"]
            lines.append(f"- Ours to vLLM's, 95% of whole answers within, arrivals: {latency:.2f} of its seconds.")
    for name, found in part["agreement"].items():
        lines += [
            f"- {TITLES[name]} parts at request {each['request']}, token {each['at_token']}: {each['gap']:.2g} standard deviations "
            f"from the best ({'WRONG' if each['verdict'] == 'wrong' else 'a near-tie'})."
            for each in found["parted"]
        ]
    return lines


def same_tokens(found: dict[str, Any]) -> str:
    """``64/64``, or ``62/64 (1 near-tie, 1 WRONG)``."""
    causes = [f"{found['near_ties']} near-tie" + ("s" if found["near_ties"] > 1 else "")] if found["near_ties"] else []
    causes += [f"{found['wrong']} WRONG"] if found["wrong"] else []
    return f"{found['same']}/{found['requests']}" + (f" ({', '.join(causes)})" if causes else "")


def _spread(figure: dict[str, float], form: str) -> str:
    median, least, most = (format(figure[name], form) for name in ("median", "min", "max"))
    return median if least == most else f"{median} ({least}–{most})"


def _peak(figures: dict[str, Any]) -> str:
    return f"{figures['peak_bytes']['max'] / 1e9:.2f} GB"
