"""``Settling``: the procedure as an object with the next step, the ledger entries, and the settlement."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from sensitivity.settling.procedure import settle
from sensitivity.study.amendments import Declaration, Observation, Point, Settlement, Shown, Step, Stop


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An answered step, with its result."""

    step: Step
    shown: Shown | None
    """Result of the step; None if the settlement ended without one."""


class Settling:
    """A settlement in progress.

    It is deterministic: equal declarations, known runs and observations yield equal steps, so a resumed command first
    answers the steps whose runs are stored, and continues from there.
    """

    def __init__(self, declaration: Declaration, known: Sequence[tuple[Point, Observation]] = ()) -> None:
        """Start at the first step; `known` are runs of the study's own design, used instead of scouting runs."""
        self.declaration = declaration
        self.entries: list[Entry] = []
        """Entries of the answered steps, in order."""
        self.settlement: Settlement | None = None
        """The settlement; None until the procedure has ended."""
        self._generator: Generator[Step, Sequence[Observation] | Stop, Settlement] = settle(declaration, known)
        self._step: Step | None = next(self._generator)

    @property
    def next_step(self) -> Step | None:
        """The step whose runs are requested; None once there is a settlement."""
        return self._step

    def answer(self, observations: Sequence[Observation]) -> Shown | None:
        """Answer ``next_step`` with the observations of its runs, in the order of its points; return its result.

        Raises:
            ValueError: the number of observations is wrong, or the settlement has ended.
        """
        step = self._expect_step()
        if len(observations) != len(step.points):
            raise ValueError(f"step {step.number} has {len(step.points)} runs; got {len(observations)} observations")
        return self._send(step, observations)

    def stop(self, reason: str) -> Settlement:
        """End the settlement before the runs of ``next_step``; the answers of the latest look are final.

        Raises:
            ValueError: the settlement has ended.
        """
        self._send(self._expect_step(), Stop(reason=reason))
        assert self.settlement is not None
        return self.settlement

    def _expect_step(self) -> Step:
        if self._step is None:
            raise ValueError("this settlement has ended; read its result from `settlement`")
        return self._step

    def _send(self, step: Step, answer: Sequence[Observation] | Stop) -> Shown | None:
        stopped = isinstance(answer, Stop)
        try:
            self._step = self._generator.send(answer)
            shown = self._step.shown
        except StopIteration as end:
            self._step, self.settlement = None, end.value
            shown = None if stopped else end.value.shown
        if not stopped:
            self.entries.append(Entry(step=step, shown=shown))
        return shown
