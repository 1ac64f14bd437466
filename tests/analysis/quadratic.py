"""Studies of the noisy quadratic (Zhang et al. 2019, arXiv 1907.04164), as tables, from its closed form.

After t steps E[x_i^2] = r^t (x_0^2 - s) + s with r = (1 - lr p h)^2 and s = lr^2 p^2 c / (B (1 - r)); p = 1 for SGD
and 1 / (h + damping) for idealised K-FAC; the loss is sum_i h_i E[x_i^2] / 2.
"""

import itertools

import numpy as np
import pandas as pd

SPECTRUM = 1.0 / np.arange(1, 101)
BOUND = 10.0
STEP_SECONDS = {"sgd": 1e-3, "kfac": 2e-3}


def closed_form(steps, lr, batch, *, damping=None, h=SPECTRUM, c=None, x0=1.0):
    """Expected loss after `steps` [steps]."""
    c = h if c is None else c
    p = np.ones_like(h) if damping is None else 1.0 / (h + damping)
    r = (1.0 - lr * p * h) ** 2
    t = np.asarray(steps, dtype=float)[:, None]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        # s (1 - r^t) = lr^2 p^2 c / B * (1 + r + ... + r^(t-1)), which has a limit at r = 1.
        noise = lr**2 * p**2 * c / batch * np.where(r == 1.0, t, (1.0 - r**t) / (1.0 - r))
        squares = r**t * x0**2 + noise
    return 0.5 * (squares @ h)


def evaluations(budget, count=250):
    """Steps at which a run is measured: 0, then evenly in logarithms."""
    return np.unique(np.round(np.geomspace(1, budget, count)).astype(int)).tolist()


def configurations(points=13):
    lrs = np.geomspace(1e-3, 10, points)
    dampings = np.geomspace(1e-3, 1.0, 7)
    return {
        "kfac": [{"lr": lr, "damping": damping} for lr, damping in itertools.product(lrs, dampings)],
        "sgd": [{"lr": lr} for lr in lrs],
    }


def make_study(
    *, batches=(4, 16, 64, 256, 1024), seeds=3, noise=0.05, warp=0.0, rng=None, budget=4000, arms=None, count=250
):
    """Return runs and curves. Each run has lognormal factors of its own: `noise` scatters its loss, `warp` its pace, so
    that T is the closed form's times the factor. `arms`: name -> (kind, configurations)."""
    rng = rng or np.random.default_rng(0)
    arms = arms or {name: (name, cells) for name, cells in configurations().items()}
    steps = np.array([0, *evaluations(budget, count)])
    runs, curves = [], []
    for name, (kind, cells) in arms.items():
        for batch, (number, cell) in itertools.product(batches, enumerate(cells)):
            exact = closed_form(steps, cell["lr"], batch, damping=cell.get("damping"))
            initial = exact[0]
            for seed in range(seeds):
                pace = np.exp(warp * rng.standard_normal())
                own = closed_form(steps * pace, cell["lr"], batch, damping=cell.get("damping")) if warp else exact
                loss = own * np.exp(noise * rng.standard_normal())
                loss[0] = initial
                bad = ~(loss <= BOUND * initial)
                ended = int(bad.argmax()) if bad.any() else len(steps)
                trial = f"{name}-{batch}-{number}-{seed}"
                last = int(steps[min(ended, len(steps) - 1)])
                seconds = STEP_SECONDS[kind] * batch**0.5
                runs.append(
                    {
                        "trial_id": trial,
                        "cell_id": f"{name}-{batch}-{number}",
                        "optimizer": name,
                        "kind": kind,
                        "batch_size": batch,
                        "seed": seed,
                        **{f"param.{key}": value for key, value in cell.items()},
                        "status": "diverged" if bad.any() else "completed",
                        "message": "",
                        "steps": last,
                        "epochs": last * batch / 10_000,
                        "initial_train_loss": initial,
                        "train_loss": loss[ended - 1],
                        "train_seconds": last * seconds,
                        "eval_seconds": 0.0,
                        "flops": last * batch * 1e6,
                    }
                )
                curves.append((trial, steps[:ended], loss[:ended], seconds, batch, cell["lr"]))
    table = pd.DataFrame(
        {
            "trial_id": np.repeat([row[0] for row in curves], [len(row[1]) for row in curves]),
            "step": np.concatenate([row[1] for row in curves]),
            "train_loss": np.concatenate([row[2] for row in curves]),
            "train_seconds": np.concatenate([row[1] * row[3] for row in curves]),
            "epoch": np.concatenate([row[1] * row[4] / 10_000 for row in curves]),
            "flops": np.concatenate([row[1] * row[4] * 1e6 for row in curves]),
            "lr": np.concatenate([np.full(len(row[1]), row[5]) for row in curves]),
        }
    )
    return pd.DataFrame(runs), table


def exact_time(target, batch, cell, budget=4000):
    """Steps at which the closed form meets `target`; infinite where it doesn't within the budget."""
    steps = np.arange(budget + 1)
    loss = closed_form(steps, cell["lr"], batch, damping=cell.get("damping"))
    if not np.all(loss <= BOUND * loss[0]):
        return np.inf
    met = loss <= target
    return float(met.argmax()) if met.any() else np.inf


def exact_best(target, batch, cells, budget=4000):
    """Fewest steps to `target` over `cells`."""
    return min(exact_time(target, batch, cell, budget) for cell in cells)
