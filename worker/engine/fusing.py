"""Activations that transformers writes out in several operations, as the one operation that torch has for them."""

from __future__ import annotations

import torch
from transformers.activations import FastGELUActivation, NewGELUActivation

# Both spell out the tanh form of GELU (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016) in eight passes over
# the memory; torch computes it in one.
_TANH_GELUS = (NewGELUActivation, FastGELUActivation)


def fuse_activations(model: torch.nn.Module) -> int:
    """Replace them in place; returns how many."""
    replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in _TANH_GELUS:
                setattr(parent, name, torch.nn.GELU(approximate="tanh"))
                replaced += 1
    return replaced
