"""K-FAC options of a study, compared with those of `KFAC` for single models."""

import pickle
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from sensitivity.kfac import KFAC, KFACConfig, LevenbergMarquardt
from sensitivity.study.errors import StudyFileError
from sensitivity.study.load import parse_study
from sensitivity.study.seeds import derive
from sensitivity.study.trials import Pack, expand
from sensitivity.training.batches import PackBatches
from sensitivity.training.checks import check_study
from sensitivity.training.loop import train_pack
from sensitivity.training.random_states import initialised
from tests.optimizers.cases import losses, problem

OPTIONS = {
    "factored": {},
    "exact": {"damping_form": "exact"},
    "ekfac": {"damping_form": "exact", "ekfac": True},
    "reduce": {"sharing": "reduce"},
    "half of the batch": {"batch_fraction": 0.5},
    "decoupled": {"decoupled": True, "weight_decay": 0.1},
    "monte_carlo": {"fisher": "monte_carlo"},
    "type2": {"fisher": "type2", "factor_interval": 3},
    "type2 ekfac": {"fisher": "type2", "damping_form": "exact", "ekfac": True},
    "diagonal": {"others": "diagonal"},
    "falling": {"damping_end": 0.01},
    "adapted": {"damping_rule": "levenberg_marquardt", "adapt_interval": 2, "weight_decay": 0.01},
}


def study(*, execution=None, **arm):
    raw = {
        "name": "t", "batch_sizes": [24], "seeds": 1, "budget": {"steps": 8}, "evaluation": {"every_steps": 8},
        "optimizers": {"a": {"kind": "kfac", "lr": [0.03, 0.05], "damping": 0.2, "inverse_interval": 3, **arm}},
        "execution": execution or {},
    }  # fmt: skip
    return parse_study(raw, source="test")


def normed():
    """The problem with batch and layer normalisation, which vmap supports."""

    def build():
        layers = (nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6))
        return nn.Sequential(*layers).double()

    return replace(problem(), build_model=build)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("option", OPTIONS)
def test_a_member_is_the_optimizer_for_one_model(option, seed):
    arm, task = OPTIONS[option], normed() if option == "diagonal" else problem()
    spec = study(**arm)
    trials = [trial for trial in expand(spec.replace(seeds=2)) if dict(trial.hyperparameters)["lr"] == 0.05]
    result = train_pack(Pack(tuple(trials)), task)[seed]
    network = initialised(task.build_model, seed)
    own = {"decoupled", "damping_end", "damping_rule", "adapt_interval"}
    config = {name: value for name, value in arm.items() if name not in own}
    config["decoupled_weight_decay"] = arm.get("decoupled", False)
    if "damping_end" in arm:
        config["damping_schedule"] = lambda step: arm["damping_end"] ** (step / 8)
    if "damping_rule" in arm:
        config["levenberg_marquardt"] = LevenbergMarquardt(interval=2)
    generator = torch.Generator().manual_seed(derive(seed, "fisher"))
    settings = {"lr": 0.05, "damping": 0.2, "inverse_interval": 3, **config}
    optimizer = KFAC(network, KFACConfig(**settings), generator=generator)
    batches = PackBatches([seed], task, batch_size=24, micro_batch=None, augment=False)

    def loss_of(part):
        return nn.functional.cross_entropy(network(part.inputs[0]), part.targets[0])

    def penalty():
        return 0.005 * sum(p.detach().square().sum().item() for p in network.parameters())

    ratios = []
    for _ in range(8):
        (part,) = batches.draw()
        optimizer.zero_grad()
        outputs = network(part.inputs[0])
        if config.get("fisher"):
            optimizer.observe(outputs)
        loss = nn.functional.cross_entropy(outputs, part.targets[0])
        loss.backward()
        before = loss.item() + penalty()
        optimizer.step()
        if "damping_rule" in arm:
            ratios.append(optimizer.adapt_damping(before, loss_of(part).item() + penalty()))
    with torch.no_grad():
        network.eval()
        loss = nn.functional.cross_entropy(network(task.dataset.train_inputs), task.dataset.train_targets).item()
    assert result.measurements[-1].train_loss == pytest.approx(loss, rel=1e-9)
    if ratios:
        assert [ratio is None for ratio in ratios] == [False, True] * 4
        assert optimizer.param_groups[0]["damping"] != 0.2


@pytest.mark.parametrize("option", ["monte_carlo", "falling", "adapted"])
def test_diverging_members_and_resuming_change_nothing(option):
    task, states = problem(), []
    both = study(**OPTIONS[option], lr=[0.05, 1e9]).replace(**{"evaluation.every_steps": 2})
    (alone,) = train_pack(Pack(expand(both.replace(**{"optimizers.a.lr": [0.05]}))), task)

    def keep(training):
        if training.done == 4:
            states.append(pickle.loads(pickle.dumps(training.state())))

    pack = Pack(expand(both))
    found, wild = train_pack(pack, task, on_check=keep)
    assert wild.status == "diverged"
    again, _ = train_pack(pack, task, resume=states[0])
    assert losses(found) == pytest.approx(losses(alone), rel=1e-9)
    assert losses(again) == losses(found)


def test_options_at_their_defaults_change_no_id():
    plain, explicit = study(), study(damping_form="factored", ekfac=False, sharing="expand", batch_fraction=1.0)
    assert [t.id for t in expand(plain)] == [t.id for t in expand(explicit)]
    assert len({expand(study(**arm))[0].id for arm in OPTIONS.values()}) == len(OPTIONS)


def test_what_does_not_go_together_is_refused():
    for arm, said in (
        ({"damping_rule": "levenberg_marquardt", "damping_end": 0.1}, "adapts the damping itself"),
        ({"adapt_interval": 3}, 'needs damping_rule = "levenberg_marquardt"'),
        ({"damping_end": [0.0, 1.0]}, "damping_end must be > 0; got 0"),
        ({"fisher": "exact"}, "Allowed: empirical, monte_carlo, type2"),
    ):
        with pytest.raises(StudyFileError, match=re.escape(said)):
            study(**arm)
    with pytest.raises(StudyFileError, match="is for normalisation layers, but the model has no"):
        check_study(study(others="diagonal"), problem(), source="x")
    with pytest.raises(StudyFileError, match='ekfac: needs damping_form = "exact"'):
        study(ekfac=True)
    with pytest.raises(StudyFileError, match="EKFAC needs whole batches"):
        check_study(study(**OPTIONS["ekfac"], execution={"micro_batch": 8}), problem(), source="x")
