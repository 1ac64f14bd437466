import math

import numpy as np
import pytest

from sensitivity.analysis.regions import compute_regions
from sensitivity.analysis.volumes import volume_below_zero
from sensitivity.study.hyperparameters import hyperparameter

METRIC = "train_loss"


def bowl(plain, rng=None, *, points=16, half=2.0, a=0.5, b=0.8, seeds=1, noise=0.0, batch_size=8):
    """Rows whose final loss is 0.1 + a x^2 / 2 + b y^2 / 2 in log10 of lr and damping."""
    axis = np.linspace(-half, half, points)
    return [
        plain.row(
            batch_size=batch_size,
            seed=seed,
            final=0.1 + a * x**2 / 2 + b * y**2 / 2 + (noise * rng.standard_normal() if noise else 0.0),
            lr=10**x,
            damping=10**y,
        )
        for seed in range(seeds)
        for x in axis
        for y in axis
    ]


def test_interpolation_has_the_golden_error_where_counting_has_seven_times_it():
    # docs/statistics.md, section 4: with 16 points a side .02 decades (root mean square) where counting has .14.
    rng = np.random.default_rng(0)
    x = np.linspace(-2, 2, 16)
    interpolated, counted = [], []
    for _ in range(300):
        eps = rng.uniform(0.05, 0.2)
        shift = rng.uniform(-0.2, 0.2)
        loss = (x - shift) ** 2 / 2
        true = 2 * math.sqrt(2 * eps)
        interpolated.append(volume_below_zero((loss - loss.min() - eps)[None], [x])[0] - true)
        counted.append((loss <= loss.min() + eps).sum() * (x[1] - x[0]) - true)
    assert np.sqrt(np.mean(np.square(interpolated))) == pytest.approx(0.02, abs=0.006)
    assert np.sqrt(np.mean(np.square(counted))) > 0.1


def test_an_area_has_the_golden_value(plain):
    eps, a, b = 0.2, 0.5, 0.8
    (region,) = compute_regions(*plain.tables(bowl(plain, points=41, a=a, b=b)), METRIC, epsilon=eps)
    true = 2 * math.pi * eps / math.sqrt(a * b)
    assert region.volume.value == pytest.approx(true, rel=0.02)
    assert region.decades.value == pytest.approx(math.sqrt(true), rel=0.01)
    assert (region.names, region.rule) == (("lr", "damping"), "own-best")


def test_a_width_has_the_golden_value(plain):
    rows = [plain.row(final=0.1 + 0.25 * x**2, lr=10**x) for x in np.linspace(-2, 2, 41)]
    (region,) = compute_regions(*plain.tables(rows), METRIC, epsilon=0.2)
    assert region.decades.value == pytest.approx(2 * math.sqrt(2 * 0.2 / 0.5), abs=0.01)


def test_both_rules_are_thresholds_of_their_own(plain):
    rows = bowl(plain)
    (own,) = compute_regions(*plain.tables(rows), METRIC, epsilon=0.2)
    (common,) = compute_regions(*plain.tables(rows), METRIC, target=0.5)
    assert own.threshold == pytest.approx(min(row["final"] for row in rows) + 0.2)
    assert (common.threshold, common.rule) == (0.5, "common-target")
    assert common.decades.value > own.decades.value


def test_decades_do_not_depend_on_the_box_as_shares_do(plain):
    (narrow,) = compute_regions(*plain.tables(bowl(plain, points=21, half=2)), METRIC, target=0.3)
    (wide,) = compute_regions(*plain.tables(bowl(plain, points=41, half=4)), METRIC, target=0.3)
    assert wide.decades.value == pytest.approx(narrow.decades.value, rel=1e-6)
    assert wide.touches == narrow.touches == ()


def test_a_region_that_reaches_the_edge_is_a_lower_bound_and_says_so(plain):
    rows = [plain.row(final=0.1 + 0.1 * (x - 2) ** 2, lr=10**x) for x in np.linspace(-2, 2, 17)]
    (region,) = compute_regions(*plain.tables(rows), METRIC, target=0.3)
    assert [(edge.parameter, edge.side) for edge in region.touches] == [("lr", "high")]
    assert [warning.code for warning in region.decades.warnings] == ["region-edge"]


def test_diverged_runs_bound_the_region(plain):
    rows = [plain.row(final=0.1, lr=10.0**x, status="diverged" if x > 0 else "completed") for x in range(-3, 4)]
    (region,) = compute_regions(*plain.tables(rows), METRIC, target=0.3)
    assert region.decades.value == pytest.approx(3.5), "the cliff lies between 0 and 1, nobody knows where"


def test_learning_nothing_bounds_the_region_as_divergence_does(plain):
    """Interpolating to chance level would cut the region short by half a spacing, and favour what diverges."""
    diverged = [plain.row(final=0.1, lr=10.0**x, status="diverged" if x > 0 else "completed") for x in range(-3, 4)]
    stuck = [plain.row(final=2.5 if x > 0 else 0.1, lr=10.0**x) for x in range(-3, 4)]
    sizes = [compute_regions(*plain.tables(rows), METRIC, target=0.3)[0].decades.value for rows in (diverged, stuck)]
    assert sizes == [pytest.approx(3.5)] * 2


def test_a_cliff_of_unknown_place_is_unbiased(plain):
    """Bowls on 16 points with a cliff at a random place, beyond which runs are stuck: the mean error is near 0."""
    rng, errors = np.random.default_rng(0), []
    x = np.linspace(-2, 2, 16)
    for _ in range(150):
        shift, cliff, eps = rng.uniform(-0.3, 0.3), rng.uniform(0.0, 0.6), 0.2
        final = np.where(x > shift + cliff, 2.5, 0.1 + (x - shift) ** 2 / 2)
        rows = [plain.row(final=value, lr=10**at) for at, value in zip(x, final, strict=True)]
        (region,) = compute_regions(*plain.tables(rows), METRIC, epsilon=eps)
        width = math.sqrt(2 * eps)
        errors.append(region.decades.value - (width + min(width, cliff)))
    assert abs(np.mean(errors)) < 0.03
    assert np.std(errors) < 0.1


def test_a_region_narrower_than_the_grid_resolves_is_refused(plain):
    rows = [plain.row(final=0.1 + x**2, lr=10.0**x) for x in range(-3, 4)]
    (region,) = compute_regions(*plain.tables(rows), METRIC, target=0.3)
    assert region.decades.refused.code == region.volume.refused.code == "coarse-grid"
    assert not region.decades.known
    assert region.per_seed == ()
    assert region.box == ((1e-3, 1e3),)
    (region,) = compute_regions(*plain.tables(rows), METRIC, target=2.0)
    assert region.decades.warnings == ()
    assert region.decades.known


def test_a_region_narrow_along_one_axis_is_refused_by_name(plain):
    """Its area, 5 decades^2, hides that it is one spacing wide along the learning rate."""
    rows = [plain.row(final=0.1 + x**2, lr=10.0**x, damping=10.0**y) for x in range(-3, 4) for y in range(-3, 4)]
    (region,) = compute_regions(*plain.tables(rows), METRIC, target=0.3)
    assert "learning rate" in region.decades.refused.text
    assert "damping" not in region.decades.refused.text


def test_grids_of_4_and_of_8_points_over_one_region_do_not_compare(plain):
    """docs/statistics.md, section 4b: the same region gave "worse" in 100% of studies; the coarse one has no size."""
    sizes = {}
    for points in (4, 8, 16):
        rows = [plain.row(final=0.1 + x**2 / 2, lr=10**x) for x in np.linspace(-2, 2, points)]
        (region,) = compute_regions(*plain.tables(rows), METRIC, target=0.4)
        sizes[points] = region.decades.value
    assert math.isnan(sizes[4])
    assert sizes[8] == pytest.approx(2 * math.sqrt(0.6), abs=0.15)
    assert sizes[16] == pytest.approx(2 * math.sqrt(0.6), abs=0.05)


def test_a_region_that_fills_its_axis_is_as_wide_as_the_axis_says(plain):
    rows = [plain.row(final=0.1, lr=10.0**x, damping=10.0**y) for x in range(4) for y in range(2)]
    (region,) = compute_regions(*plain.tables(rows), METRIC, target=0.3)
    assert region.volume.value == pytest.approx(3)
    assert [edge.parameter for edge in region.touches] == ["lr", "lr", "damping", "damping"]


def test_runs_without_a_result_count_as_outside_and_are_named(plain):
    rows = [plain.row(final=0.1, lr=10.0**x, status="pending" if x == 3 else "completed") for x in range(4)]
    (region,) = compute_regions(*plain.tables(rows), METRIC, target=0.3)
    assert region.decades.value == pytest.approx(2.5)
    assert "incomplete" in {warning.code for warning in region.decades.warnings}


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_interval_covers_seed_noise_as_claimed(n):
    rng = np.random.default_rng(n)
    x = np.linspace(-2, 2, 16)
    level = (0.5 * x**2)[None, None] + 0.1 * rng.standard_normal((800, n, 1))  # a seed is better or worse throughout
    sizes = volume_below_zero(level.reshape(-1, 16) - 0.4, [x]).reshape(800, n)
    many = volume_below_zero((0.5 * x**2)[None] + 0.1 * rng.standard_normal((20_000, 1)) - 0.4, [x]).mean()
    half = {3: 4.30265, 5: 2.77645, 10: 2.26216}[n] * sizes.std(axis=1, ddof=1) / math.sqrt(n)
    assert 0.92 <= np.mean(np.abs(sizes.mean(axis=1) - many) <= half) <= 0.975


def test_seeds_that_agree_give_no_interval(plain):
    (region,) = compute_regions(*plain.tables(bowl(plain, seeds=3)), METRIC, target=0.3)
    assert region.decades.interval is None
    assert len(region.per_seed) == 3
    noisy = bowl(plain, np.random.default_rng(0), seeds=3, noise=0.01)
    (region,) = compute_regions(*plain.tables(noisy), METRIC, target=0.3)
    low, high = region.decades.interval
    assert low < region.decades.value < high
    assert "between the points of a grid" in region.decades.covers


def test_of_draws_it_is_a_share_of_the_box(plain):
    rng = np.random.default_rng(0)
    points = rng.uniform(-2, 2, (400, 2))
    rows = [plain.row(final=0.1 + x**2 / 4 + y**2 / 4, lr=10**x, damping=10**y) for x, y in points]
    box = {"lr": (0.01, 100.0), "damping": (0.01, 100.0)}
    (region,) = compute_regions(*plain.tables(rows), METRIC, target=0.5, designs={"a": "random"}, boxes={"a": box})
    true = math.pi * 1.6
    assert region.volume.interval[0] < true < region.volume.interval[1]
    assert region.volume.value == pytest.approx(16 * np.mean((points**2).sum(axis=1) <= 1.6))
    assert region.box == ((0.01, 100.0), (0.01, 100.0))
    assert region.decades.n == 400


def test_adaptive_samples_are_refused(plain):
    (region,) = compute_regions(*plain.tables(bowl(plain, points=4)), METRIC, designs={"a": "tpe"})
    assert region.decades.refused.code == "adaptive"


def test_momentum_is_measured_by_its_reach(plain):
    assert hyperparameter("momentum").decades([0.0, 0.9, 0.99]) == pytest.approx([0, 1, 2])
    assert hyperparameter("lr").decades([0.1, 10]) == pytest.approx([-1, 1])
    assert np.isnan(hyperparameter("weight_decay").decades([0.0])).all()
    for name, value in (("momentum", 0.95), ("damping", 3e-4)):
        declared = hyperparameter(name)
        assert declared.from_decades(float(declared.decades(value))) == pytest.approx(value)
    rows = [plain.row(final=0.1, lr=0.1 * 10**k, momentum=m) for k in range(3) for m in (0.0, 0.9, 0.99)]
    (region,) = compute_regions(*plain.tables(rows), METRIC, target=0.3)
    assert region.volume.value == pytest.approx(4)


def test_a_weight_decay_of_zero_has_no_decades_and_is_held_at_the_best(plain):
    rows = [
        plain.row(final=0.1 + 100 * w + 0.1 * abs(k), lr=10.0**k, weight_decay=w)
        for k in range(-2, 3)
        for w in (0, 1e-3)
    ]
    (region,) = compute_regions(*plain.tables(rows), METRIC, target=0.2)
    assert region.names == ("lr",)
    assert region.slice_at == (("weight_decay", 0.0),)
    assert region.decades.value == pytest.approx(2)


@pytest.mark.parametrize(("rows", "code"), [([{"status": "pending"}], "no-result"), ([{"final": 0.1}], "one-cell")])
def test_without_a_region_there_is_a_reason(plain, rows, code):
    (region,) = compute_regions(*plain.tables([plain.row(**row) for row in rows]), METRIC)
    assert region.decades.refused.code == code


def test_if_all_diverged_the_common_target_region_is_empty(plain):
    tables = plain.tables([plain.row(lr=10.0**x, status="diverged", steps=3) for x in range(3)])
    (common,) = compute_regions(*tables, METRIC, target=0.3)
    assert common.decades.value == pytest.approx(0)
    assert [warning.code for warning in common.decades.warnings] == ["coarse-grid"]
    (own,) = compute_regions(*tables, METRIC)
    assert own.decades.refused.code == "no-result"
