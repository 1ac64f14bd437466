"""The drawn differences of two studies' maps: colours, texts and counts, as the page of comparisons shows them."""

import math

import pytest

from sensitivity.analysis.evaluations import read_tables
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures.exhibits.map_differences import differences_exhibit
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.theme import LIGHT


@pytest.fixture(scope="module")
def pair(tmp_path_factory, synthetic):
    root = tmp_path_factory.mktemp("pair")
    specs = (synthetic.make_spec(name="first"), synthetic.make_spec(name="second", seeds=2))
    folders = [synthetic.write_study(root / spec.name, spec, synthetic.landscape) for spec in specs]
    return [StudyResults(read_tables(folder)) for folder in folders]


@pytest.mark.parametrize(("metric", "sign"), [("test_accuracy", 1), ("test_loss", -1)])
def test_blue_is_where_the_second_study_is_better(pair, metric, sign):
    first, second = (study.under(metric=metric) for study in pair)
    exhibit = differences_exhibit(first, "kfac")
    found = exhibit.compute(second)
    figure = exhibit.draw(found, LIGHT)
    assert len(figure.data) == len(found.maps) == len(first.spec.batch_sizes)
    for heatmap, map_ in zip(figure.data, found.maps, strict=True):
        xs, ys = (sorted({getattr(cell, axis) for cell in map_.cells}) for axis in "xy")
        for cell in map_.cells:
            row, column = ys.index(cell.y), xs.index(cell.x)
            assert heatmap.z[row][column] == sign * cell.change
            assert float(heatmap.text[row][column]) == pytest.approx(100 * cell.change, abs=0.05 + 1e-9)
    scale = figure.layout.coloraxis
    assert scale.cmin == -scale.cmax
    assert scale.colorscale[-1][1] == LIGHT.lean[-1]
    better = [sum(sign * cell.change > 0 for cell in map_.cells) for map_ in found.maps]
    titles = " ".join(note.text for note in figure.layout.annotations)
    for count, map_ in zip(better, found.maps, strict=True):
        assert f"better in {count} of {len(map_.cells)}" in titles
    cells = sum(len(map_.cells) for map_ in found.maps)
    assert f"n = {cells} cells in both" in figure.layout.title.subtitle.text
    rows = exhibit.data(found).rows
    assert len(rows) == cells
    assert all(math.isclose(row[-1], (row[-2] - row[-3]) / (1 if sign > 0 else row[-3])) for row in rows)


def test_studies_that_share_nothing_say_so(pair, synthetic, tmp_path):
    arms = {"sgd": {"kind": "sgd", "lr": [0.02, 0.3]}, "kfac": {"kind": "kfac", "lr": 0.5, "damping": [0.1, 0.7]}}
    spec = synthetic.make_spec(name="other", optimizers=arms)
    other = StudyResults(read_tables(synthetic.write_study(tmp_path / "other", spec, synthetic.landscape)))
    with pytest.raises(NothingToShowError, match="other and first share no configuration of K-FAC"):
        differences_exhibit(pair[0], "kfac").compute(other)
