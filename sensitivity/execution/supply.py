"""What is to be trained next, and what becomes of a pack whose worker was lost. No Ray here: only its decisions.

A lost worker may have met a preempted machine, or its pack may be what kills it (a model that crashes the
interpreter, or takes more memory than there is). So a pack starts again a few times, from its checkpoint if it has
one; then its halves start instead of it, so that a deadly trial ends up alone, and its neighbours have results. A
pack that is known to have run out of memory is halved at once, and so are later ones like it. A worker that was lost
before it began with its pack, or after it had reported its results, is held against no pack.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sensitivity.execution.searches import Searches
from sensitivity.study.errors import UserError
from sensitivity.study.results import PackResult
from sensitivity.study.trials import Group, Pack, Trial

STARTS = 3
"""How often a pack is started without getting further than before, until its halves, or nothing, start instead."""
_LOST_IN_A_ROW = 20
"""So many workers lost one after the other without any progress, for each that may run at once, are no accident of a
pack or a machine."""


@dataclass
class _Record:
    """What is known of a pack that has lost a worker."""

    furthest: float = 0.0
    """Of its budget, when it had last lost one."""
    losses: int = 0
    """In a row without getting further than that."""


class Supply:
    """Packs that wait, in order, and those that run."""

    def __init__(
        self,
        packs: Sequence[Pack],
        *,
        workers: int,
        searches: Searches | None = None,
        cut: Callable[[Sequence[Trial]], Sequence[Pack]] = lambda trials: [Pack(tuple(trials))],
    ) -> None:
        """Begin with `packs`; what `searches` come up with is made into packs by `cut`."""
        self._waiting = deque(packs)
        self._searches, self._cut = searches, cut
        self._running: dict[str, Pack] = {}
        self._reached: dict[str, float] = {}
        self._records: dict[str, _Record] = {}
        self._fits: dict[Group, int] = {}
        self._lost_in_a_row, self._most_lost = 0, _LOST_IN_A_ROW * workers

    @property
    def done(self) -> bool:
        """Whether nothing waits, nothing runs, and nothing more will come."""
        return not self._waiting and not self._running and not (self._searches and self._searches.open)

    def take(self) -> Pack | None:
        """Return the pack to start now; None if there is none at the moment."""
        if self._searches is not None:
            for trials in self._searches.new_trials(wait=not self._waiting and not self._running):
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
        """Whether a pack has started, and has neither its results nor been lost since."""
        return pack.id in self._running

    def advance(self, pack: Pack, fraction: float) -> None:
        """Note how far a running pack has got; first, where it began: at 0, or at its checkpoint."""
        self._reached[pack.id] = fraction

    def finish(self, pack: Pack, result: PackResult) -> None:
        """Note that a pack has its results."""
        del self._running[pack.id]
        self._reached.pop(pack.id, None)
        self._lost_in_a_row = 0
        self._tell(result)

    def give_up(self, result: PackResult) -> None:
        """Note what is recorded of a pack that `lose` gave up."""
        self._tell(result)

    def _tell(self, result: PackResult) -> None:
        if self._searches is not None:
            self._searches.tell(result)

    def lose(self, pack: Pack, cause: str, *, out_of_memory: bool) -> str | None:
        """Note that a pack's worker was lost, and decide how to go on.

        Returns:
            None if the pack, or its halves, wait again; otherwise why its runs are given up.

        Raises:
            UserError: worker after worker is lost, whatever it trains.
        """
        del self._running[pack.id]
        self._lost_in_a_row += 1
        if self._lost_in_a_row >= self._most_lost:
            raise UserError(
                f"{self._lost_in_a_row} workers in a row were lost; the last one: {cause}\n"
                "  What was reported is kept. Mend the cause, and run again"
            )
        record = self._records.setdefault(pack.id, _Record())
        reached = self._reached.pop(pack.id, None)
        if reached is None and not out_of_memory:
            self._waiting.appendleft(pack)
            return None
        reached = reached or 0.0
        if reached > record.furthest:
            record.losses, self._lost_in_a_row = 0, 1
        record.losses += 1
        record.furthest = max(reached, record.furthest)
        if len(pack.trials) > 1 and (out_of_memory or record.losses >= STARTS):
            if out_of_memory:
                self._fits[pack.group] = len(pack.trials) // 2
            self._waiting.extendleft(reversed(pack.halves()))
            return None
        if record.losses < STARTS:
            self._waiting.appendleft(pack)
            return None
        mend = "; set execution.micro_batch or problem.ghost_batch" if out_of_memory else ""
        return f"its worker was lost {record.losses} times: {cause}{mend}"
