"""K-FAC's damping over a run: a geometric schedule, or adaptation by the Levenberg-Marquardt rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from sensitivity.kfac import KFACState, LevenbergMarquardt
    from sensitivity.optimizers.numbers import Numbers


def scheduled(numbers: Numbers, steps: Tensor, total: int | None, last: float | None) -> Tensor:
    """Return the damping ``[trials]`` after `steps` of `total` steps: λ · f^(steps / total).

    The final factor f is a hyperparameter, or `last`; without either, the damping is constant. `steps` is a tensor, so
    that replays of a recorded step advance it.
    """
    import torch

    damping = numbers.cast("damping")
    if "damping_end" in numbers:
        factor = numbers["damping_end"]
    elif last is not None:
        factor = torch.full_like(numbers["damping"], last)
    else:
        return damping
    assert total is not None
    return (numbers["damping"] * factor ** (steps / total).clamp_max(1.0)).to(damping.dtype)


def predicted_change(state: KFACState, damping: Tensor) -> Tensor:
    """Return the change of the loss ``[trials]`` that the damped quadratic model predicts for the last step.

    With step δ and gradient g, it is g·δ + ½ δᵀ(F + λI)δ over the covered parameters, where F are the Kronecker blocks,
    plus g·δ over the others (Martens and Grosse 2015, section 6.4). `damping` is ``[trials]``.
    """
    import torch

    space, layout = state.workspace, state.layout
    change: Tensor = torch.linalg.vecdot(space.grads, space.updates)
    for placement in layout.placements:
        block = placement.block(space.updates)  # [trials, groups, outputs, inputs]
        outputs = placement.outputs.of(state.factors).movedim(0, 1)
        if placement.inputs is None:  # [trials, vocabulary, width]
            curved = state.diagonals[placement.layer.name].unsqueeze(-1) * (block @ outputs[:, 0])
        else:
            curved = outputs @ block @ placement.inputs.of(state.factors).movedim(0, 1)
        inner = (block * curved).flatten(1).sum(1) + damping * block.square().flatten(1).sum(1)
        change = change + 0.5 * inner
    return change


def penalty_change(state: KFACState, params: Mapping[str, Tensor], decay: Tensor) -> Tensor:
    """Return the change ``[trials]`` of half the weight decay times the squared norm, given `params` after the step."""
    import torch

    total = torch.zeros_like(decay)
    for name, move in zip(state.layout.names, state.workspace.update_views, strict=True):
        total += ((params[name] - move / 2) * move).flatten(1).sum(1)
    return decay * total


def adapted(damping: Tensor, ratio: Tensor, rule: LevenbergMarquardt) -> Tensor:
    """Return the next damping ``[trials]`` after a step whose loss changed by `ratio` times what was predicted.

    It is divided by grow^interval if the ratio is above 3/4, and multiplied by it if the ratio is below 1/4 or not
    finite (Martens and Grosse 2015, section 6.5).
    """
    import torch

    factor = rule.grow**rule.interval
    bad = ~torch.isfinite(ratio) | (ratio < 0.25)
    moved = torch.where(bad, damping * factor, torch.where(ratio > 0.75, damping / factor, damping))
    bounded: Tensor = moved.clamp(rule.smallest, rule.largest)
    return bounded


def rule_of(settings: Mapping[str, Any]) -> LevenbergMarquardt | None:
    """Return the rule that adapts the damping of an arm with these settings; None if it is not adapted."""
    from sensitivity import kfac

    if settings.get("damping_rule") != "levenberg_marquardt":
        return None
    return kfac.LevenbergMarquardt(interval=int(settings.get("adapt_interval", 5)))
