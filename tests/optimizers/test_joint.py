"""Parameters stored in one joint tensor."""

import pytest
import torch

from sensitivity.optimizers.joint import joint_of, laid_out


def parameters(trials):
    generator = torch.Generator().manual_seed(0)
    shapes = {"weight": (5, 3), "bias": (5,), "out": (2, 5)}
    return {name: torch.randn(trials, *shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("trials", [1, 2, 7])
def test_laid_out_parameters_are_found_whatever_the_number_of_members(trials):
    values = parameters(trials)
    params = laid_out(values)
    joint = joint_of(params)
    assert joint is not None
    joint.whole.mul_(2)
    for name, p in params.items():
        assert torch.equal(p, 2 * values[name]), "one operation on the whole is one on each"


@pytest.mark.parametrize("trials", [1, 2])
def test_gradients_are_copied_with_or_without_a_trials_dimension(trials):
    joint, grads = joint_of(laid_out(parameters(trials))), parameters(trials)
    if trials == 1:
        grads = {name: g[0] for name, g in grads.items()}
    views = joint.views(joint.gradient(grads))
    assert all(torch.equal(views[name].squeeze(0), g) for name, g in grads.items())
    del grads["bias"]
    assert not joint.views(joint.gradient(grads))["bias"].any(), "a missing gradient is 0, not that of the step before"


@pytest.mark.parametrize("trials", [1, 2])
def test_parameters_apart_are_not_joined(trials):
    apart = parameters(trials)
    assert joint_of(apart) is None
    assert joint_of({**laid_out(apart), "bias": apart["bias"]}) is None
