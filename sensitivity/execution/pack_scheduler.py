"""Chooses the next pack to train, and handles packs whose worker was lost (without Ray).

A worker may be lost because its machine was preempted, or because of its pack (a model that crashes the interpreter or
exceeds the memory). A pack is therefore restarted a few times, from its checkpoint if it has one; afterwards its halves
are started instead, so that a trial that kills its worker ends up alone and the others have results. A pack that is
known to have run out of memory is halved immediately, and so are later ones like it. The loss of a worker before it
started its pack, or after it reported its results, is not attributed to a pack.

If workers are repeatedly lost for the same reason without any progress, the command ends with that reason.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sensitivity.execution.sources import TrialSource
from sensitivity.execution.worker_stderr import crash_line, quoted
from sensitivity.study.errors import UserError
from sensitivity.study.results import PackResult
from sensitivity.study.trials import Group, Pack, Trial

STARTS = 3
"""Number of starts of a pack without progress before its halves are started, or a single trial is given up."""
_MAX_EQUAL_LOSSES = 3
"""Number of workers lost for the same reason, without progress, that ends the command."""
_MAX_LOSSES = 20
"""Number of workers lost for any reason, without progress and per concurrent worker, that ends the command."""
_VARIABLE_PARTS = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+")
"""Parts in which messages of the same cause differ: addresses, ids, numbers."""


@dataclass(frozen=True, kw_only=True)
class _Loss:
    """The loss of a worker."""

    pack: Pack
    cause: str
    """Cause, without the parts that differ between messages of one cause."""
    crashed: bool
    """Whether the worker's own output has the cause, so that it was not killed from outside."""
    began: bool
    """Whether it had started to train."""


@dataclass
class _Record:
    """History of a pack that has lost a worker."""

    furthest: float = 0.0
    """Largest fraction of its budget that it had reached at a loss."""
    losses: int = 0
    """Number of consecutive losses without further progress."""


class PackScheduler:
    """Queue of pending packs and set of running ones; chooses the next pack and handles losses of workers."""

    def __init__(
        self,
        packs: Sequence[Pack],
        *,
        workers: int,
        source: TrialSource | None = None,
        cut: Callable[[Sequence[Trial]], Sequence[Pack]] = lambda trials: [Pack(tuple(trials))],
    ) -> None:
        """Start with `packs`; trials that `source` generates are grouped into packs by `cut`."""
        self._waiting = deque(packs)
        self._source, self._cut = source, cut
        self._running: dict[str, Pack] = {}
        self._reached: dict[str, float] = {}
        self._records: dict[str, _Record] = {}
        self._fits: dict[Group, int] = {}
        self._workers = workers
        self._losses: list[_Loss] = []
        """Losses since the latest progress of any pack."""
        self._any_finished = False

    @property
    def done(self) -> bool:
        """Whether nothing is pending or running, and no more trials will be generated."""
        return not self._waiting and not self._running and not (self._source and self._source.open)

    def take(self) -> Pack | None:
        """Return the next pack to start; None if there is currently none."""
        if self._source is not None:
            for trials in self._source.new_trials(wait=not self._waiting and not self._running):
                self._waiting.extend(self._cut(trials))
        if not self._waiting:
            return None
        pack = self._waiting.popleft()
        while len(pack.trials) > self._fits.get(pack.group, len(pack.trials)):
            pack, second = pack.halves()
            self._waiting.appendleft(second)
        self._running[pack.id] = pack
        return pack

    @property
    def running(self) -> int:
        """Number of running packs."""
        return len(self._running)

    def runs(self, pack: Pack) -> bool:
        """Whether a pack is running."""
        return pack.id in self._running

    def advance(self, pack: Pack, fraction: float) -> None:
        """Record a running pack's progress; the first call has its start, 0 or the position of a checkpoint."""
        self._reached[pack.id] = fraction

    def report(self) -> None:
        """Record that a pack has reported results, written or not: workers are not lost whatever they train."""
        self._losses.clear()
        self._any_finished = True

    def finish(self, pack: Pack, result: PackResult) -> None:
        """Record that a pack has results."""
        self.report()
        del self._running[pack.id]
        self._reached.pop(pack.id, None)
        self._tell(result)

    def give_up(self, result: PackResult) -> None:
        """Record the results of a pack that `lose` gave up."""
        self._tell(result)

    def _tell(self, result: PackResult) -> None:
        if self._source is not None:
            self._source.tell(result)

    def lose(self, pack: Pack, cause: str, *, out_of_memory: bool, stderr: str = "") -> str | None:
        """Record that a pack's worker was lost, and decide how to proceed.

        Args:
            pack: the pack.
            cause: Ray's message about the loss.
            out_of_memory: whether the worker is known to have been killed for its memory.
            stderr: end of the worker's standard error.

        Returns:
            None if the pack or its halves are pending again; otherwise the reason why its runs are given up.

        Raises:
            UserError: workers are lost repeatedly, whatever they train.
        """
        del self._running[pack.id]
        record = self._records.setdefault(pack.id, _Record())
        reached = self._reached.pop(pack.id, None)
        if (reached or 0.0) > record.furthest:
            record.losses = 0
            self._losses.clear()
        crash = crash_line(stderr)
        cause = crash or cause
        self._losses.append(
            _Loss(pack=pack, cause=_VARIABLE_PARTS.sub("#", cause), crashed=bool(crash), began=reached is not None)
        )
        if self._is_futile():
            raise UserError(
                f"{len(self._losses)} workers in a row were lost; the last one: {cause}\n{quoted(stderr)}"
                "  No reported result is lost. Fix the cause, and run again"
            )
        if reached is None and not out_of_memory:
            self._waiting.appendleft(pack)
            return None
        record.losses += 1
        record.furthest = max(reached or 0.0, record.furthest)
        if len(pack.trials) > 1 and (out_of_memory or record.losses >= STARTS):
            if out_of_memory:
                self._fits[pack.group] = len(pack.trials) // 2
            self._waiting.extendleft(reversed(pack.halves()))
            return None
        if record.losses < STARTS:
            # A pack that crashes is moved to the end: whether others crash too shows whether it is the cause.
            (self._waiting.append if crash else self._waiting.appendleft)(pack)
            return None
        fix = "; set execution.micro_batch or problem.ghost_batch" if out_of_memory else ""
        return f"its worker was lost {record.losses} times: {cause}{fix}"

    def _is_futile(self) -> bool:
        """Whether recent losses show that workers are lost whatever they train."""
        last = self._losses[-1]
        alike = list(itertools.takewhile(lambda loss: loss.cause == last.cause, reversed(self._losses)))
        idle = sum(not loss.began for loss in alike)
        # One event, such as the loss of a node, ends all of its workers; crashes are independent.
        if idle >= _MAX_EQUAL_LOSSES * (1 if last.crashed else self._workers):
            return True
        if (
            last.crashed
            and not self._any_finished
            and _count_disjoint([loss.pack for loss in alike]) >= _MAX_EQUAL_LOSSES
        ):
            return True
        return len(self._losses) >= _MAX_LOSSES * self._workers


def _count_disjoint(packs: Sequence[Pack]) -> int:
    """Return the size of a greedily chosen set of packs without common trials."""
    taken: set[str] = set()
    count = 0
    for pack in sorted(packs, key=lambda pack: len(pack.trials)):
        ids = {trial.id for trial in pack.trials}
        if not ids & taken:
            taken |= ids
            count += 1
    return count
