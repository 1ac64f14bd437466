"""Cost of evaluations relative to training, for the shipped studies, with their own spacing and once per epoch.

    python benchmarks/evaluations.py [STUDY ...] [--members N] [--record]

One pack per optimizer and batch size is trained to its budget, with members spread over the optimizer's design and one
math thread. Seconds are CPU time of the thread, so that other work on the machine matters little. "an epoch apart" is
the same pack with `every_epochs = 1`, evaluated on both splits each time. cifar10_small, whose images are read from
$SENSITIVITY_DATA, is priced as `sensitivity plan` does it: from a few steps and evaluations of one trial. Studies for
accelerators are not trained here; instead, forward and backward passes are counted, with training an example counted as
three forward passes, without the optimizer's own work.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import torch
from record import circumstances

from sensitivity.study.load import load_study
from sensitivity.study.protocol import EvaluationSpec
from sensitivity.study.schedule import evaluation_steps, total_steps, training_steps
from sensitivity.study.spec import StudySpec
from sensitivity.study.trials import Pack, Trial, expand
from sensitivity.training import calibration, pack_training
from sensitivity.training.loop import train_pack
from sensitivity.training.memory import keep_freed_memory
from sensitivity.training.problems import Problem, load_problem

ROOT = Path(__file__).parents[1]
MEMBERS = {"quickstart": 64, "noisy_quadratic": 64}
"""Members of a pack, as these studies are run."""
PRICED = "cifar10_small"
COUNTED = {
    "cifar10_resnet20": (50_000, 10_000),
    "cifar10_resnet20_steps": (50_000, 10_000),
    "svhn_alexnet": (73_257, 26_032),
}
"""(training examples, test examples) of the studies for accelerators."""


@dataclass(frozen=True)
class Spent:
    """CPU seconds and evaluations of a pack."""

    train: float
    evaluation: float
    evaluations: int

    @property
    def share(self) -> float:
        """Evaluation time over training time."""
        return self.evaluation / self.train


def study(name: str) -> StudySpec:
    """Return a shipped study."""
    return load_study(ROOT / "search_spaces" / f"{name}.toml")


def train(trials: Sequence[Trial], problem: Problem) -> Spent:
    """Train a pack and return its CPU seconds."""
    pack_training.time = SimpleNamespace(perf_counter=time.thread_time)  # type: ignore[attr-defined, assignment]
    runs = train_pack(Pack(tuple(trials)), problem)
    return Spent(
        sum(run.train_seconds for run in runs),
        sum(run.eval_seconds for run in runs),
        max(len(run.measurements) for run in runs),
    )


def an_epoch_apart(trial: Trial) -> Trial:
    """Return the trial with evaluations once per epoch, as before their spacing grew."""
    spacing = EvaluationSpec(every_epochs=1, train_examples=trial.workload.evaluation.train_examples)
    return replace(trial, workload=replace(trial.workload, evaluation=spacing))


def measured(name: str, members: int) -> Iterator[str]:
    """Yield a table row for each optimizer of a study."""
    spec = study(name)
    problem = load_problem(spec.required_problem, folder=ROOT / "search_spaces")
    everything = [trial for trial in expand(spec) if trial.seed == spec.seeds[0]]
    for arm in spec.optimizers:
        now, before = Spent(0, 0, 0), Spent(0, 0, 0)
        counts = []
        for batch_size in spec.batch_sizes:
            trials = [trial for trial in everything if trial.group == (arm, batch_size)]
            trials = trials[:: max(1, len(trials) // members)][:members]  # the first has the smallest learning rate
            spent = train(trials, problem), train([an_epoch_apart(trial) for trial in trials], problem)
            counts.append((spent[0].evaluations, spent[1].evaluations))
            now = Spent(now.train + spent[0].train, now.evaluation + spent[0].evaluation, 0)
            before = Spent(before.train + spent[1].train, before.evaluation + spent[1].evaluation, 0)
            print(name, arm, batch_size, *(f"{s.evaluations}: {s.train:.2f} {s.evaluation:.2f}" for s in spent))
        yield (
            f"| {name} | {arm} | {', '.join(map(str, spec.batch_sizes))} | {members} "
            f"| {', '.join(str(a) for a, _ in counts)} | {now.train:.1f} | {now.evaluation:.1f} | **{now.share:.2f}** "
            f"| {', '.join(str(b) for _, b in counts)} | {before.share:.2f} |"
        )


def priced(name: str) -> Iterator[str]:
    """Yield a table row for each optimizer of a study that takes too long to train here."""
    spec = study(name)
    problem = load_problem(spec.required_problem, folder=ROOT / "search_spaces")
    calibration.time = SimpleNamespace(perf_counter=time.thread_time)  # type: ignore[attr-defined, assignment]
    for arm in spec.optimizers:
        trained = spent = 0.0
        for batch_size in spec.batch_sizes:
            first = next(trial for trial in expand(spec) if trial.group == (arm, batch_size))
            cost = calibration.calibrate([first], problem, memory_bytes=1e9)
            trained += cost.steps * cost.step_seconds
            spent += cost.evaluation_seconds
        sizes = ", ".join(map(str, spec.batch_sizes))
        yield f"| {name} | {arm} | {sizes} | {trained:.1f} | {spent:.1f} | **{spent / trained:.2f}** |"


def counted(name: str, train_size: int, test_size: int) -> str:
    """Return the table row of a study whose passes are counted."""
    spec, shares = study(name), []
    for evaluation in (spec.evaluation, EvaluationSpec(every_epochs=1, train_examples=spec.evaluation.train_examples)):
        spent = trained = 0.0
        for batch_size in spec.batch_sizes:
            sizes = {"train_size": train_size, "batch_size": batch_size}
            total = total_steps(spec.required_budget, **sizes)
            at = 1 + len(evaluation_steps(evaluation, total=total, **sizes))
            both = at if spec.asks_for_training else 1 + len(training_steps(evaluation, total=total, **sizes))
            spent += at * test_size + both * (evaluation.train_examples or train_size)
            trained += 3.0 * total * batch_size
        shares.append(spent / trained)
    return f"| {name} | {len(spec.batch_sizes)} | **{shares[0]:.3f}** | {shares[1]:.3f} |"


def main() -> None:
    """Print the tables, and record them on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"one of {', '.join(MEMBERS)}; default: all")
    parser.add_argument("--members", type=int, help="members of a pack; default: by study")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/evaluations.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    lines = [
        "# evaluations",
        "",
        f"{circumstances('torch')}; one math thread, CPU seconds; n = 1 pack of each optimizer and batch size.",
        "",
        "| study | optimizer | batch sizes | members of a pack | evaluations | training, s | evaluation, s "
        "| evaluation / training | evaluations an epoch apart | evaluation / training |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in options.studies or MEMBERS:
        lines += measured(name, options.members or MEMBERS[name])
    lines += [
        "",
        "Priced, of one run at each batch size:",
        "",
        "| study | optimizer | batch sizes | training, s | evaluation, s | evaluation / training |",
        "| --- | --- | --- | --- | --- | --- |",
        *priced(PRICED),
        "",
        "By passes counted, not measured, over all batch sizes of the studies for accelerators:",
        "",
        "| study | batch sizes | evaluation / training | an epoch apart |",
        "| --- | --- | --- | --- |",
        *(counted(name, *sizes) for name, sizes in COUNTED.items()),
    ]
    print("\n".join(lines))
    if options.record:
        (Path(__file__).parent / "results" / "evaluations.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
