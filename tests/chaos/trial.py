"""One trial: a stack, clients, faults, quiet, audit, report."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from tests.chaos.audit import Audit, pending, read, undelivered
from tests.chaos.clients import Client, Diary
from tests.chaos.faults import Aboard, EndsHeard, Faults, Watch, plan
from tests.chaos.stack import TENANTS, Stack
from tests.chaos.viewers import Viewer

CLIENTS = {"calm": 3, "busy": 2}
VIEWERS = 4
"""For each tenant."""
GAP_S = 2.0
QUIET_S = 90


@dataclass
class Report:
    """What a trial found. ``findings`` is empty where every promise was kept."""

    seed: int
    seconds: float
    numbers: dict[str, Any] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0

    def text(self) -> str:
        lines = [f"seed {self.seed}, {self.seconds:.0f} s of faults"]
        lines += [f"  {name:28}{value}" for name, value in self.numbers.items()]
        lines += [f"  {'lost':28}{self.lost}", f"  {'doubled':28}{self.doubled}"]
        return "\n".join([*lines, *(f"FINDING {finding[:600]}" for finding in self.findings)])


def trial(
    folder: Path, *, seed: int, seconds: float, jobs: int, poison: int, say: Callable[[str], None] = print
) -> Report:
    """Run it. ``jobs`` in all, over the time of the faults; ``poison`` of them kill their worker."""
    report = Report(seed, seconds)
    diary = Diary(folder / "clients.jsonl")
    with Stack(folder) as stack:
        say(f"up in {folder}")
        faults = Faults(stack, plan(seed, seconds, GAP_S))
        watch, ends = Watch(stack, faults), EndsHeard(stack)
        viewers = make_viewers(stack, diary, seed)
        clients = make_clients(stack, diary, seed, jobs, seconds, poison, viewers)
        for thread in (ends, watch, faults, *clients, *viewers):
            thread.start()
        faults.join(seconds + 60)
        say(f"faults over: {dict(faults.counts)}")
        quiet_s = settle(stack, clients, report)
        for viewer in viewers:
            viewer.halt.set()
        for viewer in viewers:
            viewer.join(30)
            if viewer.is_alive():
                report.findings.append(f"{viewer.name} watches a stream that does not end")
        for thread in (watch, ends):
            thread.halt.set()
            thread.join(5)
        wronged = reaped_alive(stack, faults)
        audit = Audit(
            read(stack.client), diary.entries, ends.heard, written_ends(stack), wronged, stack.receiver.received
        )
        audit.run()
        report.findings += audit.findings
        report.findings += [f"{t.name} broke: {t.broke!r}" for t in (faults, *clients, *viewers) if t.broke]
        report.lost, report.doubled = len(audit.lost), len(audit.doubled)
        report.numbers |= numbers(stack, audit, faults, quiet_s)
    diary.close()
    (folder / "report.json").write_text(
        json.dumps({"seed": seed, "numbers": report.numbers, "findings": report.findings})
    )
    return report


def make_viewers(stack: Stack, diary: Diary, seed: int) -> list[Viewer]:
    return [
        Viewer(f"{tenant}-viewer{n}", tenant, stack.keys[tenant][1], stack.api_port, diary, seed)
        for tenant in TENANTS
        for n in range(VIEWERS)
    ]


def make_clients(
    stack: Stack, diary: Diary, seed: int, jobs: int, seconds: float, poison: int, viewers: Sequence[Viewer]
) -> list[Client]:
    count = sum(CLIENTS.values())
    clients = []
    for tenant in TENANTS:
        for n in range(CLIENTS[tenant]):
            deadly = poison if (tenant, n) == ("calm", 0) else 0
            arguments = (stack.keys[tenant][1], stack.api_port, diary, seed, jobs // count, seconds, deadly)
            viewer = viewers[TENANTS.index(tenant) * VIEWERS + n % VIEWERS]
            clients.append(Client(f"{tenant}{n}", tenant, *arguments, viewer.watch, stack.receiver.url))
    return clients


def settle(stack: Stack, clients: Sequence[Client], report: Report) -> float:
    """Wait until every client is content and every job has ended. Returns how long that took after the last fault."""
    begin = time.monotonic()
    while time.monotonic() - begin < QUIET_S:
        try:
            content = not any(client.is_alive() for client in clients)
            if content and pending(stack.client) == 0 and undelivered(stack.client) == 0:
                break
        except redis.RedisError:
            pass
        time.sleep(0.2)
    else:
        report.findings.append(f"not quiet {QUIET_S} s after the last fault: {pending(stack.client)} jobs go on")
    took = time.monotonic() - begin
    for client in clients:
        client.halt.set()
        client.join(20)
    time.sleep(0.5)  # hints without work, and the window
    return took


def written_ends(stack: Stack) -> list[dict[str, Any]]:
    """The workers' log lines that tell of an end and its verdict. A line that a kill cut short is none."""
    found = []
    for line in (line for worker in stack.workers for line in stack.logs(worker.name) if '"verdict"' in line):
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def reaped_alive(stack: Stack, faults: Faults) -> list[str]:
    """Workers that lost their lease though they had neither died nor been frozen. A name holds the process id."""
    dead = {pid for kept in stack.workers for pid, _ in kept.exits} | faults.frozen
    found = set()
    for line in (line for worker in stack.workers for line in stack.logs(worker.name) if "a worker is gone" in line):
        name = line.partition('"worker": "')[2].partition('"')[0]
        if name and int(name.split("-")[-2]) not in dead:
            found.add(name)
    return sorted(found)


def numbers(stack: Stack, audit: Audit, faults: Faults, quiet_s: float) -> dict[str, Any]:
    lines = [line for worker in stack.workers for line in stack.logs(worker.name)]
    stats = audit.truth.stats
    exits = [code for kept in stack.kept for _, code in kept.exits]
    return {
        "jobs accepted": len(audit.accepted),
        "ended": {name.removeprefix("ended:"): int(n) for name, n in stats.items() if name.startswith("ended:")},
        "retries, deletes": (len(audit.retries), len(audit.deletes)),
        "faults": dict(faults.counts),
        "processes that died": len(exits),
        "unexpected exit codes": [code for code in exits if code not in {0, -9, -15}],
        "leases expired": int(stats.get("leases_expired", 0)),
        "taken for dead alive": reaped_alive(stack, faults),
        "innocents convicted": len(audit.innocents),
        "requeued": int(stats.get("requeued", 0)),
        "hints sent again": int(stats.get("resent", 0)),
        "hints without work": sum("hint without work" in line for line in lines),
        "writes fenced": sum(end["verdict"] == "fenced" for end in written_ends(stack)),
        "not brought to its end": sum("job not brought to its end" in line for line in lines),
        "streams": audit.streams,
        "webhooks": audit.webhooks,
        "killed -> waits again": percentiles(faults.aboard, "requeued_s"),
        "killed -> runs again": percentiles(faults.aboard, "running_s"),
        "quiet after the last fault": f"{quiet_s:.1f} s",
        "records": len(audit.truth.jobs),
    }


def percentiles(aboard: Sequence[Aboard], name: str) -> str:
    times = sorted(value for job in aboard if (value := getattr(job, name)) is not None)
    if not times:
        return "none was aboard"
    worst = times[-1]
    ninety = times[min(len(times) - 1, int(len(times) * 0.9))]
    return f"p50 {statistics.median(times):.2f} s, p90 {ninety:.2f} s, most {worst:.2f} s ({len(times)} jobs)"
