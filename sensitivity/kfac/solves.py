"""Batched inverses and eigenbases of factors, by matrix: a bad matrix is reported and never disturbs its neighbours.

Matrices are [*batch, d, d], symmetric; `failed` is [*batch].
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]
from torch.nn import functional

_LEAF = 32  # side below which LAPACK's Cholesky beats batched products
_MANY = 16  # matrices from which block elimination pays (measured on CPU: 292 to 125 µs a matrix of side 128)
_ACCURATE = 0.6
"""Backward error, in units of the precision, that LAPACK stays below (0.23 to 0.47 measured, any condition)."""
_ALIASED, _PAD = 128, 8  # Cholesky of side 128 took 104 µs, of side 136 42 µs; 1390 and 934 µs at 512 and 520


def inverse(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Invert symmetric positive definite matrices by Cholesky, in float64 where their own precision fails.

    Returns (inverses [*batch, d, d], failed [*batch]); entries of a failed inverse mean nothing.
    """
    (found,), _ = inverses_of([matrices])
    return found


def inverses_of(banks: Sequence[Tensor]) -> tuple[list[tuple[Tensor, Tensor]], bool]:
    """Invert as `inverse` does, matrices of several sizes; return what it returns of each, and whether any has failed.

    An accelerator is asked once for all of them.
    """
    found = [_by_lapack(bank) if _on_host(bank) else _by_triangles(bank) for bank in banks]
    if not any_failed(found):
        return found, False
    found = [
        (inverses, failed) if matrices.dtype == torch.float64 else _again(matrices, inverses, failed)
        for matrices, (inverses, failed) in zip(banks, found, strict=True)
    ]
    return found, any_failed(found)


def any_failed(found: Sequence[tuple[Tensor, ...]]) -> bool:
    """Whether any of what solvers returned, of each size `failed` as the last, has failed; waits for an accelerator."""
    return bool(torch.cat([each[-1].flatten() for each in found]).any())


def _again(matrices: Tensor, inverses: Tensor, failed: Tensor) -> tuple[Tensor, Tensor]:
    """Invert those that failed in float64."""
    if not bool(failed.any()):
        return inverses, failed
    doubles = matrices[failed].double()
    again, still = _cholesky_inverse(doubles) if _on_host(doubles) else _by_triangles(doubles)
    inverses[failed] = again.to(matrices.dtype)
    failed[failed.clone()] = still | ~torch.isfinite(inverses[failed].diagonal(dim1=-2, dim2=-1).sum(-1))
    return inverses, failed


def _on_host(matrices: Tensor) -> bool:
    return matrices.device.type == "cpu"


def _by_triangles(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Invert on an accelerator: M = L Lᵀ and M⁻¹ = L⁻ᵀ L⁻¹, in three batched operations that ask for no number.

    Its library's inverse from a root may take matrices one by one, and elimination by blocks takes many more launches.
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
    return _accurate(matrices, inverses, failed) if _by_blocks(matrices) else (inverses, failed)


def eigenbasis(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues (clamped at 0, rising), eigenvectors (columns), and which matrices failed even in float64.

    Returns (values [*batch, d], vectors [*batch, d, d], failed [*batch]). LAPACK raises for the whole batch when one
    matrix holds a NaN or does not converge; here the others are computed as if it were not there.
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
    # Entries that are nothing beside 1, and make denormal products: with them a step took nine times as long.
    vectors = functional.hardshrink(vectors, torch.finfo(vectors.dtype).eps ** 2)
    return values.clamp_min(0.0), vectors, ~finite


def condition_number(matrix: Tensor) -> float:
    """Ratio of the largest to the smallest eigenvalue of a symmetric matrix [d, d]; inf if indefinite, or NaN."""
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


def _by_blocks(matrices: Tensor) -> bool:
    return matrices.shape[-1] > _LEAF and matrices.shape[:-2].numel() >= _MANY


def _accurate(matrices: Tensor, inverses: Tensor, failed: Tensor) -> tuple[Tensor, Tensor]:
    """Invert matrices again, one by one with LAPACK, where block elimination lost accuracy.

    Its error grows with the condition squared. The backward error of X = M⁻¹, tried on one vector v, tells:
    ‖M X v - v‖ / (‖M‖ ‖X v‖ + ‖v‖).
    """
    side = matrices.shape[-1]
    generator = torch.Generator().manual_seed(side)
    probe = torch.randn(side, 1, generator=generator, dtype=torch.float64).to(matrices)
    solved = inverses @ probe
    error = torch.linalg.vector_norm(matrices @ solved - probe, dim=(-2, -1))
    size = torch.linalg.matrix_norm(matrices) * torch.linalg.vector_norm(solved, dim=(-2, -1))
    bound = _ACCURATE * torch.finfo(matrices.dtype).eps * (size + torch.linalg.vector_norm(probe))
    again = failed | ~(error <= bound)
    if bool(again.any()):
        inverses[again], failed[again] = _cholesky_inverse(matrices[again])
    return inverses, failed


def _spd_inverse(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Invert by Cholesky; many matrices by block elimination down to small Choleskys, which batched products speed up.

    With M = [[P, Q], [Qᵀ, S]], T = P⁻¹ Q and the Schur complement Z = S - Qᵀ T, which is positive definite where M is:
    M⁻¹ = [[P⁻¹ + T Z⁻¹ Tᵀ, -T Z⁻¹], [., Z⁻¹]].
    """
    side = matrices.shape[-1]
    if not _by_blocks(matrices):
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
        except LinAlgError:  # a zero on the diagonal of one root, and the whole batch is refused
            pass
        else:
            if math.isfinite(inverses.sum().item()):
                return inverses, torch.zeros_like(info, dtype=torch.bool)
    sound = (info == 0) & (root.diagonal(dim1=-2, dim2=-1) > 0).all(-1)
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    inverses = torch.cholesky_inverse(torch.where(sound[..., None, None], root, identity))
    return inverses, ~sound | ~torch.isfinite(inverses.diagonal(dim1=-2, dim2=-1).sum(-1))


def _cholesky(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Give roots and LAPACK's verdicts, away from sides whose columns share lines of the cache."""
    side = matrices.shape[-1]
    if side % _ALIASED or not side:
        root, info = torch.linalg.cholesky_ex(matrices)
        return root, info
    padded = functional.pad(matrices, (0, _PAD, 0, _PAD))
    padded.diagonal(dim1=-2, dim2=-1)[..., side:] = 1.0
    root, info = torch.linalg.cholesky_ex(padded)
    return root[..., :side, :side], info
