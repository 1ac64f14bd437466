"""`KFAC`: the engine as a `torch.optim.Optimizer` for one model."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.kfac.config import KFACConfig, check_numbers, needs_statistics
from sensitivity.kfac.engine import FlatNumbers, StepReport, advance
from sensitivity.kfac.fisher import pseudo_losses
from sensitivity.kfac.layers import layers_of
from sensitivity.kfac.recorder import Recorder
from sensitivity.kfac.state import init_state, restore, saved
from sensitivity.kfac.statistics import average

_NUMBERS = ("lr", "damping", "momentum", "weight_decay", "kl_clip")
_RULED = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class KFAC(torch.optim.Optimizer):
    """K-FAC for the parameters of `model` that require gradients.

    Use it like any optimizer: `loss.backward(); optimizer.step()`. With the "monte_carlo" and "type2" Fisher, call
    `optimizer.observe(outputs)` between the forward pass and `loss.backward()`. Parameter groups hold lr, damping,
    momentum, weight_decay and kl_clip (the first group's clip counts for all); a layer's damping is that of its
    weight's group. Layers and their hooks are fixed here: build the optimizer after the model is on its device, and
    after freezing what shall not train.

    param_groups: as for any optimizer, in place of one group of everything. generator: draws the labels of the
    Monte-Carlo Fisher; seeded with 0 if None. scaler: the `torch.amp.GradScaler` in use, whose scale is taken off the
    captured gradients.

    Raises ValueError for a model without supported layers; warns of modules that K-FAC does not cover.
    """

    def __init__(
        self,
        model: nn.Module,
        config: KFACConfig,
        *,
        param_groups: Iterable[dict[str, Any]] | None = None,
        generator: torch.Generator | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.config = config
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        layers = layers_of(model)
        defaults = {name: getattr(config, name) for name in _NUMBERS}
        self.kfac = init_state(layers, {name: p.detach() for name, p in named.items()}, config)
        super().__init__(list(named.values()) if param_groups is None else param_groups, defaults)
        own = {id(p) for group in self.param_groups for p in group["params"]}
        strangers = [name for name, p in named.items() if id(p) not in own]
        if strangers:
            raise ValueError(
                f"param_groups leave out {', '.join(strangers)}. Freeze these parameters or add them to a group."
            )
        self._named = {name: named[name] for name in self.kfac.layout.names}
        by_weight = {id(named[layer.weight]): layer.name for layer in layers}
        modules: dict[str, list[nn.Module]] = {layer.name: [] for layer in layers}
        for module in model.modules():
            if id(getattr(module, "weight", None)) in by_weight:
                modules[by_weight[id(module.weight)]].append(module)
        self._recorder = Recorder(modules, self.kfac.layout, self.kfac.momentum, config)
        self._generator = torch.Generator().manual_seed(0) if generator is None else generator
        self._scaler = scaler
        self.last: StepReport | None = None
        _warn_of_uncovered(model, {name for layer in layers for name in layer.parameters})

    def observe(self, outputs: Tensor) -> None:
        """Take the statistics of the "monte_carlo" or "type2" Fisher from the model's outputs [N, ...].

        Call it between the forward pass and `loss.backward()`. Does nothing on steps that do not update the factors,
        and for the empirical Fisher, so that a training loop may always call it.
        """
        if self.config.fisher != "empirical" and self._recorder.active:
            self._recorder.observe(pseudo_losses(outputs, self.config, (self._generator,)))

    @torch.no_grad()
    def step(self, closure: None = None) -> StepReport:  # type: ignore[override]
        """Take one step and report on it; the report is also kept as `last`.

        A step whose gradients are not finite changes nothing and is reported as failed. Raises RuntimeError without a
        backward pass, or, with a sampled Fisher, without `observe`; ValueError for a closure or a hyperparameter
        outside its range.
        """
        if closure is not None:
            raise ValueError(
                "KFAC takes no closure: it evaluates the loss once a step. Call loss.backward(), then step()."
            )
        for group in self.param_groups:
            check_numbers(**{name: _number(group[name]) for name in _NUMBERS})
        grads = {name: p.grad for name, p in self._named.items() if p.grad is not None}
        if not grads:
            raise RuntimeError("No parameter has a gradient. Call loss.backward() before step().")
        due = needs_statistics(self.config, self.kfac.steps)
        still = {name: p.clone() for name, p in self._named.items() if p.grad is None}
        grads.update({name: torch.zeros_like(p) for name, p in still.items()})
        params = {name: p.detach() for name, p in self._named.items()}
        report = advance(self.config, self.kfac, params, grads, self._update_factors if due else None, self._numbers())
        for name, value in still.items():
            params[name].copy_(value)
        self._recorder.clear()
        self._recorder.active = needs_statistics(self.config, self.kfac.steps)
        self.last = report
        return report

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, and what the hooks recorded along with them."""
        super().zero_grad(set_to_none)
        if self.config.fisher == "empirical":
            self._recorder.clear()

    def report(self) -> "Coverage":
        """Say which rule each parameter follows."""
        layers = {p.layer.name: p.layer.parameters for p in self.kfac.layout.placements}
        return Coverage(layers=layers, others={name: self.config.others for name, _, _ in self.kfac.layout.others})

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a restored run needs to continue exactly.

        Beside the parameter groups: factors, inverses, momentum, counters, and the generator's state.
        """
        return {**super().state_dict(), "kfac": saved(self.kfac), "generator": self._generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` saved, from an optimizer of an equal model and configuration."""
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        restore(self.kfac, state_dict["kfac"])
        self._generator.set_state(state_dict["generator"].cpu())
        self._recorder.clear()
        self._recorder.active = needs_statistics(self.config, self.kfac.steps)

    def _update_factors(self, mask: Tensor | None) -> Tensor | None:
        sampled = self.config.fisher != "empirical"
        missing = set(self._recorder.missing)
        for placement in self.kfac.layout.placements:
            layer = placement.layer
            if layer.name in missing and self._named[layer.weight].grad is not None:
                cause = (
                    "call optimizer.observe(outputs) before loss.backward()"
                    if sampled
                    else "call the module itself, in training mode"
                )
                raise RuntimeError(f"Layer {layer.name!r} has a gradient but no statistics: {cause}.")
        new = self._recorder.take(1.0 if sampled or self.config.reduction == "sum" else None, self.kfac)
        return average(self.kfac, new, self.config.factor_decay, mask)

    def _numbers(self) -> FlatNumbers:
        """Give the engine one number for everything, or with several groups one for each parameter and layer."""
        state, groups = self.kfac, self.param_groups
        like = state.momentum
        if len(groups) == 1:
            lr, damping, momentum, decay, clip = (groups[0][name] for name in _NUMBERS)
            return FlatNumbers(
                lr=lr, damping=torch.as_tensor(damping).to(like), momentum=momentum, weight_decay=decay, kl_clip=clip
            )
        of = {id(p): group for group in groups for p in group["params"]}
        flat = {name: torch.empty_like(like) for name in ("lr", "momentum", "weight_decay")}
        for name, vector in flat.items():
            for parameter, view in zip(state.layout.names, state.layout.views(vector), strict=True):
                view.fill_(of[id(self._named[parameter])][name])
        damping = [of[id(self._named[p.layer.weight])]["damping"] for p in state.layout.placements]
        return FlatNumbers(**flat, damping=torch.tensor(damping).to(like), kl_clip=groups[0]["kl_clip"])


@dataclass(frozen=True)
class Coverage:
    """Which rule moves each parameter: the covered layers with their parameters, and the rule of every other one."""

    layers: Mapping[str, tuple[str, ...]]
    others: Mapping[str, str]


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def _warn_of_uncovered(model: nn.Module, covered: set[str]) -> None:
    """Name the modules whose own parameters K-FAC does not cover, normalisation layers excepted."""
    left = [
        f"{name or 'the model itself'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if not isinstance(module, _RULED)
        and any(
            p.requires_grad and (f"{name}.{own}" if name else own) not in covered
            for own, p in module.named_parameters(recurse=False)
        )
    ]
    if left:
        warnings.warn(f"K-FAC does not cover {', '.join(left)}: plain gradients move their parameters.", stacklevel=3)
