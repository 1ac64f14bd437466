"""Linear, convolutional and embedding layers that see the whole pack, in a model that is written for one trial.

The model runs under ``torch.func.vmap`` over trials. An ``autograd.Function`` with a rule for vmap is
handed the physical tensors ``[trials, batch, ...]``, computes them as fast as the device allows, and notes the
layer's input and output, which K-FAC needs. Outside of vmap the same layers compute and note one trial.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sensitivity.kfac import layer_of


@dataclass
class Tape:
    """Inputs and outputs of each layer's calls, by layer, in the order of the calls."""

    calls: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    recording: bool = False
    vmapped: bool = False

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


def install(model: nn.Module, tape: Tape) -> None:
    """Route the calls of every layer that K-FAC knows through here: linear, convolutional, plain embedding layers.

    Others are left alone, subclasses too: their forward pass may compute something else. Calls of modules that hold
    the same weight are noted under the first one's name, as ``named_parameters`` names the weight.
    """
    names: dict[int, str] = {}
    for own_name, module in model.named_modules():
        name = names.setdefault(id(getattr(module, "weight", module)), own_name)
        if layer_of(name, module) is None:
            continue
        if isinstance(module, nn.Linear):
            _route(module, name, tape, functional.linear, packed_linear)
        elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
            _route(module, name, tape, module._conv_forward, _packed_convolution(module))
        elif isinstance(module, nn.Embedding):
            one = _embedding(module)
            _route(module, name, tape, one, _loop(one))


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


def packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply ``[trials, out, in]`` weights to ``[trials, batch, ..., in]``: ``[trials, batch, ..., out]``."""
    flat = x.flatten(1, -2)
    if bias is None:
        outputs = torch.bmm(flat, weight.transpose(1, 2))
    else:
        outputs = torch.baddbmm(bias.unsqueeze(1), flat, weight.transpose(1, 2))
    return outputs.view(*x.shape[:-1], weight.shape[1])


def _loop(one: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def packed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        members = (one(x[k], weight[k], None if bias is None else bias[k]) for k in range(len(x)))
        return torch.stack(list(members))

    return packed


def _embedding(module: nn.Embedding) -> Callable[..., Tensor]:
    return lambda x, weight, _: functional.embedding(x, weight, module.padding_idx)


def _packed_convolution(module: nn.Conv1d | nn.Conv2d) -> Callable[..., Tensor]:
    looped = _loop(module._conv_forward)
    grouped = functional.conv1d if isinstance(module, nn.Conv1d) else functional.conv2d

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.device.type == "cpu" or module.padding_mode != "zeros":
            return looped(x, weight, bias)  # on a CPU as fast as any grouped form (DESIGN.md)
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
