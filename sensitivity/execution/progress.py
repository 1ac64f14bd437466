"""What a display is told while a study runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from sensitivity.study.results import PackResult
from sensitivity.study.trials import Pack


@dataclass
class Progress:
    """Counts and rates of a running study. Work is weighed in FLOPs, because batch sizes differ in cost."""

    planned: int
    """Runs of the study."""
    finished_before: int
    """Runs that earlier commands finished."""
    work: float
    """FLOPs of all that this command has to do."""
    weigh: Callable[[Pack], float]
    """Gives the FLOPs of a pack."""
    counts: Counter[str] = field(default_factory=Counter)
    """Runs that this command finished, by status."""
    _began: float = field(default_factory=time.monotonic)
    _finished_work: float = 0.0
    """FLOPs of finished packs."""
    _worked: dict[str, float] = field(default_factory=dict)
    """FLOPs done of those that run, by pack id."""

    def advance(self, pack: Pack, fraction: float) -> None:
        """Note that `fraction` of a pack is done."""
        self._worked[pack.id] = fraction * self.weigh(pack)

    def lose(self, pack: Pack) -> None:
        """Note that a pack has lost its worker: it, or its parts, start again."""
        self._worked.pop(pack.id, None)

    def finish(self, pack: Pack, result: PackResult) -> None:
        """Note a pack's results."""
        self._worked.pop(pack.id, None)
        self._finished_work += self.weigh(pack)
        self.counts.update(run.status.value for run in result.runs)

    @property
    def done(self) -> int:
        """Runs of the study that have a result."""
        return self.finished_before + self.counts.total()

    @property
    def fraction(self) -> float:
        """Share of this command's work that is done."""
        done = self._finished_work + sum(self._worked.values())
        return min(1.0, done / self.work) if self.work else 1.0

    @property
    def elapsed(self) -> float:
        """Seconds since this command's first pack could start."""
        return time.monotonic() - self._began

    @property
    def rate(self) -> float:
        """Runs a second that this command has finished."""
        return self.counts.total() / max(self.elapsed, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the time left; None before there is anything to judge by."""
        return self.elapsed * (1 - self.fraction) / self.fraction if self.fraction > 0 else None
