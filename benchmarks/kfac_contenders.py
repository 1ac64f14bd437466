"""Contenders of `kfac_step.py`: a minimal hook-based K-FAC, ours, and other implementations installed from PyPI.

A contender is built for a kind of step, "plain", "factors" (updates the factors) or "both" (and the inverses), and
returns a function that takes one such step. If it can't distinguish two kinds, it builds the more expensive one.
"""

import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from kfac_workloads import LENGTH, WIDTHS, Workload
from torch import Tensor, nn
from torch.nn import functional

from sensitivity.kfac import KFAC, KFACConfig

Step = Callable[[], Any]
NEVER = 10**9
INTERVALS = {"plain": (NEVER, NEVER), "factors": (1, NEVER), "both": (1, 1)}


def adamw(work: Workload, kind: str) -> Step:
    """Build torch.optim.AdamW, the baseline for a transformer."""
    return _torch_step(work, lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3))


def unit(work: Workload, kind: str) -> Step:
    """Build the baseline optimizer of the ratios."""
    return (adamw if work.name == "transformer" else sgd)(work, kind)


def sgd(work: Workload, kind: str) -> Step:
    """Build torch.optim.SGD with momentum, the baseline of all other ratios."""
    return _torch_step(work, lambda model: torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9))


def ours(work: Workload, kind: str, **options: Any) -> Step:
    """Build this product's K-FAC."""
    factors, inverses = INTERVALS[kind]
    terms = LENGTH if work.name == "transformer" else None
    config = KFACConfig(
        lr=1e-3,
        damping=0.1,
        factor_interval=factors,
        inverse_interval=inverses,
        terms_per_example=terms,
        **options,
    )
    return _torch_step(work, lambda model: KFAC(model, config))


def minimal(work: Workload, kind: str) -> Step:
    """Build a plain K-FAC with hooks, im2col, and one Cholesky inverse per layer."""
    factors, inverses = INTERVALS[kind]
    return _torch_step(work, lambda model: Minimal(model, factors, inverses))


def singd(work: Workload, kind: str) -> Step:
    """Build singd's INGD with dense structures."""
    from singd.optim.optimizer import SINGD

    interval = NEVER if kind == "plain" else 1
    return _torch_step(work, lambda model: SINGD(model, lr=1e-3, damping=0.1, T=interval, warn_unsupported=False))


def asdfghjkl(work: Workload, kind: str) -> Step:
    """Build asdfghjkl's empirical K-FAC on torch.optim.SGD."""
    # These functions are missing from CPU builds.
    torch.cuda.nvtx.range_push = torch.cuda.nvtx.range_pop = lambda *_: None  # type: ignore[assignment]
    from asdl import FISHER_EMP, KfacGradientMaker, PreconditioningConfig

    factors, inverses = INTERVALS[kind]
    model, (x, y) = work.model(), work.data()
    config = PreconditioningConfig(
        data_size=work.batch,
        damping=0.1,
        ema_decay=0.05,
        curvature_upd_interval=factors,
        preconditioner_upd_interval=inverses,
    )
    maker = KfacGradientMaker(model, config, fisher_type=FISHER_EMP)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        outputs = maker.setup_model_call(model, x)
        maker.setup_loss_call(functional.cross_entropy, outputs, y)
        maker.forward_and_backward()
        optimizer.step()

    return step


def curvlinops(work: Workload, kind: str) -> Step:
    """Build curvlinops' empirical K-FAC (without averages) and its Cholesky inverse, on torch.optim.SGD."""
    from curvlinops import KFACInverseLinearOperator, KFACLinearOperator

    model, (x, y) = work.model(), work.data()
    params = [p for name, p in model.named_parameters() if "norm" not in name]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    held: dict[str, Any] = {}

    def curvature() -> Any:
        operator = KFACLinearOperator(
            model,
            nn.CrossEntropyLoss(),
            params,
            [(x, y)],
            fisher_type="empirical",
            separate_weight_and_bias=False,
            check_deterministic=False,
        )
        operator.compute_kronecker_factors()
        return operator

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        if kind != "plain" or not held:
            operator = curvature()
            if kind == "both" or not held:
                held["inverse"] = KFACInverseLinearOperator(operator, damping=0.1, use_heuristic_damping=True)
        for p, moved in zip(params, held["inverse"] @ [p.grad for p in params], strict=True):
            p.grad = moved
        optimizer.step()

    return step


def kfac_jax(work: Workload, kind: str) -> Step:
    """Build kfac-jax's empirical K-FAC; its baseline is `jax_sgd`."""
    import jax

    module = _import_kfac_jax()
    factors, inverses = INTERVALS[kind]
    loss, params, batch = _jax_problem(work, module)
    optimizer = module.Optimizer(
        value_and_grad_func=jax.value_and_grad(loss),
        l2_reg=0.0,
        use_adaptive_learning_rate=False,
        use_adaptive_momentum=False,
        use_adaptive_damping=False,
        curvature_ema=0.95,
        inverse_update_period=inverses,
        curvature_update_period=factors,
        num_burnin_steps=0,
        estimation_mode="fisher_empirical",
    )
    key = jax.random.PRNGKey(0)
    held = {"params": params, "state": optimizer.init(params, key, batch)}
    numbers = {"learning_rate": 1e-3, "momentum": 0.9, "damping": 0.1}

    def step() -> None:
        held["params"], held["state"], _ = optimizer.step(held["params"], held["state"], key, batch=batch, **numbers)
        jax.block_until_ready(held["params"])

    return step


def jax_sgd(work: Workload, kind: str) -> Step:
    """Build SGD with momentum in JAX, jitted."""
    import jax

    loss, params, batch = _jax_problem(work, _import_kfac_jax())
    held = {"params": params, "velocity": jax.tree.map(lambda p: 0 * p, params)}

    @jax.jit  # type: ignore[untyped-decorator]
    def update(params: Any, velocity: Any) -> Any:
        grads = jax.grad(loss)(params, batch)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, grads)
        return jax.tree.map(lambda p, v: p - 1e-3 * v, params, velocity), velocity

    def step() -> None:
        held["params"], held["velocity"] = update(held["params"], held["velocity"])
        jax.block_until_ready(held["params"])

    return step


def _jax_problem(work: Workload, module: Any) -> tuple[Any, Any, Any]:
    import jax
    import jax.numpy as jnp

    if work.name not in WIDTHS:
        raise LookupError("built for perceptrons alone")
    model, (x, y) = work.model(), work.data()
    layers: Any = model
    params = [(jnp.array(m.weight.detach().T.numpy()), jnp.array(m.bias.detach().numpy())) for m in layers[::2]]

    def loss(params: Any, batch: Any) -> Any:
        hidden, labels = batch
        for i, (w, b) in enumerate(params):
            hidden = hidden @ w + b
            hidden = jax.nn.relu(hidden) if i + 1 < len(params) else hidden
        module.register_softmax_cross_entropy_loss(hidden, labels)
        return -jnp.take_along_axis(jax.nn.log_softmax(hidden), labels[:, None], 1).mean()

    return loss, params, (jnp.array(x.numpy()), jnp.array(y.numpy()))


def _import_kfac_jax() -> Any:
    """Import kfac-jax with a workaround: its tensorflow-probability looks for a table that this JAX has moved."""
    import jax.interpreters.xla
    from jax._src import core

    if not hasattr(jax.interpreters.xla, "pytype_aval_mappings"):
        jax.interpreters.xla.pytype_aval_mappings = core.pytype_aval_mappings
    import kfac_jax as module

    return module


def _torch_step(work: Workload, build: Callable[[nn.Module], Any]) -> Step:
    model, (x, y) = work.model(), work.data()
    optimizer = build(model)

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


class Minimal:
    """K-FAC in its simplest form."""

    def __init__(self, model: nn.Module, factor_interval: int, inverse_interval: int) -> None:
        self.layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        self.sgd = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        self.intervals, self.steps = (factor_interval, inverse_interval), 0
        self.a: dict[nn.Module, Tensor] = {}
        self.g: dict[nn.Module, Tensor] = {}
        self.inverses: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        for layer in self.layers:
            layer.register_forward_hook(self.saved_input)
            layer.register_full_backward_hook(self.saved_gradient)

    def saved_input(self, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Update the running average of the input factor."""
        if self.steps % self.intervals[0] == 0:
            rows = inputs[0].detach()
            rows = rows.flatten(0, -2) if isinstance(layer, nn.Linear) else rows
            if isinstance(layer, nn.Conv2d):
                padding: Any = layer.padding
                rows = functional.unfold(rows, layer.kernel_size, 1, padding, layer.stride).mT.flatten(0, 1)
            if layer.bias is not None:
                rows = functional.pad(rows, (0, 1), value=1.0)
            self.averaged(self.a, layer, rows.mT @ rows / len(rows if isinstance(layer, nn.Linear) else inputs[0]))

    def saved_gradient(self, layer: nn.Module, _: Any, grads: tuple[Tensor, ...]) -> None:
        """Update the running average of the output factor."""
        if self.steps % self.intervals[0] == 0:
            rows = grads[0].detach()
            rows = rows.flatten(0, -2) if isinstance(layer, nn.Linear) else rows
            rows = rows * len(rows)
            rows = rows.flatten(2).mT.flatten(0, 1) if rows.dim() == 4 else rows
            self.averaged(self.g, layer, rows.mT @ rows / len(rows))

    def averaged(self, held: dict[nn.Module, Tensor], layer: nn.Module, new: Tensor) -> None:
        """Update a running average."""
        held[layer] = held[layer].mul_(0.95).add_(new, alpha=0.05) if layer in held else new

    def zero_grad(self) -> None:
        """Clear gradients."""
        self.sgd.zero_grad()

    def step(self) -> None:
        """Take one step."""
        for layer in self.layers:
            if self.steps % self.intervals[1] == 0:
                a, g = self.a[layer], self.g[layer]
                pi = ((a.trace() / len(a)) / (g.trace() / len(g))).sqrt()
                damped = (a + 0.1**0.5 * pi * torch.eye(len(a)).to(a), g + 0.1**0.5 / pi * torch.eye(len(g)).to(g))
                self.inverses[layer] = tuple(torch.cholesky_inverse(torch.linalg.cholesky(m)) for m in damped)  # type: ignore[assignment]
            a, g = self.inverses[layer]
            joint = layer.weight.grad.flatten(1)  # type: ignore[union-attr]
            if layer.bias is not None:
                joint = torch.cat([joint, layer.bias.grad.unsqueeze(1)], 1)  # type: ignore[union-attr]
            moved = g @ joint @ a
            if layer.bias is not None:
                layer.bias.grad.copy_(moved[:, -1])  # type: ignore[union-attr]
                moved = moved[:, :-1]
            layer.weight.grad.copy_(moved.reshape(layer.weight.shape))  # type: ignore[union-attr]
        self.sgd.step()
        self.steps += 1


def _named(label: str, package: str) -> str:
    try:
        return f"{label} {version(package)}"
    except Exception:
        return label


CONTENDERS: dict[str, tuple[Callable[..., Step], Callable[..., Step]]] = {
    "ours": (ours, unit),
    "ours, exact damping": (lambda w, k: ours(w, k, damping_form="exact"), unit),
    "ours, factors of a quarter of the batch": (lambda w, k: ours(w, k, batch_fraction=0.25), unit),
    "minimal hooks": (minimal, unit),
    _named("singd", "singd"): (singd, unit),
    _named("asdfghjkl", "asdfghjkl"): (asdfghjkl, unit),
    _named("curvlinops", "curvlinops-for-pytorch"): (curvlinops, unit),
    _named("kfac-jax", "kfac-jax"): (kfac_jax, jax_sgd),
}

warnings.filterwarnings("ignore")
