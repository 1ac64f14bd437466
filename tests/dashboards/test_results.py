"""What pages show of a study and of its filters, and what is read for it; the numbers are tested in tests/analysis."""

import datetime
from urllib.parse import parse_qs

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plotly.io.json import to_json_plotly

from dashboards.address import Address, search_of
from dashboards.blocks import FigureBlock, FixedBlock, address_names, block_version
from dashboards.catalog import Catalog
from dashboards.contents import drawn, written
from dashboards.filters import filter_bar
from dashboards.pages import block_of, blocks_of, pages
from dashboards.pages.studies import _card
from dashboards.site import Site
from sensitivity.analysis import evaluations
from sensitivity.analysis.view import Narrowed, View
from sensitivity.figures.theme import LIGHT
from sensitivity.store.directory import place
from sensitivity.store.reader import read_study
from sensitivity.study.errors import StorageError


def results_of(root, name, **view):
    site = Site(catalog=Catalog(place(str(root))), prefix="/", may_run=False)
    return site.scene(Address(page="robustness", study=name, view=View(**view)), "light")[0].results


def test_best_setting_at_a_bound_is_flagged_as_in_the_report(make, tmp_path):
    arms = {"sgd": {"kind": "sgd", "lr": {"log": [1e-3, 1.0]}, "design": "sobol", "samples": 64}}
    spec = make.make_spec(name="drawn", optimizers=arms, targets={"train_loss": [0.21]})

    def steeper(trial):  # the larger, the better
        return make.run(trial, [2.0, 0.5 - 0.1 * np.log10(dict(trial.hyperparameters)["lr"] / 1e-3)])

    make.write_study(tmp_path / "drawn", spec, steeper)
    found = results_of(tmp_path, "drawn", metric="train_loss")
    assert [(edge.parameter, edge.side, edge.of) for edge in found.maps[0].edges] == [("lr", "high", "box")]
    assert any("bound" in caution.text for curve in found.scaling("steps") for caution in curve.warnings)


def test_new_version_reads_new_parts_and_drops_cached_results(make, tmp_path, monkeypatch):
    spec, read = make.make_spec(name="live"), []
    ask = evaluations.read_evaluations

    def told(directory, part, *which):
        read.append(part)
        return ask(directory, part, *which)

    monkeypatch.setattr(evaluations, "read_evaluations", told)
    monkeypatch.setattr("dashboards.catalog._LISTING_S", -1.0)
    make.write_study(tmp_path / "live", spec, lambda trial: make.mixed(trial) if trial.seed == 0 else None, packs=2)
    site = Site(catalog=Catalog(place(str(tmp_path))), prefix="/", may_run=False)
    address = Address(page="robustness", study="live")
    before = site.scene(address, None)[0]
    assert sum(cell.completed for map_ in before.results.maps for cell in map_.cells) == 18, (
        "of 36: 12 diverged, 6 failed"
    )
    assert len(read) == 2
    _ = before.results.maps
    assert len(read) == 2, "kept"
    assert site.scene(address, None)[0].loaded is before.loaded
    make.write_study(tmp_path / "live", spec, lambda trial: make.mixed(trial) if trial.seed == 1 else None, packs=1)
    after = site.scene(address, None)[0]
    assert after.version != before.version
    assert sum(cell.completed for map_ in after.results.maps for cell in map_.cells) == 36
    assert len(read) == 3
    assert len(set(read)) == 3
    assert after.results.memo is not before.results.memo


def test_damaged_curve_affects_only_figures_that_need_it(make, tmp_path):
    make.write_study(tmp_path / "s", make.make_spec(name="s"), make.mixed)
    (part, _) = sorted((tmp_path / "s" / "curves").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-40])
    site = Site(catalog=Catalog(place(str(tmp_path))), prefix="/", may_run=False)
    scene, _ = site.scene(Address(page="robustness", study="s"), "light")
    with pytest.raises(StorageError) as said:  # shown instead of the figure
        drawn(block_of(pages()["robustness"], scene, "robustness-kfac"), scene)
    assert f"{part.name}: damaged" in str(said.value)
    assert f"Move {tmp_path / 's' / 'runs' / part.name} away" in str(said.value)
    box = block_of(pages()["robustness"], scene, "box")
    with site.in_turn(scene, box):
        assert "damaged" in written(box, scene).children
    counts = written(block_of(pages()["overview"], scene, "status"), scene)
    assert "Every planned run" in str(counts)
    assert len(scene.results.runs) == 108


def test_impossible_value_in_one_study_does_not_hide_the_others(make, tmp_path):
    for name in "abc":
        make.write_study(tmp_path / name, make.make_spec(name=name), make.mixed)
    part = min((tmp_path / "b" / "runs").glob("*.parquet"))
    table = pq.read_table(part)
    times = pa.array([2**58] * len(table)).cast(table.schema.field("finished_at").type)
    pq.write_table(table.set_column(table.column_names.index("finished_at"), "finished_at", times), part)
    site = Site(catalog=Catalog(place(str(tmp_path))), prefix="/", may_run=False)
    now = datetime.datetime.now(tz=datetime.UTC)
    cards = {name: str(_card(site, name, now)) for name in site.catalog.places()}
    assert "of 108 runs" in cards["a"]
    assert "of 108 runs" in cards["c"]
    assert f"{part}: impossible value (column finished_at, row 0: 11103-" in cards["b"]


def test_filter_bar_shows_the_filtered_count_at_once(studies):
    """A line that appeared later would move the maps under the pointer."""
    assert "All 1,152 planned runs." in str(filter_bar(results_of(studies, "bowl")))
    assert "576 of 1,152 planned runs." in str(filter_bar(results_of(studies, "bowl", optimizers=("sgd",))))


def test_dragging_a_slider_caches_few_filtered_tables(studies):
    site = Site(catalog=Catalog(place(str(studies))), prefix="/", may_run=False)
    for k in range(20):
        view = View(box=(Narrowed("kfac", "lr", 0.01 * (1 + k / 100), 1.0),))
        scene = site.scene(Address(page="runs", study="half", view=view), None)[0]
        assert len(scene.results.runs) > 0
    assert len(scene.results.memo._kept) == 8


def shown(root, *, view=None, **address):
    """Return every figure and text of every page, by page and name: the part of the address and the drawn content."""
    site = Site(catalog=Catalog(place(str(root))), prefix="/", may_run=False)
    found = {}
    for page in pages().values():
        scene, _ = site.scene(Address(page=page.name, study="s", view=View(**(view or {})), **address), "light")
        for block in (*blocks_of(page, scene), *page.further):
            if not isinstance(block, FixedBlock):
                made = vars(drawn(block, scene)) if isinstance(block, FigureBlock) else written(block, scene)
                found[page.name, block.name] = (
                    (block_version(scene, block), query(block, scene)),
                    to_json_plotly(made),
                )
    return found


def query(block, scene):
    """Return the part of the address that a browser compares: only if it changes is the block requested again."""
    given, names = parse_qs(search_of(scene.address).removeprefix("?")), address_names(block)
    return {name: value for name, value in given.items() if names is None or name in names}


@pytest.fixture(scope="module")
def whole(make, tmp_path_factory):
    """A small study, the same without its larger batch size, and everything that is shown of the first."""
    roots = [tmp_path_factory.mktemp(name) for name in ("both", "one")]
    spec = make.make_spec(name="s", batch_sizes=[32])
    make.write_study(roots[0] / "s", spec, make.mixed, packs=1)
    make.write_study(roots[1] / "s", spec, make.mixed, packs=1)
    larger = make.make_spec(name="s", batch_sizes=[32, 128])
    make.write_study(roots[0] / "s", larger, lambda t: make.mixed(t) if t.batch_size == 128 else None, packs=1)
    return (*roots, shown(roots[0]))


def test_filter_applies_to_every_figure_and_number(whole):
    """Filtered results are shown as if they were all, except for verdicts, which are then exploratory."""
    both, one, all_ = whole
    filtered, alone = shown(both, view={"batch_sizes": (32,)}), shown(one)
    assert filtered.keys() == alone.keys() == all_.keys()
    written_later = ("runs", "timeline")
    different = [name for name in filtered if filtered[name][1] != alone[name][1] and name != written_later]
    assert different == [("overview", "answers")]
    assert all("Exploratory" in filtered[name][1] and "Exploratory" not in alone[name][1] for name in different)
    unmoved = {name for page, name in filtered if filtered[page, name][1] == all_[page, name][1]}
    unmoved -= {"settling"}  # it has not been settled
    sentence = ('{"figure":null', '[{"props":{"children":"Effect of the KL clip"')  # shown instead: there is none
    refused = {name for page, name in filtered if all_[page, name][1].startswith(sentence)}
    assert unmoved - refused <= {"seeds-a", "seeds-b", "differences"}, "no cell and no run is selected"


@pytest.mark.parametrize(
    "change",
    [
        {"view": {"metric": "train_loss"}},
        {"view": {"tolerance": 9.0}, "options": {"unit": "flops", "budget": "seconds", "cells": "diverged"}},
        {"view": {"target": ("test_accuracy", 0.7)}, "options": {"form": "difference"}},
        {"view": {"batch_sizes": (128,)}, "cell_a": "first", "cell_b": "first"},
    ],
    ids=str,
)
def test_blocks_that_depend_on_the_view_are_redrawn(whole, change):
    """A block with too few fields of the view in `depends` would keep showing the previous content."""
    root, _, before = whole
    cell = read_study(place(str(root / "s"))).runs["cell_id"].iloc[0]
    after = shown(root, **{name: cell if value == "first" else value for name, value in change.items()})
    changed = [name for name in before if before[name][1] != after[name][1]]
    assert len(changed) > 1
    for way in (0, 1):
        assert [name for name in changed if before[name][0][way] == after[name][0][way]] == []


def test_optimizer_has_the_same_colour_in_its_curves(whole):
    root = whole[0]
    runs = read_study(place(str(root / "s"))).runs
    site = Site(catalog=Catalog(place(str(root))), prefix="/", may_run=False)
    colours = []
    for optimizer in ("kfac", "sgd"):
        cell = runs.loc[(runs["optimizer"] == optimizer) & (runs["status"] == "completed"), "cell_id"].iloc[0]
        scene, _ = site.scene(Address(page="robustness", study="s", cell_a=cell), "light")
        figure = drawn(block_of(pages()["robustness"], scene, "curves-a"), scene).figure
        colours.append({trace.line.color for trace in figure.data})
    assert colours == [{LIGHT.category(0)}, {LIGHT.category(1)}]
