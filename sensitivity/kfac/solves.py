"""Batched inverses and eigenbases of factors; a matrix that fails is reported and does not affect the others.

Matrices are symmetric, [*batch, d, d]; `failed` is [*batch].
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]
from torch.nn import functional

_LEAF_SIDE = 32  # side below which LAPACK's Cholesky beats batched products
_MIN_MATRICES = (
    16  # matrices from which block elimination is faster (measured on CPU: 292 to 125 µs per matrix of side 128)
)
_MAX_BACKWARD_ERROR = 0.6
"""Backward error, in units of the precision, that LAPACK stays below (0.23 to 0.47 measured, at any condition)."""
_ALIASED_SIDE, _PADDING = 128, 8  # Cholesky of side 128 took 104 µs, of side 136 42 µs; 1390 and 934 µs at 512 and 520


def inverse(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Invert symmetric positive definite matrices by Cholesky, in float64 where their own precision fails.

    Returns (inverses [*batch, d, d], failed [*batch]); the entries of a failed inverse are undefined.
    """
    (found,), _ = inverses_of([matrices])
    return found


def inverses_of(banks: Sequence[Tensor]) -> tuple[list[tuple[Tensor, Tensor]], bool]:
    """Invert matrices of several sizes as `inverse` does; return its results, and whether any matrix failed.

    Synchronizes with an accelerator once for all of them.
    """
    found = [_by_lapack(bank) if _on_host(bank) else _by_triangular_solve(bank) for bank in banks]
    if not any_failed(found):
        return found, False
    found = [
        (inverses, failed) if matrices.dtype == torch.float64 else _retry_in_float64(matrices, inverses, failed)
        for matrices, (inverses, failed) in zip(banks, found, strict=True)
    ]
    return found, any_failed(found)


def any_failed(found: Sequence[tuple[Tensor, ...]]) -> bool:
    """Whether any matrix failed, from solver results that end with `failed`; synchronizes with an accelerator."""
    return bool(torch.cat([each[-1].flatten() for each in found]).any())


def _retry_in_float64(matrices: Tensor, inverses: Tensor, failed: Tensor) -> tuple[Tensor, Tensor]:
    """Invert the failed matrices in float64, in place."""
    if not bool(failed.any()):
        return inverses, failed
    doubles = matrices[failed].double()
    again, still = _cholesky_inverse(doubles) if _on_host(doubles) else _by_triangular_solve(doubles)
    inverses[failed] = again.to(matrices.dtype)
    failed[failed.clone()] = still | ~torch.isfinite(inverses[failed].diagonal(dim1=-2, dim2=-1).sum(-1))
    return inverses, failed


def _on_host(matrices: Tensor) -> bool:
    return matrices.device.type == "cpu"


def _by_triangular_solve(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Invert on an accelerator: M = L Lᵀ and M⁻¹ = L⁻ᵀ L⁻¹, in three batched operations without synchronization.

    The library's inverse from a Cholesky factor may process matrices one by one, and block elimination launches many
    more kernels.
    """
    root, info = torch.linalg.cholesky_ex(matrices)
    sound = (info == 0) & (root.diagonal(dim1=-2, dim2=-1) > 0).all(-1)
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    root = torch.where(sound[..., None, None], root, identity)
    half = torch.linalg.solve_triangular(root, identity.expand_as(matrices), upper=False)
    inverses = half.mT @ half
    return inverses, ~sound | ~torch.isfinite(inverses.diagonal(dim1=-2, dim2=-1).sum(-1))


def _by_lapack(matrices: Tensor) -> tuple[Tensor, Tensor]:
    inverses, failed = _spd_inverse(matrices)
    return _with_lapack_if_inaccurate(matrices, inverses, failed) if _uses_blocks(matrices) else (inverses, failed)


def eigenbasis(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues (ascending, clamped at 0), eigenvectors (columns), and which matrices failed even in float64.

    Returns (values [*batch, d], vectors [*batch, d, d], failed [*batch]). LAPACK raises for the whole batch if one
    matrix contains a NaN or does not converge; this function still returns correct results for the others.
    """
    finite = torch.isfinite(matrices.sum((-2, -1)))
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    all_finite = _on_host(matrices) and bool(finite.all())
    clean = matrices if all_finite else torch.where(finite[..., None, None], matrices, identity)
    try:
        values, vectors = torch.linalg.eigh(clean)
    except LinAlgError:
        values, vectors, converged = _one_by_one(clean)
        finite = finite & converged
    # Entries far below the precision make denormal products, which slowed a step down nine times.
    vectors = functional.hardshrink(vectors, torch.finfo(vectors.dtype).eps ** 2)
    return values.clamp_min(0.0), vectors, ~finite


def condition_number(matrix: Tensor) -> float:
    """Ratio of the largest to the smallest eigenvalue of a symmetric matrix [d, d].

    Infinity if the matrix is not positive definite, NaN if it is not finite.
    """
    if not bool(torch.isfinite(matrix).all()):
        return float("nan")
    values = torch.linalg.eigvalsh(matrix.double())
    return float(values[-1] / values[0]) if float(values[0]) > 0 else float("inf")


def _one_by_one(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    values, vectors = flat.new_zeros(flat.shape[:2]), torch.zeros_like(flat)
    converged = torch.ones(flat.shape[0], dtype=torch.bool, device=flat.device)
    for i, matrix in enumerate(flat):
        for precision in (matrix.dtype, torch.float64):
            try:
                value, vector = torch.linalg.eigh(matrix.to(precision))
            except LinAlgError:
                converged[i] = False
            else:
                values[i], vectors[i], converged[i] = value.to(flat.dtype), vector.to(flat.dtype), True
                break
    batch = matrices.shape[:-2]
    return values.reshape(*batch, -1), vectors.reshape(matrices.shape), converged.reshape(batch)


def _uses_blocks(matrices: Tensor) -> bool:
    return matrices.shape[-1] > _LEAF_SIDE and matrices.shape[:-2].numel() >= _MIN_MATRICES


def _with_lapack_if_inaccurate(matrices: Tensor, inverses: Tensor, failed: Tensor) -> tuple[Tensor, Tensor]:
    """Replace inverses for which block elimination lost accuracy with LAPACK's.

    The error of block elimination grows with the square of the condition number. It is detected by the backward error
    of X = M⁻¹ on one vector v, ‖M X v - v‖ / (‖M‖ ‖X v‖ + ‖v‖).
    """
    side = matrices.shape[-1]
    generator = torch.Generator().manual_seed(side)
    probe = torch.randn(side, 1, generator=generator, dtype=torch.float64).to(matrices)
    solved = inverses @ probe
    error = torch.linalg.vector_norm(matrices @ solved - probe, dim=(-2, -1))
    size = torch.linalg.matrix_norm(matrices) * torch.linalg.vector_norm(solved, dim=(-2, -1))
    bound = _MAX_BACKWARD_ERROR * torch.finfo(matrices.dtype).eps * (size + torch.linalg.vector_norm(probe))
    again = failed | ~(error <= bound)
    if bool(again.any()):
        inverses[again], failed[again] = _cholesky_inverse(matrices[again])
    return inverses, failed


def _spd_inverse(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Invert by Cholesky; for many matrices by recursive block elimination, most of which is batched products.

    With M = [[P, Q], [Qᵀ, S]], T = P⁻¹ Q and the Schur complement Z = S - Qᵀ T, which is positive definite if M is,
    M⁻¹ = [[P⁻¹ + T Z⁻¹ Tᵀ, -T Z⁻¹], [., Z⁻¹]].
    """
    side = matrices.shape[-1]
    if not _uses_blocks(matrices):
        return _cholesky_inverse(matrices)
    half = (side // 2 + 7) // 8 * 8
    corner, cross, rest = matrices[..., :half, :half], matrices[..., :half, half:], matrices[..., half:, half:]
    corner_inverse, corner_failed = _spd_inverse(corner)
    solved = corner_inverse @ cross
    schur_inverse, schur_failed = _spd_inverse(rest - cross.mT @ solved)
    mixed = solved @ schur_inverse
    inverses = torch.empty_like(matrices)
    inverses[..., :half, half:] = -mixed
    inverses[..., half:, :half] = -mixed.mT
    inverses[..., half:, half:] = schur_inverse
    inverses[..., :half, :half] = corner_inverse + mixed @ solved.mT
    return inverses, corner_failed | schur_failed


def _cholesky_inverse(matrices: Tensor) -> tuple[Tensor, Tensor]:
    root, info = _cholesky(matrices)
    if root.numel() and not bool(info.any()):
        try:
            inverses = torch.cholesky_inverse(root)
        except LinAlgError:  # raised for the whole batch if one root has a zero on its diagonal
            pass
        else:
            if math.isfinite(inverses.sum().item()):
                return inverses, torch.zeros_like(info, dtype=torch.bool)
    sound = (info == 0) & (root.diagonal(dim1=-2, dim2=-1) > 0).all(-1)
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    inverses = torch.cholesky_inverse(torch.where(sound[..., None, None], root, identity))
    return inverses, ~sound | ~torch.isfinite(inverses.diagonal(dim1=-2, dim2=-1).sum(-1))


def _cholesky(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factors and LAPACK's info, with padding of sides whose columns would share cache lines."""
    side = matrices.shape[-1]
    if side % _ALIASED_SIDE or not side:
        root, info = torch.linalg.cholesky_ex(matrices)
        return root, info
    padded = functional.pad(matrices, (0, _PADDING, 0, _PADDING))
    padded.diagonal(dim1=-2, dim2=-1)[..., side:] = 1.0
    root, info = torch.linalg.cholesky_ex(padded)
    return root[..., :side, :side], info
