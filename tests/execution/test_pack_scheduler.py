"""What starts again after a worker was lost: decisions alone, against workers that die by a rule."""

import math

import pytest

from sensitivity.execution.pack_scheduler import STARTS, PackScheduler
from sensitivity.study.errors import UserError
from sensitivity.study.load import parse_study
from sensitivity.study.trials import Pack, expand


@pytest.fixture(scope="module")
def trials():
    spec = {
        "name": "t",
        "batch_sizes": [32],
        "seeds": 1,
        "budget": {"steps": 3},
        "optimizers": {"a": {"kind": "sgd", "lr": {"log": [1e-3, 1e-1], "points": 32}}},
    }
    return expand(parse_study(spec, source="test"))


def play(scheduler, dies, *, out_of_memory=False, reaches=lambda pack, start: 0.0):
    """Run a scheduler to its end; `dies` tells whether a pack takes its worker with it.

    Returns the finished packs' trials, those given up with their reasons, and the sizes of all that started.
    """
    finished, given_up, started, starts = [], {}, [], {}
    while not scheduler.done:
        pack = scheduler.take()
        started.append(len(pack.trials))
        starts[pack.id] = starts.get(pack.id, 0) + 1
        if not dies(pack, starts[pack.id]):
            scheduler.finish(pack, None)
            finished += pack.trials
            continue
        scheduler.advance(pack, reaches(pack, starts[pack.id]))
        reason = scheduler.lose(pack, "killed", out_of_memory=out_of_memory)
        if reason is not None:
            given_up |= dict.fromkeys((trial.id for trial in pack.trials), reason)
    return finished, given_up, started


def test_packs_start_in_order_and_each_once(trials):
    packs = [Pack(trials[:8]), Pack(trials[8:20]), Pack(trials[20:])]
    finished, given_up, started = play(PackScheduler(packs, workers=2), lambda pack, start: False)
    assert tuple(finished) == trials
    assert started == [8, 12, 12]
    assert not given_up


def test_a_pack_whose_machine_was_lost_starts_again_whole(trials):
    finished, given_up, started = play(PackScheduler([Pack(trials)], workers=1), lambda pack, start: start < STARTS)
    assert tuple(finished) == trials
    assert started == [32] * STARTS
    assert not given_up


@pytest.mark.parametrize("deadly", [0, 13, 31])
def test_a_deadly_trial_ends_up_alone_and_its_neighbours_finish(trials, deadly):
    finished, given_up, started = play(
        PackScheduler([Pack(trials)], workers=1), lambda pack, start: trials[deadly] in pack.trials
    )
    assert {trial.id for trial in finished} == {trial.id for trial in trials} - {trials[deadly].id}
    assert given_up == {trials[deadly].id: f"its worker was lost {STARTS} times: killed"}
    assert len(started) == STARTS * (int(math.log2(32)) + 1) + int(math.log2(32))


@pytest.mark.parametrize("fits", [1, 3, 8])
def test_what_ran_out_of_memory_is_halved_at_once_and_so_are_later_packs(trials, fits):
    packs = [Pack(trials[:16]), Pack(trials[16:])]
    scheduler = PackScheduler(packs, workers=1)
    finished, given_up, started = play(scheduler, lambda pack, start: len(pack.trials) > fits, out_of_memory=True)
    assert tuple(finished) == trials
    largest = 2 ** int(math.log2(fits))
    assert started == [16 // 2**k for k in range(int(math.log2(16 / largest)))] + [largest] * (32 // largest)
    assert not given_up


def test_a_single_trial_without_memory_says_what_would_help(trials):
    scheduler = PackScheduler([Pack(trials[:1])], workers=1)
    _, given_up, _ = play(scheduler, lambda pack, start: True, out_of_memory=True)
    assert "set execution.micro_batch" in given_up[trials[0].id]


def test_a_pack_that_gets_further_each_time_is_never_cut(trials):
    finished, _, started = play(
        PackScheduler([Pack(trials)], workers=1),
        lambda pack, start: start < 15,
        reaches=lambda pack, start: start / 15,
    )
    assert tuple(finished) == trials
    assert started == [32] * 15


def test_long_pack_on_preempted_machines_is_no_broken_cluster(trials):
    starts = 200
    finished, given_up, _ = play(
        PackScheduler([Pack(trials)], workers=1),
        lambda pack, start: start < starts,
        reaches=lambda pack, start: start / starts,
    )
    assert tuple(finished) == trials
    assert not given_up


def test_a_worker_that_is_lost_before_it_begins_is_held_against_no_pack(trials):
    scheduler = PackScheduler([Pack(trials[:1])], workers=1)
    for k in range(3 * STARTS):
        cause = "abc"[k % 3]  # each another accident
        assert scheduler.lose(scheduler.take(), cause, out_of_memory=False) is None
    pack = scheduler.take()
    scheduler.advance(pack, 0.0)
    assert scheduler.lose(pack, "killed", out_of_memory=False) is None
    assert scheduler.take() is pack
    scheduler.finish(pack, None)
    assert scheduler.done


def lose_some(scheduler, count, *, cause="killed", stderr="", begins=False):
    for _ in range(count):
        pack = scheduler.take()
        if begins:
            scheduler.advance(pack, 0.0)
        assert scheduler.lose(pack, cause, out_of_memory=False, stderr=stderr) is None


CRASH = 'some warning\nTraceback (most recent call last):\n  File "pandas.py", line 1\nAttributeError: no DataFrame'


@pytest.mark.parametrize(
    ("words", "workers", "enough", "cause"),
    [
        ("", 1, 3, "killed"),
        ("", 2, 6, "killed"),  # a node that ends takes all of its workers: one event
        ("UserWarning: slow", 2, 6, "killed"),
        (CRASH, 2, 3, "AttributeError: no DataFrame"),
    ],
)
def test_where_no_worker_begins_for_the_same_reason_the_command_ends(trials, words, workers, enough, cause):
    scheduler = PackScheduler([Pack((trial,)) for trial in trials], workers=workers)
    lose_some(scheduler, enough - 1, stderr=words)
    with pytest.raises(UserError, match=f"^{enough} workers in a row were lost; the last one: {cause}\n") as said:
        scheduler.lose(scheduler.take(), "killed", out_of_memory=False, stderr=words)
    for line in words.splitlines():
        assert f"    {line}\n" in str(said.value)


def test_numbers_do_not_make_two_causes_of_one(trials):
    scheduler = PackScheduler([Pack((trial,)) for trial in trials], workers=1)
    lose_some(scheduler, 1, cause="worker 17 at 0x7f00 died")
    lose_some(scheduler, 1, cause="worker 4711 at 0x7e00 died")
    with pytest.raises(UserError, match="worker 5 at"):
        scheduler.lose(scheduler.take(), "worker 5 at 0x1 died", out_of_memory=False)


def test_where_no_worker_begins_for_changing_reasons_the_command_ends_later(trials):
    scheduler = PackScheduler([Pack((trial,)) for trial in trials], workers=2)
    for k in range(39):
        lose_some(scheduler, 1, cause="abc"[k % 3])
    with pytest.raises(UserError, match="40 workers in a row were lost"):
        scheduler.lose(scheduler.take(), "d", out_of_memory=False)


def test_results_that_are_not_written_yet_show_that_workers_are_not_always_lost(trials):
    scheduler = PackScheduler([Pack((trial,)) for trial in trials], workers=1)
    lose_some(scheduler, 2)
    scheduler.report()
    lose_some(scheduler, 2)
    with pytest.raises(UserError, match="3 workers in a row were lost"):
        lose_some(scheduler, 1)


def test_three_equal_crashes_before_any_result_end_the_command(trials):
    scheduler = PackScheduler([Pack(trials[:16]), Pack(trials[16:31]), Pack(trials[31:])], workers=4)
    lose_some(scheduler, 2, stderr=CRASH, begins=True)
    with pytest.raises(UserError, match="3 workers in a row were lost; the last one: AttributeError"):
        lose_some(scheduler, 1, stderr=CRASH, begins=True)


def test_a_pack_that_crashes_is_tried_after_the_others_and_costs_them_nothing(trials):
    packs = [Pack(trials[:8]), Pack(trials[8:20]), Pack(trials[20:])]
    scheduler, finished, given_up = PackScheduler(packs, workers=1), [], {}
    while not scheduler.done:
        pack = scheduler.take()
        scheduler.advance(pack, 0.0)
        if trials[3] not in pack.trials:
            scheduler.finish(pack, None)
            finished += pack.trials
        elif (reason := scheduler.lose(pack, "died", out_of_memory=False, stderr=CRASH)) is not None:
            given_up[pack.trials[0].id] = reason
    assert finished[:24] == list(trials[8:])
    assert {trial.id for trial in finished} == {trial.id for trial in trials} - {trials[3].id}
    assert given_up == {trials[3].id: f"its worker was lost {STARTS} times: AttributeError: no DataFrame"}


def test_when_worker_after_worker_is_lost_the_command_ends(trials):
    packs = [Pack((trial,)) for trial in trials]
    with pytest.raises(UserError, match=r"40 workers in a row were lost; the last one: killed\n"):
        play(PackScheduler(packs, workers=2), lambda pack, start: True)
