"""Validated plans from study files: the study, its problem, all trials, and the packs to run."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from sensitivity.study.designs import configurations, stand_ins
from sensitivity.study.load import find_study, load_study
from sensitivity.study.origin import Origin
from sensitivity.study.section import CONFIRMATION_SEEDS
from sensitivity.study.snapshot import Snapshot, take_snapshot
from sensitivity.study.snapshot_imports import use_snapshot
from sensitivity.study.spec import StudySpec
from sensitivity.study.trials import Expander, Group, Pack, Trial, expand, group
from sensitivity.training.checks import check_study
from sensitivity.training.identity import check_repeats, identity
from sensitivity.training.problems import Problem, load_problem


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A validated study with its trials."""

    spec: StudySpec
    problem: Problem
    source: str
    """Hash of the user's own code, and of an image folder's content; empty for shipped problems."""
    origin: Origin
    """Source of the problem for every process, and the identity that the loaded problem must have."""
    trials: tuple[Trial, ...]
    """Trials known so far."""
    stand_ins: tuple[Trial, ...] = ()
    """Placeholders for trials that searches and confirmations may still generate, to estimate their cost; for a search
    that only its device-hours limit, those of one round."""
    search_seconds: Mapping[Group, float] = field(default_factory=dict)
    """Device-seconds of each search's hours that runs of earlier commands used."""

    @property
    def expected(self) -> tuple[Trial, ...]:
        """All trials that will run, as far as known."""
        return self.trials + self.stand_ins

    @property
    def counted(self) -> tuple[Trial, ...]:
        """The trials in `expected` whose number is known, without those of searches limited only by device-hours."""
        arms = self.spec.optimizers
        return self.trials + tuple(t for t in self.stand_ins if t.confirmation or not arms[t.arm].open_ended)

    def forget_trials(self) -> None:
        """Release the trials, of which there may be millions, once nothing needs them any more."""
        for name in ("trials", "stand_ins"):
            object.__setattr__(self, name, ())

    def seconds_left(self, group: Group) -> float | None:
        """Return the device-seconds after which a search stops; None if unlimited."""
        hours = self.spec.optimizers[group[0]].device_hours
        return None if hours is None else max(0.0, 3600 * hours - self.search_seconds.get(group, 0.0))

    def packs(
        self,
        sizes: Mapping[Group, int],
        *,
        finished: AbstractSet[str],
        workers: int,
        begun: Sequence[Sequence[str]] = (),
    ) -> tuple[Pack, ...]:
        """Return the packs of the trials that are not in `finished`, in the order in which they should start.

        Packs are smaller than `sizes` if there would be fewer than two per worker, so that no worker is idle for long,
        unless the study file sets the pack size.

        Args:
            sizes: pack sizes by arm and batch size.
            finished: ids of trials with a result.
            workers: number of packs at a time.
            begun: trial ids of each pack that has a checkpoint; these packs come first, unchanged.
        """
        by_id = {trial.id: trial for trial in self.trials if trial.id not in finished}
        first = tuple(Pack(tuple(by_id.pop(trial) for trial in ids)) for ids in begun)
        missing = list(by_id.values())
        even = max(1, -(-len(missing) // (2 * workers)))
        packs = group(missing, self.spec.execution.pack_size or {key: min(size, even) for key, size in sizes.items()})
        place = {seed: k for k, seed in enumerate(self.spec.seeds)}  # confirmations come last
        # Earlier seeds first, so that maps are complete early; smaller batches first, because they take longest.
        return first + tuple(
            sorted(packs, key=lambda pack: (place.get(pack.trials[0].seed, len(place)), pack.batch_size))
        )


def prepare(study: str, *, for_price: bool = False) -> Plan:
    """Find, validate and expand a study, and check it against its data set and model; `for_price` as in `prepare_spec`.

    Raises:
        UserError: the study has mistakes, which are all listed where possible.
    """
    path = find_study(study)
    return prepare_spec(load_study(path), folder=path.resolve().parent, source=str(path), for_price=for_price)


def prepare_spec(spec: StudySpec, *, folder: Path, source: str, for_price: bool = False) -> Plan:
    """Expand a study, and check it against its data set and model.

    Args:
        spec: the study.
        folder: folder of relative paths and modules.
        source: name of the study file, for messages.
        for_price: whether the study is only priced, so that its data set is not downloaded.

    Raises:
        UserError: the study has mistakes, which are all listed where possible.
    """
    finder = use_snapshot(snapshot_of(spec, folder))
    with finder.recording():
        problem = load_problem(spec.required_problem, folder=folder, for_price=for_price)
        check_study(spec, problem, source=source)
        found = identity(problem)
        if spec.required_problem.has_own_data:
            again = load_problem(spec.required_problem, folder=folder).dataset
            check_repeats(found, again, named=spec.required_problem.dataset)
    snapshot = finder.snapshot  # including the modules imported since
    code = "-".join(part for part in (snapshot.hash, problem.dataset.fingerprint) if part)
    origin = Origin(problem=spec.required_problem.fixed(), snapshot=snapshot, identity=found)
    plan = Plan(spec=spec, problem=problem, source=code, origin=origin, trials=expand(spec, source=code))
    return with_recorded(plan, ())


def snapshot_of(spec: StudySpec, folder: Path) -> Snapshot:
    """Return a snapshot of the user's current modules, for a study file in `folder`.

    Raises:
        UserError: a module is not found, or can't be stored.
    """
    use_snapshot(Snapshot(roots=(str(folder),)))  # discards modules that an earlier study in this process loaded
    kinds = {name: arm.kind for name, arm in spec.optimizers.items()}
    return take_snapshot(spec.required_problem, str(folder), kinds, code=spec.code)


def with_recorded(plan: Plan, recorded: Sequence[Trial]) -> Plan:
    """Return a plan with the trials that earlier commands generated, and placeholders for future ones."""
    spec, expander = plan.spec, Expander(plan.spec, source=plan.source)
    asked = Counter((trial.group, trial.confirmation) for trial in recorded)
    seeds = spec.seeds
    confirm = spec.search.confirm if spec.search else 0
    coming: list[Trial] = []
    for name, arm in spec.optimizers.items():
        count = arm.samples or (spec.search.round if spec.search else 0)
        cells = stand_ins(arm, count) if arm.adaptive else configurations(arm)[:1] if confirm else ()
        for batch_size in spec.batch_sizes:
            all_of_search = [expander.trial(name, cell, batch_size, seed) for cell in cells for seed in seeds]
            if arm.adaptive:
                coming += all_of_search[0 if arm.open_ended else asked[(name, batch_size), False] :]
            if confirm and not asked[(name, batch_size), True]:
                fresh = range(CONFIRMATION_SEEDS, CONFIRMATION_SEEDS + confirm)
                coming += [expander.trial(name, cells[0], batch_size, seed) for seed in fresh]
    return dataclasses.replace(plan, trials=plan.trials + tuple(recorded), stand_ins=tuple(coming))


def with_search_seconds(plan: Plan, seconds: Mapping[Group, float]) -> Plan:
    """Return a plan with the device-seconds that earlier commands used, without searches that have none left."""
    plan = dataclasses.replace(plan, search_seconds=seconds)
    kept = tuple(trial for trial in plan.stand_ins if trial.confirmation or plan.seconds_left(trial.group) != 0)
    return dataclasses.replace(plan, stand_ins=kept)


def available_workers(threads: int) -> int:
    """Return the number of packs this machine can train at once, with one core per math thread."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // threads)
