"""Models with a custom forward method over known layers, computed for the whole pack without ``vmap``.

Such a model has a method ``forward_with(x, layer)``, which is its forward pass with any leading dimensions and gets its
layers by name from `layer` (`Composed`). Each layer has two forms: one for the whole pack, on ``[trials, batch, ...]``,
and one for a single member with its own parameters. `Layers.runs_separately` chooses between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from sensitivity.training.packed_layers import Tape, packed_dropout, packed_linear

_SEPARATE_FROM = 2**16
"""Size of a member's activations, tokens times width, from which members are computed one by one on the host.
Measured: packing gains up to a factor of five for small sizes and nothing above (benchmarks/results/text_packs.md)."""

Tensors = Mapping[str, Tensor]
Form = Callable[[Tensor, Tensors], Tensor]
"""Maps a layer's input and all parameters to its output, either for the whole pack or for one member."""


@runtime_checkable
class Composed(Protocol):
    """A model whose forward pass can use other implementations of its layers."""

    width: int
    """Number of features per token between layers."""

    def forward_with(self, x: Tensor, layer: Callable[[str], Callable[[Tensor], Tensor]]) -> Tensor:
        """Return the outputs, computed with the layers returned by `layer` for their names."""


@dataclass(frozen=True)
class _Forms:
    whole: Form
    """Computes on ``[trials, batch, ...]``."""
    single: Form
    """Computes on ``[batch, ...]``."""


class Layers:
    """The layers of a composed model, in both forms."""

    def __init__(self, model: Composed, forms: Mapping[str, _Forms]) -> None:
        self._model, self._forms = model, forms

    def runs_separately(self, x: Tensor) -> bool:
        """Whether to compute members one by one, given input tokens ``[trials, batch, time]``."""
        return len(x) == 1 or (x.device.type == "cpu" and x[0].numel() * self._model.width >= _SEPARATE_FROM)

    def whole(self, x: Tensor, tensors: Tensors) -> Tensor:
        """Return the outputs of the whole pack ``[trials, batch, ...]``."""
        return self._model.forward_with(x, lambda name: lambda each: self._forms[name].whole(each, tensors))

    def single(self, x: Tensor, tensors: Tensors) -> Tensor:
        """Return the outputs ``[batch, ...]`` of one member with its own parameters."""
        return self._model.forward_with(x, lambda name: lambda each: self._forms[name].single(each, tensors))


def layers_of(model: nn.Module, tape: Tape) -> Layers | None:
    """Return the layers of a composed model, which record their calls on `tape`; None for other models.

    A model with unknown layers, hooks or buffers uses its own code instead.
    """
    if not isinstance(model, Composed) or any(True for _ in model.buffers()):
        return None
    owners: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), name)
    forms = {}
    for name, module in model.named_modules():
        if name and not any(True for _ in module.children()):
            found = _forms(name, module, tape, owners)
            if found is None:
                return None
            forms[name] = found
    return Layers(model, forms)


def _forms(name: str, module: nn.Module, tape: Tape, owners: Mapping[int, str]) -> _Forms | None:
    if isinstance(module, nn.Sequential):  # an empty one
        return _Forms(lambda x, _: x, lambda x, _: x)
    if isinstance(module, nn.Dropout) and type(module) is nn.Dropout and not module.inplace:
        return _dropout(module, tape)
    if type(module) not in (nn.Linear, nn.Embedding, nn.LayerNorm):
        return None
    weight, bias = (None if p is None else owners[id(p)] for p in (module.weight, getattr(module, "bias", None)))
    if weight is None:
        return None
    label = weight.rpartition(".")[0]  # modules that share a weight are recorded under the first one's name

    def form(compute: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> Form:
        def run(x: Tensor, tensors: Tensors) -> Tensor:
            outputs = compute(x, tensors[weight], None if bias is None else tensors[bias])
            tape.record(label, x, outputs)
            return outputs

        return run

    if isinstance(module, nn.Linear):
        return _Forms(form(packed_linear), form(functional.linear))
    if isinstance(module, nn.Embedding) and module.max_norm is None and module.padding_idx is None:
        return _Forms(form(_embedded), form(lambda x, weight, _: functional.embedding(x, weight)))
    if isinstance(module, nn.LayerNorm) and bias is not None:
        shape, eps = module.normalized_shape, module.eps
        return _Forms(
            form(lambda x, weight, bias: _normalised(x, weight, bias, shape, eps)),
            form(lambda x, weight, bias: functional.layer_norm(x, shape, weight, bias, eps)),
        )
    return None


def _dropout(module: nn.Dropout, tape: Tape) -> _Forms:
    def whole(x: Tensor, _: Tensors) -> Tensor:
        return packed_dropout(x, module.p, tape.generators) if module.training and module.p else x

    return _Forms(whole, lambda x, tensors: whole(x[None], tensors)[0])


def _embedded(ids: Tensor, weight: Tensor, _: Tensor | None) -> Tensor:
    """Look up ids ``[trials, batch, time]`` in one table that contains all members' rows."""
    trials, rows = weight.shape[:2]
    offsets = torch.arange(0, trials * rows, rows, device=ids.device).view(-1, *(1,) * (ids.dim() - 1))
    return functional.embedding(ids + offsets, weight.flatten(0, 1))


def _normalised(x: Tensor, weight: Tensor, bias: Tensor | None, shape: tuple[int, ...], eps: float) -> Tensor:
    """Normalise ``[trials, ..., features]`` and apply each member's scale and shift."""
    assert bias is not None
    own = (len(weight), *(1,) * (x.dim() - weight.dim()), *weight.shape[1:])
    return torch.addcmul(bias.view(own), functional.layer_norm(x, shape, None, None, eps), weight.view(own))
