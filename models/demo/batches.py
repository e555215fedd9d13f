"""Talks of like length, put together into batches of about as many tokens."""

import random
from collections.abc import Iterator

import torch

from models.demo.tokens import Row

CHUNK = 2048
IGNORED = -100

Batch = tuple[torch.Tensor, torch.Tensor]


def to_batch(rows: list[Row], pad: int) -> Batch:
    """Rows in, their ids and the ids to predict next out, padded on the right (IGNORED where nothing is learnt)."""
    longest = max(len(ids) for ids, _ in rows)
    inputs = torch.full((len(rows), longest), pad)
    targets = torch.full((len(rows), longest), IGNORED)
    for at, (ids, learnt) in enumerate(rows):
        row = torch.tensor(ids)
        inputs[at, : len(ids)] = row
        targets[at, : len(ids) - 1] = torch.where(torch.tensor(learnt[1:]), row[1:], IGNORED)
    return inputs, targets


def split_by_size(rows: list[Row], tokens: int) -> list[list[Row]]:
    """Rows sorted by length and a limit in, groups with at most that many tokens, padding included, out."""
    groups: list[list[Row]] = [[]]
    for row in rows:
        if groups[-1] and len(row[0]) * (len(groups[-1]) + 1) > tokens:
            groups.append([])
        groups[-1].append(row)
    return groups


def batches(rows: list[Row], tokens: int, pad: int, seed: int) -> Iterator[Batch]:
    """Rows, tokens a batch, the padding id and a seed in, batches without end out, in the same order for a seed."""
    rng = random.Random(seed)
    order = list(range(len(rows)))
    while True:
        rng.shuffle(order)
        for start in range(0, len(order), CHUNK):
            chunk = sorted((rows[at] for at in order[start : start + CHUNK]), key=lambda row: len(row[0]))
            groups = split_by_size(chunk, tokens)
            rng.shuffle(groups)
            for group in groups:
                yield to_batch(group, pad)
