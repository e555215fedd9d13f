"""Decoder layers of Llama's kind, in fewer passes over the memory than transformers takes.

Queries, keys and values come out of one product, where transformers computes three, of which two are too small for a core. A kernel
of ours turns them by their positions in place, where transformers takes five passes and two copies (what each gave is in
benchmarks/notes.md). The cache and the attention are those that the model would call.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from worker.engine.native.norms import NativeRMSNorm
from worker.engine.native.rotation import Rotation
from worker.engine.packing import PackedLinear, follower, packs

# Those of which the definition is known: norm, attention over queries and keys that are turned by position and by nothing else,
# sum, norm, down(activation(gate(x)) * up(x)), sum.
_KNOWN = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer")


class LlamaLayer(torch.nn.Module):
    """In place of a layer of transformers; float32 on the CPU. The layer's norms are native already."""

    def __init__(self, layer: Any, rotation: Rotation) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.input_layernorm = layer.input_layernorm
        self.qkv_proj = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.o_proj = _packed(attention.o_proj)
        self.post_attention_layernorm = layer.post_attention_layernorm
        self.gate_proj = _packed(mlp.gate_proj, follower(mlp.act_fn))
        self.up_proj = _packed(mlp.up_proj)
        self.down_proj = _packed(mlp.down_proj)
        self._rotation = rotation
        self._config, self._layer_idx = attention.config, attention.layer_idx
        self._scaling, self._head_dim = attention.scaling, attention.head_dim
        self._window = _window_of(attention)
        key_heads = attention.k_proj.out_features // self._head_dim
        self._heads = (attention.q_proj.out_features // self._head_dim, key_heads, key_heads)

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        past_key_values: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """``[1, tokens, hidden]`` to the same. position_embeddings: cosines and sines, ``[1, tokens, head_dim]`` each."""
        tokens = hidden_states.shape[1]
        states = self.qkv_proj(self.input_layernorm(hidden_states))
        self._rotation(states, *position_embeddings, sum(self._heads[:2]))
        query, keys, values = states.view(1, tokens, -1, self._head_dim).transpose(1, 2).split(self._heads, dim=1)
        keys, values = past_key_values.update(keys, values, self._layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS[self._config._attn_implementation]  # noqa: SLF001  # transformers has no public reader
        kwargs |= {"scaling": self._scaling, "sliding_window": self._window, "attention_mask": None}
        attended, _ = attend(self, query, keys, values, **kwargs)
        hidden_states = hidden_states + self.o_proj(attended.reshape(1, tokens, -1))
        normed = self.post_attention_layernorm(hidden_states)
        result: torch.Tensor = hidden_states + self.down_proj(self.gate_proj(normed) * self.up_proj(normed))
        return result


def use_llama_layers(model: torch.nn.Module, library: ctypes.CDLL, mode: str) -> int:
    """Replace the layers of a float32 CPU model that are known and worth packing; returns how many. mode: as for ``pack_linears``.
    Not for a model whose layers anything is added to (adapters). Each plain weight is freed before the next is packed."""
    rotation = Rotation(library)
    # Only where they are: a list of the layers themselves would keep all plain weights to the end.
    places = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child).__name__ in _KNOWN and _fits(child, mode)
    ]
    for parent, name in places:
        setattr(parent, name, LlamaLayer(getattr(parent, name), rotation))
    return len(places)


def _window_of(attention: Any) -> int | None:
    """Qwen2's layers have one each, Mistral's that of the config; Llama has none, whatever its config says."""
    of = attention.config if type(attention).__name__ == "MistralAttention" else attention
    window: int | None = getattr(of, "sliding_window", None)
    return window


def _fits(layer: Any, mode: str) -> bool:
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    return (
        all(isinstance(norm, NativeRMSNorm) for norm in norms)
        and follower(layer.mlp.act_fn) is not None
        and packs(layer.mlp.gate_proj, mode)
    )


def _packed(linear: torch.nn.Linear, follows: tuple[str, str] | None = None) -> PackedLinear:
    return PackedLinear(linear.weight, linear.bias, follows)


def _joined(*linears: torch.nn.Linear) -> PackedLinear:
    biases: list[torch.Tensor | None] = [linear.bias for linear in linears]
    there = [bias for bias in biases if bias is not None]
    weights: list[torch.Tensor] = [linear.weight for linear in linears]
    return PackedLinear(torch.cat(weights), torch.cat(there) if there else None)
