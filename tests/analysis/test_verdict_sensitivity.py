"""Which optimizer is less sensitive, from tables written by hand to the words of the answer."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sensitivity.analysis.clipping import compute_clipping
from sensitivity.analysis.draws import compute_draws
from sensitivity.analysis.evaluations import read_tables
from sensitivity.analysis.study_results import StudyResults
from sensitivity.analysis.times import compute_times
from sensitivity.analysis.verdict import Margins
from sensitivity.analysis.verdict_sensitivity import compute_sensitivity_verdict
from sensitivity.figures.verdict_words import answer_in_words
from sensitivity.optimizers.kinds.sgd import SGDArm
from sensitivity.study.designs import configurations
from sensitivity.study.results import Status

METRIC = "train_loss"
DRAWN = {"a": "random", "b": "random"}


def verdict(runs, curves, *, designs=None, margins=None, **options):
    times = compute_times(runs, curves, METRIC, 0.5)
    draws = compute_draws(runs, times, designs=DRAWN if designs is None else designs)
    return compute_sensitivity_verdict(runs, draws, "a", "b", margins=margins, **options)


def study(plain, shares, *, seeds=60, draws=4, batches=(8, 32), rng=None):
    """Return draws of two optimizers, of which `shares` work, the same at each batch size."""
    rng = rng or np.random.default_rng(3)
    rows = []
    for name, share in shares.items():
        for seed in range(seeds):
            for _ in range(draws):
                works, lr = rng.random() < share, float(10 ** rng.uniform(-3, 0))
                rows += [plain.row(name, batch, seed, time=20 if works else None, lr=lr) for batch in batches]
    return plain.tables(rows)


def test_fewer_expected_trials_are_less_sensitive(plain):
    found = verdict(*study(plain, {"a": 0.6, "b": 0.2}))
    assert (found.answer, found.settle) == ("better", ())
    assert found.effect.interval[0] < 1 / 3 < found.effect.interval[1] < 1 / 1.5
    assert found.primary.effect.value == pytest.approx(math.log(found.effect.value))
    assert np.mean(found.primary.differences) == pytest.approx(found.primary.effect.value)
    assert found.anytime.answer(0.05) == "better"
    assert [comparison.batch_size for comparison in found.by_batch] == [8, 32]
    assert all(comparison.p_holm == 2 * comparison.p for comparison in found.by_batch)
    assert verdict(*study(plain, {"a": 0.2, "b": 0.6})).answer == "worse"


def test_equal_rates_are_equivalent_unless_the_margin_is_narrow(plain):
    tables = study(plain, {"a": 0.6, "b": 0.6})
    found = verdict(*tables)
    assert found.answer == "equivalent"
    assert found.primary.p_equivalence <= 0.05
    strict = verdict(*tables, margins=Margins(tuning_ratio=1.01))
    assert (strict.answer, [remedy.code for remedy in strict.settle]) == ("undetermined", ["seeds"])
    assert strict.settle[0].runs > 0


def test_a_difference_possibly_within_the_margin_has_a_direction(plain):
    found = verdict(*study(plain, {"a": 0.3, "b": 0.45}))
    assert found.answer == "undetermined"
    assert found.effect.interval[0] > 1
    text = next(reason.text for reason in found.reasons if reason.code == "test")
    assert "a takes more trials, but possibly by less than that factor" in text


def test_a_mean_that_hides_a_batch_size_says_so(plain):
    works = {(name, batch): 30 for name in "ab" for batch in (8, 32)} | {("a", 512): 24, ("b", 512): 6}
    rows = [
        plain.row(name, batch, seed, time=20 if seed % 40 < share else None, lr=0.01 + 0.0001 * seed)
        for (name, batch), share in works.items()
        for seed in range(40)
    ]
    found = verdict(*plain.tables(rows), margins=Margins(tuning_ratio=1.5))
    (text,) = [reason.text for reason in found.reasons if reason.code == "batch-size"]
    assert found.answer != "better"
    assert "At batch size 512 alone a takes 0.25 [" in text, "24 of 40 draws work against 6"
    assert [reason.code for reason in found.reasons].count("device-time") == 1


def test_a_stricter_level_widens_the_interval_and_withholds_the_claim(plain):
    tables = study(plain, {"a": 0.6, "b": 0.2}, seeds=40)
    usual, strict = verdict(*tables), verdict(*tables, alpha=1e-12)
    assert (usual.answer, strict.answer) == ("better", "undetermined")
    assert strict.effect.interval[0] < usual.effect.interval[0] < usual.effect.interval[1] < strict.effect.interval[1]


def test_what_was_not_drawn_judges_nothing_and_the_edit_that_would_is_priced(plain):
    """All obstacles at once: a grid, a search, runs that wait, and a clip that binds."""
    runs, curves = study(plain, {"a": 0.6, "b": 0.2})
    runs["clip_share"] = np.where(runs["optimizer"] == "a", 0.8, np.nan)
    runs.loc[runs.index[:7], "status"] = "pending"
    clipped = [c.refused for c in compute_clipping(runs, curves)]
    found = verdict(runs, curves, designs={"a": "grid", "b": "tpe"}, clipped=clipped)
    assert found.answer == "undetermined"
    codes = [reason.code for reason in found.reasons]
    assert codes == ["incomplete", "kl-clip", "kl-clip", "grid", "adaptive", "price", "region-edge"]
    assert [remedy.code for remedy in found.settle] == ["finish", "unclip", "draws"]
    edit = found.settle[-1]
    assert 'design = "sobol" (without points) and samples = 4 in optimizers.a and optimizers.b' in edit.text
    assert "seeds = 48" in edit.text
    assert edit.runs == 48 * 4 * 2 * 2
    assert edit.device_seconds == pytest.approx(edit.runs * 50)


def test_each_obstacles_price_is_that_of_the_optimizers_it_concerns(plain):
    runs, curves = study(plain, {"a": 0.6, "b": 0.2}, seeds=10)
    runs.loc[runs["optimizer"] == "b", "train_seconds"] = 2.0
    found = verdict(runs, curves, designs={"a": "grid", "b": "random"})
    assert found.settle[0].device_seconds == pytest.approx(48 * 4 * 2 * (50 + 2))


def test_nothing_that_works_leaves_no_price(plain):
    found = verdict(*study(plain, {"a": 0.6, "b": 0.0}))
    assert (found.answer, found.reasons[0].code) == ("undetermined", "no-success")
    assert math.isnan(found.effect.value)
    assert "budget" in {remedy.code for remedy in found.settle}
    assert found.anytime.answer(0.05) == "better", "which bets can tell: b works too rarely to need an upper bound"


@pytest.mark.parametrize("none", ["a", "b"])
def test_a_batch_size_without_success_counts_in_the_mean_only(plain, none):
    runs, curves = study(plain, {"a": 0.6, "b": 0.6})
    lost = runs.loc[(runs["optimizer"] == none) & (runs["batch_size"] == 32), "trial_id"]
    curves = curves[~(curves["trial_id"].isin(lost) & (curves["step"] > 0))]
    found = verdict(runs, curves)
    assert found.answer == ("worse" if none == "a" else "better"), "half of what the other does"
    at = found.by_batch[1]
    assert (math.isnan(at.effect.value), at.effect.interval, at.answer) == (True, (-math.inf, math.inf), "undetermined")
    assert "no-success" in {reason.code for reason in found.reasons}


def test_without_scatter_there_is_no_claim(plain):
    found = verdict(*study(plain, {"a": 1.0, "b": 1.0}))
    assert (found.answer, found.reasons[0].code) == ("undetermined", "no-scatter")
    assert found.anytime.answer(0.05) == "equivalent", "shares are bounded, so bets need no scatter"


def test_settings_that_work_at_the_bound_are_named_on_either_side(plain):
    arm = SGDArm.model_validate({"kind": "sgd", "design": "random", "samples": 8, "lr": {"log": [1e-2, 1.0]}})
    rows = [
        plain.row(name, 8, seed, time=20 if dict(setting)["lr"] > 0.1 else None, **dict(setting))
        for name in "ab"
        for seed in range(12)
        for setting in configurations(arm, seed)
    ]
    runs, curves = plain.tables(rows)
    times = compute_times(runs, curves, METRIC, 0.5)
    draws = compute_draws(runs, times, designs=DRAWN, axes={name: arm.axes() for name in "ab"})
    found = compute_sensitivity_verdict(runs, draws, "a", "b")
    edges = [reason.text for reason in found.reasons if reason.code == "region-edge"]
    assert [text[:2] for text in edges] == ["a:", "b:"]
    assert "largest learning rate, 1" in edges[0]
    price = next(reason.text for reason in found.reasons if reason.code == "price")
    assert "(drawn from learning rate 0.01 to 1 (log))" in price


@pytest.mark.parametrize("points", [(4, 8), (8, 4)])
def test_grids_of_different_coarseness_get_no_verdict(plain, points):
    rows = [
        plain.row(name, batch, seed, time=20 if 0.5 <= abs(x) <= 1.5 else None, lr=float(10**x))
        for name, count in zip("ab", points, strict=True)
        for batch in (8, 32)
        for seed in range(8)
        for x in np.linspace(-2, 2, count)
    ]
    found = verdict(*plain.tables(rows), designs={"a": "grid", "b": "grid"})
    assert found.answer == "undetermined"
    assert [reason.code for reason in found.reasons[:2]] == ["grid", "grid"]
    assert (found.primary, found.anytime) == (None, None)


def test_arms_identical_or_at_the_margin_are_rarely_told_apart(plain):
    """80 studies of each from Draws to the answer; a claim of a difference at equal shares, or at the margin."""
    rng = np.random.default_rng(6)
    (own,) = compute_draws(*_one(plain), designs={"a": "random"})
    runs = pd.concat([_one(plain)[0].assign(optimizer=name) for name in "ab"])
    claims = {}
    for ratio in (1.0, 1.5):
        answers = []
        for _ in range(80):
            pair = [
                replace(own, optimizer=name, success=rng.binomial(4, p, (24, 1)) / 4)
                for name, p in (("a", 0.45), ("b", 0.45 / ratio))
            ]
            answers.append(compute_sensitivity_verdict(runs, pair, "a", "b").answer)
        claims[ratio] = [answers.count(answer) / len(answers) for answer in ("better", "worse", "equivalent")]
    assert claims[1.0][0] + claims[1.0][1] <= 0.02
    assert claims[1.0][2] > 0.2, "equivalence is found"
    assert claims[1.5][0] + claims[1.5][1] <= 0.07
    assert claims[1.5][2] <= 0.07


def _one(plain):
    runs, curves = study(plain, {"a": 0.5}, seeds=24, batches=(8,))
    return runs, compute_times(runs, curves, METRIC, 0.5)


LR, DAMPING = {"log": [1e-4, 1.0]}, {"log": [1e-4, 1.0]}
DRAW = {"design": "sobol", "samples": 4}
SGD = {"kind": "sgd", "lr": LR, **DRAW}
KFAC = {"kind": "kfac", "lr": LR, "damping": DAMPING, **DRAW}


def decades(trial):
    """Return lr and damping of a trial in decades from the middle of their boxes; of damping 0 without one."""
    values = dict(trial.hyperparameters)
    return math.log10(values["lr"]) + 2, math.log10(values.get("damping", 1e-2)) + 2


def square(trial):
    """K-FAC works on 1.4 x 1.4 of 4 x 4 decades, SGD on 1 of 4."""
    lr, damping = decades(trial)
    return max(abs(lr), abs(damping)) < 0.7 if trial.arm == "kfac" else abs(lr) < 0.5


def inert(trial):
    return abs(decades(trial)[0]) < 1.2


WHOLE = {
    "more hyperparameters": (
        {"kfac": KFAC, "sgd": SGD}, square, 160, "worse",
        "K-FAC is more sensitive than SGD: tuning it takes more trials.",
    ),
    "an inert one": (
        {"kfac": KFAC, "sgd": SGD}, inert, 60, "equivalent", "equally sensitive, within the margin",
    ),
    "an inert one of a wide box": (
        {"kfac": {**KFAC, "damping": {"log": [1e-9, 1e6]}}, "sgd": SGD}, inert, 60, "equivalent",
        "equally sensitive, within the margin",
    ),
    "grids": (
        {
            "kfac": {"kind": "kfac", "lr": {**LR, "points": 8}, "damping": {**DAMPING, "points": 8}},
            "sgd": {"kind": "sgd", "lr": {**LR, "points": 8}},
        }, square, 8, "undetermined", "This study can't answer it.",
    ),
    "pruned": (
        {"kfac": KFAC, "sgd": {**SGD, "prune": "median"}}, square, 60, "undetermined", "This study can't answer it.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WHOLE)
def test_from_the_study_directory_to_the_words(synthetic, tmp_path, case):
    arms, works, seeds, answer, headline = WHOLE[case]
    spec = synthetic.make_spec(
        optimizers=arms, seeds=seeds, batch_sizes=[32], targets={"train_loss": [0.5]}, budget={"epochs": 1}
    )

    def outcome(trial):
        if trial.settings.get("prune") == "median" and not works(trial) and trial.seed % 2:
            return synthetic.run(trial, [1.0], Status.STOPPED)
        return synthetic.run(trial, [0.3 if works(trial) else 1.0])

    results = StudyResults(read_tables(synthetic.write_study(tmp_path, spec, outcome)))
    said = answer_in_words(results.claim("sensitivity"))
    assert (said.answer, headline in said.headline) == (answer, True), said
    share = "once in" in " ".join(said.reasons)
    assert share == (case != "pruned") or "SGD" not in said.reasons[-1]
    if case == "more hyperparameters":
        ratio = results.price_ratios(results.pairs[0])[-1].trials
        assert ratio.interval[0] < 0.25 / 0.1225 < ratio.interval[1]
        assert said.effect.startswith("K-FAC takes ")
        assert said.effect.endswith(
            "times as many trials as SGD until a setting works (97.5% interval, n = 160 seeds; mean over batch sizes)."
        )
    if answer == "undetermined":
        assert any("seeds = 48" in one.text and "384 runs" in one.text for one in said.settle)
