"""`sensitivity figure` from the command line, and a new exhibit in the catalogue."""

import csv
import io
import json
from pathlib import Path

import plotly.graph_objects as go
import pytest

from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures import catalogue
from sensitivity.figures.data import Data
from sensitivity.figures.exhibit import OPTIMIZER, Exhibit, Option
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.tables import Table
from sensitivity.report import write_report
from sensitivity.store.reader import read_study
from sensitivity.study.words import size


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_without_a_name_exhibits_are_listed_with_options(command, study_of):
    code, out, _ = command("figure", study_of("landscape").uri)
    assert code == 0
    lines = out.splitlines()
    for exhibit in catalogue.EXHIBITS:
        (line,) = (line for line in lines if line.split("  ")[0] == exhibit.name)
        assert exhibit.title in line
        assert line.endswith("(a table)") is (exhibit.draw is None)
    after = lines[lines.index(next(line for line in lines if line.startswith("robustness "))) + 1 :]
    assert [line.strip() for line in after[:2]] == [
        "metric=train_loss|test_accuracy|test_loss|train_accuracy", "optimizer=kfac|sgd",
    ]  # fmt: skip


def test_data_are_those_of_the_report_without_truncation(command, study_of, here):
    code, out, _ = command("figure", study_of("landscape").uri, "robustness", "optimizer=sgd", "-o", "deep/map.csv")
    target = Path("deep/map.csv")
    assert (code, out) == (0, f"robustness-train_loss-sgd: {target} ({size(target.stat().st_size, 'B')})\n")
    found = rows(target)
    assert len(found) == 2 * 4 * 3
    runs = read_study(study_of("landscape")).runs
    own = runs[(runs["optimizer"] == "sgd") & (runs["batch_size"] == 32) & (runs["status"] == "completed")]
    first = next(row for row in found if row["batch_size"] == "32" and row["completed"] == "4")
    same = own[(own["param.momentum"] == float(first["momentum"])) & (own["param.lr"].round(6) == float(first["lr"]))]
    assert float(first["median_train_loss"]) == pytest.approx(same["train_loss"].median(), rel=1e-5)


@pytest.mark.parametrize("options", [(), ("metric=test_loss", "optimizer=sgd")])
def test_json_is_the_figure_of_the_python_interface(command, study_of, here, options):
    assert command("figure", study_of("landscape").uri, "robustness", *options, "-o", "map.json")[0] == 0
    drawn = go.Figure(json.loads(Path("map.json").read_text(encoding="utf-8")))
    named = "SGD: test loss" if options else "K-FAC: training loss"
    assert drawn.layout.title.text.startswith(named)
    assert drawn.layout.template.layout.paper_bgcolor == "#ffffff"


def test_default_output_is_an_html_page(command, study_of, here):
    code, out, _ = command("figure", study_of("landscape").uri, "targets")
    page = Path("targets.html").read_text(encoding="utf-8")
    assert (code, out) == (0, f"targets: targets.html ({size(len(page.encode()), 'B')})\n")
    assert page.count('class="canvas"') == 1
    assert 'id="packed-plotly"' in page, "it needs no network"
    assert "default-src 'none'" in page
    assert "<caption>Runs that reach each target." in page


def test_table_is_printed_or_written_without_plotly(command, study_of, here):
    code, out, _ = command("figure", study_of("landscape").uri, "status")
    caption, header, *lines = out.splitlines()
    assert code == 0
    assert caption.startswith("Planned runs by status")
    assert header.startswith("optimizer  batch size")
    assert lines[-1].split()[:3] == ["all", "224", "201"]
    assert command("figure", study_of("landscape").uri, "status", "-o", "status.html")[0] == 0
    page = Path("status.html").read_text(encoding="utf-8")
    assert page.count("<tr>") == 1 + len(lines)
    assert len(page) < 50_000
    assert 'id="packed-data-status"' in page


@pytest.mark.skipif(not Path("/usr/bin/chromium").exists(), reason="no Chromium")
def test_image_format_follows_the_suffix(command, study_of, here):
    code, out, err = command("figure", study_of("landscape").uri, "success", "form=difference", "-o", "found.SVG")
    assert (code, err) == (0, "")
    assert out.startswith("success-difference: found.SVG (")
    assert Path("found.SVG").read_bytes().startswith(b"<svg")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["robustnes"], "did you mean 'robustness'?"),
        (["robustness", "optimizer=sdg"], "did you mean 'sgd'?"),
        (["robustness", "optimzer=sgd"], "did you mean 'optimizer'?"),
        (["robustness", "sgd"], "'sgd' is not of the form OPTION=VALUE"),
        (["robustness", "optimizer=sgd", "optimizer=kfac"], "'optimizer=kfac' is given twice"),
        (["robustness", "-o", "map.pdf"], "Use one of: .html, .png, .svg, .json, .csv"),
        (["status", "-o", "status.png"], "Use one of: .html, .csv"),
        (["-o", "map.svg"], "name an exhibit to write to it"),
        (["verdict", "question=sensitivity"], "There is no comparison by seeds on sensitivity to draw"),
        (["time-split"], "time-split has nothing to show\n  No run measured the time of its steps by phase."),
    ],
)
def test_mistakes_are_explained_and_nothing_is_written(command, study_of, here, arguments, said):
    code, out, err = command("figure", study_of("landscape").uri, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert list(here.iterdir()) == []


def test_study_of_one_optimizer_explains_the_missing_verdict(command, study_of, here):
    code, _, err = command("figure", study_of("single-cell").uri, "verdict")
    assert code == 2
    assert "With one optimizer there is nothing to compare it with" in err


def test_study_record_is_not_overwritten(command, study_of):
    target = f"{study_of('landscape').path}/runs/map.csv"
    code, _, err = command("figure", study_of("landscape").uri, "robustness", "-o", target)
    assert code == 2
    assert "part of the record" in err
    assert not Path(target).exists()


def runs_of(results: StudyResults, optimizer: str, by: str):
    if (optimizer, by) == ("sgd", "seed"):
        raise NothingToShowError("Seeds of this one are not counted.")
    own = results.runs[results.runs["optimizer"] == optimizer]
    return own[by].value_counts().sort_index()


ADDED = Exhibit(
    name="counts",
    section="runs",
    title="Runs <by> something",
    compute=runs_of,
    draw=lambda counts, theme: go.Figure(
        go.Bar(x=counts.index, y=counts, marker={"color": theme.category(0)}),
        layout={"height": 300, "title": {"text": "Counts", "subtitle": {"text": f"n = {counts.sum()}"}}},
    ),
    data=lambda counts: Data(columns=("of", "runs"), rows=list(counts.items())),
    tables=lambda counts: [
        Table(caption="Counts & <b>more</b>.", header=("of", "runs"), rows=list(counts.items()), text_columns=1)
    ],
    notes=lambda counts: ("Counted, not estimated.",),
    options=(
        Option(name="by", label="Counted by", values=lambda _: {"batch_size": "batch sizes", "seed": "seeds"}),
        OPTIMIZER,
    ),
    depends=("filters",),
)


def test_new_exhibit_appears_in_every_interface(command, study_of, here, monkeypatch):
    monkeypatch.setattr(catalogue, "EXHIBITS", (*catalogue.EXHIBITS, ADDED))
    study = study_of("one-batch-size")
    report = write_report([study])
    drawn = [name for name in report.figures if name.startswith("counts")]
    assert drawn == ["counts-batch_size-kfac", "counts-batch_size-sgd", "counts-seed-kfac"]
    section = report.html.split('id="runs"')[1].split("</section>")[0]
    assert all(f'data-figure="{name}"' in section for name in drawn)
    assert section.count('data-group="by" data-show="') == 2
    assert "SGD: Seeds of this one are not counted." in section
    assert "Counts &amp; &lt;b&gt;more&lt;/b&gt;." in section
    assert "Counted, not estimated." in section

    assert "counts               Runs <by> something\n" in command("figure", study.uri)[1]
    assert command("figure", study.uri, "counts", "by=seed", "-o", "counts.csv")[0] == 0
    assert rows(Path("counts.csv")) == [{"of": str(seed), "runs": "9"} for seed in range(3)]
    code, _, err = command("figure", study.uri, "counts", "by=seed", "optimizer=sgd", "-o", "counts.json")
    assert (code, "Seeds of this one are not counted." in err) == (2, True)


def test_data_are_readable_by_csv_readers(command, study_of, here):
    assert command("figure", study_of("random").uri, "scaling", "-o", "scaling.csv")[0] == 0
    text = Path("scaling.csv").read_bytes().decode("utf-8")
    header, *found = csv.reader(io.StringIO(text))
    assert {len(row) for row in found} == {len(header)}
    assert text.endswith("\r\n")
