import math

import numpy as np
import pytest

from sensitivity.analysis.lr_sensitivity import compute_lr_sensitivity, mean_between
from sensitivity.analysis.tuning import compute_tuning

METRIC = "train_loss"


@pytest.mark.parametrize(("a", "window"), [(0.5, 1.0), (0.2, 1.5)])
def test_lr_sensitivity_has_the_golden_value(plain, a, window):
    # docs/statistics.md, section 5: a x^2 / 2 over +-w gives a w^2 / 6.
    rows = [plain.row(final=0.1 + a * x**2 / 2, lr=10**x) for x in np.linspace(-2, 2, 81)]
    (found,) = compute_lr_sensitivity(*plain.tables(rows), METRIC, window=window)
    assert found.sensitivity.value == pytest.approx(a * window**2 / 6, rel=3e-3)
    assert found.lr == pytest.approx(1)
    assert found.sensitivity.warnings == ()


def test_a_diverged_run_counts_as_the_initial_loss_and_no_more(plain):
    rows = [plain.row(final=0.1, lr=0.1), plain.row(final=0.1, lr=1.0), plain.row(lr=10.0, status="diverged", steps=3)]
    (found,) = compute_lr_sensitivity(*plain.tables(rows), METRIC, window=1.0)
    # Best at 0.1, so the window is [0.01, 1] of which [0.1, 1] was run, all of it at the best loss.
    assert found.sensitivity.value == 0
    assert "window" in {warning.code for warning in found.sensitivity.warnings}
    rows[0] = plain.row(final=1e9, lr=0.1)
    (found,) = compute_lr_sensitivity(*plain.tables(rows), METRIC, window=1.0)
    assert found.sensitivity.value == pytest.approx((plain.INITIAL - 0.1) / 2)


def test_the_other_hyperparameters_stay_at_the_best(plain):
    rows = [
        plain.row(final=0.1 + (x**2 if d == 1 else 3 + x), lr=10.0**x, damping=d) for x in (-1, 0, 1) for d in (1, 2)
    ]
    (found,) = compute_lr_sensitivity(*plain.tables(rows), METRIC)
    assert found.fixed == (("damping", 1.0),)
    assert found.sensitivity.value == pytest.approx(0.5)


def test_draws_have_no_line_of_learning_rates(plain):
    rows = [plain.row(final=0.1 * k, lr=0.1 * k, damping=0.3 * k) for k in range(1, 5)]
    (found,) = compute_lr_sensitivity(*plain.tables(rows), METRIC)
    assert found.sensitivity.refused.code == "no-line"


def test_means_between_points_are_of_the_lines_through_them():
    assert mean_between(np.array([0.0, 1, 3]), np.array([[0.0, 1, 1]]), 0.5, 2.5) == pytest.approx((0.375 + 1.5) / 2)


def settings(plain, losses, seeds=1, noise=None):
    """`losses`: batch size -> loss at lr 0.1, 0.2, 0.3."""
    return [
        plain.row(batch_size=b, seed=s, final=loss + (noise.normal(0, 0.01) if noise else 0.0), lr=lr)
        for b, row in losses.items()
        for s in range(seeds)
        for lr, loss in zip((0.1, 0.2, 0.3), row, strict=True)
    ]


def test_one_setting_for_all_batch_sizes_by_hand(plain):
    rows = settings(plain, {8: (0.1, 0.2, 0.5), 64: (0.9, 0.3, 0.2)})
    (found,) = compute_tuning(*plain.tables(rows), METRIC)
    # Best at each: 0.1 and 0.2, mean 0.15. Means of the settings: 0.5, 0.25, 0.35.
    assert found.one_setting.value == pytest.approx(0.1)
    assert found.setting == found.default == (("lr", 0.2),)
    assert [t.gain.value for t in found.tunability] == pytest.approx([0.1, 0.1])
    assert "winner" in {warning.code for warning in found.one_setting.warnings}, "one seed"


def test_tunability_of_a_declared_default(plain):
    rows = settings(plain, {8: (0.1, 0.2, 0.5), 64: (0.9, 0.3, 0.2)})
    (found,) = compute_tuning(*plain.tables(rows), METRIC, defaults={"a": {"lr": 0.11}})
    assert found.default == (("lr", 0.1),), "the nearest configuration that was run"
    assert [t.gain.value for t in found.tunability] == pytest.approx([0.0, 0.7])


@pytest.mark.parametrize("seeds", [3, 8])
def test_what_the_best_gains_is_judged_by_other_seeds(plain, seeds):
    """Configurations that differ by noise alone gain nothing, where the runs that choose them would say they do."""
    gains, naive = [], []
    for k in range(40):
        rows = settings(plain, {8: (0.5,) * 3, 64: (0.5,) * 3}, seeds, np.random.default_rng(k))
        runs, curves = plain.tables(rows)
        (found,) = compute_tuning(runs, curves, METRIC, defaults={"a": {"lr": 0.1}})
        gains.append(found.tunability[0].gain.value)
        mean = runs[runs["batch_size"] == 8].groupby("param.lr")["train_loss"].mean()
        naive.append(mean.iloc[0] - mean.min())
    error = np.std(gains) / math.sqrt(len(gains))
    assert abs(np.mean(gains)) < 2.5 * error
    assert np.mean(naive) > 2.5 * error


def test_effective_dimension_counts_what_must_be_tuned(plain):
    def loss(lr, damping, momentum):
        return 0.1 + abs(math.log10(lr)) + 0.001 * damping + 0.0 * momentum

    cells = [(lr, d, m) for lr in (0.1, 1.0) for d in (1, 2) for m in (0.0, 0.9)]
    rows = [
        plain.row(batch_size=b, final=loss(*c), lr=c[0], damping=c[1], momentum=c[2]) for b in (8, 16) for c in cells
    ]
    default = {"a": {"lr": 0.1, "damping": 2, "momentum": 0.9}}
    (found,) = compute_tuning(*plain.tables(rows), METRIC, defaults=default)
    assert [(t.effective_dimension, t.to_tune) for t in found.tunability] == [(1, ("lr",))] * 2
    good = {"a": {"lr": 1.0, "damping": 2, "momentum": 0.9}}
    (found,) = compute_tuning(*plain.tables(rows), METRIC, defaults=good)
    assert found.tunability[0].effective_dimension == 0
    (found,) = compute_tuning(*plain.tables(rows), METRIC, designs={"a": "random"})
    assert found.tunability[0].effective_dimension is None


def test_refusals(plain):
    (one,) = compute_tuning(*plain.tables([plain.row(lr=0.1), plain.row(lr=0.2)]), METRIC)
    assert one.one_setting.refused.code == "one-batch-size"
    (none,) = compute_tuning(*plain.tables([plain.row(status="pending")]), METRIC)
    assert none.one_setting.refused.code == "no-result"
    (searched,) = compute_tuning(*plain.tables([plain.row()]), METRIC, designs={"a": "tpe"})
    assert searched.one_setting.refused.code == "adaptive"


def test_draws_with_a_seed_of_their_own_each_are_compared_by_their_one_run(plain):
    finals = {8: [0.5, 0.2, 0.3], 16: [0.1, 0.6, 0.3]}
    rows = [plain.row("a", b, k, final=f, lr=0.1 + k) for b, own in finals.items() for k, f in enumerate(own)]
    rows += [plain.row("a", 8, 10**9 + k, final=0.9, lr=1.1) for k in range(4)]  # the winner's confirmations
    (found,) = compute_tuning(*plain.tables(rows), METRIC, designs={"a": "random"})
    assert found.one_setting.value == pytest.approx(0.15), (
        "(.3 + .3) / 2 of one for both, (.2 + .1) / 2 of each its own"
    )
    assert [dict(at.best)["lr"] for at in found.tunability] == [1.1, 0.1]
    assert "winner" in {caution.code for caution in found.one_setting.warnings}
