"""Learning rates by layer in the maximal-update parametrisation (µP; Yang et al. 2022, arXiv 2203.03466, table 8).

A network that is parametrised so says by what each of its parameters' learning rates is multiplied (`Parametrised`);
that depends on how an optimizer's step scales with its gradient, which its arm declares (``Arm.width_rule``). With m
the width over the base width, hidden matrices have η / m with Adam, and everything else η m with SGD. A multiplier
acts on the step that the optimizer has taken, but for decoupled weight decay, whose share η λ stays as it is.
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
    """Its width over the one at which learning rates are as they are."""

    def lr_multipliers(self, rule: WidthRule) -> Mapping[str, float]:
        """Return the multipliers by parameter; those of other parameters are 1."""


def lr_multipliers(network: nn.Module, kind: str) -> Mapping[str, float]:
    """Return the multipliers by parameter that are not 1, for an optimizer of this kind."""
    rule = _rule(kind)
    if not isinstance(network, Parametrised) or rule is None:
        return {}
    return {name: value for name, value in network.lr_multipliers(rule).items() if value != 1}


def decouples_decay(kind: str) -> bool:
    """Whether its weight decay is no part of the step that is multiplied."""
    return _rule(kind) == "adamw"


def unusable(network: nn.Module, kind: str) -> str | None:
    """Return why an optimizer can't train the network, and what to do; None if it can."""
    if not isinstance(network, Parametrised) or network.width_ratio == 1 or _rule(kind) is not None:
        return None
    known = ", ".join(sorted(name for name, arm in ARMS.items() if arm.width_rule is not None))
    return (
        f'parametrisation = "mup" has no rule for the learning rates of {kind}; it has for {known}. Leave this '
        'optimizer out, or give parametrisation = "standard"'
    )


def _rule(kind: str) -> WidthRule | None:
    arm = arm_class(kind)
    return None if arm is None else arm.width_rule
