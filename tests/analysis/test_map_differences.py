"""Differences of two studies' maps against medians that pandas computes."""

import pytest

from sensitivity.analysis.evaluations import read_tables
from sensitivity.analysis.map_differences import compute_map_differences
from sensitivity.analysis.study_results import StudyResults


def results(synthetic, folder, **changes):
    directory = synthetic.write_study(folder, synthetic.quickstart_spec(**changes), synthetic.landscape)
    return StudyResults(read_tables(directory)).under(metric="test_accuracy")


@pytest.fixture(scope="module")
def pair(tmp_path_factory, synthetic):
    root = tmp_path_factory.mktemp("pair")
    return results(synthetic, root / "a", name="a"), results(synthetic, root / "b", name="b", seeds=2)


def test_a_difference_is_that_of_the_medians_of_the_cells_both_have(pair):
    first, second = pair
    found = compute_map_differences(first.maps, second.maps, "sgd")
    assert [map_.batch_size for map_ in found] == sorted(first.spec.batch_sizes)
    medians = []
    for study in pair:
        runs = study.runs[(study.runs["optimizer"] == "sgd") & (study.runs["batch_size"] == 32)]
        whole = runs.groupby("cell_id").filter(lambda cell: (cell["status"] == "completed").all())
        medians.append(whole.groupby(["param.lr", "param.momentum"])["test_accuracy"].median())
    expected = (medians[1] - medians[0]).dropna()
    cells = {(cell.x, cell.y): cell for cell in found[0].cells}
    assert len(expected) > 20
    for (lr, momentum), value in expected.items():
        assert cells[lr, momentum].change == pytest.approx(value, abs=1e-12)


def test_a_study_differs_from_itself_in_nothing(pair):
    first, _ = pair
    found = compute_map_differences(first.maps, first.maps, "kfac")
    assert {cell.change for map_ in found for cell in map_.cells} == {0.0}
    assert [map_.unshared for map_ in found] == [0] * len(found)


def test_losses_change_by_a_share_and_other_planes_share_nothing(pair):
    first, second = (study.under(metric="test_loss") for study in pair)
    (cell, *_) = compute_map_differences(first.maps, second.maps, "sgd")[0].cells
    assert cell.change == pytest.approx((cell.second - cell.first) / cell.first)
    assert compute_map_differences(first.maps, pair[1].maps, "sgd") == (), "of another metric"
    assert compute_map_differences(first.maps, second.maps, "adam") == ()
