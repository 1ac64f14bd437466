"""Functions of batched matrices ``[trials, rows, columns]``, shared by Muon, Shampoo and SOAP.

Every function treats members independently, so that non-finite values of one do not affect others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sensitivity.kfac.precision import full_precision


def as_matrices(tensor: Tensor) -> Tensor:
    """Return parameters of two or more dimensions as matrices, with the first dimension as rows."""
    return tensor.flatten(2)


def is_matrix(parameter: Tensor) -> bool:
    """Whether parameters ``[trials, ...]`` have two or more dimensions besides trials."""
    return parameter.dim() > 2


def hidden_matrices(network: nn.Module) -> frozenset[str]:
    """Return the names of the hidden matrices: weights of linear and convolutional layers except the last layer."""
    layers = [
        f"{name}.weight" if name else "weight"
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    ]
    return frozenset(layers[:-1])


def orthogonalised(matrices: Tensor, steps: int) -> Tensor:
    """Approximate U Vᵀ of each matrix U S Vᵀ by Newton-Schulz iterations (Jordan et al. 2024).

    The coefficients of the quintic maximise the growth of small singular values. After five steps singular values are
    about 0.7 to 1.2, or smaller if they were below a hundredth of the largest.
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
    """Return `matrices` with non-finite ones replaced by the identity, because solvers reject them."""
    finite = torch.isfinite(matrices).all(-1).all(-1)[:, None, None]
    return torch.where(finite, matrices, torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device))


def eigenvectors(matrices: Tensor) -> Tensor:
    """Return orthonormal eigenvectors of symmetric matrices as columns, by decreasing eigenvalue."""
    vectors: Tensor = torch.linalg.eigh(decomposable(matrices)).eigenvectors
    return vectors.flip(-1)


def inverse_root(matrices: Tensor, damping: Tensor, order: int) -> Tensor:
    """Return (M + damping I) ** (-1 / order) of symmetric positive semidefinite matrices; damping is ``[trials]``.

    Eigenvalues that are negative due to rounding are replaced by 0.
    """
    values: Tensor
    vectors: Tensor
    values, vectors = torch.linalg.eigh(decomposable(matrices))
    roots = (values.clamp_min(0) + damping[:, None].to(values.dtype)) ** (-1 / order)
    with full_precision(matrices.device):  # TF32 is too imprecise for eigenvalues as small as the damping
        return (vectors * roots.unsqueeze(-2)) @ vectors.mT


EIGEN_FLOPS = 9.0
"""FLOPs of an eigendecomposition divided by the cube of the side, as for K-FAC."""
QR_FLOPS = 8 / 3
"""FLOPs of a QR decomposition with explicit Q divided by the cube of the side (Golub and Van Loan)."""
