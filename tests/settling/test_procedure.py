"""The procedure: deterministic, fair to all arms, and blind to what judges."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from sensitivity.settling import Settling
from sensitivity.study.amendments import PHASE_OF, Declaration, Freeze, Observation, Point, Settlement, Side, Step
from sensitivity.study.hyperparameters import decades
from sensitivity.study.seed_ranges import purpose

LOST = Observation(outcome="diverged")


def steps(settling):
    return [entry.step for entry in settling.entries]


def freeze(settling):
    return next(step.freeze for step in steps(settling) if step.freeze)


def test_a_settled_study_has_the_answers_of_its_world(example):
    settling, _ = example
    settlement = settling.settlement
    assert [answer.answer for answer in settlement.answers] == ["better", "better"]
    assert settlement.settled
    assert settlement.answers[0].low > 1.25
    assert settlement.answers[0].low < 2.0 < settlement.answers[0].high
    assert settlement.total_runs == sum(len(step.points) for step in steps(settling))
    assert settlement.total_runs * 8 < settlement.grid_runs
    assert settlement.freeze == freeze(settling).hash


def test_the_same_observations_give_the_same_steps(settled, both, example):
    again, _ = settled(both)
    assert steps(again) == steps(example[0])
    assert again.settlement == example[0].settlement


@pytest.mark.parametrize("answered", [1, 4, 7])
def test_a_replayed_prefix_goes_on_as_it_went(both, example, answered):
    """A resumed command answers the steps whose runs it has, and is where it was."""
    before, given = example
    settling = Settling(both.declaration("test"))
    for observations in given[:answered]:
        settling.answer(observations)
    assert settling.next_step == steps(before)[answered]
    for observations in given[answered:]:
        settling.answer(observations)
    assert settling.settlement == before.settlement


def test_everything_goes_to_json_and_back(both, example):
    settling, _ = example
    for found in (both.declaration("test"), freeze(settling), settling.settlement, *steps(settling)):
        assert type(found).model_validate_json(found.model_dump_json()) == found
    assert {Declaration, Freeze, Settlement, Step} >= {
        type(found) for found in (settling.settlement, steps(settling)[0])
    }


def test_what_judges_is_seen_by_no_choice(settled, both, example):
    """Other outcomes of the judging runs change nothing up to the freeze, nor which seeds judge."""
    other, _ = settled(both, salt={"judge_scaling": 9, "judge_sensitivity": 9})
    index = [step.phase for step in steps(other)].index("freeze")
    assert steps(other)[: index + 1] == steps(example[0])[: index + 1]
    assert steps(other)[index + 1].points == steps(example[0])[index + 1].points
    assert other.settlement.answers != example[0].settlement.answers


def test_what_was_searched_decides_winners_but_not_how_they_are_judged(settled, both, example):
    other, _ = settled(both, salt={"scout": 9})
    one, two = freeze(other), freeze(example[0])
    assert one.winners != two.winners
    assert (one.looks, one.claims, one.judging_seeds) == (two.looks, two.claims, two.judging_seeds)


def test_every_phase_has_its_own_seeds(example):
    settling, _ = example
    seeds = {}
    for step in steps(settling):
        for point in step.points:
            assert purpose(point.seed) == PHASE_OF[point.phase]
            seeds.setdefault(point.phase, set()).add(point.seed)
    assert len(seeds) == 5
    assert not any(one & other for one, other in itertools.combinations(seeds.values(), 2))
    for name, first, last in freeze(settling).judging_seeds:
        assert all(first <= seed <= last for phase, own in seeds.items() if PHASE_OF[phase] == name for seed in own)


def test_every_step_treats_both_arms_alike(example):
    """The same number of runs, with the same seeds at every batch size."""
    for step in steps(example[0]):
        if step.points:
            assert len(set(step.runs_by_arm.values())) == 1, step.phase
            by_arm = {
                arm: sorted((p.batch_size, p.seed) for p in step.points if p.arm == arm) for arm in step.runs_by_arm
            }
            assert by_arm["a"] == by_arm["b"]


def test_draws_are_paired_by_seed_and_point(example):
    points = [p for step in steps(example[0]) for p in step.points if p.phase == "judge_sensitivity"]
    one, other = points[::2], points[1::2]
    assert [p.seed for p in one] == [p.seed for p in other]
    assert len({p.seed for p in one}) == len(one), "every draw has a seed of its own"
    assert [p.hyperparameters for p in one] == [p.hyperparameters for p in other], "the boxes are the same here"


def test_scouts_of_one_name_share_their_coordinates(worlds):
    """An arm with one of the other's hyperparameters is scouted at the same values of it."""
    world = worlds.World(name="1-2", arms=(worlds.Arm(dimensions=1), worlds.Arm(dimensions=2)))
    scout = Settling(world.declaration("test")).next_step
    lr = {arm: [dict(p.hyperparameters)["lr"] for p in scout.points if p.arm == arm] for arm in "ab"}
    assert lr["a"] == lr["b"]


def test_an_optimum_outside_the_box_is_found(settled, worlds):
    """The boxes miss both optima, by half a decade and by a decade; without extension "better" would be false."""
    world = worlds.World(name="off", arms=(worlds.Arm(optimum=2.5), worlds.Arm(bend=1.0, optimum=-3.0)))
    settling, _ = settled(world)
    winners = {(w.arm, w.batch_size): w for w in freeze(settling).winners}
    for arm, truth in (("a", 2.5), ("b", -3.0)):
        found = decades("damping", [dict(winners[arm, 128].hyperparameters)["damping"]])[0]
        assert found == pytest.approx(truth, abs=0.3)
    assert settling.settlement.answers[0].answer == "equivalent"
    assert any("extend the box" in step.why for step in steps(settling))
    assert {box.arm: {n: (lo, hi) for n, lo, hi in box.sides} for box in freeze(settling).boxes}["a"]["lr"][1] > 100


def test_the_gate_blocks_where_the_optimum_lies_beyond_the_limit(settled, worlds):
    world = worlds.World(name="beyond", arms=(worlds.Arm(optimum=4.5), worlds.Arm()))
    settling, _ = settled(world)
    answer = settling.settlement.answers[0]
    assert answer.answer == "blocked"
    assert "frontier of a was not found" in answer.says
    assert freeze(settling).claims[0].blocked == answer.reason
    assert not any(step.phase == "judge_scaling" for step in steps(settling))


@pytest.mark.parametrize("at", ["scout", "freeze", "judge_scaling", "judge_sensitivity"])
def test_at_a_stop_the_last_looks_answer_stands(both, example, at):
    before, given = example
    settling = Settling(both.declaration("test"))
    for step, observations in zip(steps(before), given, strict=True):
        if step.phase == at:
            break
        settling.answer(observations)
    settlement = settling.stop("the budget of 3 minutes is used up")
    assert settlement.stopped == "the budget of 3 minutes is used up"
    scaling, sensitivity = settlement.answers
    assert scaling.answer == ("better" if at == "judge_sensitivity" else "undetermined")
    assert sensitivity.answer == "undetermined"
    assert "the budget of 3 minutes is used up" in sensitivity.says
    assert settling.next_step is None
    with pytest.raises(ValueError, match="has ended"):
        settling.answer([])


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (lambda p: p.arm == "a", "None of 48 runs of a has reached the target yet: "),
        (lambda p: p.arm == "b" and p.batch_size > 32, "None of 32 runs of b at batch sizes 128 and 512 has reached"),
        (lambda p: p.batch_size == 32, "None of 16 runs of a at batch size 32 and none of 16 runs of b at"),
        (lambda _: False, ""),
    ],
)
def test_a_stop_before_any_judging_says_what_never_reached_the_target(both, missing, said):
    settling = Settling(both.declaration("test"))
    reached, missed = Observation(outcome="reached", steps=9.0), Observation(outcome="censored", steps=90.0)
    settling.answer([missed if missing(point) else reached for point in settling.next_step.points])
    settlement = settling.stop("the time is over")
    for answer in settlement.answers:
        assert answer.says.startswith("Not settled: the time is over, before anything was judged.")
        assert said in answer.says
        assert ("reached the target yet" in answer.says) == bool(said)


def test_as_many_observations_as_points(both):
    settling = Settling(both.declaration("test"))
    with pytest.raises(ValueError, match="has 96 runs; got 1 observations"):
        settling.answer([LOST])


def test_known_runs_are_the_scout_where_there_are_enough(settled, worlds, both):
    """Runs of the study's own grid; every arm and batch size gets the same number of them."""
    world = replace(both, questions=("scaling",))
    values = [10.0**e for e in (-2, -1, 0, 1, 2)]
    points = [
        Point(arm=arm, batch_size=size, hyperparameters=(("lr", lr), ("damping", d)), seed=0, phase="scout")
        for arm in "ab"
        for size in world.batch_sizes
        for lr in values
        for d in values
    ]
    known = list(zip(points, worlds.Study(world, np.random.default_rng(5)).observe(points), strict=True))
    settling, _ = settled(world, known=known)
    assert steps(settling)[0].phase == "search"
    assert settling.settlement.answers[0].answer == "better"
    assert Settling(world.declaration("test"), known[:40]).next_step.phase == "scout"


def test_an_arm_without_anything_to_tune(settled, worlds):
    world = worlds.World(name="fixed", arms=(worlds.Arm(size=300.0, dimensions=0), worlds.Arm(dimensions=1)))
    settling, _ = settled(world)
    assert settling.settlement.answers[0].answer == "better"
    assert {w.chosen for w in freeze(settling).winners if w.arm == "a"} == {"only"}
    assert "a" not in settling.settlement.runs["scout"]


def test_a_hyperparameter_of_levels_keeps_to_its_declared_values(worlds):
    """One arm has a setting that decides which code runs, whose value 10 makes it slower by half."""
    world = worlds.World(name="levels", arms=(worlds.Arm(size=300.0, bend=1.0), worlds.Arm(bend=1.0)))
    declaration = world.declaration("test")
    side = Side(name="inverse_interval", axis=[1, 10], scale="levels", low=1, high=10, least=1, most=10)
    arm = declaration.arms[0].model_copy(update={"sides": (*declaration.arms[0].sides, side)})
    settling = Settling(declaration.model_copy(update={"arms": (arm, declaration.arms[1])}))
    study, seen = worlds.Study(world, np.random.default_rng(3)), {}
    while settling.next_step is not None:
        points = settling.next_step.points
        levels = [dict(p.hyperparameters).get("inverse_interval", 1) for p in points]
        seen.setdefault(settling.next_step.phase, set()).update(levels)
        observed = study.observe([p.model_copy(update={"hyperparameters": p.hyperparameters[:2]}) for p in points])
        settling.answer(
            [
                o.model_copy(update={"steps": o.steps * (1 if level == 1 else 1.5)})
                for o, level in zip(observed, levels, strict=True)
            ]
        )
    assert seen.pop("scout") == {1, 10}
    assert set.union(*seen.values()) == {1}
    assert settling.settlement.answers[0].answer == "better"


def test_three_arms_share_the_error_rate(worlds):
    """Claims of two pairs; both are judged on the same seeds of the reference."""
    world = worlds.World(name="3", arms=(worlds.Arm(size=300.0, bend=1.0), worlds.Arm(bend=1.0)))
    two = world.declaration("test")
    third = two.arms[0].model_copy(update={"name": "c"})
    claims = tuple(
        claim.model_copy(update={"alpha": 0.025, "candidate": name}) for claim in two.claims for name in ("a", "c")
    )
    settling = Settling(two.model_copy(update={"arms": (*two.arms, third), "claims": claims}))
    study = worlds.Study(world, np.random.default_rng(3))
    while settling.next_step is not None:
        points = settling.next_step.points
        alike = [p.model_copy(update={"arm": "a" if p.arm == "c" else p.arm}) for p in points]
        settling.answer(study.observe(alike))
    assert [answer.answer for answer in settling.settlement.answers] == ["better", "better"]
    assert len({*settling.settlement.runs["search"].values()}) == 1


def test_claims_within_the_margin_are_rare(settled, worlds):
    """Ten studies of a true ratio just inside the margin, where "better" is false in 2.5% at most."""
    arms = (worlds.Arm(size=120.0, bend=0.3), worlds.Arm(bend=1.5, cliff=0.8))
    world = worlds.World(name="inside", arms=arms)
    phases = ("scout", "search", "candidates", "judge_scaling")
    found = [
        settled(world, world.declaration(str(k)), salt=dict.fromkeys(phases, k))[0].settlement.answers[0].answer
        for k in range(10)
    ]
    assert found.count("better") <= 1
    assert found.count("worse") == 0
