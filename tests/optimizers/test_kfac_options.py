"""What K-FAC's room can do is reached from a study: each option is that of `KFAC` for one model."""

import pytest
import torch
from torch import nn

from sensitivity.kfac import KFAC, KFACConfig
from sensitivity.study.errors import StudyFileError
from sensitivity.study.load import parse_study
from sensitivity.study.trials import Pack, expand
from sensitivity.training.batches import PackBatches
from sensitivity.training.checks import check_study
from sensitivity.training.loop import train_pack
from sensitivity.training.packed_model import initialised
from tests.optimizers.cases import problem

OPTIONS = {
    "factored": {},
    "exact": {"damping_form": "exact"},
    "ekfac": {"damping_form": "exact", "ekfac": True},
    "reduce": {"sharing": "reduce"},
    "half of the batch": {"batch_fraction": 0.5},
    "decoupled": {"decoupled": True, "weight_decay": 0.1},
}


def study(*, execution=None, **arm):
    raw = {
        "name": "t", "batch_sizes": [24], "seeds": 1, "budget": {"steps": 8}, "evaluation": {"every_steps": 8},
        "optimizers": {"a": {"kind": "kfac", "lr": [0.03, 0.05], "damping": 0.2, "inverse_interval": 3, **arm}},
        "execution": execution or {},
    }  # fmt: skip
    return parse_study(raw, source="test")


@pytest.mark.parametrize("option", OPTIONS)
def test_a_member_is_the_optimizer_for_one_model(option):
    arm, task = OPTIONS[option], problem()
    result = train_pack(Pack(expand(study(**arm))), task)[1]
    network = initialised(task.build_model, 0)
    config = {name: value for name, value in arm.items() if name != "decoupled"}
    config["decoupled_weight_decay"] = arm.get("decoupled", False)
    optimizer = KFAC(network, KFACConfig(lr=0.05, damping=0.2, inverse_interval=3, **config))
    batches = PackBatches([0], task, batch_size=24, micro_batch=None, augment=False)
    for _ in range(8):
        (part,) = batches.draw()
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(part.inputs[0]), part.targets[0]).backward()
        optimizer.step()
    with torch.no_grad():
        loss = nn.functional.cross_entropy(network(task.dataset.train_inputs), task.dataset.train_targets).item()
    assert result.measurements[-1].train_loss == pytest.approx(loss, rel=1e-9)


def test_options_at_their_defaults_change_no_id():
    plain, explicit = study(), study(damping_form="factored", ekfac=False, sharing="expand", batch_fraction=1.0)
    assert [t.id for t in expand(plain)] == [t.id for t in expand(explicit)]
    assert len({expand(study(**arm))[0].id for arm in OPTIONS.values()}) == len(OPTIONS)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(StudyFileError, match='ekfac: needs damping_form = "exact"'):
        study(ekfac=True)
    with pytest.raises(StudyFileError, match="EKFAC needs whole batches"):
        check_study(study(**OPTIONS["ekfac"], execution={"micro_batch": 8}), problem(), source="x")
