"""The page of runs in Chromium: filters, order, columns, runs side by side, notes, downloads."""

import io
import re
from urllib.parse import parse_qs

import pandas as pd
import pytest

import sensitivity

NUMBERS = "gd => gd._fullData.map((trace) => trace.x.length)"


@pytest.fixture(scope="module")
def root(tmp_path_factory, make):
    """A root with a study with known results, to which these tests may add notes."""
    folder = tmp_path_factory.mktemp("workbench")
    make.write_study(folder / "half", make.make_spec(name="half"), lambda t: make.mixed(t) if t.seed < 2 else None)
    return folder


@pytest.fixture(scope="module")
def bench(root, at):
    """The address of its page of runs."""
    with at.served(root) as address:
        yield f"{address}/study/half/runs"


@pytest.fixture
def runs(root):
    """Its runs as stored in the parts, read without the code under test."""
    parts = [pd.read_parquet(part) for part in sorted((root / "half" / "runs").glob("*.parquet"))]
    return pd.concat(parts, ignore_index=True)


def query(tab):
    return parse_qs(tab.evaluate("location.search").removeprefix("?"))


def count(tab):
    return tab.evaluate("dash_ag_grid.getApi('runs').getDisplayedRowCount()")


def opened(visit, address):
    tab = visit(address)
    tab.locator(
        "#runs .ag-row[row-index='0'] [col-id='optimizer']", has_text=re.compile("kfac|sgd", re.IGNORECASE)
    ).wait_for()
    tab.locator(".quick").wait_for()
    return tab


def taken(tab):
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "half-runs.csv"
    return pd.read_csv(io.StringIO(download.value.path().read_text()))


def test_table_state_is_a_link_and_a_csv_file(bench, runs, visit, at):
    tab = opened(visit, f"{bench}?where=test_loss:inRange:0.15:0.3")
    tab.get_by_role("button", name="completed").click()
    tab.wait_for_url("**where=status**")
    tab.locator("#runs .ag-header-cell[col-id='test_loss'] .ag-header-cell-label").click()
    tab.wait_for_url("**sort=test_loss**")
    tab.get_by_text("Columns", exact=True).click()
    tab.locator(".picker").get_by_text("Damping", exact=True).click()
    tab.locator(".picker").get_by_text("Host", exact=True).click()
    tab.wait_for_url("**column=**")
    assert set(query(tab)["where"]) == {"status:equals:completed", "test_loss:inRange:0.15:0.3"}
    expected = runs[(runs["status"] == "completed") & runs["test_loss"].between(0.15, 0.3)]
    expected = expected.sort_values("test_loss", kind="stable")
    assert 0 < len(expected) < len(runs)
    at.until(lambda: count(tab) == len(expected))
    tab.get_by_text(f"{len(expected)} of 108 runs").wait_for()
    chip = tab.get_by_role("button", name="test loss is between 0.15 and 0.3")
    chip.wait_for()
    file = taken(tab)
    shown = tab.evaluate("dash_ag_grid.getApi('runs').getAllDisplayedColumns().map((one) => one.getColId())")
    assert list(file.columns) == shown[1:]
    assert {"param.damping", "host"} ^ set(file.columns) >= {"param.damping"}
    assert "host" not in file.columns
    assert list(file["test_loss"]) == list(expected["test_loss"]), "numbers in full"
    assert set(file["trial_id"]) == set(expected["trial_id"])
    again = opened(visit, tab.url)
    at.until(lambda: count(again) == len(expected))
    assert query(again) == query(tab)
    assert taken(again).equals(file)
    chip.click()
    at.until(lambda: query(tab)["where"] == ["status:equals:completed"])
    at.until(lambda: count(tab) == int((runs["status"] == "completed").sum()))


def test_row_without_data_cannot_be_ticked_or_opened(bench, visit, at):
    """A row that is still loading has no run; its click was once written to the address as "undefined"."""
    tab = opened(visit, bench)
    tab.evaluate(
        """() => {
            const row = {rowId: "undefined", value: true, timestamp: Date.now()};
            dash_clientside.set_props("runs", {cellValueChanged: [{colId: "chosen", ...row}]});
            dash_clientside.set_props("runs", {cellClicked: {colId: "optimizer", ...row}});
        }"""
    )
    tab.locator("#runs .ag-row[row-index='0'] [col-id='chosen'] input").click()
    at.until(lambda: "chosen" in query(tab))
    assert len(query(tab)["chosen"]) == 1
    assert "undefined" not in tab.evaluate("location.search")


def test_ticked_runs_are_shown_side_by_side(bench, runs, visit, at, axe):
    tab = opened(visit, bench)
    tick = tab.locator("#runs .ag-row[row-index='0'] [col-id='chosen'] input")
    tick.click()
    at.until(lambda: len(query(tab).get("chosen", [])) == 1)
    tab.locator("#runs .ag-row[row-index='4'] [col-id='chosen']").focus()
    tab.keyboard.press("Space")
    at.until(lambda: len(query(tab).get("chosen", [])) == 2)
    chosen = query(tab)["chosen"]
    curves = at.figure(tab, "chosen-curves")
    at.until(lambda: curves.locator(".js-plotly-plot").evaluate(NUMBERS) == [3, 3])  # evaluations
    table = tab.locator("table", has_text="Differences between the chosen runs")
    at.until(lambda: "learning rate" in table.inner_text())
    rows = {row[0]: row[1:] for row in (r.split("\t") for r in table.inner_text().splitlines()) if len(row) == 3}
    pair = runs.set_index("trial_id").loc[chosen]
    assert [float(text) for text in rows["learning rate"]] == list(pair["param.lr"])
    assert [float(text) for text in rows["training loss"]] == pytest.approx(list(pair["train_loss"]), rel=1e-3)
    assert "batch size" not in rows, "it is the same in both"
    again = opened(visit, tab.url)
    at.figure(again, "chosen-curves")
    at.until(lambda: again.locator("#runs [col-id='chosen'] input:checked").count() == 2)
    again.evaluate(axe)
    found = again.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert [fault for fault in found if fault["impact"] in ("serious", "critical")] == []
    table.get_by_role("button", name="Remove run 1").click()
    at.until(lambda: query(tab)["chosen"] == chosen[1:])
    at.until(lambda: tab.locator("#runs [col-id='chosen'] input:checked").count() == 1)


def test_note_is_stored_in_the_study_and_found_by_its_tag(bench, root, visit, at):
    tab = opened(visit, bench)
    tab.locator("#runs .ag-row[row-index='2'] [col-id='optimizer']").focus()
    tab.keyboard.press("Enter")
    drawer = tab.get_by_role("dialog")
    drawer.get_by_label("Note", exact=True).fill("jumps at epoch 3")
    drawer.get_by_label("Tags").fill("odd, look again")
    drawer.get_by_role("button", name="Save").click()
    drawer.get_by_text("Saved in the study directory.").wait_for()
    (run,) = query(tab)["run"]
    known = sensitivity.open(root / "half").runs.set_index("trial_id")
    assert tuple(known.loc[run, ["note", "tags"]]) == ("jumps at epoch 3", "look again, odd")
    assert (known["note"] != "").sum() == 1
    drawer.get_by_label("Tags").fill("x" * 50)
    drawer.get_by_role("button", name="Save").click()
    drawer.get_by_text("40 characters at most").wait_for()
    tab.keyboard.press("Escape")
    at.until(lambda: "run" not in query(tab))
    tab.get_by_role("button", name="look again 1").click()
    at.until(lambda: count(tab) == 1)
    assert taken(tab).set_index("trial_id").loc[run, "param.lr"] == known.loc[run, "param.lr"]
    with at.served(root, allow_notes=False) as address:
        tab = visit(f"{address}/study/half/runs?run={run}")
        drawer = tab.get_by_role("dialog")
        drawer.get_by_text("jumps at epoch 3").wait_for()
        assert drawer.get_by_role("button", name="Save").count() == 0


def test_scatter_follows_the_table_and_its_points_open_runs(bench, runs, visit, at):
    tab = opened(visit, f"{bench}?where=status:equals:completed")
    place = at.figure(tab, "scatter").locator(".js-plotly-plot")
    tab.get_by_label("X axis", exact=True).first.click()
    tab.get_by_role("option", name="training time, s").click()
    tab.wait_for_url("**x=train_seconds**")
    done = runs[runs["status"] == "completed"]
    at.until(lambda: sum(place.evaluate(NUMBERS)) == len(done))
    at.until(lambda: "training time" in place.inner_text())
    canvas = at.figure(tab, "scatter")
    canvas.focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    tab.get_by_role("dialog").get_by_text("Configuration").wait_for()
    assert query(tab)["run"][0] in set(done["trial_id"])
    assert at.figure(tab, "timeline").locator(".js-plotly-plot").evaluate(NUMBERS) == [3 * len(done), len(done)]
