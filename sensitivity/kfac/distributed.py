"""Data-parallel K-FAC: factors pooled over ranks, and each rank inverting its share of them."""

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor

Solver = Callable[[Tensor], tuple[Tensor, ...]]


def pooled(tensors: Iterable[Tensor], group: dist.ProcessGroup | None) -> None:
    """Sum each tensor over the ranks of the group, in place; nothing without a group."""
    if group is not None:
        for tensor in tensors:
            dist.all_reduce(tensor, group=group)


def shared(solve: Solver, group: dist.ProcessGroup | None) -> Solver:
    """Make a solver of banks [slots, d, d] that solves its rank's slots and gathers the others'."""
    if group is None:
        return solve

    def solve_share(bank: Tensor) -> tuple[Tensor, ...]:
        world, rank = dist.get_world_size(group), dist.get_rank(group)
        share = -(-len(bank) // world)
        identity = torch.eye(bank.shape[-1], dtype=bank.dtype, device=bank.device)
        mine = identity.repeat(share, 1, 1)
        part = bank[rank * share : (rank + 1) * share]
        mine[: len(part)] = part
        return tuple(_gathered(piece, len(bank), world, group) for piece in solve(mine))

    return solve_share


def _gathered(piece: Tensor, slots: int, world: int, group: dist.ProcessGroup) -> Tensor:
    sent = piece.to(torch.uint8) if piece.dtype == torch.bool else piece.contiguous()
    parts = [torch.empty_like(sent) for _ in range(world)]
    dist.all_gather(parts, sent, group=group)
    return torch.cat(parts)[:slots].to(piece.dtype)
