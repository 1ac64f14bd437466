"""A small study of the user's own: a module, a helper that it imports late, and a data file beside them."""

from pathlib import Path

import numpy as np

STUDY = """
name = "mine"
batch_sizes = [16]
seeds = {seeds}
[problem]
dataset = "{module}:data"
model = "{module}:net"
[budget]
steps = {steps}
[evaluation]
every_steps = {every}
[execution]
pack_size = 2
checkpoint_minutes = 0.002
[optimizers.sgd]
kind = "sgd"
lr = [0.01, 0.1]
"""
MODULE = """
from pathlib import Path
import numpy as np
from torch import nn

def data():
    from {module}_helper import halves
    return halves(np.load(Path(__file__).parent / "x.npy"))

def net(shape, outputs):
    return nn.Sequential(nn.Linear(shape[0], 8), nn.Tanh(), nn.Linear(8, outputs))
"""
HELPER = """
def halves(x):
    y = (x.sum(1) > 0).astype("int64")
    return x[:80], y[:80], x[80:], y[80:]
"""


def write_data(folder: Path, seed: int, scale: float = 1.0) -> None:
    """Write the data file: other values for another seed."""
    values = np.random.default_rng(seed).standard_normal((120, 5)) * scale
    beside = folder / f"x-{seed}.npy"
    np.save(beside, values.astype("float32"))
    beside.replace(folder / "x.npy")


def write_study(folder: Path, module: str, *, seeds: int = 2, steps: int = 40, every: int = 10) -> Path:
    """Write all of it, and return the study file."""
    folder.mkdir(exist_ok=True)
    path = folder / "mine.toml"
    path.write_text(STUDY.format(module=module, seeds=seeds, steps=steps, every=every))
    (folder / f"{module}.py").write_text(MODULE.format(module=module))
    (folder / f"{module}_helper.py").write_text(HELPER)
    write_data(folder, 0)
    return path
