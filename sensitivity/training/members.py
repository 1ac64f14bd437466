"""State of a pack's members: measurements, and when and why they diverged or stopped."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from sensitivity.study.metrics import USUAL
from sensitivity.study.results import LARGEST, Measurement, RunResult, Status
from sensitivity.study.trials import Trial
from sensitivity.training.evaluation import Scores


@dataclass(eq=False)
class Member:
    """One trial in training."""

    trial: Trial
    step_flops: float
    step_epochs: float
    """Epochs per step: batch size divided by training-set size."""
    measurements: list[Measurement] = field(default_factory=list)
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    phase_seconds: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    clip_sum: float = 0.0
    """Sum of the KL clip's factors over the `clip_steps` steps since the last evaluation."""
    clip_steps: int = 0
    clipped: float = 0.0
    """Number of steps at which the clip was active, out of `clippable` steps."""
    clippable: int = 0
    least_loss: float = math.inf
    """Smallest loss on the validation split, or on the training split if there is none; the criterion of pruning."""
    fault: str = ""
    """Why it diverged; empty if it has not."""
    stopped: str = ""
    """Why it was stopped early; empty if it was not."""

    @property
    def reached(self) -> float:
        """Smallest loss for pruning; infinite for a diverged member."""
        return math.inf if self.fault else self.least_loss

    @property
    def bound(self) -> float:
        """Training loss above which it has diverged; requires the measurement of the untrained network."""
        return self.trial.workload.evaluation.divergence_bound * self.measurements[0].train_loss

    def measure(self, scores: Scores, place: int, *, lr_multiplier: float, judged: bool) -> None:
        """Record the scores at index `place`; if `judged`, check their training loss for divergence."""
        lr = dict(self.trial.hyperparameters)["lr"] * lr_multiplier
        values = {name: _within(of[place].item()) for name, of in scores.items()}
        usual = {name: value for name, value in values.items() if name in USUAL}
        measured = Measurement(
            step=self.steps,
            epoch=self.steps * self.step_epochs,
            lr=lr,
            effective_lr=lr * self.clip_sum / self.clip_steps if self.clip_steps else math.nan,
            train_seconds=self.train_seconds,
            flops=self.steps * self.step_flops,
            train_loss=usual.pop("train_loss", math.nan),
            **usual,
            further={str(name): value for name, value in values.items() if name not in USUAL},
        )
        self.measurements.append(measured)
        self.clip_sum, self.clip_steps = 0.0, 0
        if not judged:
            return
        self.least_loss = min(self.least_loss, measured.further.get("validation_loss", measured.train_loss))
        if not measured.train_loss <= self.bound:  # NaN included
            loss = f"training loss {measured.train_loss:.4g} at step {self.steps}"
            self.fault = f"{loss}, above the bound {self.bound:.4g}"

    def record_clipping(self, summed: float, clipped: float, steps: int) -> None:
        """Record the sum of the KL clip's factors, and how many were below 1, over the last `steps` steps."""
        self.clip_sum += summed
        self.clip_steps += steps
        self.clipped += clipped
        self.clippable += steps

    def result(self) -> RunResult:
        """Return the current result of the run."""
        status = Status.DIVERGED if self.fault else Status.STOPPED if self.stopped else Status.COMPLETED
        return RunResult(
            trial=self.trial,
            status=status,
            measurements=tuple(self.measurements),
            steps=self.steps,
            epochs=self.steps * self.step_epochs,
            train_seconds=self.train_seconds,
            eval_seconds=self.eval_seconds,
            flops=self.steps * self.step_flops,
            clip_share=self.clipped / self.clippable if self.clippable else math.nan,
            phase_seconds=dict(self.phase_seconds),
            message=self.fault or self.stopped,
        )

    def state(self) -> dict[str, Any]:
        """Return everything recorded so far as plain containers of numbers and strings."""
        kept = {name: getattr(self, name) for name in _KEPT}
        rows = [dataclasses.astuple(m) for m in self.measurements]
        return {**kept, "phase_seconds": dict(self.phase_seconds), "measurements": rows}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state returned by `state`."""
        for name in _KEPT:
            setattr(self, name, state[name])
        self.phase_seconds = dict(self.phase_seconds)
        names = [each.name for each in dataclasses.fields(Measurement)]
        self.measurements = [Measurement(**dict(zip(names, row, strict=True))) for row in state["measurements"]]


_KEPT = (
    *("train_seconds", "eval_seconds", "phase_seconds", "steps", "fault", "stopped"),
    *("clip_sum", "clip_steps", "clipped", "clippable", "least_loss"),
)


Kind = Literal["loss not finite", "loss above the bound", "update failed"]
_KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Fault:
    """The first fault of a member."""

    place: int
    step: int
    """Number of steps completed before it."""
    kind: Kind


class DivergenceMonitor:
    """Finds the step at which each member first diverged or failed; losses stay on the device between checks."""

    def __init__(self, trials: int, *, patience: int | None = None) -> None:
        """Monitor `trials` members; `patience` consecutive batches above the bound are a fault, None disables this."""
        self._patience = patience
        self._seen: list[tuple[int, Tensor, Tensor | None]] = []
        self._above = torch.zeros(trials, dtype=torch.int64)
        """Number of consecutive batches above the bound, up to the last check."""
        self._first = torch.full((len(_KINDS), trials), -1)
        """Step of the first fault of each kind; -1 if there is none."""

    def observe(self, step: int, losses: Tensor, failed: Tensor | None) -> None:
        """Record the losses before `step`, and which members ``[trials]`` it failed to update."""
        self._seen.append((step, losses.clone(), None if failed is None else failed.clone()))

    def faults(self, bounds: Sequence[float]) -> list[Fault]:
        """Return the first fault of each member that has one; synchronises the device. `bounds` limit the losses."""
        if self._seen:
            steps = torch.tensor([step for step, _, _ in self._seen])
            losses = torch.stack([losses for _, losses, _ in self._seen])
            failed = [torch.zeros_like(losses[0], dtype=torch.bool) if f is None else f for _, _, f in self._seen]
            losses, stuck = losses.cpu(), torch.stack(failed).cpu()
            found = (~torch.isfinite(losses), self._too_long(losses > torch.tensor(bounds)), stuck)
            for first, where in zip(self._first, found, strict=True):
                new = where.any(0) & (first < 0)
                first[new] = steps[where.int().argmax(0)[new]]
            self._seen.clear()
        faults = []
        for place, firsts in enumerate(self._first.T.tolist()):
            known = [(step, k) for k, step in enumerate(firsts) if step >= 0]
            if known:
                step, k = min(known)
                faults.append(Fault(place, step, _KINDS[k]))
        return faults

    def _too_long(self, above: Tensor) -> Tensor:
        """Return where losses ``[steps, trials]`` have been `above` the bound long enough, and update the counts."""
        too_long = torch.zeros_like(above)
        if self._patience is not None and (above.any() or self._above.any()):
            for row, marks in zip(above, too_long, strict=True):
                self._above = torch.where(row, self._above + 1, 0)
                marks.copy_(self._above >= self._patience)
        return too_long

    def select(self, kept: Sequence[int]) -> None:
        """Keep only the members at `kept`; call it right after `faults`."""
        self._above, self._first = self._above[kept], self._first[:, kept]

    def state(self) -> dict[str, Tensor]:
        """Return the state as of the last call of `faults`."""
        return {"above": self._above, "first": self._first}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state returned by `state`."""
        self._above.copy_(state["above"])
        self._first.copy_(state["first"])


def _within(value: float) -> float:
    """Return a measured value, or infinity if it exceeds ``LARGEST``."""
    return math.copysign(math.inf, value) if abs(value) > LARGEST else value


def still_training(live: Sequence[Member]) -> list[int]:
    """Return the indices of the members that are still training."""
    return [place for place, member in enumerate(live) if not member.fault and not member.stopped]


def stop_worse(members: Sequence[Member]) -> None:
    """Stop training members whose best loss is worse than the pack's median.

    The median is over all members: stopped ones count with their best loss and diverged ones as worst. Hence a member
    in the better half of the original pack is never stopped.
    """
    median = statistics.median(member.reached for member in members)
    for place in still_training(members):
        member = members[place]
        split = "validation" if "validation_loss" in member.measurements[-1].further else "training"
        if member.reached > median:
            member.stopped = f"{split} loss {member.reached:.4g} by step {member.steps}, its pack's median {median:.4g}"
