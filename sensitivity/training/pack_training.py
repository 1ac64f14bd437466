"""``PackTraining``: the resumable training of a pack."""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sensitivity.study.results import PHASES, RunResult
from sensitivity.study.schedule import (
    divergence_patience,
    evaluation_steps,
    lr_multiplier,
    total_steps,
    training_steps,
)
from sensitivity.study.trials import Pack
from sensitivity.training.batches import PackBatches
from sensitivity.training.cost import step_flops
from sensitivity.training.evaluation import evaluate
from sensitivity.training.members import DivergenceMonitor, Fault, Member, still_training, stop_worse
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.precision import denormals_flushed
from sensitivity.training.problems import Problem
from sensitivity.training.recorded_steps import Steps
from sensitivity.training.step import make_optimizer

_CHECK_EVERY = {"cpu": 16, "cuda": 64}
"""Number of steps between checks of the members; a check synchronises an accelerator."""
_WORTH_DROPPING = 4
"""Between evaluations, faulty members are dropped once they make up at least one in this many."""


class PackTraining:
    """The networks, optimizer and data order of the members in training, and the results of all members so far."""

    def __init__(self, pack: Pack, problem: Problem, *, micro_batch: int | None) -> None:
        self._pack, self._problem, self._micro_batch = pack, problem.of(pack.trials[0].problem), micro_batch
        workload, batch_size = pack.trials[0].workload, pack.batch_size
        self._sizes = {"train_size": problem.dataset.train_size, "batch_size": batch_size}
        self.total = total_steps(workload.budget, **self._sizes)
        self._evaluations = evaluation_steps(workload.evaluation, total=self.total, **self._sizes)
        self._judged = {0, *training_steps(workload.evaluation, total=self.total, **self._sizes)}
        self._patience = divergence_patience(workload.evaluation, **self._sizes)
        self.done, self._lr_scale = 0, 0.0
        self._members = [Member(trial, 0.0, batch_size / problem.dataset.train_size) for trial in pack.trials]
        self._build(range(len(pack.trials)))
        flops = step_flops(self._problem, self._optimizer, batch_size)
        for member in self._members:
            member.step_flops = flops

    @property
    def left(self) -> int:
        """Number of members that have neither diverged nor been stopped."""
        return len(self._live)

    @property
    def next_evaluation(self) -> int | None:
        """Step of the next evaluation; None after the last one, or if no member is left."""
        place = bisect.bisect_right(self._evaluations, self.done)
        return self._evaluations[place] if self._live and place < len(self._evaluations) else None

    def advance(self, until: int, on_check: Callable[[], None] = lambda: None) -> None:
        """Train to step `until`. Diverged members accumulate no further results and are dropped soon.

        `on_check` is called every few steps before the end; the state can be saved then.
        """
        check_every = _CHECK_EVERY[self._model.device.type]
        while self.done < until and self._live:
            began, since = time.perf_counter(), self.done
            with denormals_flushed():
                for step in range(since, min(until, (since // check_every + 1) * check_every)):
                    self._take_step(step)
            self._record_progress(began, self.done - since)
            gone = self._find_faults()
            if self.done == until or gone * _WORTH_DROPPING >= len(self._live):
                self._drop()
            if self.done < until:
                on_check()

    def measure(self) -> None:
        """Measure the members that are left, and drop those that are above the divergence bound or pruned.

        Divergence and pruning are decided at the same steps even if the training split is measured more often.
        """
        if not self._live:
            return
        began = time.perf_counter()
        workload, judged = self._pack.trials[0].workload, self.done in self._judged
        with self._optimizer.evaluating(self._model.params):
            scores = evaluate(
                self._model,
                self._problem,
                train_examples=workload.evaluation.train_examples,
                chunk=self._batches.chunk,
                training=judged or workload.training_asked,
            )
        seconds = (time.perf_counter() - began) / len(self._live)
        for place, member in enumerate(self._live):
            member.eval_seconds += seconds
            member.measure(scores, place, lr_multiplier=self._lr_scale, judged=judged)
        if self._pack.trials[0].settings.get("prune") == "median" and judged and 0 < self.done < self.total:
            stop_worse(self._members)
        self._drop()

    def results(self) -> tuple[RunResult, ...]:
        """Return the result of every member, in the order of the pack."""
        return tuple(member.result() for member in self._members)

    def state(self) -> dict[str, Any]:
        """Return everything that determines the further training, as plain containers of tensors, numbers and strings.

        The tensors are not copies, so the state must be saved before training continues.
        """
        return {
            "done": self.done,
            "lr_scale": self._lr_scale,
            "members": [member.state() for member in self._members],
            "live": [self._members.index(member) for member in self._live],
            "model": self._model.state(),
            "optimizer": self._optimizer.state(),
            "monitor": self._monitor.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state returned by `state` for the same pack; results are then the same as without a break."""
        self.done, self._lr_scale = state["done"], state["lr_scale"]
        for member, kept in zip(self._members, state["members"], strict=True):
            member.restore(kept)
        self._build(state["live"])
        if self._live:
            self._model.restore(state["model"])
            self._optimizer.restore(state["optimizer"])
            self._monitor.restore(state["monitor"])

    def _build(self, live: Sequence[int]) -> None:
        self._live = [self._members[place] for place in live]
        trials = tuple(member.trial for member in self._live) or self._pack.trials[:1]
        seeds = [trial.seed for trial in trials]
        spec = self._pack.trials[0].workload.problem
        self._model = PackedModel(
            self._problem.build_model,
            seeds,
            products=self._problem.products,
            shipped=self._problem.shipped,
            began=len(self._pack.trials),
        )
        self._optimizer = make_optimizer(Pack(trials), self._model, self._problem, began=self._pack.trials)
        self._monitor = DivergenceMonitor(len(seeds), patience=self._patience)
        self._batches = PackBatches(
            seeds,
            self._problem,
            batch_size=self._pack.batch_size,
            micro_batch=spec.ghost_batch or self._micro_batch,
            augment=spec.augment == "crop_flip",
            drawn=self.done,
        )
        self._steps = Steps(self._model, self._problem, self._optimizer, self._batches)

    def _take_step(self, step: int) -> None:
        schedule = self._pack.trials[0].schedule
        self._lr_scale = lr_multiplier(schedule, step=step, total=self.total, **self._sizes)
        losses, failed = self._steps.take(step=step, lr_scale=self._lr_scale)
        self._monitor.observe(step, losses, failed)
        self.done += 1

    def _record_progress(self, began: float, steps: int) -> None:
        """Record each member's share of the time since `began`, and the optimizer's report on `steps` steps."""
        on_host = self._model.device.type == "cpu"
        if not on_host:
            torch.cuda.synchronize(self._model.device)
        seconds = (time.perf_counter() - began) / len(self._live)
        spent = {phase: each / len(self._live) for phase, each in self._optimizer.spent().items()}
        spent["gradients"] = seconds - sum(spent.values())
        clipping = self._optimizer.clipping()
        clips = None if clipping is None else [each.tolist() for each in clipping]
        for place, member in enumerate(self._live):
            member.train_seconds += seconds
            if not member.fault:
                member.steps = self.done
            if on_host:  # with an accelerator, the host's clock measures launches only
                for phase in PHASES:
                    member.phase_seconds[phase] = member.phase_seconds.get(phase, 0.0) + spent.get(phase, 0.0)
            if clips is not None and not member.fault:
                member.record_clipping(clips[0][place], clips[1][place], steps)

    def _find_faults(self) -> int:
        """Record the faults of members and their steps; return the number of faulty members not dropped yet."""
        for fault in self._monitor.faults([member.bound for member in self._live]):
            member = self._live[fault.place]
            if not member.fault:
                member.steps = fault.step
                member.fault = f"{self._reason(fault)} at step {fault.step}"
        return sum(bool(member.fault) for member in self._live)

    def _reason(self, fault: Fault) -> str:
        if fault.kind == "update failed":
            return self._optimizer.failure_reason(fault.place)
        if fault.kind == "loss above the bound":
            batches = "a batch" if self._patience == 1 else f"{self._patience} batches in a row"
            return f"loss of {batches} above the bound {self._live[fault.place].bound:.4g}"
        return fault.kind

    def _drop(self) -> None:
        """Remove faulty and stopped members from the computation."""
        kept = still_training(self._live)
        if len(kept) == len(self._live):
            return
        self._live = [self._live[place] for place in kept]
        if self._live:
            index = torch.tensor(kept, device=self._model.device)
            self._model.select(index)
            self._optimizer.select(index)
            self._batches.select(kept)
            self._monitor.select(kept)
            self._steps = Steps(self._model, self._problem, self._optimizer, self._batches)
