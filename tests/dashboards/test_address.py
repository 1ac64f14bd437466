"""An address describes the view of a study: it round-trips, and nothing in it is trusted."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards.address import _OWN, Address, fit, parse, path_of, search_of
from dashboards.catalog import Catalog
from dashboards.exhibits import choices
from dashboards.filters import with_controls
from dashboards.site import Site
from sensitivity.analysis.view import Narrowed, View
from sensitivity.figures import catalogue
from sensitivity.store.directory import place
from sensitivity.study.axes import Axis

FULL = Address(
    page="robustness",
    study="a b&c",
    view=View(
        metric="train_loss",
        tolerance=2.5,
        optimizers=("kfac", "s:g d"),
        batch_sizes=(32, 128),
        target=("test_accuracy", 0.93),
        box=(
            Narrowed("kfac", "Beta.1-x", 1e-5, 0.1),
            Narrowed("kfac", "beta1", 0.5, 0.99),
            Narrowed("s:g d", "lr", 0.0, 0.3),
        ),
    ),
    options={"form": "difference", "unit": "flops"},
    slot="b",
    cell_a="0123456789abcdef",
    cell_b="fedcba9876543210",
    run="00112233445566ff",
    others=("one", "two"),
)


@pytest.mark.parametrize(
    "address", [FULL, Address(), Address(page="compare", others=("x",)), Address(page="runs", study="@root")]
)
def test_address_round_trip(address):
    assert parse(path_of(address), search_of(address)) == address


def test_defaults_are_left_out_of_the_address():
    assert search_of(Address(page="overview", study="s")) == ""


@pytest.mark.parametrize(
    "search",
    [
        "?metric=drop table",
        "?within=nan&within=1",
        "?within=-1",
        "?batch=0&batch=x&batch=" + "9" * 400,
        "?cell=../../etc/passwd&run=<script>",
        "?target=test_accuracy:1.2",
        "?target=test_loss:inf",
        "?box=kfac:lr:2:1&box=kfac:lr&box=::::&box=kfac::0:1&box=kfac:lr:0:x",
        "?click=z&Unit=steps&a b=1&unit=a/b",
        "?" + "x" * 10_000,
        "?" + "&".join(f"a{k}=1" for k in range(500)),
    ],
)
def test_invalid_values_are_dropped(search):
    assert replace(parse("/study/s/robustness", search), unread=()) == Address(page="robustness", study="s")


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("?metric=colour", "This study has no metric colour."),
        ("?metric=drop table", "There is no metric drop table."),
        ("?cell=zz", "There is no cell zz."),
        ("?beside=1", "There is no cell 1."),
        ("?run=x", "There is no run x."),
        ("?target=colour:1", "This study has no metric colour."),
        ("?target=colour:x", "There is no target colour:x."),
        ("?within=150", "There is no tolerance 150: it is a percentage, 0 to 100."),
        ("?batch=x", "There is no batch size x."),
        ("?box=kfac:lr:2:1", "There is no range kfac:lr:2:1."),
        ("?set=budget steps", "There is no change budget steps."),
        ("?set=budget", "There is no change budget."),
    ],
)
def test_invalid_values_are_reported(search, said, make):
    _, (found,) = fit(parse("/study/s/robustness", search), make.make_spec())
    assert found.startswith(said)


@pytest.mark.parametrize(
    "path", ["/study/../../etc/passwd", "/study/a%2F..%2Fb/x", "/a/b/c/d", "/study/x/A", "/" + "a" * 9000, "/study/%00"]
)
def test_unknown_paths_give_no_page(path):
    address = parse(path, "")
    assert address.page == "missing" or address.study is None


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_parses_and_round_trips(pathname, search):
    address = parse(pathname, search)
    assert parse(path_of(address), search_of(address)) == address or address.page == "missing"


def test_values_missing_from_the_study_are_reported_and_dropped(make):
    spec = make.make_spec()
    view = View(
        optimizers=("kfac", "adam"),
        batch_sizes=(32, 64),
        box=(Narrowed("sgd", "weight_decay", 0, 1), Narrowed("sgd", "lr", 0.1, 1)),
    )
    fitted, missing = fit(Address(study="s", view=view), spec)
    assert fitted.view.optimizers == ("kfac",)
    assert fitted.view.batch_sizes == (32,)
    assert fitted.view.box == (Narrowed("sgd", "lr", 0.1, 1),)
    assert [text for text in missing if "adam" in text or "64" in text or "weight_decay" in text] == list(missing)
    assert len(missing) == 3


def test_option_names_do_not_clash_with_reserved_names():
    assert not {option.name for exhibit in catalogue.EXHIBITS for option in choices(exhibit)} & {*_OWN}


def test_unknown_options_are_reported_and_dropped(studies):
    site = Site(catalog=Catalog(place(str(studies))), prefix="/", may_run=False)
    scene, missing = site.scene(parse("/study/half/scaling", "?unit=flops&form=4d&colour=red&metric=test_loss"), None)
    assert scene.address.options == {"unit": "flops"}
    assert missing == ("No figure has an option colour.", "Success rate as: 4d is not among the choices of this study.")


def test_missing_columns_and_runs_are_reported_and_dropped(studies):
    site = Site(catalog=Catalog(place(str(studies))), prefix="/", may_run=False)
    search = "?where=colour:equals:red&where=status:equals:failed&sort=size:desc&column=seed&chosen=0000000000000000"
    scene, missing = site.scene(parse("/study/half/runs", search), None)
    assert search_of(scene.address) == "?where=status%3Aequals%3Afailed&column=seed"
    assert missing == (
        "The table of runs has no column colour.",
        "The table of runs has no column size.",
        "This study has no run 0000000000000000.",
    )


@pytest.mark.parametrize("name", ["beta1", "Beta.1", "nesterov-x"])
def test_box_can_be_narrowed_on_any_hyperparameter_name(make, name):
    """The slider and the address narrow it, and the runs with it."""
    axes = {"adam": {name: Axis(scale="values", values=(0.5, 0.9, 0.99)), "eps": Axis(scale="values", values=(1e-8,))}}
    spec = SimpleNamespace(optimizers=axes, axes=axes, batch_sizes=[32], measured=make.make_spec().measured)
    address = with_controls(Address(page="runs", study="s"), {}, {("adam", name): [1, 2]}, spec)
    assert address.view.box == (Narrowed("adam", name, 0.9, 0.99),)
    assert fit(parse(path_of(address), search_of(address)), spec) == (address, ())
    runs = pd.DataFrame({"optimizer": "adam", f"param.{name}": [0.5, 0.9, 0.99]})
    assert list(address.view.filtered(runs).index) == [1, 2]
    _, missing = fit(parse("/study/s/runs", "?box=adam:eps:0:1&box=adam:beta9:0:1"), spec)
    assert missing == ("This study does not vary beta9 of adam.", "This study does not vary eps of adam.")
