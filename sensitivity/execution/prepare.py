"""Turn a study file into a checked plan: the study, its problem, all trials, and the packs to run."""

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
    """A study that has passed every check, expanded."""

    spec: StudySpec
    problem: Problem
    source: str
    """Hash of the user's own code, and of an image folder's content; empty for shipped problems."""
    origin: Origin
    """What every process loads the problem from, and what must come of it."""
    trials: tuple[Trial, ...]
    """Those known so far."""
    stand_ins: tuple[Trial, ...] = ()
    """As many as searches and confirmations may still come up with, to judge by what these will cost; of a search that
    only its device-hours end, those of a round."""
    search_seconds: Mapping[Group, float] = field(default_factory=dict)
    """Device-seconds that runs of earlier commands have taken of each search's hours."""

    @property
    def expected(self) -> tuple[Trial, ...]:
        """All trials that will run, as far as known."""
        return self.trials + self.stand_ins

    @property
    def counted(self) -> tuple[Trial, ...]:
        """The trials in `expected` whose number is known; excludes searches limited by device-hours."""
        arms = self.spec.optimizers
        return self.trials + tuple(t for t in self.stand_ins if t.confirmation or not arms[t.arm].open_ended)

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
        """Return the trials that are not in `finished`, packed, in the order they should start.

        Packs of the sizes given by arm and batch size are made smaller where there would be fewer than two for each
        worker, so that none stays idle long, unless the study file says how large they are.

        Args:
            sizes: of packs.
            finished: ids of trials with a result.
            workers: packs at a time.
            begun: the ids of the trials of each pack that has a checkpoint: these packs come first, as they were cut.
        """
        by_id = {trial.id: trial for trial in self.trials if trial.id not in finished}
        first = tuple(Pack(tuple(by_id.pop(trial) for trial in ids)) for ids in begun)
        missing = list(by_id.values())
        even = max(1, -(-len(missing) // (2 * workers)))
        packs = group(missing, self.spec.execution.pack_size or {key: min(size, even) for key, size in sizes.items()})
        place = {seed: k for k, seed in enumerate(self.spec.seeds)}  # confirmations come last
        # Earlier seeds first, so that whole maps fill early; smaller batches first, because they take longest.
        return first + tuple(
            sorted(packs, key=lambda pack: (place.get(pack.trials[0].seed, len(place)), pack.batch_size))
        )


def prepare(study: str, *, for_price: bool = False) -> Plan:
    """Find, validate and expand a study, and check it against its data set and model; `for_price` as of `prepare_spec`.

    Raises:
        UserError: whatever is wrong with the study, all at once where possible.
    """
    path = find_study(study)
    return prepare_spec(load_study(path), folder=path.resolve().parent, source=str(path), for_price=for_price)


def prepare_spec(spec: StudySpec, *, folder: Path, source: str, for_price: bool = False) -> Plan:
    """Expand a study, and check it against its data set and model.

    Args:
        spec: the study.
        folder: for paths relative to it and for modules.
        source: of the study, for messages.
        for_price: whether it will only be priced, so that a data set that would have to be downloaded need not be.

    Raises:
        UserError: whatever is wrong with the study, all at once where possible.
    """
    finder = use_snapshot(snapshot_of(spec, folder))
    with finder.recording():
        problem = load_problem(spec.required_problem, folder=folder, for_price=for_price)
        check_study(spec, problem, source=source)
        found = identity(problem)
        if spec.required_problem.has_own_data:
            again = load_problem(spec.required_problem, folder=folder).dataset
            check_repeats(found, again, named=spec.required_problem.dataset)
    snapshot = finder.snapshot  # with what was imported meanwhile
    code = "-".join(part for part in (snapshot.hash, problem.dataset.fingerprint) if part)
    origin = Origin(problem=spec.required_problem.fixed(), snapshot=snapshot, identity=found)
    plan = Plan(spec=spec, problem=problem, source=code, origin=origin, trials=expand(spec, source=code))
    return with_recorded(plan, ())


def snapshot_of(spec: StudySpec, folder: Path) -> Snapshot:
    """Return a snapshot of the user's current modules, for a study file in `folder`.

    Raises:
        UserError: one is not found, or can't be kept.
    """
    use_snapshot(Snapshot(roots=(str(folder),)))  # what an earlier study in this process has loaded is forgotten
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
    """Return a plan with the device-hours that earlier commands used, and the searches that have none left."""
    plan = dataclasses.replace(plan, search_seconds=seconds)
    kept = tuple(trial for trial in plan.stand_ins if trial.confirmation or plan.seconds_left(trial.group) != 0)
    return dataclasses.replace(plan, stand_ins=kept)


def available_workers(threads: int) -> int:
    """Return the number of packs this machine can train at once, with one core per math thread."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // threads)
