"""Every exhibit, on studies of every kind: it shows its numbers, or explains in a sentence why it can't."""

import json
import re
from types import SimpleNamespace

import plotly.graph_objects as go
import pytest

from sensitivity.analysis.evaluations import read_tables
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures import catalogue
from sensitivity.figures.data import Data
from sensitivity.figures.exhibit import OPTIMIZER, PAIR, Exhibit, pair_of
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.sections import SECTIONS
from sensitivity.figures.theme import DARK, LIGHT
from sensitivity.study.errors import UserError
from sensitivity.study.results import Status

ARMS = {
    "kfac": {"kind": "kfac", "lr": {"log": [1e-2, 3.0], "points": 4}, "damping": {"log": [1e-4, 1.0], "points": 4}},
    "sgd": {"kind": "sgd", "lr": {"log": [1e-2, 3.0], "points": 4}, "momentum": [0.0, 0.5, 0.9]},
}
CASES = {
    "landscape": {"optimizers": ARMS, "budget": {"epochs": 20}, "seeds": 4, "targets": {"train_loss": [0.2, 0.1]}},
    "mixed": {},
    "pending": {},
    "diverged": {"batch_sizes": [32]},
    "no target": {"targets": {}, "batch_sizes": [32]},
    "one cell": {"optimizers": {"sgd": {"kind": "sgd", "lr": 0.1}}, "batch_sizes": [32], "seeds": 1},
}
ALWAYS = {"landscape": {"robustness", "verdict", "success", "scaling", "importance", "ridge", "prices", "parallel"}}


def outcomes(synthetic):
    def mixed(trial):
        lr = dict(trial.hyperparameters)["lr"]
        if lr == 1.0:
            return synthetic.run(trial, [9.0], Status.DIVERGED)
        return synthetic.run(
            trial,
            [] if lr == 0.01 else [2.0, lr + 0.05 * trial.seed],
            Status.FAILED if lr == 0.01 else Status.COMPLETED,
        )

    return {
        "landscape": synthetic.landscape,
        "pending": lambda _: None,
        "diverged": lambda trial: synthetic.run(trial, [9.0], Status.DIVERGED),
        "mixed": mixed,
    }


@pytest.fixture(scope="module")
def results_of(synthetic, tmp_path_factory):
    made = {}

    def make(case):
        if case not in made:
            functions = outcomes(synthetic)
            spec = synthetic.make_spec(**CASES[case])
            folder = tmp_path_factory.mktemp("study")
            directory = synthetic.write_study(folder / "s", spec, functions.get(case, functions["mixed"]))
            made[case] = StudyResults(read_tables(directory))
        return made[case]

    return make


def every_case(results):
    """Return each exhibit with each combination of its options: what it shows, or why it shows nothing."""
    for exhibit in catalogue.EXHIBITS:
        for options in exhibit.cases(results):
            try:
                shown = catalogue.show(results, exhibit.name, **options)
                yield exhibit, options, shown, shown.figure(LIGHT)
            except NothingToShowError as why:
                yield exhibit, options, str(why), None


@pytest.mark.parametrize("case", CASES)
def test_exhibits_show_their_numbers_or_explain_why_not(case, results_of):
    names, drawn = [], set()
    for exhibit, options, shown, figure in every_case(results_of(case)):
        if isinstance(shown, str):
            assert re.fullmatch(r"[A-Z].*\.", shown, flags=re.DOTALL), (exhibit.name, options)
            continue
        names.append(shown.name)
        drawn.add(exhibit.name)
        header, *rows = shown.data.fields()
        assert len(header) == len(set(header)), "column names are unique"
        assert all(len(row) == len(header) for row in rows)
        assert (figure is None) is (exhibit.draw is None)
        if figure is not None:
            assert rows, (exhibit.name, options)
            assert "n = " in figure.layout.title.subtitle.text
            assert figure.layout.title.text
            assert figure.layout.height, "an image needs a size"
            json.loads(figure.to_json())
        for table in shown.tables:
            assert all(len(row) == len(table.header) for row in table.rows)
        assert shown.tables or figure is not None
        assert len(shown.notes) == len(set(shown.notes))
    assert len(names) == len(set(names)), "names are used as file names"
    assert drawn >= ALWAYS.get(case, set())


def test_every_exhibit_has_a_section_and_a_unique_name():
    names = [exhibit.name for exhibit in catalogue.EXHIBITS]
    assert len(names) == len(set(names))
    assert {exhibit.section for exhibit in catalogue.EXHIBITS} <= {section.name for section in SECTIONS}
    assert all(re.fullmatch(r"[a-z][a-z-]*", name) for name in names)


def test_options_default_to_their_first_value_and_the_view_metric(results_of):
    results = results_of("landscape")
    assert catalogue.show(results, "robustness").options == {"metric": "train_loss", "optimizer": "kfac"}
    looked = results.under(metric="test_accuracy", optimizers=("sgd",))
    assert catalogue.show(looked, "robustness").options == {"metric": "test_accuracy", "optimizer": "sgd"}
    maps = catalogue.show(results, "robustness", metric="test_loss", optimizer="sgd").result.maps
    assert {(map_.metric.name, map_.optimizer) for map_ in maps} == {("test_loss", "sgd")}
    figures = {theme.name: catalogue.show(results, "scaling", unit="flops").figure(theme) for theme in (LIGHT, DARK)}
    assert figures["dark"].layout.template.layout.paper_bgcolor == DARK.paper
    assert "floating-point operations" in figures["light"].layout.yaxis.title.text


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("robustnes", {}, r"no exhibit 'robustnes'; did you mean 'robustness'\?\n  Allowed: verdict, looks, "),
        ("robustness", {"arm": "kfac"}, r"no option of robustness 'arm'.*\n  Allowed: metric, optimizer"),
        ("robustness", {"optimizer": "kfca"}, r"no optimizer of robustness 'kfca'; did you mean 'kfac'"),
        ("cost", {"unit": "steps"}, r"no option of cost 'unit'\n  Allowed: none"),
        ("robustness", {"name": "x"}, "no option of robustness 'name'"),
        ("robustness", {"results": "x"}, "no option of robustness 'results'"),
    ],
)  # fmt: skip
def test_unknown_names_are_refused_with_the_allowed_ones(results_of, name, options, said):
    with pytest.raises(UserError, match=said):
        catalogue.show(results_of("landscape"), name, **options)


def test_pairs_of_hyphenated_names_have_unique_keys():
    results = SimpleNamespace(pairs=(("a-b", "c"), ("a", "b-c"), ("c", "a")))
    labels = PAIR.values(results)
    assert list(labels) == ["a-b~c", "a~b-c", "c-a"]
    assert [pair_of(results, key) for key in labels] == list(results.pairs)


def test_one_declaration_adds_an_exhibit(results_of, monkeypatch):
    """A new file and a line in the catalogue give options, figure, data and notes, found by name."""

    def compute(results, optimizer):
        lost = [group.tally.diverged for group in results.summary.groups if group.optimizer == optimizer]
        return SimpleNamespace(optimizer=optimizer, lost=lost)

    lost = Exhibit(
        name="lost",
        section="runs",
        title="Diverged runs",
        compute=compute,
        draw=lambda found, theme: go.Figure(go.Bar(y=found.lost), layout={"paper_bgcolor": theme.paper}),
        data=lambda found: Data(columns=("optimizer", "diverged"), rows=[(found.optimizer, n) for n in found.lost]),
        options=(OPTIMIZER,),
        depends=("filters",),
    )
    monkeypatch.setattr(catalogue, "EXHIBITS", (*catalogue.EXHIBITS, lost))
    assert catalogue.of_section("runs")[-1] is lost
    shown = catalogue.show(results_of("mixed"), "lost", optimizer="sgd")
    assert shown.name == "lost-sgd"
    assert shown.data.fields() == [["optimizer", "diverged"], ["sgd", "9"], ["sgd", "9"]]
    assert list(shown.figure(DARK).data[0].y) == [9, 9]
