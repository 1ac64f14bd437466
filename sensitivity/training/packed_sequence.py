"""A plain sequence of layers, computed for the whole pack without ``vmap``.

What ``vmap`` and ``functional_call`` spend around a small network is more than the network itself costs. An
``nn.Sequential`` of layers whose packed form is known needs neither: ``[trials, batch, ...]`` goes from layer to layer.
A pack of one takes the same way, at the price of a bare forward pass: its parameters have no dimension of trials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor, nn
from torch.nn import functional

from sensitivity.training.packed_layers import Tape, each_alone, packed_convolution, packed_dropout, packed_linear

_ELEMENTWISE: tuple[type[nn.Module], ...] = (
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.LogSigmoid),
)
_POOLS: tuple[type[nn.Module], ...] = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)

Step = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""From a layer's input ``[trials, batch, ...]`` and all parameters ``[trials, ...]`` to its output."""


def sequence_of(model: nn.Module, tape: Tape) -> tuple[Step, ...] | None:
    """Return the steps of a model that is such a sequence, which note the layers' calls on `tape`; None if it is not.

    Subclasses count as unknown, and so do hooks, inplace layers, shared parameters and other inputs than batches:
    what they do is left to the model's own code.
    """
    named = list(model.named_parameters(remove_duplicate=False))
    shared = len(named) != len(list(model.parameters()))
    if type(model) is not nn.Sequential or shared or any(True for _ in model.buffers()):
        return None
    steps = []
    for name, module in _leaves(model, ""):
        step = None if _altered(module) else _step(name, module, tape)
        if step is None:
            return None
        steps.append(step)
    return tuple(steps)


def _leaves(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield a sequence's layers in their order, those of sequences within it in its place."""
    if type(module) is nn.Sequential and not _altered(module):
        for own, child in module._modules.items():
            assert child is not None
            yield from _leaves(child, f"{name}.{own}" if name else own)
    else:
        yield name, module


def _altered(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)


def _step(name: str, module: nn.Module, tape: Tape) -> Step | None:
    kind = type(module)
    if kind in _ELEMENTWISE and not getattr(module, "inplace", False):
        return lambda x, _: module.forward(x)
    if isinstance(module, nn.Flatten) and kind is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return lambda x, _: x.flatten(2)
    if kind in _POOLS and not getattr(module, "return_indices", False):
        return lambda x, _: module(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    if isinstance(module, nn.Dropout) and kind is nn.Dropout and not module.inplace:
        return lambda x, _: packed_dropout(x, module.p, tape.generators) if module.training and module.p else x
    if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) and kind in (nn.Linear, nn.Conv1d, nn.Conv2d):
        return _layer(name, module, tape) if set(module._parameters) == {"weight", "bias"} else None
    return None


def _layer(name: str, module: nn.Linear | nn.Conv1d | nn.Conv2d, tape: Tape) -> Step:
    weight_name, bias_name = f"{name}.weight", None if module.bias is None else f"{name}.bias"
    if isinstance(module, nn.Linear):
        alone: Callable[..., Tensor] = functional.linear
        packed: Callable[..., Tensor] = packed_linear
    else:
        convolve, packed = module._conv_forward, packed_convolution(module)
        if module.weight.device.type == "cpu":  # measured: there one by one is as fast as any joint form
            packed = each_alone(convolve)

        def alone(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            outputs: Tensor = convolve(x.squeeze(0), weight, bias).unsqueeze(0)
            return outputs

    def step(x: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        weight, bias = tensors[weight_name], None if bias_name is None else tensors[bias_name]
        outputs = alone(x, weight, bias) if len(x) == 1 else packed(x, weight, bias)
        tape.note(name, x, outputs)
        return outputs

    return step


def run_sequence(steps: tuple[Step, ...], x: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the outputs ``[trials, batch, ...]`` of the networks with these parameters.

    Those of a single network are without the dimension of trials.
    """
    for step in steps:
        x = step(x, tensors)
    return x
