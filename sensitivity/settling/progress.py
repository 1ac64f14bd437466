"""The state of a settlement: runs requested, results shown, and the current answers."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Generator, Sequence

import numpy as np

from sensitivity.analysis.estimates import Floats
from sensitivity.study.amendments import (
    PHASE_OF,
    Answer,
    Claim,
    Declaration,
    Facts,
    Freeze,
    Observation,
    Phase,
    Point,
    Shown,
    Step,
    Stop,
)
from sensitivity.study.seed_ranges import first_seed

Asking = Generator[Step, Sequence[Observation] | Stop, Sequence[Observation]]


class StoppedError(Exception):
    """The caller stopped the settling."""


class Progress:
    """The state that all phases share."""

    def __init__(self, declaration: Declaration) -> None:
        self.declaration = declaration
        self.number = 0
        self.total = 0
        self.runs: dict[Phase, dict[str, int]] = {}
        self.shown: Shown | None = None
        self.freeze: Freeze | None = None
        self.blocked: dict[Claim, str] = {}
        """Claims that can't be judged, and why."""
        self.answers: dict[Claim, Answer] = {}
        """Of the claims that were looked at, by the last look."""
        self.priced: dict[Claim, int] = {}
        """Runs that the next look would take."""
        self._key = int.from_bytes(hashlib.sha256(declaration.hash.encode()).digest()[:8], "big")

    def seed(self, phase: Phase, place: int) -> int:
        """Return a seed of a phase's range."""
        return first_seed(PHASE_OF[phase], self.declaration.series) + place

    def hypercube(self, names: Sequence[str], points: int, *place: int) -> Floats:
        """Return a Latin hypercube [points, names], the same for every arm that has a hyperparameter of the name.

        `place` are numbers that tell this one from others of the settling.
        """
        found = np.empty((points, len(names)))
        for column, name in enumerate(names):
            stream = np.random.default_rng([self._key, zlib.crc32(name.encode()), *place])
            found[:, column] = (stream.permutation(points) + stream.random(points)) / points
        return found

    def ask(
        self, phase: Phase, why: str, points: Sequence[Point], facts: Facts | None = None, freeze: Freeze | None = None
    ) -> Asking:
        """Yield a step and return its observations.

        Raises:
            StoppedError: the settling was stopped here.
        """
        self.number += 1
        step = Step(
            number=self.number,
            phase=phase,
            why=why,
            points=tuple(points),
            facts=facts or {},
            freeze=freeze,
            shown=self.shown,
        )
        answer = yield step
        if isinstance(answer, Stop):
            raise StoppedError(answer.reason)
        if len(answer) != len(points):
            raise ValueError(f"step {step.number} asked for {len(points)} runs; got {len(answer)}")
        counts = self.runs.setdefault(phase, {}) if points else {}
        for arm, count in step.runs_by_arm.items():
            counts[arm] = counts.get(arm, 0) + count
        self.total += len(points)
        self.shown = None
        return answer

    def show(self, says: str, facts: Facts | None = None) -> None:
        """Record what the step before showed."""
        self.shown = Shown(says=says, facts=facts or {})
