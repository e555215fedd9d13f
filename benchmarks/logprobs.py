"""What log-probabilities take in Redis and on the wire, of real distributions: the bundled model's, 480 sampled tokens.

    python -m benchmarks.logprobs       # half a minute

For each number of alternatives and of completions: bytes as clients see them, bytes that the ended job's record takes in Redis
more than one without them, bytes of its event log (four tokens an entry, as a busy worker logs them), and milliseconds of
processor time to pack one completion and to show it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared.job import Choice, JobRef, JobSpec, JobStatus, Outcome, Usage
from shared.logprobs import Place, TokenLogprob, pack, rounded, unpack
from shared.settings import DEMO_MODEL, load_settings
from shared.store.connection import connect, key_prefix
from shared.store.events import Said, entry_of
from shared.store.protocol import ModelInfo, NewJob, Submission, WorkerInfo
from shared.store.redis import RedisStore
from shared.views import logprobs_view
from tests.servers import RedisServer, find_redis_server

RESULTS = Path(__file__).parent / "results"
TOKENS = 480
GATHERED = 4


def main() -> None:
    distributions = _distributions()
    binary = find_redis_server()
    assert binary is not None, "needs a redis-server or valkey-server"
    rows = []
    with tempfile.TemporaryDirectory() as folder, RedisServer(binary, Path(folder)) as server:
        settings = load_settings(redis_url=server.url)
        client = connect(settings)
        desk = _Desk(client, key_prefix(settings))
        for n in (1, 4):
            plain = desk.record(n, [], None)[0]
            for most in (0, 5, 20):
                places = [_place(each, most) for each in distributions]
                record, log = desk.record(n, places, pack(places))
                shown = len(logprobs_view(places).model_dump_json().encode())
                packed = pack(places)
                rows.append(
                    {
                        "n": n,
                        "alternatives": most,
                        "shown_bytes": n * shown,
                        "record_bytes": record - plain,
                        "log_bytes": log,
                        "pack_ms": _milliseconds(lambda places=places: pack(places)),
                        "show_ms": _milliseconds(lambda packed=packed: logprobs_view(unpack(packed)).model_dump_json()),
                    }
                )
                print(rows[-1])
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"logprobs-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps({"tokens": TOKENS, "rows": rows}, indent=2) + "\n")


class _Desk:
    """Brings jobs to their ends."""

    def __init__(self, client: Any, prefix: str) -> None:
        self._client, self._prefix = client, prefix
        self._store = RedisStore(client, prefix)
        self._jobs = 0

    def record(self, n: int, places: list[Place], packed: str | None) -> tuple[int, int]:
        """Bytes of an ended job's record, and of its log."""
        self._jobs += 1
        ref = JobRef("shop", f"job_{self._jobs:032x}")
        self._store.submit(Submission("shop", "key_1", (NewJob(ref.id, JobSpec("x", "general", "demo", n=n)),)))
        self._store.beat(WorkerInfo("w1", ModelInfo("demo", "1", "echo", "cpu", "none", 4096), 64), ())
        assert self._store.claim(ref, "w1", ref.id) is not None
        text = "".join(place.chosen.text for place in places)
        gathered = [places[at : at + GATHERED] for at in range(0, len(places), GATHERED)]
        entries = [entry_of(i, "".join(p.chosen.text for p in some), some) for some in gathered for i in range(n)]
        choices = tuple(Choice(index, text, "length", packed) for index in range(n))
        outcome = Outcome(JobStatus.SUCCEEDED, choices, Usage(9, len(places) * n))
        self._store.finish(ref, "w1", 1, outcome, Said(ref, 1, 0, tuple(entries)))
        return tuple(
            int(self._client.memory_usage(f"{self._prefix}{kind}:{ref}", samples=0) or 0) for kind in ("job", "events")
        )


def _distributions() -> list[tuple[int, list[tuple[int, str, float]]]]:
    """For each place the token that was sampled, and the 20 best before it, each with its text and logarithm."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL).eval()
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    torch.manual_seed(1)
    ids = tokenizer("What should I know before a day hike?", return_tensors="pt").input_ids
    out = model.generate(
        ids,
        do_sample=True,
        max_new_tokens=TOKENS,
        min_new_tokens=TOKENS,
        return_dict_in_generate=True,
        output_logits=True,
    )
    found = []
    for at, logits in enumerate(out.logits):
        logprobs = torch.log_softmax(logits[0].float(), -1)
        chosen = int(out.sequences[0, ids.shape[1] + at])
        best = [chosen, *logprobs.topk(20).indices.tolist()]
        found.append((chosen, [(token, tokenizer.decode([token]), float(logprobs[token])) for token in best]))
    return found


def _place(distribution: tuple[int, list[tuple[int, str, float]]], most: int) -> Place:
    chosen, *best = (TokenLogprob(token, text, rounded(logprob)) for token, text, logprob in distribution[1])
    return Place(chosen, tuple(best[:most]))


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    for _ in range(5):
        work()
    return round((time.process_time() - began) * 200, 1)


if __name__ == "__main__":
    main()
