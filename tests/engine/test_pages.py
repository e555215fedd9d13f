"""Pages are given out once, shared by count, and come back; what is padded reads and writes the scratch page alone."""

from __future__ import annotations

import random

import pytest
import torch

from shared.errors import GenerationError
from worker.engine.decode_inputs import DecodeInputs, Span
from worker.engine.decode_steps import DecodeSteps, buckets
from worker.engine.pages import SCRATCH, PagePool
from worker.engine.parcel import Parcel, add_part

CPU = torch.device("cpu")


def test_pages_have_one_owner_until_they_are_shared() -> None:
    dice, pool = random.Random(4), PagePool(40, 8)
    held: list[list[int]] = []
    for _ in range(2000):
        what = dice.random()
        if what < 0.5 and pool.free:
            pages: list[int] = []
            pool.grow(pages, dice.randint(1, 8 * min(6, pool.free)))
            held.append(pages)
        elif what < 0.7 and held:
            pages = list(dice.choice(held))
            pool.share(pages)
            held.append(pages)
        elif held:
            pool.give_back(held.pop(dice.randrange(len(held))))
        out = {page for pages in held for page in pages}
        assert SCRATCH not in out
        assert pool.free == 39 - len(out)
    for pages in held:
        pool.give_back(pages)
    assert pool.free == 39


def test_what_does_not_fit_changes_nothing() -> None:
    pool, held = PagePool(4, 8), []
    assert pool.grow(held, 9) == [1, 2]
    assert pool.grow(held, 16) == []
    with pytest.raises(GenerationError):
        pool.grow(held, 33)
    assert (held, pool.free) == ([1, 2], 1)


def test_buckets_are_near_every_size() -> None:
    for rows in (1, 3, 8, 60, 64, 100, 256):
        sizes = buckets(rows)
        assert sizes == sorted(set(sizes))
        assert sizes[-1] == rows
        steps = DecodeSteps(lambda size: (torch.tensor(size),), rows)
        for count in range(1, rows + 1):
            size = steps.size_for(count)
            assert count <= size <= max(count + 8, count * 1.25)
            assert int(steps.run(size)[0]) == size


def test_decoding_inputs_are_the_rows_and_scratch() -> None:
    inputs = DecodeInputs(4, 3, 8, CPU)
    first = [Span([11], 17, [5, 2, 9]), Span([12], 0, [3]), Span([13], 7, [4])]
    inputs.send(first, 4)
    inputs.send([Span([21], 8, [6, 7]), Span([22], 1, [3])], 4)  # a row less, and other pages
    views = inputs.views(4)
    assert views.tokens.tolist() == [21, 22, 0, 0]
    assert views.positions.tolist() == [8, 1, 0, 0]
    assert views.places.tolist() == [7 * 8, 3 * 8 + 1, 0, 0]
    assert views.used.tolist() == [9, 2, 1, 1]
    assert views.starts_k[:4].tolist() == [48, 24, 0, 0]
    assert views.table[0, :2].tolist() == [6, 7]
    assert views.table[1:, 0].tolist() == [3, SCRATCH, SCRATCH]
    assert all(view.is_contiguous() for view in (views.used, views.starts_k, views.table))


def test_no_rows_at_all_are_scratch_alone() -> None:
    inputs = DecodeInputs(3, 2, 8, CPU)
    inputs.send([Span([4], 9, [3, 5])], 1)
    inputs.send([], 3)
    views = inputs.views(3)
    assert [views.tokens.tolist(), views.places.tolist(), views.used.tolist()] == [[0] * 3, [0] * 3, [1] * 3]
    assert views.table[:, 0].tolist() == [SCRATCH] * 3


def test_inputs_stay_where_they_are() -> None:
    """A recorded graph reads addresses."""
    inputs = DecodeInputs(4, 3, 8, CPU)
    before = [getattr(inputs.views(2), name).data_ptr() for name in ("tokens", "positions", "places", "used", "table")]
    inputs.send([Span([1], 0, [1])], 2)
    after = [getattr(inputs.views(2), name).data_ptr() for name in ("tokens", "positions", "places", "used", "table")]
    assert before == after


def test_a_parcel_keeps_its_parts_apart() -> None:
    parcel = Parcel(CPU)
    wide = parcel.add([2**40, 1, 2])
    take = add_part(parcel, [Span([1, 2, 3], 8, [4, 6]), Span([9], 0, [2])], 8)
    more = parcel.add([7], narrow=True)
    parcel.send()
    part = take(parcel)
    assert parcel[wide].tolist() == [2**40, 1, 2]
    assert (parcel[more].tolist(), parcel[more].dtype) == ([7], torch.int32)
    assert (part.longest_q, part.longest_k) == (3, 11)
    assert part.starts_q.tolist() == [0, 3, 4]
    assert part.used.tolist() == [11, 1]
    assert part.table.tolist() == [[4, 6], [2, SCRATCH]]
    assert part.starts_k.tolist() == [32, 16, 0]
