"""Two gloo ranks with half a batch each against one process with the joint batch."""

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from sensitivity.kfac import KFAC, KFACConfig

DOUBLE = torch.float64
VARIANTS: dict[str, dict[str, Any]] = {
    "factored": {},
    "exact": {"damping_form": "exact", "others": "diagonal"},
    "ekfac": {"damping_form": "exact", "ekfac": True, "inverse_interval": 4},
    "type2, reduce": {"fisher": "type2", "sharing": "reduce"},
    "late layer": {"inverse_interval": 4},
    "tied": {},
    "monte_carlo": {"fisher": "monte_carlo"},
}
UNEVEN: dict[str, dict[str, Any]] = {
    **{f"uneven, {name}": VARIANTS[name] for name in ("factored", "exact", "ekfac", "late layer", "tied")},
    "uneven, reduce": {"sharing": "reduce"},
    "uneven, type2": {"fisher": "type2", "others": "diagonal"},
}
"""Ranks of 20 and 40 examples, whose losses are weighted to the mean over all."""


class Late(nn.Module):
    """A network whose last layer enters at the third step."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.last, self.calls = inner, nn.Linear(4, 4, dtype=DOUBLE), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.last(self.inner(x)) if self.calls > 2 else self.inner(x)


class Tied(nn.Module):
    """Four words, looked up and multiplied with."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner = nn.Embedding(4, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        word = (x[:, 0, 0, 0] > 0) + 2 * (x[:, 0, 0, 1] > 0)
        return functional.linear(torch.tanh(self.inner(self.words(word))), self.words.weight)


def network(variant: str) -> nn.Module:
    torch.manual_seed(0)
    if "tied" in variant:
        return Tied().to(DOUBLE)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.GroupNorm(1, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(27, 8),
        nn.Tanh(),
        nn.Linear(8, 4),
    ).to(DOUBLE)
    return Late(model) if "late layer" in variant else model


def train(
    model: nn.Module,
    config: KFACConfig,
    part: slice,
    *,
    uneven: bool = False,
    stated: bool = True,
    generators: Sequence[torch.Generator] = (),
) -> dict[str, torch.Tensor]:
    """Train; `generators` draw the labels of every other example each, as those of two ranks do."""
    optimizer = KFAC(model, config)
    for index in range(5):
        generator = torch.Generator().manual_seed(index)
        x = torch.randn(60, 1, 3, 3, generator=generator, dtype=DOUBLE)[part]
        y = torch.randint(4, (60,), generator=generator)[part]
        optimizer.zero_grad()
        batches = [(x[i::2], y[i::2]) for i in range(2)] if generators else [(x, y)]
        for i, (inputs, labels) in enumerate(batches):
            if generators:
                optimizer._generator = generators[i]
            outputs = model(inputs)
            optimizer.observe(outputs, terms=30 if uneven and stated else None)
            loss = functional.cross_entropy(outputs, labels, reduction="sum" if uneven else "mean")
            (loss / 30 if uneven else loss / max(1, len(generators))).backward()
        optimizer.step()
    return {name.removeprefix("module."): p.detach() for name, p in model.named_parameters()}


def rank_main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=300))
    found = {}
    for variant, options in VARIANTS.items():
        model = DistributedDataParallel(network(variant), find_unused_parameters=variant == "late layer")
        found[variant] = train(
            model, KFACConfig(lr=0.1, damping=0.1, **{"inverse_interval": 2, **options}), slice(rank, None, 2)
        )
    part = slice(20, None) if rank else slice(20)
    for variant, options in UNEVEN.items():
        model = DistributedDataParallel(network(variant), find_unused_parameters="late layer" in variant)
        config = KFACConfig(lr=0.1, damping=0.1, **{"inverse_interval": 2, **options})
        found[variant] = train(model, config, part, uneven=True)
        if config.fisher == "type2":  # the number of terms needs no statement
            again = DistributedDataParallel(network(variant))
            found[f"{variant}, not stated"] = train(again, config, part, uneven=True, stated=False)
    try:
        train(DistributedDataParallel(network("")), KFACConfig(), part, uneven=True, stated=False)
    except RuntimeError as error:
        found["refused"] = {str(error): torch.zeros(())}
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    commands = [[sys.executable, __file__, str(rank), str(folder)] for rank in range(2)]
    running = [subprocess.Popen(c, env=environment, stderr=subprocess.PIPE, text=True) for c in commands]
    errors = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, torch.Tensor]]:
    found = {}
    for variant, options in (VARIANTS | UNEVEN).items():
        config = KFACConfig(lr=0.1, damping=0.1, **{"inverse_interval": 2, **options})
        drawn = [torch.Generator().manual_seed(rank) for rank in range(2)] if variant == "monte_carlo" else []
        found[variant] = train(network(variant), config, slice(None), generators=drawn)
    return found


@pytest.mark.parametrize("variant", [*VARIANTS, *UNEVEN])
def test_two_ranks_are_one_process_with_the_joint_batch(variant: str, ranks: Any, alone: Any) -> None:
    for found in (variant, f"{variant}, not stated") if f"{variant}, not stated" in ranks[0] else (variant,):
        for name, p in alone[variant].items():
            torch.testing.assert_close(ranks[0][found][name], p, rtol=1e-8, atol=1e-11)
            assert torch.equal(ranks[0][found][name], ranks[1][found][name])


def test_ranks_of_different_sizes_are_asked_how_their_losses_are_weighted(ranks: Any) -> None:
    for rank, own in enumerate((20, 40)):
        (message,) = ranks[rank]["refused"]
        assert f"({own} of 60 on this one)" in message
        assert "optimizer.observe(outputs, terms=total / world_size)" in message


if __name__ == "__main__":
    rank_main(int(sys.argv[1]), sys.argv[2])
