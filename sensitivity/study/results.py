"""The result of a run: status, curve and provenance. Failure is a value here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum

from sensitivity.study.metrics import USUAL
from sensitivity.study.trials import Trial


class Status(StrEnum):
    """The status of a planned run. Every planned run has exactly one (docs/statistics.md, section 0)."""

    PENDING = "pending"
    """Planned, no result yet."""
    COMPLETED = "completed"
    """Trained to its budget with a finite loss."""
    DIVERGED = "diverged"
    """Loss or update not finite, or loss above the divergence bound. Counts in every denominator."""
    STOPPED = "stopped"
    """Stopped early for being worse than its pack's median. Counts as censored where it stopped."""
    FAILED = "failed"
    """The user's code raised; the message and traceback are kept. Not retried."""
    INTERRUPTED = "interrupted"
    """The machine failed under it. Retried by the next `run`."""

    @property
    def final(self) -> bool:
        """Whether the status is final: `run` does not train such a run again."""
        return self in (Status.COMPLETED, Status.DIVERGED, Status.STOPPED, Status.FAILED)


LARGEST = 1e100
"""Values of metrics beyond this are infinite: the perplexity of a run that diverges is an exponential."""
PHASES = ("gradients", "factors", "inverses", "precondition", "update")
"""Parts of a training step. An optimizer's work is its update, but for what it tells apart, as K-FAC does."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One evaluation of a run. Metrics that the problem lacks are NaN, and those of a split that it did not measure."""

    step: int
    epoch: float
    """Examples drawn over training-set size."""
    lr: float
    """Learning rate of the step before the evaluation, schedule included."""
    effective_lr: float = math.nan
    """The same times the mean factor of the KL clip since the evaluation before; NaN without a clip."""
    train_seconds: float
    """This run's share of its pack's training time so far, evaluation excluded."""
    flops: float
    """Floating-point operations of training so far."""
    train_loss: float
    """NaN at evaluations that leave out the training split (``schedule.training_steps``)."""
    train_accuracy: float = math.nan
    test_loss: float = math.nan
    test_accuracy: float = math.nan
    further: Mapping[str, float] = field(default_factory=dict)
    """Other metrics of the study, by name."""

    def of(self, metric: str) -> float:
        """Return the value of a metric; NaN where it was not measured."""
        return float(getattr(self, metric) if metric in USUAL else self.further.get(metric, math.nan))

    def row(self) -> dict[str, float]:
        """Return its columns in the table of curves."""
        return {
            **{each.name: getattr(self, each.name) for each in fields(self) if each.name != "further"},
            **self.further,
        }


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The result of one trial; the defaults describe a trial that never trained."""

    trial: Trial
    status: Status
    measurements: tuple[Measurement, ...] = ()
    """The first is at step 0, of the untrained network."""
    steps: int = 0
    """Steps trained; for a diverged run, the step at which it was found out."""
    epochs: float = 0.0
    """Examples drawn in these steps, over training-set size."""
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    """This run's share of its pack's time in evaluations."""
    flops: float = 0.0
    clip_share: float = math.nan
    """Share of the steps whose KL clip bound; NaN without a clip."""
    phase_seconds: Mapping[str, float] = field(default_factory=dict)
    """This run's share of its pack's training time by phase, see ``PHASES``; empty where it was not measured."""
    message: str = ""
    """Why it diverged or failed."""
    traceback: str = ""


@dataclass(frozen=True, kw_only=True)
class PackResult:
    """The result of a pack, and where and when it was computed."""

    runs: tuple[RunResult, ...]
    pack_id: str
    host: str
    device: str
    started_at: float
    """Seconds since the epoch, UTC."""
    wall_seconds: float
