import math
import random
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sensitivity.analysis.evaluations import Evaluations, read_tables
from sensitivity.execution.verification import curves_of, sample, trained_parts
from sensitivity.exporting.runs import finished_runs
from sensitivity.store import effective, merging, reader
from sensitivity.store.counting import finished_trials, read_counts, read_statuses
from sensitivity.store.directory import Place, place
from sensitivity.store.effective import from_parts, results_by_status
from sensitivity.store.manifest import read_manifest, write_manifest
from sensitivity.store.merging import merge_parts
from sensitivity.store.reader import read_evaluations, read_runs, read_study
from sensitivity.store.schema import CURVES, RUNS
from sensitivity.store.writer import parquet_bytes, write_plan
from sensitivity.study.errors import StorageError
from sensitivity.study.results import Status
from sensitivity.study.trials import expand, group

SGD = {"kind": "sgd", "lr": [0.01, 0.03, 0.1, 0.3, 1.0]}


def written(directory, make, seeds=3):
    """A study of packs of 2: one run diverged, one was trained again, one is interrupted, and two are unplanned."""
    spec = make.study(seeds=seeds, optimizers={"sgd": SGD, "more": SGD})
    write_manifest(directory, spec, "")
    trials = expand(spec)
    write_plan(directory, trials)
    packs = group(trials, 2)
    for n, pack in enumerate(packs):
        runs = [make.run(trial, losses=(2.0, 1.0 + n / 10, 0.5 + k / 10)) for k, trial in enumerate(pack.trials)]
        if n == 0:
            runs[0] = make.interrupted(pack.trials[0])
        if n == 1:
            runs[0] = make.run(
                pack.trials[0], Status.DIVERGED, losses=(2.0, 9.0, math.inf), steps=8, message="diverged"
            )
        if n == 2:
            runs[1] = make.interrupted(pack.trials[1])
        make.add(directory, *runs, pack_id=pack.id)
    make.add(directory, make.run(packs[0].trials[0], losses=(2.0, 0.4)), pack_id="again")
    other = expand(make.study(seeds=3, optimizers={"gone": SGD}))
    make.add(directory, *(make.run(trial) for trial in other[:2]), pack_id="gone")


def content(directory):
    study = read_study(directory)
    assert isinstance(study.curves, pd.DataFrame)
    return study.runs, study.curves.reset_index(drop=True), study.unplanned


def assert_equal(found, wanted):
    for a, b in zip(found[:2], wanted[:2], strict=True):
        pd.testing.assert_frame_equal(a, b)
    assert found[2] == wanted[2]


def names(directory):
    return [f"{folder}/{name}" for folder in (RUNS, CURVES) for name in directory.child(folder).files(".parquet")]


def merge(directory):
    return merge_parts(directory, require=lambda: None, fewest=2)


def test_a_merged_study_reads_as_before(directory, make):
    written(directory, make)
    before, counts, parts = content(directory), read_counts(directory).by_status, len(names(directory)) // 2
    statuses = read_statuses(directory)
    assert merge(directory) == parts
    runs, curves = names(directory)
    assert runs.removeprefix(RUNS) == curves.removeprefix(CURVES)
    assert_equal(content(directory), before)
    assert (
        read_counts(directory).by_status == counts == {"completed": 28, "diverged": 1, "interrupted": 1, "pending": 0}
    )
    assert read_statuses(directory) == statuses


def test_few_parts_are_left_alone(directory, make):
    written(directory, make)
    before = make.snapshot(directory)
    assert merge_parts(directory, require=lambda: None) == 0
    assert make.snapshot(directory) == before


def test_packs_are_found_in_a_merged_part(directory, make):
    written(directory, make)

    def packs():
        found = sample(directory, read_manifest(directory), 10**6, random.Random(0))
        return sorted((each.pack.id, tuple(each.statuses.items()), each.is_part) for each in found)

    before = packs()
    merge(directory)
    assert packs() == before
    trained = {trial_id for _, statuses, _ in before for trial_id, _ in statuses}
    planned = read_runs(directory).runs
    assert trained == set(planned.loc[planned["status"].isin(["completed", "diverged"]), "trial_id"])
    assert trained < {name for ids in trained_parts(directory).values() for name in ids}, "also what is not planned"
    assert {is_part for _, _, is_part in before} == {False, True}, (
        "the mates of interrupted runs can't be trained alike"
    )


def test_a_metric_or_hyperparameter_that_some_parts_lack(directory, make):
    spec = make.study(seeds=1, optimizers={"sgd": SGD, "kfac": {"kind": "kfac", "lr": 0.1, "damping": 0.01}})
    write_manifest(directory, spec, "")
    trials = expand(spec)
    write_plan(directory, trials)
    for n, trial in enumerate(trials):
        measured = make.run(trial)
        if n > 2:
            curve = tuple(replace(each, further={"test_top5": n + each.step / 100}) for each in measured.measurements)
            measured = replace(measured, measurements=curve)
        make.add(directory, measured, pack_id=trial.id)
    before = read_runs(directory).runs
    metrics = [read_evaluations(directory, read_runs(directory).parts[trial.id], ["test_top5"]) for trial in trials[3:]]
    merge(directory)
    pd.testing.assert_frame_equal(read_runs(directory).runs, before)
    assert before["test_top5"].isna().tolist() == [True] * 3 + [False] * 3
    assert before["param.damping"].isna().tolist() == [True] * 5 + [False]
    (part,) = set(read_runs(directory).parts)
    for trial, table in zip(trials[3:], metrics, strict=True):
        found = read_evaluations(directory, part, ["trial_id", "test_top5"], [trial.id])
        assert found["test_top5"].to_pylist() == table["test_top5"].to_pylist()


class KilledError(Exception):
    pass


def test_a_killed_merge_loses_nothing_and_the_next_one_finishes_it(tmp_path, make, monkeypatch):
    """Whichever write or removal is the last."""
    monkeypatch.setattr(merging, "_MERGED_BYTES", 2**17)  # several merged parts
    real = {"write": Place.write, "delete": Place.delete}
    for last in range(1000):
        directory = place(str(tmp_path / str(last)))
        written(directory, make, seeds=1)
        before, left = content(directory), [last]

        def limited(action, left=left):
            def act(self, *args):
                if left[0] == 0:
                    raise KilledError
                left[0] -= 1
                return real[action](self, *args)

            return act

        with monkeypatch.context() as patch:
            patch.setattr(merging, "_delete", lambda at, some: [at.delete(name) for name in some])
            for action in real:
                patch.setattr(Place, action, limited(action))
            try:
                merge(directory)
                break
            except KilledError:
                pass
        assert_equal(content(directory), before)
        merge(directory)
        assert_equal(content(directory), before)
        found = names(directory)
        assert all("/merged-" in name for name in found), last
    assert last > 15


def test_curves_stay_if_only_the_list_of_runs_is_out_of_date(directory, make, monkeypatch):
    written(directory, make, seeds=1)
    before, sizes = content(directory), Place.sizes
    late = directory.child(RUNS).files(".parquet")[0]

    def stale(self, suffix):
        found = sizes(self, suffix)
        return {name: size for name, size in found.items() if name != late or not self.path.endswith(RUNS)}

    with monkeypatch.context() as patch:
        patch.setattr(Place, "sizes", stale)
        assert merge_parts(directory, require=lambda: None) == 0
    assert_equal(content(directory), before)


def test_a_run_that_is_twice_in_one_part_stays(directory, make):
    """No part has one today; what counts must not be left out because it is also what doesn't count."""
    written(directory, make)
    part = directory.child(RUNS).files(".parquet")[0]
    table = pq.read_table(pa.BufferReader(directory.read(f"{RUNS}/{part}")))
    directory.write(f"{RUNS}/{part}", parquet_bytes(pa.concat_tables([table, table])))
    before = read_counts(directory).by_status
    merge(directory)
    assert read_counts(directory).by_status == before


def test_curves_without_runs_are_removed_even_if_nothing_is_merged(directory, make):
    written(directory, make, seeds=1)
    before, left = content(directory), f"{CURVES}/merged-0123456789ab.parquet"
    some = directory.child(CURVES).files(".parquet")
    directory.write(left, directory.read(f"{CURVES}/{some[0]}"))
    assert merge_parts(directory, require=lambda: None) == 0
    assert directory.child(CURVES).files(".parquet") == some
    assert_equal(content(directory), before)


def test_who_has_the_names_of_merged_parts_reads_the_others(directory, make):
    written(directory, make)
    tables, undisturbed = read_tables(directory), read_tables(directory)
    metric, ids = "train_loss", list(tables.runs["trial_id"][:3])

    def rows(frame):
        return frame.sort_values(["trial_id", "step"] if "step" in frame else ["trial_id"]).reset_index(drop=True)

    def asked(of):
        return [
            rows(each) for each in (of.best(metric), of.meeting(metric, 1.2), of.at_start(metric), of.curves_of(ids))
        ]

    wanted = asked(undisturbed)
    merge(directory)
    for found, one in zip(asked(tables), wanted, strict=True):
        pd.testing.assert_frame_equal(found, one)
    for found, one in zip(asked(read_tables(directory)), wanted, strict=True):
        pd.testing.assert_frame_equal(found, one)


def test_a_merge_between_listing_and_reading(directory, make, monkeypatch):
    written(directory, make)
    before = read_runs(directory).runs
    real, merged = Place.open, []

    def open_after_a_merge(self, name):
        if name.startswith(RUNS) and not merged:
            merged.append(True)
            merge(directory)
        return real(self, name)

    monkeypatch.setattr(Place, "open", open_after_a_merge)
    pd.testing.assert_frame_equal(read_runs(directory).runs, before)
    assert merged


def test_the_cache_of_a_dashboard_drops_merged_parts(directory, make):
    written(directory, make)
    kept, evaluations = {}, Evaluations(directory)
    old = read_runs(directory, kept).parts
    evaluations.best(old, "train_loss")
    merge(directory)
    new = read_runs(directory, kept).parts
    assert len(kept) == 1
    evaluations.best(new, "train_loss")
    assert [len(each.parts) for each in evaluations._kept.values()] == [1]


@pytest.mark.parametrize("characters", [10_000, 60_000])
def test_runs_that_all_failed_alike_stay_readable(tmp_path, make, characters):
    """Their tracebacks compress so well together that readers would refuse a merged part, or two of them."""
    directory = place(str(tmp_path))
    spec = make.study(seeds=400, optimizers={"sgd": SGD})
    write_manifest(directory, spec, "")
    trials = expand(spec)
    write_plan(directory, trials)
    text = "Traceback (most recent call last):\n" + "x" * characters
    for first in range(0, len(trials), 50):
        failed = [make.run(each, Status.FAILED, losses=(2.0,), traceback=text) for each in trials[first : first + 50]]
        make.add(directory, *failed, pack_id=f"pack{first}")
    before = read_runs(directory).runs
    merge(directory)
    pd.testing.assert_frame_equal(read_runs(directory).runs, before)
    assert read_counts(directory).by_status["failed"] == len(trials)


def test_a_merged_part_that_can_not_be_read_is_removed(directory, make, monkeypatch):
    written(directory, make)
    before = make.snapshot(directory)
    real = merging.read_run_tables

    def damaged(directory, names, *columns):
        if names[0].startswith("merged-"):
            raise StorageError("the disk returns something else")
        return real(directory, names, *columns)

    monkeypatch.setattr(merging, "read_run_tables", damaged)
    with pytest.raises(StorageError, match="something else"):
        merge(directory)
    assert make.snapshot(directory) == before


def test_readers_that_know_the_old_parts_of_a_study(directory, make, monkeypatch):
    """Whatever reads runs first and curves later: a merge in between."""
    written(directory, make)
    before, study = content(directory), read_runs(directory)
    packs = sample(directory, read_manifest(directory), 10**6, random.Random(0))
    curves = [curves_of(directory, pack) for pack in packs]
    sent = list(finished_runs(directory, study, study.runs, {}))
    sending = finished_runs(directory, study, study.runs, {})
    begun = [next(sending), next(sending)]
    real, merged = reader._read_curves, []

    def after_a_merge(*arguments):
        if not merged:
            merged.append(merge(directory))
        return real(*arguments)

    monkeypatch.setattr(reader, "_read_curves", after_a_merge)
    assert_equal(content(directory), before)
    assert merged
    assert repr([curves_of(directory, pack) for pack in packs]) == repr(curves), "NaN included"
    found = {run.trial_id: run for run in [*begun, *sending]}
    assert repr(found) == repr({name: {run.trial_id: run for run in sent}[name] for name in found})
    assert len(found) == len(sent)
    assert finished_trials(directory) == frozenset(
        before[0].loc[before[0]["status"] != "interrupted", "trial_id"]
    ) | frozenset(trial.id for trial in expand(make.study(seeds=3, optimizers={"gone": SGD}))[:2])


def test_runs_that_are_gone_are_left_out_of_what_was_read_before(directory, make):
    written(directory, make)
    tables = read_tables(directory)
    gone = str(tables.study.parts.iloc[5])
    directory.delete(f"{RUNS}/{gone}")
    directory.delete(f"{CURVES}/{gone}")
    merge(directory)
    left = tables.study.parts[tables.study.parts != gone].index
    wanted = read_tables(directory).best("train_loss")
    assert set(tables.best("train_loss")["trial_id"]) == set(wanted["trial_id"]) <= set(left)


def test_versions_of_a_study_that_are_read_at_once_share_a_cache(directory, make, monkeypatch):
    """The earlier version drops parts that the later one has just read."""
    written(directory, make)
    kept, real, inner = {}, reader.read_run_tables, []

    def read_with_another(directory, names, *columns):
        found = real(directory, names, *columns)
        if not inner:
            inner.append(True)
            make.add(directory, make.run(expand(make.study(optimizers={"other": SGD}))[0]), pack_id="added")
            inner.append(read_runs(directory, kept))
        return found

    monkeypatch.setattr(reader, "read_run_tables", read_with_another)
    first = read_runs(directory, kept).runs
    pd.testing.assert_frame_equal(read_runs(directory, kept).runs, first)
    assert len(kept) == len(directory.child(RUNS).files(".parquet"))


def test_a_damaged_part_is_named_while_other_parts_are_added(directory, make, monkeypatch):
    written(directory, make)
    victim = directory.child(RUNS).files(".parquet")[0]
    directory.write(f"{RUNS}/{victim}", directory.read(f"{RUNS}/{victim}")[:-20])
    listed = []

    def names(directory, manifest):
        listed.append(f"added-{len(listed)}.parquet")
        assert len(listed) < 5
        return (victim, *listed)

    monkeypatch.setattr(effective, "part_names", names)
    with pytest.raises(StorageError, match="damaged Parquet file"):
        from_parts(directory, None, lambda some: results_by_status(directory, some[:1]))


def test_a_damaged_part_stops_a_merge_before_anything_is_removed(directory, make):
    written(directory, make)
    victim = next(name for name in names(directory) if name.startswith(CURVES))
    directory.write(victim, directory.read(victim)[:-20])
    before = make.snapshot(directory)
    with pytest.raises(StorageError, match="damaged Parquet file"):
        merge(directory)
    after = make.snapshot(directory)
    assert before.items() <= after.items()


def test_a_lost_lock_stops_a_merge_before_anything_is_removed(directory, make):
    written(directory, make)
    before = make.snapshot(directory)

    def lost():
        raise StorageError("the lock is another command's")

    with pytest.raises(StorageError, match="another command's"):
        merge_parts(directory, require=lost, fewest=2)
    assert before.items() <= make.snapshot(directory).items()
