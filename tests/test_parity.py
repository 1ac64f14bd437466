"""A number is the same on every face: report, dashboard, terminal, `figure` and Python, over studies of each kind."""

import contextlib
import csv
import functools
import io
import json
import math
import re
import runpy
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import pytest

import sensitivity
from dashboards.address import Address
from dashboards.blocks import FigureBlock, FixedBlock, TextBlock
from dashboards.catalog import Catalog
from dashboards.pages import blocks_of, pages
from dashboards.site import Site
from sensitivity.cli.figure import show_figure
from sensitivity.cli.reading import show_verdict
from sensitivity.figures import catalogue
from sensitivity.figures.exhibit import computed
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.theme import LIGHT, PLACEHOLDER
from sensitivity.report import write_report
from sensitivity.report.embed import _content
from sensitivity.store.directory import place
from sensitivity.store.manifest import write_manifest
from sensitivity.store.writer import append, write_plan
from sensitivity.study.results import PackResult, Status
from sensitivity.study.section import CONFIRMATION_SEEDS
from sensitivity.study.trials import expand
from sensitivity.study.words import duration

synthetic = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "analysis" / "synthetic.py")))
GRIDS = {
    "kfac": {"kind": "kfac", "lr": {"log": [1e-2, 3.0], "points": 3}, "damping": {"log": [1e-3, 1.0], "points": 3}},
    "sgd": {"kind": "sgd", "lr": {"log": [1e-2, 3.0], "points": 3}, "momentum": [0.0, 0.9]},
}
DRAWS = {
    name: {"kind": kind, "lr": {"log": [1e-2, 3.0]}, "design": "sobol", "samples": 4, **more}
    for name, kind, more in (("kfac", "kfac", {"damping": {"log": [1e-3, 1.0]}}), ("sgd", "sgd", {}))
}
SEARCH = {name: {**arm, "design": "tpe"} for name, arm in DRAWS.items()}
CASES = {
    "confirmed": {"search": {"objective": "test_accuracy", "confirm": 2}},
    "search": {"optimizers": SEARCH, "search": {"objective": "test_accuracy"}},
    "draws": {"optimizers": DRAWS, "seeds": 6},
    "three": {
        "optimizers": {**GRIDS, "heavy": {"kind": "sgd", "lr": [0.01, 0.1, 1.0], "momentum": 0.9}},
        "pairs": [("kfac", "sgd"), ("heavy", "sgd")],
        "margins": {"scaling_ratio": 2.0, "tuning_ratio": 3.0},
    },
    "running": {},
    "empty": {},
}


REPORTED = ("confirmed", "draws", "three", "empty")
"""Cases whose figures are compared in the report: drawing them takes most of the time."""


def outcome(case, trial):
    if case == "empty" or (case == "running" and trial.seed > 0):
        return None
    return synthetic.landscape(trial)


def written(case, folder):
    changes = {"batch_sizes": [32, 128], "budget": {"epochs": 20}, "targets": {"train_loss": [0.3]}}
    spec = synthetic.make_spec(name=case, **{"optimizers": GRIDS, **changes, **CASES[case]})
    planned = spec
    if case == "search":  # the trials that a search would ask for become known as it runs
        planned = synthetic.make_spec(name=case, **{**changes, "optimizers": DRAWS})
    trials = list(expand(planned))
    if case == "confirmed":
        winners = {(t.arm, t.batch_size): t for t in trials}.values()
        trials += [replace(t, seed=CONFIRMATION_SEEDS + k) for t in winners for k in range(2)]
    directory = place(str(folder))
    manifest = write_manifest(directory, spec, source="")
    write_plan(directory, tuple(trials))
    runs = [run for run in (outcome(case, trial) for trial in trials) if run is not None]
    if runs:
        pack = PackResult(
            runs=tuple(runs), pack_id="pack", host="host", device="cpu", started_at=1.7e9, wall_seconds=60.0
        )
        append(directory, pack, spec_hash=manifest.spec_hash, code_version="0.2.0")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    for case in CASES:
        written(case, folder / case)
    return folder


@pytest.fixture(scope="module")
def python(root):
    """The study of a case as Python has it: each exhibit with each combination of options, by its name."""
    made = {}

    def make(case):
        if case not in made:
            study, found = sensitivity.open(root / case), {}
            for exhibit in catalogue.EXHIBITS:
                for options in exhibit.cases(study.results):
                    with contextlib.suppress(NothingToShowError):
                        shown = computed(exhibit, study.results, **options)
                        found[shown.name] = shown
            made[case] = study, found, functools.cache(lambda name: _content(found[name].figure(PLACEHOLDER)))
        return made[case]

    return make


def texts(html):
    """The text of a page, tags and white space apart."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html)))


@pytest.mark.parametrize("case", REPORTED)
def test_report_and_python_show_the_same_figures_numbers_and_words(case, root, python):
    study, found, drawn = python(case)
    report = write_report([place(str(root / case))])
    assert len(report.figures) > (20 if case != "empty" else -1)
    for name, content in report.figures.items():
        assert content == drawn(name), name
    page = texts(report.html)
    for name, shown in found.items():
        if shown.exhibit.draw is None or name in report.figures:
            for value in (value for table in shown.tables for row in table.rows for value in row):
                assert re.sub(r"\s+", " ", str(value)).strip() in page, (name, value)
    for claim in study.results.claims:
        assert claim.verdict.answer in page
    for why in study.results.why_not:
        assert why.text in page


@pytest.mark.parametrize("case", CASES)
def test_dashboard_and_python_show_the_same_figures_numbers_and_words(case, root, python):
    study, found, drawn = python(case)
    site = Site(catalog=Catalog(place(str(root))), prefix="/", may_run=False)
    seen = set()
    for page in pages().values():
        scene, missing = site.scene(Address(page=page.name, study=case), "light")
        assert missing == ()
        assert repr(scene.results.claims) == repr(study.results.claims)
        for block in blocks_of(page, scene):
            if isinstance(block, FixedBlock) or block.show is None:
                continue
            try:
                shown = block.show(scene)
            except NothingToShowError:
                continue
            ours = found[shown.name]
            seen.add(shown.exhibit.name)
            assert shown.data.fields() == ours.data.fields(), shown.name
            assert [table.rows for table in shown.tables] == [table.rows for table in ours.tables]
            assert shown.notes == ours.notes
            assert isinstance(block, FigureBlock if shown.exhibit.draw else TextBlock)
            if case == "three" and shown.name in ("robustness-train_loss-kfac", "scaling-steps"):
                assert _content(shown.figure(PLACEHOLDER)) == drawn(shown.name)
    special = {"curves"}  # a page shows the curves of the cells that are clicked
    assert {shown.exhibit.name for shown in found.values()} <= seen | special


@pytest.mark.parametrize("case", CASES)
def test_terminal_and_python_say_the_same(case, root, capsys, tmp_path):
    study = sensitivity.open(root / case)
    show_verdict(str(root / case), as_json=False)
    assert capsys.readouterr().out.strip() == str(study.verdict()).strip()
    show_verdict(str(root / case), as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert len(said["answers"]) == len(study.results.claims)
    for answer, claim in zip(said["answers"], study.results.claims, strict=True):
        verdict = claim.verdict
        assert answer["source"] == "design"
        assert (answer["question"], answer["answer"], answer["role"]) == (verdict.question, verdict.answer, claim.role)
        value = verdict.effect.value
        assert answer["effect"]["value"] == (value if math.isfinite(value) else None)
        assert answer["error_rate"] == claim.rate
        if case == "three" and answer["margin"] is not None:
            assert answer["margin"] == pytest.approx(2.0 if verdict.question == "scaling" else 3.0)
    for name in ("status", "targets", "robustness", "scaling"):
        try:
            shown = catalogue.show(study.results, name)
            shown.figure(LIGHT)
        except NothingToShowError:
            continue
        target = tmp_path / f"{name}.csv"
        list(show_figure(str(root / case), name, (), target))
        assert list(csv.reader(io.StringIO(target.read_bytes().decode()))) == list(
            csv.reader(io.StringIO("".join(",".join(row) + "\n" for row in shown.data.fields())))
        )


def test_device_time_is_the_sum_over_runs_on_every_face(root):
    """It once was 59 s, 52 s and 51.5 s on three of them."""
    study = sensitivity.open(root / "three")
    seconds = study.runs["train_seconds"].sum()
    assert study.table("status")["train_seconds"].sum() == pytest.approx(seconds, rel=1e-5)
    report = texts(write_report([place(str(root / "three"))]).html)
    assert report.count(duration(seconds)) >= 2, "in the opening, and in the table of runs"
    site = Site(catalog=Catalog(place(str(root))), prefix="/", may_run=False)
    scene, _ = site.scene(Address(page="overview", study="three"), "light")
    status = next(b for b in blocks_of(pages()["overview"], scene) if getattr(b, "name", "") == "status")
    assert duration(seconds) in str(status.content(scene))


def test_confirmations_and_diverged_runs_are_in_the_counts_of_every_face(root):
    study = sensitivity.open(root / "confirmed")
    fresh = study.runs["confirmation"].astype(bool)
    assert fresh.sum() == 2 * 4
    assert study.table("status")["planned"].sum() == len(study.runs)
    assert study.table("status")["diverged"].sum() == (study.runs["status"] == Status.DIVERGED.value).sum() > 0
    maps = [study.table("robustness", optimizer=name)["planned"].sum() for name in ("kfac", "sgd")]
    assert sum(maps) == (~fresh).sum()
