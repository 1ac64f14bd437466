"""Scores are means over whole splits for any chunks, and need no more memory than training."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sensitivity.study.trials import Pack, expand
from sensitivity.training import evaluation
from sensitivity.training.batches import PackBatches
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.evaluation import evaluate
from sensitivity.training.losses import cross_entropy
from sensitivity.training.memory import peak_bytes
from sensitivity.training.models.resnet import resnet20
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem
from sensitivity.training.step import make_optimizer, take_step


def problem(examples: int, side: int) -> Problem:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (examples, 3, side, side), generator=generator, dtype=torch.uint8)
    y = torch.randint(0, 10, (examples,), generator=generator)
    mean, deviation = torch.full((3, 1, 1), 127.0), torch.full((3, 1, 1), 74.0)
    return Problem(
        dataset=Dataset(
            train_inputs=x, train_targets=y, test_inputs=x[:7], test_targets=y[:7], mean=mean, deviation=deviation
        ),
        build_model=lambda: resnet20((3, side, side), 10),
        loss=cross_entropy,
        has_classes=True,
        outputs=10,
    )


@pytest.mark.parametrize("chunk", [1, 7, 100, 1000])
def test_scores_do_not_depend_on_the_chunks(monkeypatch, chunk):
    monkeypatch.setitem(evaluation._AT_ONCE, "cpu", (1, 1, 1))
    task = problem(100, 8)
    task = dataclasses.replace(task, build_model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 10)))
    model = PackedModel(task.build_model, [0, 1])
    scores = evaluate(model, task, train_examples=90, chunk=chunk)
    inputs, targets = task.dataset.standardised(task.dataset.train_inputs[:90]), task.dataset.train_targets[:90]
    for k in range(2):
        outputs = inputs.flatten(1) @ model.params["1.weight"][k].T + model.params["1.bias"][k]
        assert scores["train_loss"][k].item() == pytest.approx(nn.functional.cross_entropy(outputs, targets).item())
        assert scores["train_accuracy"][k].item() == pytest.approx(
            (outputs.argmax(1) == targets).double().mean().item()
        )


def test_evaluation_needs_no_more_memory_than_a_training_step(make_study):
    task, batch_size = problem(400, 32), 32
    model = PackedModel(task.build_model, [0])
    trials = expand(make_study(batch_sizes=[batch_size], optimizers={"a": {"kind": "sgd", "lr": 0.1}}))
    optimizer = make_optimizer(Pack(trials), model, task)
    batches = PackBatches([0], task, batch_size=batch_size, micro_batch=None, augment=False)
    held = list(model.params.values())
    step = peak_bytes(lambda: take_step(model, task, optimizer, batches, step=0, lr_scale=1.0), held)
    scores = peak_bytes(lambda: evaluate(model, task, train_examples=None, chunk=batch_size), held)
    assert scores < 1.1 * step  # all 400 images at once would take more than twice as much


def test_an_evaluation_waits_for_the_device_once():
    """Everything is computed on the device, and four rows of results are copied to the host at once."""
    asked = []

    class Looks(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._local_scalar_dense.default:
                asked.append(func)
            return func(*args, **(kwargs or {}))

    class Copied(torch.Tensor):
        def cpu(self):
            asked.append("copy")
            return super().cpu()

    task = problem(100, 8)
    task = dataclasses.replace(task, build_model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 10)))
    model, real = PackedModel(task.build_model, [0, 1]), torch.stack
    with Looks(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation.torch, "stack", lambda parts: real(parts).as_subclass(Copied))
        evaluate(model, task, train_examples=None, chunk=9)
    assert asked == ["copy"]


def test_an_accelerator_gets_enough_to_do_at_once():
    """ResNet-20 on CIFAR-10 in a pack of 16, at 240 launches per pass; host chunks would need 448,000."""
    device, images = torch.device("cuda"), 60_000
    chunks = -(-images // (evaluation._rows(device, 3 * 32 * 32, 1) // 16))
    assert chunks * 240 < 25_000
