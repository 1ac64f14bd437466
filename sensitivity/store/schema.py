"""Columns of the tables in a study directory.

Hyperparameters are columns ``param.<name>``, null for optimizers without the hyperparameter. Metrics are columns with
the metric's name, which begins with a split. Metrics other than the standard ones are only in the parts of studies that
measure them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

import pyarrow as pa

from sensitivity.study.metrics import SPLITS, USUAL

SCHEMA_VERSION = 1
"""Version of the tables, written to study.json; readers reject other versions."""

PLAN, RUNS, CURVES = "plan.parquet", "runs", "curves"
OBSERVED_PART = "observed-"
"""Prefix of parts with runs that were trained elsewhere, whose costs, times and learning rates may be NaN."""
PARAM_PREFIX = "param."

_F, _I, _S = pa.float64(), pa.int64(), pa.string()

TRIAL_COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "trial_id": (_S, "hash of everything that determines the result; key of the run"),
    "cell_id": (_S, "the same hash without the seed: runs of a cell differ only in the seed"),
    "optimizer": (_S, "name of the optimizer in the study file"),
    "kind": (_S, "kind of optimizer, such as sgd or kfac, or the import path of a user's own"),
    "batch_size": (_I, "examples per step"),
    "seed": (_I, "seed of the initialisation and the data order"),
    "confirmation": (pa.bool_(), "whether the run repeats a chosen winner on a fresh seed"),
}
"""Columns of plan.parquet, and the first columns of runs; ``param.*`` columns follow."""

PHASE_PREFIX = "seconds."
"""Prefix of columns for the phases in ``study.results.PHASES``."""
_PHASE_WORDS = {
    "gradients": "forward and backward passes, and the update of every optimizer but K-FAC",
    "factors": "K-FAC's factors",
    "inverses": "K-FAC's inverses",
    "precondition": "preconditioning",
    "update": "K-FAC's update",
}

RESULT_COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "status": (_S, "completed, diverged, stopped, failed or interrupted; pending without a result"),
    "message": (_S, "reason why the run diverged or failed"),
    "traceback": (_S, "traceback of an exception in the problem's code"),
    "steps": (_I, "steps trained; for a diverged run, the step at which divergence was detected; 0 for a failed one"),
    "epochs": (_F, "examples drawn, divided by the size of the training set"),
    "initial_train_loss": (_F, "training loss of the untrained network"),
    "train_loss": (_F, "training loss at the last evaluation at which it was measured and finite"),
    "train_accuracy": (_F, "training accuracy at that evaluation; NaN if the problem has no classes"),
    "test_loss": (_F, "test loss at the last evaluation at which it was finite"),
    "test_accuracy": (_F, "test accuracy at that evaluation; NaN if the problem has no classes"),
    "train_seconds": (_F, "the run's share of its pack's training time in seconds, without evaluation"),
    "eval_seconds": (_F, "the run's share of its pack's evaluation time in seconds"),
    "flops": (_F, "floating-point operations of training (fma = 2), including the optimizer"),
    "clip_share": (_F, "fraction of the steps at which the KL clip was active; NaN without a clip"),
    **{
        f"{PHASE_PREFIX}{phase}": (_F, f"part of train_seconds spent on {words}; NaN if not measured")
        for phase, words in _PHASE_WORDS.items()
    },
    "pack_id": (_S, "pack that the run was trained in"),
    "pack_size": (_I, "trials in the pack at its start"),
    "host": (_S, "machine that trained the run"),
    "device": (_S, "cpu, or the name of the accelerator"),
    "started_at": (pa.timestamp("us", tz="UTC"), "start of the pack"),
    "finished_at": (pa.timestamp("us", tz="UTC"), "time at which the result was recorded"),
    "spec_hash": (_S, "hash of the study at the time of the run; study.json contains all versions"),
    "code_version": (_S, "version of this package"),
}
"""Further columns of runs."""

NOTE_COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "note": (_S, "note of the run (notes/)"),
    "tags": (_S, "tags of the run, separated by a comma and a space"),
}
"""Last columns of the table of runs, which parts do not have."""

CURVE_COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "trial_id": (_S, "key of the run"),
    "step": (_I, "steps trained before this evaluation; 0 is the untrained network"),
    "epoch": (_F, "examples drawn, divided by the size of the training set"),
    "lr": (_F, "learning rate of the previous step, including the schedule"),
    "effective_lr": (_F, "lr times the mean factor of the KL clip since the previous evaluation; NaN without a clip"),
    "train_seconds": (_F, "train_seconds of the run up to this evaluation"),
    "flops": (_F, "flops of the run up to this evaluation"),
    "train_loss": (
        _F,
        "mean loss over the training split (or its first `train_examples`); NaN if this evaluation did not measure it, "
        "and for a diverged run whose loss is NaN",
    ),
    "train_accuracy": (_F, "accuracy on the training split, a fraction; NaN if train_loss was not measured"),
    "test_loss": (_F, "mean loss over the test split"),
    "test_accuracy": (_F, "accuracy on the test split, a fraction"),
}
"""Columns of curves."""


_METRIC = re.compile(rf"(?:{'|'.join(SPLITS)})_\w+")
_NO_METRICS = {"train_seconds"}


def metric_columns(names: Iterable[str]) -> list[str]:
    """Return the columns among `names` that contain metrics: their names begin with a split."""
    return [name for name in names if _METRIC.fullmatch(name) and name not in _NO_METRICS]


def further_metrics(names: Iterable[str]) -> list[str]:
    """Return the columns among `names` that contain metrics other than the standard ones."""
    return [name for name in metric_columns(names) if name not in USUAL]


def _metrics(names: Iterable[str], where: str) -> list[pa.Field]:
    return _fields({str(name): (_F, f"{where}; NaN if it was not measured") for name in names})


def _fields(columns: dict[str, tuple[pa.DataType, str]]) -> list[pa.Field]:
    return [pa.field(name, kind, metadata={"description": text}) for name, (kind, text) in columns.items()]


def _params(names: Iterable[str]) -> list[pa.Field]:
    return [pa.field(PARAM_PREFIX + name, _F) for name in sorted(names)]


def plan_schema(params: Iterable[str]) -> pa.Schema:
    """Return the schema of plan.parquet for the hyperparameters `params`."""
    return pa.schema([*_fields(TRIAL_COLUMNS), *_params(params)])


def runs_schema(params: Iterable[str], metrics: Iterable[str] = ()) -> pa.Schema:
    """Return the schema of a part of runs for the hyperparameters `params`, with `metrics` after the standard ones."""
    further = _metrics(metrics, "value at the last evaluation at which the loss of its split was finite")
    return pa.schema([*_fields(TRIAL_COLUMNS), *_params(params), *_fields(RESULT_COLUMNS), *further])


def noted_schema(schema: pa.Schema) -> pa.Schema:
    """Return a schema of runs with the columns of notes and tags."""
    return pa.schema([*schema, *_fields(NOTE_COLUMNS)])


@functools.cache
def curves_schema(metrics: tuple[str, ...] = ()) -> pa.Schema:
    """Return the schema of a part of curves, with `metrics` after the standard ones."""
    return pa.schema([*_fields(CURVE_COLUMNS), *_metrics(metrics, "value over the split that its name begins with")])
