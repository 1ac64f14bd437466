"""Training steps recorded as CUDA graphs, which are launched as a whole.

A step for small networks consists of about a hundred kernel launches, which take the host longer than the kernels take
the device. A recording uses fixed memory and runs no Python, so steps are recorded only if their operations are fixed:
models that repeat the same operations, whole batches, and optimizer steps declared as repeatable. The indices of the
batch, the augmentation codes and the learning rate are copied to fixed buffers; gathering, augmenting and standardising
are part of the recording. Other steps, and all steps if recording fails, are launched normally.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from sensitivity.optimizers.pack import PackOptimizer
from sensitivity.training.batches import Draw, MicroBatch, PackBatches
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem
from sensitivity.training.step import take_step

logger = logging.getLogger(__name__)

_WARM = 3
"""Number of steps of a kind taken before recording, in which libraries initialise."""

Outcome = tuple[Tensor, Tensor | None]
"""Losses before a step, and which members could not be updated, both ``[trials]``."""


class Graphs(Protocol):
    """Interface for recording work on a device."""

    def warm(self, work: Callable[[], Outcome]) -> Outcome:
        """Run work in the environment in which it may be recorded later."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Run work, and return a function that repeats its operations on the same tensors."""


class CudaGraphs:
    """CUDA graphs, recorded on a separate stream and in shared memory, because only one runs at a time."""

    failed: ClassVar[bool] = False
    """Whether a recording has failed in this process, whose allocator may then still be in recording mode."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def warm(self, work: Callable[[], Outcome]) -> Outcome:
        """Run work on the recording stream."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            outcome = work()
        current.wait_stream(self._stream)
        return outcome

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record work, which does not execute it, and launch the graph once."""
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                work()
        except BaseException:
            CudaGraphs.failed = True
            raise
        finally:  # if recording fails, torch does not restore the current stream
            torch.cuda.set_stream(current)
        graph.replay()
        return graph.replay


@dataclass(frozen=True)
class _FixedBatch:
    """A draw in fixed buffers, from which a recording builds the batch."""

    batches: PackBatches
    fixed: Draw

    def draw(self) -> Iterator[MicroBatch]:
        """Yield the whole batch."""
        return self.batches.parts(self.fixed)

    def put(self, draw: Draw) -> None:
        """Copy another draw to the buffers."""
        self.fixed.rows.copy_(draw.rows)
        if self.fixed.codes is not None and draw.codes is not None:
            self.fixed.codes.copy_(draw.codes)


class Steps:
    """Takes the steps of a pack. Create a new one after members are dropped, because the tensors change."""

    def __init__(
        self,
        model: PackedModel,
        problem: Problem,
        optimizer: PackOptimizer,
        batches: PackBatches,
        graphs: Graphs | None = None,
    ) -> None:
        """Record with `graphs`; by default with CUDA graphs on a CUDA device, unless recording has failed before."""
        self._model, self._problem, self._optimizer, self._batches = model, problem, optimizer, batches
        if graphs is None and model.device.type == "cuda" and not CudaGraphs.failed:
            graphs = CudaGraphs(model.device)
        gathered_there = problem.dataset.mapped is None
        repeats = model.repeats and batches.chunk == batches.batch_size and gathered_there
        self._graphs = graphs if repeats else None
        self._fixed: _FixedBatch | None = None
        self._lr_scale = torch.zeros((), device=model.device)
        self._warmed: dict[str, int] = {}
        self._recorded: dict[str, tuple[Callable[[], None], Outcome]] = {}

    def has_recorded(self, kinds: Collection[str | None]) -> bool:
        """Whether steps of all these kinds are recorded, or nothing will be recorded."""
        return self._graphs is None or all(kind in self._recorded for kind in kinds)

    def take(self, *, step: int, lr_scale: float) -> Outcome:
        """Take one step like ``take_step``. The result is only valid until the next step."""
        kind = None if self._graphs is None else self._optimizer.repeated_kind(step)
        if self._graphs is None or kind is None:
            return take_step(self._model, self._problem, self._optimizer, self._batches, step=step, lr_scale=lr_scale)
        fixed = self._fixed_batch()
        self._lr_scale.fill_(lr_scale)

        def work() -> Outcome:
            return take_step(self._model, self._problem, self._optimizer, fixed, step=step, lr_scale=self._lr_scale)

        if kind in self._recorded:
            replay, outcome = self._recorded[kind]
            replay()
            return outcome
        self._warmed[kind] = self._warmed.get(kind, 0) + 1
        return self._graphs.warm(work) if self._warmed[kind] <= _WARM else self._record(self._graphs, kind, work)

    def _record(self, graphs: Graphs, kind: str, work: Callable[[], Outcome]) -> Outcome:
        found: list[Outcome] = []
        try:
            replay = graphs.record(lambda: found.append(work()))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            logger.warning("steps can't be recorded (%s): kernels are launched one by one, which is slower", reason)
            self._graphs = None
            return work()
        self._recorded[kind] = replay, found[0]
        return found[0]

    def _fixed_batch(self) -> _FixedBatch:
        """Copy the next draw to the buffers that recordings use."""
        draw = self._batches.next()
        if self._fixed is None:
            codes = None if draw.codes is None else draw.codes.clone()
            self._fixed = _FixedBatch(self._batches, Draw(draw.rows.clone(), codes))
        else:
            self._fixed.put(draw)
        return self._fixed
