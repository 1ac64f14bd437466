"""Costs that were measured before are used again where they hold, and only there; prices follow from them."""

import math
from types import SimpleNamespace

import pytest

from sensitivity.execution import costs
from sensitivity.execution.costs import measure, pack_sizes, price
from sensitivity.execution.prepare import Plan, prepare, with_recorded, with_search_seconds
from sensitivity.execution.pricing import _token_words
from sensitivity.execution.progress import Progress, Share, part_of
from sensitivity.execution.study_run import StudyRun
from sensitivity.study.errors import UserError
from sensitivity.study.load import parse_study
from sensitivity.study.results import PackResult, RunResult, Status
from sensitivity.study.trials import Pack, expand
from sensitivity.training.calibration import Cost
from sensitivity.training.problems import load_problem


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """The memory that each measurement was allowed; the first costs 1 second a step, the next 2."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked: list[float] = []

    def calibrate(trials, problem, *, memory_bytes, **_):
        asked.append(memory_bytes)
        return Cost(
            steps=1,
            flops=1.0,
            step_seconds=float(len(asked)),
            evaluation_seconds=0.0,
            pack_size=1,
            most=1,
            gain=1.0,
            member_bytes=1.0,
        )

    monkeypatch.setattr(costs, "calibrate", calibrate)
    return asked


def test_more_packs_at_a_time_are_measured_anew_for_each_has_less_memory(measured):
    raw = {
        "name": "test",
        "batch_sizes": [64],
        "seeds": 1,
        "budget": {"steps": 1},
        "optimizers": {"sgd": {"kind": "sgd", "lr": 0.1}},
    }
    spec = parse_study(raw, source="test")
    problem, trials = load_problem(spec.problem), expand(spec)
    groups = {trials[0].group: (costs.Sample(trials, 1.0),)}
    seconds = [
        measure(groups, problem, spec.execution, workers=workers)[trials[0].group].step_seconds
        for workers in (1, 1, 4, 1, 4)
    ]
    assert seconds == [1.0, 1.0, 2.0, 1.0, 2.0]
    assert measured[1] == pytest.approx(measured[0] / 4)


SEVEN_SECONDS = Cost(
    steps=7, flops=1.0, step_seconds=1.0, evaluation_seconds=0.0, pack_size=1, most=1, gain=1.0, member_bytes=1.0
)


def planned(spec):
    plan = Plan(spec=spec, problem=None, source="", origin=None, trials=expand(spec))
    return with_recorded(plan, ())


@pytest.mark.parametrize(
    ("hours", "seconds"), [(None, (20 * 3 + 2) * 7.0), (0.01, 36 + (4 * 3 + 2) * 7.0), (1.0, (20 * 3 + 2) * 7.0)]
)
def test_a_search_that_is_given_hours_costs_no_more_but_for_its_last_round(hours, seconds):
    arm = {"kind": "sgd", "lr": {"log": [0.1, 1.0]}, "design": "tpe", "samples": 20}
    raw = {
        "name": "test",
        "batch_sizes": [64],
        "seeds": 3,
        "budget": {"steps": 7},
        "optimizers": {"sgd": arm | ({"device_hours": hours} if hours else {})},
        "search": {"objective": "test_accuracy", "round": 4, "confirm": 2},
    }
    spec = parse_study(raw, source="test")
    priced = price(planned(spec), {("sgd", 64): SEVEN_SECONDS}, finished=frozenset(), workers=2)
    assert priced.device_seconds == pytest.approx(seconds)
    assert priced.wall_seconds == pytest.approx(seconds / 2)


def timed(*, confirm, **arm):
    """A search that only its hours end."""
    raw = {
        "name": "test",
        "batch_sizes": [64],
        "seeds": 3,
        "budget": {"steps": 7},
        "optimizers": {"sgd": {"kind": "sgd", "design": "tpe", **arm}},
        "search": {"objective": "test_accuracy", "round": 4, "confirm": confirm},
    }
    return parse_study(raw, source="test")


@pytest.mark.parametrize(("taken", "rounds"), [(0.0, 3), (150.0, 2), (249.0, 1), (251.0, 0)])
def test_a_search_by_hours_alone_is_priced_by_what_is_left_of_them(taken, rounds):
    spec = timed(lr={"log": [0.1, 1.0]}, device_hours=250 / 3600, confirm=2)
    plan = with_search_seconds(planned(spec), {("sgd", 64): taken})
    (line,) = price(plan, {("sgd", 64): SEVEN_SECONDS}, finished=frozenset(), workers=2).lines
    assert line.missing == line.planned == 4 * 3 * rounds + 2, "a round takes 84 s"
    assert line.device_seconds == pytest.approx(7.0 * line.missing)
    assert line.estimated == (rounds > 0)


def test_hours_do_not_make_a_list_longer():
    spec = timed(lr=[0.1, 0.2, 0.3], momentum=[0.0, 0.9], device_hours=10.0, confirm=0)
    (line,) = price(planned(spec), {("sgd", 64): SEVEN_SECONDS}, finished=frozenset(), workers=2).lines
    assert line.missing == 2 * 3 * 3


def test_progress_counts_what_a_search_has_taken_of_its_hours():
    raw = {
        "name": "test",
        "batch_sizes": [64],
        "seeds": 1,
        "budget": {"steps": 7},
        "optimizers": {
            "grid": {"kind": "sgd", "lr": [0.1, 0.2]},
            "search": {"kind": "sgd", "lr": {"log": [0.1, 1.0]}, "design": "tpe", "device_hours": 0.01},
        },
        "search": {"objective": "test_accuracy", "round": 2},
    }
    plan = planned(parse_study(raw, source="test"))
    grid, search = [t for t in plan.expected if t.arm == "grid"], [t for t in plan.expected if t.arm == "search"]
    shares = {part_of(grid[0]): Share(work=2.0), part_of(search[0]): Share(work=math.inf, limit=36.0, before=4.0)}
    progress = Progress(planned=None, finished_before=3, shares=shares, weigh=lambda group: 1.0)
    assert progress.fraction == 0.0, "nothing tells yet how long a run takes"
    assert progress.seconds_left is None

    def finish(trials, seconds):
        pack = Pack(tuple(trials))
        runs = tuple(
            RunResult(trial=trial, status=Status.COMPLETED, train_seconds=seconds, eval_seconds=0.0) for trial in trials
        )
        told = PackResult(runs=runs, pack_id=pack.id, host="", device="", started_at=0.0, wall_seconds=0.0)
        progress.finish(pack, told)

    finish(search, 4.0)
    assert progress.device_time == (12.0, 36.0)
    assert progress.fraction == pytest.approx(8 / (32 + 2 * 4)), "the grid's runs are taken to be as long"
    progress.advance(Pack(tuple(grid)), 0.5)
    assert progress.fraction == pytest.approx((8 + 4) / (32 + 2 * 4))
    finish(grid, 4.0)
    finish(search, 100.0)
    assert progress.fraction == 1.0
    assert progress.done == 9


def test_a_run_weighs_its_measured_time():
    """A group that was not measured weighs its FLOPs at the rate of those that were."""
    arm = {"kind": "sgd", "lr": [0.1]}
    raw = {"name": "s", "batch_sizes": [16, 64], "seeds": 1, "budget": {"steps": 5}, "optimizers": {"a": arm, "b": arm}}
    spec = parse_study(raw, source="test")
    run = SimpleNamespace(plan=SimpleNamespace(spec=spec, problem=load_problem(spec.required_problem)))
    costs = {("a", 16): SimpleNamespace(seconds=2.0), ("b", 16): SimpleNamespace(seconds=6.0)}
    weigh = StudyRun._weigher(run, costs)
    assert [weigh(("a", 16)), weigh(("b", 16))] == [2.0, 6.0]
    assert weigh(("a", 64)) == pytest.approx(4 * 4.0), "four times the FLOPs, at the mean rate"
    flops = StudyRun._weigher(run, {})
    assert flops(("a", 64)) == 4 * flops(("b", 16))


def test_the_time_left_begins_at_the_price_and_follows_the_pace(monkeypatch):
    """100 runs of 10 s, two at a time, which take twenty times as long as they were expected to."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    key = ("a", 64)
    share = Share(work=1000.0)
    progress = Progress(
        planned=100, finished_before=0, shares={(key, False): share}, weigh=lambda group: 10.0, workers=2
    )
    progress._began_stage = now
    assert progress.seconds_left == 500.0
    now, share.finished_work = 10_000.0, 500.0
    assert progress.seconds_left == pytest.approx(10_000.0, rel=0.15)
    now, share.finished_work = 19_000.0, 1000.0
    assert progress.seconds_left == 0.0


def test_without_prices_the_time_left_follows_the_pace_since_the_first_result(monkeypatch):
    """100 runs, one a second after a start of 30 s; then a stage of 10 runs that starts in 5 s."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    arm = {"kind": "sgd", "lr": [0.1]}
    raw = {"name": "s", "batch_sizes": [64], "seeds": 100, "budget": {"steps": 5}, "optimizers": {"a": arm}}
    trials, left = expand(parse_study(raw, source="test")), {}
    progress = Progress(planned=100, finished_before=0, shares={}, weigh=lambda group: 1.0)
    for first, stage in ((30.0, trials), (135.0, trials[:10])):
        progress.begin("stage", stage)
        for k, trial in enumerate(stage):
            now = first + k
            pack = Pack((trial,))
            run = RunResult(trial=trial, status=Status.COMPLETED, train_seconds=1.0, eval_seconds=0.0)
            progress.finish(
                pack, PackResult(runs=(run,), pack_id=pack.id, host="", device="", started_at=0.0, wall_seconds=0.0)
            )
            left[now] = progress.seconds_left
    assert left[30.0] is None
    assert left[31.0] == pytest.approx(98.0)
    assert left[80.0] == pytest.approx(49.0)
    assert left[129.0] == 0.0
    assert left[135.0] is None
    assert left[136.0] == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("chosen", "most", "seconds", "size"),
    [
        *[(1, 99, 0.05, 20), (4, 9999, 0.005, 200), (64, 9999, 0.0002, 1024), (16, 99, 3.0, 16), (1, 99, 30.0, 1)],
        *[(4, 7, 0.001, 7), (4, 4, 0.1, 4)],
    ],
)
def test_packs_that_would_take_no_time_are_made_larger_as_memory_allows(chosen, most, seconds, size):
    cost = Cost(
        steps=1,
        flops=1.0,
        step_seconds=seconds,
        evaluation_seconds=0.0,
        pack_size=chosen,
        most=most,
        gain=1.0,
        member_bytes=1.0,
    )
    assert pack_sizes({("sgd", 64): cost}) == {("sgd", 64): size}


def test_without_the_accelerator_that_a_study_names_its_size_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(costs.torch.cuda, "is_available", lambda: False)
    path = tmp_path / "large.toml"
    path.write_text(
        'name = "large"\nbatch_sizes = [32, 128]\nseeds = 3\nbudget.epochs = 10\nexecution.device = "cuda"\n'
        '[optimizers.ours]\nkind = "sgd"\nlr = [0.1, 0.2]\n'
    )
    plan = prepare(str(path))
    with pytest.raises(UserError, match="no accelerator to measure on") as caught:
        costs.measure_here(plan, costs.samples(plan, finished=frozenset()), workers=1)
    step = 6 * (64 * 128 + 128 * 128 + 128 * 10) - 2 * 64 * 128  # FLOP an example, by hand
    runs = [450 * 32 * step, 113 * 128 * step]
    assert str(caught.value).splitlines()[2:] == [
        f"  Known without measuring: 12 runs, {6 * sum(runs):.2g} FLOP in all",
        f"    ours at batch size 32: 6 runs of 450 steps, {runs[0]:.2g} FLOP each",
        f"    ours at batch size 128: 6 runs of 113 steps, {runs[1]:.2g} FLOP each",
    ]


def test_a_plan_says_how_many_tokens_a_run_trains_on():
    lines = [SimpleNamespace(batch_size=size, cost=SimpleNamespace(steps=10)) for size in (4, 16, 16)]
    assert _token_words(32, SimpleNamespace(lines=lines)) == [
        "Examples are sequences of 32 tokens: a run trains on 1,280 at batch size 4, 5,120 at batch size 16."
    ]
    assert _token_words(1, SimpleNamespace(lines=lines)) == []
