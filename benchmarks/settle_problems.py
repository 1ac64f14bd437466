"""`settle` on real problems compared with the full grid and 12 fresh seeds, both trained here.

    python benchmarks/settle.py --problems

"Full grid" is 8 x 8 settings with 12 seeds each at every batch size and optimizer; the fastest setting is judged on 12
fresh seeds by the same rule at one look. Both ask the scaling question, at an error rate of 5%. Everything is trained
by the product's loop in this process, one pack at a time.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from sensitivity.execution.prepare import Plan, prepare_spec
from sensitivity.execution.replay import Replay
from sensitivity.settling import declare
from sensitivity.settling.judge_scaling import Judged, look
from sensitivity.settling.observing import observe
from sensitivity.settling.search import score
from sensitivity.store.schema import CURVE_COLUMNS
from sensitivity.store.writer import result_row, trial_row
from sensitivity.study.amendments import DEFAULT_SETTLING_RUNS, Declaration, Observation
from sensitivity.study.ledger import Declared
from sensitivity.study.schedule import total_steps
from sensitivity.study.seed_ranges import first_seed
from sensitivity.study.spec import StudySpec
from sensitivity.study.trials import Expander, Trial, group
from sensitivity.training.pack_training import PackTraining

GRID, SEEDS, PACK = 8, 12, 96
_COMMON = {
    "batch_sizes": [16, 64, 256],
    "seeds": SEEDS,
    "budget": {"steps": 150},
    "evaluation": {"train_examples": 16},
    "targets": {"test_accuracy": [0.88]},
}
PROBLEMS = (
    {
        **_COMMON,
        "name": "perceptron 64-16-10 on digits, K-FAC against SGD",
        "problem": {"dataset": "digits", "model": "perceptron", "model_arguments": {"width": 16, "depth": 1}},
        "optimizers": {
            "sgd": {
                "kind": "sgd",
                "lr": {"log": [1e-2, 1.0], "points": GRID},
                "momentum": [0.0, 0.25, 0.5, 0.65, 0.75, 0.85, 0.9, 0.95],
            },
            "kfac": {
                "kind": "kfac",
                "lr": {"log": [3e-3, 1.0], "points": GRID},
                "damping": {"log": [1e-2, 3.0], "points": GRID},
                "momentum": 0.5,
            },
        },
    },
    {
        **_COMMON,
        "name": "logistic regression on digits, Adam against SGD",
        "problem": {"dataset": "digits", "model": "logistic_regression:logistic"},
        "optimizers": {
            "sgd": {
                "kind": "sgd",
                "lr": {"log": [1e-2, 1.0], "points": GRID},
                "momentum": [0.0, 0.25, 0.5, 0.65, 0.75, 0.85, 0.9, 0.95],
            },
            "adam": {
                "kind": "adam",
                "lr": {"log": [1e-3, 0.3], "points": GRID},
                "eps": {"log": [1e-8, 1e-2], "points": GRID},
            },
        },
    },
)


class Trained:
    """The runs of a problem, each trained once."""

    def __init__(self, fields: dict[str, object]) -> None:
        spec = StudySpec.model_validate({**fields, "name": "problem"})
        self.plan: Plan = prepare_spec(spec, folder=Path(__file__).parent, source=str(fields["name"]))
        size = self.plan.problem.dataset.train_size
        caps = [total_steps(spec.required_budget, train_size=size, batch_size=batch) for batch in spec.batch_sizes]
        self.declaration: Declaration = declare(spec, "", caps, questions=("scaling",))

    def train(self, trials: Sequence[Trial]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the tables of runs and curves of some trials."""
        rows, curves = [], []
        for pack in group(trials, PACK):
            training = PackTraining(pack, self.plan.problem, micro_batch=None)
            training.measure()
            while (until := training.next_evaluation) is not None:
                training.advance(until)
                training.measure()
            for run in training.results():
                rows.append({**trial_row(run.trial), **result_row(run)})
                curves += [{"trial_id": run.trial.id, **asdict(each)} for each in run.measurements]
        return pd.DataFrame(rows), pd.DataFrame(curves, columns=list(CURVE_COLUMNS))

    def settle(self) -> tuple[str, str, int]:
        """Return the answer of `settle`, its text, and its number of runs."""
        declared = Declared(declaration=self.declaration, hash=self.declaration.hash)
        replay, taken = Replay(self.plan.spec, self.plan.source, declared), 0
        while True:
            taken += sum(entry.cost.runs for entry in replay.advance())
            if replay.step is None:
                break
            if taken + len(replay.step.points) > DEFAULT_SETTLING_RUNS:
                replay.stop(f"the budget of {DEFAULT_SETTLING_RUNS:,} runs ends here")
                break
            replay.add_runs(*self.train(replay.missing))
        assert replay.settlement is not None
        (answer,) = replay.settlement.answers
        return answer.answer, answer.says, taken

    def grid(self) -> tuple[str, str, int]:
        """Return the answer of the full grid with fresh judging seeds, its text, and its number of runs."""
        spec, expander = self.plan.spec, Expander(self.plan.spec, source=self.plan.source)
        (claim,) = self.declaration.claims
        judged, taken = {}, 0
        for arm in self.declaration.arms:
            levels = [axis.grid() for axis in spec.optimizers[arm.name].axes().values()]
            cells = [tuple(zip((s.name for s in arm.sides), at, strict=True)) for at in itertools.product(*levels)]
            runs: dict[int, list[Observation]] = {}
            for size in spec.batch_sizes:
                seen = self._observe([expander.trial(arm.name, c, size, seed) for c in cells for seed in range(SEEDS)])
                took = np.array([score(one)[0] if one.success else math.inf for one in seen]).reshape(-1, SEEDS)
                fastest, first = cells[int(took.mean(axis=1).argmin())], first_seed("confirmation")
                runs[size] = self._observe([expander.trial(arm.name, fastest, size, first + k) for k in range(SEEDS)])
                taken += len(seen) + SEEDS
            judged[arm.name] = Judged(runs)
        none = dict.fromkeys(spec.batch_sizes, 0.0)
        arms = judged[claim.candidate], judged[claim.reference]
        found = look(claim, *arms, spec.batch_sizes, (none, none), (claim.alpha / 2, claim.alpha))
        low, high = (f"{math.exp(end):.3g}" if abs(end) < 50 else "no bound" for end in found.interval)
        return found.answer, found.reason or f"ratio {math.exp(found.log_ratio):.3g} ({low} to {high})", taken

    def _observe(self, trials: Sequence[Trial]) -> list[Observation]:
        found = observe(*self.train(trials), self.declaration.target)
        return [found[trial.id] for trial in trials]


HEAD = (
    "| problem | method | answer | runs | seconds of one core | what it says |\n| --- | --- | --- | ---: | ---: | --- |"
)


def rows() -> Iterator[str]:
    """Yield a table row for each problem and method."""
    torch.set_num_threads(1)
    for fields in PROBLEMS:
        trained = Trained(dict(fields))
        for name, method in (("settle", trained.settle), ("grid", trained.grid)):
            began = time.process_time()
            answer, says, taken = method()
            yield f"| {fields['name']} | {name} | {answer} | {taken:,} | {time.process_time() - began:.0f} | {says} |"
