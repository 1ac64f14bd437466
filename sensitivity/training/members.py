"""The members of a pack as they stand: what was measured, and what went wrong, and when."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sensitivity.study.results import Measurement, RunResult, Status
from sensitivity.study.trials import Trial
from sensitivity.training.evaluation import Scores


@dataclass(eq=False)
class Member:
    """One trial in training."""

    trial: Trial
    step_flops: float
    step_epochs: float
    """Epochs a step: batch size over training-set size."""
    measurements: list[Measurement] = field(default_factory=list)
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    phase_seconds: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    clip_sum: float = 0.0
    """Of the KL clip's factors, over the `clip_steps` steps since the last evaluation."""
    clip_steps: int = 0
    clipped: float = 0.0
    """Steps whose clip bound, of all `clippable` ones."""
    clippable: int = 0
    fault: str = ""
    """Why it diverged; empty while it has not."""
    stopped: str = ""
    """Why it was stopped early; empty while it was not."""

    @property
    def reached(self) -> float:
        """The least training loss measured; infinite of a diverged member."""
        return math.inf if self.fault else min(measured.train_loss for measured in self.measurements)

    def measure(self, scores: Scores, place: int, *, lr_multiplier: float) -> None:
        """Note the scores at `place`, and judge them by the divergence bound."""
        lr = dict(self.trial.hyperparameters)["lr"] * lr_multiplier
        measured = Measurement(
            step=self.steps,
            epoch=self.steps * self.step_epochs,
            lr=lr,
            effective_lr=lr * self.clip_sum / self.clip_steps if self.clip_steps else math.nan,
            train_seconds=self.train_seconds,
            flops=self.steps * self.step_flops,
            train_loss=scores.train_loss[place].item(),
            train_accuracy=scores.train_accuracy[place].item(),
            test_loss=scores.test_loss[place].item(),
            test_accuracy=scores.test_accuracy[place].item(),
        )
        self.measurements.append(measured)
        self.clip_sum, self.clip_steps = 0.0, 0
        bound = self.trial.workload.evaluation.divergence_bound * self.measurements[0].train_loss
        if not measured.train_loss <= bound:  # NaN included
            self.fault = f"training loss {measured.train_loss:.4g} at step {self.steps}, above the bound {bound:.4g}"

    def note_clipping(self, summed: float, clipped: float, steps: int) -> None:
        """Note the sum of the KL clip's factors, and how many were below 1, over the last `steps` steps."""
        self.clip_sum += summed
        self.clip_steps += steps
        self.clipped += clipped
        self.clippable += steps

    def result(self) -> RunResult:
        """Return what the run yields as it stands."""
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
        """Return what was noted so far, as plain containers of numbers and texts."""
        kept = {name: getattr(self, name) for name in _KEPT}
        rows = [dataclasses.astuple(m) for m in self.measurements]
        return {**kept, "phase_seconds": dict(self.phase_seconds), "measurements": rows}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        for name in _KEPT:
            setattr(self, name, state[name])
        self.phase_seconds = dict(self.phase_seconds)
        names = [each.name for each in dataclasses.fields(Measurement)]
        self.measurements = [Measurement(**dict(zip(names, row, strict=True))) for row in state["measurements"]]


_KEPT = (
    *("train_seconds", "eval_seconds", "phase_seconds", "steps", "fault", "stopped"),
    *("clip_sum", "clip_steps", "clipped", "clippable"),
)


class Watch:
    """At which step each live member first went wrong, noted without leaving the device."""

    def __init__(self, trials: int, device: torch.device) -> None:
        self._lost = torch.full((trials,), -1, device=device)
        self._stuck = torch.full((trials,), -1, device=device)

    def see(self, step: int, losses: Tensor, failed: Tensor | None) -> None:
        """Note the losses before `step` and the members ``[trials]`` that it could not update."""
        self._lost = torch.where(~torch.isfinite(losses) & (self._lost < 0), step, self._lost)
        if failed is not None:
            self._stuck = torch.where(failed & (self._stuck < 0), step, self._stuck)

    def faults(self) -> list[tuple[int, int, bool]]:
        """Return (place, step, whether its update failed rather than its loss) of each member that went wrong."""
        found = []
        for place, (lost, stuck) in enumerate(zip(self._lost.tolist(), self._stuck.tolist(), strict=True)):
            update_failed = stuck >= 0 and (lost < 0 or stuck < lost)
            if update_failed or lost >= 0:
                found.append((place, stuck if update_failed else lost, update_failed))
        return found

    def select(self, index: Tensor) -> None:
        """Keep only the members at `index`."""
        self._lost, self._stuck = self._lost[index], self._stuck[index]

    def state(self) -> dict[str, Tensor]:
        """Return what was noted so far."""
        return {"lost": self._lost, "stuck": self._stuck}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        self._lost.copy_(state["lost"])
        self._stuck.copy_(state["stuck"])


def unharmed(live: Sequence[Member]) -> list[int]:
    """Return the places of the members that train on."""
    return [place for place, member in enumerate(live) if not member.fault and not member.stopped]


def stop_worse(members: Sequence[Member]) -> None:
    """Stop the members of a pack that train on, and whose best so far is worse than the pack's median.

    Those that were stopped count with what they had reached, and diverged ones as worst. So it is not half of those
    left that goes each time: whoever is among the better half of all that started trains on.
    """
    median = statistics.median(member.reached for member in members)
    for place in unharmed(members):
        member = members[place]
        if member.reached > median:
            member.stopped = (
                f"training loss {member.reached:.4g} by step {member.steps}, its pack's median {median:.4g}"
            )
