"""Layers that are unfrozen, frozen, or join a group, after steps were taken.

Those that join are compared with those of an optimizer that covered them from the start, and whose layer had no
gradient so far.
"""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sensitivity.kfac import KFAC, KFACConfig

DOUBLE = torch.float64


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)).to(DOUBLE)


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 6, generator=generator, dtype=DOUBLE), torch.randint(3, (16,), generator=generator)


def train(model: nn.Module, optimizer: KFAC, steps: range) -> None:
    for index in steps:
        optimizer.zero_grad()
        x, y = batch(index)
        outputs = model(x)
        optimizer.observe(outputs)
        functional.cross_entropy(outputs, y).backward()
        assert not optimizer.step().failed


def freeze(model: nn.Module, frozen: bool) -> None:
    for name, p in model.named_parameters():
        p.requires_grad_(not frozen or name.startswith("3"))


def vector(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


OPTIONS: dict[str, dict[str, Any]] = {
    "factored": {"others": "diagonal", "kl_clip": 1.0},
    "exact": {"damping_form": "exact"},
    "ekfac": {"damping_form": "exact", "ekfac": True},
    "type2": {"fisher": "type2"},
    "reduce": {"sharing": "reduce"},
}


@pytest.mark.parametrize("how", ["unfrozen", "group", "group given whole"])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_layer_that_joins_moves_like_one_that_was_covered(options: str, how: str) -> None:
    config, found = KFACConfig(damping=0.1, inverse_interval=2, **OPTIONS[options]), []
    for late in (False, True):
        model = network()
        if not late:
            optimizer = KFAC(model, config)  # of everything, and frozen afterwards
        freeze(model, True)
        if late:
            rest = [p for name, p in model.named_parameters() if name.startswith("3")]
            optimizer = KFAC(model, config, param_groups=[{"params": rest}] if how == "group" else None)
        train(model, optimizer, range(3))
        before = vector(model)
        freeze(model, False)
        if late and how == "group":
            optimizer.add_param_group({"params": [p for n, p in model.named_parameters() if not n.startswith("3")]})
        train(model, optimizer, range(3, 4))
        assert (vector(model) != before).all()
        train(model, optimizer, range(4, 7))
        found.append(vector(model))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


def test_statistics_of_a_layer_that_joins_do_not_wait_for_the_interval() -> None:
    model = network()
    freeze(model, True)
    optimizer = KFAC(model, KFACConfig(factor_interval=10, inverse_interval=10))
    train(model, optimizer, range(3))
    before = vector(model)
    freeze(model, False)
    train(model, optimizer, range(3, 4))
    assert (vector(model) != before).all()
    assert optimizer.kfac.waiting == ()
    assert int(optimizer.kfac.averaged) == 2


@pytest.mark.parametrize("clears", [lambda model, _: model.zero_grad(), lambda _, optimizer: optimizer.zero_grad()])
def test_a_script_that_clears_gradients_after_the_step_moves_it_one_step_later(clears: Any) -> None:
    model = network()
    freeze(model, True)
    optimizer = KFAC(model, KFACConfig())
    for index in range(4):
        if index == 2:
            freeze(model, False)
        before = model[0].weight.detach().clone()
        functional.cross_entropy(model(batch(index)[0]), batch(index)[1]).backward()
        optimizer.step()
        clears(model, optimizer)
        assert torch.equal(model[0].weight, before) == (index < 3)


def test_a_module_added_to_the_model_joins_by_its_group() -> None:
    model = network()
    optimizer = KFAC(model, KFACConfig(lr=0.1))
    train(model, optimizer, range(2))
    model.append(nn.Linear(3, 3).to(DOUBLE))
    optimizer.add_param_group({"params": model[4].parameters(), "lr": 0.05})
    before = model[4].weight.detach().clone()
    train(model, optimizer, range(2, 3))
    assert (model[4].weight != before).any()
    assert "4" in optimizer.report().layers
    again = KFAC(model, optimizer.config, param_groups=[{"params": g["params"]} for g in optimizer.param_groups])
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    start, ends = copy.deepcopy(model.state_dict()), []
    for each in (optimizer, again):
        model.load_state_dict(start)
        train(model, each, range(3, 5))
        ends.append(vector(model))
    assert torch.equal(*ends)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("parts", [["0.weight"], ["0.bias"], ["1.weight"], ["0.weight", "0.bias", "1.weight"]])
def test_parameters_frozen_after_steps_do_not_move_whatever_their_gradient(parts: list[str], options: str) -> None:
    """Their latest gradient stays unless it is set to None: zeros, or that of the step before."""
    config, ends = KFACConfig(damping=0.1, momentum=0.9, weight_decay=0.1, **OPTIONS[options]), []
    for left in ("none", "zeros", "stale"):
        model = network()
        optimizer = KFAC(model, config)
        train(model, optimizer, range(2))
        frozen = {name: p for name, p in model.named_parameters() if name in parts}
        before = {name: p.detach().clone() for name, p in frozen.items()}
        for p in frozen.values():
            p.requires_grad_(False)
        for index in range(2, 5):
            optimizer.zero_grad(set_to_none=left != "zeros")
            for p in frozen.values() if left == "stale" else ():
                p.grad = torch.ones_like(p)
            outputs = model(batch(index)[0])
            optimizer.observe(outputs)
            functional.cross_entropy(outputs, batch(index)[1]).backward()
            assert not optimizer.step().failed
        assert all(torch.equal(p, before[name]) for name, p in frozen.items())
        ends.append(vector(model))
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


def test_a_parameter_without_a_group_is_refused_by_name() -> None:
    model = network()
    freeze(model, True)
    rest = [p for name, p in model.named_parameters() if name.startswith("3")]
    optimizer = KFAC(model, KFACConfig(), param_groups=[{"params": rest}])
    train(model, optimizer, range(1))
    freeze(model, False)
    functional.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
    with pytest.raises(RuntimeError, match=r"'0\.weight' was frozen .* in no parameter group. Call optimizer.add_para"):
        optimizer.step()
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        optimizer.add_param_group({"params": rest})
