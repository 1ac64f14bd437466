"""Figures of single runs compared with the table of runs."""

import numpy as np
import pandas as pd
import pytest

from sensitivity.analysis.evaluations import read_tables
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.catalogue import show
from sensitivity.figures.exhibits.side_by_side import compute_side_by_side, line_names
from sensitivity.figures.exhibits.timeline import MAX_LINES, compute_timeline
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.theme import LIGHT


@pytest.fixture(scope="module")
def results(tmp_path_factory, synthetic):
    folder = tmp_path_factory.mktemp("runs") / "s"
    return StudyResults(read_tables(synthetic.write_study(folder, synthetic.quickstart_spec(), synthetic.landscape)))


def test_scatter_shows_each_run_with_both_numbers_once(results):
    found = show(results, "scatter", x="param.damping", y="test_loss", by="batch_size")
    table = pd.DataFrame([*found.data.rows], columns=[*found.data.columns]).set_index("trial_id")
    runs = results.runs.set_index("trial_id")
    both = runs[runs["param.damping"].notna() & np.isfinite(runs["test_loss"])]
    assert set(table.index) == set(both.index)
    assert (table["test_loss"] == both.loc[table.index, "test_loss"]).all()
    (trace,) = found.figure(LIGHT).data
    assert list(10 ** np.asarray(trace.x)) == pytest.approx(list(both.loc[list(trace.customdata), "param.damping"]))
    assert trace.marker.showscale


def test_momentum_is_placed_as_in_other_figures(results):
    found = show(results, "scatter", x="param.momentum", y="test_loss").result
    runs = found.runs["param.momentum"].to_numpy()
    assert found.x.reversed
    assert 10**found.x.places == pytest.approx(1 - runs)


def test_timeline_is_ordered_by_start_and_sampled_evenly(results):
    timeline = compute_timeline(results)
    assert timeline.runs["started_at"].is_monotonic_increasing
    assert timeline.timed == len(results.runs)
    ends, starts = results.runs["finished_at"].max(), results.runs["started_at"].min()
    assert timeline.seconds == (ends - starts).total_seconds()
    many = StudyResults(FewTables(results, pd.concat([results.runs] * 3, ignore_index=True)))
    assert len(compute_timeline(many).runs) == MAX_LINES
    with pytest.raises(NothingToShowError):
        compute_timeline(StudyResults(FewTables(results, results.runs.assign(finished_at=pd.NaT))))


class FewTables:
    """The tables of other results, with different runs."""

    def __init__(self, results, runs):
        self.manifest, self.runs, self.ledger = results.manifest, runs, None


def test_selected_runs_differ_in_the_right_columns(results):
    sgd = results.runs[(results.runs["optimizer"] == "sgd") & (results.runs["batch_size"] == 32)]
    chosen = [str(name) for name in sgd["trial_id"].iloc[[0, 8, 9]]]
    found = compute_side_by_side(results, [chosen[1], "0" * 16, chosen[0], chosen[2]])
    assert list(found.runs["trial_id"]) == [chosen[1], chosen[0], chosen[2]], "in the order of selection"
    for name in found.alike:
        assert len(found.runs[name].astype(str).unique()) == 1
    assert {"optimizer", "batch_size"} <= set(found.alike)
    assert "test_loss" in found.differing
    curves = results.tables.curves_of(chosen)
    for run, (epochs, values) in zip(found.runs["trial_id"], found.curves, strict=True):
        own = curves[curves["trial_id"] == run].sort_values("step")
        own = own[np.isfinite(own[found.metric.name])]
        assert list(epochs) == list(own["epoch"])
        assert list(values) == list(own[found.metric.name])
    assert len(set(line_names(found))) == 3
    with pytest.raises(NothingToShowError, match="Tick runs"):
        compute_side_by_side(results, ["0" * 16])
