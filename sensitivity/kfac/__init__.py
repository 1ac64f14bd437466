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
    captures = {layer.name: [Capture(inputs, output_grads)]} if due else None      # one capture a call
    report = step(config, state, params, grads, captures, Hyperparameters(lr=..., damping=...))
    state = select(state, survivors)                     # survivors: indices of members to keep

`step` works in place on params and on state, whose tensors the engine owns. Captured inputs are [trials, N, ...,
features] (Linear), [trials, N, C, *spatial] (Conv1d, Conv2d) or [trials, N, ...] indices (Embedding), with gradients of
the loss summed over trials and reduced over examples as `config.reduction` says; `loss_scale` overrides the factor
that turns them into gradients of one loss term. Hyperparameters are floats or tensors of shape [] or [trials].

`report.failed` [trials] marks members that were not updated: their gradients were not finite, or a factor of theirs
could not be inverted (`report.solves` names it), in which case they wait for the next inverse. They keep their
parameters and momentum, and nobody else's numbers depend on them. Where a batch comes in parts, give `step` the
`Statistics` of all in the place of captures; `MaskedSums` makes those of a batch with masked loss terms. With
`others="diagonal"` give `init_state` the `norms_of(model)`, and capture these layers too. `calls` gives `step` the
calls that gradients came from: small batches are preconditioned at less cost then. For the "monte_carlo" and "type2"
Fisher, `pseudo_losses` gives what to differentiate by the layers' outputs; its gradients go into a capture as a tuple,
with loss_scale 1.0. `step_flops` counts what all this costs. The room imports torch
alone.
"""

from sensitivity.kfac.config import Hyperparameters, KFACConfig, LevenbergMarquardt, needs_statistics
from sensitivity.kfac.diagonal import Norm, norms_of
from sensitivity.kfac.engine import StepReport, step
from sensitivity.kfac.factors import Capture
from sensitivity.kfac.fisher import pseudo_losses
from sensitivity.kfac.flops import StepFlops, step_flops
from sensitivity.kfac.layers import Geometry, Layer, layer_of, layers_of, projections_of
from sensitivity.kfac.masked import MaskedSums
from sensitivity.kfac.optimizer import KFAC, RunReport
from sensitivity.kfac.precondition import SolveFailure
from sensitivity.kfac.state import KFACState, init_state, select
from sensitivity.kfac.statistics import Statistics, statistics_of
from sensitivity.kfac.thin import uses_calls

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
