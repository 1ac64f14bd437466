"""Recorded runs trained again: equal to the last bit, or what differs is said; with what can be promised elsewhere."""

import json
import math
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sensitivity.cli.main import main
from sensitivity.execution.prepare import prepare
from sensitivity.execution.verification import (
    budget_seconds,
    choose,
    curves_of,
    recorded_packs,
    sample,
    train_again,
    trained_parts,
)
from sensitivity.execution.worker import run_pack
from sensitivity.store.directory import place
from sensitivity.store.manifest import read_manifest, write_manifest
from sensitivity.store.writer import append, write_plan
from sensitivity.study.provenance import code_version
from sensitivity.study.trials import Pack, group

STUDY = """
name = "again"
batch_sizes = [32]
seeds = 2
[budget]
steps = 12
[evaluation]
every_steps = 4
[optimizers.sgd]
kind = "sgd"
lr = [0.01, 0.1, 1e6]
[optimizers.kfac]
kind = "kfac"
lr = 0.01
damping = [0.1, 1.0]
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A study of packs of four members and fewer, trained in this process as workers do; its plan and its directory."""
    folder = tmp_path_factory.mktemp("again")
    (folder / "again.toml").write_text(STUDY)
    plan, directory, threads = (
        prepare(str(folder / "again.toml")),
        place(str(folder / "studies")),
        torch.get_num_threads(),
    )
    manifest = write_manifest(directory, plan.spec, plan.source, plan.origin)
    write_plan(directory, plan.trials)
    for pack in group(plan.trials, 4):
        result = run_pack(pack, plan.spec.execution, plan.origin, directory)
        append(directory, result, spec_hash=manifest.spec_hash, code_version=code_version())
    torch.set_num_threads(threads)
    return plan, directory


def all_packs(directory):
    manifest = read_manifest(directory)
    return sample(directory, manifest, 10**6, random.Random(0))


@pytest.fixture
def packs(recorded):
    return all_packs(recorded[1])


def test_packs_are_put_together_as_they_were(recorded, packs):
    plan, _ = recorded
    assert {each.pack.id for each in packs} == {pack.id for pack in group(plan.trials, 4)}
    assert sum(len(each.pack.trials) for each in packs) == len(plan.trials)
    assert {status for each in packs for status in each.statuses.values()} == {"completed", "diverged"}
    assert all(each.unlike() == "" for each in packs)


def test_every_pack_is_equal_to_the_last_bit(recorded, packs):
    plan, directory = recorded
    for each in packs:
        found = train_again(plan.problem, each, curves_of(directory, each))
        assert (found.faults, found.steps, found.of_steps, found.largest) == ((), 12, 12, 0.0)
        assert found.sentence().endswith("12 of 12 steps: equal to the last bit")
        json.dumps(found.content(), allow_nan=False)


def test_a_short_time_compares_a_part(recorded, packs):
    plan, directory = recorded
    slow = replace(packs[0], seconds=120.0)  # 10 s a step
    found = train_again(plan.problem, slow, curves_of(directory, slow), seconds=1.0)
    assert (found.steps, found.faults) == (0, ())


def test_one_changed_value_is_named(recorded, packs):
    plan, directory = recorded
    pack = next(each for each in packs if "diverged" not in each.statuses.values())
    id_ = pack.pack.trials[1].id
    curves = curves_of(directory, pack)
    curves[id_] = {step: (v[0], v[1] + (1e-3 if step == 8 else 0.0), *v[2:]) for step, v in curves[id_].items()}
    (fault,) = train_again(plan.problem, pack, curves).faults
    assert fault.startswith(f"{pack.pack.trials[1].label()}: train_accuracy at step 8 was ")
    other = replace(pack, statuses={**pack.statuses, id_: "diverged"})
    (fault,) = train_again(plan.problem, other, curves_of(directory, pack)).faults
    assert fault.endswith("was diverged, and is completed")
    missing = {**curves_of(directory, pack), id_: {0: curves[id_][0]}}
    assert train_again(plan.problem, pack, missing).faults[0].endswith("evaluated at step 4 only now")


@pytest.mark.parametrize(
    ("unlike", "said"),
    [
        ({"host": "another"}, "on another machine than another"),
        ({"device": "NVIDIA"}, "on an accelerator, which sums in no fixed order"),
        ({"versions": ("1", "2", "3")}, "with other code or packages"),
        ({"is_part": True}, "alone"),
    ],
)
def test_where_bits_may_differ_the_untrained_network_is_judged(recorded, packs, unlike, said):
    plan, directory = recorded
    pack = next(each for each in packs if "diverged" not in each.statuses.values())
    curves = curves_of(directory, pack)

    def scaled(by, steps):
        return {id_: {s: (v[0] * (by if s in steps else 1), *v[1:]) for s, v in c.items()} for id_, c in curves.items()}

    other = replace(pack, **unlike)
    found = train_again(plan.problem, other, scaled(1.01, {4, 8, 12}))
    assert found.faults == ()
    assert found.largest == pytest.approx(0.01, rel=0.02)
    assert f", {said}: untrained networks equal within 0.0001" in found.sentence()
    assert found.sentence().endswith("losses differ by up to 0.0099 in training")
    assert len(train_again(plan.problem, other, scaled(1 + 2e-4, {0})).faults) == len(pack.pack.trials)
    assert train_again(plan.problem, other, scaled(1 + 0.9e-4, {0})).faults == ()


def test_a_run_whose_pack_is_not_known_is_trained_alone(recorded, monkeypatch):
    _, directory = recorded
    monkeypatch.setattr(Pack, "id", "of halves, say")
    packs = all_packs(directory)
    assert {len(each.pack.trials) for each in packs} == {1}
    assert {each.unlike() for each in packs} == {"alone"}


def test_packs_of_some_parts_are_those_of_all_parts(recorded, packs):
    directory = recorded[1]
    parts = trained_parts(directory)
    assert {part: set(ids) for part, ids in parts.items()} == {each.part: set(each.statuses) for each in packs}
    some = dict(list(parts.items())[:2])
    assert trained_parts(directory, list(some)) == some
    manifest = read_manifest(directory)
    found = recorded_packs(directory, manifest, some, {trial.id: trial for trial in recorded[0].trials})
    assert {each.part: each for each in found} == {each.part: each for each in packs if each.part in some}


def test_a_sample_draws_runs_and_names_each_pack_once(recorded, packs):
    directory, manifest = recorded[1], read_manifest(recorded[1])
    assert len(packs) == len({each.pack.id for each in packs}) > 2
    drawn = [each.pack.id for k in range(60) for each in sample(directory, manifest, 1, random.Random(k))]
    assert len(drawn) == 60
    assert set(drawn) == {each.pack.id for each in packs}


def test_what_is_trained_again_at_the_end_of_a_run_fits_its_share_of_the_time(packs):
    assert budget_seconds(1.0) == 0.25
    assert budget_seconds(3600.0) == 18.0
    long, short = replace(packs[0], seconds=1e3, eval_seconds=1.0), replace(packs[1], seconds=1.0, eval_seconds=0.1)
    untestable = replace(packs[2], seconds=1.0, eval_seconds=1e3)
    draws = [random.Random(k) for k in range(20)]
    assert all(choose([long, short, untestable], 1.0, draw) is short for draw in draws)
    assert choose([long, untestable], 1.0, draws[0]) is long
    assert choose([untestable], 1.0, draws[0]) is None
    assert choose([], 1.0, draws[0]) is None


def verify(monkeypatch, capsys, directory, *options):
    monkeypatch.setattr(sys, "argv", ["sensitivity", "verify", directory.uri, *options])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code, capsys.readouterr()


def test_verify_says_what_it_compared_and_exits_with_2_where_it_differs(recorded, monkeypatch, capsys):
    _, directory = recorded
    code, said = verify(monkeypatch, capsys, directory, "--runs", "100")
    assert code == 0
    assert said.out.count("trained again for 12 of 12 steps: equal to the last bit\n") == len(said.out.splitlines())
    code, said = verify(monkeypatch, capsys, directory, "--json")
    assert code == 0
    assert all(each["faults"] == [] for each in json.loads(said.out))

    parts = sorted(Path(directory.path).glob("curves/*.parquet"))
    before = [part.read_bytes() for part in parts]
    for part in parts:
        table = pq.read_table(part)
        column = table.column_names.index("test_loss")
        swapped = table.set_column(column, table.schema.field("test_loss"), table["train_loss"])
        pq.write_table(swapped, part)
    try:
        code, said = verify(monkeypatch, capsys, directory)
    finally:
        for part, content in zip(parts, before, strict=True):
            part.write_bytes(content)
    assert code == 2
    assert "test_loss at step 0 was " in said.out


def test_verify_without_what_it_needs_says_so(recorded, monkeypatch, capsys, tmp_path):
    plan, directory = recorded
    empty = place(str(tmp_path / "empty"))
    write_manifest(empty, plan.spec, plan.source)
    code, said = verify(monkeypatch, capsys, empty)
    assert (code, "no run has been trained" in said.err) == (2, True)
    packs = all_packs(directory)
    monkeypatch.setattr("sensitivity.cli.verifying.sample", lambda *_: packs)
    code, said = verify(monkeypatch, capsys, empty)
    assert (code, "by a version that didn't store what a run was trained on" in said.err) == (2, True)


def test_a_split_that_an_evaluation_left_out_is_no_number(recorded, packs, tmp_path):
    shutil.copytree(recorded[1].path, tmp_path / "again")
    pack = packs[0]
    (part,) = (
        path for path in (tmp_path / "again").rglob("*.parquet") if path.name == pack.part and "curves" in str(path)
    )
    table = pq.read_table(part)
    at = table.schema.get_field_index("test_loss")
    pq.write_table(
        table.set_column(at, table.schema.field(at), pa.nulls(len(table), table.schema.field(at).type)), part
    )
    curves = curves_of(place(str(tmp_path / "again")), pack)
    where = pack.metrics.index("test_loss")
    values = [value for curve in curves.values() for value in curve.values()]
    assert values
    assert all(math.isnan(value[where]) and not math.isnan(value[where - 1]) for value in values)
