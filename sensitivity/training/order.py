"""Order of examples: an endless stream of shuffled passes for each seed, cut into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sensitivity.study.seeds import derive


def batches(seed: int, *, train_size: int, batch_size: int, skipped: int = 0) -> Iterator[Tensor]:
    """Yield the indices ``[batch]`` of each step's examples, endlessly, after the first `skipped` examples.

    The stream concatenates ``torch.randperm(train_size)`` from a CPU generator seeded with
    ``derive(seed, "order")``. It does not depend on the batch size, the optimizer or the device.
    """
    generator = torch.Generator().manual_seed(derive(seed, "order"))
    for _ in range(skipped // train_size):
        torch.randperm(train_size, generator=generator)
    left = torch.empty(0, dtype=torch.int64)
    if skipped % train_size:
        left = torch.randperm(train_size, generator=generator)[skipped % train_size :]
    while True:
        while len(left) < batch_size:
            left = torch.cat((left, torch.randperm(train_size, generator=generator)))
        yield left[:batch_size]
        left = left[batch_size:]


class PackOrder:
    """The batch indices of a pack's members, each from its own seed; members with equal seeds share draws."""

    def __init__(self, seeds: Sequence[int], *, train_size: int, batch_size: int, skipped: int = 0) -> None:
        self._streams = {
            seed: batches(seed, train_size=train_size, batch_size=batch_size, skipped=skipped)
            for seed in dict.fromkeys(seeds)
        }
        self._seeds = tuple(seeds)

    def draw(self) -> Tensor:
        """Return the next step's indices ``[trials, batch]``, or one row if all seeds are equal."""
        rows = {seed: next(stream) for seed, stream in self._streams.items()}
        if len(rows) == 1:
            return next(iter(rows.values()))[None]
        return torch.stack([rows[seed] for seed in self._seeds])

    def select(self, index: Sequence[int]) -> None:
        """Keep only the members at `index`."""
        self._seeds = tuple(self._seeds[k] for k in index)
        self._streams = {seed: stream for seed, stream in self._streams.items() if seed in self._seeds}


def gather(table: Tensor, indices: Tensor) -> Tensor:
    """Return the rows ``[trials, batch, ...]`` of `table` ``[examples, ...]`` at `indices` ``[trials, batch]``.

    If `indices` expand a single row, the rows are gathered once and expanded.
    """
    if indices.shape[0] > 1 and indices.stride(0) == 0:
        return table[indices[0]].expand(indices.shape[0], *(-1,) * (table.dim()))
    return table[indices]
