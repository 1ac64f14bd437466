"""Decide which pack is trained next, and what happens to a pack whose worker was lost (without Ray).

A lost worker may have met a preempted machine, or its pack may be what kills it (a model that crashes the
interpreter, or takes more memory than there is). So a pack starts again a few times, from its checkpoint if it has
one; then its halves start instead of it, so that a deadly trial ends up alone, and its neighbours have results. A
pack that is known to have run out of memory is halved at once, and so are later ones like it. A worker that was lost
before it began with its pack, or after it had reported its results, is held against no pack.

Where workers are lost for the same reason again and again and nothing gets any further, starting more of them only
hides the reason, so the command ends and says it.
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
"""How often a pack is started without getting further than before, until its halves, or nothing, start instead."""
_SAME_DEATHS = 3
"""So many workers lost in the same way, without any progress, are no accident of a pack or a machine."""
_LOST_IN_A_ROW = 20
"""So many lost in any way without progress, for each that may run at once, are none either."""
_CHANGES = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+")
"""What differs between two messages of one cause: addresses, ids, numbers."""


@dataclass(frozen=True, kw_only=True)
class _Loss:
    """Of a worker."""

    pack: Pack
    cause: str
    """Without what differs from time to time."""
    crashed: bool
    """Whether the worker itself said why it ended; it was not killed from outside."""
    began: bool
    """Whether it had begun to train."""


@dataclass
class _Record:
    """What is known of a pack that has lost a worker."""

    furthest: float = 0.0
    """Of its budget, when it had last lost one."""
    losses: int = 0
    """In a row without getting further than that."""


class PackScheduler:
    """Holds the pending packs, in order, and the running ones; decides what starts next and what a loss leads to."""

    def __init__(
        self,
        packs: Sequence[Pack],
        *,
        workers: int,
        source: TrialSource | None = None,
        cut: Callable[[Sequence[Trial]], Sequence[Pack]] = lambda trials: [Pack(tuple(trials))],
    ) -> None:
        """Begin with `packs`; trials that `source` generates are grouped into packs by `cut`."""
        self._waiting = deque(packs)
        self._source, self._cut = source, cut
        self._running: dict[str, Pack] = {}
        self._reached: dict[str, float] = {}
        self._records: dict[str, _Record] = {}
        self._fits: dict[Group, int] = {}
        self._workers = workers
        self._losses: list[_Loss] = []
        """Since anything has got further."""
        self._any_finished = False

    @property
    def done(self) -> bool:
        """Whether nothing is pending or running, and no more trials will come."""
        return not self._waiting and not self._running and not (self._source and self._source.open)

    def take(self) -> Pack | None:
        """Return the next pack to start; None if there is none at present."""
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

    def runs(self, pack: Pack) -> bool:
        """Whether a pack is running."""
        return pack.id in self._running

    def advance(self, pack: Pack, fraction: float) -> None:
        """Record a running pack's progress; the first call tells where it began: at 0 or at a checkpoint."""
        self._reached[pack.id] = fraction

    def finish(self, pack: Pack, result: PackResult) -> None:
        """Record that a pack has results."""
        del self._running[pack.id]
        self._reached.pop(pack.id, None)
        self._losses.clear()
        self._any_finished = True
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
            pack: which one.
            cause: what Ray says of it.
            out_of_memory: whether it is known to have been killed for its memory.
            stderr: the end of its standard error.

        Returns:
            None if the pack, or its halves, wait again; otherwise why its runs are given up.

        Raises:
            UserError: worker after worker is lost, whatever it trains.
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
            _Loss(pack=pack, cause=_CHANGES.sub("#", cause), crashed=bool(crash), began=reached is not None)
        )
        if self._is_hopeless():
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
            # A pack that crashes comes after the others: whether they crash too tells what is to blame.
            (self._waiting.append if crash else self._waiting.appendleft)(pack)
            return None
        fix = "; set execution.micro_batch or problem.ghost_batch" if out_of_memory else ""
        return f"its worker was lost {record.losses} times: {cause}{fix}"

    def _is_hopeless(self) -> bool:
        """Whether recent losses show that workers die whatever they train."""
        last = self._losses[-1]
        alike = list(itertools.takewhile(lambda loss: loss.cause == last.cause, reversed(self._losses)))
        idle = sum(not loss.began for loss in alike)
        # One event, such as a node's end, takes all of its workers; a crash is each one's own.
        if idle >= _SAME_DEATHS * (1 if last.crashed else self._workers):
            return True
        if last.crashed and not self._any_finished and _apart([loss.pack for loss in alike]) >= _SAME_DEATHS:
            return True
        return len(self._losses) >= _LOST_IN_A_ROW * self._workers


def _apart(packs: Sequence[Pack]) -> int:
    """Return the number of packs that share no trial."""
    taken: set[str] = set()
    count = 0
    for pack in sorted(packs, key=lambda pack: len(pack.trials)):
        ids = {trial.id for trial in pack.trials}
        if not ids & taken:
            taken |= ids
            count += 1
    return count
