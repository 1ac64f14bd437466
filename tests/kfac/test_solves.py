"""Many matrices are inverted as accurately as one by one, whatever their condition."""

import pytest
import torch
from torch import Tensor

from sensitivity.kfac.solves import inverse


def of_condition(condition: float, side: int, count: int) -> Tensor:
    basis = torch.linalg.qr(torch.randn(count, side, side, dtype=torch.float64))[0]
    values = torch.logspace(0, -torch.tensor(condition).log10().item(), side, dtype=torch.float64)
    return (basis * values) @ basis.mT


@pytest.mark.parametrize("condition", [1e1, 1e3, 1e5, 1e6])
def test_a_batch_is_inverted_as_accurately_as_its_members(condition: float) -> None:
    matrices = of_condition(condition, 64, 16).float()
    truth = torch.linalg.inv(matrices.double())
    batched, failed = inverse(matrices)
    alone = torch.stack([inverse(m.unsqueeze(0))[0][0] for m in matrices])
    assert not failed.any()
    errors = [torch.linalg.matrix_norm(x.double() - truth) / torch.linalg.matrix_norm(truth) for x in (batched, alone)]
    assert float(errors[0].max()) <= 6 * float(errors[1].max())


def test_one_bad_matrix_is_reported_and_leaves_the_others() -> None:
    matrices = torch.cat([of_condition(1e5, 64, 15), of_condition(1e1, 64, 1)]).float()
    matrices[3] = float("nan")
    inverses, failed = inverse(matrices)
    assert failed.nonzero().flatten().tolist() == [3]
    assert torch.isfinite(inverses[~failed]).all()
