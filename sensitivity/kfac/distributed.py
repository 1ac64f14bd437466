"""Data-parallel K-FAC: factors are summed over the ranks, and each rank inverts a share of them."""

import warnings
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Solver = Callable[[Tensor], tuple[Tensor, ...]]


def sum_over_ranks(tensors: Iterable[Tensor], group: dist.ProcessGroup | None) -> None:
    """Sum each tensor over the ranks of the group, in place; does nothing without a group."""
    if group is not None:
        for tensor in tensors:
            dist.all_reduce(tensor, group=group)


def distributed_solver(solve: Solver, group: dist.ProcessGroup | None) -> Solver:
    """Solver of banks [slots, d, d] that solves the slots of its own rank and gathers the others."""
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


def without_data_parallel(model: nn.Module) -> tuple[dist.ProcessGroup | None, nn.Module]:
    """Return the process group and the module of a model in DistributedDataParallel; (None, model) for others.

    Warns if there are several ranks and the model is not in it.
    """
    if isinstance(model, DistributedDataParallel):
        return model.process_group, model.module
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        warnings.warn(
            f"{dist.get_world_size()} ranks, and a model that is not in DistributedDataParallel: every rank keeps "
            "factors of its own batches. If the ranks train one model, wrap it before you build KFAC.",
            stacklevel=3,
        )
    return None, model
