"""Every built-in optimizer has the trajectory of an established implementation.

torch's optimizers run here. Trajectories of other packages are in golden.json, written by references.py. Each is
compared in a pack of two, where the other member has different hyperparameters.
"""

import json

import pytest
import torch
from scipy.linalg import fractional_matrix_power

from sensitivity.optimizers import fused
from tests.optimizers.cases import GRADIENTS, walked
from tests.optimizers.references import GOLDEN, STEPS, foreign, start, trajectory


def close(ours, theirs, tolerance):
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=tolerance)
        assert (value - start()[name]).abs().max() > 0.01, "it has walked"


@pytest.fixture
def exact():
    """Scalars of optimizers, such as NAdam's product, in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


TORCH = {
    "sgd": (
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    ),
    "adam": (
        {"lr": 0.01, "beta1": 0.8, "beta2": 0.95, "eps": 1e-6, "weight_decay": 0.1},
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    ),
    "adamw": (
        {"lr": 0.01, "beta1": 0.8, "beta2": 0.9999, "weight_decay": 0.3},
        lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.9999), weight_decay=0.3),
    ),
    "nadam": (
        {"lr": 0.01, "beta1": 0.8, "beta2": 0.95, "weight_decay": 0.1, "momentum_decay": 0.1, "decoupled": True},
        lambda p: torch.optim.NAdam(p, lr=0.01, betas=(0.8, 0.95), weight_decay=0.1, momentum_decay=0.1,
                                    decoupled_weight_decay=True),
    ),
    "rmsprop": (
        {"lr": 0.01, "beta2": 0.9, "momentum": 0.5, "weight_decay": 0.1, "centered": True},
        lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9, momentum=0.5, weight_decay=0.1, centered=True),
    ),
    "adagrad": (
        {"lr": 0.05, "lr_decay": 0.1, "weight_decay": 0.1},
        lambda p: torch.optim.Adagrad(p, lr=0.05, lr_decay=0.1, weight_decay=0.1),
    ),
    "torch.optim:AdamW": (
        {"lr": 0.01, "beta1": 0.8, "weight_decay": 0.3},
        lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.999), weight_decay=0.3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TORCH)
def test_it_is_torchs(kind, exact):
    numbers, build = TORCH[kind]
    close(walked(kind, **numbers), trajectory(build), 1e-13)


@pytest.mark.parametrize("kind", ["adam", "adamw", "adagrad"])
def test_updating_all_members_at_once_also_equals_torch(kind, exact, monkeypatch):
    monkeypatch.setattr(fused, "by_member", lambda lr: False)
    numbers, build = TORCH[kind]
    close(walked(kind, **numbers), trajectory(build), 1e-13)


@pytest.mark.parametrize(("kind", "alone"), [("nadam", True), ("rmsprop", True), ("rmsprop", False)])
def test_the_other_forms_are_torchs(kind, alone, exact, monkeypatch):
    monkeypatch.setattr(fused, "by_member", lambda lr: alone)
    build = {
        "nadam": lambda p: torch.optim.NAdam(p, lr=0.01, weight_decay=0.1),
        "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    }[kind]
    close(walked(kind, lr=0.01, **({"weight_decay": 0.1} if kind == "nadam" else {})), trajectory(build), 1e-13)


@pytest.mark.parametrize(("adjust", "theirs"), [("spectral", "original"), ("rms", "match_rms_adamw")])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_torchs_with_its_iteration_in_double_precision(adjust, theirs, nesterov, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.clone())  # its iteration rounds to this dtype

    def build(params):
        hidden = [params[0]]  # the last layer is AdamW's
        muon = torch.optim.Muon(hidden, lr=0.02, weight_decay=0.1, momentum=0.8, nesterov=nesterov, adjust_lr_fn=theirs)
        return muon, torch.optim.AdamW(params[1:], lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)

    ours = walked(
        "muon", lr=0.02, adam_lr=0.01, momentum=0.8, beta1=0.8, beta2=0.95, weight_decay=0.1,
        nesterov=nesterov, adjust=adjust,
    )  # fmt: skip
    close(ours, trajectory(build), 1e-12)


GOLDEN_CASES = {
    "lion": ({"lr": 1e-2, "beta1": 0.8, "beta2": 0.95, "weight_decay": 0.1}, 1e-14),
    "schedule_free_sgd": ({"lr": 0.3, "momentum": 0.8, "weight_decay": 0.01}, 1e-13),
    "schedule_free_adamw": ({"lr": 0.03, "beta1": 0.8, "beta2": 0.95, "eps": 1e-6, "weight_decay": 0.01}, 1e-13),
    # The reference's QR is in single precision.
    "soap": ({"lr": 0.01, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1, "precondition_interval": 4}, 3e-6),
    # As in the first paper: sums, no grafting, no momentum, roots at every step. Ours has no average at beta1 = 0.
    "shampoo": (
        {"lr": 0.05, "beta1": 0.0, "eps": 1e-3, "statistics": "sum", "graft": "none", "precondition_interval": 1},
        1e-11,
    ),
}


@pytest.mark.parametrize("kind", GOLDEN_CASES)
def test_it_is_the_packages(kind):
    numbers, tolerance = GOLDEN_CASES[kind]
    theirs = {
        name: torch.tensor(value, dtype=torch.float64) for name, value in json.loads(GOLDEN.read_text())[kind].items()
    }
    close(walked(kind, **numbers), theirs, tolerance)


def test_the_kept_trajectories_are_those_of_the_packages():
    for package in ("lion_pytorch", "pytorch_optimizer", "schedulefree"):
        pytest.importorskip(package)
    golden = json.loads(GOLDEN.read_text())
    for kind, (build, evaluated) in foreign().items():
        for name, value in trajectory(build, evaluated=evaluated).items():
            torch.testing.assert_close(torch.tensor(golden[kind][name], dtype=torch.float64), value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("graft", ["adam", "sgd"])
def test_grafted_shampoo_matches_its_equations_with_scipy_roots(graft):
    """No package implements this form; directions use SciPy's roots, and lengths are those of torch's Adam."""
    lr, beta1, beta2, eps, every = 0.02, 0.8, 0.95, 1e-6, 3
    params = start()
    factors, roots, means = {}, {}, {name: torch.zeros_like(p) for name, p in params.items()}
    shadow = {name: torch.nn.Parameter(torch.zeros_like(p)) for name, p in params.items()}
    adam_like = torch.optim.Adam(shadow.values(), lr=1.0, betas=(beta1, beta2), eps=eps)
    for step in range(STEPS):
        gradients = {name: g[0] for name, g in GRADIENTS({name: p[None] for name, p in params.items()}).items()}
        for name, p in shadow.items():
            p.data.zero_()
            p.grad = gradients[name].clone()
        adam_like.step()  # Adam's step from zero
        for name, p in params.items():
            g = gradients[name]
            means[name] = beta1 * means[name] + (1 - beta1) * g
            direction = corrected = means[name] / (1 - beta1 ** (step + 1))
            length = (shadow[name].detach() if graft == "adam" else corrected).norm()
            sides = [g @ g.T, g.T @ g] if g.dim() == 2 else [torch.outer(g, g)]
            for side, outer in enumerate(sides):
                key = name, side
                factors[key] = beta2 * factors.get(key, torch.zeros_like(outer)) + (1 - beta2) * outer
                if step % every == 0:
                    damped = factors[key] / (1 - beta2 ** (step + 1)) + eps * torch.eye(len(outer))
                    root = fractional_matrix_power(damped.numpy(), -1 / (2 * len(sides)))
                    roots[key] = torch.from_numpy(root.real.copy())
                direction = direction @ roots[key] if side else roots[key] @ direction
            params[name] = p * (1 - lr * 0.1) - lr * length * direction / direction.norm()
    numbers = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": 0.1, "graft": graft}
    close(walked("shampoo", **numbers, precondition_interval=every), params, 1e-9)
