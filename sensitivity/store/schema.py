"""The columns of the study directory's tables, documented once.

Hyperparameters are columns ``param.<name>``, null where an optimizer has no such hyperparameter. Metrics are columns of
their own names, which begin with a split; those beside the usual ones are in the parts of studies that measure them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

import pyarrow as pa

from sensitivity.study.metrics import SPLITS, USUAL

SCHEMA_VERSION = 1
"""Written into study.json; another version is refused rather than misread."""

PLAN, RUNS, CURVES = "plan.parquet", "runs", "curves"
OBSERVED_PART = "observed-"
"""Begins the names of parts whose runs were trained elsewhere: what they cost, when, and at which rate may be NaN."""
PARAM_PREFIX = "param."

_F, _I, _S = pa.float64(), pa.int64(), pa.string()

TRIAL_COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "trial_id": (_S, "hash of all that determines the result; a run's key"),
    "cell_id": (_S, "the same without the seed: runs of one cell differ in the seed alone"),
    "optimizer": (_S, "name of the optimizer in the study file"),
    "kind": (_S, "the kind of optimizer, such as sgd or kfac; the import path of one of the user's"),
    "batch_size": (_I, "examples a step"),
    "seed": (_I, "fixes initialisation and data order"),
    "confirmation": (pa.bool_(), "whether it runs a winner again on a fresh seed, after it was chosen"),
}
"""Columns of plan.parquet, and the first of runs; ``param.*`` columns follow."""

PHASE_PREFIX = "seconds."
"""Before a phase of ``study.results.PHASES`` in a column name."""
_PHASE_WORDS = {
    "gradients": "forward and backward passes, and on the update of every optimizer but K-FAC",
    "factors": "K-FAC's factors",
    "inverses": "inverting them",
    "precondition": "preconditioning",
    "update": "K-FAC's update",
}

RESULT_COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "status": (_S, "completed, diverged, stopped, failed, interrupted; pending where no result is there yet"),
    "message": (_S, "why it diverged or failed"),
    "traceback": (_S, "of an exception in the problem's code"),
    "steps": (_I, "steps trained; of a diverged run, the step at which it was found out; 0 of a failed one"),
    "epochs": (_F, "examples drawn over training-set size"),
    "initial_train_loss": (_F, "training loss of the untrained network"),
    "train_loss": (_F, "at the last evaluation that measured it and found it finite"),
    "train_accuracy": (_F, "at that evaluation; NaN where the problem has no classes"),
    "test_loss": (_F, "at the last evaluation with a finite one"),
    "test_accuracy": (_F, "at that evaluation; NaN where the problem has no classes"),
    "train_seconds": (_F, "this run's share of its pack's training time, evaluation excluded"),
    "eval_seconds": (_F, "this run's share of its pack's evaluation time"),
    "flops": (_F, "floating-point operations of training (fma = 2), optimizer included"),
    "clip_share": (_F, "share of the steps whose KL clip bound; NaN without a clip"),
    **{
        f"{PHASE_PREFIX}{phase}": (_F, f"of train_seconds, the part spent on {words}; NaN where not measured")
        for phase, words in _PHASE_WORDS.items()
    },
    "pack_id": (_S, "the pack it was trained in"),
    "pack_size": (_I, "trials in that pack at its start"),
    "host": (_S, "machine that trained it"),
    "device": (_S, "cpu, or the accelerator's name"),
    "started_at": (pa.timestamp("us", tz="UTC"), "start of its pack"),
    "finished_at": (pa.timestamp("us", tz="UTC"), "when its result was recorded"),
    "spec_hash": (_S, "of the study as it was when the run was made; study.json keeps each"),
    "code_version": (_S, "of this package"),
}
"""Further columns of runs."""

NOTE_COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "note": (_S, "what people have noted of it (notes/)"),
    "tags": (_S, "the tags that it was given, separated by a comma and a space"),
}
"""The last columns of the table of runs, which no part has."""

CURVE_COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "trial_id": (_S, "the run"),
    "step": (_I, "steps trained before this evaluation; 0 is the untrained network"),
    "epoch": (_F, "examples drawn over training-set size"),
    "lr": (_F, "learning rate of the step before, schedule included"),
    "effective_lr": (_F, "lr times the mean factor of the KL clip since the evaluation before; NaN without a clip"),
    "train_seconds": (_F, "as in runs, up to here"),
    "flops": (_F, "as in runs, up to here"),
    "train_loss": (
        _F,
        "mean over the training split (or its first `train_examples`); NaN where this evaluation did not measure it, "
        "and of a diverged run whose loss is NaN",
    ),
    "train_accuracy": (_F, "fraction; NaN where train_loss was not measured"),
    "test_loss": (_F, "mean over the test split"),
    "test_accuracy": (_F, "fraction"),
}
"""Columns of curves."""


_METRIC = re.compile(rf"(?:{'|'.join(SPLITS)})_\w+")
_NO_METRICS = {"train_seconds"}


def metric_columns(names: Iterable[str]) -> list[str]:
    """Return those of the columns `names` that hold metrics: they begin with a split."""
    return [name for name in names if _METRIC.fullmatch(name) and name not in _NO_METRICS]


def further_metrics(names: Iterable[str]) -> list[str]:
    """Return those of the columns `names` that hold metrics beside the usual ones."""
    return [name for name in metric_columns(names) if name not in USUAL]


def _metrics(names: Iterable[str], where: str) -> list[pa.Field]:
    return _fields({str(name): (_F, f"{where}; NaN where it was not measured") for name in names})


def _fields(columns: dict[str, tuple[pa.DataType, str]]) -> list[pa.Field]:
    return [pa.field(name, kind, metadata={"description": text}) for name, (kind, text) in columns.items()]


def _params(names: Iterable[str]) -> list[pa.Field]:
    return [pa.field(PARAM_PREFIX + name, _F) for name in sorted(names)]


def plan_schema(params: Iterable[str]) -> pa.Schema:
    """Return the schema of plan.parquet for hyperparameters `params`."""
    return pa.schema([*_fields(TRIAL_COLUMNS), *_params(params)])


def runs_schema(params: Iterable[str], metrics: Iterable[str] = ()) -> pa.Schema:
    """Return the schema of a part of runs for hyperparameters `params`, and `metrics` beside the usual ones."""
    further = _metrics(metrics, "at the last evaluation of its split with a finite loss")
    return pa.schema([*_fields(TRIAL_COLUMNS), *_params(params), *_fields(RESULT_COLUMNS), *further])


def noted_schema(schema: pa.Schema) -> pa.Schema:
    """Return a schema of runs with what is noted of them."""
    return pa.schema([*schema, *_fields(NOTE_COLUMNS)])


@functools.cache
def curves_schema(metrics: tuple[str, ...] = ()) -> pa.Schema:
    """Return the schema of a part of curves, with `metrics` beside the usual ones."""
    return pa.schema([*_fields(CURVE_COLUMNS), *_metrics(metrics, "over the split that its name begins with")])
