"""Batched matrices of a pack, ``[trials, rows, columns]``: what Muon, Shampoo and SOAP have in common.

Every function treats members apart: one whose numbers aren't finite leaves the others as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sensitivity.kfac.precision import full_precision


def as_matrices(tensor: Tensor) -> Tensor:
    """Return parameters of two or more dimensions as matrices: the first dimension by all others."""
    return tensor.flatten(2)


def is_matrix(parameter: Tensor) -> bool:
    """Whether parameters ``[trials, ...]`` have two or more dimensions of their own."""
    return parameter.dim() > 2


def hidden_matrices(network: nn.Module) -> frozenset[str]:
    """Return the names of the weights of linear and convolutional layers, but for the last: the hidden matrices."""
    layers = [
        f"{name}.weight" if name else "weight"
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    ]
    return frozenset(layers[:-1])


def orthogonalised(matrices: Tensor, steps: int) -> Tensor:
    """Return about U Vᵀ of each matrix U S Vᵀ, by Newton-Schulz iterations (Jordan et al. 2024).

    The quintic's coefficients make small singular values rise fastest; those of the result are about 0.7 to 1.2 after
    five steps, or less where they began below a hundredth of the largest.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x).clamp_min(1e-7)[:, None, None]
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def orthogonalising_flops(rows: int, columns: int, steps: int) -> float:
    """Return the FLOPs of `orthogonalised` for one matrix."""
    short, long = sorted((rows, columns))
    return steps * (4 * short**2 * long + 2 * short**3)


def decomposable(matrices: Tensor) -> Tensor:
    """Return `matrices` with the identity in the place of those that aren't finite, which no solver would take."""
    finite = torch.isfinite(matrices).all(-1).all(-1)[:, None, None]
    return torch.where(finite, matrices, torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device))


def eigenvectors(matrices: Tensor) -> Tensor:
    """Return orthonormal eigenvectors of symmetric matrices as columns, those of the largest eigenvalues first."""
    vectors: Tensor = torch.linalg.eigh(decomposable(matrices)).eigenvectors
    return vectors.flip(-1)


def inverse_root(matrices: Tensor, damping: Tensor, order: int) -> Tensor:
    """Return (M + damping I) ** (-1 / order) of symmetric positive semidefinite matrices; damping is ``[trials]``.

    Eigenvalues that rounding has made negative count as 0.
    """
    values: Tensor
    vectors: Tensor
    values, vectors = torch.linalg.eigh(decomposable(matrices))
    roots = (values.clamp_min(0) + damping[:, None].to(values.dtype)) ** (-1 / order)
    with full_precision(matrices.device):  # TF32 would round what rests on eigenvalues as small as the damping
        return (vectors * roots.unsqueeze(-2)) @ vectors.mT


EIGEN_FLOPS = 9.0
"""Of an eigendecomposition, over the cubed side; that of K-FAC's."""
QR_FLOPS = 8 / 3
"""Of a QR decomposition with its orthogonal factor, over the cubed side (Golub and Van Loan)."""
