"""A reference transformer in plain tensor operations, and its data."""

import hashlib
import math

import torch
from torch.nn import functional

from sensitivity.training.datasets import Dataset

CLASSES, TIME = 7, 5


def sequences() -> Dataset:
    generator = torch.Generator().manual_seed(2)
    stream = torch.randint(0, CLASSES, (40 * TIME + 1,), generator=generator)
    x, y = stream[:-1].view(40, TIME), stream[1:].view(40, TIME)
    return Dataset(train_inputs=x[:30], train_targets=y[:30], test_inputs=x[30:], test_targets=y[30:])


def derived(purpose, seed):
    return int.from_bytes(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:4], "big")


def rotated(x):
    """Rotate each pair (k, k + numbers / 2), as a complex number, by position · 10000^(-2k / numbers)."""
    half = x.shape[-1] // 2
    turns = torch.outer(torch.arange(x.shape[-2]).double(), 10_000.0 ** (-torch.arange(half).double() / half))
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(turns), turns)
    return torch.cat((turned.real, turned.imag), -1)


def plain_logits(p, ids, *, heads=2, divided=1.0, sharpness=None):
    """The network from definitions: one-hot embeddings, masked softmax attention, explicit norms."""
    width = p["tokens.weight"].shape[1]

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]
        )

    x = functional.one_hot(ids, CLASSES).double() @ p["tokens.weight"]
    if "positions.weight" in p:
        x = x + p["positions.weight"]
    size = width // heads
    sharpness = sharpness or 1 / math.sqrt(size)
    mask = torch.full((TIME, TIME), -math.inf, dtype=torch.float64).triu(1)
    for k in range(2):
        h = norm(x, f"blocks.{k}.norm")
        mixed = []
        for head in range(heads):
            rows = slice(head * size, (head + 1) * size)
            q, key, v = (h @ p[f"blocks.{k}.{name}.weight"][rows].T for name in ("query", "key", "value"))
            if "positions.weight" not in p:
                q, key = rotated(q), rotated(key)
            mixed.append((q @ key.transpose(1, 2) * sharpness + mask).softmax(-1) @ v)
        x = x + torch.cat(mixed, -1) @ p[f"blocks.{k}.mix.weight"].T
        h = norm(x, f"blocks.{k}.second_norm") @ p[f"blocks.{k}.widen.weight"].T
        h = h * (1 + torch.erf(h / math.sqrt(2))) / 2
        x = x + h @ p[f"blocks.{k}.narrow.weight"].T
    return norm(x, "norm") @ p.get("head.weight", p["tokens.weight"]).T / divided
