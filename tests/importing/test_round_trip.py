"""A study that was run here, its tables written as CSV and imported again: the same numbers and the same answers."""

import math
import re

import pytest

import sensitivity
from sensitivity.store.directory import place
from sensitivity.store.manifest import write_manifest
from sensitivity.store.reader import export_runs
from sensitivity.store.writer import append, write_plan
from sensitivity.study.load import parse_study
from sensitivity.study.results import Measurement, PackResult, RunResult, Status
from sensitivity.study.section import CONFIRMATION_SEEDS
from sensitivity.study.trials import Expander, expand

SPEC = {
    "name": "native",
    "batch_sizes": [32, 128, 512],
    "seeds": 10,
    "budget": {"steps": 400},
    "optimizers": {
        "sgd": {"kind": "sgd", "design": "sobol", "samples": 3, "lr": {"log": [1e-3, 1.0]}, "momentum": [0.0, 0.9]},
        "adamw": {"kind": "adamw", "design": "sobol", "samples": 3, "lr": {"log": [1e-4, 1e-1]}},
    },
    "targets": {"test_accuracy": [0.7, 0.9]},
    "search": {"objective": "steps_to_target", "target": {"test_accuracy": 0.9}, "confirm": 8},
}
STEPS = sorted({0, *(round(1.09**k) for k in range(70))})


def trained(trial):
    """Accuracy rises with a half time that depends on the setting, the batch size and the seed; high rates diverge."""
    values = dict(trial.hyperparameters)
    best = {"sgd": 0.1, "adamw": 0.01}[trial.arm]
    off = abs(math.log10(values["lr"] / best))
    half = 20 * (1 + 100 / trial.batch_size) * (1 + off) * (1 + (trial.seed % 7) / 50)
    half *= 1.0 if trial.arm == "sgd" else 1 + 0.2 * (trial.batch_size < 100)
    diverged = values["lr"] > 8 * best
    curve = [
        Measurement(
            step=step, epoch=step * trial.batch_size / 1000, lr=values["lr"], train_seconds=step / 100,
            flops=1e6 * step, train_loss=2.3 * 0.5 ** (step / half), test_accuracy=1 - 0.9 * 0.5 ** (step / half),
        )
        for step in STEPS
    ]  # fmt: skip
    if diverged:
        curve = [*curve[:10], Measurement(**{**vars(curve[10]), "train_loss": math.inf, "test_accuracy": 0.1})]
    last = curve[-1]
    return RunResult(
        trial=trial, status=Status.DIVERGED if diverged else Status.COMPLETED, measurements=tuple(curve),
        steps=last.step, epochs=last.epoch, train_seconds=last.train_seconds, eval_seconds=0.5, flops=last.flops,
    )  # fmt: skip


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The study as it was run, and as it was imported from its own tables."""
    folder = tmp_path_factory.mktemp("studies")
    spec = parse_study(SPEC, source="test")
    directory = place(str(folder / "native"))
    manifest = write_manifest(directory, spec, "")
    planned = expand(spec)
    expander = Expander(spec)
    best = {"sgd": (("lr", 0.1), ("momentum", 0.9)), "adamw": (("lr", 0.01),)}
    drawn = {trial.group: trial.hyperparameters for trial in sorted(planned, key=lambda each: _off(each, best))[::-1]}
    confirming = [
        expander.trial(*(arm, drawn[arm, size], size, seed))
        for arm, size in drawn
        for seed in range(CONFIRMATION_SEEDS, CONFIRMATION_SEEDS + 8)
    ]
    trials = (*planned, *confirming)
    write_plan(directory, trials, spec.hyperparameters)
    result = PackResult(
        runs=tuple(map(trained, trials)), pack_id="p", host="here", device="cpu", started_at=1e9, wall_seconds=1.0
    )
    append(directory, result, spec_hash=manifest.spec_hash, code_version="1", hyperparameters=spec.hyperparameters)
    native = sensitivity.open(folder / "native")

    settings = ["trial_id", "optimizer", "batch_size", "seed", "confirmation", "param.lr", "param.momentum", "status"]
    table = native.curves.merge(native.runs[[*settings, "eval_seconds"]], on="trial_id")
    table["train_loss"] = table["train_loss"].astype(object).where(table["train_loss"].notna(), "")
    table.to_csv(folder / "native.csv", index=False)
    designs = {
        name: {key: arm[key] for key in arm if key not in ("kind", "samples")}
        for name, arm in SPEC["optimizers"].items()
    }
    guessed = sensitivity.import_runs(folder / "native.csv", "guessed", storage=folder).spec
    assert guessed.measured() == ("train_loss", "test_accuracy")
    mapping = {
        "rows": "evaluations",
        "columns": {
            "run": "trial_id", "eval_seconds": "eval_seconds",
            **{name: name for name in ("optimizer", "batch_size", "seed", "confirmation", "status", "step", "epoch")},
            **{name: name for name in ("train_seconds", "flops")},
        },
        "hyperparameters": {"lr": "param.lr", "momentum": "param.momentum"},
        "metrics": {
            "train_loss": {"column": "train_loss", "unit": "as_is"},
            "test_accuracy": {"column": "test_accuracy", "unit": "fraction"},
        },
        "study": {"targets": SPEC["targets"], "optimizers": designs},
    }  # fmt: skip
    return native, sensitivity.import_runs(folder / "native.csv", "again", mapping=mapping, storage=folder)


def _off(trial, best):
    return abs(math.log10(dict(trial.hyperparameters)["lr"] / dict(best[trial.arm])["lr"]))


def plain(value):
    """Numbers rounded for what a CSV file and another order of summing leave; words as they are, ids left out."""
    if isinstance(value, str):
        return "id" if re.fullmatch("[0-9a-f]{16}", value) else value
    if isinstance(value, float):
        return "nan" if math.isnan(value) else float(f"{value:.9g}")
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    return value


def test_the_same_runs_and_costs(both):
    one, other = (study.results.summary.total for study in both)
    for name in ("planned", "completed", "diverged", "steps"):
        assert getattr(one, name) == getattr(other, name)
    for name in ("train_seconds", "eval_seconds", "flops"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-9)
    assert both[0].results.units == both[1].results.units


@pytest.mark.parametrize("exhibit", ["robustness", "scaling", "critical-batch-size", "prices", "best-of-k", "cost"])
def test_the_same_numbers_in_the_exhibits(both, exhibit):
    one, other = (study.table(exhibit) for study in both)
    assert list(one) == list(other)
    same = [name for name in one if not name.startswith(("pack", "seconds_a_step_"))]  # there were packs, here none
    assert len(one) > 0
    assert [plain(list(row)) for row in one[same].itertuples(index=False)] == [
        plain(list(row)) for row in other[same].itertuples(index=False)
    ]


def test_the_same_verdict(both):
    one, other = (study.results.claims for study in both)
    assert len(one) == len(other) == 2
    for native, again in zip(one, other, strict=True):
        assert (native.verdict.answer, native.verdict.question) == (again.verdict.answer, again.verdict.question)
        assert plain(native.verdict.effect.value) == plain(again.verdict.effect.value)
        assert plain(native.verdict.effect.interval) == plain(again.verdict.effect.interval)
        assert plain(native.verdict.p) == plain(again.verdict.p)
        # What was declared after the results were there is exploratory, whatever it says.
        assert (native.role, again.role) == ("confirmatory", "exploratory")
    assert {claim.verdict.answer for claim in one} != {"undetermined"}


def test_an_exported_table_of_runs_is_read_without_a_question(both, tmp_path):
    """One row a run: its end is all that is known, and that is the same."""
    native, _ = both
    (tmp_path / "runs.csv").write_bytes(export_runs(place(native.directory), ".csv"))
    ends = sensitivity.import_runs(tmp_path / "runs.csv", "ends", storage=tmp_path)
    keys = ["optimizer", "batch_size", "seed", "param.lr"]
    columns = [*keys, "status", "steps", "train_loss", "test_accuracy", "train_seconds", "eval_seconds", "flops"]
    one, other = (study.runs[columns].sort_values(keys, ignore_index=True) for study in (native, ends))
    for name in columns:
        assert plain(one[name].tolist()) == plain(other[name].tolist()), name
