"""Linear layers of a CPU model in oneDNN's blocked layout.

A plain matrix product re-orders the weight, or walks it badly, at every call; packed once, 768x3072 takes 1.4 ms
instead of 2.6 at 64 rows, and 0.19 instead of 0.52 at 8 (benchmarks/notes.md). The two operators are private to torch (its
inductor uses them), so they are probed first and the model is left as it is where they fail.
"""

from __future__ import annotations

import logging

import torch
from transformers.activations import SiLUActivation
from transformers.pytorch_utils import Conv1D

logger = logging.getLogger(__name__)

_WORTH_PACKING = 256 * 1024  # elements; smaller weights stay in the CPU's cache, and gain nothing
_FEW_ROWS = 64
_STEP = 8
_ROWS = 64  # the batch that the layout is made for; one made for 1 or 256 rows measured the same


class PackedLinear(torch.nn.Module):
    """``x @ weight.T + bias`` for ``x`` ``[..., in_features]``, float32. ``weight`` is ``[out_features, in_features]``.

    ``follows``: what oneDNN is to do to the sum before it writes it: an activation's name and kind, as its operator takes them.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, follows: tuple[str, str] | None = None) -> None:
        super().__init__()
        self.follows = follows or ("none", "")
        self.out_features, self.in_features = weight.shape
        # Not a buffer: the blocked layout is opaque, and nothing that walks the state of a module may touch it.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _ROWS)  # noqa: SLF001  # as said above
        self._bias = None if bias is None else bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pointwise = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001  # as said above
        name, kind = self.follows
        result: torch.Tensor = pointwise(x, self._packed, self._bias, name, [], kind)
        return result

    def memory(self) -> tuple[int, int]:
        """The addresses between which the packed weight lies."""
        start: int = torch.ops.mkldnn.data_ptr(self._packed)
        return start, start + int(torch.ops.mkldnn._nbytes(self._packed))  # noqa: SLF001  # as said above


def follower(activation: object) -> tuple[str, str] | None:
    """As ``PackedLinear.follows``; None for an activation that oneDNN's operator does not know."""
    if isinstance(activation, torch.nn.SiLU | SiLUActivation):
        return ("swish", "")
    if isinstance(activation, torch.nn.GELU):
        return ("gelu", activation.approximate)
    return None


def packs(module: torch.nn.Module, mode: str) -> bool:
    """Whether a layer is one to pack. mode: as for ``pack_linears``, which asks ``packing_works`` before."""
    weight = _linear_weight(module)
    smallest = 1 if mode == "on" else _WORTH_PACKING
    return mode != "off" and weight is not None and weight.dtype == torch.float32 and weight.numel() >= smallest


def pack_linears(model: torch.nn.Module, mode: str) -> int:
    """Replace linear layers by packed ones; returns how many.

    mode: ``off``; ``auto`` packs float32 weights that are large enough to gain; ``on`` packs every float32 weight. The
    plain weights are freed one by one, so at no time are there two copies of the model. An output layer that is
    tied to the embedding costs a copy, since the embedding needs the plain one.
    """
    if mode == "off" or not packing_works():
        return 0
    # Only where they are: a list of the layers themselves would keep all plain weights to the end.
    places = [
        (parent, name) for parent in model.modules() for name, child in parent.named_children() if packs(child, mode)
    ]
    for parent, name in places:
        linear = getattr(parent, name)
        weight = _linear_weight(linear)
        assert weight is not None
        setattr(parent, name, PackedLinear(weight, linear.bias))
        del linear, weight
    return len(places)


def padded(rows: int) -> int:
    """The number of rows that a packed layer is asked for where ``rows`` are wanted.

    oneDNN compiles a product for each number of rows when it first meets it (about a millisecond), and keeps the last 1,024: more
    numbers than that would cost time again and again. Where there are few rows, each one added costs more than it saves.
    """
    return rows if rows <= _FEW_ROWS else -(-rows // _STEP) * _STEP


def warm(model: torch.nn.Module, most: int) -> None:
    """Let oneDNN compile what ``padded`` numbers of rows up to ``most`` will need."""
    layers = {(layer.in_features, layer.out_features, layer.follows): layer for layer in packed_layers(model)}
    for rows in sorted({padded(rows) for rows in range(1, most + 1)}):
        for layer in layers.values():
            layer(torch.zeros(1, rows, layer.in_features))


def packed_layers(model: torch.nn.Module) -> list[PackedLinear]:
    return [module for module in model.modules() if isinstance(module, PackedLinear)]


def packing_works() -> bool:
    """True where the private operators exist and compute what they should."""
    weight, bias, x = torch.randn(48, 32), torch.randn(48), torch.randn(5, 32)
    try:
        return torch.allclose(PackedLinear(weight, bias)(x), x @ weight.T + bias, atol=1e-3)
    except (AttributeError, RuntimeError, TypeError):
        logger.info("This torch has no oneDNN weight packing; the plain layers stay.")
        return False


def _linear_weight(module: torch.nn.Module) -> torch.Tensor | None:
    """The weight as ``[out, in]`` where the module is a plain linear layer; GPT-2's Conv1D stores it transposed."""
    if type(module) is torch.nn.Linear:
        return module.weight
    if type(module) is Conv1D:
        weight: torch.Tensor = module.weight.T
        return weight
    return None
