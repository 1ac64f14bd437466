"""A first step against kfac-jax: dense layers, factored damping, exact and empirical Fisher.

kfac-jax's empirical Fisher is 1 / N of the Fisher of the mean loss: its documentation of `estimation_mode` says that
this mode divides by the batch size once more than the others. A registered weight of √N takes that back, as gradients
enter squared. Its Monte-Carlo Fisher draws labels of its own, so that single steps cannot be compared.
"""

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from sensitivity.kfac import KFAC, KFACConfig

EXAMPLES = 8
jax: Any = pytest.importorskip("jax", reason="kfac-jax is a peer of the benchmark environment, not a dependency")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("fisher", "mode", "weight"),
    [("type2", "fisher_exact", 1.0), ("empirical", "fisher_empirical", EXAMPLES**0.5)],
)
def test_first_step_equals_that_of_kfac_jax(fisher: Any, mode: str, weight: float) -> None:
    kfac_jax = imported()
    jnp = jax.numpy
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    x, y = torch.randn(EXAMPLES, 6), torch.randint(4, (EXAMPLES,))
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    params = [(jnp.array(m.weight.detach().T.numpy()), jnp.array(m.bias.detach().numpy())) for m in linear]

    def loss(params: Any, batch: Any) -> Any:
        inputs, labels = batch
        hidden = jnp.tanh(inputs @ params[0][0] + params[0][1])
        logits = hidden @ params[1][0] + params[1][1]
        kfac_jax.register_softmax_cross_entropy_loss(logits, labels, weight=weight)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

    optimizer = kfac_jax.Optimizer(
        value_and_grad_func=jax.value_and_grad(loss),
        l2_reg=0.0,
        use_adaptive_learning_rate=False,
        use_adaptive_momentum=False,
        use_adaptive_damping=False,
        num_burnin_steps=0,
        inverse_update_period=1,
        estimation_mode=mode,
    )
    batch, key = (jnp.array(x.numpy()), jnp.array(y.numpy())), jax.random.PRNGKey(0)
    state = optimizer.init(params, key, batch)
    moved, _, _ = optimizer.step(params, state, key, batch=batch, learning_rate=0.5, momentum=0.0, damping=0.1)

    ours = KFAC(model, KFACConfig(lr=0.5, damping=0.1, momentum=0.0, fisher=fisher))
    outputs = model(x)
    ours.observe(outputs)
    functional.cross_entropy(outputs, y).backward()
    ours.step()
    for layer, (weight, bias) in zip(linear, moved, strict=True):
        np.testing.assert_allclose(layer.weight.detach().T, weight, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(layer.bias.detach(), bias, rtol=2e-4, atol=2e-5)


def imported() -> Any:
    """Import kfac-jax, where its tensorflow-probability still looks for a table that this JAX has moved."""
    xla, core = importlib.import_module("jax.interpreters.xla"), importlib.import_module("jax._src.core")
    if not hasattr(xla, "pytype_aval_mappings"):
        xla.pytype_aval_mappings = core.pytype_aval_mappings
    return pytest.importorskip("kfac_jax", reason="kfac-jax is a peer of the benchmark environment")
