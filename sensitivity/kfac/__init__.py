"""K-FAC for PyTorch: an optimizer for one model, and the same computation for packs of models.

For one model:

    from sensitivity.kfac import KFAC, KFACConfig
    optimizer = KFAC(model, KFACConfig(lr=0.01, damping=0.03))
    loss.backward(); optimizer.step()
    optimizer.report()                                   # coverage, failed steps, share of clipped steps

For a pack, whose tensors all carry leading dimensions ([trials]), there is no hook and no module:

    layers = layers_of(model)                            # frozen descriptions, by qualified name
    state = init_state(layers, params, config)           # params: {name: [trials, *shape]}, all of the model's
    due = needs_statistics(config, state.steps)
    captures = {layer.name: [Capture(inputs, output_grads)]} if due else None      # one capture per call
    report = step(config, state, params, grads, captures, Hyperparameters(lr=..., damping=...))
    state = select(state, survivors)                     # survivors: indices of members to keep

`step` updates params and state in place; the engine owns the tensors of the state. Captured inputs are [trials, N, ...,
features] (Linear), [trials, N, C, *spatial] (Conv1d, Conv2d) or [trials, N, ...] indices (Embedding). Captured output
gradients are those of the loss summed over trials and reduced over examples as `config.reduction` says; `loss_scale`
overrides the factor that converts them to gradients of one loss term. Hyperparameters are floats or tensors of shape []
or [trials].

`report.failed` [trials] marks members that were not updated, because their gradients were not finite or because one of
their factors could not be inverted (`report.solves` names it; the member then waits for the next inverse). They keep
their parameters and momentum, and the numbers of the other members do not depend on them. If a batch is computed in
parts, pass the `Statistics` of the whole batch to `step` instead of captures; `MaskedSums` computes those of a batch
with masked loss terms. With `others="diagonal"`, pass
`norms_of(model)` to `init_state` and capture these layers too. `calls` are the layer calls that the gradients were
computed from; with them, small batches are preconditioned at lower cost. For the "monte_carlo" and "type2" Fisher,
`pseudo_losses` yields the scalars to differentiate with respect to the layers' outputs; put the gradients into a
capture as a tuple, with loss_scale 1.0. `step_flops` counts the cost of a step. The package depends on torch alone.
"""

from sensitivity.kfac.config import Hyperparameters, KFACConfig, LevenbergMarquardt, needs_statistics
from sensitivity.kfac.diagonal import Norm, norms_of
from sensitivity.kfac.engine import StepReport, step
from sensitivity.kfac.factors import Capture
from sensitivity.kfac.fisher import pseudo_losses
from sensitivity.kfac.flops import StepFlops, step_flops
from sensitivity.kfac.layers import Geometry, Layer, layer_of, layers_of, projections_of
from sensitivity.kfac.low_rank import uses_calls
from sensitivity.kfac.masked import MaskedSums
from sensitivity.kfac.optimizer import KFAC
from sensitivity.kfac.precondition import SolveFailure
from sensitivity.kfac.run_report import RunReport
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
    "MaskedSums",
    "Norm",
    "RunReport",
    "SolveFailure",
    "Statistics",
    "StepFlops",
    "StepReport",
    "init_state",
    "layer_of",
    "layers_of",
    "needs_statistics",
    "norms_of",
    "projections_of",
    "pseudo_losses",
    "select",
    "statistics_of",
    "step",
    "step_flops",
    "uses_calls",
]
