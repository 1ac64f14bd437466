"""Levenberg-Marquardt adaptation of the damping (Martens and Grosse 2015, section 6.5)."""

import math

from sensitivity.kfac.config import LevenbergMarquardt
from sensitivity.kfac.state import KFACState
from sensitivity.kfac.update import FlatNumbers


def predicted_change(state: KFACState, numbers: FlatNumbers) -> float:
    """Change of the loss that the damped quadratic model predicts for the latest step of a single model.

    For the update δ and the gradient g, it is g·δ + ½ δᵀ(F + λI)δ over the covered parameters, with F the Kronecker
    blocks, plus g·δ over the others.
    """
    space, layout = state.workspace, state.layout
    grads, move = space.grads, space.updates
    change = float(grads @ move)
    damping = numbers.damping.expand(len(layout.placements))
    for i, placement in enumerate(layout.placements):
        block = placement.block(move)
        outputs = placement.outputs.of(state.factors)
        if placement.inputs is None:
            curved = state.diagonals[placement.layer.name].unsqueeze(-1) * (block @ outputs[0])
        else:
            curved = outputs @ block @ placement.inputs.of(state.factors)
        change += 0.5 * float((block * (curved + damping[i] * block)).sum())
    return change


def adapted_damping(damping: float, ratio: float, rule: LevenbergMarquardt) -> float:
    """Return the next damping, from the ratio of the actual to the predicted change; see `LevenbergMarquardt`."""
    factor = rule.grow**rule.interval
    if not math.isfinite(ratio) or ratio < 0.25:
        damping *= factor
    elif ratio > 0.75:
        damping /= factor
    return min(max(damping, rule.smallest), rule.largest)
