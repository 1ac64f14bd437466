"""Progress of a running study, for displays."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from sensitivity.study.results import PackResult
from sensitivity.study.trials import Group, Pack, Trial

_PRIOR_S = 30.0
"""Seconds of observation after which the observed pace counts as much as the expected one."""

Part = tuple[Group, bool]
"""An optimizer at a batch size, and whether the part consists of confirmations of its winner."""


def part_of(trial: Trial) -> Part:
    """Return the part of a study's work that a trial belongs to."""
    return trial.group, trial.confirmation


@dataclass
class Share:
    """The work of one command in a part of the study; less if a search's device time runs out first."""

    work: float = 0.0
    """Work, in the unit of `Progress.weigh`; infinite if only device time limits it."""
    limit: float = math.inf
    """Limit of a search in device-seconds, including those of earlier commands."""
    before: float = 0.0
    """Device-seconds of earlier commands."""
    finished_work: float = 0.0
    """Work of the runs that this command has finished."""
    finished_seconds: float = 0.0
    """Device-seconds of the runs that this command has finished."""

    def seconds(self, rate: float) -> float:
        """Return the device-seconds of all work at `rate` device-seconds per unit of work."""
        return min(self._left, self._untimed(rate))

    def done_seconds(self, rate: float, running: float) -> float:
        """Return the device-seconds of finished work, including `running` work of unfinished packs."""
        timed = self._left < self._untimed(rate)
        finished = self.finished_seconds if timed else rate * self.finished_work
        return min(self.seconds(rate), finished + rate * running)

    @property
    def _left(self) -> float:
        """Device-seconds left at the start of the command; infinite if none, because a last round may be pending."""
        return self.limit - self.before if self.before < self.limit else math.inf

    def _untimed(self, rate: float) -> float:
        return math.inf if math.isinf(self.work) else rate * self.work


@dataclass
class Progress:
    """Counts and rates of a running study.

    Runs count by their expected cost, because optimizers and batch sizes differ in it. If a part is limited by device
    time, all parts are measured in device-seconds, at the rate observed so far.
    """

    planned: int | None
    """Number of runs of the study; None if it is unknown before the end."""
    finished_before: int
    """Number of runs that earlier commands finished."""
    shares: Mapping[Part, Share]
    """Work of this command by part."""
    weigh: Callable[[Group], float]
    """Returns the work of a run: its device-seconds if costs were measured before the start, otherwise its FLOPs."""
    workers: int | None = None
    """Number of packs trained at a time, if work is in device-seconds; None if costs were not measured."""
    stage: str = ""
    """Current stage of the source of trials; may be empty."""
    counts: Counter[str] = field(default_factory=Counter)
    """Number of runs that this command finished, by status."""
    _began: float = field(default_factory=time.monotonic)
    _began_stage: float = field(default_factory=time.monotonic)
    _first: tuple[float, float] | None = None
    """When the first result of the stage came, and the fraction that was completed then."""
    _running: dict[str, tuple[Pack, float]] = field(default_factory=dict)
    """Running packs with their finished fraction, by pack id."""

    def begin(self, stage: str, trials: Sequence[Trial]) -> None:
        """Start a stage; the remaining time is estimated for its trials only, because later ones are unknown."""
        self.stage, self._began_stage, self._first = stage, time.monotonic(), None
        shares: defaultdict[Part, Share] = defaultdict(Share)
        for trial in trials:
            shares[part_of(trial)].work += self.weigh(trial.group)
        self.shares = shares

    def advance(self, pack: Pack, fraction: float) -> None:
        """Record that `fraction` of a pack is done."""
        self._running[pack.id] = pack, fraction
        self._note_first()

    def lose(self, pack: Pack) -> None:
        """Record that a pack has lost its worker; the pack, or its parts, will restart."""
        self._running.pop(pack.id, None)

    def finish(self, pack: Pack, result: PackResult) -> None:
        """Record that a pack has finished."""
        self._running.pop(pack.id, None)
        for run in result.runs:
            share = self.shares[part_of(run.trial)]
            share.finished_work += self.weigh(run.trial.group)
            share.finished_seconds += run.train_seconds + run.eval_seconds
        self.counts.update(run.status.value for run in result.runs)
        self._note_first()

    def _note_first(self) -> None:
        if self._first is None and self.fraction > 0:
            self._first = time.monotonic(), self.fraction

    @property
    def done(self) -> int:
        """Number of runs with a result."""
        return self.finished_before + self.counts.total()

    @property
    def device_time(self) -> tuple[float, float] | None:
        """Device-seconds used by searches, and their limit; None if no search is limited by time."""
        timed = [share for share in self.shares.values() if not math.isinf(share.limit)]
        taken = sum(min(share.limit, share.before + share.finished_seconds) for share in timed)
        return (taken, sum(share.limit for share in timed)) if timed else None

    @property
    def fraction(self) -> float:
        """Completed fraction of this command's work; 0 while unknown."""
        rate = self._rate
        if rate is None:
            return 0.0
        running: defaultdict[Part, float] = defaultdict(float)
        for pack, fraction in self._running.values():
            for trial in pack.trials:
                running[part_of(trial)] += fraction * self.weigh(trial.group)
        whole = sum(share.seconds(rate) for share in self.shares.values())
        done = sum(share.done_seconds(rate, running[part]) for part, share in self.shares.items())
        return min(1.0, done / whole) if whole else 1.0

    @property
    def _rate(self) -> float | None:
        """Device-seconds per unit of work; its value does not matter if nothing is limited by time."""
        if self.device_time is None:
            return 1.0
        work = sum(share.finished_work for share in self.shares.values())
        expected = None if self.workers is None else 1.0
        return sum(share.finished_seconds for share in self.shares.values()) / work if work else expected

    @property
    def elapsed(self) -> float:
        """Seconds since this command's first pack could start."""
        return time.monotonic() - self._began

    @property
    def rate(self) -> float:
        """Runs per second that this command has finished."""
        return self.counts.total() / max(self.elapsed, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Estimated time left, or left in the stage; None while there is no basis for an estimate.

        Workers do little before the first result, so it extrapolates the pace since then; if costs were measured, the
        pace so far, of which the expected pace counts as `_PRIOR_S` seconds.
        """
        fraction, rate = self.fraction, self._rate
        if self.workers is None or rate is None:
            if fraction == 1 or self._first is None:
                return 0.0 if fraction == 1 else None
            at, done = self._first
            return (time.monotonic() - at) * (1 - fraction) / (fraction - done) if fraction > done else None
        so_far = time.monotonic() - self._began_stage
        whole = sum(share.seconds(rate) for share in self.shares.values())
        pace = (fraction * whole + self.workers * _PRIOR_S) / (so_far + _PRIOR_S)
        return (1 - fraction) * whole / pace


Show = Callable[[Progress], AbstractContextManager[Callable[[], None]]]
"""Shows progress inside a context, which yields a function to call after each change."""
