"""Tables of a study written out by hand, run by run: what a test asserts can be computed in the head."""

import pandas as pd

BUDGET = 100
INITIAL = 2.5
TARGET = 0.5


def row(
    optimizer="a",
    batch_size=8,
    seed=0,
    *,
    time=None,
    before=None,
    final=None,
    status="completed",
    steps=None,
    **params,
):
    """A run that meets TARGET at step `time`, or never, was evaluated `before` that, and ends at `final`.

    By default the evaluation before is a step earlier, as in a run that is evaluated at every step.
    """
    if final is None:
        final = 0.2 if time is not None else 1.0
    return {
        "optimizer": optimizer,
        "batch_size": batch_size,
        "seed": seed,
        "time": time,
        "before": time - 1 if before is None and time is not None else before,
        "final": final,
        "status": status,
        "steps": steps or BUDGET,
        "params": params or {"lr": 0.1},
    }


def tables(rows, *, seconds_a_step=0.5, shuffled=False):
    """Return runs and curves, with the columns of the store."""
    runs, curves = [], []
    for number, made in enumerate(rows):
        trial, batch = f"t{number}", made["batch_size"]
        has_result = made["status"] in ("completed", "diverged")
        steps = made["steps"] if has_result else 0
        cell = f"{made['optimizer']}-{batch}-{sorted(made['params'].items())}"
        runs.append(
            {
                "trial_id": trial,
                "cell_id": cell,
                "optimizer": made["optimizer"],
                "kind": "sgd",
                "batch_size": batch,
                "seed": made["seed"],
                **{f"param.{name}": value for name, value in made["params"].items()},
                "status": made["status"],
                "message": "",
                "steps": steps,
                "epochs": steps * batch / 1000,
                "initial_train_loss": INITIAL if has_result else float("nan"),
                "train_loss": made["final"] if has_result else float("nan"),
                "train_seconds": steps * seconds_a_step,
                "eval_seconds": 0.0,
                "flops": steps * batch * 10.0,
            }
        )
        points = [(0, INITIAL)]
        if made["time"] is not None:
            points += [(made["before"], INITIAL)] if made["before"] > 0 else []
            points.append((made["time"], TARGET))
        if made["time"] != made["steps"]:
            points.append((made["steps"], made["final"]))
        for step, loss in points if has_result else ():
            curves.append(
                {
                    "trial_id": trial,
                    "step": step,
                    "epoch": step * batch / 1000,
                    "lr": 0.1,
                    "train_seconds": step * seconds_a_step,
                    "flops": step * batch * 10.0,
                    "train_loss": loss,
                }
            )
    frame = pd.DataFrame(curves, columns=["trial_id", "step", "epoch", "lr", "train_seconds", "flops", "train_loss"])
    if shuffled:
        frame = frame.sample(frac=1, random_state=0)
    return pd.DataFrame(runs), frame
