"""A transformer whose every block is exact: the dense Fisher of a masked, weighted token loss."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn import functional

from sensitivity.kfac import KFAC, KFACConfig

DOUBLE = torch.float64


class Tiny(nn.Module):
    """Embedding, a causal encoder layer of torch, and a head over 5 words; positions are not told apart."""

    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(5, 4)
        self.inner = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(4, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], dtype=DOUBLE)
        return self.head(self.inner(self.word(tokens), src_mask=mask, is_causal=True))


@pytest.mark.parametrize("fisher", ["empirical", "type2"])
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap has no rule for one kind of attention
def test_every_block_is_the_dense_fisher_of_a_masked_and_weighted_token_loss(fisher: Any) -> None:
    """Equal tokens have equal rows in every layer, of which the loss counts the first alone, with a weight of 2.5.

    So each block of the Fisher of the mean, w (Jᵀ H J) / w or w (g gᵀ) / w, is a Kronecker product.
    """
    torch.manual_seed(0)
    model, tokens, label = Tiny().to(DOUBLE), torch.full((1, 3), 2), torch.tensor(4)
    weights = torch.tensor([[2.5, 0.0, 0.0]], dtype=DOUBLE)
    optimizer = KFAC(model, KFACConfig(fisher=fisher, damping=0.1))
    outputs = model(tokens)
    optimizer.observe(outputs, weights=weights)
    losses = functional.cross_entropy(outputs.flatten(0, 1), label.expand(3), reduction="none")
    ((losses * weights.flatten()).sum() / weights.sum()).backward()
    params = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert not optimizer.step().failed

    logits = outputs.detach()[0, 0]
    p = logits.softmax(-1)
    slope = p - functional.one_hot(label, 5)
    hessian = torch.outer(slope, slope) if fisher == "empirical" else torch.diag(p) - torch.outer(p, p)
    jacobians = jacrev(lambda part: functional_call(model, {**params, **part}, (tokens,))[0, 0])(params)
    compared = 0
    for placement in optimizer.kfac.layout.placements:
        layer = placement.layer
        index, count = layer.part
        rows = [
            jacobians[name].reshape(5, params[name].shape[0], -1).chunk(count, 1)[index] for name in layer.parameters
        ]
        jacobian = torch.cat(rows, -1)
        a, g = optimizer.kfac.factor(layer.name, "inputs"), optimizer.kfac.factor(layer.name, "outputs")[0]
        block = torch.kron(g, torch.diag(a) if layer.kind == "embedding" else a[0])
        jacobian = jacobian.mT if layer.kind == "embedding" else jacobian
        jacobian = jacobian.flatten(1)
        truth = jacobian.mT @ hessian @ jacobian
        torch.testing.assert_close(block, truth, rtol=1e-10, atol=1e-10 * float(truth.abs().max() + 1e-6))
        compared += bool(truth.any())
    assert compared == 6  # with one key there is no gradient by queries and keys
