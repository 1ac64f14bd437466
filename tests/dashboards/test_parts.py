"""Building blocks of pages: the compute queue, figures updated in place, parallel coordinates."""

import threading
import time

import plotly.graph_objects as go

from dashboards.address import Address
from dashboards.blocks import TextBlock
from dashboards.catalog import Catalog
from dashboards.compute_queue import ComputeQueue
from dashboards.figure_updates import frame_of, patch_of
from dashboards.site import Site
from sensitivity.figures.exhibits.parallel import draw_parallel
from sensitivity.store.directory import place
from sensitivity.store.reader import read_study
from sensitivity.study.metrics import METRICS


def test_late_computations_wait_for_early_ones():
    queue, order = ComputeQueue(), []

    def take(name):
        with queue.take(late=name == "late"):
            order.append(name)

    with queue.take(late=False):
        threads = [threading.Thread(target=take, args=(name,)) for name in ("late", "early", "early")]
        for waiting, thread in enumerate(threads, start=1):
            thread.start()
            while len(queue._changed._waiters) < waiting:  # one after the other, the late one first
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == ["early", "early", "late"]


def test_long_computation_yields_between_its_steps(studies, monkeypatch):
    monkeypatch.setattr("dashboards.compute_queue._GRACE_S", 0.0)
    site, order = Site(catalog=Catalog(place(str(studies))), prefix="/", may_run=False), []
    scene, _ = site.scene(Address(page="robustness", study="half"), None)

    def click():
        with site.compute_queue.take(late=False):
            order.append("click")

    thread = threading.Thread(target=click)

    def first(results):
        order.append("first")
        thread.start()
        while not site.compute_queue._changed._waiters:
            time.sleep(0.001)

    block = TextBlock(name="x", content=str, steps=(first, lambda results: order.append("second")))
    with site.in_turn(scene, block):
        order.append("shown")
    thread.join()
    assert order == ["first", "click", "second", "shown"]


def test_figure_update_keeps_the_axis_ranges():
    figure = go.Figure(go.Scatter(y=[1, 2]), {"xaxis": {"range": [0, 1], "title": {"text": "x"}}, "height": 300})
    changed = {tuple(op["location"]) for op in patch_of(figure).to_plotly_json()["operations"]}
    assert ("data",) in changed
    assert ("layout", "height") in changed
    assert ("layout", "xaxis", "title") in changed
    assert ("layout", "xaxis", "range") not in changed
    same = go.Figure(go.Scatter(y=[3, 4]), figure.layout)
    assert frame_of(same) == frame_of(figure)
    assert frame_of(go.Figure(figure).update_xaxes(range=[0, 2])) != frame_of(figure)


def test_parallel_lines_cross_axes_at_their_values(studies):
    runs = read_study(place(str(studies / "half"))).runs
    done = runs[(runs["status"] == "completed") & (runs["optimizer"] == "kfac")]
    figure = draw_parallel(done, METRICS["train_loss"], ("lr", "damping"), of=99, selection="")
    assert f"n = {len(done)} of 99 completed runs" in figure.layout.title.subtitle.text
    axes = ["optimizer", "batch size", "learning rate", "damping", "training loss"]
    assert list(figure.layout.xaxis.ticktext) == axes
    lines = [tuple(trace.y[k : k + 5]) for trace in figure.data for k in range(0, len(trace.y), 6)]
    assert len(lines) == len(done)
    assert {round(line[2], 6) for line in lines} == {0.0, 1.0}, "learning rates of 0.01 and 0.1"
    assert {round(line[3], 6) for line in lines} == {0.0, 0.5, 1.0}, "three levels, evenly spaced in logarithms"


def test_parallel_lines_skip_missing_hyperparameters(studies):
    runs = read_study(place(str(studies / "half"))).runs
    done = runs[runs["status"] == "completed"]
    figure = draw_parallel(done, METRICS["train_loss"], ("lr", "damping", "momentum"), of=99, selection="")
    momentum = 4
    assert figure.layout.xaxis.ticktext[momentum] == "1 − momentum"
    ticks = {note.text: note.y for note in figure.layout.annotations if note.x == momentum}
    assert ticks["0.1"] > ticks["1"], "as in the maps, the largest momentum at the top"
    for trace in figure.data:
        lines = " ".join("/" if x is None else str(x) for x in trace.x).split("/")
        assert {line.strip() for line in lines} <= {"0 1 2 3 4 5", "0 1 2 4 5", ""}, "SGD has no damping"
