"""Losses and metrics compared with torch and scikit-learn, for images and masked sequences, and for any chunks."""

import math

import pytest
import sklearn.metrics
import torch
from torch.nn import functional

from sensitivity.study.errors import UserError
from sensitivity.study.problem import ProblemSpec
from sensitivity.training.losses import IGNORED, loss_of
from sensitivity.training.metrics import accumulator

TRIALS, BATCH, TIME = 3, 40, 5


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(*shape, count, seed=1):
    return torch.randint(0, count, shape, generator=torch.Generator().manual_seed(seed))


def measured(name, outputs, targets, *, chunk=7, loss=None):
    found = accumulator(name, {})
    for start in range(0, len(targets), chunk):
        found.add(outputs[:, start : start + chunk], targets[start : start + chunk])
    return found.result(torch.zeros(len(outputs)) if loss is None else loss).tolist()


@pytest.mark.parametrize("count", [7, 20])  # computed by two kernels
@pytest.mark.parametrize("shape", [(BATCH,), (BATCH, TIME)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_torch_for_each_trial(count, shape, smoothing):
    outputs, targets = draw(TRIALS, *shape, count), classes(TRIALS, *shape, count=count)
    loss = loss_of(ProblemSpec(loss_arguments={"class_weights": [1.0] * count}))
    for found in (loss.smoothed(smoothing), loss_of(ProblemSpec()).smoothed(smoothing)):
        truth = [
            functional.cross_entropy(o.reshape(-1, count), t.flatten(), label_smoothing=smoothing).item()
            for o, t in zip(outputs, targets, strict=True)
        ]
        assert found(outputs, targets).tolist() == pytest.approx(truth, rel=1e-12)
        assert found.terms(outputs, targets).shape == targets.shape


def test_masked_terms_count_for_nothing():
    outputs, targets = draw(TRIALS, BATCH, TIME, 4), classes(TRIALS, BATCH, TIME, count=4)
    targets[:, ::3, 2:] = IGNORED
    loss = loss_of(ProblemSpec(), masked=True)
    truth = [
        functional.cross_entropy(o.flatten(0, 1), t.flatten()).item() for o, t in zip(outputs, targets, strict=True)
    ]
    assert loss(outputs, targets).tolist() == pytest.approx(truth, rel=1e-12)
    changed = torch.where((targets == IGNORED).unsqueeze(-1), 1e3, outputs)
    assert torch.equal(loss(changed, targets), loss(outputs, targets))
    one = targets[0]
    kept = one != IGNORED
    for name in ("accuracy", "macro_f1", "auroc"):
        padded, plain = measured(name, outputs, one), measured(name, outputs[:, kept], one[kept])
        assert padded == pytest.approx(plain, rel=1e-12), name


@pytest.mark.parametrize(
    ("loss", "arguments", "truth"),
    [
        ("squared_error", {}, lambda o, t: functional.mse_loss(o, t, reduction="sum") / len(o) / 2),
        ("huber", {"delta": 0.3}, lambda o, t: functional.huber_loss(o, t, reduction="sum", delta=0.3) / len(o)),
        (
            "binary_cross_entropy",
            {},
            lambda o, t: functional.binary_cross_entropy_with_logits(o, t.clamp(0, 1)),
        ),
    ],
)
def test_losses_of_values_are_those_of_torch(loss, arguments, truth):
    outputs, targets = draw(TRIALS, BATCH, 3), draw(TRIALS, BATCH, 3, seed=2)
    targets = targets.clamp(0, 1) if loss == "binary_cross_entropy" else targets
    found = loss_of(ProblemSpec(loss=loss, loss_arguments=arguments))(outputs, targets)
    assert found.tolist() == pytest.approx([truth(o, t).item() for o, t in zip(outputs, targets, strict=True)])


def test_weights_multiply_the_loss_of_their_class():
    outputs, targets = draw(1, BATCH, 3), classes(1, BATCH, count=3)
    weights = [1.0, 5.0, 0.0]
    found = loss_of(ProblemSpec(loss_arguments={"class_weights": weights}))
    plain = functional.cross_entropy(outputs[0], targets[0], reduction="none")
    assert found(outputs, targets).item() == pytest.approx((plain * torch.tensor(weights)[targets[0]]).mean().item())
    assert found.kind is None, "no likelihood has weights, so that K-FAC samples none"


@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("shape", [(BATCH,), (BATCH, TIME)])
def test_metrics_of_classes_are_those_of_scikit_learn(count, shape):
    outputs, targets = draw(TRIALS, *shape, count), classes(*shape, count=count)
    outputs[..., 0] = outputs[..., 0].round()  # some ties
    wanted = targets.flatten().numpy()
    for k in range(TRIALS):
        scores = outputs[k].reshape(-1, count)
        said, shares = scores.argmax(1).numpy(), scores.softmax(1).numpy()
        assert measured("accuracy", outputs, targets)[k] == pytest.approx(sklearn.metrics.accuracy_score(wanted, said))
        truth = sklearn.metrics.f1_score(wanted, said, average="macro")
        assert measured("macro_f1", outputs, targets)[k] == pytest.approx(truth)
        of_score = shares[:, 1] if count == 2 else shares
        truth = sklearn.metrics.roc_auc_score(wanted, of_score, multi_class="ovr")
        assert measured("auroc", outputs, targets)[k] == pytest.approx(truth)
        if count > 5:
            truth = sklearn.metrics.top_k_accuracy_score(wanted, shares, k=5)
            assert measured("top5_accuracy", outputs, targets)[k] == pytest.approx(truth)
    flat = torch.tensor([math.log(3.0)] * TRIALS)
    assert measured("perplexity", outputs, targets, loss=flat) == pytest.approx([3.0] * TRIALS)


def test_metrics_of_labels_and_values_are_those_of_scikit_learn():
    outputs, values = draw(TRIALS, BATCH, 4), 1e4 + draw(BATCH, 4, seed=3)
    labels = (draw(BATCH, 4, seed=4) > 0).double()
    for k in range(TRIALS):
        said = (outputs[k] > 0).numpy()
        truth = sklearn.metrics.f1_score(labels.numpy(), said, average="macro", zero_division=0)
        assert measured("macro_f1", outputs, labels)[k] == pytest.approx(truth)
        truth = sklearn.metrics.roc_auc_score(labels.numpy(), outputs[k].numpy(), average="macro")
        assert measured("auroc", outputs, labels)[k] == pytest.approx(truth)
        near = values + outputs * 0.1
        truth = sklearn.metrics.r2_score(values.numpy(), near[k].numpy())
        assert measured("r2", near, values)[k] == pytest.approx(truth, rel=1e-6)


def test_a_class_that_is_absent_is_left_out_of_the_area():
    outputs, targets = draw(1, 12, 3), torch.tensor([0, 2] * 6)
    shares = outputs[0].softmax(1)
    each = [sklearn.metrics.roc_auc_score((targets == c).int().numpy(), shares[:, c].numpy()) for c in (0, 2)]
    assert measured("auroc", outputs, targets) == pytest.approx([sum(each) / 2])
    assert math.isnan(measured("auroc", outputs, torch.zeros(12, dtype=torch.int64))[0])


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"loss": "huber", "loss_arguments": {"delta": -1.0}}, "delta: give a number above 0"),
        ({"loss_arguments": {"class_weights": [0.0, 0.0]}}, "class_weights: give a number >= 0 for each class"),
        (
            {"loss": "squared_error", "loss_arguments": {"delta": 1.0}},
            'argument of "squared_error"; it takes no arguments',
        ),
        ({"loss": "squared_error", "metrics": {"macro_f1": True}}, "macro_f1: needs targets that are classes"),
        ({"loss": "huber", "metrics": {"perplexity": True}}, "perplexity: the exponential of the cross-entropy"),
        ({"metrics": {"macrof1": True}}, r"macrof1: unknown metric \(did you mean 'macro_f1'\?\)"),
        ({"metrics": {"accuracy": "a:b"}}, "accuracy: a shipped metric has this name"),
        ({"metrics": {"Gain!": "a:b"}}, "Gain!: a name is a lower-case letter"),
        ({"metrics": {"gain": 3}}, 'give true for a shipped one, "module:function", or a table'),
        ({"metrics": {"gain": {"function": "a:b", "low": 1.0, "high": 0.0}}}, "low must be below high"),
    ],
)
def test_what_cannot_be_is_one_message(raw, words):
    with pytest.raises(ValueError, match=words) as caught:
        ProblemSpec(**raw)
    assert not isinstance(caught.value, UserError)
