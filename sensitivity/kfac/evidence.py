"""Whether the recorded statistics are those of the gradients of a step."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sensitivity.kfac.config import KFACConfig, is_due
from sensitivity.kfac.passes import PassLedger, gradient_of, unexplained_message
from sensitivity.kfac.recorder import Recorder
from sensitivity.kfac.state import KFACState


def check_statistics(
    recorder: Recorder,
    ledger: PassLedger,
    named: Mapping[str, Tensor],
    state: KFACState,
    config: KFACConfig,
    scaler: torch.amp.GradScaler | None,
) -> None:
    """Raise RuntimeError unless the statistics are those of the gradients of these parameters."""
    if all(gradient_of(p) is None for p in named.values()):
        return
    recorder.discard_cleared()
    _require_statistics(recorder, named, state, config)
    if config.fisher != "empirical" or not _may_read_gradients(state, config):
        return
    message = unexplained_message(ledger.differences())
    if message is not None:
        raise RuntimeError(message)
    scale = 1.0 if scaler is not None else ledger.rescaled()
    if scale is None:
        raise RuntimeError(
            "Gradients were multiplied by less than 1/1024 between loss.backward() and step(). If a GradScaler "
            "is in use, pass KFAC(..., scaler=scaler), whose scale K-FAC's statistics need; if gradients are only "
            "clipped, pass scaler=torch.amp.GradScaler(enabled=False)."
        )
    recorder.unscaled, ledger.scaled = scale, scale != 1.0


def _require_statistics(recorder: Recorder, named: Mapping[str, Tensor], state: KFACState, config: KFACConfig) -> None:
    recorder.observations.require_all_reached()
    missing = set(recorder.missing)
    sampled = config.fisher != "empirical"
    cause = "optimizer.observe(outputs) before loss.backward()" if sampled else "the module itself"
    also = " (activation checkpoints need use_reentrant=False then)" if sampled else ""
    for placement in state.layout.placements if missing else ():
        layer = placement.layer
        grad = gradient_of(named[layer.weight])
        if layer.name in missing and grad is not None and bool(grad.any()):
            raise RuntimeError(f"Layer {layer.name!r} has a gradient but no statistics. Call {cause}{also}.")


def _may_read_gradients(state: KFACState, config: KFACConfig) -> bool:
    """Whether the gradients may be read on the host: on an accelerator, only on steps that synchronize anyway."""
    return state.momentum.device.type == "cpu" or is_due(config.inverse_interval, state.steps)
