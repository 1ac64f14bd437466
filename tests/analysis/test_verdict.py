import dataclasses
import math
from collections import Counter

import numpy as np
import pytest

from sensitivity.analysis.estimates import mean_over_seeds
from sensitivity.analysis.paired import equivalence_p
from sensitivity.analysis.scaling import compute_scaling
from sensitivity.analysis.times import compute_times
from sensitivity.analysis.verdict import Margins
from sensitivity.analysis.verdict_scaling import compute_scaling_verdict

METRIC = "train_loss"


def scaling_verdict(runs, curves, target=0.5, *, pair=("a", "b"), fresh=(), margins=None):
    found = compute_scaling(compute_times(runs, curves, METRIC, target), confirmation_seeds=fresh)
    return compute_scaling_verdict(runs, found, *pair, margins=margins)


def study(plain, sizes, *, seeds=11, noise=0.03, rng=None, batches=(8, 16, 32, 64), budget=10_000, best=1):
    """Optimizers with critical batch sizes `sizes`; the middle of three learning rates is the best by a third."""
    rng = rng or np.random.default_rng(0)
    rows = []
    for name, size in sizes.items():
        for batch in batches:
            for seed in range(seeds):
                for place in range(3):
                    steps = (
                        100 * (1 + size / batch) * 1.5 ** abs(place - best) * math.exp(noise * rng.standard_normal())
                    )
                    rows.append(plain.row(name, batch, seed, time=round(steps), steps=budget, lr=0.1 * 3**place))
    return plain.tables(rows)


def test_a_larger_critical_batch_size_is_better_and_settled(plain):
    runs, curves = study(plain, {"a": 100, "b": 10})
    found = scaling_verdict(runs, curves)
    assert found.answer == "better"
    low, high = found.effect.interval
    assert low < 10 < high
    assert found.settle == ()
    assert found.reasons[0].code == "test"
    assert found.primary.n == 6
    assert scaling_verdict(runs, curves, pair=("b", "a")).answer == "worse"


def test_batch_by_batch_comparisons_are_log_ratios_with_holms_correction(plain):
    found = scaling_verdict(*study(plain, {"a": 100, "b": 10}, noise=0.001))
    for comparison in found.by_batch:
        expected = math.log((1 + 100 / comparison.batch_size) / (1 + 10 / comparison.batch_size))
        assert comparison.effect.value == pytest.approx(expected, abs=0.01)
        assert comparison.p == 2 / 2**6
        assert comparison.p_holm == 4 * comparison.p


def test_equals_are_equivalent_within_the_margin_and_undetermined_without(plain):
    tables = study(plain, {"a": 60, "b": 60}, noise=0.02)
    assert scaling_verdict(*tables).answer == "equivalent"
    strict = scaling_verdict(*tables, margins=Margins(scaling_ratio=1.001))
    assert strict.answer == "undetermined"
    assert strict.settle


def test_three_seeds_are_told_what_it_takes(plain):
    found = scaling_verdict(*study(plain, {"a": 100, "b": 10}, seeds=3))
    assert found.answer == "undetermined"
    assert "no two-sided p below 25%" in found.reasons[0].text
    remedies = {remedy.code: remedy for remedy in found.settle}
    assert "Set seeds = 11 in the study file: 8 more for every cell" in remedies["seeds"].text
    assert remedies["seeds"].runs == 8 * 2 * 4 * 3, "11 seeds, of which six judge"
    assert "set confirm = 6 under [search] in the study file, together with objective" in remedies["confirm"].text
    assert remedies["confirm"].runs == 6 * 8, "the 8 winners on six fresh seeds"
    assert remedies["confirm"].device_seconds == pytest.approx(remedies["confirm"].runs * 10_000 * 0.5)


def test_cross_fitted_seeds_widen_intervals_and_the_equivalence_test(plain):
    """Three seeds would call arms equal that differ by the margin in 6 to 8% of simulated studies with 1.15 alone."""
    found = scaling_verdict(*study(plain, {"a": 60, "b": 60}, seeds=3))
    for comparison in found.by_batch:
        differences, bias = np.array(comparison.differences), comparison.bias
        low, high = mean_over_seeds(differences).interval
        assert np.ptp(comparison.effect.interval) == pytest.approx(1.15 * (high - low) + 2 * bias)
        assert comparison.p_equivalence > equivalence_p(differences, comparison.margin, bias=bias)
        assert comparison.p_equivalence == equivalence_p(differences, comparison.margin, widen=1.7, bias=bias)
    (split, *_) = scaling_verdict(*study(plain, {"a": 60, "b": 60})).by_batch
    assert split.p_equivalence == equivalence_p(np.array(split.differences), split.margin, bias=split.bias)


def test_six_fresh_seeds_of_the_winners_settle_it(plain):
    runs, curves = study(plain, {"a": 100, "b": 10}, seeds=9)
    keep = (runs["seed"] < 3) | (runs["param.lr"].round(6) == 0.3)
    runs = runs[keep]
    found = scaling_verdict(runs, curves, fresh=range(3, 9))
    assert (found.answer, found.primary.n) == ("better", 6)


def test_a_best_cell_on_the_edge_refuses_and_prices_the_extension(plain):
    found = scaling_verdict(*study(plain, {"a": 100, "b": 10}, best=2))
    assert found.answer == "undetermined"
    assert found.primary.answer == "better", "the test alone would have said so"
    assert "has the largest learning rate (0.9) of the grid" in found.reasons[0].text
    edges = [remedy for remedy in found.settle if remedy.code == "edge"]
    assert [remedy.runs for remedy in edges] == [44, 44], "one more of three levels, 4 batch sizes x 11 seeds"
    assert "set lr = [0.1, 0.3, 0.9, 2.7] under [optimizers.a] in the study file" in edges[0].text


@pytest.mark.parametrize("quick", [True, False])
def test_remedies_do_not_ask_for_an_easier_and_a_harder_target_at_once(plain, quick):
    """One optimizer takes too few steps to compare, or not; the other misses the target at the largest batch size."""
    rows = [
        plain.row(name, batch, seed, time=None if (name, batch) == ("b", 64) else time + seed % 3, lr=lr)
        for name, time in (("a", 12 if quick else 60), ("b", 60))
        for batch in (8, 64)
        for seed in range(12)
        for lr in (0.1, 0.3)
    ]
    remedies = scaling_verdict(*plain.tables(rows)).remedies
    texts = " ".join(remedy.text for remedy in remedies)
    assert ("easier target" in texts) is not quick
    assert ("harder target" in texts) is quick
    targets = [remedy for remedy in remedies if remedy.code == "target"]
    assert all("with a longer [budget]" in remedy.text and math.isnan(remedy.device_seconds) for remedy in targets)


def test_a_budget_that_cannot_reach_refuses_and_says_how_much_would(plain):
    runs, curves = study(plain, {"a": 100, "b": 10})
    small = (runs["optimizer"] == "a") & (runs["batch_size"] == 8)
    ids = runs.loc[small, "trial_id"]
    curves = curves[~(curves["trial_id"].isin(ids) & (curves["step"] > 0))]
    runs.loc[small, ["steps", "train_loss"]] = 300, 1.0
    found = scaling_verdict(runs, curves)
    assert found.answer == "undetermined"
    assert "budget" in {reason.code for reason in found.reasons}
    text = next(remedy.text for remedy in found.settle if remedy.code == "budget")
    predicted = float(text.split("about ")[1].split(" steps")[0].replace(",", ""))
    assert predicted == pytest.approx(1.5 * 100 * (1 + 100 / 8), rel=0.1), "half as much again for the slower seeds"


def test_a_batch_size_that_some_seeds_reach_refuses(plain):
    """Comparing the others alone would flatter the optimizer that fails there."""
    runs, curves = study(plain, {"a": 100, "b": 10})
    lost = runs.query("optimizer == 'a' and batch_size == 64 and seed == 10")["trial_id"]
    curves = curves[~(curves["trial_id"].isin(lost) & (curves["step"] > 0))]
    found = scaling_verdict(runs, curves)
    assert (found.primary.answer, found.answer) == ("better", "undetermined")
    assert found.reasons[0].code == "unreliable"
    assert "budget" in {remedy.code for remedy in found.settle}


def test_lack_of_fit_refuses_and_offers_the_speed_ups(plain):
    """Times that bend as no critical batch size has it: the middle batch sizes are twice as slow."""
    runs, curves = study(plain, {"a": 100, "b": 10})
    bent = runs.loc[(runs["optimizer"] == "a") & runs["batch_size"].isin([16, 32]), "trial_id"]
    curves["step"] *= np.where(curves["trial_id"].isin(bent) & (curves["step"] < 10_000), 2, 1)
    found = scaling_verdict(runs, curves)
    assert found.answer == "undetermined"
    assert found.blocks[0].code == "lack-of-fit"
    assert found.blocks[0].text.startswith("a: S(B) = Smin (1 + Bc/B) doesn't describe")
    expected = (1 + 100 / 8) / (1 + 100 / 64) / ((1 + 10 / 8) / (1 + 10 / 64))
    assert math.exp(found.model_free.effect.value) == pytest.approx(expected, rel=0.05)
    assert found.model_free.answer == "better"
    text = next(reason.text for reason in found.reasons if reason.code == "model-free")
    assert text.startswith("Without a model of S(B): from batch size 8 to 64, a's speed-up is 2.7")
    assert text.endswith("times b's, larger by more than the margin at 5%.")


def test_waiting_runs_refuse_and_are_priced(plain):
    runs, curves = study(plain, {"a": 100, "b": 10})
    runs.loc[runs.index[:7], "status"] = "pending"
    found = scaling_verdict(runs, curves)
    assert found.answer == "undetermined"
    assert found.reasons[0].code == "incomplete"
    assert found.settle[0].runs == 7


@pytest.mark.parametrize("batches", [(8,), (8, 16)])
def test_few_batch_sizes(plain, batches):
    found = scaling_verdict(*study(plain, {"a": 100, "b": 10}, batches=batches))
    assert (found.primary is None) == (len(batches) == 1)
    if found.primary is None:
        assert found.blocks[-1].code == "few-batch-sizes"
        assert found.answer == "undetermined"
        assert found.by_batch[0].answer == "worse", "slower at that batch size, which is another question"


def test_arms_at_the_margin_are_told_apart_in_at_most_5_percent(plain):
    """60 studies, from runs to answer; ten more of arms far apart show that the answer can be "better"."""
    rng = np.random.default_rng(6)
    sizes, cells, seeds = (8, 32, 128), 3, 11
    rows = [
        plain.row(name, batch, seed, time=50, steps=10_000, final=0.2, lr=0.1 * 2**place)
        for name in "ab"
        for batch in sizes
        for seed in range(seeds)
        for place in range(cells)
    ]
    runs, curves = plain.tables(rows)
    runs["param.lr"] = 1.0 + np.array([row["params"]["lr"] for row in rows])
    base = compute_times(runs, curves, METRIC, 0.5)

    def answers(ratio, studies):
        means = 100 * (1 + 60 * np.outer([ratio, 1], 1 / np.array(sizes)).ravel())
        found = Counter()
        for _ in range(studies):
            steps = np.repeat(means, seeds * cells) * np.exp(0.15 * rng.standard_normal(len(base)))
            times = base.assign(**{"steps": steps, "after.steps": steps - 1})
            scaling = [dataclasses.replace(curve, warnings=()) for curve in compute_scaling(times)]
            found[compute_scaling_verdict(runs, scaling, "a", "b").answer] += 1
        return found

    at_margin = answers(Margins().scaling_ratio, 60)
    assert at_margin["better"] + at_margin["worse"] <= 3
    assert answers(6, 10)["better"] >= 8
