"""The procedure as a generator of steps."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from sensitivity.study.amendments import Declaration, Observation, Point, Settlement, Step, Stop

Settles = Generator[Step, Sequence[Observation] | Stop, Settlement]


def settle(declaration: Declaration, known: Sequence[tuple[Point, Observation]] = ()) -> Settles:
    """Yield the steps of a settling; each is answered with what its runs came to, or with ``Stop``."""
    raise NotImplementedError
    yield
