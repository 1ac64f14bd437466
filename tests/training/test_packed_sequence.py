"""Plain sequences computed without vmap give the same results; other models use vmap."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from sensitivity.training import packed_model
from sensitivity.training.packed_model import PackedModel


def everything() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False, padding=1, padding_mode="reflect"), nn.GELU()),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.4),
        nn.Linear(24, 8, bias=False),
        nn.Tanh(),
        nn.Linear(8, 3),
    ).double()


MODELS = {
    "every kind of layer": (everything, (2, 8, 8)),
    "a linear layer on positions": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.SiLU(), nn.Flatten(), nn.Linear(12, 2)).double(),
        (3, 5),
    ),
    "one dimension": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.Softplus(), nn.Flatten(), nn.Linear(12, 2)).double(),
        (2, 6),
    ),
}


def derivatives(pack: PackedModel, inputs: torch.Tensor) -> list[torch.Tensor]:
    """Outputs, gradients of the parameters, and inputs and outputs of the layers."""
    outputs, calls = pack.train_outputs(inputs, record=True)
    weights = torch.randn(outputs.shape, dtype=outputs.dtype, generator=torch.Generator().manual_seed(9))
    watched = [tensor for called in calls.values() for call in called for tensor in call.outputs]
    gradients = torch.autograd.grad((outputs * weights).sum(), [*pack.leaves, *watched])
    left = iter(gradients[len(pack.params) :])
    captured = [
        (call.packed(call.inputs), call.packed([next(left) for _ in call.outputs])) for (call,) in calls.values()
    ]
    slopes = [g.view(p.shape) for g, p in zip(gradients, pack.params.values(), strict=False)]
    return [outputs, *slopes, *(tensor for pair in captured for tensor in pair)]


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("other", ["member by member", "under vmap"])
def test_a_sequence_is_the_same_network_by_every_way(monkeypatch, model, members, other):
    build, shape = MODELS[model]
    inputs = torch.randn(members, 7, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    seeds = list(range(members))
    ours = PackedModel(build, seeds)
    assert ours._sequence is not None
    monkeypatch.setattr(packed_model, "sequence_of", lambda network, tape: None)
    reason = "as asked" if other == "member by member" else None
    monkeypatch.setattr(packed_model, "loop_reason", lambda network: reason)
    theirs = PackedModel(build, seeds)
    for a, b in zip(derivatives(ours, inputs), derivatives(theirs, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    shared = inputs[0]
    torch.testing.assert_close(ours.eval_outputs(shared), theirs.eval_outputs(shared), rtol=1e-11, atol=1e-12)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 2))
    model[0].register_forward_hook(lambda module, args, outputs: outputs * 3)
    return model


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    return model


def repeated() -> nn.Module:
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.Tanh(), layer)


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


def parametrized() -> nn.Module:
    return nn.Sequential(parametrize.register_parametrization(nn.Linear(3, 2), "weight", Halved()))


NOT_PLAIN = {
    "a subclass": lambda: nn.Sequential(Doubled(3, 2)),
    "a hook": hooked,
    "a shared weight": tied,
    "a layer used twice": repeated,
    "an inplace layer": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2)),
    "buffers": lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)),
    "a parametrization": parametrized,
    "over the batch": lambda: nn.Sequential(nn.Linear(3, 2), nn.Softmax(0)),
    "a flatten of its own": lambda: nn.Sequential(nn.Flatten(0), nn.Linear(12, 2)),
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_unsupported_models_are_computed_by_their_own_code(kind):
    build = NOT_PLAIN[kind]
    inputs = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    pack = PackedModel(build, [5, 6])
    assert pack._sequence is None
    kept = inputs.clone()
    outputs, _ = pack.train_outputs(inputs, record=False)
    for k in range(2):
        torch.manual_seed(0)
        network = build()
        named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        state = {n: pack.params[n][k].detach() for n, _ in network.named_parameters()}
        for name, value in state.items():
            named[name].data.copy_(value)
        torch.testing.assert_close(outputs[k], network.train()(kept[k].clone()), rtol=1e-5, atol=1e-6)


def test_a_dataset_that_all_members_see_is_left_as_it_was():
    data = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))
    before = data.clone()
    pack = PackedModel(lambda: nn.Sequential(nn.ReLU(), nn.Linear(3, 2), nn.Dropout(0.5)), [0, 1])
    pack.eval_outputs(data)
    pack.train_outputs(data.expand(2, 9, 3), record=False)
    assert torch.equal(data, before)
