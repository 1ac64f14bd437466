"""Layers that see the whole pack, in a model that is written for one trial: linear, convolutional, embedding, dropout.

The calls of normalisation layers are noted too.

The model runs under ``torch.func.vmap`` over trials. An ``autograd.Function`` with a rule for vmap is
handed the physical tensors ``[trials, batch, ...]``, computes them as fast as the device allows, and notes the
layer's input and output, which K-FAC needs. Outside of vmap the same layers compute and note one trial.
Dropout draws each member's masks from that member's own generator, so that they are those of the member alone. The
generator is the device's: from one seed an accelerator draws other masks than the host, and masks are the same among
runs on one kind of device only.
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
    """Inputs and outputs of each layer's calls, by layer, in the order of the calls."""

    calls: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    recording: bool = False
    vmapped: bool = False
    generators: Sequence[torch.Generator] = ()
    """Of the members that run now: all of them under vmap, one otherwise."""

    def note(self, layer: str, inputs: Tensor, outputs: Tensor) -> None:
        """Keep one call, if recording."""
        if self.recording:
            self.calls.setdefault(layer, []).append((inputs, outputs))


class _PackedCall(torch.autograd.Function):
    """A layer's call; only its vmap rule ever computes."""

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
"""Dropout layers that are packed, and over how many last dimensions they drop whole channels."""


def install(model: nn.Module, tape: Tape) -> None:
    """Route the calls of dropout, and of every layer that K-FAC knows (linear, convolutional, plain embedding), here.

    Others are left alone, subclasses too: their forward pass may compute something else. Calls of modules that hold
    the same weight are noted under the first one's name, as ``named_parameters`` names the weight.
    """
    names: dict[int, str] = {}
    _route_products(model, tape)
    norms = {norm.name for norm in norms_of(model)}
    for own_name, module in model.named_modules():
        name = names.setdefault(id(getattr(module, "weight", module)), own_name)
        if isinstance(module, (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)) and type(module) in _DROPOUTS:
            _route_dropout(module, tape)
        if name in norms:
            _note_norm(module, name, tape)
        if isinstance(module, nn.MultiheadAttention) and projections_of(name, module):
            _route_attention(module, name, tape)
        if layer_of(name, module) is not None:
            _route_layer(module, name, tape)


def _route_layer(module: nn.Module, name: str, tape: Tape) -> None:
    """Route the calls of a layer that K-FAC knows."""
    if isinstance(module, nn.Linear):
        _route(module, name, tape, functional.linear, packed_linear)
    elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
        _route(module, name, tape, module._conv_forward, packed_convolution(module))
    elif isinstance(module, nn.Conv3d):
        _route(module, name, tape, module._conv_forward, each_alone(module._conv_forward))
    elif isinstance(module, nn.modules.conv._ConvTransposeNd):
        up = _transposed(module)
        _route(module, name, tape, up, each_alone(up))
    elif isinstance(module, nn.Embedding):
        one = _embedding(module)
        _route(module, name, tape, one, each_alone(one))
    elif isinstance(module, nn.EmbeddingBag):
        _route_bag(module, name, tape)


def _route(
    module: nn.Module, name: str, tape: Tape, alone: Callable[..., Tensor], packed: Callable[..., Tensor]
) -> None:
    def physical(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        outputs = packed(x, weight, bias)
        tape.note(name, x, outputs)
        return outputs

    def forward(x: Tensor) -> Tensor:
        # Looked up at each call: functional_call puts the pack's tensors there for the call.
        weight, bias = module.weight, getattr(module, "bias", None)
        if tape.vmapped:
            result: Tensor = _PackedCall.apply(physical, x, weight, bias)  # type: ignore[no-untyped-call]
            return result
        outputs = alone(x, weight, bias)
        tape.note(name, x, outputs)
        return outputs

    module.forward = forward


def _route_bag(module: nn.EmbeddingBag, name: str, tape: Tape) -> None:
    """Note the rows that a bag sums, or averages, as those of an embedding; it computes as it did if nobody looks."""
    plain, one = module.forward, _embedding(module)
    _route(module, name, tape, one, each_alone(one))
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


def _note_norm(module: nn.Module, name: str, tape: Tape) -> None:
    """Note a normalisation layer's calls; it computes as it does in the model."""
    plain = module.forward

    def noted(x: Tensor, outputs: Tensor, _: Tensor | None) -> Tensor:
        tape.note(name, x, outputs)
        return outputs

    def forward(x: Tensor) -> Tensor:
        outputs: Tensor = plain(x)
        if not tape.recording:
            return outputs
        if not tape.vmapped:
            return noted(x, outputs, None)
        result: Tensor = _PackedCall.apply(noted, x, outputs, None)  # type: ignore[no-untyped-call]
        return result

    module.forward = forward


def _route_attention(module: nn.MultiheadAttention, name: str, tape: Tape) -> None:
    """Note the projections that an attention computes, each part of a joint one apart."""
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
    """Note the products that functions form with the weights of embeddings, where these aren't a linear layer's too."""
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
    """Compute and note what a linear layer does."""

    def physical(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        outputs = packed_linear(x, weight, bias)
        tape.note(label, x, outputs)
        return outputs

    if tape.vmapped:
        result: Tensor = _PackedCall.apply(physical, x, weight, bias)  # type: ignore[no-untyped-call]
        return result
    outputs = functional.linear(x, weight, bias)
    tape.note(label, x, outputs)
    return outputs


def _route_dropout(module: nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d, tape: Tape) -> None:
    channels, plain = _DROPOUTS[type(module)], module.forward

    def masked(x: Tensor) -> Tensor:
        return packed_dropout(x, module.p, tape.generators, channels=channels)

    def forward(x: Tensor) -> Tensor:
        if channels is not None and x.dim() != channels + 2:
            return plain(x)  # torch has rules of its own for such shapes
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
    """Drop from ``[trials, batch, ...]``, a generator a trial; whole channels if told over how many last dimensions."""
    kept = x.shape[1:] if channels is None else (*x.shape[1 : x.dim() - channels], *(1,) * channels)
    mask = x.new_empty(len(x), *kept)
    for row, generator in zip(mask, generators, strict=True):
        row.bernoulli_(1 - rate, generator=generator)
    return x * mask.div_(1 - rate) if rate < 1 else torch.zeros_like(x)


class _PackedLinear(torch.autograd.Function):
    """``baddbmm`` whose gradients come out contiguous, in the layout of the weights.

    Autograd's own rule gives the gradient of the transposed weights; adding it to a velocity cost three times as much.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):  # here, so that the backward pass has what the forward pass had
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


def each_alone(one: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the packed form of a layer that computes member by member."""

    def packed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # Unbound: the gradient of an index is as large as the whole pack, and there would be one a member.
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
"""Outputs of a channel, over a member's examples, that keep an accelerator busy: in tiles of 128, two for each of its
multiprocessors. An estimate: benchmarks/accelerator.py measures on both sides of it."""


def packed_convolution(module: nn.Conv1d | nn.Conv2d) -> Callable[..., Tensor]:
    """Return a convolution of the whole pack: one of as many groups as there are members.

    Where a member fills the device by itself, members come one after the other, since a library's kernels for grouped
    convolutions are slower than those for plain ones.
    """
    looped = each_alone(module._conv_forward)
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
    """Return why a model of the pack must run member by member; None where its layers can run together."""
    convolves = any(isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) for module in model.modules())
    if convolves and next(model.parameters()).device.type == "cpu":
        # Measured: a loop is as fast as any joint form for small images, and a quarter faster than vmap for large ones.
        return "convolutions on a CPU gain nothing from being computed together"
    if any(isinstance(module, nn.Embedding) and module.max_norm is not None for module in model.modules()):
        return "the model renormalises an embedding in its forward pass"
    return None
