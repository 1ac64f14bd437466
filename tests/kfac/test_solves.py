"""Many matrices are inverted as accurately as one by one, whatever their condition."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sensitivity.kfac import KFACConfig, init_state, layers_of, solves
from sensitivity.kfac.precondition import refresh
from sensitivity.kfac.solves import condition_number, eigenbasis, inverse, inverses_of


def of_condition(condition: float, side: int, count: int) -> Tensor:
    basis = torch.linalg.qr(torch.randn(count, side, side, dtype=torch.float64))[0]
    values = torch.logspace(0, -torch.tensor(condition).log10().item(), side, dtype=torch.float64)
    return (basis * values) @ basis.mT


@pytest.fixture(params=["host", "accelerator"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Solve as on the host, or as on an accelerator."""
    if request.param == "accelerator":
        monkeypatch.setattr(solves, "_on_host", lambda _: False)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("condition", [1e1, 1e3, 1e5, 1e6])
def test_a_batch_is_inverted_as_accurately_as_its_members(condition: float) -> None:
    matrices = of_condition(condition, 64, 16).float()
    truth = torch.linalg.inv(matrices.double())
    batched, failed = inverse(matrices)
    alone = torch.stack([inverse(m.unsqueeze(0))[0][0] for m in matrices])
    assert not failed.any()
    errors = [torch.linalg.matrix_norm(x.double() - truth) / torch.linalg.matrix_norm(truth) for x in (batched, alone)]
    assert float(errors[0].max()) <= 6 * float(errors[1].max())


@pytest.mark.usefixtures("device")
def test_one_bad_matrix_is_reported_and_leaves_the_others() -> None:
    matrices = torch.cat([of_condition(1e5, 64, 15), of_condition(1e1, 64, 1)]).float()
    matrices[3] = float("nan")
    inverses, failed = inverse(matrices)
    assert failed.nonzero().flatten().tolist() == [3]
    assert torch.isfinite(inverses[~failed]).all()


def test_matrices_on_which_lapack_fails_leave_the_others_their_eigenvectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails for a batch as a whole; here one matrix needs float64, and another fails in that, too."""
    matrices = of_condition(1e2, 8, 4).float()
    lapack = torch.linalg.eigh

    def fails(matrix: Tensor) -> Any:
        wide = matrix.dtype == torch.float64
        if matrix.ndim > 2 or any(torch.equal(matrix.float(), matrices[k]) for k in ((2,) if wide else (1, 2))):
            raise torch.linalg.LinAlgError("it did not converge")
        return lapack(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    values, vectors, failed = eigenbasis(matrices)
    assert failed.tolist() == [False, False, True, False]
    sound = ~failed
    torch.testing.assert_close(
        (vectors * values.unsqueeze(-2) @ vectors.mT)[sound], matrices[sound], rtol=1e-5, atol=1e-6
    )
    identity = torch.eye(8).expand(3, 8, 8)
    torch.testing.assert_close((vectors.mT @ vectors)[sound], identity, rtol=0, atol=1e-5)


def test_a_condition_number_is_the_ratio_of_the_eigenvalues() -> None:
    assert condition_number(of_condition(1e4, 16, 1)[0]) == pytest.approx(1e4, rel=1e-6)
    assert condition_number(torch.diag(torch.tensor([1.0, -1.0]))) == float("inf")
    assert math.isnan(condition_number(torch.full((2, 2), float("nan"))))


class Operations(TorchDispatchMode):
    """Counts the numbers that the host asks for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.asked = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.asked += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bad", [False, True])
def test_an_accelerator_is_asked_once_for_matrices_of_all_sizes(monkeypatch: pytest.MonkeyPatch, bad: bool) -> None:
    banks = [of_condition(1e2, side, count).float() for side, count in ((5, 3), (40, 20), (64, 16))]
    if bad:
        banks[1][2] = -banks[1][2]
    expected, _ = inverses_of(banks)
    monkeypatch.setattr(solves, "_on_host", lambda _: False)
    with Operations() as operations:
        found, any_failed = inverses_of(banks)
    assert any_failed is bad
    for (inverses, failed), (theirs, their_failed) in zip(found, expected, strict=True):
        assert torch.equal(failed, their_failed)
        torch.testing.assert_close(inverses[~failed], theirs[~failed], rtol=1e-4, atol=1e-4)
    if not bad:
        assert operations.asked == 1


@pytest.mark.parametrize("form", ["factored", "exact"])
def test_new_inverses_ask_an_accelerator_for_one_number(monkeypatch: pytest.MonkeyPatch, form: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 50), nn.Linear(50, 40), nn.Linear(40, 3))
    params = {name: torch.stack([p.detach()] * 4) for name, p in model.named_parameters()}
    state = init_state(layers_of(model), params, KFACConfig(damping_form=form))
    for bank in state.factors.values():
        bank.copy_(torch.eye(bank.shape[-1]).expand_as(bank))
    monkeypatch.setattr(solves, "_on_host", lambda _: False)
    with Operations() as operations:
        assert refresh(state, torch.full((4,), 0.1), exact=form == "exact") == ()
    assert operations.asked == 1
    assert bool(state.usable.all())
