"""States of torch's global generators, which initialise networks and are used by random layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sensitivity.study.seeds import derive

_RANDOM = (nn.modules.dropout._DropoutNd, nn.MultiheadAttention, nn.RNNBase)


def draws(module: nn.Module) -> bool:
    """Whether a layer draws random numbers in training."""
    rates = ("p", "dropout") if isinstance(module, _RANDOM) else ()
    return isinstance(module, nn.RReLU) or any(getattr(module, rate, 0.0) for rate in rates)


def cuda_of(device: torch.device) -> list[torch.device]:
    """Return the device in a list if it has its own generator, otherwise an empty list."""
    return [device] if device.type == "cuda" else []


def random_state(seed: int, device: torch.device) -> list[Tensor]:
    """Return the states of torch's global generators after seeding: the CPU's, and the accelerator's if used."""
    devices = [torch.device("cpu"), *cuda_of(device)]
    return [torch.Generator(device).manual_seed(seed).get_state() for device in devices]


def random_state_now(device: torch.device) -> list[Tensor]:
    """Return the current states of torch's global generators, in the form of `random_state`."""
    return [torch.random.get_rng_state(), *(torch.cuda.get_rng_state(each) for each in cuda_of(device))]


def set_random_state(state: Sequence[Tensor], device: torch.device) -> None:
    """Set torch's global generators to a state returned by `random_state` or `random_state_now`."""
    torch.random.set_rng_state(state[0])
    for each, kept in zip(cuda_of(device), state[1:], strict=True):
        torch.cuda.set_rng_state(kept, each)


def initialised(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return the initial network of a run with `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "init"))
        return build()
