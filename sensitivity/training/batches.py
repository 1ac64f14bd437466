"""The examples of each step: drawn, gathered, augmented and standardised, in micro-batches that bound memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sensitivity.training.augmentation import PackAugmentation
from sensitivity.training.order import PackOrder, gather
from sensitivity.training.problems import Problem


@dataclass(frozen=True)
class MicroBatch:
    """A part of a batch, for every member."""

    inputs: Tensor
    """``[trials, examples, ...]``, as the network takes them."""
    targets: Tensor
    """``[trials, examples, ...]``."""
    share: float
    """Of the whole batch."""


class PackBatches:
    """The batches of a pack's members, each from its own seed; equal seeds draw and gather once."""

    def __init__(
        self,
        seeds: Sequence[int],
        problem: Problem,
        *,
        batch_size: int,
        micro_batch: int | None,
        augment: bool,
        drawn: int = 0,
    ) -> None:
        """Go on after `drawn` batches; the stream does not depend on the batch size or its division."""
        self._dataset = problem.dataset
        self.chunk = min(micro_batch or batch_size, batch_size)
        """Examples of each member in a part of a batch, the last one's aside."""
        self.batch_size = batch_size
        """Examples of each member in a whole batch."""
        self._order = PackOrder(
            seeds, train_size=self._dataset.train_size, batch_size=batch_size, skipped=drawn * batch_size
        )
        self._augmentation = PackAugmentation(seeds, skipped=drawn * batch_size) if augment else None

    def draw(self) -> Iterator[MicroBatch]:
        """Yield the parts of the next step's batch; all of them must be taken."""
        data = self._dataset
        for rows in torch.split(self._order.draw(), self.chunk, dim=1):
            inputs = gather(data.train_inputs, rows)
            if self._augmentation is not None:
                inputs = self._augmentation.apply(inputs)
            yield MicroBatch(
                inputs=data.standardised(inputs),
                targets=data.labels(gather(data.train_targets, rows)),
                share=rows.shape[1] / self.batch_size,
            )

    def select(self, index: Sequence[int]) -> None:
        """Keep only the members at `index`."""
        self._order.select(index)
        if self._augmentation is not None:
            self._augmentation.select(index)
