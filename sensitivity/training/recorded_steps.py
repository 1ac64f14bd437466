"""Steps that an accelerator is told of once: recorded as a CUDA graph, and launched whole from then on.

A step of a pack of small networks is a hundred launches, each of which costs the host more than its work costs the
device. A recording has fixed memory and runs no Python, so a step is recorded only where nothing but its tensors
decides what it does: models that repeat the same operations, whole batches, steps of the optimizer that say so. The
indices of the batch, the codes of its augmentation and the learning rate are copied to where the recording looks for
them; to gather, augment and standardise is part of it. All other steps, and all steps where recording fails, are taken
as they are on the host.
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
"""Steps of a kind that are taken before one is recorded: libraries set themselves up in the first ones."""

Outcome = tuple[Tensor, Tensor | None]
"""Losses before a step, and the members that could not be updated, both ``[trials]``."""


class Graphs(Protocol):
    """What records work on a device."""

    def warm(self, work: Callable[[], Outcome]) -> Outcome:
        """Do work where it may be recorded later."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Do work, and return what does it again: the same operations on the same tensors."""


class CudaGraphs:
    """CUDA graphs, recorded on a stream of their own and in memory that they share: one of them runs at a time."""

    failed: ClassVar[bool] = False
    """Whether a recording has failed in this process: its allocator may still wait for the end of it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def warm(self, work: Callable[[], Outcome]) -> Outcome:
        """Do work on the stream that records."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            outcome = work()
        current.wait_stream(self._stream)
        return outcome

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record work, which does not do it, and launch it once."""
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                work()
        except BaseException:
            CudaGraphs.failed = True
            raise
        finally:  # torch leaves the process on the recording's stream where a recording can't be ended
            torch.cuda.set_stream(current)
        graph.replay()
        return graph.replay


@dataclass(frozen=True)
class _Held:
    """What decides a batch, in a fixed place."""

    batches: PackBatches
    held: Draw

    def draw(self) -> Iterator[MicroBatch]:
        """Yield the batch whole."""
        return self.batches.parts(self.held)

    def put(self, draw: Draw) -> None:
        """Put another one in its place."""
        self.held.rows.copy_(draw.rows)
        if self.held.codes is not None and draw.codes is not None:
            self.held.codes.copy_(draw.codes)


class Steps:
    """Takes the steps of a pack; after members are dropped, make another one: its tensors are others then."""

    def __init__(
        self,
        model: PackedModel,
        problem: Problem,
        optimizer: PackOptimizer,
        batches: PackBatches,
        graphs: Graphs | None = None,
    ) -> None:
        """Record with `graphs`; if none are given, with CUDA's on such a device, unless that has failed before."""
        self._model, self._problem, self._optimizer, self._batches = model, problem, optimizer, batches
        if graphs is None and model.device.type == "cuda" and not CudaGraphs.failed:
            graphs = CudaGraphs(model.device)
        gathered_there = problem.dataset.mapped is None
        repeats = model.repeats and batches.chunk == batches.batch_size and gathered_there
        self._graphs = graphs if repeats else None
        self._held: _Held | None = None
        self._lr_scale = torch.zeros((), device=model.device)
        self._warmed: dict[str, int] = {}
        self._recorded: dict[str, tuple[Callable[[], None], Outcome]] = {}

    def has_recorded(self, kinds: Collection[str | None]) -> bool:
        """Whether steps of all these kinds are recorded, or none ever will be."""
        return self._graphs is None or all(kind in self._recorded for kind in kinds)

    def take(self, *, step: int, lr_scale: float) -> Outcome:
        """Do one step, as ``take_step`` does. What it returns is only good until the next one."""
        kind = None if self._graphs is None else self._optimizer.repeated_kind(step)
        if self._graphs is None or kind is None:
            return take_step(self._model, self._problem, self._optimizer, self._batches, step=step, lr_scale=lr_scale)
        held = self._hold()
        self._lr_scale.fill_(lr_scale)

        def work() -> Outcome:
            return take_step(self._model, self._problem, self._optimizer, held, step=step, lr_scale=self._lr_scale)

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
            logger.warning("steps can't be recorded (%s): each is launched piece by piece, which is slower", reason)
            self._graphs = None
            return work()
        self._recorded[kind] = replay, found[0]
        return found[0]

    def _hold(self) -> _Held:
        """Put what decides the next batch where recordings look for it."""
        draw = self._batches.next()
        if self._held is None:
            codes = None if draw.codes is None else draw.codes.clone()
            self._held = _Held(self._batches, Draw(draw.rows.clone(), codes))
        else:
            self._held.put(draw)
        return self._held
