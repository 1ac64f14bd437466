"""Batches of each step: drawn, gathered, augmented and standardised, in micro-batches to limit memory.

Random draws are made on the host, so that a run sees the same examples on every device. They are copied to an
accelerator for many steps at once, asynchronously from pinned memory; the rest is done on the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sensitivity.training.augmentation import PackAugmentation, augmented
from sensitivity.training.losses import is_ignored
from sensitivity.training.order import PackOrder, gather
from sensitivity.training.problems import Problem

_AHEAD = {"cpu": 1, "cuda": 64}
"""Number of steps whose draws are copied to the device at once."""
_NUMBERS_AHEAD = 2**22
"""Maximum number of indices that are copied at once, but at least those of one step."""


@dataclass(frozen=True)
class MicroBatch:
    """A part of the batch of every member."""

    inputs: Tensor
    """Network inputs ``[trials, examples, ...]``."""
    targets: Tensor
    """``[trials, examples, ...]``."""
    share: float | Tensor
    """Fraction of the batch's loss terms in this part; ``[trials]`` if terms are masked and the batch is split."""
    valid: Tensor | None = None
    """Which terms have a loss ``[trials, examples, *positions]``; None if all have one."""


@dataclass(frozen=True)
class Draw:
    """Random draws that determine the batch of a step, on the device; a single row if equal for all members."""

    rows: Tensor
    """Indices of the examples, ``[1 or trials, batch]``."""
    codes: Tensor | None
    """Augmentation codes ``[1 or trials, batch]``; None without augmentation."""

    def select(self, index: Tensor, *, alike: bool) -> Draw:
        """Return the draw of the members at `index`; `alike` says that theirs are all equal."""

        def kept(tensor: Tensor) -> Tensor:
            return tensor if len(tensor) == 1 else tensor[index[:1] if alike else index]

        return Draw(kept(self.rows), None if self.codes is None else kept(self.codes))


class PackBatches:
    """The batches of a pack's members, each from its own seed; members with equal seeds share draws and batches."""

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
        """Continue after `drawn` batches; the stream does not depend on the batch size or micro-batch size."""
        self._dataset, self._masked = problem.dataset, problem.loss.masked
        self.chunk = min(micro_batch or batch_size, batch_size)
        """Examples of each member in a part of a batch; the last part may have fewer."""
        self.batch_size = batch_size
        """Examples of each member in a whole batch."""
        self._order = PackOrder(
            seeds, train_size=self._dataset.train_size, batch_size=batch_size, skipped=drawn * batch_size
        )
        self._augmentation = PackAugmentation(seeds, skipped=drawn * batch_size) if augment else None
        self._seeds = list(seeds)
        self._ahead: deque[Draw] = deque()
        """Draws of the next steps."""

    def draw(self) -> Iterator[MicroBatch]:
        """Yield the parts of the next step's batch; the caller must exhaust the iterator."""
        return self.parts(self.next())

    def next(self) -> Draw:
        """Return the draw of the next step's batch."""
        if not self._ahead:
            self._ahead.extend(self._uploaded())
        return self._ahead.popleft()

    def parts(self, draw: Draw) -> Iterator[MicroBatch]:
        """Yield the parts of a step's batch, by the same device operations each time."""
        data, every_row = self._dataset, draw.rows.expand(len(self._seeds), -1)
        divided = self.chunk < self.batch_size
        whole = _valid(gather(data.train_targets, every_row)).flatten(1).sum(1) if self._masked and divided else None
        for start in range(0, self.batch_size, self.chunk):
            rows, codes = every_row, draw.codes
            if divided:
                rows = rows[:, start : start + self.chunk]
                codes = None if codes is None else codes[:, start : start + self.chunk]
            inputs = gather(data.train_inputs, rows)
            if codes is not None:
                inputs = augmented(inputs, codes)
            targets = data.labels(gather(data.train_targets, rows))
            valid = _valid(targets) if self._masked else None
            share: float | Tensor = rows.shape[1] / self.batch_size
            if whole is not None and valid is not None:
                share = valid.flatten(1).sum(1).double() / whole
            yield MicroBatch(inputs=data.standardised(inputs), targets=targets, share=share, valid=valid)

    def select(self, index: Sequence[int]) -> None:
        """Keep only the members at `index`."""
        self._seeds = [self._seeds[k] for k in index]
        self._order.select(index)
        if self._augmentation is not None:
            self._augmentation.select(index)
        places = torch.tensor(index, device=self._dataset.train_inputs.device)
        self._ahead = deque(draw.select(places, alike=len(set(self._seeds)) == 1) for draw in self._ahead)

    def _uploaded(self) -> Iterator[Draw]:
        """Draw for several steps, and yield each step's draw on the device."""
        device = self._dataset.train_inputs.device
        numbers = len(self._seeds) * self.batch_size
        steps = range(max(1, min(_AHEAD[device.type], _NUMBERS_AHEAD // numbers)))
        rows = _uploaded([self._order.draw() for _ in steps], device)
        if self._augmentation is None:
            return (Draw(each, None) for each in rows)
        codes = _uploaded([self._augmentation.draw(self.batch_size) for _ in steps], device)
        return (Draw(*pair) for pair in zip(rows, codes, strict=True))


def _valid(targets: Tensor) -> Tensor:
    """Return which targets have a loss, that is, are not masked."""
    return ~is_ignored(targets)


def _uploaded(tensors: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """Return copies of host tensors on a device; an accelerator copies them asynchronously."""
    if device.type != "cuda":
        return [tensor.to(device) for tensor in tensors]
    return torch.stack(tuple(tensors)).pin_memory().to(device, non_blocking=True).unbind()
