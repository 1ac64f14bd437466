"""The noisy quadratic (Zhang et al. 2019, arXiv 1907.04164): a workload with an exactly known expected outcome.

The loss is sum_i h_i x_i^2 / 2, and the gradient of a batch of size B is h_i x_i plus noise of variance c_i / B,
with h_i = c_i = 1/i and initial x_i = 1. It uses the same pipeline as any network: an example is an index, and the
noise of a batch is computed from the set of its indices and a key drawn by each seed. Hence different batches and seeds
have different noise, and the cost of a step is negligible at any batch size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sensitivity.training.datasets.dataset import Dataset

DIMENSIONS = 1000
EXAMPLES = 2**17
_WORD = 2**32 - 1
_GOLDEN = 0x9E3779B9


def spectrum(dimensions: int = DIMENSIONS) -> Tensor:
    """Return the curvatures h_i = 1/i ``[dimensions]``, which are also the variances c_i of the gradient noise."""
    # On the CPU even if the network is built on the meta device to count its parameters, because the first meta kernel
    # of `arange` or of a division imports a large part of PyTorch's compiler, which takes every worker over a second.
    return 1 / torch.arange(1, dimensions + 1, dtype=torch.float64, device="cpu")


def expected_loss(
    *, lr: float, batch_size: int, steps: int, damping: float | None = None, dimensions: int = DIMENSIONS
) -> float:
    """Return the expected loss after a number of steps without momentum, in closed form.

    A step maps E[x^2] to r E[x^2] + q with r = (1 - lr p h)^2 and q = lr^2 p^2 c / B, where p = 1 for SGD and
    p = 1 / (h + damping) for Newton's method.
    """
    h = spectrum(dimensions)
    p = torch.ones_like(h) if damping is None else 1 / (h + damping)
    r = (1 - lr * p * h).square()
    q = (lr * p).square() * h / batch_size
    kept = r**steps
    passed = torch.where(r == 1, float(steps), (1 - kept) / (1 - r))
    return (h * (kept + q * passed)).sum().item() / 2


class NoisyQuadratic(nn.Module):
    """Maps indices of examples ``[batch, 1]`` to their losses ``[batch, 1]``, which have a noisy gradient.

    In evaluation mode, the loss is exact.
    """

    def __init__(self, dimensions: int = DIMENSIONS) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.ones(dimensions))
        # Constants are frozen parameters, because a network with buffers can't be vmapped over trials.
        self.curvature = nn.Parameter(spectrum(dimensions).float(), requires_grad=False)
        # Drawn without `torch.randint`, because its meta kernel also imports the compiler.
        self.key = nn.Parameter(torch.empty(1, dtype=torch.int64).random_(2**32), requires_grad=False)

    def forward(self, numbers: Tensor) -> Tensor:
        """Return h x^2 / 2 + noise x, summed over dimensions, with the same noise for all examples of a batch."""
        loss = (self.curvature * self.x.square()).sum() / 2
        if self.training:
            noise = gaussian(numbers, self.key, len(self.x), self.x.dtype) * self.curvature.sqrt()
            loss = loss + noise @ self.x.unsqueeze(1) / math.sqrt(len(numbers))
        return loss.expand(numbers.shape)


def quadratic(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Return the network of the noisy quadratic; the arguments are ignored."""
    return NoisyQuadratic()


def noisy_quadratic() -> Dataset:
    """Return the data set of indices; the targets are unused."""
    return Dataset(
        train_inputs=torch.arange(EXAMPLES)[:, None],
        train_targets=torch.zeros(EXAMPLES, 1),
        test_inputs=torch.zeros(1, 1, dtype=torch.int64),
        test_targets=torch.zeros(1, 1),
    )


def gaussian(numbers: Tensor, key: Tensor, dimensions: int, dtype: torch.dtype) -> Tensor:
    """Return standard normal noise ``[1, dimensions]``, a function of the set of indices ``[batch, 1]`` and the key."""
    word = _mixed((_mixed(numbers & _WORD).sum(0) & _WORD) ^ key)
    columns = torch.arange(1, dimensions + 1, device=numbers.device) * _GOLDEN & _WORD
    words = _mixed(word ^ columns).unsqueeze(0)
    # 23 bits, so that the midpoints of 2^23 equal parts of (-1, 1) are float32 values other than -1 and 1.
    uniform = ((words >> 9).to(dtype) * 2 + 1) / 2**23 - 1
    return torch.erfinv(uniform) * math.sqrt(2)


def _mixed(words: Tensor) -> Tensor:
    """Apply MurmurHash3's 32-bit finaliser to each word, so that every bit depends on every bit (Appleby 2011)."""
    words = ((words ^ (words >> 16)) * 0x85EBCA6B) & _WORD
    words = ((words ^ (words >> 13)) * 0xC2B2AE35) & _WORD
    return words ^ (words >> 16)
