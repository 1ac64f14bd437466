"""The address holds the view: read back it is the same, and nothing in it is believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards.view import Narrowed, View, fit, parse, path_of, search_of

FULL = View(
    page="robustness",
    study="a b&c",
    metric="train_loss",
    tolerance=2.5,
    optimizers=("kfac", "s:g d"),
    batch_sizes=(32, 128),
    target=("test_accuracy", 0.93),
    unit="flops",
    box=(Narrowed("kfac", "damping", 1e-5, 0.1), Narrowed("s:g d", "lr", 0.0, 0.3)),
    surface="difference",
    slot="b",
    cell_a="0123456789abcdef",
    cell_b="fedcba9876543210",
    run="00112233445566ff",
    others=("one", "two"),
)


@pytest.mark.parametrize("view", [FULL, View(), View(page="compare", others=("x",)), View(page="runs", study="@root")])
def test_an_address_reproduces_its_view(view):
    assert parse(path_of(view), search_of(view)) == view


def test_defaults_leave_the_address_short():
    assert search_of(View(page="overview", study="s")) == ""


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
        "?box=kfac:lr:2:1&box=kfac:lr&box=::::&box=kfac:LR:0:1",
        "?unit=years&surface=4d&click=z",
        "?" + "x" * 10_000,
        "?" + "&".join(f"a{k}=1" for k in range(500)),
    ],
)
def test_what_cannot_be_is_left_out(search):
    assert parse("/study/s/robustness", search) == View(page="robustness", study="s")


@pytest.mark.parametrize(
    "path", ["/study/../../etc/passwd", "/study/a%2F..%2Fb/x", "/a/b/c/d", "/study/x/A", "/" + "a" * 9000, "/study/%00"]
)
def test_strange_paths_name_no_page(path):
    view = parse(path, "")
    assert view.page == "missing" or view.study is None


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_is_read_and_written_again(pathname, search):
    view = parse(pathname, search)
    assert parse(path_of(view), search_of(view)) == view or view.page == "missing"


def test_what_the_study_lacks_is_said_and_dropped(make):
    spec = make.make_spec()
    asked = View(
        study="s",
        optimizers=("kfac", "adam"),
        batch_sizes=(32, 64),
        box=(Narrowed("sgd", "weight_decay", 0, 1), Narrowed("sgd", "lr", 0.1, 1)),
    )
    fitted, missing = fit(asked, spec)
    assert fitted.optimizers == ("kfac",)
    assert fitted.batch_sizes == (32,)
    assert fitted.box == (Narrowed("sgd", "lr", 0.1, 1),)
    assert [text for text in missing if "adam" in text or "64" in text or "weight_decay" in text] == list(missing)
    assert len(missing) == 3
