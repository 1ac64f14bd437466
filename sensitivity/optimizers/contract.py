"""Interface of an optimizer for packs: `Rule`, and protocols for optional capabilities.

An optimizer is one file in `kinds`: an `Arm`, which declares its fields, and a `Rule`, which is registered for it. Only
`init` and `step` are required. Each further capability or requirement is a separate protocol, which a rule implements
if it applies.

This file does not import torch at run time, and neither may the module level of files in `kinds`, because reading a
study imports them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

from sensitivity.study.arms import Arm, declare

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sensitivity.kfac import Capture
    from sensitivity.optimizers.numbers import Numbers

State = dict[str, Any]
"""Plain containers of tensors ``[trials, ...]``: everything that a rule keeps between steps."""
Tensors = Mapping[str, "Tensor"]
"""Parameters or gradients by name, each ``[trials, *shape]``."""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Information about the networks of a pack that is available to an optimizer besides parameters and gradients."""

    network: nn.Module
    """A network with the structure of the members; its parameter values are meaningless."""
    batch_size: int
    terms_per_example: int = 1
    """Number of terms of the mean loss per example: the sequence length if there is a target at each position."""
    ignores_terms: bool = False
    """Whether some positions have no loss, depending on the batch."""
    gradients_are_products: bool = False
    """Whether a layer's gradient comes from its observed calls only."""
    loss: Literal["cross_entropy", "squared_error", "binary_cross_entropy"] | None = None
    """The likelihood of the loss; None for other losses."""
    steps: int | None = None
    """Number of steps of the budget."""
    seeds: Sequence[int] = ()
    """Seeds of the members."""
    in_parts: bool = False
    """Whether batches are differentiated in several parts."""
    curvature: Mapping[str, Tensor] | None = None
    """The exact diagonal curvature by parameter, if the problem knows it."""
    member: Callable[[int], nn.Module] | None = None
    """Builds the network of one member as a separate module whose parameters and buffers are views of the pack's."""
    rebind: Callable[[int, nn.Module], None] | None = None
    """Makes them views of the member at an index again, after members were dropped."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Result of one step. Tensors are ``[trials]``."""

    failed: Tensor | None = None
    """Which members could not be updated."""
    clip: Tensor | None = None
    """Factor of the KL clip on each member's update; 1 if the clip was inactive."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Host seconds by phase, for the whole pack (`study.results.PHASES`)."""


class Rule(Protocol):
    """Update rule of an optimizer, for all members of a pack at once.

    It is constructed with ``(settings, networks)``, where the arm's settings include structural hyperparameters.
    """

    def init(self, params: Tensors, numbers: Numbers) -> State:
        """Return the state before the first step."""

    def step(
        self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, *, lr: Tensor, step: int
    ) -> Report | None:
        """Update `params` and `state` in place, without autograd; members must not affect each other.

        Args:
            params: parameters.
            grads: gradients of each member's loss, which must not be modified.
            state: the state created by `init`.
            numbers: hyperparameters.
            lr: the learning rate of this step ``[trials]``, including the schedule.
            step: index of the step, from 0. Control flow may depend on it only as declared by `Intervals`.
        """


@runtime_checkable
class ElementWise(Protocol):
    """The update is element-wise, so that a pack's parameters may be passed as one tensor ``[trials, entries]``."""

    element_wise: Literal[True]


@runtime_checkable
class Intervals(Protocol):
    """Steps differ, because some work is done only every few steps."""

    @property
    def period(self) -> int:
        """Number of steps after which the pattern of work repeats."""

    def repeated_kind(self, step: int) -> str | None:
        """Return the kind of `step`; steps of one kind do the same operations without reading values from the device.

        None if the step reads values from the device.
        """


@runtime_checkable
class Priced(Protocol):
    """The update includes matrix products, decompositions or solves, with a significant cost."""

    def flops(self, batch_size: int, positions: Mapping[str, int]) -> float:
        """Return the FLOPs per trial of an average step, excluding the gradient and element-wise work.

        `positions` is the number of times that each layer's weights are applied to one example.
        """


@runtime_checkable
class Observer(Protocol):
    """The update needs inputs and output gradients of layers."""

    @property
    def observed_layers(self) -> frozenset[str]:
        """Names of the layers whose calls are needed."""

    def begin(self, step: int) -> bool:
        """Return whether `step` needs the calls of layers; discards observations of an unfinished step."""

    def observe(
        self, calls: Mapping[str, Sequence[Capture]], share: float | Tensor, valid: Tensor | None = None
    ) -> None:
        """Receive the layers' calls for a micro-batch, with gradients of its mean loss.

        Args:
            calls: calls by layer.
            share: fraction of the batch's loss terms in the micro-batch; ``[trials]`` if it differs by member.
            valid: which terms have a loss ``[trials, batch, *positions]``; None if all have one.
        """


@runtime_checkable
class Samples(Observer, Protocol):
    """The observed output gradients may be those of losses other than the training loss."""

    def pseudo_losses(self, outputs: Tensor, valid: Tensor | None = None) -> Iterator[Tensor]:
        """Yield scalars whose gradients are observed instead of those of the training loss; none to observe the latter.

        `outputs` are ``[trials, batch, *positions, outputs]``; `valid` is as in `observe`.
        """

    def passes(self, outputs: int) -> float:
        """Return the average number of additional backward passes per step, for networks with `outputs` outputs."""


@runtime_checkable
class SampledGradients(Protocol):
    """Some steps also need the gradient for labels sampled from the networks."""

    def sampled_loss(
        self, outputs: Tensor, state: State, valid: Tensor | None = None, *, step: int, done: int
    ) -> Tensor | None:
        """Return the mean loss for sampled labels, summed over members; None if it is not needed at this step.

        `outputs` are ``[trials, batch, *positions, outputs]``; the mean is over `valid` terms, as in
        `Observer.observe`. `done` is the number of examples of the batch in earlier parts.
        """

    def take_sampled(self, grads: Tensors, share: float | Tensor) -> None:
        """Receive the gradient of the sampled loss for a part with a fraction `share` of the batch's loss terms."""

    def backward_passes(self) -> float:
        """Return the average number of additional backward passes per step."""


@runtime_checkable
class ObservesLossChange(Protocol):
    """Some steps need the change of the loss on the same batch."""

    def needs_loss_after(self, step: int) -> bool:
        """Whether the loss of the batch is to be computed again after `step`."""

    def observe_loss_change(self, params: Tensors, state: State, numbers: Numbers, change: Tensor) -> None:
        """Receive the change of the loss ``[trials]`` in the last step."""


@runtime_checkable
class SkipsUnused(Protocol):
    """Parameters that a batch did not use are not updated and are missing from the gradients."""

    leaves_unused: Literal[True]


@runtime_checkable
class OwnState(Protocol):
    """The state is not only plain containers of tensors ``[trials, ...]``."""

    def select(self, state: State, index: Tensor) -> State:
        """Return the state of the members at `index`."""

    def saved(self, state: State) -> dict[str, Any]:
        """Return the state as plain containers of tensors, numbers and strings."""

    def restore(self, state: State, saved: Mapping[str, Any]) -> None:
        """Restore a state returned by `saved` for the same members."""


@runtime_checkable
class ExplainsFailures(Protocol):
    """Updates can fail for reasons other than non-finite values."""

    def failure_reason(self, member: int) -> str | None:
        """Return why the member could not be updated; None for the generic reason."""


@runtime_checkable
class EvaluatesOtherParameters(Protocol):
    """Networks are evaluated with parameters other than those at which gradients are computed."""

    def evaluates_other_parameters(self, state: State) -> bool:
        """Whether this is the case for these settings."""

    def evaluating(self, params: Tensors, state: State, numbers: Numbers) -> AbstractContextManager[None]:
        """Set `params` to the values for evaluation within the block, and restore those of training afterwards."""


@runtime_checkable
class TrainsModules(Protocol):
    """The optimizer may need each member's network as a module, for hooks on its forward and backward passes."""

    def modules(self, state: State) -> Sequence[nn.Module] | None:
        """Return the module of each member, to be differentiated one by one; None if gradients are sufficient."""


@runtime_checkable
class HasRemark(Protocol):
    """A plan shows a remark about the optimizer, which the class provides before a study runs."""

    @staticmethod
    def remark(settings: Mapping[str, Any]) -> str:
        """Return a remark about costs that are higher than for other optimizers, or not counted."""


@runtime_checkable
class Restricted(Protocol):
    """Some networks can't be trained, which the class checks before a study runs."""

    @staticmethod
    def unusable(settings: Mapping[str, Any], networks: Networks) -> str | None:
        """Return why an arm with these settings can't train the networks, and the fix; None if it can."""


RuleBuilder = Callable[[Mapping[str, Any], Networks], Rule]
RULES: dict[str, RuleBuilder] = {}
"""Builder of the rule of each registered kind."""
_R = TypeVar("_R", bound=RuleBuilder)


def registered(arm: type[Arm], kind: str = "") -> Callable[[_R], _R]:
    """Decorate a rule to register it for `arm` and declare the arm; nothing else is needed to add an optimizer.

    The kind defaults to that of the arm's field `kind`.
    """

    def register(rule: _R) -> _R:
        name = kind or str(arm.model_fields["kind"].default)
        RULES[name] = rule
        declare(name, arm)
        return rule

    return register
