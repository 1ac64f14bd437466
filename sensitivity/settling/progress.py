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

Request = Generator[Step, Sequence[Observation] | Stop, Sequence[Observation]]


class StoppedError(Exception):
    """The caller stopped the settlement."""


class Progress:
    """State shared by all phases of a settlement."""

    def __init__(self, declaration: Declaration) -> None:
        self.declaration = declaration
        self.number = 0
        self.total = 0
        self.tried: dict[tuple[str, int], tuple[int, int]] = {}
        """Number of runs, and of those that reached the target, by optimizer and batch size."""
        self.runs: dict[Phase, dict[str, int]] = {}
        self.shown: Shown | None = None
        self.freeze: Freeze | None = None
        self.blocked: dict[Claim, str] = {}
        """Reasons of the claims that can't be judged."""
        self.answers: dict[Claim, Answer] = {}
        """Answers of the latest look, by claim."""
        self.next_look_runs: dict[Claim, int] = {}
        """Number of runs of the next look, by claim."""
        self._key = int.from_bytes(hashlib.sha256(declaration.hash.encode()).digest()[:8], "big")

    def seed(self, phase: Phase, place: int) -> int:
        """Return the seed at `place` in the range of a phase."""
        return first_seed(PHASE_OF[phase], self.declaration.series) + place

    def hypercube(self, names: Sequence[str], points: int, *place: int) -> Floats:
        """Return a Latin hypercube [points, names]; its columns are equal for all arms with the hyperparameter.

        The numbers `place` identify the hypercube in the settlement.
        """
        found = np.empty((points, len(names)))
        for column, name in enumerate(names):
            stream = np.random.default_rng([self._key, zlib.crc32(name.encode()), *place])
            found[:, column] = (stream.permutation(points) + stream.random(points)) / points
        return found

    def request(
        self, phase: Phase, why: str, points: Sequence[Point], facts: Facts | None = None, freeze: Freeze | None = None
    ) -> Request:
        """Yield a step and return its observations.

        Raises:
            StoppedError: the caller stopped the settlement at this step.
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
            raise ValueError(f"step {step.number} has {len(points)} runs; got {len(answer)} observations")
        counts = self.runs.setdefault(phase, {}) if points else {}
        for arm, count in step.runs_by_arm.items():
            counts[arm] = counts.get(arm, 0) + count
        self.total += len(points)
        self.count(points, answer)
        self.shown = None
        return answer

    def count(self, points: Sequence[Point], observations: Sequence[Observation]) -> None:
        """Count runs by whether they reached the target."""
        for point, observation in zip(points, observations, strict=True):
            runs, reached = self.tried.get((point.arm, point.batch_size), (0, 0))
            self.tried[point.arm, point.batch_size] = (runs + 1, reached + observation.success)

    def record_result(self, says: str, facts: Facts | None = None) -> None:
        """Record the result of the latest step."""
        self.shown = Shown(says=says, facts=facts or {})
