"""User-defined optimizers and optimizers of any package: ``kind = "module:Optimizer"``.

The kind names a ``torch.optim.Optimizer``, or a function ``(params, **arguments)`` that returns one. Gradients are
computed for the packed networks; each member has its own optimizer, whose parameters are views into the pack.

If the first argument is named `model`, `module` or `network`, it receives each member's network as a separate module,
so that it can register hooks. Forward and backward passes then also run member by member.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from sensitivity.optimizers.contract import Networks, Report, State, Tensors, registered
from sensitivity.study.arms import OWN, Arm
from sensitivity.study.axes import Axis, AxisField, OwnField
from sensitivity.study.errors import UserError
from sensitivity.study.hyperparameters import hyperparameter
from sensitivity.study.user_functions import check_arguments, fitted_arguments, import_function, signature
from sensitivity.study.varying import fitting
from sensitivity.study.words import kind_of

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.nn import Parameter
    from torch.optim import Optimizer

    from sensitivity.optimizers.numbers import Numbers

logger = logging.getLogger(__name__)

_BETAS = ("beta1", "beta2")
_FUSED = ("SGD", "Adam", "AdamW", "Adagrad")
_FORMS = {"fused", "foreach", "capturable", "differentiable"}
"""Arguments of torch's optimizers that select an implementation of the same update."""
_RATES = "sensitivity_rates"
_MODULE = ("model", "module", "network")
_reported: set[str] = set()
"""Optimizers for which this process has already logged that members are trained one by one."""


class OwnArm(Arm):
    """A user-defined optimizer; all further fields are arguments of its function or class.

    A number, list or interval is an axis; strings and booleans are passed unchanged, as is anything in
    ``{ fixed = ... }``. If the function takes `betas`, they can be given as `beta1` and `beta2`.
    """

    model_config = ConfigDict(extra="allow")
    label: ClassVar[str] = "your own"
    __pydantic_extra__: dict[str, OwnField]

    lr: AxisField

    @model_validator(mode="after")
    def _axes_fit(self) -> OwnArm:
        errors = []
        for name, value in (self.model_extra or {}).items():
            try:
                _refuse_other_tables(name)
                fitting(value, name, self.design) if isinstance(value, Axis) else None
            except PydanticCustomError as error:
                errors.append(InitErrorDetails(type=error, loc=(name,), input=value))
        if errors:
            raise ValidationError.from_exception_data("arm", errors)
        return self


def _refuse_other_tables(name: str) -> None:
    if table := hyperparameter(name).table:
        raise PydanticCustomError(
            "table",
            "belongs to the table {table}: move it to the arm's, or to the study's for all optimizers. For an argument "
            "of that name, use a function that passes it to the optimizer under another name",
            {"table": f"[{'.'.join(table)}]"},
        )


def _is_argument(name: str) -> bool:
    """Whether a hyperparameter or setting of an arm is an argument of its optimizer."""
    return name not in Arm.model_fields and not hyperparameter(name).table


@registered(OwnArm, kind=OWN)
class Own:
    """One optimizer per member, over views of the pack's parameters."""

    def __init__(self, settings: Mapping[str, Any], networks: Networks) -> None:
        self._path = str(settings["kind"])
        self._settings = {name: value for name, value in settings.items() if _is_argument(name)}
        self._build = import_function(self._path, "kind")
        self._bound: tuple[int, ...] = ()
        self._networks = networks
        self._needs_module = _first_argument(self._build) in _MODULE
        self._clips = settings.get("clip_norm") is not None

    @staticmethod
    def remark(settings: Mapping[str, Any]) -> str:
        """Return a remark on which work is done for the whole pack."""
        path = str(settings["kind"])
        if _first_argument(import_function(path, "kind")) in _MODULE:
            return (
                f"{path} takes the network itself, so the runs of a pack are trained one by one and packing has no "
                "benefit; FLOPs include gradients only"
            )
        return (
            "gradients are computed for the whole pack, but updates run for one run at a time; FLOPs are the "
            "gradients' alone"
        )

    def init(self, params: Tensors, numbers: Numbers) -> State:
        """Build the optimizer of each member."""
        from torch.nn import Parameter

        members = []
        if self._needs_module and (self._clips or "clip_norm" in numbers):
            raise UserError(
                f"clip_norm: {self._path} takes the network itself, so its gradients are not part of the pack; clip "
                "them in its step"
            )
        if self._needs_module and self._path not in _reported:
            _reported.add(self._path)
            logger.debug("%s takes the network itself: members of a pack are trained one by one", self._path)
        for k in range(len(numbers["lr"])):
            module = self._module(k)
            views = {name: Parameter(p.detach()[k]) for name, p in params.items()}
            if module is not None:
                views = {name: p for name, p in module.named_parameters() if name in params}
            arguments = {name: numbers[name][k].item() for name in numbers.names if _is_argument(name)}
            made = self._made(list(views.values()) if module is None else module, arguments)
            members.append(Member(views, made, module))
        self._bound = _places(params)
        return {"members": members}

    def _module(self, place: int) -> nn.Module | None:
        """Return the network of a member if the optimizer needs it, otherwise None."""
        if not self._needs_module:
            return None
        assert self._networks.member is not None
        return self._networks.member(place)

    def modules(self, state: State) -> Sequence[nn.Module] | None:
        """Return the modules of the members if the optimizer needs them, otherwise None."""
        return [member.module for member in state["members"]] if self._needs_module else None

    @property
    def period(self) -> int:
        """Return 1, because the pattern of steps is unknown."""
        return 1

    def repeated_kind(self, step: int) -> str | None:
        """Return None, because steps of user code can't be recorded."""
        return None

    def step(
        self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, *, lr: Tensor, step: int
    ) -> Report | None:
        """Run each member's optimizer with its learning rates times the schedule's multiplier."""
        import torch

        members: list[Member] = state["members"]
        multiplier = (lr[0].double() / numbers.cast("lr")[0].double()).item()
        inside = {name: p.detach().unbind() for name, p in params.items()}
        slopes = {name: g.unbind() for name, g in grads.items()}
        if (places := _places(params)) != self._bound:  # members were dropped, and the pack has new tensors
            for k, member in enumerate(members):
                for name, view in member.views.items():
                    view.data = inside[name][k]
                if member.module is not None and self._networks.rebind is not None:
                    self._networks.rebind(k, member.module)  # including buffers
            self._bound = places
        with torch.enable_grad():
            for k, member in enumerate(members):
                member.scale(multiplier)
                if member.module is None:
                    for name, view in member.views.items():
                        view.grad = slopes[name][k]
                member.optimizer.step()
                for name, view in member.views.items():
                    view.grad = None
                    if view.data_ptr() != inside[name][k].data_ptr():  # the parameter was replaced by another tensor
                        self._require_shape(name, view, inside[name][k])
                        with torch.no_grad():
                            inside[name][k].copy_(view)
                        view.data = inside[name][k]
        return None

    def evaluates_other_parameters(self, state: State) -> bool:
        """Whether the optimizers have an `eval` mode."""
        return any(_has_modes(member.optimizer) for member in state["members"])

    def _require_shape(self, name: str, found: Tensor, wanted: Tensor) -> None:
        if found.shape != wanted.shape:
            raise UserError(
                f"kind: {self._path} changed the shape of the parameter {name} from {list(wanted.shape)} to "
                f"{list(found.shape)}; networks must keep their shapes: change values in place"
            )

    @contextlib.contextmanager
    def evaluating(self, params: Tensors, state: State, numbers: Numbers) -> Iterator[None]:
        """Switch optimizers to their `eval` mode within the block, in which schedule-free ones average parameters."""
        moded: list[Any] = [member.optimizer for member in state["members"] if _has_modes(member.optimizer)]
        for optimizer in moded:
            optimizer.eval()
        try:
            yield
        finally:
            for optimizer in moded:
                optimizer.train()

    def select(self, state: State, index: Tensor) -> State:
        """Keep only the members at `index`."""
        return {"members": [state["members"][k] for k in index.tolist()]}

    def saved(self, state: State) -> dict[str, Any]:
        """Return each optimizer's `state_dict`."""
        return {"members": [member.saved() for member in state["members"]]}

    def restore(self, state: State, saved: Mapping[str, Any]) -> None:
        """Load each optimizer's `state_dict`."""
        for member, kept in zip(state["members"], saved["members"], strict=True):
            member.restore(kept)

    def _made(self, params: list[Parameter] | nn.Module, numbers: Mapping[str, float]) -> Optimizer:
        """Build the optimizer of one member.

        Raises:
            UserError: an argument is unknown or missing, or the result is not a torch optimizer or needs a closure.
        """
        import torch

        arguments = _arguments(self._build, {**numbers, **self._settings})
        check_arguments(self._build, self._path, arguments, given=1, also={"betas": _BETAS})
        if self._has_fused_form(arguments):
            arguments["fused"] = True
        made = self._build(params, **arguments)
        if not isinstance(made, torch.optim.Optimizer):
            raise UserError(
                f"kind: {self._path} returned {kind_of(made)}; it must be, or return, a torch.optim.Optimizer"
            )
        if isinstance(made, torch.optim.SparseAdam):
            raise UserError(
                f"kind: {self._path} takes sparse gradients only, but those of a study are dense; use "
                'kind = "adam", or your own dense optimizer'
            )
        closure = inspect.signature(type(made).step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise UserError(
                f"kind: {self._path}: its step needs a closure that computes the loss again, but runs compute one "
                "gradient per step, so that steps of all optimizers are comparable; use an optimizer without one"
            )
        if _has_modes(made):
            modes: Any = made
            modes.train()
        return made

    def _has_fused_form(self, arguments: Mapping[str, Any]) -> bool:
        """Whether it is a torch optimizer with a fused kernel on the host, which takes a third to half of the time."""
        import torch

        fused = [getattr(torch.optim, name) for name in _FUSED]
        on_host = next(iter(self._networks.network.parameters())).device.type == "cpu"
        return on_host and self._build in fused and not _FORMS & arguments.keys()


class Member:
    """The optimizer of one member, and the views of the pack that it steps."""

    def __init__(self, views: dict[str, Parameter], optimizer: Optimizer, module: Any = None) -> None:
        self.views, self.optimizer, self.module = views, optimizer, module
        self._multiplier = 1.0
        self._rates: list[Any] = [group.get("lr") for group in optimizer.param_groups]
        self._given = list(self._rates)
        """Rates last set by `scale`; if a group has a different rate, the optimizer has changed it."""

    def scale(self, multiplier: float) -> None:
        """Set the learning rate of each parameter group to `multiplier` times its base rate.

        The base rate is the initial rate times all factors by which the optimizer has changed it.
        """
        if multiplier == self._multiplier:
            return
        self._multiplier = multiplier
        for place, group in enumerate(self.optimizer.param_groups):
            if (rate := group.get("lr")) is None:
                continue
            if self._given[place] and rate != self._given[place]:
                self._rates[place] *= rate / self._given[place]
            group["lr"] = self._given[place] = self._rates[place] * multiplier

    def saved(self) -> dict[str, Any]:
        """Return its `state_dict` and the base learning rates of its groups."""
        rates = {"multiplier": self._multiplier, "rates": list(self._rates), "given": list(self._given)}
        return {**self.optimizer.state_dict(), _RATES: rates}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Restore the result of `saved`; unlike in torch, tensors keep their dtype."""
        self.optimizer.load_state_dict({name: value for name, value in saved.items() if name != _RATES})
        rates = saved[_RATES]
        self._multiplier, self._rates, self._given = rates["multiplier"], list(rates["rates"]), list(rates["given"])
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        places = [place for group in saved["param_groups"] for place in group["params"]]
        for parameter, place in zip(params, places, strict=True):
            for name, value in saved["state"].get(place, {}).items():
                if hasattr(value, "clone"):
                    self.optimizer.state[parameter][name] = value.clone()


def _arguments(build: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments for `build`, with betas as a pair."""
    known, given = signature(build), fitted_arguments(build, given)
    if "betas" in known and not set(_BETAS) & known.keys() and set(_BETAS) & given.keys():
        default = given.get("betas", known["betas"].default)
        pair = list(default) if isinstance(default, (tuple, list)) else [None, None]
        for place, name in enumerate(_BETAS):
            pair[place] = given.pop(name, pair[place])
        given["betas"] = tuple(pair)
    return given


def _first_argument(build: Callable[..., Any]) -> str:
    return next(iter(signature(build)), "")


def _has_modes(optimizer: Any) -> bool:
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


def _places(params: Tensors) -> tuple[int, ...]:
    return tuple(p.data_ptr() for p in params.values())
