"""Activations that transformers computes apart from what is before them, or in several operations, as one operation."""

from __future__ import annotations

from types import MappingProxyType

import torch
from transformers.activations import FastGELUActivation, NewGELUActivation

from worker.engine.packing import PackedLinear, follower

# Both spell out the tanh form of GELU (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016) in eight passes over
# the memory; torch computes it in one.
_TANH_GELUS = (NewGELUActivation, FastGELUActivation)

# Of a model's inner layer: its linear layer, and the activation that is applied to what comes out of that and to nothing else.
_FOLLOWED = MappingProxyType(
    {
        "GPT2MLP": ("c_fc", "act"),
        "LlamaMLP": ("gate_proj", "act_fn"),
        "MistralMLP": ("gate_proj", "act_fn"),
        "Qwen2MLP": ("gate_proj", "act_fn"),
        "Qwen3MLP": ("gate_proj", "act_fn"),
    }
)


def fuse_activations(model: torch.nn.Module) -> int:
    """Replace those in several operations by one, in place; returns how many."""
    replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in _TANH_GELUS:
                setattr(parent, name, torch.nn.GELU(approximate="tanh"))
                replaced += 1
    return replaced


def fuse_into_packed(model: torch.nn.Module) -> int:
    """Let packed layers compute the activation that follows them, in place; returns how many do. Not for a model whose layers
    anything is added to (adapters): that would come after the activation."""
    fused = 0
    for module in model.modules():
        linear_name, activation_name = _FOLLOWED.get(type(module).__name__, ("", ""))
        linear, follows = getattr(module, linear_name, None), follower(getattr(module, activation_name, None))
        if isinstance(linear, PackedLinear) and follows is not None:
            linear.follows = follows
            setattr(module, activation_name, torch.nn.Identity())
            fused += 1
    return fused
