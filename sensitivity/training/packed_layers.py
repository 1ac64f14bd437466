"""Layers computed for the whole pack within a model for one trial: linear, convolution, embedding, dropout.

Calls of normalisation layers are recorded too.

The model runs under ``torch.func.vmap`` over trials. The vmap rule of an ``autograd.Function`` receives the physical
tensors ``[trials, batch, ...]``, computes the layer efficiently, and records its input and output, which K-FAC needs.
Outside vmap the same layers compute and record one trial.
Dropout draws each member's masks from that member's own generator, so that they equal those of the member trained
alone. The generator is on the device, so masks differ between the host and accelerators for the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sensitivity.kfac import layer_of, norms_of, projections_of
from sensitivity.kfac.attention import Rerouted, View
from sensitivity.kfac.products import Multiplied


@dataclass
class Tape:
    """Records inputs and outputs of calls, by layer and in order."""

    calls: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    recording: bool = False
    vmapped: bool = False
    generators: Sequence[torch.Generator] = ()
    """Generators of the members that are running: all under vmap, one otherwise."""

    def record(self, layer: str, inputs: Tensor, outputs: Tensor) -> None:
        """Record one call, if recording is on."""
        if self.recording:
            self.calls.setdefault(layer, []).append((inputs, outputs))


class _PackedCall(torch.autograd.Function):
    """A call of a layer, which is computed by the vmap rule only."""

    @staticmethod
    def forward(physical: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise RuntimeError("a packed layer is called outside of vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], physical: Callable[..., Tensor], *tensors: Tensor | None
    ) -> tuple[Tensor, int]:
        whole = [
            tensor if tensor is None else _trials_first(tensor, dim, info.batch_size)
            for tensor, dim in zip(tensors, in_dims[1:], strict=True)
        ]
        return physical(*whole), 0


def _trials_first(tensor: Tensor, dim: int | None, trials: int) -> Tensor:
    return tensor.expand(trials, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


_DROPOUTS: dict[type[nn.Module], int | None] = {nn.Dropout: None, nn.Dropout1d: 1, nn.Dropout2d: 2, nn.Dropout3d: 3}
"""Packed dropout layers, and the number of trailing dimensions of the channels that they drop, if any."""


def install(model: nn.Module, tape: Tape) -> None:
    """Replace the forward methods of dropout and of every layer that K-FAC supports by packed ones.

    Other layers are unchanged, including subclasses, whose forward pass may differ. Calls of modules that share a
    weight are recorded under the name that ``named_parameters`` gives the weight, which is the first module's.
    """
    names: dict[int, str] = {}
    _route_products(model, tape)
    norms = {norm.name for norm in norms_of(model)}
    for own_name, module in model.named_modules():
        name = names.setdefault(id(getattr(module, "weight", module)), own_name)
        if isinstance(module, (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)) and type(module) in _DROPOUTS:
            _route_dropout(module, tape)
        if name in norms:
            _record_norm(module, name, tape)
        if isinstance(module, nn.MultiheadAttention) and projections_of(name, module):
            _route_attention(module, name, tape)
        if layer_of(name, module) is not None:
            _route_layer(module, name, tape)


def _route_layer(module: nn.Module, name: str, tape: Tape) -> None:
    """Replace the forward method of a layer that K-FAC supports."""
    if isinstance(module, nn.Linear):
        _route(module, name, tape, functional.linear, packed_linear)
    elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
        _route(module, name, tape, module._conv_forward, packed_convolution(module))
    elif isinstance(module, nn.Conv3d):
        _route(module, name, tape, module._conv_forward, member_by_member(module._conv_forward))
    elif isinstance(module, nn.modules.conv._ConvTransposeNd):
        up = _transposed(module)
        _route(module, name, tape, up, member_by_member(up))
    elif isinstance(module, nn.Embedding):
        one = _embedding(module)
        _route(module, name, tape, one, member_by_member(one))
    elif isinstance(module, nn.EmbeddingBag):
        _route_bag(module, name, tape)


def _route(
    module: nn.Module, name: str, tape: Tape, alone: Callable[..., Tensor], packed: Callable[..., Tensor]
) -> None:
    def physical(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        outputs = packed(x, weight, bias)
        tape.record(name, x, outputs)
        return outputs

    def forward(x: Tensor) -> Tensor:
        # Looked up at each call, because functional_call replaces them by the pack's tensors.
        weight, bias = module.weight, getattr(module, "bias", None)
        if tape.vmapped:
            result: Tensor = _PackedCall.apply(physical, x, weight, bias)  # type: ignore[no-untyped-call]
            return result
        outputs = alone(x, weight, bias)
        tape.record(name, x, outputs)
        return outputs

    module.forward = forward


def _route_bag(module: nn.EmbeddingBag, name: str, tape: Tape) -> None:
    """Record the rows that a bag sums or averages as those of an embedding; unchanged unless recording."""
    plain, one = module.forward, _embedding(module)
    _route(module, name, tape, one, member_by_member(one))
    looked_up = module.forward

    def forward(x: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        if not tape.recording or x.dim() != 2 or offsets is not None:
            return plain(x, offsets, per_sample_weights)
        shares = torch.ones_like(x, dtype=module.weight.dtype) if per_sample_weights is None else per_sample_weights
        if module.padding_idx is not None:
            shares = shares * (x != module.padding_idx)
        if module.mode == "mean":
            shares = shares / shares.sum(1, keepdim=True).clamp_min(1)
        return (looked_up(x) * shares.unsqueeze(-1)).sum(1)

    module.forward = forward  # type: ignore[method-assign, assignment]


def _record_norm(module: nn.Module, name: str, tape: Tape) -> None:
    """Record a normalisation layer's calls without changing its computation."""
    plain = module.forward

    def recorded(x: Tensor, outputs: Tensor, _: Tensor | None) -> Tensor:
        tape.record(name, x, outputs)
        return outputs

    def forward(x: Tensor) -> Tensor:
        outputs: Tensor = plain(x)
        if not tape.recording:
            return outputs
        if not tape.vmapped:
            return recorded(x, outputs, None)
        result: Tensor = _PackedCall.apply(recorded, x, outputs, None)  # type: ignore[no-untyped-call]
        return result

    module.forward = forward


def _route_attention(module: nn.MultiheadAttention, name: str, tape: Tape) -> None:
    """Record the projections of an attention layer; the parts of a joint projection are recorded separately."""
    plain = module.forward

    def project(names: tuple[str, ...], x: Tensor, weight: Tensor, bias: Tensor | None, view: View) -> Tensor:
        given, parts = view(x), []
        biases = [None] * len(names) if bias is None else bias.chunk(len(names))
        for each, w, b in zip(names, weight.chunk(len(names)), biases, strict=True):
            parts.append(_linear_call(f"{name}.{each}" if name else each, tape, given, w, b))
        outputs = torch.cat(parts, -1).transpose(0, 1)
        return outputs.flatten(0, 1) if x.dim() == 2 else outputs.contiguous()

    def forward(*args: Any, **kwargs: Any) -> Any:
        with Rerouted(project):
            return plain(*args, **kwargs)

    module.forward = forward  # type: ignore[method-assign]


def _route_products(model: nn.Module, tape: Tape) -> None:
    """Record products of functions with embedding weights, unless a linear layer shares the weight."""
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    tables = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and layer_of(name, module) is not None and id(module.weight) not in linear
    }
    plain = model.forward

    def multiply(name: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _linear_call(name, tape, x, weight, bias)

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not tape.recording:
            return plain(*args, **kwargs)
        with Multiplied(lambda: {name: module.weight for name, module in tables.items()}, multiply):
            return plain(*args, **kwargs)

    if tables:
        model.forward = forward


def _linear_call(label: str, tape: Tape, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute and record a linear layer."""

    def physical(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        outputs = packed_linear(x, weight, bias)
        tape.record(label, x, outputs)
        return outputs

    if tape.vmapped:
        result: Tensor = _PackedCall.apply(physical, x, weight, bias)  # type: ignore[no-untyped-call]
        return result
    outputs = functional.linear(x, weight, bias)
    tape.record(label, x, outputs)
    return outputs


def _route_dropout(module: nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d, tape: Tape) -> None:
    channels, plain = _DROPOUTS[type(module)], module.forward

    def masked(x: Tensor) -> Tensor:
        return packed_dropout(x, module.p, tape.generators, channels=channels)

    def forward(x: Tensor) -> Tensor:
        if channels is not None and x.dim() != channels + 2:
            return plain(x)  # torch handles such shapes differently
        if not module.training or module.p == 0:
            return x
        if tape.vmapped:
            outputs: Tensor = _PackedCall.apply(lambda x, *_: masked(x), x, None, None)  # type: ignore[no-untyped-call]
            return outputs
        return masked(x[None])[0]

    module.forward = forward  # type: ignore[method-assign, assignment]


def packed_dropout(
    x: Tensor, rate: float, generators: Sequence[torch.Generator], *, channels: int | None = None
) -> Tensor:
    """Apply dropout to ``[trials, batch, ...]`` with one generator per trial.

    `channels` is the number of trailing dimensions of a channel, to drop whole channels; None drops elements.
    """
    kept = x.shape[1:] if channels is None else (*x.shape[1 : x.dim() - channels], *(1,) * channels)
    mask = x.new_empty(len(x), *kept)
    for row, generator in zip(mask, generators, strict=True):
        row.bernoulli_(1 - rate, generator=generator)
    return x * mask.div_(1 - rate) if rate < 1 else torch.zeros_like(x)


class _PackedLinear(torch.autograd.Function):
    """``baddbmm`` with contiguous gradients in the layout of the weights.

    Autograd's rule returns the gradient of the transposed weights; adding that to a momentum buffer takes three
    times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):  # here, so that the backward pass uses the same precision
            kind = torch.get_autocast_dtype(x.device.type)
            x, weight, bias = x.to(kind), weight.to(kind), None if bias is None else bias.to(kind)
        ctx.save_for_backward(x, weight)
        columns = weight.transpose(1, 2)
        return torch.bmm(x, columns) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, columns)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        by_x, by_weight, by_bias = ctx.needs_input_grad
        return (
            torch.bmm(gradient, weight) if by_x else None,
            torch.bmm(gradient.transpose(1, 2), x) if by_weight else None,
            gradient.sum(1) if by_bias else None,
        )


def packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply ``[trials, out, in]`` weights to ``[trials, batch, ..., in]``: ``[trials, batch, ..., out]``."""
    outputs: Tensor = _PackedLinear.apply(x.flatten(1, -2), weight, bias)  # type: ignore[no-untyped-call]
    return outputs.view(*x.shape[:-1], weight.shape[1])


def member_by_member(one: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the packed form of a layer that is computed member by member."""

    def packed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # Unbound, because the gradient of indexing has the size of the whole pack for each member.
        biases = [None] * len(x) if bias is None else bias.unbind()
        return torch.stack([one(*member) for member in zip(x.unbind(), weight.unbind(), biases, strict=True)])

    return packed


def _embedding(module: nn.Embedding | nn.EmbeddingBag) -> Callable[..., Tensor]:
    return lambda x, weight, _: functional.embedding(x, weight, module.padding_idx)


def _transposed(module: nn.modules.conv._ConvTransposeNd) -> Callable[..., Tensor]:
    convolve = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
    one: Callable[..., Tensor] = convolve[len(module.kernel_size) - 1]

    def compute(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        added, groups = module.output_padding, module.groups
        return one(x, weight, bias, module.stride, module.padding, added, groups, module.dilation)

    return compute


_FILLS = 2**15
"""Number of outputs per channel, over a member's examples, that saturates an accelerator: in tiles of 128, two for each
multiprocessor. This is an estimate; benchmarks/accelerator.py measures below and above it."""


def packed_convolution(module: nn.Conv1d | nn.Conv2d) -> Callable[..., Tensor]:
    """Return a convolution of the whole pack, as a grouped convolution with one group per member.

    If a single member saturates the device, members are computed one after the other instead, because library kernels
    for grouped convolutions are slower than plain ones.
    """
    looped = member_by_member(module._conv_forward)
    grouped = functional.conv1d if isinstance(module, nn.Conv1d) else functional.conv2d

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        fills = x.shape[1] * x.shape[3:].numel() >= _FILLS * math.prod(module.stride)
        if module.padding_mode != "zeros" or fills:
            return looped(x, weight, bias)
        trials = len(x)
        outputs = grouped(
            x.transpose(0, 1).flatten(1, 2),
            weight.flatten(0, 1),
            None if bias is None else bias.flatten(),
            module.stride,
            module.padding,
            module.dilation,
            trials * module.groups,
        )
        return outputs.view(outputs.shape[0], trials, -1, *outputs.shape[2:]).transpose(0, 1)

    return convolve


def loop_reason(model: nn.Module) -> str | None:
    """Return why a pack of this model must run member by member; None if its layers can run together."""
    convolves = any(isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) for module in model.modules())
    if convolves and next(model.parameters()).device.type == "cpu":
        # Measured: a loop is as fast as any joint form for small images, and 25% faster than vmap for large ones.
        return "convolutions on a CPU gain nothing from being computed together"
    if any(isinstance(module, nn.Embedding) and module.max_norm is not None for module in model.modules()):
        return "the model renormalises an embedding in its forward pass"
    return None
