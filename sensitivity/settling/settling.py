"""``Settling``: the procedure as an object, with its next step, its ledger and its end."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from sensitivity.settling.procedure import settle
from sensitivity.study.amendments import Declaration, Observation, Point, Settlement, Shown, Step, Stop


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A step of the ledger, with what it showed."""

    step: Step
    shown: Shown | None
    """None where the settling was stopped before its runs came."""


class Settling:
    """A settling on its way.

    Deterministic: the same declaration, `known` and observations give the same steps, so a resumed command answers the
    steps that it has runs for and goes on from there.
    """

    def __init__(self, declaration: Declaration, known: Sequence[tuple[Point, Observation]] = ()) -> None:
        """Begin at the first step; `known` are runs of the study's own design, which scouting need not repeat."""
        self.declaration = declaration
        self.entries: list[Entry] = []
        """Of the steps that were answered, in their order."""
        self.settlement: Settlement | None = None
        """None until the procedure has ended."""
        self._generator: Generator[Step, Sequence[Observation] | Stop, Settlement] = settle(declaration, known)
        self._step: Step | None = next(self._generator)

    @property
    def next_step(self) -> Step | None:
        """The step whose runs are asked for; None once there is a settlement."""
        return self._step

    def answer(self, observations: Sequence[Observation]) -> Shown | None:
        """Give what came of the runs of ``next_step``, in the order of its points; return what they showed.

        Raises:
            ValueError: there are more or fewer observations than points, or the settling has ended.
        """
        step = self._expect_step()
        if len(observations) != len(step.points):
            raise ValueError(f"step {step.number} asked for {len(step.points)} runs; got {len(observations)}")
        return self._send(step, observations)

    def stop(self, reason: str) -> Settlement:
        """End it here, before the runs of ``next_step``: the last look's answer stands.

        Raises:
            ValueError: the settling has ended.
        """
        self._send(self._expect_step(), Stop(reason=reason))
        assert self.settlement is not None
        return self.settlement

    def _expect_step(self) -> Step:
        if self._step is None:
            raise ValueError("this settling has ended: see `settlement`")
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
