"""A member of a pack equals the trial trained alone, whatever the other members do."""

import math

import pytest
import torch
from torch import nn

from sensitivity.study.results import Status
from sensitivity.study.trials import Pack, expand
from sensitivity.training import packed_model
from sensitivity.training.datasets import Dataset
from sensitivity.training.loop import train_pack
from sensitivity.training.losses import Loss, cross_entropy
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem, load_problem

KFAC = {"kind": "kfac", "lr": [0.01, 0.1], "damping": [0.05, 0.5], "weight_decay": 1e-3, "inverse_interval": 2}
SGD = {"kind": "sgd", "lr": [0.01, 0.1], "momentum": [0.0, 0.9]}


def images() -> Dataset:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(90, 2, 6, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (90,), generator=generator)
    return Dataset(train_inputs=x[:60], train_targets=y[:60], test_inputs=x[60:], test_targets=y[60:])


class Residual(nn.Module):
    """A typical user model: attributes, a residual sum, a functional call, a view of the batch."""

    def __init__(self, *, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")
        self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False, groups=2)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head = nn.Linear(4 * 9, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.first(x))
        h = h + self.norm(self.second(h))
        h = nn.functional.max_pool2d(h, 2)
        return self.head(self.drop(h.view(h.shape[0], -1)))


def problem(**options) -> Problem:
    return Problem(
        dataset=images(),
        build_model=lambda: Residual(**options).double(),
        loss=cross_entropy,
        has_classes=True,
        outputs=3,
    )


def numbers(result):
    return [(m.step, m.train_loss, m.test_loss, m.train_accuracy, m.test_accuracy) for m in result.measurements]


@pytest.mark.parametrize("arm", [SGD, KFAC], ids=["sgd", "kfac"])
@pytest.mark.parametrize("options", [{}, {"norm": True}, {"dropout": 0.3}], ids=["plain", "batch norm", "dropout"])
def test_members_equal_the_same_trials_alone(make_study, arm, options):
    spec = make_study(
        batch_sizes=[20], seeds=2, budget={"steps": 12}, evaluation={"every_steps": 3}, optimizers={"a": arm}
    )
    trials = expand(spec)
    together = train_pack(Pack(trials), problem(**options))
    assert len(together) == 8
    for trial, packed in zip(trials, together, strict=True):
        (alone,) = train_pack(Pack((trial,)), problem(**options))
        assert packed.status is alone.status is Status.COMPLETED
        for ours, theirs in zip(numbers(packed), numbers(alone), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("arm", ["sgd", "kfac"])
def test_a_diverging_neighbour_changes_nothing(make_study, digits64, arm):
    calm = {"sgd": {"kind": "sgd", "lr": [0.05, 0.1], "momentum": 0.9}, "kfac": {**KFAC, "lr": [0.01, 0.02]}}[arm]
    wild = {**calm, "lr": [*calm["lr"], 1e6]}
    settings = {"budget": {"steps": 24}, "evaluation": {"every_steps": 8}}
    quiet = train_pack(Pack(expand(make_study(optimizers={"a": calm}, **settings))), digits64)
    mixed = train_pack(Pack(expand(make_study(optimizers={"a": wild}, **settings))), digits64)
    diverged = [r for r in mixed if dict(r.trial.hyperparameters)["lr"] == 1e6]
    kept = [r for r in mixed if dict(r.trial.hyperparameters)["lr"] != 1e6]
    assert {r.status for r in diverged} == {Status.DIVERGED}
    assert all(r.message and r.steps <= 8 for r in diverged)
    assert [r.epochs for r in diverged] == pytest.approx([r.steps * 64 / 1437 for r in diverged])
    assert [r.trial.id for r in kept] == [r.trial.id for r in quiet]
    for ours, theirs in zip(kept, quiet, strict=True):
        assert ours.status is Status.COMPLETED
        for a, b in zip(numbers(ours), numbers(theirs), strict=True):
            assert a == pytest.approx(b, rel=1e-9)


def test_clipping_of_diverged_members_is_not_counted_further(make_study, digits64):
    """Diverged members stay in the computation for a while, longer in larger packs."""
    arm = {"kind": "kfac", "lr": [*(k / 1000 for k in range(1, 7)), 1e10], "damping": 1e-3, "kl_clip": 1e12}
    trials = expand(make_study(budget={"steps": 40}, evaluation={"every_steps": 40}, optimizers={"a": arm}))
    together, (alone,) = train_pack(Pack(trials), digits64)[-1], train_pack(Pack(trials[-1:]), digits64)
    assert alone.status is Status.DIVERGED
    assert (together.steps, together.clip_share) == (alone.steps, alone.clip_share)
    assert alone.clip_share > 0


def test_divergence_by_the_bound_keeps_what_was_measured(make_study, digits64, pack_of):
    spec = make_study(
        budget={"steps": 30},
        evaluation={"every_steps": 1, "divergence_bound": 1.5},
        optimizers={"sgd": {"kind": "sgd", "lr": 2.0, "momentum": 0.95}},
    )
    (result,) = train_pack(pack_of(spec), digits64)
    assert result.status is Status.DIVERGED
    losses = [m.train_loss for m in result.measurements]
    assert losses[-1] > 1.5 * losses[0]
    assert all(loss <= 1.5 * losses[0] for loss in losses[:-1])
    assert result.steps == result.measurements[-1].step < 30
    assert "bound" in result.message


def test_every_member_has_its_own_seed_and_equal_seeds_share_everything():
    model = PackedModel(lambda: nn.Linear(5, 2), [4, 9, 4])
    weight = model.params["weight"]
    assert torch.equal(weight[0], weight[2])
    assert not torch.equal(weight[0], weight[1])


def test_building_a_pack_leaves_the_global_generator_alone():
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    model = PackedModel(lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), [0, 1])
    model.train_outputs(torch.ones(2, 3, 4), record=False)
    assert torch.equal(torch.rand(1), expected)


def test_a_model_that_vmap_cannot_follow_falls_back_to_the_loop(monkeypatch, caplog):
    monkeypatch.setattr(packed_model, "_warned", set())

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            y = self.layer(x)
            return y * 2 if y.sum().item() > 0 else y

    seeds, inputs = [0, 1, 2], torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(0))
    model = PackedModel(Branching, seeds)
    with caplog.at_level("WARNING"):
        outputs, _ = model.train_outputs(inputs, record=False)
    assert caplog.text.count("one by one") == 1
    PackedModel(Branching, seeds).train_outputs(inputs, record=False)
    assert caplog.text.count("one by one") == 1, "said once"
    for k in range(3):
        weight, bias = model.params["layer.weight"][k], model.params["layer.bias"][k]
        plain = inputs[k] @ weight.T + bias
        torch.testing.assert_close(outputs[k], plain * 2 if plain.sum() > 0 else plain)


def test_device_errors_are_not_attributed_to_the_model(caplog):
    class Asserts(nn.Linear):
        def forward(self, x):
            raise RuntimeError("CUDA error: device-side assert triggered")

    model = PackedModel(lambda: Asserts(3, 2), [0, 1, 2])
    with pytest.raises(RuntimeError, match="device-side assert"):
        model.train_outputs(torch.ones(3, 5, 3), record=False)
    assert caplog.text == ""
    assert model._loops is None


@pytest.mark.parametrize("members", [1, 3])
def test_recorded_calls_are_the_layers_inputs_and_outputs(members):
    model = PackedModel(lambda: Residual().double(), list(range(members)))
    inputs = torch.randn(members, 7, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    outputs, calls = model.train_outputs(inputs, record=True)
    assert set(calls) == {"first", "second", "head"}
    (first,), (head,) = calls["first"], calls["head"]
    torch.testing.assert_close(first.packed(first.inputs), inputs)
    torch.testing.assert_close(head.packed(head.outputs), outputs)
    x, weight, bias = head.packed(head.inputs), model.params["head.weight"], model.params["head.bias"]
    torch.testing.assert_close(torch.einsum("kbi,koi->kbo", x, weight) + bias[:, None], outputs)


def test_training_stops_when_all_have_diverged(make_study, digits64, pack_of):
    spec = make_study(
        budget={"steps": 500}, evaluation={"every_steps": 5}, optimizers={"sgd": {"kind": "sgd", "lr": [1e8, 1e9]}}
    )
    told: list[float] = []
    results = train_pack(pack_of(spec), digits64, on_progress=told.append)
    assert [r.status for r in results] == [Status.DIVERGED] * 2
    assert all(r.steps <= 5 and not math.isnan(r.measurements[0].train_loss) for r in results)
    assert told == [0.0]


def test_float32_members_agree_with_float64_while_stable(make_study, digits64, pack_of):
    spec = make_study(budget={"steps": 50}, optimizers={"kfac": {**KFAC, "lr": 0.02, "damping": 0.1}})
    (exact,) = train_pack(pack_of(spec), digits64)
    (single,) = train_pack(pack_of(spec), load_problem(spec.problem))
    assert single.measurements[-1].train_loss == pytest.approx(exact.measurements[-1].train_loss, rel=1e-3)


@pytest.mark.parametrize("arm", [SGD, KFAC], ids=["sgd", "kfac"])
@pytest.mark.parametrize("members", [1, 2])
def test_a_weight_that_two_layers_share_is_one_parameter(make_study, arm, members):
    class Tied(nn.Module):
        def __init__(self, copies):
            super().__init__()
            self.inside = nn.Linear(72, 72)
            state = (
                torch.random.get_rng_state()
            )  # so that the copy below does not affect the initialisation of the head
            if copies == "tied":
                self.again = nn.Linear(72, 72)
                self.again.weight, self.again.bias = self.inside.weight, self.inside.bias
            torch.random.set_rng_state(state)
            self.head, self.copies = nn.Linear(72, 3), copies
            self.unused = nn.Parameter(torch.ones(2))

        def forward(self, x):
            h = torch.tanh(self.inside(x.flatten(1)))
            return self.head(torch.tanh(self.again(h) if self.copies == "tied" else self.inside(h)))

    def trained(copies):
        task = Problem(
            dataset=images(),
            build_model=lambda: Tied(copies).double(),
            loss=cross_entropy,
            has_classes=True,
            outputs=3,
        )
        spec = make_study(batch_sizes=[20], seeds=members, budget={"steps": 6}, optimizers={"a": arm})
        return [r.measurements[-1].train_loss for r in train_pack(Pack(expand(spec)), task)]

    # For every optimizer, two modules that share a weight are equivalent to one module called twice.
    tied = trained("tied")
    assert tied == pytest.approx(trained("called twice"), rel=1e-9)
    assert all(math.isfinite(loss) for loss in tied)


@pytest.mark.parametrize("members", [1, 2])
def test_frozen_and_uncovered_layers_and_integer_inputs_train(make_study, members):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.short = nn.Embedding(9, 4, max_norm=0.5)  # renormalised in the forward pass
            self.plain = nn.Embedding(9, 4)
            self.frozen = nn.Linear(4, 4).requires_grad_(False)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.frozen(self.short(x) + self.plain(x)).mean(1))

    generator = torch.Generator().manual_seed(8)
    x, y = torch.randint(0, 9, (40, 5), generator=generator), torch.randint(0, 3, (40,), generator=generator)
    data = Dataset(train_inputs=x, train_targets=y, test_inputs=x[:4], test_targets=y[:4])
    task = Problem(dataset=data, build_model=lambda: Words().double(), loss=cross_entropy, has_classes=True, outputs=3)
    arms = {"sgd": {"kind": "sgd", "lr": 0.5}, "kfac": {"kind": "kfac", "lr": 0.01, "damping": 0.1}}
    for name, arm in arms.items():
        spec = make_study(batch_sizes=[40], seeds=members, budget={"steps": 4}, optimizers={name: arm})
        for result in train_pack(Pack(expand(spec)), task):
            assert result.status is Status.COMPLETED
            if name == "sgd":  # a plain loop: one batch of everything, whose order does not matter
                model = PackedModel(task.build_model, [result.trial.seed])
                network = Words().double()
                network.load_state_dict(
                    {n: p[0].detach() for n, p in {**model.params, **model._constants}.items()}, strict=True
                )
                optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.5)
                for _ in range(4):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(network(x), y).backward()
                    optimizer.step()
                truth = nn.functional.cross_entropy(network(x), y).item()
                assert result.measurements[-1].train_loss == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("arm", [SGD, KFAC], ids=["sgd", "kfac"])
def test_a_model_that_writes_to_its_parameters_trains_as_alone(make_study, arm):
    class Drifting(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Conv2d(2, 4, 3), nn.Linear(64, 3)

        def forward(self, x):
            if self.training:
                with torch.no_grad():
                    self.first.bias.add_(0.1)  # a second update would be visible
            return self.head(torch.tanh(self.first(x)).flatten(1))

    task = Problem(
        dataset=images(), build_model=lambda: Drifting().double(), loss=cross_entropy, has_classes=True, outputs=3
    )
    spec = make_study(batch_sizes=[20], seeds=1, budget={"steps": 5}, optimizers={"a": arm})
    trials = expand(spec)
    for trial, packed in zip(trials, train_pack(Pack(trials), task), strict=True):
        (alone,) = train_pack(Pack((trial,)), task)
        assert numbers(packed)[-1] == pytest.approx(numbers(alone)[-1], rel=1e-9)


def test_numbers_too_small_to_matter_take_no_time(make_study):
    seen = []

    def loss(outputs, targets):
        seen.append(float(torch.tensor([1e-39]) * torch.tensor([0.5])))
        return cross_entropy.terms(outputs, targets)

    spec = make_study(batch_sizes=[8], optimizers={"sgd": SGD}, budget={"steps": 4})
    whole = problem()
    watched = Problem(
        dataset=whole.dataset,
        build_model=whole.build_model,
        loss=Loss(terms=loss),
        has_classes=True,
        outputs=whole.outputs,
    )
    train_pack(Pack(expand(spec)[:2]), watched)
    assert 0.0 in seen  # within a step, where the momentum of dead units would remain denormal
    assert float(torch.tensor([1e-39]) * torch.tensor([0.5])) > 0  # not outside
