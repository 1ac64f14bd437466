"""A pack that does not fit in memory is halved until it does."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sensitivity.execution import worker, worker_process
from sensitivity.execution.worker_stderr import crash_line
from sensitivity.store.directory import place
from sensitivity.study.execution import ExecutionSpec
from sensitivity.study.load import parse_study
from sensitivity.study.origin import Origin
from sensitivity.study.results import Status
from sensitivity.study.snapshot import Snapshot
from sensitivity.study.trials import Pack, expand
from sensitivity.training import device_errors
from sensitivity.training.identity import identity
from sensitivity.training.problems import load_problem

SPEC = {
    "name": "t",
    "batch_sizes": [32],
    "seeds": 1,
    "budget": {"steps": 3},
    "optimizers": {"a": {"kind": "sgd", "lr": {"log": [1e-3, 1e-1], "points": 8}}},
}


ACCELERATOR = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


@pytest.mark.parametrize(
    ("error", "fits"),
    [
        (ACCELERATOR, 3),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried to"
            ),
            3,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), 3),
        (MemoryError(), 3),
        (ACCELERATOR, 1),
        (ACCELERATOR, 0),
    ],
    ids=["accelerator", "host", "library", "python", "one at a time", "not even one"],
)
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


@pytest.mark.parametrize(
    ("message", "of_memory", "of_device"),
    [
        ("CUDA error: out of memory", True, True),
        ("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`", True, True),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", True, True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", True, True),
        ("CUDA error: device-side assert triggered", False, True),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`", False, True),
        (
            "Cannot copy between CPU and CUDA tensors during CUDA graph capture",
            False,
            True,
        ),
        ("mat1 and mat2 shapes cannot be multiplied", False, False),
        ("vmap: It looks like you're calling .item() on a Tensor.", False, False),
    ],
)
def test_an_error_is_told_by_its_message(message, of_memory, of_device):
    error = RuntimeError(message)
    assert (device_errors.out_of_memory(error), device_errors.of_device(error)) == (of_memory, of_device)


def test_a_lost_device_ends_the_worker_and_no_trial_is_given_up_for_it(monkeypatch, capfd):
    """After an assertion in a kernel every call fails: halves, and packs that come later, would be blamed for it."""
    lost, tried = RuntimeError("CUDA error: device-side assert triggered\nmore"), []

    def train(pack, checkpoint):
        tried.append(pack)
        raise lost

    def synchronize(device):
        raise lost

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    pack = Pack(expand(parse_study(SPEC, source="test")))
    with pytest.raises(device_errors.DeviceLostError, match="no longer responds in this process: CUDA error"):
        worker._train(torch.device("cuda"), pack, train, lambda pack: None)
    assert tried == [pack]

    def run_pack(*_, **__):
        raise device_errors.DeviceLostError("cuda no longer responds in this process")

    reports, ended = [], []
    monkeypatch.setattr(worker_process, "run_pack", run_pack)
    monkeypatch.setattr(worker_process.os, "_exit", ended.append)
    worker_process._train(pack, SimpleNamespace(execution=None, origin=None, directory=None), reports.append)
    assert (ended, reports) == ([1], [])
    assert crash_line(capfd.readouterr().err).endswith("DeviceLostError: cuda no longer responds in this process")
