"""Trials and packs: the unit of result and the unit of execution."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from sensitivity.study.designs import Configuration, configurations
from sensitivity.study.hashing import canonical_json, content_hash, text_hash
from sensitivity.study.hyperparameters import hyperparameter
from sensitivity.study.problem import ProblemSpec
from sensitivity.study.protocol import BudgetSpec, EvaluationSpec, ScheduleSpec
from sensitivity.study.seed_ranges import purpose
from sensitivity.study.spec import StudySpec
from sensitivity.study.varying import Varying

RESULT_VERSION = 1
"""Incremented whenever the same trial would give different numbers beyond rounding; older runs are then not reused."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Properties common to all trials of a study."""

    problem: ProblemSpec
    source: str
    """Hash of the code and data files of a user's problem; empty for shipped problems."""
    budget: BudgetSpec
    schedule: ScheduleSpec
    evaluation: EvaluationSpec
    training_asked: bool = False
    """Whether a target concerns the training split, which is then measured at every evaluation.

    Not part of `content`, because more measurements change no other result, and targets may be added after a study ran.
    """

    @cached_property
    def content(self) -> dict[str, Any]:
        """Return everything that determines results, as JSON-like data."""
        sections = {
            name: getattr(self, name).model_dump(mode="json")
            for name in ("problem", "budget", "schedule", "evaluation")
        }
        return {**sections, "source": self.source, "version": RESULT_VERSION}

    @cached_property
    def json(self) -> str:
        """The content as canonical JSON, which is part of the hash of each of a study's trials."""
        return canonical_json(self.content)


_Table = TypeVar("_Table", bound=Varying)
Group = tuple[str, int]
"""Arm and batch size, which all trials of a pack share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A cell (arm, batch size, hyperparameters) and a seed. A study has up to millions, so it has slots only."""

    arm: str
    settings: Mapping[str, Any]
    """The optimizer's kind and settings, which all trials of the arm share."""
    hyperparameters: tuple[tuple[str, float], ...]
    batch_size: int
    seed: int
    workload: Workload
    _id: str = field(default="", init=False, repr=False, compare=False)

    @property
    def id(self) -> str:
        """Hash of everything that determines the result, and of the arm's name, because arms do not share runs."""
        if not self._id:
            object.__setattr__(self, "_id", self._hash(seed=self.seed))
        return self._id

    @property
    def group(self) -> Group:
        """The arm and the batch size."""
        return self.arm, self.batch_size

    @property
    def structure(self) -> tuple[tuple[str, float], ...]:
        """The structural hyperparameters, which all members of a pack share."""
        return tuple((name, value) for name, value in self.hyperparameters if hyperparameter(name).structural)

    @property
    def schedule(self) -> ScheduleSpec:
        """The study's schedule, overridden by the values of the arm and of the trial."""
        return self._own(self.workload.schedule)

    @property
    def problem(self) -> ProblemSpec:
        """The study's problem, overridden by the values of the arm and of the trial."""
        return self._own(self.workload.problem)

    @property
    def evaluation(self) -> EvaluationSpec:
        """The study's evaluation, overridden by the values of the arm and of the trial."""
        return self._own(self.workload.evaluation)

    def _own(self, table: _Table) -> _Table:
        numbers = {name: v for name, v in self.hyperparameters if hyperparameter(name).table[:1] == (table.table,)}
        return table.having(self.settings.get(table.table, {}), numbers)

    @property
    def confirmation(self) -> bool:
        """Whether the trial confirms a winner on a new seed."""
        return purpose(self.seed) == "confirmation"

    @property
    def cell_id(self) -> str:
        """Hash like `id`, without the seed."""
        return self._hash()

    def _hash(self, **seed: int) -> str:
        """Return the `content_hash` of the cell's content, with a seed or without."""
        own = canonical_json(
            {
                "arm": self.arm,
                "batch_size": self.batch_size,
                "hyperparameters": dict(self.hyperparameters),
                "settings": dict(self.settings),
                **seed,
            }
        )
        return text_hash(f'{own[:-1]},"workload":{self.workload.json}}}')  # the last key in their order

    def label(self) -> str:
        """Return a short name for messages."""
        values = ", ".join(f"{name}={value:g}" for name, value in self.hyperparameters)
        return f"{self.arm}, batch {self.batch_size}, {values}, seed {self.seed}"


@dataclass(frozen=True)
class Pack:
    """Trials trained as one computation; they differ only in seeds and non-structural hyperparameters."""

    trials: tuple[Trial, ...]

    @cached_property
    def id(self) -> str:
        """Hash of the trials' ids."""
        return content_hash({"trials": [trial.id for trial in self.trials]})

    @property
    def arm(self) -> str:
        """The arm of all trials."""
        return self.trials[0].arm

    @property
    def group(self) -> Group:
        """The arm and batch size of all trials."""
        return self.trials[0].group

    def halves(self) -> tuple[Pack, Pack]:
        """Split a pack of two or more trials into two."""
        middle = len(self.trials) // 2
        return Pack(self.trials[:middle]), Pack(self.trials[middle:])

    @property
    def batch_size(self) -> int:
        """The batch size of all trials."""
        return self.trials[0].batch_size


class Expander:
    """Creates the trials of a study."""

    def __init__(self, spec: StudySpec, *, source: str = "") -> None:
        self._workload = Workload(
            problem=spec.required_problem.fixed(),
            source=source,
            budget=spec.required_budget,
            schedule=spec.schedule.fixed(),
            evaluation=spec.evaluation.fixed(),
            training_asked=spec.asks_for_training,
        )
        self._settings = {name: arm.settings() for name, arm in spec.optimizers.items()}

    def trial(self, arm: str, configuration: Configuration, batch_size: int, seed: int) -> Trial:
        """Return the trial of a configuration of an arm at a batch size, with a seed."""
        return Trial(
            arm=arm,
            settings=self._settings[arm],
            hyperparameters=configuration,
            batch_size=batch_size,
            seed=seed,
            workload=self._workload,
        )


def expand(spec: StudySpec, *, source: str = "") -> tuple[Trial, ...]:
    """Return every trial that is known before the study runs, ordered by seed, so that maps fill early.

    Trials of searches and confirmations become known only during the run.
    """
    expander = Expander(spec, source=source)
    trials = []
    known: dict[Configuration, Configuration] = {}
    for seed in spec.seeds:
        cells = {
            name: [known.setdefault(each, each) for each in configurations(arm, seed)]  # a grid's seeds share them
            for name, arm in spec.optimizers.items()
        }
        trials += [
            expander.trial(name, configuration, batch_size, seed)
            for batch_size in spec.batch_sizes
            for name, of_arm in cells.items()
            for configuration in of_arm
        ]
    return tuple(trials)


def group(trials: Iterable[Trial], size: int | Mapping[Group, int]) -> tuple[Pack, ...]:
    """Group trials of equal arm, batch size and structure into evenly sized packs of at most `size`, in order.

    If the trials of one seed fill more than half of a pack, each pack contains a single seed, so that its members share
    every batch; otherwise seeds are combined. `size` may differ by arm and batch size.
    """
    groups: dict[tuple[Group, Any], dict[int, list[Trial]]] = {}
    for trial in trials:
        groups.setdefault((trial.group, trial.structure), {}).setdefault(trial.seed, []).append(trial)
    packs: list[Pack] = []
    for (key, _), by_seed in groups.items():
        most = size if isinstance(size, int) else size[key]
        packs += _cut(by_seed, most)
    return tuple(packs)


def _cut(by_seed: Mapping[int, Sequence[Trial]], size: int) -> list[Pack]:
    alone = 2 * max(map(len, by_seed.values())) > size
    parts = list(by_seed.values()) if alone else [[trial for own in by_seed.values() for trial in own]]
    packs: list[Pack] = []
    for members in parts:
        count = -(-len(members) // size)
        bounds = [len(members) * k // count for k in range(count + 1)]
        packs += [Pack(tuple(members[a:b])) for a, b in itertools.pairwise(bounds)]
    return packs
