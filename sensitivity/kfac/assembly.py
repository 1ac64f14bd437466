"""Construction of the parts of `KFAC` from the current state of a model: optimizer state, pass ledger and hooks."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed import ProcessGroup

from sensitivity.kfac.config import KFACConfig
from sensitivity.kfac.coverage import attentions_of, comparable, uncovered_modules
from sensitivity.kfac.diagonal import norms_of
from sensitivity.kfac.layers import layers_of
from sensitivity.kfac.passes import PassLedger
from sensitivity.kfac.recorder import Recorder
from sensitivity.kfac.state import KFACState, init_state


@dataclass(frozen=True, eq=False)
class Assembly:
    """The parts of an optimizer.

    named: trained parameters by name, in the order of the layout. untrained: frozen parameters with their names.
    uncovered: descriptions of the modules that K-FAC does not cover.
    """

    named: dict[str, nn.Parameter]
    untrained: list[tuple[str, nn.Parameter]]
    state: KFACState
    ledger: PassLedger
    recorder: Recorder
    uncovered: tuple[str, ...]


def assemble(
    model: nn.Module,
    config: KFACConfig,
    *,
    exclude: Collection[str],
    group: ProcessGroup | None,
    scaler: torch.amp.GradScaler | None,
) -> Assembly:
    """Build the parts for the parameters of `model` that require gradients.

    Raises ValueError if K-FAC covers no layer.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    layers = layers_of(model, exclude)
    state = init_state(layers, {name: p.detach() for name, p in named.items()}, config, norms_of(model))
    by_weight = {id(named[layer.weight]): layer.name for layer in layers}
    modules: dict[str, list[nn.Module]] = {layer.name: [] for layer in layers}
    for module in model.modules():
        if id(getattr(module, "weight", None)) in by_weight:
            modules[by_weight[id(module.weight)]].append(module)
    norms = {norm: model.get_submodule(norm.name) for norm in state.norms}
    ledger = PassLedger(
        {layer.name: (named[layer.weight], layer if comparable(modules[layer.name]) else None) for layer in layers}
        | {norm.name: (named[norm.weight], None) for norm in norms}
    )
    recorder = Recorder(
        model, modules, attentions_of(model, layers), norms, state, config, group=group, scaler=scaler, ledger=ledger
    )
    return Assembly(
        named={name: named[name] for name in state.layout.names},
        untrained=[(name, p) for name, p in model.named_parameters() if name not in named],
        state=state,
        ledger=ledger,
        recorder=recorder,
        uncovered=uncovered_modules(model, layers, exclude),
    )
