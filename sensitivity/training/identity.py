"""Digests of a loaded problem, and checks based on them (``study.identity``)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sensitivity.study.errors import UserError
from sensitivity.study.identity import NETWORK_SEED, Digest, Identity
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.problems import Problem
from sensitivity.training.random_states import initialised

_ROWS, _NUMBERS = 4096, 1 << 22
"""Maximum rows and values that are read at once from an array, which may be larger than memory."""
_NOISE = 1e-12
"""Relative to the largest column's scale; columns with a smaller scale are zero up to double-precision rounding."""
_PROBE = 16
"""Number of examples on which two builds of a network are compared."""
_ROUNDING = 1e-4
"""Tolerance relative to the largest output; two builds of the same network differ by less with any kernels."""
_DRAWS = (
    "It depends on something that differs each time: an unseeded generator (torch, numpy, random), os.urandom, the time"
)


def identity(problem: Problem) -> Identity:
    """Return the digests of a problem's data, on the CPU in training precision, and of its network."""
    network = initialised(problem.build_model, NETWORK_SEED)
    return Identity(**data_digests(problem.dataset), network=network_digest(network))


def data_digests(dataset: Dataset) -> dict[str, Digest]:
    """Return the digest of each array of a data set."""
    names = ("train_inputs", "train_targets", "test_inputs", "test_targets")
    arrays = {name: {"": getattr(dataset, name)} for name in names}
    if dataset.validation_inputs is not None and dataset.validation_targets is not None:  # held out
        arrays["test_inputs"]["validation"] = dataset.validation_inputs
        arrays["test_targets"]["validation"] = dataset.validation_targets
    return {name: digest(tensors) for name, tensors in arrays.items()}


def network_digest(network: nn.Module) -> Digest:
    """Return the digest of a network's parameters and buffers."""
    return digest({**dict(network.named_parameters()), **dict(network.named_buffers())})


def digest(tensors: Mapping[str, Tensor]) -> Digest:
    """Return the digest of tensors, by name."""
    whole, exact = hashlib.sha256(), hashlib.sha256()
    projection, square = 0.0, 0.0
    generator = torch.Generator().manual_seed(0)  # shared by all arrays, so that swapped arrays have different digests
    for name, tensor in tensors.items():
        values = tensor.detach()
        kind = f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"
        for each in (whole, exact):
            each.update(f"{name} {kind}\0".encode())
        for part in torch.split(values, _rows(values)) if values.dim() else [values]:
            content = part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            whole.update(content)
            if not values.is_floating_point():
                exact.update(content)
        if values.is_floating_point():
            added = _projected(values.cpu(), generator)
            projection, square = projection + added[0], square + added[1]
    if len(tensors) == 1:
        form = kind if values.is_floating_point() else f"{kind} ({exact.hexdigest()[:12]})"
    else:
        form = f"{len(tensors)} arrays of {sum(t.numel() for t in tensors.values()):,} ({exact.hexdigest()[:12]})"
    return Digest(form=form, sha256=whole.hexdigest(), projection=projection, norm=math.sqrt(square))


def _rows(values: Tensor) -> int:
    return max(1, min(_ROWS, _NUMBERS // max(1, values[:1].numel())))


def _projected(values: Tensor, generator: torch.Generator) -> tuple[float, float]:
    """Return the projection and the squared norm of an array ``[rows, ...]`` with scaled columns."""
    rows = values.flatten(1) if values.dim() > 1 else values.reshape(-1, 1)
    parts = torch.split(rows, _rows(rows))
    squares = torch.stack([part.double().square().sum(0) for part in parts]).sum(0)
    scales = (squares / max(1, len(rows))).sqrt()
    kept = scales > _NOISE * scales.max() if scales.numel() else scales > 0
    columns = _weights(rows.shape[1], generator)[kept]
    scales = scales[kept]
    projection = math.sqrt(len(rows)) * (columns @ scales.log())
    for part in parts:
        projection += _weights(len(part), generator) @ (part.double()[:, kept] @ (columns / scales))
    return projection.item(), float(len(rows) * len(scales))


def _weights(count: int, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(count, generator=generator, dtype=torch.float64) * 2 - 1
    return drawn + torch.where(drawn < 0, -0.5, 0.5)


def check_repeats(found: Identity, again: Dataset, *, named: str) -> None:
    """Compare the data returned by a user's function with those of a second call, `again`.

    Raises:
        UserError: they differ; the message names the arrays.
    """
    others = [name.replace("_", " ") for name, d in data_digests(again).items() if not getattr(found, name).is_same(d)]
    if others:
        raise UserError(
            f"problem.dataset: {named} returns different {', '.join(others)} when called again\n"
            f"  Every worker calls it and would train on different data. {_DRAWS}\n"
            "  Use a seeded generator: torch.randperm(n, generator=torch.Generator().manual_seed(0)), "
            "numpy.random.default_rng(0)"
        )


def check_follows_seed(problem: Problem, *, named: str) -> None:
    """Build the network twice with the same seed, and compare parameters, buffers, and outputs in both modes.

    Raises:
        UserError: they differ.
    """
    first, second = (initialised(problem.build_model, NETWORK_SEED) for _ in range(2))
    what = ""
    if not network_digest(first).is_same(network_digest(second)):
        what = "different initial parameters"
    elif not all(_are_close(*outputs) for outputs in _outputs(problem, first, second)):
        what = "different outputs"
    if what:
        raise UserError(
            f"problem.model: {named} has {what} when it is built again with the same seed\n"
            f"  A run's seed would then not determine its result. {_DRAWS}\n"
            "  Draw with torch only, without setting a seed (torch.randn, torch.nn.init); each run sets the seed "
            "before it builds its network"
        )


def _outputs(problem: Problem, first: nn.Module, second: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return the outputs of both networks for the same examples, in training and evaluation mode."""
    inputs = problem.dataset.standardised(problem.dataset.train_inputs[:_PROBE])
    found = []
    for training in (True, False):
        outputs = []
        for network in (first, second):
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(0)  # dropout's masks
                outputs.append(network.train(training)(inputs.clone()).double())
        found.append((outputs[0], outputs[1]))
    return found


def _are_close(first: Tensor, second: Tensor) -> bool:
    largest = torch.stack([first.abs().max(), second.abs().max()]).max().item()
    return torch.allclose(first, second, rtol=0, atol=_ROUNDING * largest)
