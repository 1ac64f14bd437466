"""Replaying a recorded step is equivalent to the step.

A recording here emulates a CUDA graph: it repeats the operations of a step on the same tensors without the surrounding
Python code, and fails if Python reads values in between. K-FAC runs as on an accelerator, where it reads none.
"""

import contextlib
import dataclasses
import logging

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sensitivity.kfac import engine, statistics
from sensitivity.optimizers import fused
from sensitivity.study.trials import Pack, expand
from sensitivity.training import batches as batches_module
from sensitivity.training import calibration, packed_model
from sensitivity.training.batches import PackBatches
from sensitivity.training.loop import train_pack
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import load_problem
from sensitivity.training.recorded_steps import CudaGraphs, Steps
from sensitivity.training.step import make_optimizer, take_step

ARMS = {
    "sgd": {"kind": "sgd", "lr": [0.1, 0.2, 0.05], "momentum": 0.9, "weight_decay": 1e-3, "nesterov": True},
    "kfac": {"kind": "kfac", "lr": [0.1, 0.2, 0.05], "damping": 0.1, "kl_clip": 1e-3, "factor_interval": 2},
    "thin": {"kind": "kfac", "lr": [0.1, 0.2, 0.05], "damping": 0.1, "inverse_interval": 4},
    "adamw": {"kind": "adamw", "lr": [0.01, 0.02, 0.005]},
    "nadam": {"kind": "nadam", "lr": [0.01, 0.02, 0.005]},
    "schedule_free_adamw": {"kind": "schedule_free_adamw", "lr": [0.01, 0.02, 0.005]},
    "muon": {"kind": "muon", "lr": [0.01, 0.02, 0.005]},
    "shampoo": {"kind": "shampoo", "lr": [0.01, 0.02, 0.005], "precondition_interval": 6},
    "soap": {"kind": "soap", "lr": [0.01, 0.02, 0.005], "precondition_interval": 6},
}
MODELS = {
    "a sequence": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10)),
    "under vmap": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.BatchNorm1d(40), nn.Linear(40, 10)),
}


class Tape(TorchDispatchMode):
    """Records operations and repeats them on the same tensors."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a number was asked for")
        outputs = func(*args, **(kwargs or {}))
        returned = [r.alias_info for r in func._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in returned):  # views are kept
            self.operations.append((func, args, kwargs or {}, outputs))
        return outputs

    def replay(self):
        for func, args, kwargs, outputs in self.operations:
            again = func(*args, **kwargs)
            if not func._schema.is_mutable:
                for held, new in zip(tree_leaves(outputs), tree_leaves(again), strict=True):
                    if isinstance(held, torch.Tensor):
                        held.copy_(new)


class Tapes:
    """Recordings on the host, with the number of replays."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def warm(self, work):
        return work()

    def record(self, work):
        with Tape() as tape:
            work()
        self.recorded += 1

        def replay():
            self.replayed += 1
            with torch.no_grad():
                tape.replay()

        return replay


@pytest.fixture
def accelerator(monkeypatch):
    """Make K-FAC and models use their code paths for accelerators."""
    monkeypatch.setattr(packed_model, "loop_reason", lambda network: None)
    monkeypatch.setattr(fused, "by_member", lambda lr: False)
    monkeypatch.setattr(statistics, "finite", torch.isfinite)
    monkeypatch.setattr(engine, "finite", torch.isfinite)
    monkeypatch.setattr(engine, "_mask", lambda good: good)

    def averaged(state, captures, config, *, mask, loss_scale):
        new = statistics.statistics_of(state.layout, captures, config, loss_scale=loss_scale)
        return statistics.average(state, new, config.factor_decay, mask)

    monkeypatch.setattr(engine, "average_captures", averaged)


def parts(spec, build, size=16, micro_batch=None, **options):
    trials = expand(spec)
    problem = load_problem(spec.problem)
    object.__setattr__(problem, "build_model", build)
    for name, value in options.items():
        object.__setattr__(problem, name, value)
    seeds = [trial.seed for trial in trials]
    model = PackedModel(problem.build_model, seeds, shipped=problem.shipped)
    batches = PackBatches(seeds, problem, batch_size=size, micro_batch=micro_batch, augment=False)
    return model, problem, make_optimizer(Pack(trials), model, problem), batches


def everything(model, optimizer):
    return [x for x in tree_leaves((model.state(), optimizer.state())) if isinstance(x, torch.Tensor)]


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("model", MODELS)
def test_replayed_steps_are_the_steps_themselves(make_study, accelerator, model, arm):
    spec = make_study(optimizers={"a": ARMS[arm]}, batch_sizes=[16])
    scales = [min(1.0, 0.1 * (step + 1)) for step in range(24)]  # a warm-up
    plain, recorded, tapes = parts(spec, MODELS[model]), parts(spec, MODELS[model], shipped=True), Tapes()
    steps = Steps(*recorded, tapes)
    for step, scale in enumerate(scales):
        if step == 16:  # failures during replays do not affect other members
            for each, *_ in (plain, recorded):
                next(iter(each.params.values())).detach()[2].fill_(torch.nan)
        expected = take_step(*plain, step=step, lr_scale=scale)
        found = steps.take(step=step, lr_scale=scale)
        for one, other in zip(expected, found, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(other, one, rtol=0, atol=0, equal_nan=True)
    for one, other in zip(everything(*plain[::2]), everything(*recorded[::2]), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0, equal_nan=True)
    clips = plain[2].clipping(), recorded[2].clipping()
    for one, other in zip(*(clip or () for clip in clips), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0, equal_nan=True)
    kinds = {"kfac": 2}.get(arm, 1)
    assert (tapes.recorded, tapes.replayed >= 10) == (kinds, True)
    losses, failed = found
    assert torch.isfinite(losses).tolist() == [True, True, False]
    assert failed is None or failed.tolist() == [False, False, True]


def test_gathering_augmenting_and_standardising_are_part_of_the_recording(make_study, accelerator, monkeypatch):
    """Between replays only indices, codes and the learning rate are copied to the recording's buffers."""
    lrs, images = [0.1, 0.2, 0.05], torch.randint(0, 256, (60, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    spec = make_study(optimizers={"a": {"kind": "sgd", "lr": lrs}}, batch_sizes=[16], seeds=2)
    found, between = [], []

    class Between(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            between.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    class Timed(Tapes):
        def record(self, work):
            replay = super().record(work)

            def alone():
                with torch.utils._python_dispatch._disable_current_modes():
                    replay()

            return alone

    for tapes in (None, Timed()):
        trials, problem = expand(spec), load_problem(spec.problem)
        data = dataclasses.replace(
            problem.dataset,
            train_inputs=images.to(torch.uint8),
            train_targets=problem.dataset.train_targets[:60],
            mean=torch.full((1, 1, 1), 127.0),
            deviation=torch.full((1, 1, 1), 74.0),
        )
        problem = dataclasses.replace(problem, dataset=data, build_model=MODELS["a sequence"], _variants={})
        seeds = [trial.seed for trial in trials]
        monkeypatch.setitem(batches_module._AHEAD, "cpu", 1 if tapes is None else 8)
        batches = PackBatches(seeds, problem, batch_size=16, micro_batch=None, augment=True)
        model = PackedModel(problem.build_model, seeds, shipped=True)
        optimizer = make_optimizer(Pack(trials), model, problem)
        steps = Steps(model, problem, optimizer, batches, tapes)
        for step in range(5):
            steps.take(step=step, lr_scale=1.0)
        with Between():
            between.clear()
            for step in range(5, 8):  # of the eight steps drawn at once
                steps.take(step=step, lr_scale=1.0)
        found.append([p.detach().clone() for p in model.params.values()])
    assert between == 3 * ["copy_", "copy_", "fill_"]
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("arm", ["sgd", "kfac"])
def test_a_pack_of_one_is_called_as_it_is_and_recorded(make_study, accelerator, monkeypatch, arm):
    spec = make_study(optimizers={"a": {**ARMS[arm], "lr": 0.1}}, batch_sizes=[16])
    build, tapes = MODELS["under vmap"], Tapes()
    plain, recorded = parts(spec, build), parts(spec, build, shipped=True)
    steps = Steps(*recorded, tapes)
    expected = [take_step(*plain, step=step, lr_scale=1.0)[0] for step in range(16)]
    monkeypatch.setattr(packed_model, "set_random_state", lambda *_: pytest.fail("it draws no random numbers"))
    for step in range(16):
        torch.testing.assert_close(steps.take(step=step, lr_scale=1.0)[0], expected[step], rtol=0, atol=0)
    for one, other in zip(everything(*plain[::2]), everything(*recorded[::2]), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0)
    assert tapes.recorded == {"kfac": 2}.get(arm, 1)


def test_a_pack_is_measured_after_its_steps_are_recorded(make_study, accelerator, monkeypatch):
    """Recording takes much longer than a step: 5.1 ms instead of 0.3 ms were measured per step of SGD."""
    spec, tapes = make_study(optimizers={"a": ARMS["kfac"]}, batch_sizes=[16]), Tapes()
    problem = load_problem(spec.problem)
    object.__setattr__(problem, "build_model", MODELS["a sequence"])
    monkeypatch.setattr(calibration, "Steps", lambda *parts: Steps(*parts, tapes))
    bench = calibration._Bench(expand(spec), problem, None)
    bench.warm()
    assert tapes.recorded == 2
    calibration._step_seconds(bench)
    assert tapes.recorded == 2
    assert tapes.replayed > bench.optimizer.period


def test_steps_continue_normally_if_recording_fails(make_study, accelerator, caplog):
    class Fails(Tapes):
        def record(self, work):
            optimizer.begin(3)  # host-side state left by an incomplete step
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    spec = make_study(optimizers={"a": ARMS["kfac"]}, batch_sizes=[16])
    build = MODELS["under vmap"]
    plain, (model, problem, optimizer, batches) = parts(spec, build), parts(spec, build, shipped=True)
    steps = Steps(model, problem, optimizer, batches, Fails())
    with caplog.at_level(logging.WARNING):
        for step in range(12):
            take_step(*plain, step=step, lr_scale=1.0)
            steps.take(step=step, lr_scale=1.0)
    for one, other in zip(everything(*plain[::2]), everything(model, optimizer), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0, equal_nan=True)
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "steps can't be recorded (operation not permitted when stream is capturing): kernels are launched one "
        "by one, which is slower"
    ]


class Streams:
    """Fake CUDA streams and graphs; as with CUDA, a disturbed recording can't be ended."""

    def __init__(self, monkeypatch):
        self.current, self.log = "the default stream", []
        nothing = lambda *_: None  # noqa: E731
        for name in ("synchronize", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, nothing)
        monkeypatch.setattr(torch._C, "_host_emptyCache", nothing, raising=False)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: "a stream of its own")
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: self.current)
        monkeypatch.setattr(torch.cuda, "set_stream", self.set)
        monkeypatch.setattr(torch.cuda, "stream", self.on)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(CudaGraphs, "failed", False)

    def set(self, stream):
        self.current = stream

    @contextlib.contextmanager
    def on(self, stream):
        before, self.current = self.current, stream
        yield  # as in torch, without `finally`
        self.current = before

    def capture_begin(self, pool=None, **_):
        self.log.append(f"begin on {self.current} in {pool}")

    def capture_end(self):
        if "disturbed" in self.log:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        self.log.append("end")

    def replay(self):
        self.log.append("replay")


def test_graphs_are_recorded_on_a_stream_of_their_own_and_share_memory(monkeypatch):
    streams = Streams(monkeypatch)
    graphs = CudaGraphs(torch.device("cuda"))
    for _ in range(2):
        graphs.record(lambda: streams.log.append(f"work on {streams.current}"))()
    once = ["begin on a stream of its own in (0, 1)", "work on a stream of its own", "end", "replay", "replay"]
    assert streams.log == 2 * once
    assert (streams.current, CudaGraphs.failed) == ("the default stream", False)


def test_a_failed_recording_is_the_last_one_and_restores_the_stream(make_study, monkeypatch):
    streams = Streams(monkeypatch)

    def work():
        streams.log.append("disturbed")
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="during capture"):
        CudaGraphs(torch.device("cuda")).record(work)
    assert (streams.current, CudaGraphs.failed) == ("the default stream", True)
    model, problem, optimizer, batches = parts(make_study(optimizers={"a": ARMS["sgd"]}), MODELS["a sequence"])
    monkeypatch.setattr(PackedModel, "device", torch.device("cuda"))
    with FakeTensorMode():
        assert Steps(model, problem, optimizer, batches)._graphs is None
        CudaGraphs.failed = False
        assert Steps(model, problem, optimizer, batches)._graphs is not None


@pytest.mark.parametrize("case", ["dropout", "a user's model", "a user's model alone", "micro-batches"])
def test_steps_with_varying_work_are_not_recorded(make_study, accelerator, case):
    users = case.startswith("a user's model")
    build = MODELS["under vmap"] if users else MODELS["a sequence"]
    if case == "dropout":
        build = lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))  # noqa: E731
    lr = 0.1 if case.endswith("alone") else ARMS["sgd"]["lr"]
    spec, tapes = make_study(optimizers={"a": {**ARMS["sgd"], "lr": lr}}, batch_sizes=[16]), Tapes()
    split = 8 if case == "micro-batches" else None
    steps = Steps(*parts(spec, build, micro_batch=split, shipped=not users), tapes)
    for step in range(6):
        steps.take(step=step, lr_scale=1.0)
    assert tapes.recorded == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("arm", ["sgd", "kfac"])
def test_on_a_device_recorded_steps_train_as_the_host_does(make_study, arm, caplog):
    settings = {**ARMS[arm], "lr": [0.01, 0.02, 0.03]}
    spec = make_study(optimizers={"a": settings}, batch_sizes=[16], budget={"steps": 40})
    ends = []
    for device in ("cpu", "cuda"):
        problem = load_problem(spec.problem, device=torch.device(device), dtype=torch.float64)
        ends.append([r.measurements[-1].train_loss for r in train_pack(Pack(expand(spec)), problem)])
    assert ends[1] == pytest.approx(ends[0], rel=1e-6)
    assert "can't be recorded" not in caplog.text
