"""What `settle` adds to a study, kept apart from its file: declaration, requested runs, freeze and answers.

These are the nouns of ``sensitivity.settling``, as JSON-like data: they are written to the study directory and read by
reports without the procedure. A settling is a sequence of steps. Each asks for runs (``Point``), whose outcomes
(``Observation``) come back in the same order; one of them, the freeze, asks for none and fixes what will be judged.
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

PROCEDURE_VERSION = 2
"""Raised whenever the same observations would lead to other steps: a settling that began under another version is
replayed by that version or begun again in a new series."""

DEFAULT_SETTLING_RUNS = 2_000
"""The budget where none is given: two optimizers just at the margin would go on for tens of thousands."""

Phase = Literal["scout", "search", "candidates", "freeze", "judge_scaling", "judge_sensitivity"]
PHASE_OF: dict[Phase, SeedPurpose] = {
    "scout": "scout",
    "search": "search",
    "candidates": "candidate",
    "judge_scaling": "judge_scaling",
    "judge_sensitivity": "judge_sensitivity",
}
"""The range of seeds that the runs of each phase come from; the freeze has none."""
PHASE_NAMES: dict[Phase, str] = {
    "scout": "Scout",
    "search": "Search",
    "candidates": "Choose",
    "freeze": "Freeze",
    "judge_scaling": "Judge scaling",
    "judge_sensitivity": "Judge sensitivity",
}
"""As they are read."""
SettledAnswer = Literal["better", "worse", "equivalent", "undetermined", "blocked"]
"""Of a candidate against a reference. Undetermined: not within this budget; blocked: no budget would do, as it is."""
Direction = Literal["better", "worse", "undetermined"]
Hyperparameters = tuple[tuple[str, float], ...]
Facts = dict[str, Any]
"""Numbers and names behind a sentence, as JSON-like data."""


class Amendment(BaseModel):
    """A frozen record that goes to JSON and back unchanged."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Side(Amendment):
    """One hyperparameter of an arm: its declared prior, and how far a search may go beyond it."""

    name: str
    axis: AxisField
    """The declared prior: what trials of the price of tuning are drawn from."""
    scale: Literal["decades", "linear", "levels"]
    """How a search moves along it: in decades (``hyperparameters``), by the value itself, or not at all, keeping to the
    declared values; a fixed value is a single level."""
    low: float
    """The declared box, which is the hull of a list."""
    high: float
    least: float
    """The extension limits: no search goes beyond them."""
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
        """Restore that an axis has whole values, which its form in a study file does not say."""
        if hyperparameter(self.name).whole and not self.axis.whole:
            object.__setattr__(self, "axis", self.axis.model_copy(update={"whole": True}))


class DeclaredArm(Amendment):
    """An optimizer of the study, with its hyperparameters in the order of a trial's."""

    name: str
    sides: tuple[Side, ...]

    @property
    def dimensions(self) -> int:
        """Number of hyperparameters that a search varies."""
        return sum(side.searched for side in self.sides)


class Claim(Amendment):
    """What may be claimed of a pair, at which error rate."""

    question: Question
    candidate: str
    reference: str
    margin: Annotated[float, Field(gt=1)]
    """The ratio, of critical batch sizes or of expected trials, within which a difference doesn't matter."""
    alpha: Annotated[float, Field(gt=0, lt=1)]
    """Probability of a false claim at any moment at which the study may stop."""
    confirmatory: bool = True
    """Whether `alpha` is a share of the study's error rate; an exploratory claim has one of its own."""


NOT_DECLARED = frozenset({"grid_runs"})
"""Fields of a declaration that change no step of the procedure."""


class Declaration(Amendment):
    """What is fixed before the first run: all that the procedure depends on besides what runs turn out to be."""

    version: int = PROCEDURE_VERSION
    study: str
    spec_hash: str
    series: Annotated[int, Field(ge=0, lt=MOST_SERIES)] = 0
    """Which settling of the study this is: each has seeds of its own."""
    batch_sizes: tuple[Count, ...]
    caps: tuple[Count, ...]
    """Steps of a run at each batch size."""
    target: tuple[MetricName, float]
    arms: tuple[DeclaredArm, ...]
    claims: tuple[Claim, ...]
    """The first one is settled first."""
    looks: tuple[Count, ...]
    """Numbers of judging seeds at which the scaling question is looked at."""
    most_blocks: Count
    """Blocks of draws after which the sensitivity question is left undetermined."""
    grid_runs: int = 0
    """Runs of the full grid that the procedure replaces, for comparison."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        names = [arm.name for arm in self.arms]
        if len(self.caps) != len(self.batch_sizes):
            raise ValueError("caps: give one for each batch size")
        if not self.claims:
            raise ValueError("claims: give at least one")
        for claim in self.claims:
            if claim.candidate == claim.reference or not {claim.candidate, claim.reference} <= set(names):
                raise ValueError(f"claims: {claim.candidate} against {claim.reference} is no pair of {names}")
        if list(self.looks) != sorted(set(self.looks)) or (self.looks and self.looks[0] < 2):
            raise ValueError("looks: give rising numbers of seeds, from 2 on")
        return self

    @cached_property
    def hash(self) -> str:
        """16 hex digits that identify the content; also the seed of the procedure's own random numbers.

        The cap on runs is left out: it decides how far a settling comes and not what it would ask for, so one that was
        raised goes on where the lower one ended. The size of the study file's own design is only compared with.
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
    steps without meeting it. A diverged run never meets it, even one that met it on its way; a failed one raised an
    exception.
    """

    outcome: Literal["reached", "censored", "diverged", "failed"]
    steps: Annotated[float, Field(ge=0)] = 0.0
    after: Annotated[float, Field(ge=0)] = 0.0
    """The evaluation before the one that met the target; 0 if it was the first."""
    shortfall: Annotated[float, Field(ge=0)] | None = None
    """Of a censored run: the share of the way from the untrained metric to the target that its last one left, 0 at the
    target, 1 where nothing was learnt, above where it ended worse than untrained; None if unknown."""

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
        """Return the bounds of log T; infinite where there is no bound, both for a diverged run."""
        low = math.log(self.after) if self.after > 0 else -math.inf
        if self.outcome == "reached":
            return low, math.log(self.steps) if self.steps > 0 else -math.inf
        return (math.log(self.steps) if self.outcome == "censored" else math.inf), math.inf


class Shown(Amendment):
    """What the observations of a step showed."""

    says: str
    """One sentence."""
    facts: Facts = Field(default_factory=dict)


class Winner(Amendment):
    """The frozen configuration of an arm at a batch size, to be judged."""

    arm: str
    batch_size: int
    hyperparameters: Hyperparameters
    chosen: Literal["model", "observed", "only"]
    """The optimum of the fitted response, a configuration that was observed to be better than it, or the only one."""
    regret: float
    """Expected log T that it may lie above the best one (``reg_B``)."""


class FrozenClaim(Amendment):
    """A claim and the criteria by which it will be judged."""

    claim: Claim
    blocked: str = ""
    """Why it won't be judged; empty if it will."""
    levels: tuple[tuple[float, float], ...] = ()
    """Scaling: one-sided levels of "better or worse" and of "equivalent" at each look."""
    thresholds: tuple[float, float] | None = None
    """Sensitivity: e-values from which "better or worse" and "equivalent" are claimed."""


class ExtendedBox(Amendment):
    """The box of an arm at the end of the search."""

    arm: str
    sides: tuple[tuple[str, float, float], ...]
    """Name, lower and upper end."""


class Freeze(Amendment):
    """What is fixed, and written with its hash, before any judging seed runs."""

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
    """Empty for the freeze, which is answered with no observations once it has been persisted."""
    freeze: Freeze | None = None
    facts: Facts = Field(default_factory=dict)
    shown: Shown | None = None
    """What the step before showed; None for the first."""

    @property
    def runs_by_arm(self) -> dict[str, int]:
        """Requested runs, by arm."""
        counts: dict[str, int] = {}
        for point in self.points:
            counts[point.arm] = counts.get(point.arm, 0) + 1
        return counts


class Stop(Amendment):
    """Sent instead of observations when the budget is spent or the user stops: the last look's answer stands."""

    reason: str
    """Such as "the budget of 30 device-minutes is used up"."""


class Answer(Amendment):
    """The answer to a claim, or how far it was settled."""

    claim: Claim
    answer: SettledAnswer
    says: str
    """A sentence or a few: the answer, its number and interval, what it took, and what would come next."""
    reason: str = ""
    """Why it is blocked or undetermined."""
    direction: Direction = "undetermined"
    """Which one is ahead, whether or not by the margin; better is the candidate."""
    estimate: float | None = None
    """Ratio, candidate over reference, of critical batch sizes or of expected trials until a setting works."""
    low: float | None = None
    """The interval, valid at any look; None without that end."""
    high: float | None = None
    level: float = 0.95
    """Confidence of the interval over all looks."""
    looks: int = 0
    """Looks taken."""
    observations: int = 0
    """Judging seeds, or blocks of draws, that it rests on."""
    next_look_runs: int | None = None
    """Runs that the next look would take; None if none is left or needed."""


class Settlement(Amendment):
    """The outcome of a settlement."""

    declaration: str
    freeze: str = ""
    """Hash of the freeze; empty if it wasn't reached."""
    answers: tuple[Answer, ...]
    """In the order of the declaration's claims."""
    stopped: str = ""
    """Why it was stopped before its end; empty if it wasn't."""
    runs: dict[Phase, dict[str, int]]
    """Runs asked for, by phase and arm."""
    grid_runs: int
    """Runs of the full grid, for comparison."""
    shown: Shown | None = None
    """What the last step showed."""

    @property
    def total_runs(self) -> int:
        """Requested runs in all phases."""
        return sum(sum(by_arm.values()) for by_arm in self.runs.values())

    @property
    def settled(self) -> bool:
        """Whether every claim has an answer."""
        return all(answer.answer in ("better", "worse", "equivalent") for answer in self.answers)
