"""Pages in a real Chromium: painted, without console errors or requests beyond the server, and updated live."""

import json
import re
import signal
import subprocess
import sys
from urllib.parse import parse_qs

import plotly.graph_objects as go
import pytest

from dashboards import blocks, contents, jobs
from dashboards.contents import drawn
from sensitivity.analysis.maps import compute_maps
from sensitivity.figures import catalogue
from sensitivity.figures.data import Data
from sensitivity.figures.exhibit import Exhibit
from sensitivity.figures.tables import Table
from sensitivity.store.directory import place
from sensitivity.store.reader import read_study
from sensitivity.study.metrics import METRICS


def query(tab):
    return parse_qs(tab.evaluate("location.search").removeprefix("?"))


def test_studies_are_listed_with_counts_and_errors(site, visit):
    tab = visit(site)
    tab.get_by_role("link", name="bowl").wait_for()
    text = tab.inner_text("#studies")
    assert "1,152 of 1,152 runs (100%)" in text
    assert "72 of 108 runs (67%)" in text
    assert "24 diverged" in text
    assert "12 failed" in text
    assert "36 pending" in text
    assert "K-FAC, SGD" in text
    assert "study.json: damaged" in text
    assert tab.get_by_role("button", name="Stop").count() == 0


def test_click_on_a_cell_shows_curves_and_seeds_and_gives_a_link(site, studies, visit, at):
    tab = visit(f"{site}/study/bowl/robustness")
    maps = at.figure(tab, "robustness-kfac")
    # No wait in between: a quick selection must not lose the one before it.
    cell = at.click_cell(tab, maps, panel=1, column=3, row=4)
    tab.get_by_text("cell B, next to it").click()
    other = at.click_cell(tab, maps, panel=0, column=2, row=2)
    curves = at.figure(tab, "curves-a")
    at.figure(tab, "curves-b")
    assert query(tab) == {"cell": [cell], "beside": [other], "click": ["b"]}
    study = read_study(place(str(studies / "bowl")))
    rows = study.runs[study.runs["cell_id"] == cell]
    seeds = tab.locator("table", has_text="Seeds of cell A")
    seeds.wait_for()
    assert seeds.locator("tbody tr").count() == len(rows) == 3
    again = visit(tab.url)
    at.figure(again, "curves-a")
    at.figure(again, "curves-b")
    assert again.inner_text("table:has-text('Seeds of cell A')") == seeds.inner_text()
    titles = ".js-plotly-plot .gtitle"
    assert curves.locator(titles).text_content() == at.figure(again, "curves-a").locator(titles).text_content()
    for letter in "AB":
        maps.locator(".mark").get_by_text(letter, exact=True).wait_for()


def test_fast_click_selects_the_cell_under_the_pointer(site, visit, at):
    """Plotly checks the pointer every 50 ms at most; here it comes from another cell, or the figure is redrawn."""
    tab = visit(f"{site}/study/bowl/robustness")
    maps = at.figure(tab, "robustness-kfac")
    for meanwhile, column in (("nothing", 5), ("a while", 3), ("a drawing", 4)):
        away, cell = at.cell_at(maps, column=2, row=4), at.cell_at(maps, column=column, row=4)
        maps.locator(".js-plotly-plot").evaluate(
            """async (figure, [away, cell, meanwhile]) => {
                const send = (kind, [x, y]) => document.elementFromPoint(x, y).dispatchEvent(
                    new MouseEvent(kind, {bubbles: true, clientX: x, clientY: y, detail: 1}));
                for (const [kind, where] of [["mousemove", away], ["mousemove", cell], ["mousedown", cell]])
                    send(kind, where);
                if (meanwhile === "a while") await new Promise((resolve) => setTimeout(resolve, 60));
                if (meanwhile === "a drawing") await Plotly.redraw(figure);
                send("mouseup", cell);
            }""",
            [away[:2], cell[:2], meanwhile],
        )
        tab.wait_for_url(f"**cell={cell[2]}")


COUNT_DRAWINGS = """
new MutationObserver(() => document.querySelectorAll(".js-plotly-plot").forEach((figure) => {
    if (!figure.on || figure.dataset.drawings) return;
    figure.dataset.drawings = 0;
    figure.on("plotly_afterplot", () => { if (figure._fullData.length) figure.dataset.drawings++; });
})).observe(document, {childList: true, subtree: true});
"""


def test_map_is_drawn_once_and_click_loads_only_its_cell(site, visit, at, monkeypatch):
    """Work that browser and server repeat for a click makes it slow in a large study."""
    drawings = []

    def draw(block, scene):
        drawings.append(block.name)
        return drawn(block, scene)

    monkeypatch.setattr(contents, "drawn", draw)
    tab = visit(f"{site}/study/bowl/robustness?batch=128&batch=512")
    tab.add_init_script(COUNT_DRAWINGS)
    tab.reload()
    maps = at.figure(tab, "robustness-kfac")
    at.figure(tab, "robustness-sgd")
    tab.get_by_text("Click a cell of a map").wait_for()
    assert {"robustness-kfac", "robustness-sgd"} <= set(drawings)
    asked = []
    tab.on("request", lambda request: asked.append(request.post_data_json) if request.method == "POST" else None)
    drawings.clear()
    at.click_cell(tab, maps, panel=1, column=6, row=1)  # not drawn by any other test
    at.figure(tab, "curves-a")
    tab.locator("table", has_text="Seeds of cell A").wait_for()
    maps.locator(".mark").wait_for()
    named = [body["outputs"][0]["id"]["name"] for body in asked if '"type":"' in body["output"]]
    assert sorted(named) == ["curves-a", "seeds-a", "seeds-b"]
    assert drawings == ["curves-a"]
    assert maps.locator(".js-plotly-plot").get_attribute("data-drawings") == "1"
    drawings.clear()
    again = visit(tab.url)
    at.figure(again, "robustness-sgd")
    at.figure(again, "curves-a")
    assert drawings == [], "figures are kept"


def test_links_to_other_pages_keep_the_selection(site, visit, at):
    tab = visit(f"{site}/study/bowl/robustness")
    cell = at.click_cell(tab, at.figure(tab, "robustness-kfac"), panel=0, column=3, row=4)
    overview = tab.get_by_role("link", name="Overview")
    at.until(lambda: (overview.get_attribute("href") or "").endswith(f"/study/bowl/overview?cell={cell}"))
    overview.click()
    at.figure(tab, "targets")
    tab.go_back()
    at.figure(tab, "curves-a")
    assert query(tab)["cell"] == [cell]


def test_filter_applies_to_every_figure_and_number_in_the_browser(site, studies, visit, at):
    tab = visit(f"{site}/study/bowl/robustness")
    maps = at.figure(tab, "robustness-kfac")
    count = "gd => gd._fullData.filter(t => t.type === 'heatmap').map(t => [t.x.length, t.y.length])"
    assert maps.locator(".js-plotly-plot").evaluate(count) == [[8, 8]] * 3
    numbers = tab.locator(".block.text", has_text="In this prior box")
    tab.get_by_text("Narrow the prior box").click()
    thumb = tab.get_by_role("slider", name="K-FAC: learning rate, from")
    box = thumb.bounding_box()
    track = tab.locator(".mantine-Slider-trackContainer, .mantine-RangeSlider-trackContainer").nth(1).bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.mouse.down()
    tab.mouse.move(box["x"] + track["width"] * 0.45, box["y"] + 3, steps=6)
    tab.mouse.up()
    tab.wait_for_url("**box=kfac**")
    side = query(tab)["box"][0].split(":")
    assert side[:2] == ["kfac", "lr"]
    study = read_study(place(str(studies / "bowl")))
    kept = study.runs[(study.runs["optimizer"] != "kfac") | (study.runs["param.lr"] >= float(side[2]) * 0.999)]
    assert 0 < len(kept) < len(study.runs)
    tab.locator("#filtered", has_text=f"{len(kept):,} of 1,152 planned runs").wait_for()
    columns = len(set(kept.loc[kept["optimizer"] == "kfac", "param.lr"]))
    at.until(lambda: maps.locator(".js-plotly-plot").evaluate(count) == [[columns, 8]] * 3)
    maps_now = compute_maps(kept, study.curves, METRICS["test_accuracy"], designs={"kfac": "grid", "sgd": "grid"})
    inside = sum(cell.in_region for cell in maps_now[0].cells)
    numbers.get_by_text(f"{inside:,}/{len(maps_now[0].cells):,}").first.wait_for()


@pytest.mark.parametrize("page", ["robustness", "overview"])
def test_no_control_blocks_the_next_frame(site, visit, at, page):
    """At most half a second of the page's CPU time for each control, which doesn't depend on the machine's load."""
    tab = visit(f"{site}/study/bowl/{page}")
    at.figure(tab, {"robustness": "robustness-sgd", "overview": "targets"}[page])
    tab.wait_for_load_state("networkidle")  # drawing at the opening of the page is not the work of a control
    at.until(lambda: tab.locator(".dash-graph--pending").count() == 0)
    clock = tab.context.new_cdp_session(tab)
    clock.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent():
        return {each["name"]: each["value"] for each in clock.send("Performance.getMetrics")["metrics"]}["TaskDuration"]

    pressed, slow = 0, {}
    for control in tab.query_selector_all(
        "#page button.quiet, #page summary, #bar summary, #page [data-active] ~ label"
    ):
        name = control.inner_text()
        if not control.is_visible() or name == "CSV":
            continue
        before = spent()
        control.click()
        tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        tab.wait_for_timeout(300)
        pressed += 1
        if (took := spent() - before) > 0.5:
            slow[name] = took
    assert pressed > 3
    assert slow == {}


def test_shift_click_selects_cell_b_and_focus_has_a_frame(site, visit, at):
    tab = visit(f"{site}/study/bowl/robustness")
    maps = at.figure(tab, "robustness-kfac")
    first = at.click_cell(tab, maps, panel=0, column=3, row=4)
    at.figure(tab, "curves-a")
    tab.keyboard.down("Shift")
    second = at.click_cell(tab, maps, panel=0, column=4, row=5)
    tab.keyboard.up("Shift")
    tab.wait_for_url(f"**cell={first}&beside={second}")
    at.figure(tab, "curves-b")
    dock, canvas = tab.locator(".dock").bounding_box(), maps.bounding_box()
    assert dock["x"] >= canvas["x"] + canvas["width"], "next to the maps"
    marks = maps.locator(".mark")
    at.until(lambda: marks.all_text_contents() == ["A", "B"])
    for mark, column, row in ((0, 3, 4), (1, 4, 5)):
        own, (x, y, _) = marks.nth(mark).bounding_box(), at.cell_at(maps, panel=0, column=column, row=row)
        assert own["x"] < x < own["x"] + own["width"]
        assert own["y"] < y < own["y"] + own["height"]
        middle = (own["x"] + own["width"] / 2, own["y"] + own["height"] / 2)
        assert middle == pytest.approx((x, y), abs=1), "around the cell"
    maps.focus()
    tab.keyboard.press("ArrowRight")
    at.until(lambda: maps.locator(".mark.cursor").count() == 1)
    maps.blur()
    at.until(lambda: maps.locator(".mark.cursor").count() == 0)


def test_tolerance_changes_the_region(site, visit, at):
    tab = visit(f"{site}/study/bowl/robustness?within=0.25")
    maps = at.figure(tab, "robustness-kfac")
    said = maps.locator(".gtitle-subtitle").text_content().replace(" ", "")  # a line's end swallows one
    assert "within0.25percentagepoints" in said
    thumb = tab.get_by_role("slider", name="Tolerance, percentage points")
    thumb.focus()
    for _ in range(3):
        thumb.press("ArrowRight")
    tab.wait_for_url("**/robustness")  # one point is the default, which the address omits
    maps.locator(".gtitle-subtitle", has_text=re.compile("within 1 ?percentage ?point ?of")).wait_for()


def test_click_survives_the_late_answer_to_a_filter(site, visit, at):
    tab = visit(f"{site}/study/bowl/robustness")
    maps = at.figure(tab, "robustness-kfac")
    held = []

    def hold(route):
        asks = '"output":"..asked.data' in (route.request.post_data or "") and not held
        held.append(route) if asks else route.continue_()

    tab.route("**/_dash-update-component*", hold)
    tab.get_by_label("Optimizers").first.click()
    tab.get_by_role("option", name="K-FAC").click()
    at.until(lambda: tab.title() and held)
    at.click_cell(tab, maps)
    tab.wait_for_url("**cell=**")
    (cell,) = query(tab)["cell"]
    held[0].continue_()
    tab.wait_for_url("**optimizer=kfac**")
    assert query(tab)["cell"] == [cell]
    tab.go_back()
    tab.locator("#filtered", has_text="All 1,152 planned runs").wait_for()
    tab.get_by_label("Optimizers").first.click()
    tab.get_by_role("option", name="K-FAC").click()
    tab.wait_for_url("**optimizer=kfac**")


def test_options_and_filters_change_the_page(site, visit, at):
    tab = visit(f"{site}/study/half/curves")
    curves = at.figure(tab, "curves")
    tab.get_by_text("the median cells").click()
    tab.wait_for_url("**cells=median")
    curves.locator(".gtitle", has_text="median cells").wait_for()
    tab.get_by_role("link", name="Robustness").click()
    at.until(lambda: tab.locator(".choosable").count() == 2)
    tab.get_by_label("Optimizers").first.click()
    tab.get_by_role("option", name="SGD").click()
    tab.wait_for_url("**optimizer=sgd**")
    at.until(lambda: tab.locator(".choosable").count() == 1)  # K-FAC's maps are no longer on the page
    tab.go_back()
    at.until(lambda: tab.locator(".choosable").count() == 2)
    tab.go_back()
    at.figure(tab, "curves").locator(".gtitle", has_text="median cells").wait_for()


def test_cells_are_selected_with_the_keyboard(site, visit, at):
    tab = visit(f"{site}/study/bowl/robustness")
    maps = at.figure(tab, "robustness-sgd")
    maps.focus()
    for key in ("ArrowRight", "ArrowUp", "PageDown", "ArrowRight"):
        tab.keyboard.press(key)
    assert "SGD, batch size 128" in tab.inner_text("#live")
    _, _, expected = at.cell_at(maps, panel=1, column=1, row=0)
    tab.keyboard.press("Enter")
    tab.wait_for_url(f"**cell={expected}**")
    at.figure(tab, "curves-a")


def test_dark_mode_repaints_figures_and_is_remembered(site, visit, at):
    tab = visit(f"{site}/study/half/robustness", scheme="dark")
    at.figure(tab, "robustness-kfac")
    ground = "getComputedStyle(document.querySelector('.main-svg')).backgroundColor"
    assert tab.evaluate(ground) == "rgb(23, 28, 36)"
    tab.click("#theme-switch")
    at.until(lambda: tab.evaluate(ground) == "rgb(255, 255, 255)")
    tab.reload()
    at.figure(tab, "robustness-kfac")
    assert tab.evaluate(ground) == "rgb(255, 255, 255)"


def added(**fields):
    """An exhibit as a module of its own would declare it."""
    return Exhibit(
        compute=lambda results: sorted(results.searched["batch_size"].unique()),
        data=lambda sizes: Data(columns=("of, them", "half"), rows=[(int(size), size / 2) for size in sizes]),
        depends=("filters",),
        **fields,
    )


def test_new_exhibit_is_on_its_page_with_its_data(site, visit, at, monkeypatch):
    """The data of a figure with many cells are cut, because a table of thousands of rows freezes a page."""
    drawn = added(name="sizes", section="maps", title="Sizes", draw=lambda sizes, theme: go.Figure(go.Scatter(y=sizes)))
    tables = added(
        name="size-table",
        section="novel",
        title="Sizes in a table",
        tables=lambda sizes: [Table(caption="Sizes.", header=("size",), rows=[[n] for n in sizes], text_columns=0)],
    )
    monkeypatch.setattr(catalogue, "EXHIBITS", (*catalogue.EXHIBITS, drawn, tables))
    monkeypatch.setattr(blocks, "MAX_ROWS", 10)
    tab = visit(f"{site}/study/half/robustness")

    def data_of(name):
        tab.locator(f"""[id='{{"name":"{name}","type":"show-data"}}']""").click()
        table = tab.locator(f"""[id='{{"name":"{name}","type":"data"}}'] table""")
        table.wait_for()
        return table

    at.figure(tab, "robustness-kfac")
    table = data_of("robustness-kfac")
    assert table.locator("tbody tr").count() == 10
    assert "The first 10 of 18 rows" in table.inner_text()  # nine cells at two batch sizes
    at.figure(tab, "sizes")
    assert data_of("sizes").locator("td").all_text_contents() == ["32", "16", "128", "64"]
    with tab.expect_download() as download:
        tab.locator("""[id='{"name":"sizes","type":"csv"}']""").click()
    assert download.value.suggested_filename == "half-sizes.csv"
    assert download.value.path().read_text().splitlines() == ['"of, them",half', "32,16.0", "128,64.0"]
    tab.get_by_role("link", name="More").click()
    tab.get_by_role("heading", name="Sizes in a table").wait_for()
    assert data_of("size-table").locator("th").all_text_contents() == ["of, them", "half"]


def test_invalid_parts_of_an_address_are_reported(site, visit, at):
    tab = visit(f"{site}/study/half/robustness?optimizer=adam&cell=0000000000000000")
    at.figure(tab, "robustness-kfac")
    assert "This study has no optimizer adam." in tab.inner_text("#page")
    tab.get_by_text("The cell in the address is not in this study.").wait_for()


def test_script_in_a_name_is_escaped(make, visit, at, tmp_path):
    hostile = "<img src=x onerror=alert(1)>"
    spec = make.make_spec(description=f"{hostile}<script>alert(2)</script>")
    make.write_study(tmp_path / hostile.replace("/", ""), spec, make.mixed)
    with at.served(tmp_path) as address:
        tab = visit(address)
        tab.get_by_text("<script>alert(2)</script>").wait_for()
        tab.get_by_role("link", name="synthetic").click()
        tab.get_by_role("link", name="Robustness").click()
        at.figure(tab, "robustness-kfac")
        assert tab.locator("img").count() == 0
        assert hostile in tab.inner_text("#nav")


def test_live_study_updates_without_losing_zoom_or_clicks(make, visit, at, tmp_path):
    spec = make.make_spec(name="live")
    folder = tmp_path / "live"
    make.write_study(folder, spec, lambda trial: make.mixed(trial) if trial.seed == 0 else None, packs=1)
    with at.served(tmp_path) as address:
        tab = visit(f"{address}/study/live/robustness")
        maps = at.figure(tab, "robustness-kfac")
        at.click_cell(tab, maps, column=0, row=0)
        at.figure(tab, "curves-a")
        assert "36 completed" not in maps.locator(".gtitle-subtitle").text_content()
        reach = "gd => gd._fullLayout.xaxis.range"
        whole = maps.locator(".js-plotly-plot").evaluate(reach)
        for step, (column, row) in enumerate(((0, 0), (1, 2))):
            tab.mouse.move(*at.cell_at(maps, column=column, row=row)[:2], steps=4)
            tab.mouse.down() if step == 0 else tab.mouse.up()
        zoomed = maps.locator(".js-plotly-plot").evaluate(reach)
        assert zoomed != whole
        tab.evaluate("window.scrollTo(0, 300)")
        x, y, cell = at.cell_at(maps, column=0, row=1)
        tab.mouse.move(x, y)
        tab.mouse.down()
        make.write_study(folder, spec, make.mixed, packs=2)
        maps.locator(".gtitle-subtitle", has_text="36 completed").wait_for()
        assert maps.locator(".js-plotly-plot").evaluate(reach) == zoomed
        assert tab.evaluate("window.scrollY") == pytest.approx(300, abs=2)
        tab.mouse.up()
        tab.wait_for_url(f"**cell={cell}")
        seeds = tab.locator("table", has_text="Seeds of cell A").locator("td", has_text="completed")
        at.until(lambda: seeds.count() == 3)


def test_empty_root_says_what_to_do(visit, at, tmp_path):
    with at.served(tmp_path) as address:
        tab = visit(address)
        tab.get_by_text("No studies here yet.").wait_for()


@pytest.mark.parametrize(
    ("path", "name"),
    [("/study/half/robustness", "robustness-kfac"), ("/compare?study=half&study=bowl", "compared-1-sgd")],
)
def test_phone_scrolls_figures_instead_of_the_page(site, visit, at, path, name):
    tab = visit(f"{site}{path}", width=390)
    at.figure(tab, name)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    here = tab.locator("#nav .here").bounding_box()
    assert 0 <= here["x"] <= here["x"] + here["width"] <= 390, "the page that is open is among the links in sight"


def test_run_is_found_by_filter_and_opened(site, studies, visit, at):
    study = read_study(place(str(studies / "half")))
    tab = visit(f"{site}/study/half/runs")
    first = tab.locator("#runs .ag-row[row-index='0'] [col-id='optimizer']")
    first.wait_for()
    at.until(lambda: tab.locator("#runs .ag-row").count() > 3)
    wanted = {"status": {"filterType": "text", "type": "equals", "filter": "failed"}}
    tab.evaluate("model => dash_ag_grid.getApi('runs').setFilterModel(model)", wanted)
    failed = study.runs[study.runs["status"] == "failed"]
    at.until(lambda: tab.evaluate("dash_ag_grid.getApi('runs').getDisplayedRowCount()") == len(failed))
    at.until(lambda: "failed" in tab.locator("#runs .ag-row[row-index='0']").inner_text())
    first.click()
    drawer = tab.get_by_role("dialog")
    drawer.get_by_text("Reproduce this run").wait_for()
    (run,) = query(tab)["run"]
    assert run in set(failed["trial_id"])
    text = drawer.inner_text()
    assert "a message <script>alert('failed')</script>" in text
    drawer.get_by_text("This run has no learning curve.").wait_for()
    again = visit(tab.url)
    again.get_by_role("dialog").get_by_text("Configuration").wait_for()
    again.keyboard.press("Escape")
    at.until(lambda: "run" not in query(again))


def test_click_on_a_run_survives_a_late_closing_of_the_drawer(site, studies, visit, at):
    failed = read_study(place(str(studies / "half"))).runs.query("status == 'failed'")["trial_id"].iloc[0]
    tab = visit(f"{site}/study/half/runs")
    tab.locator("#runs .ag-row[row-index='0'] [col-id='optimizer']").wait_for()
    tab.evaluate(
        """run => {
            dash_clientside.set_props("runs", {cellClicked: {colId: "optimizer", rowId: run, timestamp: Date.now()}});
            dash_clientside.set_props("run", {opened: false});
        }""",
        failed,
    )
    tab.get_by_role("dialog").get_by_text("Reproduce this run").wait_for()
    assert query(tab)["run"] == [failed]


def test_a_tick_and_a_click_in_one_moment_both_count(site, studies, visit, at):
    ticked, opened, *_ = read_study(place(str(studies / "half"))).runs["trial_id"]
    tab = visit(f"{site}/study/half/runs")
    tab.locator("#runs .ag-row[row-index='0'] [col-id='optimizer']").wait_for()
    tab.evaluate(
        """([ticked, opened]) => {
            dash_clientside.set_props("runs", {cellValueChanged: [{colId: "chosen", rowId: ticked, value: true}]});
            dash_clientside.set_props("runs", {cellClicked: {colId: "optimizer", rowId: opened}});
        }""",
        [ticked, opened],
    )
    at.until(lambda: query(tab) == {"chosen": [ticked], "run": [opened]})


def test_the_switch_holds_for_clicks_after_it_alone_however_fast(site, visit, at):
    tab = visit(f"{site}/study/bowl/robustness")
    maps = at.figure(tab, "robustness-kfac")
    first, second = (at.cell_at(maps, 0, column, 1)[2] for column in (0, 1))
    tab.get_by_text("cell B, next to it").evaluate(
        """(choice, cells) => {
            const click = (cell) => dash_clientside.set_props(
                {name: "robustness-kfac", type: "figure"}, {clickData: {points: [{customdata: cell}]}});
            click(cells[0]);
            setTimeout(() => { choice.click(); click(cells[1]); });
        }""",
        [first, second],
    )
    at.until(lambda: query(tab) == {"cell": [first], "click": ["b"], "beside": [second]})


CLICK_AS_THE_DRAWER_IS_FILLED = """
const request = fetch;
let clicked = false;
window.fetch = async function (...given) {
  const response = await request(...given);
  if (clicked || !String(given[1]?.body).includes("run.opened...run.children")) return response;
  clicked = true;
  const read = response.json.bind(response);
  response.json = async function () {
    const answer = await read();
    const cell = { colId: "optimizer", rowId: "RUN", timestamp: Date.now() };
    dash_clientside.set_props("runs", { cellClicked: cell });
    return answer;
  };
  return response;
};
"""


def test_click_while_the_page_is_filled_opens_the_run(site, studies, visit):
    run = read_study(place(str(studies / "half"))).runs["trial_id"].iloc[0]
    tab = visit("about:blank")
    tab.add_init_script(CLICK_AS_THE_DRAWER_IS_FILLED.replace("RUN", run))
    tab.goto(f"{site}/study/half/runs")
    tab.get_by_role("dialog").get_by_text("Reproduce this run").wait_for()
    assert query(tab)["run"] == [run]


def test_comparison_of_studies(site, visit, at, axe):
    tab = visit(f"{site}/compare?study=bowl&study=half")
    at.figure(tab, "compared-1-sgd")
    check(tab, axe)
    results, files = tab.locator("#comparison table").nth(0), tab.locator("#comparison table").nth(1)
    assert results.locator("th").all_text_contents() == ["optimizer", "batch size", "quantity", "bowl", "half"]
    completed = results.locator("tbody tr", has_text="completed").all_text_contents()
    assert len(completed) == 6  # two optimizers at the three batch sizes of bowl, of which half has two
    assert "12 of 27" in completed[0]
    assert "–" in completed[2]
    assert "batch_sizes32, 128, 51232, 128" in files.inner_text().replace("\t", "")
    assert tab.locator("#comparison figure").count() == 6
    tab.get_by_text("half and bowl share no configuration of K-FAC with a value").wait_for()
    tab.locator("#comparison figure").last.get_by_role("button", name="Data").click()
    table = tab.locator("#comparison figure .data table")
    table.wait_for()
    assert table.locator("tbody tr").count() == 18  # SGD's nine cells at two batch sizes


CARDS = "#studies article"
PAGES = [
    # colour scheme, address, and what of the page is there when it is complete: the name of a figure, or an element
    ("light", "/", CARDS),
    ("dark", "/", CARDS),
    ("light", "/study/bowl/overview", "targets"),
    ("dark", "/study/half/overview", "targets"),
    ("light", "/study/half/robustness?cell={cell}", "curves-a"),
    ("dark", "/study/half/robustness?cell={cell}", "curves-a"),
    ("dark", "/study/bowl/sensitivity", "ridge-kfac"),
    ("light", "/study/bowl/success", "success"),
    ("light", "/study/bowl/success?form=difference", "success"),
    ("dark", "/study/bowl/success?form=surface", "success"),
    ("dark", "/study/bowl/scaling?unit=flops", "scaling"),
    ("light", "/study/half/scaling", "cost"),
    ("dark", "/study/bowl/runs", "parallel"),
    ("light", "/study/half/runs?run={run}", "run-curve"),
]


@pytest.mark.parametrize(("scheme", "path", "seen"), PAGES)
def test_every_page_is_painted_and_accessible(site, studies, visit, at, axe, scheme, path, seen):
    first = read_study(place(str(studies / "half"))).runs.iloc[0]
    tab = visit(f"{site}{path.format(cell=first['cell_id'], run=first['trial_id'])}", scheme=scheme)
    if seen == CARDS:
        tab.locator(seen).first.wait_for()
    else:
        at.figure(tab, seen)
        assert tab.locator(".js-plotly-plot .main-svg:visible").count() > 0
        assert all("Traceback" not in note for note in tab.locator(".block.card > .note").all_text_contents())
    if seen == "parallel":
        tab.locator("#runs .ag-row").first.wait_for()
    check(tab, axe)


def check(tab, axe):
    """No serious finding of axe on the page as it stands."""
    tab.evaluate(axe)
    found = tab.evaluate("axe.run(document, {resultTypes: ['violations']})")
    serious = {
        fault["id"]: [node["html"][:200] for node in fault["nodes"]]
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    }
    assert not serious, json.dumps(serious, indent=1)


def test_study_started_from_the_form_runs_and_appears(visit, at, axe, tmp_path):
    (tmp_path / "small.toml").write_text(
        'name = "small"\nbatch_sizes = [256]\nseeds = 1\n[budget]\nsteps = 4\n[problem]\ntrain_subset = 256\n'
        '[execution]\npack_size = 2\n[optimizers.sgd]\nkind = "sgd"\nlr = [0.01, 0.1]\n'
    )
    with at.served(tmp_path, allow_run=True) as address:
        tab = visit(f"{address}/start")
        tab.get_by_label("Study file").first.click()
        tab.get_by_role("option", name="small.toml").click()
        name = tab.get_by_label("Name of the study")
        at.until(lambda: name.input_value() == "small")
        name.fill("no/folder")
        name.blur()
        tab.get_by_text("the name becomes a folder").wait_for()
        check(tab, axe)
        tab.get_by_role("button", name="Plan and price it").click()
        tab.locator("#priced .mistakes").wait_for()
        name.fill("smaller")
        name.blur()
        tab.get_by_text("A valid study of 2 runs.").wait_for()
        at.until(lambda: tab.inner_text("#priced") == "")
        tab.get_by_role("button", name="Start it on this machine").click()
        tab.get_by_role("link", name="smaller").wait_for()
        at.until(lambda: "smaller: done" in tab.inner_text("#started"), seconds=180)
        tab.get_by_role("link", name="Studies").click()
        tab.get_by_text("2 of 2 runs (100%)").wait_for()


def test_running_study_is_stopped_from_its_card(make, visit, at, tmp_path):
    """A replacement for `sensitivity run` holds the study's lock."""
    root = tmp_path / "root"
    make.write_study(
        root / "half", make.make_spec(name="half"), lambda trial: make.mixed(trial) if trial.seed else None
    )
    script = tmp_path / "sensitivity"
    script.write_text(
        "import time\nfrom sensitivity.store.directory import place\nfrom sensitivity.store.lock import WriterLock\n"
        f"with WriterLock(place({str(root / 'half')!r})):\n    time.sleep(120)\n"
    )
    process = subprocess.Popen([sys.executable, str(script), "run"])
    try:
        with at.served(root, allow_run=True) as address:
            tab = visit(address)
            tab.get_by_text(f"process {process.pid}").wait_for()
            assert "time left" in tab.inner_text("#studies")
            tab.get_by_role("button", name="Stop").click()
            tab.get_by_text("half was asked to stop; it keeps every result.").wait_for()
            assert process.wait(timeout=30) == -signal.SIGTERM
            tab.get_by_text("not running", exact=True).wait_for()
            assert tab.get_by_role("button", name="Stop").count() == 0
    finally:
        process.kill()
        process.wait()


SETTLES = """
import sys
from pathlib import Path
from sensitivity.settling import Settling, declare
from sensitivity.store.directory import place
from sensitivity.store.ledger import write_declared, write_ledger
from sensitivity.study.ledger import Declared, Ledger
from sensitivity.study.load import load_study
command, file, _, root = sys.argv[1:]
assert command == "settle"
spec = load_study(Path(file))
settling = Settling(declare(spec, "", [10] * len(spec.batch_sizes)))
declared = Declared(declaration=settling.declaration, hash=settling.declaration.hash)
directory = place(root).child(spec.name)
write_declared(directory, declared)
write_ledger(directory, Ledger(declared=declared, settlement=settling.stop("the stand-in had enough")))
"""


def test_study_is_settled_from_its_overview(make, visit, at, axe, tmp_path, monkeypatch):
    """A replacement for `sensitivity settle` writes a settlement that a budget has ended."""
    root, script = tmp_path / "root", tmp_path / "sensitivity"
    make.write_study(root / "open", make.make_spec(name="open", targets={"test_accuracy": [0.9]}), lambda _: None)
    script.write_text(SETTLES)
    monkeypatch.setattr(jobs, "_COMMAND", (sys.executable, str(script)))
    with at.served(root, allow_run=True) as address:
        tab = visit(f"{address}/study/open/overview")
        tab.get_by_role("button", name="Settle it").click()
        tab.get_by_text("Settling. Its steps and their costs are listed below as they happen").wait_for()
        tab.get_by_text("The stand-in had enough").first.wait_for()
        lines = (
            "nav => new Set([...nav.children].map((each) => Math.round(each.getBoundingClientRect().bottom / 9))).size"
        )
        assert tab.locator("#nav").evaluate(lines) == 1, "one line of links, whatever can be started"
        assert tab.locator("#nav").evaluate("nav => nav.scrollWidth <= nav.clientWidth")
        check(tab, axe)
        tab.get_by_role("link", name="Studies").click()
        tab.get_by_text("stopped, 0 runs").wait_for()


def test_remedy_opens_the_form_with_its_change(studies, visit, at):
    with at.served(studies, allow_run=True) as address:
        tab = visit(f"{address}/study/bowl/overview")
        tab.locator("summary", has_text="what would settle it").first.click()
        tab.locator("li", has_text="Set growth =").get_by_role("link", name="Apply to the study file").click()
        tab.get_by_text("The file of bowl with evaluation.growth =").wait_for()
        text = tab.locator("#study-text")
        at.until(lambda: "growth = 0." in text.input_value())
        assert 'name = "bowl"' in text.input_value(), "which adds to the study"
        tab.get_by_text("A valid study of 1,152 runs.").wait_for()
        tab.go_back()
        tab.get_by_role("link", name="Duplicate").click()
        at.until(lambda: 'name = "bowl-copy"' in text.input_value())


def test_nothing_can_be_started_unless_allowed(site, visit):
    tab = visit(f"{site}/start", absent=True)
    tab.get_by_text("There is no such page.").wait_for()
    assert tab.get_by_role("link", name="Start a study").count() == 0
