"""Parameter updates from preconditioned gradients: uncovered parameters, KL clip, momentum and weight decay."""

from dataclasses import dataclass
from math import prod
from typing import TypeGuard

import torch
from torch import Tensor

from sensitivity.kfac.config import Hyperparameters, KFACConfig
from sensitivity.kfac.state import KFACState


@dataclass(frozen=True, kw_only=True)
class FlatNumbers:
    """Hyperparameters in the shapes of the engine.

    `damping` broadcasts to [layers, *lead], `kl_clip` to [*lead]; all others, including the damping of uncovered
    parameters, to [*lead, parameters].
    """

    lr: Tensor | float
    damping: Tensor
    momentum: Tensor | float
    weight_decay: Tensor | float
    kl_clip: Tensor | float | None
    others_damping: Tensor | float = 0.0


def flat_numbers(hyper: Hyperparameters, state: KFACState) -> FlatNumbers:
    """Hyperparameters of shape [] or [trials], in the shapes of the engine."""

    def column(value: float | Tensor) -> float | Tensor:
        return value.unsqueeze(-1) if isinstance(value, Tensor) and value.dim() > 0 else value

    damping = as_tensor(hyper.damping, state.momentum)
    return FlatNumbers(
        lr=column(hyper.lr),
        damping=damping,
        momentum=column(hyper.momentum),
        weight_decay=column(hyper.weight_decay),
        kl_clip=hyper.kl_clip,
        others_damping=column(hyper.damping),
    )


def flat_parameters(state: KFACState, values: list[Tensor], numbers: FlatNumbers) -> Tensor | None:
    """Copy of the parameters as a flat vector [*lead, parameters]; None without weight decay."""
    if isinstance(numbers.weight_decay, float) and numbers.weight_decay == 0.0:
        return None
    flat = torch.empty_like(state.momentum)
    torch._foreach_copy_(state.layout.views(flat), values)
    return flat


def copy_uncovered(state: KFACState, numbers: FlatNumbers) -> None:
    """Copy gradients of uncovered parameters to the updates, over their damped diagonal Fisher if there is one."""
    space, covered = state.workspace, state.layout.covered
    if not state.layout.others:
        return
    space.updates[..., covered:] = space.grads[..., covered:]
    for name, shape, offset in state.layout.others:
        if name in state.squares:
            part = space.updates[..., offset : offset + prod(shape)]
            damping = numbers.others_damping
            if _is_per_parameter(damping):
                damping = damping[..., offset : offset + prod(shape)]
            part.div_(state.squares[name].flatten(len(state.layout.lead)) + damping)


def clip_updates(state: KFACState, numbers: FlatNumbers) -> Tensor | None:
    """Scale covered updates v by ν = min(1, √(κ / Σ lr² v·g)), and return ν [*lead]; None without a clip."""
    if numbers.kl_clip is None:
        return None
    covered, space, lr = state.layout.covered, state.workspace, numbers.lr
    updates, grads = space.updates[..., :covered], space.grads[..., :covered]
    if _is_per_parameter(lr):
        norm: Tensor = torch.linalg.vecdot(updates * lr[..., :covered] ** 2, grads)
    else:
        norm = torch.linalg.vecdot(updates, grads) * per_member(lr) ** 2
    clip: Tensor = (numbers.kl_clip / norm.clamp_min(torch.finfo(norm.dtype).tiny)).sqrt().clamp_max(1.0)
    space.updates[..., :covered] *= clip.unsqueeze(-1)
    return clip


def apply_updates(
    config: KFACConfig,
    state: KFACState,
    values: list[Tensor],
    decayed: Tensor | None,
    numbers: FlatNumbers,
    mask: Tensor | None,
) -> None:
    """Apply momentum to the preconditioned gradient as torch.optim.SGD does, and update the members inside `mask`.

    `decayed` holds the parameters for decoupled weight decay, None without it.
    """
    space, velocity, lr = state.workspace, state.momentum, numbers.lr
    if mask is None:
        _next_velocity(space.updates, velocity, numbers.momentum, out=velocity)
    else:
        updated = _next_velocity(space.updates, velocity, numbers.momentum)
        velocity.copy_(torch.where(mask.unsqueeze(-1), updated, velocity))
        lr = torch.where(mask.unsqueeze(-1), lr, 0.0)
    if decayed is None and not config.nesterov and config.levenberg_marquardt is None:
        _subtract_velocity(state, values, lr)
        return
    if config.nesterov:
        space.updates.add_(velocity * numbers.momentum)
    else:
        space.updates.copy_(velocity)
    if decayed is not None:
        space.updates.addcmul_(decayed, as_tensor(numbers.weight_decay, decayed))
    space.updates.mul_(-numbers.lr)
    if mask is not None:
        space.updates.copy_(torch.where(mask.unsqueeze(-1), space.updates, 0.0))
    torch._foreach_add_(values, space.update_views)


def _next_velocity(updates: Tensor, velocity: Tensor, momentum: Tensor | float, out: Tensor | None = None) -> Tensor:
    if isinstance(momentum, Tensor):
        return torch.addcmul(updates, velocity, momentum, out=out)
    return torch.add(updates, velocity, alpha=momentum, out=out)


def _subtract_velocity(state: KFACState, values: list[Tensor], lr: Tensor | float) -> None:
    """Subtract lr times the momentum from the parameters, in one pass over both."""
    directions = state.workspace.velocity_views
    if isinstance(lr, float):
        torch._foreach_add_(values, directions, alpha=-lr)
    elif _is_per_parameter(lr):
        torch._foreach_addcmul_(values, directions, state.layout.views(-lr))
    else:
        steps, lead = -lr, len(state.layout.lead)
        torch._foreach_addcmul_(
            values, directions, [steps.view(*steps.shape[:lead], *(1,) * (v.dim() - lead)) for v in values]
        )


def _is_per_parameter(value: Tensor | float) -> TypeGuard[Tensor]:
    """Whether there is one value per parameter, as with several groups, instead of one per member."""
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape[-1] > 1


def as_tensor(value: float | Tensor, like: Tensor) -> Tensor:
    """Convert to a tensor of the type and device of `like`; numbers are filled in, because a copy would synchronize."""
    return value.to(like) if isinstance(value, Tensor) else like.new_full((), value)


def per_member(lr: float | Tensor) -> float | Tensor:
    """Learning rate [*lead]; with several groups, that of the first parameter."""
    return lr[..., 0] if isinstance(lr, Tensor) and lr.dim() > 0 else lr
