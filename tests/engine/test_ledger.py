"""Memory is counted in tokens: what fits, who holds it, and what goes back to the system."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.errors import ContextLengthError, ModelLoadError
from tests.engine.conftest import CONTEXT, greedy, run
from tests.engine.test_scheduler import group
from worker.engine.cache import KeyValueShape, SlotCache
from worker.engine.config import EngineConfig
from worker.engine.ledger import Ledger
from worker.engine.memory import choose_capacity
from worker.engine.protocol import Engine, EngineRequest
from worker.engine.scheduler import Copy

SMAPS = Path("/proc/self/smaps")
CPU = torch.device("cpu")
SHAPE = KeyValueShape(heads=1, key_dim=64, value_dim=64, dtype=torch.float32)  # 16 tokens a page, 512 bytes a token


def test_rows_hold_whole_pages_and_never_more_than_there_are() -> None:
    ledger = Ledger(tokens=100, page=16)
    first, second = group(1).rows[0], group(1).rows[0]
    assert (ledger.total, ledger.free) == (6, 6)
    assert ledger.take(first, 17)
    assert ledger.take(first, 32)
    assert (first.pages, ledger.free) == (2, 4)
    assert not ledger.take(second, 65)
    assert (second.pages, ledger.free) == (0, 4)
    assert ledger.take(second, 64)
    assert ledger.usage() == 1.0
    ledger.give_back(first)
    ledger.give_back(first)
    assert (first.pages, ledger.free) == (0, 2)


def test_what_can_never_fit_is_refused() -> None:
    ledger = Ledger(tokens=64, page=16)
    ledger.check(EngineRequest((1,) * 60, greedy(5)))
    with pytest.raises(ContextLengthError):
        ledger.check(EngineRequest((1,) * 60, greedy(6)))
    ledger.check(EngineRequest((1,) * 10, greedy(7, n=4)))
    with pytest.raises(ContextLengthError, match="4 completions of 10"):
        ledger.check(EngineRequest((1,) * 10, greedy(8, n=4)))


def capacity(**values: Any) -> tuple[int, int, int]:
    """Slots, context and tokens, of a model of 32,768 tokens."""
    chosen = choose_capacity(EngineConfig(**({"prefix_cache_bytes": 0} | values)), 32_768, [SHAPE], CPU)
    assert chosen.kv_page == 16
    return chosen.slots, chosen.context, chosen.kv_tokens


def test_long_contexts_and_many_slots_share_what_is_there() -> None:
    mib = 2 * 1024  # tokens
    assert capacity(kv_cache_bytes=2**40) == (64, 32_768, 64 * 32_768)
    assert capacity(kv_cache_bytes=64 * 2**20) == (64, 32_768, 64 * mib)
    assert capacity(kv_cache_bytes=10 * 2**20) == (64, 10 * mib, 10 * mib), "no row could be longer than this"
    assert capacity(kv_cache_bytes=64 * 2**20, slots=500) == (500, 32_768, 64 * mib)
    assert capacity(kv_cache_bytes=2**20, max_context=100, slots=2) == (2, 100, 2 * 112), "whole pages"


def test_prefixes_have_their_share_of_the_same_memory() -> None:
    for given, rows, prefixes in ((None, 7, 2**20), (0, 8, 0), (3 * 2**20, 5, 3 * 2**20)):
        config = EngineConfig(kv_cache_bytes=8 * 2**20, prefix_cache_bytes=given)
        chosen = choose_capacity(config, 32_768, [SHAPE], CPU)
        assert (chosen.kv_tokens, chosen.prefix_bytes) == (rows * 2048, prefixes)
    with pytest.raises(ModelLoadError, match="prefixes"):
        capacity(kv_cache_bytes=2**20, prefix_cache_bytes=2**20)


def test_what_cannot_work_at_all_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="Lower the context"):
        capacity(kv_cache_bytes=10 * 2**20, max_context=30_000)
    with pytest.raises(ModelLoadError, match="allow more memory"):
        capacity(kv_cache_bytes=1000)


def test_slots_of_a_gpu_must_fit_whole() -> None:
    def whole(**values: Any) -> tuple[int, int]:
        config = EngineConfig(**({"prefix_cache_bytes": 0} | values))
        chosen = choose_capacity(config, 32_768, [SHAPE], torch.device("cuda"))
        assert chosen.slots * chosen.context <= chosen.kv_tokens
        return chosen.slots, chosen.context

    assert whole(kv_cache_bytes=2**40) == (64, 32_768)
    assert whole(kv_cache_bytes=128 * 2**20) == (64, 4096)
    assert whole(kv_cache_bytes=20 * 2**20) == (20, 2048)
    assert whole(kv_cache_bytes=20 * 2**20, max_context=20_480) == (2, 20_480)
    assert whole(kv_cache_bytes=20 * 2**20, slots=5) == (5, 8192)
    with pytest.raises(ModelLoadError, match="Lower the slots"):
        whole(kv_cache_bytes=20 * 2**20, slots=16, max_context=4096)


def test_a_page_is_what_the_system_gives() -> None:
    narrow = KeyValueShape(heads=8, key_dim=16, value_dim=16, dtype=torch.float32)
    assert choose_capacity(EngineConfig(), 256, [narrow], CPU).kv_page == 64


def test_an_engine_says_how_many_tokens_fit(new_engine: Callable[..., Engine]) -> None:
    # Two layers of keys and values of 64 float32: 1,024 bytes a token.
    engine = new_engine("gpt2", kv_cache_bytes=600 * 1024, prefix_cache_bytes=0)
    assert (engine.info.kv_tokens, engine.info.kv_page, engine.info.context_length) == (576, 64, CONTEXT)
    assert new_engine("gpt2", kv_cache_bytes=150 * 1024, prefix_cache_bytes=0).info.context_length == 128
    assert new_engine("echo", kv_cache_bytes=300).info.kv_tokens == 300


def test_a_request_over_the_memory_is_refused_at_once(new_engine: Callable[..., Engine]) -> None:
    for engine in (
        new_engine("gpt2", kv_cache_bytes=600 * 1024, prefix_cache_bytes=0),
        new_engine("echo", kv_cache_bytes=576),
    ):
        assert run(engine, (5,) * 100, greedy(60, n=3)).usage.completion_tokens == 180
        with pytest.raises(ContextLengthError):
            engine.submit(EngineRequest((5,) * 100, greedy(60, n=4)))


@pytest.fixture
def cache() -> SlotCache:
    """4 slots of 1,024 tokens of 512 bytes, of which 1,024 may be resident."""
    return SlotCache([SHAPE], slots=4, max_len=1024, device=CPU, tokens=1024)


def fill(cache: SlotCache, lengths: list[int]) -> None:
    cache.settle(lengths)
    for slot, length in enumerate(lengths):
        for store in cache.slot_layers[0].stores:
            store[slot, :, :length] = slot + 1.0


def mapped(cache: SlotCache) -> int:
    """Bytes that are in memory of the cache's mappings, as the kernel counts them; it may count others' beside them as one."""
    wanted = {store.data_ptr() for store in cache.slot_layers[0].stores}
    size, inside = 0, False
    for line in SMAPS.read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            first, last = (int(end, 16) for end in words[0].split("-"))
            inside = any(first <= pointer < last for pointer in wanted)
        elif inside and words[0] == "Rss:":
            size += int(words[1]) * 1024
    return size


needs_smaps = pytest.mark.skipif(not SMAPS.exists(), reason="the system does not say")


@needs_smaps
def test_memory_is_taken_by_tokens_not_by_slots(cache: SlotCache) -> None:
    before = mapped(cache)
    fill(cache, [16, 40])
    assert mapped(cache) - before == 2 * (1 + 3) * 4096
    assert float(cache.slot_layers[0].keys[:, :, :500].sum()) == (16 + 2 * 40) * 64
    assert mapped(cache) - before == 2 * (1 + 3) * 4096, "what is only read takes nothing"


@needs_smaps
def test_what_rows_leave_behind_goes_back_before_it_is_too_much(cache: SlotCache) -> None:
    before = mapped(cache)
    fill(cache, [500, 400])
    fill(cache, [80])
    assert mapped(cache) - before == 2 * (32 + 25) * 4096, "there is room for it, and it may be written again"
    fill(cache, [80, 80, 80, 200])
    assert mapped(cache) - before == 2 * (5 + 5 + 5 + 13) * 4096
    for slot, length in enumerate([80, 80, 80, 200]):
        keys = cache.slot_layers[0].keys[slot, 0]
        assert bool((keys[:length] == slot + 1).all()), "nobody's tokens were touched"
        assert bool((keys[(length // 16 + 1) * 16 :] == 0).all())


def test_a_cleared_slot_is_zero_to_its_edges() -> None:
    cache = SlotCache([SHAPE], slots=3, max_len=23, device=CPU)  # 5,888 bytes: no slot begins or ends with a page
    for store in cache.slot_layers[0].stores:
        store.fill_(torch.nan)
    cache.clear(1)
    for store in cache.slot_layers[0].stores:
        assert bool((store[1] == 0).all())
        assert bool(store[[0, 2]].isnan().all())


def test_copies_stay_within_their_slots(cache: SlotCache) -> None:
    fill(cache, [16, 40])
    cache.copy(Copy(1, 0, 30))
    assert cache.slot_layers[0].keys[0, 0, :, 0].tolist()[:31] == [2.0] * 30 + [0.0]
