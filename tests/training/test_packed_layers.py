"""Members equal single runs for all kinds of layers, computed together or one by one."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sensitivity.study.results import Status
from sensitivity.study.trials import Pack, expand
from sensitivity.training import packed_layers, packed_model
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.loop import train_pack
from sensitivity.training.losses import cross_entropy
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem, load_problem

ARMS = {
    "sgd": {"kind": "sgd", "lr": [0.02, 0.1], "momentum": [0.5, 0.9]},
    "kfac": {"kind": "kfac", "lr": [0.01, 0.05], "damping": [0.1, 0.5], "inverse_interval": 2},
}


class Reassigning(nn.Module):
    """Replaces its buffer by a new tensor at each step instead of changing it in place."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(72, 3)
        self.register_buffer("mean", torch.zeros(72))

    def forward(self, x):
        x = x.flatten(1)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return self.layer(x - self.mean)


def convolutional(*parts: nn.Module) -> nn.Module:
    grouped = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2, bias=False)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), *parts, nn.Tanh(), grouped, nn.Flatten(), nn.Linear(36, 3))


MODELS = {
    "convolutions": lambda: convolutional(),
    "batch norm": lambda: convolutional(nn.BatchNorm2d(4)),
    "running average without momentum": lambda: convolutional(nn.BatchNorm2d(4, momentum=None)),
    "layer norm": lambda: convolutional(nn.GroupNorm(2, 4)),
    "dropout of channels": lambda: convolutional(nn.Dropout2d(0.3)),
    "dropout": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(72, 8), nn.ReLU(inplace=True), nn.Dropout(0.4), nn.Linear(8, 3)
    ),
    "dropout that vmap can't follow": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(72, 8), nn.SELU(), nn.AlphaDropout(0.2), nn.Linear(8, 3)
    ),
    "buffers put anew": Reassigning,
}


def problem(model: str) -> Problem:
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(60, 2, 6, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (60,), generator=generator)
    data = Dataset(train_inputs=x[:40], train_targets=y[:40], test_inputs=x[40:], test_targets=y[40:])
    return Problem(
        dataset=data,
        build_model=lambda: MODELS[model]().double(),
        loss=cross_entropy,
        has_classes=True,
        outputs=3,
    )


def curve(result):
    return [(m.train_loss, m.test_loss) for m in result.measurements]


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("together", [True, False], ids=["together", "as chosen here"])
@pytest.mark.parametrize("model", MODELS)
def test_members_equal_the_same_trials_alone(make_study, monkeypatch, model, together, arm):
    if together:  # as on an accelerator, where convolutions are computed together; and with vmap in all cases
        monkeypatch.setattr(packed_model, "loop_reason", lambda network: None)
        monkeypatch.setattr(packed_model, "sequence_of", lambda network, tape: None)
    spec = make_study(
        batch_sizes=[10], seeds=2, budget={"steps": 9}, evaluation={"every_steps": 3}, optimizers={"a": ARMS[arm]}
    )
    trials = expand(spec)
    packed = train_pack(Pack(trials), problem(model))
    for trial, member in list(zip(trials, packed, strict=True))[::3]:
        (alone,) = train_pack(Pack((trial,)), problem(model))
        assert member.status is alone.status is Status.COMPLETED
        for ours, theirs in zip(curve(member), curve(alone), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("model", ["batch norm", "dropout of channels", "dropout", "buffers put anew"])
def test_buffers_and_dropout_are_computed_together(monkeypatch, model, caplog):
    monkeypatch.setattr(packed_model, "loop_reason", lambda network: None)
    with caplog.at_level("DEBUG", "sensitivity"):
        pack = PackedModel(lambda: MODELS[model]().double(), [0, 1, 2])
        pack.train_outputs(torch.ones(3, 5, 2, 6, 6, dtype=torch.float64), record=False)
    assert "one by one" not in caplog.text


def test_members_that_fill_the_device_are_convolved_one_by_one(monkeypatch):
    """Below and above the threshold results are equal; only the groups of convolutions differ."""
    monkeypatch.setattr(packed_model, "loop_reason", lambda network: None)
    inputs = torch.randn(3, 5, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found, groups = [], []

    class Convolutions(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.convolution.default:
                groups[-1].append(args[8])
            return func(*args, **(kwargs or {}))

    for size in (5 * 6 * 6, 5 * 6 * 6 + 1):  # outputs per channel of a member in the first convolution
        monkeypatch.setattr(packed_layers, "_FILLS", size)
        pack = PackedModel(lambda: MODELS["batch norm"]().double(), [0, 1, 2])
        groups.append([])
        with Convolutions():
            outputs, _ = pack.train_outputs(inputs, record=False)
        found.append([outputs, *torch.autograd.grad(outputs.square().sum(), list(pack.params.values()))])
    assert groups == [[1, 1, 1, 6], [3, 6]]  # the second one has a stride, and a quarter of the outputs
    for alone, together in zip(*found, strict=True):
        torch.testing.assert_close(alone, together)


def test_a_failed_attempt_with_vmap_has_no_side_effects(monkeypatch, caplog):
    """BatchNorm statistics before an operation that vmap does not support are updated only once."""
    monkeypatch.setattr(packed_model, "_warned", set())

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.drop, self.layer = nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)

        def forward(self, x):
            h = self.drop(self.norm(x))
            return self.layer(h if h.sum().item() > 0 else -h)

    inputs = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)) + 3
    pack = PackedModel(Branching, [3, 4])
    with caplog.at_level("DEBUG", "sensitivity"):
        outputs, _ = pack.train_outputs(inputs, record=False)
    assert "one by one" in caplog.text
    state = pack.state()["buffers"]
    assert state["norm.num_batches_tracked"].tolist() == [1, 1]
    torch.testing.assert_close(state["norm.running_mean"], 0.1 * inputs.mean(1))
    for k, seed in enumerate((3, 4)):
        alone, _ = PackedModel(Branching, [seed]).train_outputs(inputs[k : k + 1], record=False)
        torch.testing.assert_close(outputs[k], alone[0])


def test_dropout_drops_its_share_and_scales_the_rest():
    pack = PackedModel(lambda: nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.25)), [0, 1])
    for name, p in pack.params.items():
        p.detach().fill_(1.0 if name.endswith("weight") else 0.0)
    outputs, _ = pack.train_outputs(torch.ones(2, 20_000, 1), record=False)
    assert outputs.unique().tolist() == pytest.approx([0, 4 / 3])
    kept = (outputs > 0).double().mean((1, 2))
    assert kept.tolist() == pytest.approx([0.75, 0.75], abs=4 * (0.75 * 0.25 / 20_000) ** 0.5)
    assert not torch.equal(outputs[0], outputs[1]), "each member has masks of its own"
    torch.testing.assert_close(pack.eval_outputs(torch.ones(5, 1)), torch.ones(2, 5, 1))


def test_dropout_leaves_the_processs_own_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pack = PackedModel(lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), [0, 1])
    pack.train_outputs(torch.ones(2, 3, 4), record=False)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("arm", ARMS)
def test_bfloat16_products_train_like_float32_within_their_precision(make_study, arm):
    options = {"budget": {"steps": 40}, "optimizers": {"a": {**ARMS[arm], "lr": 0.02}}}
    exact = make_study(**options)
    rounded = make_study(problem={"precision": "bfloat16"}, **options)
    trials = expand(rounded)
    task = load_problem(rounded.problem)
    packed = train_pack(Pack(trials), task)
    whole = train_pack(Pack(expand(exact)), load_problem(exact.problem))
    (alone,) = train_pack(Pack(trials[:1]), task)
    for ours, theirs in zip(packed, whole, strict=True):
        ends = ours.measurements[-1].train_loss, theirs.measurements[-1].train_loss
        assert ends[0] != ends[1], "products are rounded"
        assert ends[0] == pytest.approx(ends[1], rel=0.03)
    assert packed[0].measurements[-1].train_loss == pytest.approx(alone.measurements[-1].train_loss, rel=0.01)
    assert all(
        p.dtype is torch.float32 for p in PackedModel(task.build_model, [0], products=task.products).params.values()
    )


def test_diverged_members_are_dropped_between_evaluations(make_study, digits64, monkeypatch):
    """Two of four members diverge at once, and are not computed after the next check."""
    from sensitivity.training import recorded_steps

    trained = []
    take_step = recorded_steps.take_step

    def counted(model, *others, **options):
        trained.append(model.trials)
        return take_step(model, *others, **options)

    monkeypatch.setattr(recorded_steps, "take_step", counted)
    arm = {"kind": "sgd", "lr": [0.01, 0.02, 1e9, 2e9]}
    spec = make_study(budget={"steps": 100}, evaluation={"every_steps": 100}, optimizers={"a": arm})
    results = train_pack(Pack(expand(spec)), digits64)
    assert [r.status for r in results] == [Status.COMPLETED] * 2 + [Status.DIVERGED] * 2
    assert trained == [4] * 16 + [2] * 84
    assert all(r.steps < 16 and r.train_seconds < results[0].train_seconds for r in results[2:])


@pytest.mark.parametrize("clip", [1e-6, 1e6, None], ids=["always binds", "never binds", "no clip"])
def test_the_share_of_clipped_steps_and_the_effective_rate_are_kept(make_study, clip):
    arm = {"kind": "kfac", "lr": [0.01, 0.02], "damping": 0.1, **({"kl_clip": clip} if clip else {})}
    spec = make_study(budget={"steps": 40}, evaluation={"every_steps": 20}, optimizers={"a": arm})
    for run in train_pack(Pack(expand(spec)), load_problem(spec.problem)):
        last = run.measurements[-1]
        if clip is None:
            assert run.clip_share != run.clip_share  # NaN
            assert last.effective_lr != last.effective_lr
        elif clip > 1:
            assert run.clip_share == 0
            assert last.effective_lr == pytest.approx(last.lr, rel=1e-6)
        else:
            assert run.clip_share == 1
            assert last.effective_lr < 0.1 * last.lr
        assert sum(run.phase_seconds.values()) == pytest.approx(run.train_seconds)
        assert min(run.phase_seconds.values()) >= 0
        assert run.phase_seconds["factors"] > 0
