"""Searches, pruning and maps choose on validation data if there are any; test results are only reported."""

import numpy as np
import pytest
import torch
from torch import nn

from sensitivity.study.errors import StudyFileError
from sensitivity.study.load import parse_study
from sensitivity.study.metrics import METRICS, USUAL, most_informative_first
from sensitivity.study.trials import Pack, expand
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.loop import train_pack
from sensitivity.training.losses import cross_entropy
from sensitivity.training.members import Member, stop_worse
from sensitivity.training.problems import Problem, load_problem

RAW = {
    "name": "t", "batch_sizes": [50], "seeds": 1, "budget": {"steps": 8}, "evaluation": {"every_steps": 4},
    "problem": {"validation_fraction": 0.25, "model_arguments": {"width": 8}},
    "optimizers": {"a": {"kind": "sgd", "lr": [0.01, 0.1, 1.0]}},
}  # fmt: skip


def test_validation_examples_are_a_stratified_part_of_the_training_set():
    spec = parse_study(RAW, source="test").required_problem
    whole = load_problem(spec.having({"validation_fraction": None}, {})).dataset
    data = load_problem(spec).dataset
    assert data.validation_targets is not None
    counts = torch.bincount(data.validation_targets) / torch.bincount(whole.train_targets)
    assert counts.numpy() == pytest.approx(0.25, abs=0.01)
    assert torch.equal(data.test_inputs, whole.test_inputs)
    both = torch.cat([data.train_inputs, data.validation_inputs]).flatten(1).numpy()
    rows = whole.train_inputs.flatten(1).numpy()
    assert np.array_equal(both[np.lexsort(both.T)], rows[np.lexsort(rows.T)])


def test_a_search_chooses_by_validation_and_maps_show_it():
    search = {"a": {"kind": "sgd", "design": "tpe", "samples": 4, "lr": {"log": [0.01, 1.0]}}}
    parse_study({**RAW, "optimizers": search, "search": {"objective": "validation_accuracy"}}, source="test")
    with pytest.raises(StudyFileError, match="so use the validation data of this study: validation_accuracy"):
        parse_study({**RAW, "optimizers": search, "search": {"objective": "test_accuracy"}}, source="test")
    with pytest.raises(StudyFileError, match=r"there are no validation data; give problem\.validation_fraction"):
        parse_study({**RAW, "problem": {}, "targets": {"validation_loss": [0.5]}}, source="test")
    assert most_informative_first([*USUAL, METRICS["validation_accuracy"]])[0] == "validation_accuracy"


def test_test_split_targets_cause_a_caution_with_validation_data():
    def caution(targets, problem=RAW["problem"], *looked_at):
        return parse_study({**RAW, "problem": problem, "targets": targets}, source="test").choice_caution(*looked_at)

    said = caution({"test_accuracy": [0.9], "test_loss": [0.1]})
    assert said.startswith("Settings are chosen by test_accuracy and test_loss although there are validation data")
    assert "Use validation_accuracy and validation_loss instead" in said
    assert caution({"test_accuracy": [0.9]}, {}) == "", "there are no others"
    assert caution({"validation_accuracy": [0.9], "train_loss": [0.1]}) == ""
    assert caution({}, RAW["problem"], METRICS["test_loss"]).startswith("Settings are chosen by test_loss although")


@pytest.mark.parametrize(("validated", "stopped"), [(True, 2), (False, 0)])
def test_pruning_goes_by_the_validation_loss(validated, stopped):
    """The validation loss ranks runs differently from the training loss."""
    members = [Member(trial, 1.0, 1.0) for trial in expand(parse_study(RAW, source="test"))]
    untrained, trained = [1.0, 1.0, 1.0], {"train_loss": [0.9, 0.5, 0.1], "validation_loss": [0.2, 0.3, 0.9]}
    for losses in (dict.fromkeys(trained, untrained), trained):
        scores = {name: torch.tensor(values) for name, values in losses.items() if validated or name == "train_loss"}
        for place, member in enumerate(members):
            member.measure(scores, place, lr_multiplier=1.0, judged=True)
    stop_worse(members)
    assert [bool(member.stopped) for member in members] == [place == stopped for place in range(3)]
    assert members[stopped].stopped.startswith("validation loss" if validated else "training loss")


def test_metrics_beyond_what_a_study_keeps_are_infinite():
    """A diverging run has a perplexity of exp(loss), which is too large to store."""
    (member, *_) = (Member(trial, 1.0, 1.0) for trial in expand(parse_study(RAW, source="test")))
    scores = {"train_loss": 520.0, "test_perplexity": 8e225, "test_r2": -1e150, "test_macro_f1": float("nan")}
    member.measure(
        {name: torch.tensor([value], dtype=torch.float64) for name, value in scores.items()},
        0,
        lr_multiplier=1.0,
        judged=False,
    )
    further = member.measurements[0].further
    assert (further["test_perplexity"], further["test_r2"]) == (float("inf"), -float("inf"))
    assert np.isnan(further["test_macro_f1"])
    assert member.measurements[0].train_loss == 520.0


def test_tokens_are_trained_and_measured_as_images_are():
    """With outputs [trials, batch, time, classes], packs equal single runs and a loop in plain PyTorch."""
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(0, 7, (90, 6), generator=generator)
    targets = (words + 1) % 7
    data = Dataset(
        train_inputs=words[:80], train_targets=targets[:80], test_inputs=words[80:], test_targets=targets[80:]
    )

    def build():
        return nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 9)).double()

    metrics = (*USUAL, METRICS["test_perplexity"], METRICS["test_macro_f1"])
    task = Problem(dataset=data, build_model=build, loss=cross_entropy, has_classes=True, outputs=9, metrics=metrics)
    trials = expand(parse_study({**RAW, "problem": {}, "seeds": 2}, source="test"))
    packed = train_pack(Pack(trials), task)
    for trial, run in zip(trials, packed, strict=True):
        (alone,) = train_pack(Pack((trial,)), task)
        for ours, theirs in zip(run.measurements, alone.measurements, strict=True):
            assert {m: ours.of(m) for m in metrics} == pytest.approx({m: theirs.of(m) for m in metrics}, rel=1e-9)
        last = run.measurements[-1]
        assert last.of("test_perplexity") == pytest.approx(np.exp(last.test_loss))
    assert min(run.measurements[-1].train_loss for run in packed) < packed[0].measurements[0].train_loss - 0.3
