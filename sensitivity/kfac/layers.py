"""Which layers K-FAC covers, described without reference to any tensor.

A layer maps inputs a to outputs s = W a; W is seen as `groups` matrices [output_dim, input_dim], where input_dim counts
a column for the bias, last. A convolution is a linear map of its patches, [channels / groups * kernel positions] in the
order of `Tensor.flatten`.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from torch import nn

Kind = Literal["linear", "conv", "embedding"]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How a convolution takes its patches; every tuple has one entry a spatial dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    padding_mode: str
    dilation: tuple[int, ...]

    def positions(self, spatial: tuple[int, ...]) -> int:
        """Output positions of an input with this spatial shape."""
        count = 1
        shape = zip(spatial, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        for size, kernel, stride, (low, high), dilation in shape:
            count *= (size + low + high - dilation * (kernel - 1) - 1) // stride + 1
        return count


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One covered layer: where its parameters are found, and the shape of its Kronecker block."""

    name: str
    kind: Kind
    weight: str
    bias: str | None
    weight_shape: tuple[int, ...]
    groups: int = 1
    geometry: Geometry | None = None

    @property
    def output_dim(self) -> int:
        """Side of the output factor, for each group."""
        return self.weight_shape[1] if self.kind == "embedding" else self.weight_shape[0] // self.groups

    @property
    def input_dim(self) -> int:
        """Side of the input factor, for each group, bias included."""
        if self.kind == "embedding":
            return self.weight_shape[0]
        return math.prod(self.weight_shape[1:]) + (self.bias is not None)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that the block covers."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


def layer_of(name: str, module: nn.Module) -> Layer | None:
    """Describe a module of the model by its qualified name; None if K-FAC does not cover its type.

    Subclasses of the covered types are not covered: their forward pass may compute something else.
    """
    prefix = f"{name}." if name else ""
    if type(module) is nn.Linear:
        kind: Kind = "linear"
    elif type(module) in (nn.Conv1d, nn.Conv2d):
        kind = "conv"
    elif (
        type(module) is nn.Embedding and not module.scale_grad_by_freq and module.max_norm is None and not module.sparse
    ):
        return Layer(
            name=name, kind="embedding", weight=f"{prefix}weight", bias=None, weight_shape=tuple(module.weight.shape)
        )
    else:
        return None
    assert isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d))
    return Layer(
        name=name,
        kind=kind,
        weight=f"{prefix}weight",
        bias=None if module.bias is None else f"{prefix}bias",
        weight_shape=tuple(module.weight.shape),
        groups=1 if isinstance(module, nn.Linear) else module.groups,
        geometry=None if isinstance(module, nn.Linear) else _geometry(module),
    )


def layers_of(model: nn.Module, exclude: Collection[str] = ()) -> tuple[Layer, ...]:
    """Describe every covered layer of the model that has parameters to train, in the order of `named_modules`.

    A layer is covered if all its parameters require gradients and are its weight and bias alone, not what a
    parametrization makes these of. Two modules that hold the same parameters are described once, under the first name,
    as `named_parameters` does; modules that share a weight in any other way (an embedding tied to a linear layer, say)
    are left uncovered, and so are the modules whose names are in `exclude`.
    """
    found = dict[int, tuple[Layer, list[int]]]()
    broken = set[int]()
    for name, module in model.named_modules():
        layer = layer_of(name, module)
        own = list(module.parameters(recurse=False))
        held = {f"{name}.{each}" if name else each for each, _ in module.named_parameters(recurse=False)}
        if layer is None or name in exclude or held != set(layer.parameters):
            broken.update(id(parameter) for parameter in own)
        elif all(parameter.requires_grad for parameter in own):
            first, ids = found.setdefault(id(own[0]), (layer, [id(parameter) for parameter in own]))
            if first.kind != layer.kind or first.geometry != layer.geometry or ids != [id(p) for p in own]:
                broken.update(ids)
    return tuple(layer for layer, ids in found.values() if broken.isdisjoint(ids))


def counted(layers: Iterable[Layer]) -> list[Layer]:
    """Pick the layers whose first dimension counts examples: embeddings only where there is nothing else.

    An embedding of positions is looked up once for all examples.
    """
    listed = list(layers)
    return [layer for layer in listed if layer.kind != "embedding"] or listed


def _geometry(module: nn.Conv1d | nn.Conv2d) -> Geometry:
    kernel, stride, dilation = tuple(module.kernel_size), tuple(module.stride), tuple(module.dilation)
    if module.padding == "valid":
        padding = tuple((0, 0) for _ in kernel)
    elif module.padding == "same":
        spans = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        padding = tuple((span // 2, span - span // 2) for span in spans)
    else:
        padding = tuple((int(p), int(p)) for p in module.padding)
    return Geometry(kernel=kernel, stride=stride, padding=padding, padding_mode=module.padding_mode, dilation=dilation)
