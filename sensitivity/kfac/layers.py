"""Descriptions of the layers that K-FAC covers, without reference to tensors.

A layer maps inputs a to outputs s = W a. W consists of `groups` matrices [output_dim, input_dim], where input_dim
includes a last column for the bias. A convolution is a linear map of its patches, [channels / groups * kernel
positions] in the order of `Tensor.flatten`. A transposed convolution is the adjoint of a convolution with the same
weight: its gradient is Σ x pᵀ over positions of its input x, with p the patches of its output gradient. The input
projections of an `nn.MultiheadAttention` are three layers, each with a third of one weight and one bias.
"""

import copy
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import nn

Kind = Literal["linear", "conv", "embedding"]
_KINDS: dict[type[nn.Module], Kind] = {
    nn.Linear: "linear",
    nn.Conv1d: "conv",
    nn.Conv2d: "conv",
    nn.Conv3d: "conv",
    nn.ConvTranspose1d: "conv",
    nn.ConvTranspose2d: "conv",
    nn.ConvTranspose3d: "conv",
    nn.Embedding: "embedding",
    nn.EmbeddingBag: "embedding",
}
PROJECTIONS = ("query", "key", "value")


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Geometry of the patches of a convolution; every tuple has one entry per spatial dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    padding_mode: str
    dilation: tuple[int, ...]

    def positions(self, spatial: tuple[int, ...]) -> int:
        """Count the output positions for an input with this spatial shape."""
        count = 1
        shape = zip(spatial, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        for size, kernel, stride, (low, high), dilation in shape:
            count *= (size + low + high - dilation * (kernel - 1) - 1) // stride + 1
        return count


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A covered layer: the names of its parameters, and the shape of its Kronecker block.

    Attributes:
        name: qualified name of the module, or of a projection of it.
        kind: whether inputs are features ("linear"), images ("conv") or indices ("embedding").
        weight: name of the weight.
        bias: name of the bias, None if the block has none.
        weight_shape: shape of the weight, or of its part.
        groups: groups of a convolution.
        geometry: geometry of a convolution.
        part: index of the part of the weight that belongs to the layer, and number of equal parts along its rows.
        adjoint: padding of a transposed convolution, whose `geometry` is that of patches of its padded output.
    """

    name: str
    kind: Kind
    weight: str
    bias: str | None
    weight_shape: tuple[int, ...]
    groups: int = 1
    geometry: Geometry | None = None
    part: tuple[int, int] = (0, 1)
    adjoint: tuple[int, ...] | None = None

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """Shape of the whole weight."""
        return (self.weight_shape[0] * self.part[1], *self.weight_shape[1:])

    @property
    def output_dim(self) -> int:
        """Side of the output factor of a group."""
        return self.weight_shape[1] if self.kind == "embedding" else self.weight_shape[0] // self.groups

    @property
    def input_dim(self) -> int:
        """Side of the input factor of a group, including the bias."""
        if self.kind == "embedding":
            return self.weight_shape[0]
        return math.prod(self.weight_shape[1:]) + (self.bias is not None)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that the block covers."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


def layer_of(name: str, module: nn.Module) -> Layer | None:
    """Describe a module with this qualified name; None if K-FAC does not cover its type.

    A subclass of a covered type is covered if it inherits the forward pass of that type, or if a copy of the module
    computes the same outputs. The bias of a transposed convolution is not part of the layer.
    """
    base = next((each for each in _KINDS if isinstance(module, each)), None)
    if base is None or not isinstance(getattr(module, "weight", None), nn.Parameter) or not _computes_as(module, base):
        return None
    prefix = f"{name}." if name else ""
    weight, shape = f"{prefix}weight", tuple(cast(torch.Tensor, module.weight).shape)
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        if module.scale_grad_by_freq or module.max_norm is not None or module.sparse:
            return None
        if isinstance(module, nn.EmbeddingBag) and module.mode == "max":
            return None
        return Layer(name=name, kind="embedding", weight=weight, bias=None, weight_shape=shape)
    bias = None if module.bias is None else f"{prefix}bias"
    plain = Layer(name=name, kind=_KINDS[base], weight=weight, bias=bias, weight_shape=shape)
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        if module.padding_mode != "zeros":
            return None
        kernel, stride, dilation = tuple(module.kernel_size), tuple(module.stride), tuple(module.dilation)
        none = tuple((0, 0) for _ in kernel)
        geometry = Geometry(kernel=kernel, stride=stride, padding=none, padding_mode="zeros", dilation=dilation)
        padding = tuple(int(each) for each in module.padding)
        return replace(plain, bias=None, groups=module.groups, geometry=geometry, adjoint=padding)
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return replace(plain, groups=module.groups, geometry=_geometry(module))
    return plain


def projections_of(name: str, module: nn.MultiheadAttention) -> tuple[Layer, ...]:
    """Describe the projections of queries, keys and values; empty if their input widths differ or biases are appended.

    A subclass is covered if it inherits the forward pass of nn.MultiheadAttention.
    """
    weight, prefix = module.in_proj_weight, f"{name}." if name else ""
    if weight is None or module.bias_k is not None or type(module).forward is not nn.MultiheadAttention.forward:
        return ()
    bias = None if module.in_proj_bias is None else f"{prefix}in_proj_bias"
    shape, parts = (module.embed_dim, module.embed_dim), len(PROJECTIONS)
    return tuple(
        Layer(
            name=f"{prefix}{each}",
            kind="linear",
            weight=f"{prefix}in_proj_weight",
            bias=bias,
            weight_shape=shape,
            part=(i, parts),
        )
        for i, each in enumerate(PROJECTIONS)
    )


def layers_of(model: nn.Module, exclude: Collection[str] = ()) -> tuple[Layer, ...]:
    """Describe every covered layer of the model that is trained, in the order of `named_modules`.

    A layer is covered if all its parameters require gradients and are its weight and bias alone, without a
    parametrization. Modules with the same parameters are described once, under the first name, as in
    `named_parameters`. An embedding and the linear layers tied to it are described as one embedding, whose calls are of
    both kinds (see `layer_of_call`) and which excludes the biases of the linear layers. Modules that share a weight in
    any other way are not covered, nor are the modules named in `exclude` and their submodules.
    """
    found = dict[int, tuple[tuple[Layer, ...], list[int]]]()
    broken, uncalled = set[int](), set[str]()
    for name, module in model.named_modules():
        layers = _described(name, module)
        own = list(module.parameters(recurse=False))
        out = within(name, exclude) or name in uncalled
        if isinstance(module, nn.MultiheadAttention) and (out or not layers):
            uncalled.add(f"{name}.out_proj" if name else "out_proj")  # its product is computed without a module call
        if not layers or out or not _holds_only(name, module, layers):
            broken.update(id(parameter) for parameter in own)
        elif own[0].requires_grad and (both := _tied(found.get(id(own[0]), ((), []))[0], layers)):
            found[id(own[0])] = both, [id(own[0])]
        elif all(parameter.requires_grad for parameter in own):
            first, ids = found.setdefault(id(own[0]), (layers, [id(parameter) for parameter in own]))
            same = _shapes(first) == _shapes(layers)
            if not same or ids != [id(p) for p in own]:
                broken.update(ids)
    return tuple(layer for layers, ids in found.values() if broken.isdisjoint(ids) for layer in layers)


def layer_of_call(layer: Layer, inputs: torch.Tensor) -> Layer:
    """Layer of one call: that of an embedding on floating-point inputs, not indices, is a linear map (tied.py)."""
    return replace(layer, kind="linear") if layer.kind == "embedding" and inputs.is_floating_point() else layer


def within(name: str, modules: Collection[str]) -> bool:
    """Whether the named module is one of `modules` or a submodule of one."""
    return any(name == each or name.startswith(f"{each}.") for each in modules)


def _described(name: str, module: nn.Module) -> tuple[Layer, ...]:
    if isinstance(module, nn.MultiheadAttention):
        return projections_of(name, module)
    layer = layer_of(name, module)
    return () if layer is None else (layer,)


def _holds_only(name: str, module: nn.Module, layers: tuple[Layer, ...]) -> bool:
    """Whether the module has no parameters but those of its layers, and the bias of a transposed convolution."""
    held = {f"{name}.{each}" if name else each for each, _ in module.named_parameters(recurse=False)}
    known = {parameter for layer in layers for parameter in layer.parameters}
    if layers[0].adjoint is not None:
        held -= {f"{name}.bias" if name else "bias"}
    return held == known


def _tied(first: tuple[Layer, ...], layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Describe an embedding and a linear layer with one weight, in any order, under the first name; otherwise ()."""
    if not first or {first[0].kind, layers[0].kind} != {"embedding", "linear"}:
        return ()
    return (replace(first[0], kind="embedding", bias=None),) if first[0].part == layers[0].part else ()


def _shapes(layers: tuple[Layer, ...]) -> list[object]:
    return [(x.kind, x.geometry, x.adjoint, x.groups, x.part) for x in layers]


def _computes_as(module: nn.Module, base: type[nn.Module]) -> bool:
    """Whether a module's forward pass equals that of `base`: by its code, or by the outputs of a copy."""
    own = type(module)
    if own is base or (own.forward is base.forward and _conv_forward_of(own) is _conv_forward_of(base)):
        return True
    if issubclass(base, (nn.modules.conv._ConvTransposeNd, nn.EmbeddingBag)):
        return False
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            trial, inputs = copy.deepcopy(module).train(), _example_input(module)
            for hooks in (trial._forward_hooks, trial._forward_pre_hooks):
                hooks.clear()
            return bool(torch.allclose(trial(inputs), base.forward(trial, inputs), rtol=1e-5, atol=1e-8))
    except Exception:
        return False


def _conv_forward_of(kind: type[nn.Module]) -> object:
    return getattr(kind, "_conv_forward", None)


def _example_input(module: nn.Module) -> torch.Tensor:
    """Return an example input for a module."""
    weight = cast(torch.Tensor, module.weight)
    if isinstance(module, nn.Embedding):
        return torch.arange(module.num_embeddings, device=weight.device)[:64]
    if isinstance(module, nn.Linear):
        return torch.randn(2, weight.shape[1]).to(weight)
    assert isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    spans = [d * (k - 1) + 3 for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    return torch.randn(2, module.in_channels, *spans).to(weight)


def layers_over_examples(layers: Iterable[Layer]) -> list[Layer]:
    """Layers whose first input dimension counts examples: all but embeddings, or all if there are only embeddings.

    An embedding of positions is looked up once for all examples.
    """
    listed = list(layers)
    return [layer for layer in listed if layer.kind != "embedding"] or listed


def _geometry(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> Geometry:
    kernel, stride, dilation = tuple(module.kernel_size), tuple(module.stride), tuple(module.dilation)
    if module.padding == "valid":
        padding = tuple((0, 0) for _ in kernel)
    elif module.padding == "same":
        spans = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        padding = tuple((span // 2, span - span // 2) for span in spans)
    else:
        padding = tuple((int(p), int(p)) for p in module.padding)
    return Geometry(kernel=kernel, stride=stride, padding=padding, padding_mode=module.padding_mode, dilation=dilation)
