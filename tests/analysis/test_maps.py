import numpy as np
import pytest

from sensitivity.analysis.maps import compute_maps, default_epsilon
from sensitivity.analysis.outcomes import available_metrics, counted_values
from sensitivity.store.reader import read_study
from sensitivity.study.metrics import METRICS, USUAL
from sensitivity.study.results import Status

LOSS, ACCURACY = METRICS["train_loss"], METRICS["test_accuracy"]


@pytest.fixture
def study(synthetic, tmp_path):
    def make(outcome, **changes):
        return read_study(synthetic.write_study(tmp_path, synthetic.make_spec(**changes), outcome))

    return make


def only(maps, optimizer, batch_size):
    (found,) = (m for m in maps if (m.optimizer, m.batch_size) == (optimizer, batch_size))
    return found


def cell_at(map_, x, y):
    (found,) = (cell for cell in map_.cells if (cell.x, cell.y) == (x, y))
    return found


@pytest.fixture
def mixed(synthetic, study):
    """K-FAC at batch size 32: known losses by (lr, damping), known ends; everything else pending."""
    run = synthetic.run
    final = {
        (0.1, 0.01): (0.20, 0.24, 0.28),
        (0.1, 0.1): (0.21, 0.23, 0.30),
        (0.1, 0.001): (0.22, 0.27, 0.29),
        (0.01, 0.01): (1.0, 1.1, 1.2),
    }

    def outcome(trial):
        values = dict(trial.hyperparameters)
        at = (values["lr"], values.get("damping"))
        if trial.arm != "kfac" or trial.batch_size != 32:
            return None
        if at in final:
            return run(trial, [2.0, final[at][trial.seed]])
        if at == (1.0, 0.1):
            return run(trial, [0.2, 0.3], Status.DIVERGED if trial.seed == 1 else Status.COMPLETED)
        if at == (1.0, 0.01):
            return run(trial, [0.2], Status.COMPLETED if trial.seed == 1 else Status.DIVERGED)
        if at == (1.0, 0.001):
            return run(trial, [30.0], Status.DIVERGED)
        if at == (0.01, 0.1):
            return run(trial, [], Status.FAILED)
        return run(trial, [], Status.INTERRUPTED) if trial.seed == 0 else None

    return study(outcome)


def test_cells_have_hand_computed_medians_and_counts(mixed):
    map_ = only(compute_maps(mixed.runs, mixed.curves, LOSS), "kfac", 32)
    assert (map_.x_name, map_.y_name) == ("lr", "damping")
    assert (map_.x_values, map_.y_values) == ((0.01, 0.1, 1.0), (0.001, 0.01, 0.1))
    assert map_.untrained == 2.5
    best = map_.best_cell
    assert (best.x, best.y, best.median) == (0.1, 0.1, 0.23)
    some = cell_at(map_, 1.0, 0.1)  # 0.3, 2.5 (diverged, as untrained), 0.3
    assert (some.completed, some.diverged, some.median, some.high) == (2, 1, 0.3, 2.5)
    most = cell_at(map_, 1.0, 0.01)  # 2.5, 0.2, 2.5
    assert (most.median, most.low, most.state) == (2.5, 0.2, "measured")
    lost = cell_at(map_, 1.0, 0.001)
    assert (lost.state, lost.diverged, lost.planned, lost.median) == ("diverged", 3, 3, 2.5)
    failed = cell_at(map_, 0.01, 0.1)
    assert (failed.state, failed.failed) == ("failed", 3)
    assert np.isnan(failed.median)
    waiting = cell_at(map_, 0.01, 0.001)
    assert (waiting.state, waiting.waiting, waiting.planned) == ("waiting", 3, 3)


def test_no_planned_run_leaves_the_map(mixed):
    maps = compute_maps(mixed.runs, mixed.curves, LOSS)
    for cell in (cell for map_ in maps for cell in map_.cells):
        assert cell.completed + cell.diverged + cell.failed + cell.waiting == cell.planned == 3
    assert sum(cell.planned for map_ in maps for cell in map_.cells) == len(mixed.runs) == 108


def test_diverged_accuracy_counts_as_the_untrained_networks(mixed):
    map_ = only(compute_maps(mixed.runs, mixed.curves, ACCURACY), "kfac", 32)
    assert map_.untrained == 0.12
    assert cell_at(map_, 1.0, 0.001).median == 0.12
    assert cell_at(map_, 1.0, 0.01).high == pytest.approx(1 / 1.2 - 0.01)


def test_region_is_within_epsilon_of_the_best(mixed):
    map_ = only(compute_maps(mixed.runs, mixed.curves, LOSS, epsilon=0.04), "kfac", 32)
    inside = {(cell.x, cell.y) for cell in map_.cells if cell.in_region}
    assert inside == {(0.1, 0.1), (0.1, 0.01), (0.1, 0.001)}  # medians 0.23, 0.24, 0.27; 0.3 is beyond
    assert default_epsilon(LOSS, 2.5) == 0.05
    assert default_epsilon(ACCURACY, 0.1) == 0.01


def test_cells_like_the_best_follow_from_paired_t_intervals(mixed):
    map_ = only(compute_maps(mixed.runs, mixed.curves, LOSS), "kfac", 32)
    best = np.log([0.21, 0.23, 0.30])
    for at, losses in {(0.1, 0.01): (0.20, 0.24, 0.28), (0.01, 0.01): (1.0, 1.1, 1.2)}.items():
        difference = np.log(losses) - best
        half = 4.302653 * difference.std(ddof=1) / np.sqrt(3)
        assert cell_at(map_, *at).like_best == (abs(difference.mean()) <= half)
    assert cell_at(map_, 0.1, 0.01).like_best
    assert not cell_at(map_, 0.01, 0.01).like_best
    assert not cell_at(map_, 1.0, 0.1).like_best, "a seed diverged: it differs"
    assert map_.paired_seeds == 3


def test_best_on_an_edge_names_the_side(mixed):
    map_ = only(compute_maps(mixed.runs, mixed.curves, LOSS), "kfac", 32)
    assert [(e.parameter, e.side, e.value) for e in map_.edges] == [("damping", "high", 0.1)]


def test_zero_is_no_edge(synthetic, study):
    def outcome(trial):
        values = dict(trial.hyperparameters)
        return synthetic.run(trial, [abs(np.log10(values["lr"]) + 1) + values["momentum"] + 0.1])

    made = study(outcome)
    map_ = only(compute_maps(made.runs, made.curves, LOSS), "sgd", 32)
    assert (map_.best_cell.x, map_.best_cell.y, map_.edges) == (0.1, 0.0, ())


def test_one_seed_tells_no_cell_from_the_best(synthetic, study):
    made = study(lambda trial: synthetic.run(trial, [0.5]), seeds=1)
    for map_ in compute_maps(made.runs, made.curves, LOSS):
        assert map_.paired_seeds == 1
        assert not any(cell.like_best for cell in map_.cells)


def test_one_varying_hyperparameter_makes_a_profile(synthetic, study):
    made = study(
        lambda trial: synthetic.run(trial, [dict(trial.hyperparameters)["lr"]]),
        optimizers={"sgd": {"kind": "sgd", "lr": [0.1, 0.2, 0.3], "momentum": 0.9}},
    )
    map_ = compute_maps(made.runs, made.curves, LOSS)[0]
    assert (map_.x_name, map_.y_name, map_.y_values) == ("lr", None, ())
    assert [cell.median for cell in map_.cells] == [0.1, 0.2, 0.3]


def test_a_single_cell_is_a_map_without_edges(synthetic, study):
    made = study(
        lambda trial: synthetic.run(trial, [0.4]),
        optimizers={"sgd": {"kind": "sgd", "lr": 0.1}},
    )
    map_ = compute_maps(made.runs, made.curves, LOSS)[0]
    assert (len(map_.cells), map_.best, map_.edges, map_.x_values) == (1, 0, (), (0.1,))


def test_a_third_hyperparameter_gives_the_slice_through_the_best(synthetic, study):
    def outcome(trial):
        values = dict(trial.hyperparameters)
        return synthetic.run(trial, [1 + values["lr"] + values["damping"] - 100 * values["weight_decay"]])

    made = study(
        outcome,
        optimizers={"kfac": {"kind": "kfac", "lr": [0.1, 0.2], "damping": [0.1, 0.2], "weight_decay": [0, 1e-4, 1e-3]}},
    )
    map_ = compute_maps(made.runs, made.curves, LOSS)[0]
    assert map_.slice_at == (("weight_decay", 1e-3),)
    assert (len(map_.cells), map_.cells_outside) == (4, 8)
    assert [cell.median for cell in map_.cells] == pytest.approx([1.1, 1.2, 1.2, 1.3])
    assert ("weight_decay", "high") in {(e.parameter, e.side) for e in map_.edges}


@pytest.mark.parametrize("designs", [None, {"sgd": "random"}])
def test_draws_are_points_and_have_no_edges(synthetic, study, designs):
    sgd = {"kind": "sgd", "design": "random", "samples": 12}
    made = study(
        lambda trial: synthetic.run(trial, [dict(trial.hyperparameters)["lr"]]),
        optimizers={"sgd": {**sgd, "lr": {"log": [0.01, 1.0]}, "momentum": {"linear": [0.0, 0.9]}}},
    )
    map_ = compute_maps(made.runs, made.curves, LOSS, designs=designs)[0]
    assert (map_.is_grid, map_.edges, len(map_.cells)) == (False, (), 36), "12 of each of three seeds"


def test_a_completed_run_with_an_infinite_metric_counts_as_untrained(synthetic, study):
    made = study(lambda trial: synthetic.run(trial, [0.5]))
    runs = made.runs.copy()
    runs.loc[0, "test_loss"] = np.inf
    values = counted_values(runs, made.curves, METRICS["test_loss"])
    assert values[0] == 2.4
    assert values[1] == pytest.approx(0.6)


def test_metrics_without_a_finite_value_are_not_offered(synthetic, study):
    made = study(lambda trial: synthetic.run(trial, [0.5]))
    assert [m.name for m in available_metrics(made.runs, USUAL)][:2] == ["test_accuracy", "train_loss"]
    runs = made.runs.assign(test_accuracy=np.nan, train_accuracy=np.nan)
    assert [m.name for m in available_metrics(runs, USUAL)] == ["train_loss", "test_loss"]


def test_input_tables_stay_as_they_are(mixed):
    runs, curves = mixed.runs.copy(deep=True), mixed.curves.copy(deep=True)
    compute_maps(mixed.runs, mixed.curves, LOSS)
    assert mixed.runs.equals(runs)
    assert mixed.curves.equals(curves)
