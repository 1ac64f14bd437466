"""Tables of runs with a known answer, and with each defect that has to be found, counted and told."""

import contextlib
import itertools
import json
import math

import pandas as pd
import pyarrow as pa
import pytest

import sensitivity
from dashboards.address import Address
from dashboards.app import create_app  # noqa: F401 - the modules of pages import each other
from dashboards.blocks import FixedBlock, TextBlock
from dashboards.catalog import Catalog
from dashboards.pages import blocks_of, pages
from dashboards.site import Site
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.importing.guess import guess
from sensitivity.importing.mapping import mapping_of, read_mapping
from sensitivity.importing.tables import Source
from sensitivity.report import write_report
from sensitivity.store.directory import place
from sensitivity.study.errors import UserError

LRS, SEEDS, SIZES = (0.01, 0.1), range(3), (32, 64)
METRICS = {
    "train_loss": {"column": "loss", "unit": "as_is"},
    "test_accuracy": {"column": "val_acc", "unit": "percent"},
}
MAPPING = {
    "rows": "evaluations",
    "columns": {"run": "run", "optimizer": "opt", "batch_size": "bs", "seed": "seed", "step": "step"},
    "hyperparameters": {"lr": "learning_rate"},
    "metrics": METRICS,
    "study": {"targets": {"test_accuracy": [0.8]}},
}


def evaluations(**changes):
    """A grid of 2 optimizers, 2 batch sizes, 2 rates and 3 seeds: at step 10 k, k of 0..10, 10 k percent are right."""
    rows = []
    for opt in ("sgd", "adamw"):
        for bs in SIZES:
            for lr in LRS:
                for seed in SEEDS:
                    run = f"{opt}-{bs}-{lr}-{seed}"
                    pace = 2 if lr == 0.1 else 1  # a rate of 0.1 is twice as fast
                    for k in range(11):
                        accuracy = min(10.0 * k * pace, 100.0)
                        rows.append(
                            {
                                "run": run, "opt": opt, "bs": bs, "learning_rate": lr, "seed": seed, "step": 10 * k,
                                "loss": 1 - accuracy / 100, "val_acc": accuracy,
                            }
                        )  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(**changes) if changes else table


def imported(table, tmp_path, mapping=None, **changes):
    path = tmp_path / "runs.csv"
    table.to_csv(path, index=False)
    return sensitivity.import_runs(path, "mine", mapping={**(mapping or MAPPING), **changes}, storage=tmp_path)


def cautions(study):
    return "\n".join(study.spec.observed.cautions)


def test_a_whole_grid_is_read_number_by_number(tmp_path):
    table = evaluations()
    study = imported(table, tmp_path)
    assert cautions(study) == ""
    assert study.spec.designs == {"sgd": "grid", "adamw": "grid"}
    assert study.spec.axes["sgd"]["lr"].grid() == LRS
    assert (study.spec.batch_sizes, study.spec.seeds) == (SIZES, tuple(SEEDS))
    runs = study.runs
    assert len(runs) == 24
    assert set(runs["status"]) == {"completed"}
    assert runs[["flops", "train_seconds"]].isna().all(axis=None)
    assert set(runs["steps"]) == {100}
    assert runs["initial_train_loss"].eq(1.0).all()
    merged = study.curves.merge(runs[["trial_id", "optimizer", "batch_size", "param.lr", "seed"]], on="trial_id")
    keys = ["optimizer", "batch_size", "param.lr", "seed", "step"]
    found = merged.sort_values(keys)[[*keys, "train_loss", "test_accuracy"]].to_numpy()
    told = table.assign(val_acc=table["val_acc"] / 100).sort_values(["opt", "bs", "learning_rate", "seed", "step"])
    assert (found == told[["opt", "bs", "learning_rate", "seed", "step", "loss", "val_acc"]].to_numpy()).all()
    # 80% are right at step 40 at the better rate, and 70% or fewer at the evaluation before.
    (curve, _) = study.results.scaling("steps")
    assert [point.bounds for point in curve.points] == [(pytest.approx(30), pytest.approx(40))] * 2
    assert study.results.units == ("steps",)
    assert {claim.role for claim in study.results.claims} == {"exploratory"}


def test_rows_of_runs_and_json_lines_give_the_same_ends(tmp_path):
    ends = evaluations().groupby("run", as_index=False).last()
    by_row = imported(ends, tmp_path, rows="runs")
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in evaluations().to_dict("records")))
    lines = sensitivity.import_runs(path, "lines", mapping=MAPPING, storage=tmp_path)
    columns = ["trial_id", "steps", "train_loss", "test_accuracy", "status"]
    one, other = (each.runs[columns].sort_values("trial_id", ignore_index=True) for each in (by_row, lines))
    assert one.equals(other)
    table = pd.DataFrame(evaluations())
    table.to_parquet(tmp_path / "runs.parquet")
    parquet = sensitivity.import_runs(tmp_path / "runs.parquet", "parquet", mapping=MAPPING, storage=tmp_path)
    assert parquet.curves.equals(lines.curves)


def run_rows(table, opt="sgd", bs=32, lr=0.01, seed=0):
    return (table["opt"] == opt) & (table["bs"] == bs) & (table["learning_rate"] == lr) & (table["seed"] == seed)


def test_missing_cells_are_pending_and_block_the_verdict(tmp_path):
    table = evaluations()
    study = imported(table[~run_rows(table) & ~run_rows(table, seed=1)], tmp_path)
    assert "missing from the source: 2." in cautions(study)
    assert dict(study.runs["status"].value_counts()) == {"completed": 22, "pending": 2}
    assert all(claim.verdict.answer == "undetermined" for claim in study.results.claims)
    assert "Make the missing runs and import them: 2 of 24 planned runs" in str(study.verdict())
    assert "missing from the source: 2." in str(study.verdict())


def test_crashed_and_running_runs_have_their_status(tmp_path):
    table = evaluations(state="finished")
    table.loc[run_rows(table), "state"] = "crashed"
    table.loc[run_rows(table, seed=1), "state"] = "Running"
    table.loc[run_rows(table, seed=2), "state"] = "odd"
    columns = {**MAPPING["columns"], "status": "state"}
    with pytest.raises(UserError, match=r"the status 'odd' is unknown\n  Map it in \[statuses\]"):
        imported(table, tmp_path, columns=columns)
    study = imported(table, tmp_path, columns=columns, statuses={"odd": "stopped"})
    assert "Crashed or failed runs: 1." in cautions(study)
    assert "Runs still running, or interrupted: 1." in cautions(study)
    counts = dict(study.runs["status"].value_counts())
    assert counts == {"completed": 21, "failed": 1, "interrupted": 1, "stopped": 1}


def test_nan_loss_is_divergence_and_empty_loss_is_not_measured(tmp_path):
    table = evaluations()
    text = table.astype({"loss": object})
    text.loc[run_rows(table) & (table["step"] >= 50), "loss"] = "NaN"
    text.loc[run_rows(table, seed=1) & (table["step"] == 50), "loss"] = ""
    study = imported(text, tmp_path)
    assert dict(study.runs["status"].value_counts()) == {"completed": 23, "diverged": 1}
    runs = study.runs.set_index(["optimizer", "batch_size", "param.lr", "seed"])
    lost, whole = runs.loc[("sgd", 32, 0.01, 0)], runs.loc[("sgd", 32, 0.01, 1)]
    assert lost["train_loss"] == pytest.approx(0.6)  # the last finite one, at step 40
    gap = study.curves[(study.curves["trial_id"] == whole["trial_id"]) & (study.curves["step"] == 50)].iloc[0]
    assert math.isnan(gap["train_loss"])
    assert gap["test_accuracy"] == 0.5


def test_seeds_that_are_not_paired_are_counted(tmp_path):
    table = evaluations()
    moved = (table["opt"] == "sgd") & (table["seed"] == 2) & (table["bs"] == 32)
    study = imported(table.assign(seed=table["seed"].where(~moved, 7)), tmp_path)
    # At batch size 32 SGD ran seeds 0, 1, 7 and AdamW 0, 1, 2; at 64 both ran 0, 1, 2.
    assert "Seeds that only some optimizers ran, counted at each batch size: 2 of 7." in cautions(study)


def test_unknown_seeds_are_numbered_and_refuse_every_claim(tmp_path):
    columns = {name: value for name, value in MAPPING["columns"].items() if name != "seed"}
    study = imported(evaluations(), tmp_path, columns=columns)
    assert "Runs without a seed: 24." in cautions(study)
    assert sorted(study.runs["seed"].unique()) == [0, 1, 2]
    claims = study.results.claims
    assert {claim.verdict.answer for claim in claims} == {"undetermined"}
    assert all(claim.verdict.blocks[0].code == "unpaired" for claim in claims)


def test_settings_of_unknown_origin_refuse_what_needs_a_prior(tmp_path):
    table = evaluations()
    other = table.assign(learning_rate=table["learning_rate"] * (1 + table.groupby("run").ngroup() / 100))
    study = imported(other, tmp_path)
    assert set(study.spec.designs.values()) == {"observed"}
    assert "how they were chosen is not known" in cautions(study)
    results = study.results
    refused = [
        *(price.refused for price in results.prices),
        *(surface.refused for surface in results.success),
        *(found.refused for found in results.importance),
        *(curve.refused for curve in results.best_of_k),
        *(region.decades.refused for region in results.own_regions),
    ]
    assert {why and why.code for why in refused} == {"unknown-prior"}
    # A user who knows how they were drawn says so, and has them as draws.
    box = {"design": "random", "lr": {"log": [0.01, 0.2]}}
    declared = {**MAPPING["study"], "optimizers": {"sgd": box, "adamw": box}}
    drawn = imported(other, tmp_path, study=declared)
    assert set(drawn.spec.designs.values()) == {"random"}
    assert drawn.spec.axes["sgd"]["lr"].bounds() == (0.01, 0.2)
    assert all(price.refused is None for price in drawn.results.prices)


def test_an_adaptive_search_is_one_where_the_mapping_says_so(tmp_path):
    search = {"design": "tpe", "lr": {"log": [0.001, 1.0]}}
    objective = {"targets": {"test_accuracy": [0.8]}, "optimizers": {"sgd": search}}
    study = imported(evaluations(), tmp_path, study=objective)
    assert study.spec.designs == {"sgd": "tpe", "adamw": "grid"}
    assert study.results.success[0].refused.code == "adaptive"


def test_duplicates_are_counted_and_the_last_stands(tmp_path):
    table = evaluations()
    again = table[run_rows(table)].assign(run="again", loss=0.25, val_acc=75.0)
    study = imported(pd.concat([table, again]), tmp_path)
    assert "Duplicate runs, with equal optimizer, setting, batch size and seed: 1." in cautions(study)
    assert len(study.runs) == 24
    cell = study.runs.set_index(["optimizer", "batch_size", "param.lr", "seed"]).loc[("sgd", 32, 0.01, 0)]
    assert cell["train_loss"] == 0.25
    repeated = pd.concat([table, table[run_rows(table) & (table["step"] == 50)]])
    study = imported(repeated, tmp_path)
    assert "Further evaluations at the same step of a run: 1." in cautions(study)


def test_metrics_that_stop_early_are_censored_not_completed(tmp_path):
    table = evaluations()
    study = imported(table[~run_rows(table) | (table["step"] <= 40)], tmp_path)
    assert "Runs whose metrics stop early: 1." in cautions(study)
    assert dict(study.runs["status"].value_counts()) == {"completed": 23, "stopped": 1}
    longer = evaluations(state="completed")
    columns = {**MAPPING["columns"], "status": "state"}
    study = imported(longer[~run_rows(longer) | (longer["step"] <= 40)], tmp_path, columns=columns)
    assert "Completed runs with fewer steps than others of their optimizer and batch size: 1." in cautions(study)


def test_runs_that_lack_a_setting_are_left_out_and_counted(tmp_path):
    table = evaluations().astype({"learning_rate": float})
    table.loc[run_rows(table), "learning_rate"] = math.nan
    study = imported(table, tmp_path)
    assert "Runs without the lr that other runs of their optimizer have: 1. They are left out." in cautions(study)


def test_what_a_table_does_not_tell_is_asked_and_nothing_is_imported(tmp_path):
    path = tmp_path / "runs.csv"
    table = evaluations().drop(columns=["opt"]).rename(columns={"loss": "score"})
    table.assign(decay=table["seed"].map({0: "cosine"}).fillna("linear")).to_csv(path, index=False)
    with pytest.raises(UserError) as asked:
        sensitivity.import_runs(path, "mine", storage=tmp_path)
    text = str(asked.value)
    assert "runs.csv: 3 questions to answer" in text
    assert "does 'decay' (cosine, linear) change results? Then add it to columns.optimizer" in text
    assert "'val_acc' has values above 1: is it a percentage?" in text
    assert "which optimizer was used?" in text
    assert not (tmp_path / "mine").exists()


def test_rows_that_only_an_unknown_column_tells_apart_are_asked_about(tmp_path):
    path, rows = tmp_path / "runs.csv", itertools.product(["sgd", "lion"], [32, 64], [0, 1], [0.01, 0.1, 1.0])
    table = pd.DataFrame(rows, columns=["optim", "bs", "rng", "knob"]).assign(iters=500, test_accuracy=0.5, host="a")
    table["host"] = [f"h{place % 3}" for place in table.index]
    table.to_csv(path, index=False)
    with pytest.raises(UserError) as asked:
        sensitivity.import_runs(path, "mine", storage=tmp_path)
    text = str(asked.value)
    assert "1 question to answer" in text
    assert "rows with the same optim, bs, rng, iters differ in 'knob', 'host'" in text
    assert not (tmp_path / "mine").exists()
    mapping = {
        "rows": "evaluations",
        "columns": {"optimizer": ["optim"], "batch_size": "bs", "seed": "rng", "step": "iters"},
        "hyperparameters": {"knob": "knob"},
        "metrics": {"test_accuracy": {"column": "test_accuracy", "unit": "fraction"}},
    }
    found = sensitivity.import_runs(path, "mine", storage=tmp_path, mapping=mapping)
    assert len(found.runs) == len(table)
    assert sorted(set(found.runs["param.knob"])) == [0.01, 0.1, 1.0]


@pytest.mark.parametrize("name", ["eta", "step_size", "config.eta"])
def test_common_names_of_the_learning_rate_are_known(tmp_path, name):
    path, rows = tmp_path / "runs.csv", itertools.product([32, 64], [0, 1], [0.01, 0.1, 1.0])
    table = pd.DataFrame(rows, columns=["bs", "rng", name]).assign(optim="lion", iterations=500, test_accuracy=0.5)
    table.to_csv(path, index=False)
    found = sensitivity.import_runs(path, "mine", storage=tmp_path)
    assert sorted(set(found.runs["param.lr"])) == [0.01, 0.1, 1.0]
    assert sorted(set(found.runs["seed"])) == [0, 1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metrics": {}}, "name the column of at least one"),
        ({"metrics": {"train_loss": {"column": "loss", "unit": "percent"}}}, 'must be "as_is" for a loss'),
        ({"metrics": {"test_accuracy": {"column": "val_acc", "unit": "fraction"}}}, "in the unit 'fraction'"),
        ({"hyperparameters": {"lr": "lr"}}, r"there is no column 'lr'\n  Columns: run, opt"),
        ({"hyperparameters": {"momentum": "bs"}}, "momentum must be >= 0 and < 1"),
        ({"study": {"seeds": 3}}, "study.seeds: not a field of a study in a mapping"),
        (
            {"study": {"optimizers": {"lion": {"design": "random"}}}},
            r"no run has this optimizer\n  Optimizers of the runs: sgd, adamw",
        ),
        ({"columns": {**MAPPING["columns"], "batch_size": "opt"}}, "column 'opt' has type string, not numbers"),
        ({"rows": "cells"}, "rows: input should be"),
    ],
)
def test_mistakes_of_a_mapping(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        imported(evaluations(), tmp_path, **changes)


def test_rows_of_one_run_may_leave_its_settings_out_but_not_differ(tmp_path):
    """A logger writes the settings with its first line; a column of trials may number the repeats of each setting."""
    table = evaluations()
    later = table["step"] > 0
    sparse = table.assign(**{name: table[name].where(~later) for name in ("opt", "bs", "learning_rate", "seed")})
    assert imported(sparse, tmp_path).curves.equals(imported(table, tmp_path).curves)
    repeats = table.assign(run=table["seed"])
    with pytest.raises(UserError, match=r"rows of one run have .* in column .*\n  In columns\.run"):
        imported(repeats, tmp_path)
    guessed = guess(Source(description="x", table=pa.Table.from_pandas(repeats, preserve_index=False)))
    assert "run" not in guessed.content["columns"]
    assert any("run doesn't identify runs" in remark for remark in guessed.remarks)


def test_another_source_does_not_replace_a_study(tmp_path):
    imported(evaluations(), tmp_path)
    other = tmp_path / "other.csv"
    evaluations().to_csv(other, index=False)
    with pytest.raises(UserError, match=r"contains runs from runs\.csv\n  Import under another name"):
        sensitivity.import_runs(other, "mine", mapping=MAPPING, storage=tmp_path)
    assert len(imported(evaluations().iloc[:-11], tmp_path).runs) == 24  # the same source replaces what it wrote
    assert len(list((tmp_path / "mine" / "runs").iterdir())) == 1
    assert read_mapping(tmp_path / "mine" / "import.toml") == mapping_of(MAPPING, source="test")


def test_the_report_and_the_dashboard_show_what_was_wrong(tmp_path):
    table = evaluations(state="finished")
    table.loc[run_rows(table), "state"] = "crashed"
    imported(table[~run_rows(table, seed=1)], tmp_path, columns={**MAPPING["columns"], "status": "state"})
    said = ("Crashed or failed runs: 1.", "missing from the source: 1.")
    page = write_report([place(str(tmp_path / "mine"))]).html
    assert all(text in page for text in (*said, "were trained elsewhere (runs.csv)"))
    site = Site(catalog=Catalog(place(str(tmp_path))), prefix="/", may_run=False)
    scene, _ = site.scene(Address(page="overview", study="mine"), "light")
    shown = [block for block in blocks_of(pages()["overview"], scene) if isinstance(block, (FixedBlock, TextBlock))]
    overview = ""
    for block in shown:
        with contextlib.suppress(NothingToShowError):
            overview += str(block.content(scene))
    assert all(text in overview for text in said)
