"""Independent truth for the K-FAC tests: dense curvature by autograd, captures by plain hooks, patches by explicit
loops.

Joint parameters of a layer are [output, input and bias], flattened row by row, so that a block is kron(G, A).
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from sensitivity.kfac import Capture


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def captures_of(model: nn.Module, compute: Callable[[], Tensor]) -> tuple[dict[str, Tensor], dict[str, list[Capture]]]:
    """Gradients of the scalar `compute()` and every call of every leaf module, in order."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def hook(name: str) -> Callable[..., None]:
        def after(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            output.retain_grad()
            seen.setdefault(name, []).append((args[0].detach(), output))

        return after

    handles = [m.register_forward_hook(hook(name)) for name, m in model.named_modules() if not list(m.children())]
    model.zero_grad()
    compute().backward()
    for handle in handles:
        handle.remove()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    captures = {
        name: [Capture(a, s.grad.clone()) for a, s in calls if s.grad is not None] for name, calls in seen.items()
    }
    return grads, captures


def dense_ggn(model: nn.Module, x: Tensor, hessian: Callable[[Tensor], Tensor], names: tuple[str, ...]) -> Tensor:
    """The GGN of the mean loss, (1/N) Σ Jᵀ H J, for the joint matrix of one layer's weight and bias.

    `hessian` maps one example's outputs [C] to the loss's Hessian [C, C].
    """
    params = {name: p.detach() for name, p in model.named_parameters()}
    total = torch.zeros(())
    for example in x:

        def outputs(part: dict[str, Tensor], example: Tensor = example) -> Tensor:
            return functional_call(model, {**params, **part}, (example.unsqueeze(0),)).flatten()

        jacobians = jacrev(outputs)({name: params[name] for name in names})
        rows = [j.reshape(j.shape[0], params[n].shape[0], -1) for n, j in jacobians.items()]
        jacobian = torch.cat(rows, -1).flatten(1)
        total = total + jacobian.mT @ hessian(outputs({})) @ jacobian
    return total / len(x)


def softmax_hessian(logits: Tensor) -> Tensor:
    p = logits.softmax(-1)
    return torch.diag(p) - torch.outer(p, p)


@pytest.fixture
def truth() -> type:
    class Truth:
        captures_of = staticmethod(captures_of)
        dense_ggn = staticmethod(dense_ggn)
        softmax_hessian = staticmethod(softmax_hessian)

    return Truth
