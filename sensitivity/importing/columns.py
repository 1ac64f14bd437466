"""Column names that an import recognises. Other columns raise a question, or are reported as left out."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sensitivity.study.hyperparameters import HYPERPARAMETERS
from sensitivity.study.metrics import MetricName
from sensitivity.study.results import Status

ROLES: Mapping[str, tuple[str, ...]] = {
    "run": ("run", "run_id", "trial_id", "trial", "run_name", "trial_name"),
    "optimizer": ("optimizer", "optim", "opt", "optimizer_name", "optim_name"),
    "batch_size": ("batch_size", "batchsize", "bs", "train_batch_size"),
    "seed": ("seed", "random_seed", "rng_seed", "rng", "random_state"),
    "step": ("step", "steps", "global_step", "trainer_global_step", "iteration", "iterations", "iter", "iters"),
    "epoch": ("epoch", "epochs"),
    "status": ("status", "state"),
    "message": ("message", "error", "failure"),
    "started_at": ("started_at", "start_time", "datetime_start", "created_at"),
    "finished_at": ("finished_at", "end_time", "datetime_complete"),
    "train_seconds": ("train_seconds", "time_total_s", "runtime", "elapsed_seconds", "seconds"),
    "eval_seconds": ("eval_seconds",),
    "flops": ("flops",),
    "confirmation": ("confirmation",),
}
"""Column names by role, the most specific first."""

_HYPERPARAMETERS: Mapping[str, tuple[str, ...]] = {
    "lr": ("learning_rate", "learningrate", "base_lr", "max_lr", "initial_lr", "eta", "step_size"),
    "weight_decay": ("wd", "weightdecay", "l2"),
    "beta1": ("beta_1", "b1", "adam_beta1"),
    "beta2": ("beta_2", "b2", "adam_beta2"),
    "eps": ("epsilon", "adam_epsilon", "adam_eps"),
    "momentum": ("mom",),
    "clip_norm": ("grad_clip", "gradient_clip", "gradient_clip_val", "max_grad_norm"),
}
HYPERPARAMETER_NAMES: Mapping[str, str] = {
    **{name: name for name in HYPERPARAMETERS},
    **{alias: name for name, aliases in _HYPERPARAMETERS.items() for alias in aliases},
}
"""Hyperparameter by recognised column name."""

CONFIG_PREFIXES = ("config/", "config.", "param.", "params.", "params_", "hparams/", "hparams.", "hyperparameters.")
"""Prefixes of the names of settings in the files of trackers."""
_SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "val", "valid", "validation", "eval", "evaluation", "dev", "heldout"),
}
_KINDS = {"loss": ("loss", "nll", "xent"), "accuracy": ("acc", "accuracy", "top1", "precision1")}
ERRORS = ("err", "error")
"""Words in the names of columns that may be error rates, 1 - accuracy."""

STATUSES: Mapping[str, Status] = {
    **{status.value: status for status in Status},
    **dict.fromkeys(("finished", "complete", "success", "succeeded", "terminated", "done", "ok"), Status.COMPLETED),
    **dict.fromkeys(("crashed", "crash", "error", "errored", "fail"), Status.FAILED),
    **dict.fromkeys(("running", "paused", "preempting", "killed", "preempted"), Status.INTERRUPTED),
    **dict.fromkeys(("queued", "waiting", "scheduled", "created"), Status.PENDING),
    **dict.fromkeys(("pruned", "early_stopped", "stopped_early"), Status.STOPPED),
    **dict.fromkeys(("nan", "exploded"), Status.DIVERGED),
}
"""Statuses by the words that trackers use, in lower case."""


def plain_name(column: str) -> str:
    """Return a column's name in lower case with underscores, without the prefix that marks a setting."""
    bare = next((column.removeprefix(prefix) for prefix in CONFIG_PREFIXES if column.startswith(prefix)), column)
    return re.sub(r"[^a-z0-9]+", "_", bare.lower()).strip("_")


def is_setting(column: str) -> bool:
    """Whether a column is a setting according to its prefix."""
    return column.startswith(CONFIG_PREFIXES)


def measured(column: str) -> tuple[str | None, str | None]:
    """Return the split and the kind of a metric according to the column's name, each None if unknown."""
    words = set(plain_name(column).split("_"))
    split = next((name for name, aliases in _SPLITS.items() if words & set(aliases)), None)
    kind = next((name for name, aliases in _KINDS.items() if words & set(aliases)), None)
    return split, kind


def metric_name(split: str, kind: str) -> MetricName:
    """Return the name of the metric with a split and a kind."""
    names: dict[tuple[str, str], MetricName] = {
        ("train", "loss"): "train_loss",
        ("train", "accuracy"): "train_accuracy",
        ("test", "loss"): "test_loss",
        ("test", "accuracy"): "test_accuracy",
    }
    return names[split, kind]
