"""What digests distinguish, and rejection of data functions and networks that change between calls."""

import itertools
import os
import random

import numpy as np
import pytest
import torch
from torch import nn

from sensitivity.study.errors import UserError
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.identity import check_follows_seed, check_repeats, digest, identity
from sensitivity.training.losses import cross_entropy
from sensitivity.training.problems import Problem


def one(tensor):
    return digest({"": tensor})


X = torch.randn(500, 3, 4, generator=torch.Generator().manual_seed(1))


def changed(place, by):
    other = X.clone()
    other.view(-1)[place] += by
    return other


@pytest.mark.parametrize(
    "other",
    [
        X[torch.randperm(500, generator=torch.Generator().manual_seed(2))],
        X[[1, 0, *range(2, 500)]],
        X.flip(2),
        changed(700, 0.01),
        X * (1 + 1e-5),
        X + 1e-4,
        X.double(),
        X.reshape(500, 12),
        torch.cat([X, X[:1]]),
    ],
    ids=["permuted", "two rows", "features", "one value", "scale", "shift", "type", "shape", "one more"],
)
def test_any_change_beyond_rounding_changes_the_digest(other):
    assert not one(X).is_same(one(other))


def test_rounding_is_no_change_of_floats():
    mean = X.mean(0)
    standardised = (X - mean) / X.std(0)
    elsewhere = ((X.double() - mean.double()) / X.double().std(0)).float()
    assert not torch.equal(standardised, elsewhere)
    assert one(standardised).is_same(one(elsewhere))


def test_a_column_of_large_numbers_hides_no_change_of_another():
    """Times in seconds, features of order one, and a feature of very small numbers."""
    columns = X.flatten(1)
    for scale in (1.7e9, 1e-7):
        large = columns[:, :1].abs() * scale
        others = torch.cat([large, columns[:, 1:].flip(0)], 1), torch.cat([large, columns[:, 1:] * (1 + 1e-3)], 1)
        for other in (*others, torch.cat([large * (1 + 1e-3), columns[:, 1:]], 1)):
            assert not one(torch.cat([large, columns[:, 1:]], 1)).is_same(one(other))


def test_swapped_arrays_have_different_digests():
    assert not digest({"a": X[0], "b": X[1]}).is_same(digest({"a": X[1], "b": X[0]}))


def test_one_class_or_one_pixel_is_a_change_of_whole_numbers():
    for values in (torch.arange(50) % 7, torch.arange(50, dtype=torch.uint8).reshape(2, 1, 5, 5)):
        other = values.clone()
        other.view(-1)[3] += 1
        assert one(values).is_same(one(values.clone()))
        assert not one(values).is_same(one(other))


def test_digests_depend_on_names_and_on_the_order_of_values():
    both = {"a": X[0], "b": torch.tensor(3)}
    assert digest(both).is_same(digest({name: tensor.clone() for name, tensor in both.items()}))
    assert not digest(both).is_same(digest({"a": X[0], "c": torch.tensor(3)}))
    assert not digest(both).is_same(digest({"a": X[1], "b": torch.tensor(3)}))
    assert not digest(both).is_same(digest({"a": X[0], "b": torch.tensor(4)}))


@pytest.mark.parametrize("tensor", [torch.tensor(1.5), torch.zeros(0, 3), X.to(torch.bfloat16), X.transpose(0, 1)])
def test_tensors_of_every_kind_have_a_digest(tensor):
    assert one(tensor).is_same(one(tensor.clone()))
    assert not one(tensor).is_same(one(tensor.clone().unsqueeze(0)))


def problem(build) -> Problem:
    y = torch.arange(500) % 3
    data = Dataset(train_inputs=X[:400, 0], train_targets=y[:400], test_inputs=X[400:, 0], test_targets=y[400:])
    return Problem(dataset=data, build_model=build, loss=cross_entropy, has_classes=True, outputs=3)


class Drawn(nn.Module):
    """A layer with weights, a constant, or outputs drawn in a given way."""

    def __init__(self, draw, where) -> None:
        super().__init__()
        self.layer, self.draw, self.where, self.constant = nn.Linear(4, 3), draw, where, 0.0
        if where == "weights":
            with torch.no_grad():
                self.layer.weight += draw()
        if where == "constant":
            self.constant = draw()

    def forward(self, x):
        noise = self.draw() if self.where == self.training else 0.0
        return self.layer(x) + noise + self.constant


CLOCK = itertools.count()
FOREIGN = {
    "os.urandom": lambda: os.urandom(1)[0] + os.urandom(1)[0] / 256,
    "random": random.random,
    "numpy": lambda: float(np.random.standard_normal()),  # noqa: NPY002
    "default_rng": lambda: float(np.random.default_rng().standard_normal()),
    "time": lambda: float(next(CLOCK)),
    "generator": lambda: torch.randn((), generator=_unseeded()).item(),
}


def _unseeded():
    generator = torch.Generator()
    generator.seed()
    return generator


@pytest.mark.parametrize("draw", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("weights", "different initial parameters"),
        ("constant", "different outputs"),
        (True, "different outputs"),
        (False, "different"),
    ],
)
def test_networks_with_other_sources_of_randomness_are_rejected(draw, where, what):
    with pytest.raises(UserError, match=rf"problem\.model: m:f has {what}(.|\n)*Draw with torch only"):
        check_follows_seed(problem(lambda: Drawn(draw, where)), named="m:f")


@pytest.mark.parametrize(
    "build",
    [
        lambda: Drawn(lambda: torch.randn(()).item(), "weights"),
        lambda: Drawn(lambda: torch.randn(()), True),
        lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)),
    ],
    ids=["weights", "noise", "dropout"],
)
def test_networks_may_draw_with_torch_and_the_generator_is_restored(build):
    before = torch.get_rng_state()
    check_follows_seed(problem(build), named="m:f")
    assert identity(problem(build)).differences(identity(problem(build))) == []
    assert torch.equal(torch.get_rng_state(), before)


def test_data_that_differ_at_a_second_call_are_named():
    found, data = identity(problem(lambda: nn.Linear(4, 3))), problem(None).dataset
    check_repeats(found, data, named="m:data")
    order = torch.randperm(400, generator=torch.Generator().manual_seed(3))
    again = Dataset(
        train_inputs=data.train_inputs[order],
        train_targets=data.train_targets[order],
        test_inputs=data.test_inputs,
        test_targets=data.test_targets,
    )
    with pytest.raises(UserError) as caught:
        check_repeats(found, again, named="m:data")
    assert str(caught.value).startswith(
        "problem.dataset: m:data returns different train inputs, train targets when called again"
    )
    assert "torch.Generator().manual_seed(0)" in str(caught.value)
