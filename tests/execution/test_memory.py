"""A pack that does not fit in memory is halved until it does."""

import pytest
import torch
from torch import nn

from sensitivity.execution import worker
from sensitivity.store.directory import place
from sensitivity.study.execution import ExecutionSpec
from sensitivity.study.load import parse_study
from sensitivity.study.origin import Origin
from sensitivity.study.results import Status
from sensitivity.study.snapshot import Snapshot
from sensitivity.study.trials import Pack, expand
from sensitivity.training.identity import identity
from sensitivity.training.problems import load_problem

SPEC = {
    "name": "t",
    "batch_sizes": [32],
    "seeds": 1,
    "budget": {"steps": 3},
    "optimizers": {"a": {"kind": "sgd", "lr": {"log": [1e-3, 1e-1], "points": 8}}},
}


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError(),
    ],
    ids=["accelerator", "host", "python"],
)
@pytest.mark.parametrize("fits", [3, 1, 0])
def test_a_pack_is_halved_until_it_fits(monkeypatch, caplog, tmp_path, error, fits):
    train_pack, sizes = worker.train_pack, []

    def small_memory(pack, *others, **options):
        sizes.append(len(pack.trials))
        if len(pack.trials) > fits:
            raise error
        return train_pack(pack, *others, **options)

    monkeypatch.setattr(worker, "train_pack", small_memory)
    spec = parse_study(SPEC, source="test")
    trials, snapshot = expand(spec), Snapshot(roots=(".",))
    origin = Origin(problem=spec.problem, snapshot=snapshot, identity=identity(load_problem(spec.problem)))
    with caplog.at_level("WARNING"):
        result = worker.run_pack(Pack(trials), ExecutionSpec(), origin, place(str(tmp_path)))
    assert [run.trial.id for run in result.runs] == [trial.id for trial in trials]
    if fits:
        assert {run.status for run in result.runs} == {Status.COMPLETED}
        assert sizes[:2] == [8, 4]
        assert max(size for size in sizes if size <= fits) == {3: 2, 1: 1}[fits]
        assert "does not fit in memory" in caplog.text
    else:
        assert {run.status for run in result.runs} == {Status.FAILED}
        assert all("execution.micro_batch" in run.message for run in result.runs)


def test_a_real_allocation_that_can_not_be_had_counts_as_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        nn.Linear(2**40, 2**20)
    assert worker.out_of_memory(caught.value)
    assert not worker.out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
