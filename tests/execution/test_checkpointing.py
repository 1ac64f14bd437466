"""A pack that is killed and started again ends as the undisturbed one, bit for bit; what does not fit is not used."""

import dataclasses
import functools
import io
import logging
import math
import pickle

import pytest
import torch
from torch.utils._pytree import tree_leaves

from sensitivity.execution import checkpointing, worker
from sensitivity.store.checkpoints import CHECKPOINTS, read_checkpoint, write_checkpoint
from sensitivity.store.directory import place
from sensitivity.store.manifest import write_manifest
from sensitivity.study.load import parse_study
from sensitivity.study.origin import Origin
from sensitivity.study.snapshot import Snapshot
from sensitivity.study.trials import Pack, expand, group
from sensitivity.training import cost
from sensitivity.training.identity import identity
from sensitivity.training.problems import load_problem

SPEC = {
    "name": "t",
    "batch_sizes": [32],
    "seeds": 2,
    "budget": {"steps": 64},
    "evaluation": {"every_steps": 20},
    "schedule": {"decay_at": [0.5]},
    "execution": {"checkpoint_minutes": 1e-9},
    "optimizers": {
        "sgd": {"kind": "sgd", "lr": [0.03, 1e6], "momentum": 0.9},
        "kfac": {"kind": "kfac", "lr": [0.01, 1e6], "damping": 0.1, "inverse_interval": 7},
    },
}


class KilledError(BaseException):
    """As a signal would: nothing of the worker's own handles it."""


@pytest.fixture(scope="module")
def spec():
    return parse_study(SPEC, source="test")


@pytest.fixture(params=["sgd", "kfac"])
def pack(request, spec):
    return next(pack for pack in group(expand(spec), 64) if pack.arm == request.param)


@pytest.fixture
def directory(tmp_path, spec):
    directory = place(str(tmp_path / "study"))
    write_manifest(directory, spec, "")
    return pickle.loads(pickle.dumps(directory))  # as it reaches a worker


@functools.cache
def origin_of(problem):
    """What a worker loads a shipped problem from."""
    return Origin(problem=problem, snapshot=Snapshot(roots=(".",)), identity=identity(load_problem(problem)))


def train(pack, spec, directory, *, kill_after=math.inf, looks=None):
    """Train a pack as a worker does; die after so many looks."""
    real = checkpointing.PackCheckpoint.save_if_due
    looks = [] if looks is None else looks

    def look(self, training):
        real(self, training)
        looks.append(training.done)
        if len(looks) >= kill_after:
            raise KilledError

    checkpointing.PackCheckpoint.save_if_due = look
    try:
        return worker.run_pack(pack, spec.execution, origin_of(spec.problem), directory)
    finally:
        checkpointing.PackCheckpoint.save_if_due = real


def yielded(result):
    """Everything but clock times."""
    return [
        (
            run.trial.id,
            run.status,
            run.steps,
            run.message,
            [(m.step, m.train_loss, m.test_loss) for m in run.measurements],
        )
        for run in result.runs
    ]


@pytest.mark.parametrize("kills", [[1], [3], [2, 2, 1]], ids=["early", "late", "thrice"])
def test_a_killed_pack_goes_on_bit_for_bit(pack, spec, directory, tmp_path, kills):
    undisturbed = train(pack, spec, place(str(tmp_path / "elsewhere")))
    for kill_after in kills:
        with pytest.raises(KilledError):
            train(pack, spec, directory, kill_after=kill_after)
    header, _ = read_checkpoint(directory, pack.id)
    looks = []
    resumed = train(pack, spec, directory, looks=looks)
    assert yielded(resumed) == yielded(undisturbed)
    assert {run.status.value for run in resumed.runs} == {"completed", "diverged"}
    assert min(looks) > header.step > 0, "what was done before the kills was done again"


def test_without_the_study_in_sight_nothing_is_written(pack, spec, tmp_path):
    train(pack, spec, place(str(tmp_path / "elsewhere")))
    assert not (tmp_path / "elsewhere").exists()


def test_a_checkpoint_is_loaded_on_the_host_wherever_the_data_are(pack, spec, directory, caplog):
    """A generator takes its state from the host alone; to the data's device went all of it, and no run resumed."""
    with pytest.raises(KilledError):
        train(pack, spec, directory, kill_after=1)
    problem = load_problem(spec.problem)
    elsewhere = dataclasses.replace(
        problem,
        dataset=dataclasses.replace(problem.dataset, train_inputs=problem.dataset.train_inputs.to("meta")),
        _variants={},
    )
    cost._counted[elsewhere] = cost.example_cost(problem)  # which would train on them
    state = checkpointing.PackCheckpoint(directory, pack, every_s=1.0).load(elsewhere, micro_batch=None)
    assert caplog.text == ""
    assert state["done"] == 16
    assert {x.device.type for x in tree_leaves(state) if isinstance(x, torch.Tensor)} == {"cpu"}
    assert {x.dtype for x in state["model"]["generators"]} == {torch.uint8}


class Weapon:
    """What a pickle can do to its reader."""

    def __reduce__(self):
        return (pytest.fail, ("a checkpoint has run code",))


def torch_bytes(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda header, payload: (header, payload[: len(payload) // 2]), "can't be restored"),
        (lambda header, payload: (header, b"no checkpoint"), "can't be restored"),
        (lambda header, payload: (header, pickle.dumps(Weapon())), "can't be restored"),
        (lambda header, payload: (header, torch_bytes({"done": Weapon()})), "can't be restored"),
        (lambda header, payload: (header, torch_bytes({"done": 3})), "can't be restored"),
        (
            lambda header, payload: (dataclasses.replace(header, code_version="0"), payload),
            "belongs to other code or another pack",
        ),
        (
            lambda header, payload: (dataclasses.replace(header, torch="1.0"), payload),
            "belongs to other code or another pack",
        ),
        (
            lambda header, payload: (dataclasses.replace(header, trials=("x",)), payload),
            "belongs to other code or another pack",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_not_used(spec, directory, caplog, spoil, said):
    pack = Pack(expand(spec)[:1])
    with pytest.raises(KilledError):
        train(pack, spec, directory, kill_after=2)
    write_checkpoint(directory, pack.id, *spoil(*read_checkpoint(directory, pack.id)))
    looks = []
    with caplog.at_level(logging.WARNING):
        result = train(pack, spec, directory, looks=looks)
    assert said in caplog.text
    assert looks[0] == 16, "from the start"
    assert result.runs[0].status.value == "completed"


def test_a_pack_that_is_halved_leaves_no_checkpoint_of_the_whole(spec, directory, monkeypatch):
    pack = next(pack for pack in group(expand(spec), 64) if pack.arm == "sgd")
    train_pack = worker.train_pack

    def dies_when_whole(some, problem, **options):
        if len(some.trials) == len(pack.trials):

            def look(training):
                options["on_check"](training)
                raise RuntimeError("too large")

            return train_pack(some, problem, **{**options, "on_check": look})
        return train_pack(some, problem, **options)

    monkeypatch.setattr(worker, "train_pack", dies_when_whole)
    train(pack, spec, directory)
    files = directory.child(CHECKPOINTS).files("")
    assert set(files) == {f"{half.id}.checkpoint" for half in pack.halves()}
