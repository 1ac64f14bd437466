"""Parameter groups of `KFAC`: their validation, and conversion of their hyperparameters for the engine."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.kfac.config import check_numbers, plain_number
from sensitivity.kfac.state import KFACState
from sensitivity.kfac.update import FlatNumbers

NUMBERS = ("lr", "damping", "momentum", "weight_decay", "kl_clip")


def check_groups(groups: list[dict[str, Any]], model: nn.Module, named: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the groups contain all of these parameters, and none of another model."""
    held, own = {id(p) for group in groups for p in group["params"]}, {id(p) for p in model.parameters()}
    left = [name for name, p in named.items() if id(p) not in held]
    if left:
        raise ValueError(f"param_groups leave out {', '.join(left)}. Freeze these parameters or add them to a group.")
    if held - own:
        raise ValueError(f"param_groups hold {len(held - own)} parameters that are not of this model. Remove them.")


def require_in_groups(untrained: Sequence[tuple[str, Tensor]], groups: Sequence[Mapping[str, Any]]) -> None:
    """Raise RuntimeError for an unfrozen parameter that has a gradient but is in no group."""
    held = {id(p) for group in groups for p in group["params"]}
    for name, p in untrained:
        if p.requires_grad and p.grad is not None and id(p) not in held:
            raise RuntimeError(
                f"The parameter {name!r} was frozen when KFAC was built and has a gradient now, but is in no "
                "parameter group. Call optimizer.add_param_group({'params': [...]}) with it after unfreezing."
            )


class GroupNumbers:
    """Hyperparameters of all groups for the engine; checked and rebuilt only when one has changed."""

    def __init__(self) -> None:
        self._seen: tuple[list[tuple[Any, ...]], float] | None = None
        self._numbers: FlatNumbers

    def of(
        self,
        groups: Sequence[Mapping[str, Any]],
        state: KFACState,
        named: Mapping[str, Tensor],
        schedule: Callable[[int], float] | None,
    ) -> FlatNumbers:
        """Return the hyperparameters of a step, whose damping is multiplied by `schedule` of the step's number.

        Raises ValueError for a hyperparameter outside its range.
        """
        numbers = numbers_of(groups)
        factor = 1.0 if schedule is None else plain_number(schedule(state.steps))
        if self._seen != (numbers, factor):
            for lr, damping, momentum, decay, clip in numbers:
                strength = damping * factor
                check_numbers(lr=lr, damping=strength, momentum=momentum, weight_decay=decay, kl_clip=clip)
            self._numbers, self._seen = numbers_for_engine(groups, state, named, factor), (numbers, factor)
        return self._numbers


def numbers_of(groups: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """Hyperparameters of each group, in the order of `NUMBERS`."""
    return [tuple(plain_number(group[name]) for name in NUMBERS) for group in groups]


def numbers_for_engine(
    groups: Sequence[Mapping[str, Any]], state: KFACState, named: Mapping[str, Tensor], factor: float
) -> FlatNumbers:
    """Hyperparameters for the engine: scalars for one group, otherwise one value per parameter and layer.

    Damping is multiplied by `factor`. Tensors are filled with the numbers instead of copied from the host, which would
    synchronize with an accelerator.
    """
    like = state.momentum
    if len(groups) == 1:
        lr, damping, momentum, decay, clip = numbers_of(groups)[0]
        strength = like.new_full((), damping * factor)
        return FlatNumbers(
            lr=lr, damping=strength, momentum=momentum, weight_decay=decay, kl_clip=clip, others_damping=strength
        )
    of = {id(p): group for group in groups for p in group["params"]}
    flat = {name: torch.empty_like(like) for name in ("lr", "momentum", "weight_decay", "damping")}
    for name, vector in flat.items():
        for parameter, view in zip(state.layout.names, state.layout.views(vector), strict=True):
            view.fill_(plain_number(of[id(named[parameter])][name]))
    others_damping = flat.pop("damping") * factor
    damping = [plain_number(of[id(named[p.layer.weight])]["damping"]) * factor for p in state.layout.placements]
    strengths = torch.stack([like.new_full((), each) for each in damping])
    clip = plain_number(groups[0]["kl_clip"])
    return FlatNumbers(**flat, damping=strengths, kl_clip=clip, others_damping=others_damping)
