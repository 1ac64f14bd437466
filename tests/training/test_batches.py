"""Batches are drawn on the host, and the draws of many steps are copied to an accelerator at once."""

import dataclasses

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sensitivity.training import batches
from sensitivity.training.batches import PackBatches
from sensitivity.training.problems import load_problem


@pytest.fixture
def problem(make_study):
    loaded = load_problem(make_study().problem)
    few = dataclasses.replace(
        loaded.dataset, train_inputs=loaded.dataset.train_inputs[:50], train_targets=loaded.dataset.train_targets[:50]
    )
    return dataclasses.replace(loaded, dataset=few, _variants={})


def drawn(problem, ahead, monkeypatch, *, seeds, skipped=0):
    """The batches of ten steps, where some members are dropped after four."""
    monkeypatch.setitem(batches._AHEAD, "cpu", ahead)
    of = PackBatches(seeds, problem, batch_size=12, micro_batch=5, augment=True, drawn=skipped)
    found = []
    for step in range(10 - skipped):
        if step + skipped == 4 and skipped == 0:
            of.select([0, 2])
        found.append([(part.inputs, part.targets, part.share) for part in of.draw()])
    return found


@pytest.mark.parametrize("seeds", [[3, 3, 3], [3, 4, 3], [3, 4, 5]], ids=["alike", "alike after", "apart"])
@pytest.mark.parametrize("ahead", [3, 64])
def test_batches_do_not_depend_on_how_many_are_drawn_at_once(problem, monkeypatch, seeds, ahead):
    expected, found = (drawn(problem, count, monkeypatch, seeds=seeds) for count in (1, ahead))
    for one, other in zip(expected, found, strict=True):
        assert [share for *_, share in one] == [5 / 12, 5 / 12, 2 / 12]
        for (inputs, targets, _), (again, their, _) in zip(one, other, strict=True):
            assert torch.equal(inputs, again)
            assert torch.equal(targets, their)
    resumed = drawn(problem, ahead, monkeypatch, seeds=[seeds[0], seeds[2]], skipped=6)
    assert torch.equal(resumed[0][0][0], expected[6][0][0])


def test_draws_of_64_steps_are_copied_asynchronously_at_once(problem, monkeypatch):
    pinned, copies = [], []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._to_copy.default:
                assert pinned[-1] is args[0]
                copies.append((tuple(args[0].shape), kwargs["device"].type, kwargs["non_blocking"]))
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    with FakeTensorMode():
        there = dataclasses.replace(problem.dataset, train_inputs=torch.empty(50, 1, 8, 8, device="cuda"))
        there = dataclasses.replace(problem, dataset=there, _variants={})
        of = PackBatches([1, 2], there, batch_size=8, micro_batch=None, augment=True)
        with Copies():
            draws = [of.next() for _ in range(128)]
    assert {draw.rows.device.type for draw in draws} == {"cuda"}
    assert copies == 4 * [((64, 2, 8), "cuda", True)]


def test_few_are_drawn_at_once_where_they_are_large(problem, monkeypatch):
    monkeypatch.setitem(batches._AHEAD, "cpu", 64)
    monkeypatch.setattr(batches, "_NUMBERS_AHEAD", 2 * 30 * 5)
    of = PackBatches([1, 2], problem, batch_size=30, micro_batch=None, augment=False)
    of.next()
    assert len(of._ahead) == 4
