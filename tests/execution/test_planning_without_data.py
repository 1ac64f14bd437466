"""A data set that is not downloaded yet is priced by its size, without a network; only running it needs the data."""

import socket

import pytest

import sensitivity.training.datasets.stand_in as module
from sensitivity.execution.prepare import prepare_spec
from sensitivity.execution.pricing import price_plan
from sensitivity.store.directory import place
from sensitivity.study.load import parse_study

RAW = {
    "name": "t", "batch_sizes": [64], "seeds": 1, "budget": {"epochs": 2}, "problem": {"dataset": "cifar10"},
    "optimizers": {"a": {"kind": "sgd", "lr": 0.1}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch, tmp_path):
    monkeypatch.setenv("SENSITIVITY_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def refuse(*_, **__):
        raise AssertionError("it went to the network")

    monkeypatch.setattr(socket, "create_connection", refuse)


def test_it_is_priced_with_its_true_size(tmp_path):
    plan = prepare_spec(parse_study(RAW, source="test"), folder=tmp_path, source="test", for_price=True)
    data = plan.problem.dataset
    assert data.is_stand_in
    assert (data.train_size, len(data.test_inputs), plan.problem.outputs) == (50_000, 10_000, 10)
    assert data.train_inputs.shape[1:] == (3, 32, 32)
    priced = price_plan(plan, place(str(tmp_path / "studies" / "t")), workers=1)
    (line,) = priced.price.lines
    assert line.cost.steps in (2 * 50_000 // 64, -(-2 * 50_000 // 64))
    assert "cifar10 is not on this machine yet: priced with as many images of its size." in priced.sentences()


def test_what_is_here_is_used_and_what_has_no_known_size_is_not_made_up(tmp_path):
    assert module.is_missing("svhn")
    assert not module.is_missing("digits")
    (tmp_path / "data" / "arrays" / "svhn").mkdir(parents=True)
    (tmp_path / "data" / "arrays" / "svhn" / "about.json").write_text("{}")
    assert not module.is_missing("svhn")
