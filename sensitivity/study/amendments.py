"""Records that `settle` adds to a study without changing its file: declaration, requested runs, freeze and answers.

These are the data types of ``sensitivity.settling``. They serialise to JSON, are written to the study directory, and
can be read by reports without running the procedure. A settlement is a sequence of steps. Each step requests runs
(``Point``) and receives their outcomes (``Observation``) in the same order. The freeze step requests no runs; it fixes
the configurations and criteria that the judging runs will use.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sensitivity.study.axes import AxisField
from sensitivity.study.hashing import content_hash
from sensitivity.study.hyperparameters import hyperparameter
from sensitivity.study.metrics import MetricName
from sensitivity.study.primary import Question
from sensitivity.study.section import Count, Seed
from sensitivity.study.seed_ranges import MOST_SERIES, SeedPurpose

PROCEDURE_VERSION = 3
"""Incremented whenever the same observations would lead to different steps. A settlement that began under another
version must be replayed by that version or started again in a new series."""

DEFAULT_SETTLING_RUNS = 2_000
"""Default budget; without one, optimizers that differ by about the margin would need tens of thousands of runs."""

Phase = Literal["scout", "search", "candidates", "freeze", "judge_scaling", "judge_sensitivity"]
PHASE_OF: dict[Phase, SeedPurpose] = {
    "scout": "scout",
    "search": "search",
    "candidates": "candidate",
    "judge_scaling": "judge_scaling",
    "judge_sensitivity": "judge_sensitivity",
}
"""Seed range used by the runs of each phase; the freeze has no runs."""
PHASE_NAMES: dict[Phase, str] = {
    "scout": "Scout",
    "search": "Search",
    "candidates": "Choose",
    "freeze": "Freeze",
    "judge_scaling": "Judge scaling",
    "judge_sensitivity": "Judge sensitivity",
}
"""Display names."""
SettledAnswer = Literal["better", "worse", "equivalent", "undetermined", "blocked"]
"""Candidate compared with reference. Undetermined: not decided within this budget. Blocked: not decidable with any
budget unless the study changes."""
Direction = Literal["better", "worse", "undetermined"]
Hyperparameters = tuple[tuple[str, float], ...]
Facts = dict[str, Any]
"""Numbers and names that a sentence is built from, as JSON-like data."""


class Amendment(BaseModel):
    """Base class of immutable records that survive a round trip through JSON unchanged."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Side(Amendment):
    """One hyperparameter of an arm: its declared prior and the limits to which a search may extend it."""

    name: str
    axis: AxisField
    """The declared prior, from which the trials that measure tuning cost are drawn."""
    scale: Literal["decades", "linear", "levels"]
    """Coordinate used by a search: decades (``hyperparameters``), the value itself, or the declared values only; a
    fixed value is a single level."""
    low: float
    """Lower end of the declared interval; for a list, its smallest value."""
    high: float
    least: float
    """Smallest value to which a search may extend the interval; `most` is the largest."""
    most: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.least <= self.low <= self.high <= self.most:
            raise ValueError(f"{self.name}: expected least <= low <= high <= most")
        return self

    @property
    def searched(self) -> bool:
        """Whether a search varies this hyperparameter."""
        return self.scale != "levels"

    def model_post_init(self, _context: Any) -> None:
        """Restore the `whole` flag of the axis, which is not part of its form in a study file."""
        if hyperparameter(self.name).whole and not self.axis.whole:
            object.__setattr__(self, "axis", self.axis.model_copy(update={"whole": True}))


class DeclaredArm(Amendment):
    """An optimizer of the study, with its hyperparameters in the same order as in trials."""

    name: str
    sides: tuple[Side, ...]

    @property
    def dimensions(self) -> int:
        """Number of hyperparameters that a search varies."""
        return sum(side.searched for side in self.sides)


class Claim(Amendment):
    """A claim about a pair of optimizers and its error rate."""

    question: Question
    candidate: str
    reference: str
    margin: Annotated[float, Field(gt=1)]
    """Ratio of critical batch sizes or of expected trials within which two optimizers count as equivalent."""
    alpha: Annotated[float, Field(gt=0, lt=1)]
    """Probability of a false claim, valid whenever the study stops."""
    confirmatory: bool = True
    """Whether `alpha` is part of the study's error rate; an exploratory claim has a separate one."""


NOT_DECLARED = frozenset({"grid_runs"})
"""Fields of a declaration that do not affect any step of the procedure."""


class Declaration(Amendment):
    """Everything the procedure depends on except the outcomes of runs; fixed before the first run."""

    version: int = PROCEDURE_VERSION
    study: str
    spec_hash: str
    series: Annotated[int, Field(ge=0, lt=MOST_SERIES)] = 0
    """Index of this settlement of the study; each uses different seeds."""
    batch_sizes: tuple[Count, ...]
    caps: tuple[Count, ...]
    """Maximum number of steps of a run, for each batch size."""
    target: tuple[MetricName, float]
    arms: tuple[DeclaredArm, ...]
    claims: tuple[Claim, ...]
    """In order of priority: the first is settled first."""
    looks: tuple[Count, ...]
    """Numbers of judging seeds at which the scaling question is tested."""
    most_blocks: Count
    """Maximum number of blocks of draws; after these the sensitivity question is undetermined."""
    grid_runs: int = 0
    """Number of runs of the full grid that the procedure replaces, for comparison."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        names = [arm.name for arm in self.arms]
        if len(self.caps) != len(self.batch_sizes):
            raise ValueError("caps: expected one for each batch size")
        if not self.claims:
            raise ValueError("claims: expected at least one")
        for claim in self.claims:
            if claim.candidate == claim.reference or not {claim.candidate, claim.reference} <= set(names):
                raise ValueError(f"claims: {claim.candidate} against {claim.reference} is not a pair of {names}")
        if list(self.looks) != sorted(set(self.looks)) or (self.looks and self.looks[0] < 2):
            raise ValueError("looks: expected increasing numbers of seeds, at least 2")
        return self

    @cached_property
    def hash(self) -> str:
        """16 hex digits that identify the content; also the seed of the procedure's random numbers.

        The cap on runs is not included: it determines when a settlement stops, not which runs it requests, so after
        raising it the settlement continues where it stopped. The size of the full grid is only reported.
        """
        return content_hash(self.model_dump(mode="json", exclude=set(NOT_DECLARED)))

    def arm(self, name: str) -> DeclaredArm:
        """Return the arm with a name."""
        return next(arm for arm in self.arms if arm.name == name)

    def asks(self, question: Question) -> bool:
        """Whether any claim concerns `question`."""
        return any(claim.question == question for claim in self.claims)


class Point(Amendment):
    """A requested run."""

    arm: str
    batch_size: int
    hyperparameters: Hyperparameters
    """Name and value, in the order of the arm's hyperparameters."""
    seed: Seed
    phase: Phase


class Observation(Amendment):
    """The outcome of a run with respect to the declared target.

    reached: the target was met after more than `after` and at most `steps` steps. censored: the run ended after `steps`
    steps without meeting it. A diverged run never counts as meeting it, even if it met the target before diverging; a
    failed run raised an exception.
    """

    outcome: Literal["reached", "censored", "diverged", "failed"]
    steps: Annotated[float, Field(ge=0)] = 0.0
    after: Annotated[float, Field(ge=0)] = 0.0
    """Step of the evaluation before the one that met the target; 0 if the first evaluation met it."""
    shortfall: Annotated[float, Field(ge=0)] | None = None
    """For a censored run, the remaining distance to the target as a fraction of the untrained network's distance: 0 at
    the target, 1 if nothing was learnt, above 1 if the run ended worse than untrained; None if unknown."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.outcome in ("reached", "censored") and not self.after <= self.steps:
            raise ValueError("expected after <= steps")
        if self.outcome == "censored" and self.steps == 0:
            raise ValueError("a censored run needs the steps after which it ended")
        return self

    @property
    def success(self) -> bool:
        """Whether the run met the target within its budget (``analysis.draws``)."""
        return self.outcome == "reached"

    @property
    def log_steps(self) -> tuple[float, float]:
        """Return the bounds of log T, where T is the number of steps to the target; infinite if there is no bound."""
        low = math.log(self.after) if self.after > 0 else -math.inf
        if self.outcome == "reached":
            return low, math.log(self.steps) if self.steps > 0 else -math.inf
        return (math.log(self.steps) if self.outcome == "censored" else math.inf), math.inf


class Shown(Amendment):
    """Summary of the observations of a step."""

    says: str
    """One sentence."""
    facts: Facts = Field(default_factory=dict)


class Winner(Amendment):
    """The frozen configuration of an arm at a batch size, which the judging runs use."""

    arm: str
    batch_size: int
    hyperparameters: Hyperparameters
    chosen: Literal["model", "observed", "only"]
    """Chosen as the optimum of the fitted response, as an observed configuration better than that optimum, or as the
    only configuration."""
    regret: float
    """Expected excess of log T over the best configuration (``reg_B``)."""


class FrozenClaim(Amendment):
    """A claim and the criteria by which it will be judged."""

    claim: Claim
    blocked: str = ""
    """Why the claim can't be judged; empty if it can."""
    levels: tuple[tuple[float, float], ...] = ()
    """For the scaling question: one-sided levels for "better or worse" and for "equivalent" at each look."""
    thresholds: tuple[float, float] | None = None
    """For the sensitivity question: smallest e-values that support "better or worse" and "equivalent"."""


class ExtendedBox(Amendment):
    """The box of an arm at the end of the search."""

    arm: str
    sides: tuple[tuple[str, float, float], ...]
    """Name, lower and upper end."""


class Freeze(Amendment):
    """Configurations and criteria that are fixed and stored with a hash before any judging seed runs."""

    declaration: str
    """Hash of the declaration."""
    winners: tuple[Winner, ...] = ()
    boxes: tuple[ExtendedBox, ...] = ()
    claims: tuple[FrozenClaim, ...]
    looks: tuple[int, ...] = ()
    judging_seeds: tuple[tuple[SeedPurpose, int, int], ...]
    """Purpose, first and last seed."""

    @property
    def hash(self) -> str:
        """16 hex digits that identify the content."""
        return content_hash(self.model_dump(mode="json"))


class Step(Amendment):
    """The next runs that the procedure requests, and why."""

    number: int
    """From 1."""
    phase: Phase
    why: str
    """One sentence."""
    points: tuple[Point, ...] = ()
    """Empty for the freeze, which expects no observations once it has been stored."""
    freeze: Freeze | None = None
    facts: Facts = Field(default_factory=dict)
    shown: Shown | None = None
    """Summary of the previous step's observations; None for the first step."""

    @property
    def runs_by_arm(self) -> dict[str, int]:
        """Requested runs, by arm."""
        counts: dict[str, int] = {}
        for point in self.points:
            counts[point.arm] = counts.get(point.arm, 0) + 1
        return counts


class Stop(Amendment):
    """Sent instead of observations when the budget is spent or the user stops; the answers of the last look hold."""

    reason: str
    """Such as "the budget of 30 device-minutes is used up"."""


class Answer(Amendment):
    """The answer to a claim, or the progress made towards one."""

    claim: Claim
    answer: SettledAnswer
    says: str
    """One or more sentences: the answer, its estimate and interval, its cost, and the next step."""
    reason: str = ""
    """Why the claim is blocked or undetermined."""
    direction: Direction = "undetermined"
    """Direction of the difference regardless of the margin; "better" means that the candidate is ahead."""
    estimate: float | None = None
    """Ratio of candidate to reference: critical batch sizes, or expected trials until a configuration works."""
    low: float | None = None
    """Lower end of the interval, valid at any look; None if unbounded."""
    high: float | None = None
    level: float = 0.95
    """Simultaneous confidence level of the interval over all looks."""
    looks: int = 0
    """Number of looks taken."""
    observations: int = 0
    """Number of judging seeds, or of blocks of draws, behind the answer."""
    next_look_runs: int | None = None
    """Number of runs that the next look would need; None if no look is left or needed."""


class Settlement(Amendment):
    """The outcome of a settlement."""

    declaration: str
    freeze: str = ""
    """Hash of the freeze; empty if the settlement stopped before it."""
    answers: tuple[Answer, ...]
    """In the order of the declaration's claims."""
    stopped: str = ""
    """Why the settlement stopped early; empty if it ran to its end."""
    runs: dict[Phase, dict[str, int]]
    """Number of requested runs, by phase and arm."""
    grid_runs: int
    """Runs of the full grid, for comparison."""
    shown: Shown | None = None
    """Summary of the last step's observations."""

    @property
    def total_runs(self) -> int:
        """Requested runs in all phases."""
        return sum(sum(by_arm.values()) for by_arm in self.runs.values())

    @property
    def settled(self) -> bool:
        """Whether every claim has an answer."""
        return all(answer.answer in ("better", "worse", "equivalent") for answer in self.answers)
