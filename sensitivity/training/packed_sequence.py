"""A plain sequence of layers, computed for the whole pack without ``vmap``.

For small networks the overhead of ``vmap`` and ``functional_call`` exceeds the cost of the network. An
``nn.Sequential`` of layers with a known packed form needs neither: ``[trials, batch, ...]`` is passed from layer to
layer. A pack of one is computed the same way at the cost of a plain forward pass; its parameters have no trials
dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor, nn
from torch.nn import functional

from sensitivity.training.packed_layers import Tape, member_by_member, packed_convolution, packed_dropout, packed_linear

_ELEMENTWISE: tuple[type[nn.Module], ...] = (
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.LogSigmoid),
)
_POOLS: tuple[type[nn.Module], ...] = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)

Step = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""Maps a layer's input ``[trials, batch, ...]`` and all parameters ``[trials, ...]`` to its output."""


def sequence_of(model: nn.Module, tape: Tape) -> tuple[Step, ...] | None:
    """Return the steps of a model that is such a sequence, which record calls on `tape`; None for other models.

    Models with subclasses, hooks, in-place layers, shared parameters, or inputs other than batches use their own code
    instead.
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
    """Yield the layers of a sequence in order, including those of nested sequences."""
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
        single: Callable[..., Tensor] = functional.linear
        packed: Callable[..., Tensor] = packed_linear
    else:
        convolve, packed = module._conv_forward, packed_convolution(module)
        if module.weight.device.type == "cpu":  # measured: a loop over members is as fast as any joint form
            packed = member_by_member(convolve)

        def single(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            outputs: Tensor = convolve(x.squeeze(0), weight, bias).unsqueeze(0)
            return outputs

    def step(x: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        weight, bias = tensors[weight_name], None if bias_name is None else tensors[bias_name]
        outputs = single(x, weight, bias) if len(x) == 1 else packed(x, weight, bias)
        tape.record(name, x, outputs)
        return outputs

    return step


def run_sequence(steps: tuple[Step, ...], x: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the outputs ``[trials, batch, ...]`` of the networks with these parameters.

    For a pack of one, parameters have no trials dimension.
    """
    for step in steps:
        x = step(x, tensors)
    return x
