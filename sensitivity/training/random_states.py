"""States of torch's own generators: the network they begin a run with, and the layers that draw from them."""

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
    """Return the device, if its generator is one beside the CPU's."""
    return [device] if device.type == "cuda" else []


def random_state(seed: int, device: torch.device) -> list[Tensor]:
    """Return the states of torch's own generators after seeding them: the CPU's, and an accelerator's if used."""
    devices = [torch.device("cpu"), *cuda_of(device)]
    return [torch.Generator(device).manual_seed(seed).get_state() for device in devices]


def random_state_now(device: torch.device) -> list[Tensor]:
    """Return the states of torch's own generators, as `random_state` does."""
    return [torch.random.get_rng_state(), *(torch.cuda.get_rng_state(each) for each in cuda_of(device))]


def set_random_state(state: Sequence[Tensor], device: torch.device) -> None:
    """Set torch's own generators to what one of these returned."""
    torch.random.set_rng_state(state[0])
    for each, kept in zip(cuda_of(device), state[1:], strict=True):
        torch.cuda.set_rng_state(kept, each)


def initialised(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return the network that a run with `seed` begins with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "init"))
        return build()
