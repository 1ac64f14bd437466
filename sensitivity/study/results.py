"""The result of a run: status, curve and provenance. Failures are values rather than exceptions."""

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
    """The loss or an update was not finite, or the loss exceeded the divergence bound. Counts in every denominator."""
    STOPPED = "stopped"
    """Stopped early because it was worse than its pack's median. Counts as censored at the step where it stopped."""
    FAILED = "failed"
    """The user's code raised an exception, which is stored with its traceback. Not retried."""
    INTERRUPTED = "interrupted"
    """The machine or worker failed. Retried by the next `run`."""

    @property
    def final(self) -> bool:
        """Whether the status is final: `run` does not train such a run again."""
        return self in (Status.COMPLETED, Status.DIVERGED, Status.STOPPED, Status.FAILED)


LARGEST = 1e100
"""Larger metric values are stored as infinity; the perplexity of a diverging run grows exponentially."""
PHASES = ("gradients", "factors", "inverses", "precondition", "update")
"""Timed parts of a training step. An optimizer's work counts as "update" unless it reports parts, as K-FAC does."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One evaluation of a run. Metrics that the problem lacks, or of a split that was not measured, are NaN."""

    step: int
    epoch: float
    """Number of examples drawn so far divided by the training-set size."""
    lr: float
    """Learning rate of the last step before the evaluation, including the schedule."""
    effective_lr: float = math.nan
    """`lr` times the mean factor of the KL clip since the previous evaluation; NaN without a clip."""
    train_seconds: float
    """This run's share of its pack's training time so far, excluding evaluation."""
    flops: float
    """Floating-point operations of training so far."""
    train_loss: float
    """NaN at evaluations that skip the training split (``schedule.training_steps``)."""
    train_accuracy: float = math.nan
    test_loss: float = math.nan
    test_accuracy: float = math.nan
    further: Mapping[str, float] = field(default_factory=dict)
    """Other metrics of the study, by name."""

    def of(self, metric: str) -> float:
        """Return the value of a metric; NaN if it was not measured."""
        return float(getattr(self, metric) if metric in USUAL else self.further.get(metric, math.nan))

    def row(self) -> dict[str, float]:
        """Return its row of the table of curves, by column."""
        return {**{name: getattr(self, name) for name in _MEASURED}, **self.further}


_MEASURED = tuple(each.name for each in fields(Measurement) if each.name != "further")


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The result of one trial; the defaults describe a trial that never trained."""

    trial: Trial
    status: Status
    measurements: tuple[Measurement, ...] = ()
    """The first one, at step 0, is of the untrained network."""
    steps: int = 0
    """Steps trained; for a diverged run, the step at which divergence was detected."""
    epochs: float = 0.0
    """Number of examples drawn in these steps divided by the training-set size."""
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    """This run's share of its pack's evaluation time."""
    flops: float = 0.0
    clip_share: float = math.nan
    """Fraction of steps at which the KL clip was active; NaN without a clip."""
    phase_seconds: Mapping[str, float] = field(default_factory=dict)
    """This run's share of its pack's training time by phase, see ``PHASES``; empty if not measured."""
    message: str = ""
    """Why it diverged or failed."""
    traceback: str = ""


@dataclass(frozen=True, kw_only=True)
class PackResult:
    """The result of a pack, and where and when it was computed."""

    runs: tuple[RunResult, ...] = field(repr=False)
    """Not in the representation, which Ray Tune formats for every result, whether or not it is logged."""
    pack_id: str
    host: str
    device: str
    started_at: float
    """Seconds since the epoch, UTC."""
    wall_seconds: float
