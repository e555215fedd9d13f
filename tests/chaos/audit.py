"""The audit: what Redis holds, read key by key and not through the store, against what the clients were told."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis

from shared.job import JobSpec
from shared.modes import load_modes
from tests.chaos.clients import ENDS, digest
from tests.chaos.poisoned import MARKER
from tests.chaos.stack import KEYS, TENANTS
from tests.webhooks.receiver import Received
from worker.engine.factory import EngineConfig, build_engine
from worker.engine.protocol import EngineRequest, SamplingParams
from worker.prompts import PromptBuilder

Entries = list[dict[str, Any]]


@dataclass
class Truth:
    """All that matters of Redis, read once all is quiet."""

    jobs: dict[str, dict[str, str]]
    turns: dict[str, list[dict[str, Any]]]
    stats: dict[str, str]
    usage: dict[str, Counter[str]]
    left: dict[str, Any]
    """Bookkeeping that must be empty, and is not."""


def pending(client: redis.Redis) -> int:
    """Jobs that have not ended."""
    keys = list(client.scan_iter("[{]chaos}:job:*", count=1000))
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.hget(key, "status")
    return sum(status not in ENDS for status in pipe.execute())


def undelivered(client: redis.Redis) -> int:
    """Webhooks that are still to be sent."""
    return int(client.llen(f"{KEYS}outbox")) + int(client.zcard(f"{KEYS}lanes"))


def read(client: redis.Redis) -> Truth:
    jobs, turns, usage, left = {}, {}, defaultdict(Counter), {}
    for key in client.scan_iter("[{]chaos}:*", count=1000):
        name = key.removeprefix(KEYS)
        kind, _, rest = name.partition(":")
        if kind == "job":
            jobs[rest] = client.hgetall(key)
        elif kind == "history":
            turns[rest] = [json.loads(turn) for turn in client.lrange(key, 0, -1)]
        elif kind == "usage":
            for field, value in client.hgetall(key).items():
                usage[rest.partition(":")[0]][field.rpartition("|")[2]] += int(value)
        elif kind in {"line", "active", "sent", "running", "owned", "suspects", "deadlines", "waiting"}:
            left[name] = client.type(key)  # an empty collection has no key
        elif kind == "depth" and any(int(depth) for depth in client.hvals(key)):
            left[name] = client.hgetall(key)
    return Truth(jobs, turns, client.hgetall(f"{KEYS}stats"), usage, left)


class Audit:
    """``findings`` is empty where every promise was kept; lost and doubled count jobs."""

    def __init__(
        self,
        truth: Truth,
        entries: Entries,
        heard: Counter[str],
        ends: Entries,
        wronged: Sequence[str],
        received: Sequence[Received],
    ) -> None:
        self._received = received
        self.streams: dict[str, int] = {}
        self.webhooks: dict[str, int] = {}
        self.truth, self.heard, self._ends, self._wronged = truth, heard, ends, wronged
        self.innocents: list[str] = []
        self.findings: list[str] = []
        self.lost: set[str] = set()
        self.doubled: set[str] = set()
        self.accepted = {member(e): e for e in entries if e["what"] == "accepted" and e["id"]}
        self.deletes = {member(e): e["status"] for e in entries if e["what"] == "delete"}
        self.retries = [e for e in entries if e["what"] == "retry"]
        self.retried = {member(e) for e in self.retries if e["status"] not in {404, 409, 410}}
        self._entries = entries

    def run(self) -> None:
        for check in (
            self.every_job_ended, self.no_job_under_two_names, self.clients_saw_one_end, self.workers_wrote_one_end, self.ends_add_up,
            self.outputs_are_right, self.histories_are_right, self.only_poison_is_convicted, self.nothing_is_left,
            self.usage_adds_up, self.streams_are_whole, self.webhooks_tell_each_end_once,
        ):  # fmt: skip
            check()

    def say(self, text: str) -> None:
        self.findings.append(text)

    def every_job_ended(self) -> None:
        for name in self.accepted:
            if name not in self.truth.jobs and name not in self.deletes:
                self.lost.add(name)
                self.say(f"lost: {name} was accepted and has no record")
        for name, record in self.truth.jobs.items():
            if record.get("status") not in ENDS:
                self.lost.add(name)
                self.say(f"lost: {name} did not end: {record}")
        for name, status in self.deletes.items():
            if status == 204 and name in self.truth.jobs:
                self.say(f"{name} was deleted and is there")

    def no_job_under_two_names(self) -> None:
        names: defaultdict[str, set[str]] = defaultdict(set)
        for entry in self._entries:
            if entry["what"] == "accepted":
                names[entry["key"]].add(entry["id"])
        for key, ids in names.items():
            if len(ids) > 1:
                self.doubled.add(key)
                self.say(f"doubled: the submits under {key} made {ids}")
        prompts = Counter(json.loads(record["spec"])["prompt"] for record in self.truth.jobs.values())
        for prompt, count in prompts.items():
            if count > 1:
                self.doubled.add(prompt)
                self.say(f"doubled: {count} jobs for {prompt!r}")

    def clients_saw_one_end(self) -> None:
        """A final answer never changes, but by a retry; then no attempt has two."""
        finals: defaultdict[str, set[tuple[Any, ...]]] = defaultdict(set)
        last: dict[str, dict[str, Any]] = {}
        for entry in self._entries:
            name = member(entry) if "id" in entry else ""
            if entry["what"] == "retry":
                last.pop(name, None)
            if entry["what"] != "seen":
                continue
            before = last.get(name)
            if before and name not in self.retried and (
                before["attempt"] > entry["attempt"] or (before["status"] in ENDS and entry["status"] not in ENDS)
            ):  # fmt: skip
                self.say(f"{name} went back from {before} to {entry}")
            last[name] = entry
            if entry["status"] in ENDS:
                finals[name].add((entry["attempt"], entry["status"], entry["output"], entry["finished_at"]))
        for name, seen in finals.items():
            if name not in self.retried and len(seen) > 1:
                self.doubled.add(name)
                self.say(f"doubled: clients saw {seen} of {name}")
            self._matches_the_record(name, seen)

    def _matches_the_record(self, name: str, seen: set[tuple[Any, ...]]) -> None:
        record = self.truth.jobs.get(name)
        if record is None or name in self.retried:
            return
        final = (int(record.get("attempt", 0)), record["status"], digest(output_of(record)))
        if any(told[:3] != final for told in seen):
            self.say(f"{name}: clients were told {seen}, the record says {final}")

    def workers_wrote_one_end(self) -> None:
        """What workers say of the ends that they wrote (``ends``: their log lines; a killed one may not have said it)."""
        accepted: defaultdict[str, set[tuple[int, str]]] = defaultdict(set)
        for line in self._ends:
            if line["verdict"] == "accepted":
                accepted[f"{line['tenant']}:{line['job_id']}"].add((line["attempt"], line["status"]))
        for name, ends in accepted.items():
            record = self.truth.jobs.get(name)
            if record is None or name in self.retried:
                continue
            if ends != {(int(record["attempt"]), record["status"])}:
                self.doubled.add(name)
                self.say(f"doubled: workers wrote {ends} of {name}, the record has attempt {record['attempt']}")

    def ends_add_up(self) -> None:
        """One end for each job, and one more for each retry. A retry or a delete whose answer was lost may count or not."""
        ended = sum(int(value) for name, value in self.truth.stats.items() if name.startswith("ended:"))
        unsure = sum(e["status"] not in {202, 404, 409, 410} for e in self.retries)
        gone = [name for name in self.accepted if name not in self.truth.jobs]
        least = len(self.truth.jobs) + len(gone) + sum(e["status"] == 202 for e in self.retries)
        if not least <= ended <= least + unsure:
            self.say(f"ends: {ended} counted, {least} to {least + unsure} expected")
        for name, count in self.heard.items():
            if count > 1 and name not in self.retried and name not in self.deletes:
                self.doubled.add(name)
                self.say(f"doubled: {count} ends of {name} were told")

    def outputs_are_right(self) -> None:
        """Echo's answer is a function of the prompt; with a user, of the conversation too, which is checked as such."""
        engine = build_engine(EngineConfig(engine="echo"))
        engine.start()
        prompts = PromptBuilder(engine, load_modes())
        try:
            for name, record in self.truth.jobs.items():
                spec = JobSpec.from_json(record["spec"])
                if record["status"] != "succeeded" or spec.user_id:
                    continue
                prompt = prompts.build(spec)
                sampling = SamplingParams(max_tokens=spec.max_length, temperature=0.0, stop=prompt.stop)
                right = engine.submit(EngineRequest(prompt.ids, sampling)).result(30).completions[0].text
                if output_of(record) != right:
                    self.say(f"{name} answered {output_of(record)!r} and not {right!r}")
        finally:
            engine.shutdown()

    def histories_are_right(self) -> None:
        """Each succeeded job of a user has one turn, in the order in which they ended."""
        expected: defaultdict[str, list[str]] = defaultdict(list)
        for name, record in self.truth.jobs.items():
            tenant, _, job_id = name.partition(":")
            if record["status"] == "succeeded" and "user_id" in record:
                expected[f"{tenant}:{record['user_id']}"].append(job_id)
        for user in expected.keys() | self.truth.turns.keys():
            turns = self.truth.turns.get(user, [])
            if sorted(turn["job_id"] for turn in turns) != sorted(expected[user]):
                self.say(f"history of {user}: {turns}, expected {sorted(expected[user])}")
            if [turn["created_at"] for turn in turns] != sorted(turn["created_at"] for turn in turns):
                self.say(f"history of {user} is out of order: {turns}")

    def only_poison_is_convicted(self) -> None:
        """A job that was aboard as many real deaths as convict one had bad luck, and is counted apart. It is a finding where
        a living worker was taken for dead (``wronged``), or where it failed of anything else."""
        for name, record in self.truth.jobs.items():
            poison = json.loads(record["spec"])["prompt"].startswith(MARKER)
            convicted = record["status"] == "failed" and "worker_crashed" in record.get("error", "")
            if poison and not convicted:
                self.say(f"poison {name}: {record['status']} {record.get('error')}")
            elif not poison and convicted:
                self.innocents.append(name)
                if self._wronged:
                    self.say(f"innocent {name} convicted, and {self._wronged} lived")
            elif not poison and record["status"] == "failed":
                self.say(f"{name} failed: {record.get('error')}")

    def nothing_is_left(self) -> None:
        for name, what in self.truth.left.items():
            self.say(f"left over: {name}: {what}")

    def usage_adds_up(self) -> None:
        for tenant in TENANTS:
            counted, summed = self.truth.usage[tenant], self._sums(tenant)
            exact = tenant == "calm"
            for name in ("jobs", "prompt_tokens", "completion_tokens"):
                if counted[name] != summed[name] if exact else counted[name] < summed[name]:
                    self.say(f"usage of {tenant}: {name} is {counted[name]}, the records' sum is {summed[name]}")

    def streams_are_whole(self) -> None:
        """However often it was cut: each stream came to one end, the record's, and its text is the output."""
        seen = [e for e in self._entries if e["what"] == "streamed"]
        missing = [e for e in self._entries if e["what"] == "stream missing"]
        for entry in self._entries:
            if entry["what"] == "broken stream":
                self.say(f"stream of {member(entry)}: {entry['why']}")
        for entry in missing:
            if member(entry) not in self.deletes:
                self.say(f"stream of {member(entry)} came to no end: {entry['code']}")
        for entry in seen:
            name = member(entry)
            if entry["text"] != entry["output"]:
                self.say(f"stream of {name}: the text is not the output: {entry}")
            if name in self.retried or name not in self.truth.jobs:
                continue
            record = self.truth.jobs[name]
            final = (int(record.get("attempt", 0)), record["status"], digest(output_of(record)))
            if (entry["attempt"], entry["status"], entry["output"]) != final or entry["gaps"]:
                self.say(f"stream of {name} said {entry}, the record says {final}")
        self.streams = {
            "watched": len(seen), "connections": sum(e["streams"] for e in seen), "deleted meanwhile": len(missing),
            "restarted": sum(e["restarts"] for e in seen),
        }  # fmt: skip

    def webhooks_tell_each_end_once(self) -> None:
        """Each end of a job that asked for it was delivered, under one id however often, and says what the record says."""
        told: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        for received in self._received:
            event = json.loads(received.body)
            told[event["data"]["id"]][received.id] = event
        hooked = {name for name, entry in self.accepted.items() if "webhook" in entry["body"]}
        for name in hooked:
            messages = told[name.partition(":")[2]]
            if name in self.deletes or name in self.retried or name not in self.truth.jobs:
                continue
            record = self.truth.jobs[name]
            final = (f"job.{record['status']}", int(record.get("attempt", 0)), digest(output_of(record)))
            ends = [(e["type"], e["data"]["attempt"], digest(e["data"]["output"])) for e in messages.values()]
            if ends != [final]:
                self.say(f"webhook of {name}: told {ends}, the record says {final}")
        self.webhooks = {
            "asked for": len(hooked),
            "messages": sum(map(len, told.values())),
            "deliveries": len(self._received),
        }

    def _sums(self, tenant: str) -> Counter[str]:
        """What the records say was used. A served copy costs nothing; an end without a worker is no use."""
        sums: Counter[str] = Counter()
        for name, record in self.truth.jobs.items():
            result = json.loads(record.get("result", "{}"))
            if not name.startswith(f"{tenant}:") or "usage" not in result:
                continue
            usage = {} if result["cached"] else result["usage"]
            sums["jobs"] += 1
            for field in ("prompt_tokens", "completion_tokens"):
                sums[field] += usage.get(field, 0)
        return sums


def member(entry: dict[str, Any]) -> str:
    return f"{entry['tenant']}:{entry['id']}"


def output_of(record: dict[str, str]) -> str | None:
    choices = json.loads(record.get("result", "{}")).get("choices", [])
    return choices[0]["text"] if choices else None
