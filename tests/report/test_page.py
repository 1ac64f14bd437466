"""Text and figures of the page for every kind of study."""

import base64
import csv
import gzip
import html
import json
import re
from dataclasses import replace

import pandas as pd
import pytest

from sensitivity.figures.data import Data
from sensitivity.figures.sections import SECTIONS
from sensitivity.figures.theme import DARK, LIGHT, PLACEHOLDER, colours
from sensitivity.report import render_report, write_report
from sensitivity.report.embed import in_theme
from sensitivity.store.directory import place
from sensitivity.store.reader import read_study
from sensitivity.study.errors import StorageError
from sensitivity.study.results import Status

SAYS = {
    # case: what the page says, and figures that it has (+) or lacks (-)
    "complete": (
        ["108 completed", "ran on a grid", "No price has an interval here"],
        "-verdict-kfac-sgd-sensitivity +scaling-steps +ridge-kfac +success-difference -prices",
    ),
    "mixed": (["failed with an exception", "18 failed"], "+robustness-train_loss-sgd +curves-test_accuracy-diverged"),
    "pending": (
        [
            "No run has a measured value",
            "Run the study: none of 108 planned runs has a result yet.",
            "No run has completed yet.",
            "The study file declares that K-FAC and SGD train the model",
        ],
        "-success-contours -cost",
    ),
    "half-finished": (
        ["planned runs have no result yet", "undetermined", "SGD: No run has a result yet."],
        "+robustness-test_accuracy-kfac +reached-kfac -reached-sgd",
    ),
    "all-diverged": (
        ["no run has completed, so it has no best cell"],
        "-curves-train_loss-best +curves-test_accuracy-diverged -curves-test_accuracy-best",
    ),
    "all-failed": (["failed with an exception", "No run has a result, so there are no success rates"], "-importance"),
    "single-cell": (
        ["One seed", "With one optimizer there is nothing to compare it with", "fewer than three configurations"],
        "-verdict-kfac-sgd-scaling -ridge-sgd -success-difference",
    ),
    "single-seed": (["One seed", "biased towards better results"], "+scaling-steps"),
    "one-optimizer": (
        ["With one optimizer there is nothing to compare it with"],
        "+ridge-kfac -profiles-steps -verdict-kfac-sgd-scaling -success-difference",
    ),
    "one-batch-size": (
        ["critical batch sizes can't be compared", "a critical batch size needs two"],
        "+success-contours -success-surface",
    ),
    "no-target": (["declares no target", "both questions are about reaching one"], "-scaling-steps +best-of-k-trials"),
    "random": (["95% interval", "a regression forest explains"], "+reached-sgd"),
    "squared-error": (["squared error"], "-targets"),
    "landscape": (
        ["scale further with batch size than SGD?", "lower bound"],
        "+verdict-kfac-sgd-scaling +success-surface +prices +parallel",
    ),
}


PARAGRAPHS = re.compile('<p class="nothing">(.*?)</p>')


def packed(page, name):
    """Return the content of a script element, unpacked as in page.js."""
    (data,) = re.findall(rf'id="packed-{name}">([^<]*)</script>', page)
    return gzip.decompress(base64.b64decode(data)).decode()


@pytest.mark.parametrize("case", SAYS)
def test_report_of_every_kind_of_study(case, report_of):
    report = report_of(case)
    said, figures = SAYS[case]
    for text in said:
        assert text in html.unescape(report.html)
    for paragraphs in map(PARAGRAPHS.findall, report.html.split("<section")):
        assert len(paragraphs) == len(set(paragraphs)), "reasons for missing figures appear once per section"
    for heading in [section.title for section in SECTIONS[1:]] + ["Provenance"]:
        assert f"<h2>{heading}</h2>" in report.html
    for figure in figures.split():
        assert (figure[1:] in report.figures) is (figure[0] == "+"), figure
    assert "Traceback" not in report.html
    assert report.html.count('class="canvas"') == len(report.figures)


@pytest.mark.parametrize("case", ["landscape", "mixed", "random"])
def test_every_figure_has_its_n_and_its_data(case, report_of):
    report = report_of(case)
    shared = json.loads(packed(report.html, "shared"))
    assert shared["config"]["showSendToCloud"] is False
    assert set(shared["themes"]) == {"light", "dark"}
    for name in report.figures:
        figure = json.loads(packed(report.html, f"figure-{name}"))
        assert "n = " in figure["layout"]["title"]["subtitle"]["text"], name
        (table,) = re.findall(rf'data-take="csv" data-figure="{name}" data-table="([^"]*)"', report.html)
        header, *rows = packed(report.html, f"data-{table}").splitlines()
        assert rows, name
        assert "," in header
        for kind in ("csv", "svg", "png"):
            assert f'data-take="{kind}" data-figure="{name}"' in report.html


def test_page_contains_no_unused_data(report_of):
    """Ids that only clicks in a dashboard use, and data that another figure already has, are left out."""
    report = report_of("landscape")
    assert not any("customdata" in figure for figure in report.figures.values())
    tables = [packed(report.html, name) for name in re.findall(r'id="packed-(data-[^"]*)"', report.html)]
    assert len(tables) == len(set(tables)) < len(report.figures)
    both = re.findall(r'data-take="csv" data-figure="best-of-k-\w+" data-table="([^"]*)"', report.html)
    assert both == ["best-of-k-trials"] * 2
    assert len(report.html) < 3e6


def test_tabbed_values_use_the_first_value_of_other_options(report_of):
    curves = [name.removeprefix("curves-") for name in report_of("landscape").figures if name.startswith("curves-")]
    others = ["test_accuracy-best", "test_loss-best", "train_accuracy-best"]
    assert curves == ["train_loss-best", "train_loss-median", "train_loss-diverged", *others]


def test_only_two_metrics_are_drawn_for_very_many_cells(study_of, monkeypatch):
    monkeypatch.setattr("sensitivity.report.exhibits._MAX_CELLS", 10)
    report = write_report([study_of("one-batch-size")])
    drawn = {name.split("-")[1] for name in report.figures if name.startswith("robustness-")}
    assert drawn == {"test_accuracy", "train_loss"}
    assert not any(name.startswith("curves-test_loss") for name in report.figures)
    assert report.html.count("test loss and training accuracy are left out here") == 2, "for maps and for curves"


def test_maps_of_all_optimizers_share_one_colour_scale(report_of):
    axes = [
        json.loads(report_of("landscape").figures[f"robustness-train_loss-{optimizer}"])["layout"]["coloraxis"]
        for optimizer in ("kfac", "sgd")
    ]
    assert axes[0]["cmin"] == axes[1]["cmin"] < axes[0]["cmax"] == axes[1]["cmax"]


def test_report_begins_with_the_verdict_and_its_evidence(report_of):
    page = report_of("landscape").html
    places = [
        page.index(text)
        for text in ('class="answers"', 'data-figure="verdict-kfac-sgd-scaling"', 'id="maps"', 'id="provenance"')
    ]
    assert places == sorted(places)
    assert "For the target training loss ≤ 0.2" in page
    summary = html.unescape(page.split('id="summary"')[1].split("</section>")[0])
    assert summary.count("K-FAC ran on a grid.") == 1, (
        "where there is no evidence to draw, the reasons are not repeated"
    )


def test_adaptive_search_is_refused_for_unbiased_estimates(synthetic, study_of):
    study = read_study(study_of("random"))
    spec = synthetic.make_spec(
        optimizers={
            "sgd": {
                "kind": "sgd", "lr": {"log": [0.01, 1.0]}, "momentum": {"linear": [0.0, 0.9]}, "design": "tpe",
                "samples": 8,
            }
        },
        seeds=1,
        search={"objective": "test_accuracy"},
    )  # fmt: skip
    report = render_report([replace(study, manifest=replace(study.manifest, spec=spec))])
    for what in ("a success rate", "a best-of-k curve", "importance", "a region's size"):
        assert f"so {what} would be biased" in html.unescape(report.html)
    assert not {"success-contours", "best-of-k-trials", "importance"} & set(report.figures)


def test_best_setting_at_a_search_bound_is_reported_like_a_grid_edge(synthetic, tmp_path):
    arm = {"lr": {"log": [0.01, 1.0]}, "design": "random", "samples": 64}
    spec = synthetic.make_spec(
        optimizers={"sgd": {"kind": "sgd", **arm}, "kfac": {"kind": "kfac", **arm, "damping": 0.1}},
        targets={"train_loss": [0.8]},
    )
    made = synthetic.write_study(
        tmp_path, spec, lambda t: synthetic.run(t, [2.0, 1.2 - dict(t.hyperparameters)["lr"] / 2])
    )
    report = render_report([read_study(made)])
    page = report.html
    assert "has a learning rate at the upper bound (1) of its search box" in page
    assert "the best configuration has a learning rate at the upper bound (1) of its search box" in page
    assert "box: set lr = { log = [0.01, 10] } under [optimizers.sgd] in the study file" in page
    assert "<td>high learning rate</td>" in page.replace(' class="n"', "")
    assert "within 5% of a bound of its box" in page
    assert "lr high" in packed(page, "data-scaling-steps")
    assert "extend: higher learning rate" in report.figures["robustness-train_loss-sgd"]


def test_confirmation_runs_are_used_for_judging_only(synthetic, tmp_path):
    spec = synthetic.make_spec(targets={"train_loss": [1.0]}, batch_sizes=[32])
    study = read_study(
        synthetic.write_study(tmp_path, spec, lambda t: synthetic.run(t, [2.0, 0.3 + dict(t.hyperparameters)["lr"]]))
    )
    best = study.runs[study.runs["param.lr"] == 0.01].drop_duplicates(["optimizer", "batch_size"])
    fresh = best.assign(seed=10**9, confirmation=True, trial_id=best["trial_id"] + "fresh")
    curves = study.curves[study.curves["trial_id"].isin(best["trial_id"])]
    more = replace(
        study,
        runs=pd.concat([study.runs, fresh], ignore_index=True),
        curves=pd.concat([study.curves, curves.assign(trial_id=curves["trial_id"] + "fresh")], ignore_index=True),
    )
    before, after = (render_report([of]) for of in (study, more))
    assert ",confirmed," in packed(after.html, "data-scaling-steps")
    assert ",confirmed," not in packed(before.html, "data-scaling-steps")
    for name in ("robustness-train_loss-kfac", "success-contours", "best-of-k-trials", "importance"):
        assert packed(after.html, f"data-{name}") == packed(before.html, f"data-{name}"), name
    assert "56 planned runs" in after.html


def test_several_studies_are_shown_together_and_separately(report_of):
    report = report_of("landscape", "random")
    assert "The studies side by side" in report.html
    assert "synthetic (1)" in report.html
    assert {"comparison-scaling", "comparison-critical-batch-size"} <= set(report.figures)
    for k in (1, 2):
        assert f"study-{k}-robustness-train_loss-sgd" in report.figures
        assert report.html.count(f'id="study-{k}-scaling"') == 1
    ids = re.findall(r"""\bid=["']([^"']+)["']""", report.html)
    assert len(ids) == len(set(ids))


def test_empty_plan_is_reported(study_of):
    study = read_study(study_of("complete"))
    empty = replace(study, runs=study.runs.iloc[:0], curves=study.curves.iloc[:0], unplanned=108)
    page = render_report([empty]).html
    assert "No run is planned in this directory" in page
    assert "108 further runs are kept" in page


def test_folder_without_a_study_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="no study here"):
        write_report([place(str(tmp_path))])


def test_text_from_users_is_escaped(synthetic, tmp_path):
    hostile = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
    page = write_report(
        [
            synthetic.write_study(
                tmp_path, synthetic.make_spec(description=hostile), lambda t: synthetic.run(t, [], Status.FAILED)
            )
        ]
    ).html
    assert "<img" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "<script>alert(" not in page, "from the description, or from a run's message"


def test_table_has_the_values_of_the_best_cells(report_of):
    rows = re.findall(r"<tr>(.*?)</tr>", report_of("complete").html)
    best = [re.sub(r"<[^>]+>", "|", row) for row in rows if "SGD" in row and "learning rate" in row and "3/3" in row]
    # SGD at lr 0.01: losses 0.11, 0.16, 0.21; accuracy 1 / (1 + loss) - 0.01, median 0.852.
    assert "learning rate 0.01, momentum 0" in best[0]
    assert "85.2%" in best[0]


def test_page_is_one_small_self_contained_file(report_of):
    page = report_of("landscape").html
    assert len(page) < 3_000_000
    head = page.split('<script type="text/plain"')[0]
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", head)
    assert "default-src 'none'" in page


def test_placeholder_colours_become_those_of_the_theme(report_of):
    text = report_of("landscape").figures["scaling-steps"]
    assert any(colour in text for colour in colours(PLACEHOLDER))
    for theme in (LIGHT, DARK):
        drawn = in_theme(text, theme)
        assert not any(colour in json.dumps(drawn) for colour in colours(PLACEHOLDER))
        assert drawn["data"][1]["line"]["color"] == theme.category(0)
        assert drawn["layout"]["template"]["layout"]["paper_bgcolor"] == theme.paper
    assert len({*colours(PLACEHOLDER)}) == len(colours(LIGHT)) == len(colours(DARK))


def test_csv_keeps_digits_and_marks_missing_values():
    data = Data(columns=("a", "b"), rows=[(0.1 + 0.2, 'x, "y"'), (float("nan"), None), (float("inf"), 3)])
    assert data.fields() == [["a", "b"], ["0.3", '"x, ""y"""'], ["", ""], ["inf", "3"]]
    assert list(csv.reader(",".join(row) for row in data.fields()))[1] == ["0.3", 'x, "y"']


def test_run_stopped_early_stays_in_the_denominators(study_of):
    study = read_study(study_of("one-batch-size"))
    one = study.runs.index == 5
    stopped = replace(study, runs=study.runs.assign(status=study.runs["status"].mask(one, "stopped")))
    page = render_report([stopped]).html
    assert "Of 54 planned runs, 53 completed and 1 were stopped early" in page
    assert "<dt>stopped early</dt><dd>1</dd>" in page
