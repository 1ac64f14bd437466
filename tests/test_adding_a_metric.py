"""A metric is one declaration and one computation: every face has it then. So has one of the user's own its table."""

import csv
import io
import json

import pytest
import torch

import sensitivity
from dashboards.address import Address
from dashboards.catalog import Catalog
from dashboards.filters import filter_bar
from dashboards.pages.runs import _column
from dashboards.rows import columns
from dashboards.site import Site
from sensitivity.cli.reading import show_verdict
from sensitivity.execution.prepare import prepare_spec
from sensitivity.figures import catalogue
from sensitivity.report import write_report
from sensitivity.store.directory import place
from sensitivity.store.manifest import write_manifest
from sensitivity.store.reader import export_runs
from sensitivity.store.writer import append, write_plan
from sensitivity.study.errors import StudyFileError
from sensitivity.study.load import parse_study
from sensitivity.study.metrics import QUANTITIES, Quantity, declare
from sensitivity.study.results import PackResult
from sensitivity.study.trials import group
from sensitivity.training.loop import train_pack
from sensitivity.training.metrics import _COMPUTED, MeanOfTerms, computed_by

MODULE = '''
import torch

def margin_error(outputs, targets, margin=1.0):
    """The loss of each example: a hinge over the classes, so none of those that ship."""
    right = outputs.gather(1, targets[:, None])
    return (outputs - right + margin).clamp_min(0).sum(1) - margin

def fines(outputs, targets):
    """The mean fine: 3 EUR for a 0 that is taken for something else, 1 EUR for other mistakes."""
    wrong = outputs.argmax(1) != targets
    return (wrong * (1.0 + 2.0 * (targets == 0))).mean()
'''
RAW = {
    "batch_sizes": [20, 40],
    "seeds": 2,
    "budget": {"steps": 20},
    "evaluation": {"every_steps": 5},
    "optimizers": {
        "kfac": {"kind": "kfac", "lr": [0.01, 0.1], "damping": [0.1, 1.0]},
        "sgd": {"kind": "sgd", "lr": [0.003, 0.03, 3e4]},
    },
    "problem": {"train_subset": 200, "test_subset": 100, "model_arguments": {"width": 16}},
}


def probability(outputs, targets):
    """The probability of the class."""
    return outputs.double().softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two studies that were trained: of a metric that was registered, and of a loss and a metric of the user's."""
    folder = tmp_path_factory.mktemp("metric")
    (folder / "my_losses.py").write_text(MODULE)
    declare(Quantity(name="surety", label="surety", lower_is_better=False, low=0.0, high=1.0, needs="classes"))
    computed_by("surety", lambda: MeanOfTerms(probability))
    own = {"function": "my_losses:fines", "direction": "min", "low": 0.0, "label": "mean fine", "unit": "EUR"}
    for name, metric, changes in (
        ("surety", "surety", {"metrics": {"surety": True}}),
        ("fines", "fines", {"metrics": {"fines": own}, "loss": "my_losses:margin_error"}),
    ):
        level = {"surety": 0.3, "fines": 0.9}[name]
        raw = {**RAW, "name": name, "problem": {**RAW["problem"], **changes}, "targets": {f"test_{metric}": [level]}}
        plan = prepare_spec(parse_study(raw, source="test"), folder=folder, source="test")
        directory = place(str(folder / name))
        manifest = write_manifest(directory, plan.spec, source=plan.source)
        write_plan(directory, plan.trials)
        for pack in group(plan.trials, 16):
            result = PackResult(
                runs=train_pack(pack, plan.problem), pack_id=pack.id, host="h", device="cpu", started_at=1e9,
                wall_seconds=1.0,
            )  # fmt: skip
            append(directory, result, spec_hash=manifest.spec_hash, code_version="0")
    yield folder
    del QUANTITIES["surety"], _COMPUTED["surety"]


@pytest.mark.parametrize(("name", "label", "best"), [("surety", "test surety", max), ("fines", "test mean fine", min)])
def test_it_is_on_every_face(root, name, label, best, capsys):
    metric = f"test_{name}"
    study = sensitivity.open(root / name)
    runs = study.runs
    assert runs[metric].notna().sum() > 10, "a column of runs"
    assert study.results.metric == metric, "what maps show, as the target is of it"
    assert study.results.metric.label == label

    completed = runs[(runs["status"] == "completed") & (runs["optimizer"] == "sgd")]
    medians = completed.groupby(["batch_size", "param.lr"])[metric].median()
    map_ = study.table("robustness", optimizer="sgd", metric=metric)
    assert best(map_[f"median_{metric}"]) == pytest.approx(best(medians))
    chosen = [one for one in study.results.maps if one.optimizer == "sgd"]
    assert [one.best_cell.median for one in chosen] == [best(medians[size]) for size in (20, 40)], "its direction"

    curves = catalogue.show(study.results, "curves")
    assert metric in curves.data.columns
    report = write_report([place(str(root / name))]).html
    assert label in report
    show_verdict(str(root / name), as_json=True)
    assert json.loads(capsys.readouterr().out)["target"]["metric"] == metric

    site = Site(catalog=Catalog(place(str(root))), prefix="/", may_run=False)
    scene, missing = site.scene(Address(page="robustness", study=name), "light")
    assert missing == ()
    assert label[1:] in str(filter_bar(scene.results)), "the dashboard's choice of metrics"
    assert metric in columns(scene.loaded.runs)
    assert _column(scene.loaded.runs, metric, scene.results.spec)["headerName"] == label
    table = list(csv.DictReader(io.StringIO(export_runs(place(str(root / name)), ".csv").decode())))
    assert sum(row[metric] != "" for row in table) == runs[metric].notna().sum(), "an export"


def test_it_may_be_searched_for_and_its_range_is_kept(root):
    raw = {
        **RAW,
        "name": "t",
        "problem": {"metrics": {"surety": True}},
        "search": {"objective": "test_surety"},
        "optimizers": {"a": {"kind": "sgd", "design": "tpe", "samples": 2, "lr": {"log": [0.01, 1.0]}}},
    }
    spec = parse_study(raw, source="test")
    assert not spec.search.objective[0].lower_is_better
    with pytest.raises(StudyFileError, match=r"test_surety: a target lies in its range, 0 to 1; got 1\.5"):
        parse_study({**raw, "targets": {"test_surety": [1.5]}}, source="test")
    with pytest.raises(StudyFileError, match=r"test_surety is not measured; add problem\.metrics\.surety = true"):
        parse_study({**raw, "problem": {}}, source="test")


def test_the_value_is_that_of_the_function(root):
    """Recomputed from the final network's outputs is done elsewhere; here the untrained one, by hand."""
    study = sensitivity.open(root / "fines")
    curves = study.curves
    start = curves[curves["step"] == 0]["test_fines"]
    assert ((start > 0) & (start <= 3)).all()
    assert torch.isfinite(torch.tensor(start.to_numpy())).all()
