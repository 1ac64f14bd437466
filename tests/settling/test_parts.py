"""The parts of the procedure: declarations, boxes, surfaces, looks, sentences."""

import math

import numpy as np
import pandas as pd
import pytest

from sensitivity.settling import declare
from sensitivity.settling.boxes import Box
from sensitivity.settling.declaring import LOOKS
from sensitivity.settling.judge_scaling import Judged, levels, look
from sensitivity.settling.judge_sensitivity import Draws, draw, futility
from sensitivity.settling.observing import observe
from sensitivity.settling.response import Response, Terms, fit, walled
from sensitivity.settling.search import ArmSearch, _Survival
from sensitivity.settling.sentences import answer_sentence
from sensitivity.study.amendments import Claim, Declaration, Observation
from sensitivity.study.designs import configurations
from sensitivity.study.errors import UserError
from sensitivity.study.seed_ranges import MOST_SERIES, SERIES_SIZE, first_seed, purpose, series
from sensitivity.study.spec import StudySpec

FIELDS = {
    "name": "s",
    "batch_sizes": [32, 128],
    "seeds": 2,
    "budget": {"steps": 100},
    "targets": {"test_accuracy": [0.9]},
    "optimizers": {
        "sgd": {
            "kind": "sgd",
            "lr": {"log": [1e-2, 1.0], "points": 4},
            "momentum": [0.0, 0.9],
            "weight_decay": [0, 1e-4],
        },
        "kfac": {
            "kind": "kfac",
            "lr": {"log": [1e-3, 1.0], "points": 4},
            "damping": [1e-3, 1e-1],
            "inverse_interval": [1, 10],
        },
    },
}
SCALING = Claim(question="scaling", candidate="kfac", reference="sgd", margin=1.25, alpha=0.05)


def spec(**changes):
    return StudySpec(**{**FIELDS, **changes})


def test_a_declaration_of_a_study_file():
    found = declare(spec(), "hash", [100, 100])
    sides = {(arm.name, side.name): side for arm in found.arms for side in arm.sides}
    assert (sides["sgd", "lr"].least, sides["sgd", "lr"].most) == pytest.approx((1e-4, 100.0))
    momentum = sides["sgd", "momentum"]
    assert (momentum.scale, momentum.low, momentum.least) == ("decades", 0.0, 0.0)
    assert 0.99 < momentum.most < 1.0
    assert sides["sgd", "weight_decay"].scale == "levels", "0 has no decades"
    assert sides["kfac", "inverse_interval"].scale == "levels", "it decides which code runs"
    assert sides["kfac", "damping"].scale == "decades"
    assert [(c.question, c.alpha) for c in found.claims] == [("scaling", 0.025), ("sensitivity", 0.025)]
    assert sum(claim.alpha for claim in found.claims) == pytest.approx(0.05)
    assert Declaration.model_validate_json(found.model_dump_json()) == found


def test_the_primary_claim_has_the_whole_error_rate_and_comes_first():
    found = declare(spec(primary={"question": "sensitivity"}), "hash", [100, 100])
    assert [(c.question, c.alpha, c.confirmatory) for c in found.claims] == [
        ("sensitivity", 0.05, True),
        ("scaling", 0.05, False),
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"targets": {}}, "without a target"),
        ({"optimizers": {"sgd": FIELDS["optimizers"]["sgd"]}}, "one optimizer"),
        ({"batch_sizes": [32]}, "two batch sizes"),
    ],
)
def test_what_cannot_be_settled_is_said(changes, said):
    with pytest.raises(UserError, match=said):
        declare(spec(**changes), "hash", [100])


def test_seeds_tell_their_purpose():
    for name in ("design", "confirmation", "scout", "search", "candidate", "judge_scaling", "judge_sensitivity"):
        for number in (0, MOST_SERIES - 1):
            first = first_seed(name, number)
            assert purpose(first) == name
            assert first + SERIES_SIZE - 1 < 2**31
            if name not in ("design", "confirmation"):
                assert purpose(first + SERIES_SIZE - 1) == name
                assert series(first) == series(first + SERIES_SIZE - 1) == number
    with pytest.raises(ValueError, match="series"):
        first_seed("scout", MOST_SERIES)


def test_draws_are_those_of_a_random_design():
    """A seed draws what the study's own design "random" would, so they can be checked against it."""
    arms = {"kfac": {"kind": "kfac", "design": "random", "samples": 1, "lr": {"log": [1e-3, 1.0]}, "damping": [0.1, 1]}}
    own = spec(optimizers={**arms, "sgd": FIELDS["optimizers"]["sgd"]})
    found = declare(own, "hash", [100, 100])
    assert draw(found.arm("kfac"), 1_500_000_007) == configurations(own.optimizers["kfac"], 1_500_000_007)[0]


def test_coordinates_go_to_values_and_back():
    box = Box.declared(declare(spec(), "hash", [100, 100]).arm("sgd"))
    assert [side.name for side in box.sides] == ["lr", "momentum"]
    configuration = box.configuration(np.array([-1.0, 1.0]), {"weight_decay": 1e-4})
    assert configuration == (("lr", 0.1), ("momentum", 0.9), ("weight_decay", 1e-4))
    np.testing.assert_allclose(box.point(configuration), [-1.0, 1.0], atol=1e-9)
    grown = box.extended(np.array([5.0, 5.0]), np.array([0.5, 0.0]))
    np.testing.assert_allclose(grown.low, [-4.0, 0.0])
    np.testing.assert_allclose(grown.high, [0.5, 1.0])


def test_the_best_observed_are_different_configurations():
    """A configuration may have run on several seeds, all of them fast."""
    box = Box.declared(declare(spec(), "hash", [100, 100]).arm("sgd"))
    search = ArmSearch(box, 2)
    fast, slower, lost = (box.configuration(np.array([lr, 0.0]), {"weight_decay": 1e-4}) for lr in (-1.0, -0.5, 0.0))
    for configuration, steps in ((fast, 20), (slower, 40), (fast, 22), (slower, 30), (fast, 24)):
        search.observe(configuration, 1, Observation(outcome="reached", steps=steps, after=steps - 1))
    search.observe(lost, 1, Observation(outcome="diverged"))
    search.observe(lost, 0, Observation(outcome="reached", steps=5, after=4))
    assert search.best_observed(1, 1) == [fast]
    assert search.best_observed(1, 3) == [fast, slower]


def everywhere(points, place):
    return np.ones(len(points), dtype=bool)


@pytest.mark.parametrize(("skew", "off"), [(0.0, 0.02), (1.5, 0.1)])
def test_a_surface_finds_the_optimum_of_each_batch_size(skew, off):
    """log T of known bowls, parabolic and skewed, with noise of .02."""
    rng = np.random.default_rng(0)
    centre = np.array([[0.0, 0.3], [0.2, -0.1], [-0.3, 0.0]])
    b = np.repeat(np.arange(3), 60)
    x = centre[b] + rng.uniform(-0.8, 0.8, (180, 2))
    z = x - centre[b]
    bowl = z**2 / 2 if skew == 0 else (np.exp(skew * z) - skew * z - 1) / skew**2
    y = bowl.sum(axis=1) + b + 0.02 * rng.standard_normal(180)
    found = fit(x, b, y, np.zeros(180, dtype=bool), 3, 2.0, np.array([[-2.0, -2.0], [2.0, 2.0]]), everywhere)
    assert bool(found.third.any()) == (skew > 0)
    assert found.terms.shared or skew > 0
    ends = np.full(2, -2.0), np.full(2, 2.0)
    optimum = found.optimum(*ends, everywhere)
    np.testing.assert_allclose(optimum, centre, atol=off)
    assert found.regret(optimum, *ends, everywhere).max() < 0.001
    np.testing.assert_allclose(found.predict(optimum, np.arange(3)), [0, 1, 2], atol=0.05)


def test_regret_is_not_negative_with_cubic_terms():
    third, terms = np.array([-4.0, 0.0]), Terms(batches=1, dimensions=2, cubic=True)
    surface = Response(
        centre=np.zeros(2),
        level=np.zeros(1),
        slope=np.array([[0.5, 0.0]]),
        curvature=np.array([[[1.0, 0.9], [0.9, 1.0]]]),
        third=third[None],
        reach=np.array([[-1.0, -1.0], [1.0, 1.0]]),
        terms=terms,
        covariance=0.01 * np.eye(terms.count),
        noise=0.1,
        freedom=22.0,
    )
    at = np.array([[0.4, 0.0]])
    assert np.linalg.eigvalsh(surface.curvature + np.diag(third * 0.4)).min() < 0
    np.testing.assert_allclose(surface.curvature_at(at), surface.curvature)
    assert surface.regret(at, *surface.reach, everywhere).min() > 0


def test_a_falling_ridge_ends_where_runs_no_longer_survive():
    """log T falls along x + y, bowl-shaped across it, to a wall at x + y = 0 beyond which every run diverges."""
    rng = np.random.default_rng(0)
    box = np.array([[-2.0, -2.0], [2.0, 2.0]])
    x = rng.uniform(*box, (120, 2))
    lost = x.sum(axis=1) > 0
    y = -0.5 * x.sum(axis=1) + (x[:, 0] - x[:, 1]) ** 2 + 0.05 * rng.standard_normal(120)
    b = np.zeros(120, dtype=int)
    survival = _Survival(x, b, lost, box[1] - box[0])
    alive = ~lost
    arguments = (x[alive], b[alive], y[alive], lost[alive], 1, 2.0, box)
    found, blind = fit(*arguments, survival), fit(*arguments, everywhere)
    assert not found.definite.any()
    (lowest,) = found.optimum(*box, survival)
    assert lowest.sum() == pytest.approx(0.0, abs=0.5)
    assert lowest[0] == pytest.approx(lowest[1], abs=0.5)
    assert found.regret(lowest[None], *box, survival).max() < 0.1
    assert not survival(blind.optimum(*box, everywhere), 0)[0], "the surface itself does not end there"
    assert blind.regret(lowest[None], *box, everywhere).max() > 0.1
    moved = survival.moved(np.array([[1.0, 1.0], [-1.0, 0.0]]), lowest, 0)
    assert moved[0].sum() < 0.5
    np.testing.assert_array_equal(moved[1], [-1.0, 0.0])


def test_batch_sizes_may_bend_differently():
    """A small batch has its optimum in the noise, a large one hardly bends below the edge of stability at 0.9."""
    rng = np.random.default_rng(0)
    b, x = np.repeat(np.arange(2), 40), rng.uniform(-1.0, 1.2, (80, 1))
    truth = np.where(b == 0, 3.0 * x[:, 0] ** 2, 1 - 0.8 * x[:, 0] + 0.6 * x[:, 0] ** 2)
    unstable = (b == 1) & (x[:, 0] > 0.9)
    y = truth + 0.02 * rng.standard_normal(80) + 4.0 * unstable
    box = np.array([[-2.0], [2.0]])
    found = fit(x, b, y, unstable, 2, 1.5, box, everywhere)
    assert not found.terms.shared
    assert found.noise < 0.05, "the runs beyond the edge are left out"
    assert walled(found.predict(x, b), y).tolist() == unstable.tolist()
    np.testing.assert_allclose(found.optimum(*box, everywhere), [[0.0], [2 / 3]], atol=0.05)
    gradient = found.terms.gradient(np.array([0.3]), 1)
    step = 1e-6 * np.ones((1, 1))
    columns = [found.terms.columns(np.array([[0.3]]) + way * step, np.array([1])) for way in (-1, 1)]
    np.testing.assert_allclose(gradient, (columns[1] - columns[0]) / 2e-6, atol=1e-6)


def test_levels_of_all_looks_add_up_to_the_error_rate():
    found = np.array(levels(SCALING, LOOKS))
    np.testing.assert_allclose(found.sum(axis=0), [0.025, 0.05])
    np.testing.assert_allclose(found[1:, 0] / found[:-1, 0], np.sqrt(np.array(LOOKS[1:]) / np.array(LOOKS[:-1])))


def runs(rng, size, n=8, growth=0.001, batches=(32, 128, 512), lost=()):
    """Runs whose log T have noise of .02 about 1000 (1 + size / B)."""
    found = {}
    for batch in batches:
        times = 1000 * (1 + size / batch) * np.exp(0.02 * rng.standard_normal(n))
        found[batch] = [Observation(outcome="reached", steps=t, after=t / (1 + growth)) for t in times]
    for batch, place in lost:
        found[batch][place] = Observation(outcome="diverged")
    return Judged(found)


NONE = dict.fromkeys((32, 128, 512), 0.0)


def at_once(claim, one, other, regrets=(NONE, NONE)):
    return look(claim, one, other, (32, 128, 512), regrets, (0.025, 0.05))


def test_looks_answer_what_the_world_is():
    rng = np.random.default_rng(1)
    found = {ratio: at_once(SCALING, runs(rng, 100 * ratio), runs(rng, 100)) for ratio in (0.5, 1.0, 2.0)}
    assert {ratio: one.answer for ratio, one in found.items()} == {0.5: "worse", 1.0: "equivalent", 2.0: "better"}
    for ratio, one in found.items():
        assert one.interval[0] <= math.log(ratio) <= one.interval[1]
        assert one.interval[0] <= one.inner[0] <= one.log_ratio <= one.inner[1] <= one.interval[1]


def test_regret_and_coarse_evaluations_widen_an_interval():
    def width(regret, growth):
        rng = np.random.default_rng(1)
        known = dict.fromkeys((32, 128, 512), regret)
        found = at_once(SCALING, runs(rng, 100, growth=growth), runs(rng, 100, growth=growth), (known, known))
        return found.interval[1] - found.interval[0]

    exact = width(0.0, 0.001)
    assert width(0.05, 0.001) > exact + 0.1
    assert width(0.0, 0.2) > exact + 0.1


def test_one_lost_run_is_chance_and_many_block():
    rng = np.random.default_rng(1)
    assert at_once(SCALING, runs(rng, 200, lost=[(32, 0)]), runs(rng, 100)).answer == "better"
    blocked = at_once(SCALING, runs(rng, 200, lost=[(512, k) for k in range(4)]), runs(rng, 100))
    assert blocked.answer == "blocked"
    assert "4 of 8 judging runs of K-FAC at batch size 512 missed the target, 4 of them by divergence" in blocked.reason
    assert "shorten the budget" in blocked.reason
    short = runs(rng, 200)
    short.runs[512][:4] = [Observation(outcome="censored", steps=100, shortfall=0.1)] * 4
    assert at_once(SCALING, short, runs(rng, 100)).reason.endswith(
        "4 of 8 judging runs of K-FAC at batch size 512 missed the target: raise the budget or choose a target that is"
        " reached there"
    )


def test_times_that_follow_no_law_block():
    rng = np.random.default_rng(1)
    bent = runs(rng, 100)
    bent.runs[128] = [o.model_copy(update={"steps": 2 * o.steps, "after": 2 * o.after}) for o in bent.runs[128]]
    found = at_once(SCALING, runs(rng, 200), bent)
    assert found.answer == "blocked"
    assert "doesn't describe the steps of SGD" in found.reason


@pytest.mark.parametrize(
    ("question", "answer", "changes", "said"),
    [
        ("scaling", "better", {}, "K-FAC scales further than SGD: its critical batch size is 1.6 times that of SGD"),
        ("scaling", "worse", {}, "K-FAC scales less far than SGD"),
        (
            "scaling",
            "equivalent",
            {"ends": (0.85, 1.2)},
            "valid at any look), within the margin of 1.25, by 16 judging seeds.",
        ),
        (
            "scaling",
            "equivalent",
            {},
            "the margin of 1.25, each side of which is tested by itself at 5%, by 16 judging seeds.",
        ),
        ("scaling", "blocked", {}, "Whether K-FAC scales further than SGD can't be judged: it was late."),
        (
            "scaling",
            "undetermined",
            {"direction": "better"},
            "Not settled: it was late. K-FAC's critical",
        ),
        ("scaling", "undetermined", {"direction": "worse"}, "is smaller, 1.6 times that of SGD"),
        ("scaling", "undetermined", {}, "so it may be larger or smaller. The next look costs 228 runs."),
        ("scaling", "undetermined", {"estimate": None}, "Not settled: it was late."),
        ("sensitivity", "better", {}, "K-FAC is less sensitive to its hyperparameters than SGD"),
        ("sensitivity", "worse", {}, "K-FAC is more sensitive to its hyperparameters than SGD"),
        ("sensitivity", "equivalent", {}, "K-FAC is as sensitive to its hyperparameters as SGD"),
        (
            "sensitivity",
            "blocked",
            {},
            "Whether K-FAC is less sensitive to its hyperparameters than SGD can't be judged",
        ),
        ("sensitivity", "undetermined", {"direction": "better"}, "until a setting works is smaller"),
        ("sensitivity", "better", {"ends": (1.4, None)}, "95% interval 1.4 to no bound, valid at any look"),
        (
            "sensitivity",
            "worse",
            {"estimate": None, "ends": (1.4, None)},
            "until a setting works over that of SGD has no estimate (95% interval 1.4 to no bound, valid at any look)",
        ),
    ],
)
def test_sentences(question, answer, changes, said):
    given = {
        "estimate": 1.6,
        "ends": (1.3, 2.0),
        "level": 0.95,
        "direction": "undetermined",
        "basis": "16 judging seeds",
        "reason": "it was late",
        "next_runs": 228,
    }
    claim = SCALING.model_copy(update={"question": question})
    text = answer_sentence(claim, answer, **{**given, **changes})
    assert said in text
    assert text.endswith(".")


def test_observations_of_a_studys_tables():
    """A run that reaches 90% between steps 2 and 4, one that ends half-way to it, and one that diverges."""
    runs_table = pd.DataFrame(
        {
            "trial_id": ["a", "b", "c"],
            "cell_id": ["a", "b", "c"],
            "optimizer": "sgd",
            "batch_size": 32,
            "seed": [1, 2, 3],
            "status": ["completed", "completed", "diverged"],
            "steps": [8, 8, 3],
            "epochs": 1.0,
            "train_seconds": 1.0,
            "flops": 1.0,
        }
    )
    rows = [("a", 0, 0.1), ("a", 2, 0.8), ("a", 4, 0.92), ("a", 8, 0.95), ("b", 0, 0.1), ("b", 8, 0.5), ("c", 0, 0.1)]
    curves = pd.DataFrame(rows, columns=["trial_id", "step", "test_accuracy"])
    curves = curves.assign(epoch=0.0, train_seconds=0.0, flops=0.0)
    assert observe(runs_table, curves, ("test_accuracy", 0.9)) == {
        "a": Observation(outcome="reached", steps=4, after=2),
        "b": Observation(outcome="censored", steps=8, shortfall=0.5),
        "c": Observation(outcome="diverged"),
    }


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_a_flat_ridge_has_a_fastest_setting(noise):
    """log T depends on one direction of two alone: any point along the ridge is as good, and near it none is lost."""
    random = np.random.default_rng(1)
    x, b = random.uniform(-1, 1, (90, 2)), np.arange(90) % 3
    truth = 4 + 2.0 * (x[:, 0] - x[:, 1]) ** 2
    y = truth + noise * random.standard_normal(90)
    box = np.array([[-1.0, -1.0], [1.0, 1.0]])
    found = fit(x, b, y, np.zeros(90, dtype=bool), 3, 1.2, box, everywhere)
    assert not found.definite.any()
    lowest = found.optimum(*box, everywhere)
    assert np.abs(lowest[:, 0] - lowest[:, 1]).max() <= 0.25
    regret = 2.0 * (lowest[:, 0] - lowest[:, 1]) ** 2
    assert (found.regret(lowest, *box, everywhere) >= 0).all()
    assert found.regret(lowest, *box, everywhere).max() < 0.1
    assert regret.max() < 0.1
    far = np.tile([0.8, -0.8], (3, 1))
    assert found.regret(far, *box, everywhere) == pytest.approx(2 * 1.6**2, rel=0.2)


def test_a_surface_without_a_minimum_is_not_believed_beyond_its_points():
    """log T falls along a line; nothing is known of where no run was."""
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (40, 1))
    y = 4 - x[:, 0] + 0.02 * np.random.default_rng(1).standard_normal(40)
    found = fit(x, np.arange(40) % 2, y, np.zeros(40, dtype=bool), 2, 1.2, np.array([[-3.0], [3.0]]), everywhere)
    assert not found.definite.any()
    assert found.optimum(np.array([-3.0]), np.array([3.0]), everywhere) == pytest.approx(np.full((2, 1), x.max()))


def test_draws_that_never_work_are_in_vain_but_not_at_once():
    never, now_and_then = Draws(), Draws()
    for block in range(64):
        never.rows.append([Observation(outcome="censored", steps=8), Observation(outcome="diverged")])
        now_and_then.rows.append([Observation(outcome="reached", steps=8) if block == 9 else never.rows[0][0]] * 2)
    assert "none of 128 draws of either reaches the target" in futility(never, never)
    assert not futility(never, now_and_then)
    assert not futility(Draws(never.rows[:63]), Draws(never.rows[:63]))
