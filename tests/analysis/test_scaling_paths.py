"""From tables of runs and curves, written and read as Parquet, to the words of the scaling verdict: a case each."""

import math

import numpy as np
import pandas as pd
import pytest

from sensitivity.analysis.scaling import compute_scaling
from sensitivity.analysis.times import compute_times
from sensitivity.analysis.verdict_scaling import compute_scaling_verdict

METRIC, TARGET = "train_loss", 0.5
BATCHES = (32, 128, 512)


@pytest.fixture
def study(plain, tmp_path):
    """A function that makes a study, and returns what the verdict on a and b is."""

    def make(
        ratio=1.0,
        *,
        s_min=(100, 100),
        growth=0.1,
        every=None,
        noise=0.05,
        seeds=12,
        fresh=0,
        best=(1, 1),
        cells=(3, 3),
        bend=0.1,
        budget=100_000,
        edit=None,
        designs=None,
        target=TARGET,
        **options,
    ):
        rng = np.random.default_rng(0)
        rows = []
        for k, name in enumerate("ab"):
            size = 100 * (ratio if name == "a" else 1)
            for place, batch in enumerate(BATCHES):
                for cell in range(cells[k]):
                    for seed in range(seeds + (fresh if cell == best[k] else 0)):
                        time = s_min[k] * (1 + size / batch) * math.exp(bend * (cell - best[k]) ** 2)
                        time *= math.exp(noise * rng.standard_normal())
                        before, at = between(time, growth, every and every[place])
                        number = seed if seed < seeds else 10**9 + seed - seeds
                        rows.append(
                            plain.row(name, batch, number, time=at, before=before, steps=budget, lr=0.1 * 2**cell)
                        )
        runs, curves = plain.tables(rows)
        runs["confirmation"] = runs["seed"] >= 10**9
        if edit is not None:
            runs, curves = edit(runs, curves)
        runs.to_parquet(tmp_path / "runs.parquet")
        curves.to_parquet(tmp_path / "curves.parquet")
        runs, curves = (pd.read_parquet(tmp_path / f"{table}.parquet") for table in ("runs", "curves"))
        found = compute_scaling(compute_times(runs, curves, METRIC, target), designs=designs)
        return compute_scaling_verdict(runs, found, "a", "b", **options)

    return make


def between(time, growth, every):
    """The evaluations before and after `time`."""
    if every:
        return math.floor(time / every) * every, (math.floor(time / every) + 1) * every
    steps = [0, 1]
    while steps[-1] <= time:
        steps.append(max(steps[-1] + 1, round(steps[-1] * (1 + growth))))
    return steps[-2], steps[-1]


def blocks(found):
    return [block.code for block in found.blocks]


def texts(cautions, code):
    return [caution.text for caution in cautions if caution.code == code]


def test_evaluated_often_enough_a_ratio_of_a_half_is_worse(study):
    found = study(0.5)
    assert (found.answer, found.blocks) == ("worse", ())
    assert found.effect.interval[0] < 0.5 < found.effect.interval[1] < 1 / 1.25
    assert "is beyond the margin, a factor of 1.25: p = 0.03" in texts(found.reasons, "test")[0]


@pytest.mark.parametrize(("s_min", "first"), [((5, 30), True), ((12, 20), False)])
def test_an_evaluation_an_epoch_is_refused_with_the_spacing_that_would_do(study, s_min, first):
    """The audit's worlds: equal critical batch sizes, which got "better" in 100% and 67% of studies."""
    found = study(s_min=s_min, growth=None, every=(45, 12, 3))
    assert found.answer == "undetermined"
    assert "grain" in blocks(found)
    said = " ".join(texts(found.blocks, "grain"))
    assert ("met at the first evaluation, so its time is only known to be at most 45 steps" in said) == first
    if not first:
        assert "a factor of" in said
        assert "which exceeds the margin of 1.25" in said
        (remedy,) = (remedy for remedy in found.remedies if remedy.code == "evaluation")
        assert remedy.text.startswith("Set growth = 0.08 under [evaluation] in the study file")
        assert remedy.runs == 2 * 3 * 3 * 12
        assert remedy.device_seconds == pytest.approx(remedy.runs * 100_000 * 0.5)
    assert "target" in {remedy.code for remedy in found.remedies}, "S(512) is below 20 steps"


def test_a_point_of_few_steps_is_refused_however_often_it_is_evaluated(study):
    found = study(s_min=(100, 8), growth=None, every=(1, 1, 1))
    assert blocks(found) == ["grain", "grain"], "at 128 and at 512"
    assert "With fewer than 20 steps, one step is too large a share" in found.blocks[0].text


@pytest.mark.parametrize("ratio", [1.0, 1.05])
def test_without_scatter_there_is_no_claim_beyond_what_the_grain_leaves_open(study, ratio):
    fine = study(ratio, noise=0.0, growth=None, every=(1, 1, 1))
    assert fine.answer == "equivalent"
    low, high = fine.effect.interval
    assert low < ratio < high
    assert high / low > 1.001, "the interval is that of whole steps"
    coarse = study(ratio, noise=0.0, growth=0.1)
    assert (coarse.answer, coarse.blocks) == ("undetermined", ())
    assert coarse.effect.interval[0] < ratio < coarse.effect.interval[1]
    text = texts(coarse.remedies, "seeds")[0]
    assert text.startswith("More seeds would not settle it")
    closer = float(texts(coarse.remedies, "evaluation")[0].split("growth = ")[1].split()[0])
    assert study(ratio, noise=0.0, growth=closer).answer == "equivalent", "with the spacing that the remedy names"


def test_ties_are_no_edge_where_one_is_interior_and_plan_order_decides_nothing(study):
    """All three cells cross between the same two evaluations; the first in the plan is on the edge."""

    def reverse(runs, curves):
        return runs.iloc[::-1].reset_index(drop=True), curves

    for edit in (None, reverse):
        found = study(bend=1e-4, noise=0.0, edit=edit)
        assert "edge" not in blocks(found)
    assert "edge" in blocks(study(best=(2, 1))), "where the edge is better than what evaluations leave open"


def test_pruned_runs_refuse_and_fresh_seeds_free_the_winners_of_it(study):
    def prune(runs, curves):
        slow = (runs["optimizer"] == "b") & (runs["param.lr"] > 0.3) & ~runs["confirmation"]
        runs.loc[slow, "status"], runs.loc[slow, "steps"] = "stopped", 50
        return runs, curves[(curves["step"] <= 50) | ~curves["trial_id"].isin(runs.loc[slow, "trial_id"])]

    found = study(2.0, edit=prune)
    assert blocks(found) == ["stopped"]
    assert found.blocks[0].text.startswith("b: 36 of 108 runs were stopped early because others were better")
    (remedy,) = (remedy for remedy in found.remedies if remedy.text.startswith("Confirm the winners of b"))
    assert remedy.runs == 3 * 12
    assert "set confirm = 12 under [search] in the study file" in remedy.text
    assert study(2.0, seeds=6, fresh=12, edit=prune).answer == "better"


def test_an_adaptive_search_refuses_and_fresh_seeds_free_its_winners(study):
    found = study(2.0, designs={"a": "tpe", "b": "grid"})
    assert blocks(found) == ["adaptive"]
    assert found.blocks[0].text.startswith("a: its configurations were chosen by an adaptive search")
    confirmed = study(2.0, seeds=6, fresh=12, designs={"a": "tpe", "b": "grid"})
    assert (confirmed.answer, confirmed.primary.n) == ("better", 12)


def test_a_target_that_the_untrained_network_meets_has_no_times(study):
    found = study(target=3.0)
    assert set(blocks(found)) == {"untrained", "few-batch-sizes"}
    assert "a, batch size 32: the untrained network meets the target with at least one seed, so" in found.blocks[0].text


def test_runs_that_cross_and_fall_back_count_from_the_crossing_and_are_counted(study):
    def fall(runs, curves):
        some = runs["seed"] % 3 == 0
        lost = curves["trial_id"].isin(runs.loc[some, "trial_id"]) & (curves["step"] == 100_000)
        return runs, curves.assign(train_loss=curves["train_loss"].where(~lost, 0.9))

    found, whole = study(2.0, edit=fall), study(2.0)
    assert found.answer == whole.answer == "better"
    assert found.effect == whole.effect
    assert texts(found.reasons, "fell-back")[0].startswith(
        "a: 36 of the 108 runs that reached the target ended below it"
    )


def test_a_diverged_run_that_met_the_target_before_never_reached_it(study):
    def diverge(runs, curves):
        some = (runs["optimizer"] == "a") & (runs["batch_size"] == 128) & (runs["seed"] == 11)
        runs.loc[some, "status"] = "diverged"
        return runs, curves

    found = study(2.0, edit=diverge)
    assert blocks(found) == ["unreliable"]


def test_unequal_effort_and_coarse_grids_are_said_beside_the_verdict(study):
    found = study(2.0, cells=(9, 3), best=(4, 1))
    assert found.answer == "better"
    said = texts(found.reasons, "effort")[0]
    assert "a: 9 configurations" in said
    assert "b: 3 configurations" in said
    assert "expected regret" in said
    assert not texts(study(2.0).reasons, "effort")
    coarse = study(2.0, bend=0.5)
    assert "both neighbours of the best learning rate are slower by more than the margin" in " ".join(
        texts(coarse.reasons, "coarse-grid")
    )
    refine = next(remedy for remedy in coarse.remedies if remedy.code == "refine")
    assert refine.text == "Refine a's grid: add learning rate 0.141, 0.283."
    assert refine.runs == 2 * 3 * 12


def test_a_heavy_skew_is_warned_of(study):
    def slow(runs, curves):
        one = runs.loc[(runs["optimizer"] == "a") & (runs["batch_size"] == 32) & (runs["seed"] == 23), "trial_id"]
        late = curves["trial_id"].isin(one) & (curves["step"] < 100_000)
        return runs, curves.assign(step=curves["step"].where(~late, curves["step"] * 3))

    assert texts(study(2.0, edit=slow, seeds=24).reasons, "skew")[0].startswith("The differences by seed are skewed (+")
    assert not texts(study(2.0, seeds=24).reasons, "skew")


def test_every_obstacle_and_every_remedy_is_given_at_once_each_with_its_price(study):
    def spoil(runs, curves):
        runs.loc[runs.index[:4], "status"] = "pending"
        never = (runs["optimizer"] == "b") & (runs["batch_size"] == 32)
        lost = curves["trial_id"].isin(runs.loc[never, "trial_id"]) & (curves["step"] > 0)
        runs.loc[never, "train_seconds"] = 7.0
        return runs, curves[~lost]

    found = study(best=(2, 1), edit=spoil, designs={"a": "tpe"})
    assert {"incomplete", "edge", "budget", "adaptive"} <= set(blocks(found)) | {"edge"}
    assert {"finish", "budget", "confirm"} <= {remedy.code for remedy in found.remedies}
    (budget,) = (remedy for remedy in found.remedies if remedy.code == "budget")
    assert "for b at batch size 32" in budget.text
    if budget.runs:
        assert budget.device_seconds < 7.0 * 36 * 100, "at what runs of b at batch size 32 took"


def test_the_level_enters_every_interval_and_every_answer(study):
    usual, strict = study(1.6), study(1.6, alpha=0.001)
    assert (usual.answer, usual.alpha) == ("better", 0.05)
    assert (strict.answer, strict.alpha) == ("undetermined", 0.001)
    assert usual.p == strict.p
    for pair in ((usual.effect, strict.effect), (usual.model_free.effect, strict.model_free.effect)):
        (low, high), (lower, higher) = (estimate.interval for estimate in pair)
        assert lower < low < high < higher
    assert "It takes 11 seeds." in texts(strict.reasons, "few-seeds")[0]
    assert strict.settle == strict.remedies
    assert usual.settle == ()
