"""Verification: recorded runs are trained again and compared, at the end of every `run` and by `verify`.

A pack is trained again with the same members in the same order, because only then is an exact comparison possible: on
the same machine, with the same code and packages, every loss must be equal to the last bit. Elsewhere rounding differs,
and training amplifies it if a network is near the edge of stability. There, only the scores of untrained networks are
compared, within a tolerance, which detects other data and other networks; differences in training are reported.
"""

from __future__ import annotations

import dataclasses
import math
import platform
import random
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from sensitivity.execution.sources import planned_trials
from sensitivity.store.directory import Place
from sensitivity.store.effective import PART, effective, from_parts, part_by_trial, results_by_status, rows_of
from sensitivity.store.manifest import Manifest, read_manifest
from sensitivity.store.parts import MergedError, read_run_tables
from sensitivity.store.reader import read_evaluations, read_plan
from sensitivity.study.execution import ExecutionSpec
from sensitivity.study.metrics import Metric
from sensitivity.study.provenance import code_version, package_versions
from sensitivity.study.results import RunResult, Status
from sensitivity.study.trials import Pack, Trial
from sensitivity.training.memory import keep_freed_memory
from sensitivity.training.pack_training import PackTraining
from sensitivity.training.precision import set_tf32
from sensitivity.training.problems import Problem

TOLERANCE = 1e-4
"""Relative tolerance of an untrained network's losses on another machine."""
SHARE = 0.005
"""Share of a command's time that is spent on training again at its end."""
_MIN_SECONDS = 0.25
"""Smallest time for training again, small compared with Ray's start."""
_MIN_EVALUATIONS = 2
"""Smallest number of evaluations of a run: of the untrained network, and after the last step."""
_TYPICAL_INTERVALS = 20
"""Number of intervals between evaluations of a typical run, to estimate the time to the first comparison."""
_COLUMNS = (
    *("status", "pack_id", "pack_size", "host", "device", "spec_hash", "code_version"),
    *("train_seconds", "eval_seconds"),
)
_TRAINED = (Status.COMPLETED.value, Status.DIVERGED.value, Status.STOPPED.value)
_NUMERIC_PACKAGES = ("torch", "numpy")
"""Packages whose versions affect rounding."""

Curve = Mapping[int, tuple[float, ...]]
"""Values of a run's metrics by step, in the order of ``RecordedPack.metrics``."""


@dataclass(frozen=True, kw_only=True)
class RecordedPack:
    """A recorded pack, without its curves."""

    pack: Pack
    part: str
    """Name of the part with its runs."""
    execution: ExecutionSpec
    """Execution settings of the command that trained it."""
    statuses: Mapping[str, str]
    """Statuses by trial id."""
    seconds: float
    """Training time."""
    eval_seconds: float
    host: str
    device: str
    versions: tuple[str, ...]
    """Versions of this package and of those that affect rounding."""
    is_part: bool
    """Whether it was trained as part of a pack that can't be reassembled."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Measured metrics of its runs."""
        return self.pack.trials[0].workload.problem.measured()

    def unlike(self) -> str:
        """Return the reason why results may differ in the last bits here; empty if they must be equal."""
        if self.is_part:
            return "alone"
        if self.device != "cpu":
            return "on an accelerator, which sums in no fixed order"
        if self.host != platform.node():
            return f"on another machine than {self.host}"
        return "with other code or packages" if self.versions != _versions() else ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of training a pack again."""

    optimizer: str
    batch_size: int
    runs: int
    steps: int
    """Number of steps that were trained again."""
    of_steps: int
    unlike: str
    """Reason why losses need not be equal to the last bit; empty if they must be."""
    largest: float
    """Largest relative difference of a loss, over all common evaluations."""
    faults: tuple[str, ...]
    """Unexpected differences, one line per run."""
    seconds: float

    def sentence(self) -> str:
        """Return the result as a sentence."""
        what = f"{self.runs} run{'s' * (self.runs != 1)} of {self.optimizer} at batch size {self.batch_size}"
        again = f"{what} trained again for {self.steps:,} of {self.of_steps:,} steps"
        if self.faults:
            return f"{again}: {len(self.faults)} differ"
        if self.unlike:
            again = f"{again}, {self.unlike}"
        if not self.largest:
            return f"{again}: equal to the last bit"
        return (
            f"{again}: untrained networks equal within {TOLERANCE:g}, losses differ by up to "
            f"{self.largest:.2g} in training"
        )

    def content(self) -> dict[str, Any]:
        """Return the result as JSON-like data, with place and time of the comparison."""
        done = {"host": platform.node(), "code_version": code_version(), "at": time.time()}
        largest = self.largest if math.isfinite(self.largest) else None
        return {**dataclasses.asdict(self), "largest": largest, "sentence": self.sentence(), **done}


def trained_parts(directory: Place, names: Sequence[str] | None = None) -> dict[str, list[str]]:
    """Return the ids of the runs that were trained, by the part with their results, among `names` or all parts."""
    read = partial(results_by_status, directory)
    tables = from_parts(directory, read_manifest(directory), read) if names is None else read(names)
    runs = effective(rows_of(tables))
    trained = runs[runs["status"].isin(_TRAINED)]
    return {str(part): list(ids) for part, ids in trained.groupby(PART, sort=False)["trial_id"]}


def planned(directory: Place, manifest: Manifest, ids: Collection[str]) -> dict[str, Trial]:
    """Return those of some trials that are in the plan, by id."""
    plan = read_plan(directory)
    wanted = pc.is_in(pa.array(plan["trial_id"], pa.string()), pa.array(sorted(ids), pa.string()))
    rows = plan[wanted.to_numpy(zero_copy_only=False)]
    return {trial.id: trial for trial in planned_trials(rows, manifest.spec, manifest.source)}


def recorded_packs(
    directory: Place, manifest: Manifest, parts: Mapping[str, Collection[str]], trials: Mapping[str, Trial]
) -> list[RecordedPack]:
    """Return the packs of some parts of a study, in no particular order.

    A run that was trained in a pack that can't be reassembled is returned as a pack of its own.

    Args:
        directory: study directory.
        manifest: its manifest.
        parts: runs of `trained_parts`.
        trials: trials by id; runs of others, which are no longer planned, are left out.
    """
    found: list[RecordedPack] = []
    for part, table in read_run_tables(directory, list(parts), ("trial_id", *_COLUMNS)).items():
        packs: dict[str, dict[str, Any]] = {}
        for row in table.to_pylist():
            packs.setdefault(row["pack_id"], {})[row["trial_id"]] = row
        trained = set(parts[part])
        for pack_id, rows in packs.items():
            known = [id_ for id_ in rows if id_ in trials and id_ in trained]
            whole = known == [*rows] and Pack(tuple(trials[id_] for id_ in known)).id == pack_id
            found += [
                _recorded([trials[id_] for id_ in members], part, rows, manifest, whole=whole)
                for members in ([known] if whole else [[id_] for id_ in known])
            ]
    return found


def _recorded(
    members: Sequence[Trial], part: str, rows: Mapping[str, Any], manifest: Manifest, *, whole: bool
) -> RecordedPack:
    own = {trial.id: rows[trial.id] for trial in members}
    first = own[members[0].id]
    then = manifest.specs.get(str(first["spec_hash"]), {})
    packages = then.get("packages", {})
    return RecordedPack(
        pack=Pack(tuple(members)),
        part=part,
        execution=ExecutionSpec.model_validate(then.get("spec", {}).get("execution", {})),
        statuses={id_: str(row["status"]) for id_, row in own.items()},
        seconds=sum(float(row["train_seconds"]) for row in own.values()),
        eval_seconds=sum(float(row["eval_seconds"]) for row in own.values()),
        host=str(first["host"]),
        device=str(first["device"]),
        versions=(str(first["code_version"]), *(str(packages.get(name)) for name in _NUMERIC_PACKAGES)),
        is_part=not whole and int(first["pack_size"]) > 1,
    )


def _versions() -> tuple[str, ...]:
    here = package_versions()
    return (code_version(), *(str(here.get(name)) for name in _NUMERIC_PACKAGES))


def sample(directory: Place, manifest: Manifest, runs: int, draw: random.Random) -> list[RecordedPack]:
    """Return the packs of `runs` random runs that were trained, each pack once."""
    parts = trained_parts(directory)
    trials = planned(directory, manifest, {id_ for ids in parts.values() for id_ in ids})
    known = sorted(trials)
    chosen = set(draw.sample(known, min(runs, len(known))))
    some = {part: ids for part, ids in parts.items() if not chosen.isdisjoint(ids)}
    packs = recorded_packs(directory, manifest, some, trials)
    return [each for each in packs if not chosen.isdisjoint(each.statuses)]


def choose(packs: Sequence[RecordedPack], seconds: float, draw: random.Random) -> RecordedPack | None:
    """Return a random pack that can be evaluated within `seconds`; None if there is none.

    Packs that can be trained for some steps in that time are preferred.
    """
    fitting = [each for each in packs if each.eval_seconds / _MIN_EVALUATIONS <= seconds]
    short = [each for each in fitting if each.seconds / _TYPICAL_INTERVALS <= seconds]
    return draw.choice(short or fitting) if fitting else None


def budget_seconds(elapsed: float) -> float:
    """Return the time for training again after a command of `elapsed` seconds."""
    return max(_MIN_SECONDS, SHARE * elapsed)


def curves_of(directory: Place, recorded: RecordedPack) -> dict[str, Curve]:
    """Return the recorded curve of each run of a pack, by trial id."""
    columns = ["trial_id", "step", *recorded.metrics]
    ids = set(recorded.statuses)
    try:
        table = read_evaluations(directory, recorded.part, columns, ids)
    except MergedError:  # the runs of a part are merged into one part
        table = read_evaluations(directory, str(part_by_trial(directory)[min(ids)]), columns, ids)
    curves: dict[str, dict[int, tuple[float, ...]]] = {id_: {} for id_ in recorded.statuses}
    for id_, step, *values in zip(*(table[name].to_pylist() for name in columns), strict=True):
        curves[id_][step] = tuple(math.nan if value is None else value for value in values)  # of a split left out
    return dict(curves)


def train_again(
    problem: Problem, recorded: RecordedPack, curves: Mapping[str, Curve], *, seconds: float = math.inf
) -> Comparison:
    """Train a recorded pack again from its start, and compare the curves.

    Args:
        problem: problem of the study, on the device.
        recorded: the pack.
        curves: recorded curves of its runs.
        seconds: time limit; an interval that would exceed it, according to the recorded times, is not started.
    """
    threads, execution = torch.get_num_threads(), recorded.execution
    torch.set_num_threads(execution.threads)
    keep_freed_memory()
    set_tf32(recorded.pack.trials[0].workload.problem.precision)
    began = time.perf_counter()
    try:
        training = PackTraining(recorded.pack, problem, micro_batch=execution.micro_batch)
        training.measure()
        while (until := training.next_evaluation) is not None:
            ahead = recorded.seconds * (until - training.done) / training.total
            if time.perf_counter() - began + ahead > seconds:
                break
            training.advance(until)
            training.measure()
    finally:
        torch.set_num_threads(threads)
    return compare(
        recorded,
        curves,
        training.results(),
        steps=training.total if training.next_evaluation is None else training.done,
        of_steps=training.total,
        seconds=time.perf_counter() - began,
    )


def compare(
    recorded: RecordedPack,
    curves: Mapping[str, Curve],
    again: Sequence[RunResult],
    *,
    steps: int,
    of_steps: int,
    seconds: float = 0.0,
) -> Comparison:
    """Compare runs that were trained again, for `steps` of `of_steps` steps, with their records."""
    faults, largest, unlike = [], 0.0, recorded.unlike()
    for run in again:
        before = {step: values for step, values in curves[run.trial.id].items() if step <= steps}
        now = {m.step: tuple(map(m.of, recorded.metrics)) for m in run.measurements}
        common = sorted(before.keys() & now.keys())
        largest = max([largest, *(_difference(recorded.metrics, before[step], now[step]) for step in common)])
        status = recorded.statuses[run.trial.id] if steps == of_steps else run.status.value
        fault = (
            _differs_untrained(recorded.metrics, before, now)
            if unlike
            else _differs(recorded.metrics, before, now) or _status_difference(status, run.status.value)
        )
        if fault:
            faults.append(f"{run.trial.label()}: {fault}")
    first = recorded.pack.trials[0]
    return Comparison(
        optimizer=first.arm,
        batch_size=first.batch_size,
        runs=len(again),
        steps=steps,
        of_steps=of_steps,
        unlike=unlike,
        largest=largest,
        faults=tuple(faults),
        seconds=seconds,
    )


def _differs_untrained(metrics: Sequence[Metric], before: Curve, now: Curve) -> str:
    difference = _difference(metrics, before[0], now[0]) if 0 in before and 0 in now else math.inf
    return f"untrained, its losses differ by {difference:.2g} of their value" if difference > TOLERANCE else ""


def _differs(metrics: Sequence[Metric], before: Curve, now: Curve) -> str:
    for step in sorted(before.keys() | now.keys()):
        if step not in now or step not in before:
            return f"evaluated at step {step} only {'now' if step in now else 'then'}"
        for name, old, new in zip(metrics, before[step], now[step], strict=True):
            if old != new and not (math.isnan(old) and math.isnan(new)):
                return f"{name} at step {step} was {old!r}, and is {new!r}"
    return ""


def _status_difference(before: str, now: str) -> str:
    return f"was {before}, and is {now}" if before != now else ""


def _difference(metrics: Sequence[Metric], before: Sequence[float], now: Sequence[float]) -> float:
    """Return the largest relative difference of the losses."""
    losses = [place for place, metric in enumerate(metrics) if metric.is_loss]
    return max(_relative(before[place], now[place]) for place in losses)


def _relative(before: float, now: float) -> float:
    if before == now or (math.isnan(before) and math.isnan(now)):
        return 0.0
    difference = abs(before - now) / max(abs(before), abs(now))
    return difference if math.isfinite(difference) else math.inf
