"""K-FAC for PyTorch: an optimizer for one model, and the same computation for packs of models.

For one model:

    from sensitivity.kfac import KFAC, KFACConfig
    optimizer = KFAC(model, KFACConfig(lr=0.1, damping=1e-2))
    loss.backward(); optimizer.step()

For a pack, whose tensors all carry leading dimensions ([trials]), there is no hook and no module:

    layers = layers_of(model)                            # frozen descriptions, by qualified name state =
    init_state(layers, params, config)           # params: {name: [trials, *parameter shape]}, all of the model's
    captures = {layer.name: [Capture(inputs, output_grads)]} if needs_statistics(config, state.steps) else None report =
    step(config, state, params, grads, captures, Hyperparameters(lr=..., damping=...))   # in place on params and state
    state = select(state, survivors)                     # survivors: indices of members to keep

`report.failed` [trials] marks members that were not updated. Captured inputs are [trials, N, ..., features] (Linear),
[trials, N, C, *spatial] (Conv1d, Conv2d) or [trials, N, ...] indices (Embedding), with output gradients of the loss
summed over trials and reduced over examples. The room imports torch alone.
"""

from sensitivity.kfac.config import Hyperparameters, KFACConfig, LevenbergMarquardt, needs_statistics
from sensitivity.kfac.engine import StepReport, step
from sensitivity.kfac.factors import Capture
from sensitivity.kfac.fisher import pseudo_losses
from sensitivity.kfac.flops import StepFlops, step_flops
from sensitivity.kfac.layers import Geometry, Layer, layer_of, layers_of
from sensitivity.kfac.optimizer import KFAC, RunReport
from sensitivity.kfac.precondition import SolveFailure
from sensitivity.kfac.state import KFACState, init_state, select
from sensitivity.kfac.statistics import Statistics, statistics_of

__all__ = [
    "KFAC",
    "Capture",
    "Geometry",
    "Hyperparameters",
    "KFACConfig",
    "KFACState",
    "Layer",
    "LevenbergMarquardt",
    "RunReport",
    "SolveFailure",
    "Statistics",
    "StepFlops",
    "StepReport",
    "init_state",
    "layer_of",
    "layers_of",
    "needs_statistics",
    "pseudo_losses",
    "select",
    "statistics_of",
    "step",
    "step_flops",
]
