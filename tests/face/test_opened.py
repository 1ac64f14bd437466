"""An opened study: the stored tables, the numbers of the analysis, the figures of the catalogue."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import sensitivity
from sensitivity.figures.catalogue import EXHIBITS
from sensitivity.figures.exhibits.maps import draw_maps
from sensitivity.store.directory import place
from sensitivity.store.reader import read_study
from sensitivity.study.errors import UserError
from sensitivity.study.words import duration


@pytest.fixture(scope="module")
def study(stored):
    return sensitivity.open(stored)


@pytest.fixture(scope="module")
def read(stored):
    return read_study(place(stored))


def test_tables_match_the_stored_ones(study, read):
    pd.testing.assert_frame_equal(study.runs, read.runs)
    ordered = [frame.sort_values(["trial_id", "step"], ignore_index=True) for frame in (study.curves, read.curves)]
    pd.testing.assert_frame_equal(*ordered)
    assert study.spec == read.manifest.spec
    assert (study.name, study.spec.name) == ("stored", "stored")


def test_verdict_matches_the_results(study):
    verdict = study.verdict()
    assert [one.question for one in verdict.conclusions] == ["scaling", "sensitivity"]
    assert tuple(one.claim for one in verdict.conclusions) == study.results.claims
    assert str(verdict).splitlines()[0] == "stored, training loss ≤ 0.2"
    for one in verdict.conclusions:
        assert (one.answer, one.source) == (one.claim.verdict.answer, "design")
        assert f"  {one.answer.upper()}: " in str(verdict)
    assert "≤" in verdict._repr_html_()


def test_open_question_states_the_largest_cost_of_settling(study):
    done = study.runs[study.runs["status"].isin(["completed", "diverged"])]
    seconds = 2_000 * float((done["train_seconds"] + done["eval_seconds"]).mean())
    said = " ".join(str(study.verdict()).split())
    assert f"At most 2,000 runs unless a budget is given, about {duration(seconds)} of device time." in said


def test_annotate_a_run(stored, tmp_path):
    shutil.copytree(stored, tmp_path / "stored")
    study = sensitivity.open(tmp_path / "stored")
    run = study.runs["trial_id"].iloc[3]
    study.annotate(run, note="look again", tags=["odd"])
    again = sensitivity.open(tmp_path / "stored").runs.set_index("trial_id")
    assert tuple(again.loc[run, ["note", "tags"]]) == ("look again", "odd")
    assert (again["tags"] != "").sum() == 1
    with pytest.raises(UserError, match=r"tags: must be a list, such as \['odd'\]; got a string"):
        study.annotate(run, tags="odd")
    with pytest.raises(UserError, match="stored has no run 'nope'"):
        study.annotate("nope", note="x")


def test_figure_matches_the_catalogue(study):
    drawn = study.figure("robustness", optimizer="kfac")
    own = [map_ for map_ in study.results.maps if map_.optimizer == "kfac"]
    assert isinstance(drawn, go.Figure)
    assert drawn.layout.title.text == draw_maps(own).layout.title.text
    assert study.figure("robustness", optimizer="sgd", metric="train_loss").layout.title.text.startswith("SGD")


def test_every_exhibit_has_a_figure_or_a_table_or_explains_why_not(study):
    assert list(study.exhibits.index) == [exhibit.name for exhibit in EXHIBITS]
    assert study.exhibits.loc["robustness", "options"]["optimizer"] == ["kfac", "sgd"]
    shown = 0
    for exhibit in EXHIBITS:
        try:
            table, figure = study.table(exhibit.name), study.figure(exhibit.name)
        except sensitivity.UserError as error:
            known = f"{exhibit.name}: " if exhibit.draw else exhibit.name
            assert str(error).startswith(known)  # noqa: PT017 - most have something to show
            continue
        shown += 1
        assert len(table.columns)
        assert isinstance(figure, go.Figure)
    assert shown > len(EXHIBITS) / 2


def test_table_of_a_figure_matches_the_analysis(study):
    table = study.table("robustness", optimizer="kfac", metric="train_loss")
    (map_,) = (m for m in study.results.under(metric="train_loss").maps if (m.optimizer, m.batch_size) == ("kfac", 32))
    rows = table[table["batch_size"] == 32].sort_values(["lr", "damping"])
    cells = sorted(map_.cells, key=lambda cell: (cell.x, cell.y))
    np.testing.assert_array_equal(rows["median_train_loss"], [cell.median for cell in cells])


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda study: study.figure("robustnes"), "no exhibit 'robustnes'; did you mean 'robustness'"),
        (lambda study: study.figure("robustness", optimiser="kfac"), "did you mean 'optimizer'"),
        (lambda study: study.table("robustness", optimizer="adam"), "no optimizer of robustness 'adam'"),
        (lambda study: sensitivity.open("nowhere"), r"nowhere: no study here"),
        (lambda study: sensitivity.open("s4://x/y"), "no file system has the scheme 's4'"),
    ],
)
def test_mistakes_are_user_errors_that_list_the_choices(study, ask, said):
    with pytest.raises(sensitivity.UserError, match=said):
        ask(study)


def test_representation_escapes_text_from_users(study, stored, tmp_path):
    assert "runs: 201 completed, 23 diverged" in repr(study)
    assert study.directory in repr(study)
    html = study._repr_html_()
    assert html.startswith("<table>")
    changed = sensitivity.open(stored)
    object.__setattr__(changed, "_manifest", _described(changed._manifest, "<script>"))
    assert "<script>" not in changed._repr_html_()
    assert "&lt;script&gt;" in changed._repr_html_()


def _described(manifest, description):
    return dataclasses.replace(manifest, spec=manifest.spec.replace(description=description))
