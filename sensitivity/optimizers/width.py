"""Per-layer learning rates of the maximal-update parametrisation (µP; Yang et al. 2022, arXiv 2203.03466, table 8).

A network with this parametrisation provides a learning-rate multiplier for each parameter (`Parametrised`). It depends
on how an optimizer's step scales with its gradient, which the arm declares (``Arm.width_rule``). With m the ratio of
width to base width, the rate is η / m for hidden matrices with Adam, and η m for all other parameters with SGD. A
multiplier applies to the step taken by the optimizer, except for decoupled weight decay, which remains η λ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from sensitivity.study.arms import ARMS, arm_class

if TYPE_CHECKING:
    from torch import nn

    from sensitivity.study.arms import WidthRule


@runtime_checkable
class Parametrised(Protocol):
    """A network whose learning rates depend on its width."""

    width_ratio: float
    """Its width relative to the base width, at which learning rates are not changed."""

    def lr_multipliers(self, rule: WidthRule) -> Mapping[str, float]:
        """Return the multipliers by parameter; missing ones are 1."""


def lr_multipliers(network: nn.Module, kind: str) -> Mapping[str, float]:
    """Return the multipliers other than 1 by parameter, for an optimizer of this kind."""
    rule = _rule(kind)
    if not isinstance(network, Parametrised) or rule is None:
        return {}
    return {name: value for name, value in network.lr_multipliers(rule).items() if value != 1}


def decouples_decay(kind: str) -> bool:
    """Whether weight decay is excluded from the multiplied step."""
    return _rule(kind) == "adamw"


def unusable(network: nn.Module, kind: str) -> str | None:
    """Return why an optimizer can't train the network, and the fix; None if it can."""
    if not isinstance(network, Parametrised) or network.width_ratio == 1 or _rule(kind) is not None:
        return None
    known = ", ".join(sorted(name for name, arm in ARMS.items() if arm.width_rule is not None))
    return (
        f'parametrisation = "mup" has no rule for the learning rates of {kind}, only for {known}. Remove this '
        'optimizer, or use parametrisation = "standard"'
    )


def _rule(kind: str) -> WidthRule | None:
    arm = arm_class(kind)
    return None if arm is None else arm.width_rule
