"""Models with unusual use of inputs and autograd give correct results or are rejected with a message."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sensitivity.study.errors import StudyFileError
from sensitivity.study.trials import Pack, expand
from sensitivity.training.checks import check_study
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.loop import train_pack
from sensitivity.training.losses import cross_entropy
from sensitivity.training.packed_model import PackedModel
from sensitivity.training.problems import Problem


def problem(build) -> Problem:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(50, 6, generator=generator), torch.randint(0, 3, (50,), generator=generator)
    data = Dataset(train_inputs=x[:40], train_targets=y[:40], test_inputs=x[40:], test_targets=y[40:])
    return Problem(dataset=data, build_model=build, loss=cross_entropy, has_classes=True, outputs=3)


class Scaled(nn.Module):
    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.head, self.in_place = nn.Linear(6, 3), in_place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mul_(2) if self.in_place else x * 2)


@pytest.mark.parametrize("rates", [[0.1], [0.1, 0.05]], ids=["alone", "pack"])
def test_a_model_that_writes_to_its_input_changes_nobody_elses(make_study, rates):
    spec = make_study(
        batch_sizes=[20],
        budget={"steps": 4},
        evaluation={"every_steps": 1},
        optimizers={"a": {"kind": "sgd", "lr": rates}},
    )
    losses = {}
    for in_place in (False, True):
        task = problem(lambda in_place=in_place: Scaled(in_place=in_place))
        before = task.dataset.train_inputs.clone(), task.dataset.test_inputs.clone()
        check_study(spec, task, source="x.toml")
        results = train_pack(Pack(expand(spec)), task)
        losses[in_place] = [(m.train_loss, m.test_loss) for result in results for m in result.measurements]
        assert torch.equal(task.dataset.train_inputs, before[0])
        assert torch.equal(task.dataset.test_inputs, before[1])
    torch.testing.assert_close(torch.tensor(losses[True]), torch.tensor(losses[False]))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5)), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(checkpoint(self.body, x, use_reentrant=False))


@pytest.mark.parametrize("members", [1, 2])
def test_activation_checkpointing_is_refused(members):
    """It would silently rerun the body in the backward pass with weights of another member."""
    model = PackedModel(Checkpointed, range(members))
    with pytest.raises(RuntimeError, match="activation checkpointing"):
        model.train_outputs(torch.ones(members, 4, 6), record=False)


def test_studies_of_checkpointed_models_are_rejected(make_study):
    with pytest.raises(StudyFileError, match=r"problem\.model: .*activation checkpointing.*micro_batch"):
        check_study(make_study(batch_sizes=[8]), problem(Checkpointed), source="x.toml")
