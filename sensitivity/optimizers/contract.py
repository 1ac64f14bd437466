"""What an optimizer over a pack is: `Rule`, and the optional capabilities beside it.

An optimizer is one file in `kinds`: an `Arm`, which declares its fields, and a `Rule`, registered for it. Only `init`
and `step` are required. Whatever else an optimizer needs or offers is a protocol of its own, and a rule that doesn't
have it leaves it out.

This file imports no torch at run time, and neither may the top of a file in `kinds`: reading a study loads them.
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
"""Plain containers of tensors ``[trials, ...]``: all that a rule keeps from step to step."""
Tensors = Mapping[str, "Tensor"]
"""Parameters or gradients by name, each ``[trials, *shape]``."""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """What an optimizer may know of the networks of a pack, beside their parameters and gradients."""

    network: nn.Module
    """One of them, for its structure: its parameter values are nobody's."""
    batch_size: int
    terms_per_example: int = 1
    """How many terms the mean loss has for each example: the positions of a sequence that has a target at each."""
    ignores_terms: bool = False
    """Whether some of these positions have no loss, and which ones differs by batch."""
    gradients_are_products: bool = False
    """Whether a layer's gradient is that of its observed calls alone."""
    loss: Literal["cross_entropy", "squared_error", "binary_cross_entropy"] | None = None
    """That of the outputs, where it is one of these."""
    steps: int | None = None
    """In the budget."""
    seeds: Sequence[int] = ()
    """Of the members."""
    in_parts: bool = False
    """Whether batches are differentiated in parts."""
    curvature: Mapping[str, Tensor] | None = None
    """The exact diagonal curvature by parameter, where a problem knows it."""
    member: Callable[[int], nn.Module] | None = None
    """Builds the network of one member as a module of its own, whose parameters and buffers are views of the pack's."""
    rebind: Callable[[int, nn.Module], None] | None = None
    """Makes them views again, of the member at that place, after members were dropped."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one step did. Tensors are ``[trials]``."""

    failed: Tensor | None = None
    """Members that could not be updated."""
    clip: Tensor | None = None
    """The factor on each member's update; 1 where the clip did not bind."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Host seconds by phase, for the whole pack (`study.results.PHASES`)."""


class Rule(Protocol):
    """An optimizer's update, for all members of a pack at once.

    Built by ``(settings, networks)``: the arm's settings, structural hyperparameters included.
    """

    def init(self, params: Tensors, numbers: Numbers) -> State:
        """Return the state before the first step."""

    def step(
        self, params: Tensors, grads: Tensors, state: State, numbers: Numbers, *, lr: Tensor, step: int
    ) -> Report | None:
        """Update `params` and `state` in place, without gradients; no member may see another's numbers.

        Args:
            params: parameters.
            grads: gradients of each member's loss; to be left as they are.
            state: what `init` returned.
            numbers: hyperparameters.
            lr: the learning rate of this step ``[trials]``, schedule included.
            step: index of the step, 0 for the first. Python code may depend on it only as `Intervals` says.
        """


@runtime_checkable
class ElementWise(Protocol):
    """The update of an entry does not depend on others: a pack's parameters may be one tensor ``[trials, entries]``."""

    element_wise: Literal[True]


@runtime_checkable
class Intervals(Protocol):
    """Steps differ: some work is done every few steps."""

    @property
    def period(self) -> int:
        """After how many steps the work repeats."""

    def repeated_kind(self, step: int) -> str | None:
        """Name the kind of `step`: steps of one kind do the same operations, and ask the device for no number.

        None where the step does ask for one.
        """


@runtime_checkable
class Priced(Protocol):
    """The update has matrix products, decompositions or solves."""

    def flops(self, batch_size: int, positions: Mapping[str, int]) -> float:
        """Return the FLOPs of an average step and trial, beyond the gradient's and element-wise work.

        `positions` says, by layer, how often its weights meet one example.
        """


@runtime_checkable
class Observer(Protocol):
    """The update needs the inputs and the output gradients of layers."""

    @property
    def observed_layers(self) -> frozenset[str]:
        """Names of the layers whose calls it needs."""

    def begin(self, step: int) -> bool:
        """Return whether `step` needs the calls of the layers; what was observed of an unfinished step is dropped."""

    def observe(
        self, calls: Mapping[str, Sequence[Capture]], share: float | Tensor, valid: Tensor | None = None
    ) -> None:
        """Take the layers' calls in a micro-batch: gradients of its mean loss.

        Args:
            calls: by layer.
            share: of the whole batch's loss terms; ``[trials]`` where members differ.
            valid: which terms have a loss ``[trials, batch, *positions]``; None where all have.
        """


@runtime_checkable
class Samples(Observer, Protocol):
    """What is observed of layers may be gradients of other losses than the one that is trained."""

    def pseudo_losses(self, outputs: Tensor, valid: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the scalars whose gradients are observed in place of the loss's; none if it is the loss's.

        `outputs` are ``[trials, batch, *positions, outputs]``, `valid` as of `observe`.
        """

    def passes(self, outputs: int) -> float:
        """Return how many backward passes that is in an average step, of networks with so many outputs."""


@runtime_checkable
class SampledGradients(Protocol):
    """Some steps need the gradient for labels that are sampled from the networks too."""

    def sampled_loss(
        self, outputs: Tensor, state: State, valid: Tensor | None = None, *, step: int, done: int
    ) -> Tensor | None:
        """Return the sum over members of the mean loss of their outputs for such labels; None where it isn't wanted.

        `outputs` are ``[trials, batch, *positions, outputs]``; the mean is over the terms that are `valid`, as of
        `Observer.observe`. `done` examples of the batch came in earlier parts.
        """

    def take_sampled(self, grads: Tensors, share: float | Tensor) -> None:
        """Take its gradient, in a part that is `share` of the whole batch's loss terms."""

    def backward_passes(self) -> float:
        """Return how many further ones there are in an average step."""


@runtime_checkable
class Judged(Protocol):
    """Some steps are judged by the loss of the same batch after them."""

    def is_judged(self, step: int) -> bool:
        """Whether the loss after `step` is wanted."""

    def judge(self, params: Tensors, state: State, numbers: Numbers, change: Tensor) -> None:
        """Take how much the loss ``[trials]`` changed in the last step."""


@runtime_checkable
class LeavesUnused(Protocol):
    """Parameters that a batch did not use are left as they are, and are not among the gradients."""

    leaves_unused: Literal[True]


@runtime_checkable
class OwnState(Protocol):
    """The state is more than plain containers of tensors ``[trials, ...]``."""

    def select(self, state: State, index: Tensor) -> State:
        """Return the state of the members at `index`."""

    def saved(self, state: State) -> dict[str, Any]:
        """Return the state as plain containers of tensors, numbers and texts."""

    def restore(self, state: State, saved: Mapping[str, Any]) -> None:
        """Set the state to what `saved` returned, of equal members."""


@runtime_checkable
class Explains(Protocol):
    """An update can fail in more ways than by numbers that are not finite."""

    def failure_reason(self, member: int) -> str | None:
        """Return why the member could not be updated; None if there is nothing special to say."""


@runtime_checkable
class EvaluatesElsewhere(Protocol):
    """Networks are evaluated with other parameters than those that gradients are taken at."""

    def evaluates_elsewhere(self, state: State) -> bool:
        """Whether they are, with what was built."""

    def evaluating(self, params: Tensors, state: State, numbers: Numbers) -> AbstractContextManager[None]:
        """Set `params` to those to evaluate with while inside. Those of training are put back afterwards."""


@runtime_checkable
class TrainsModules(Protocol):
    """It may need each member's network as a module, whose hooks see its forward and backward passes."""

    def modules(self, state: State) -> Sequence[nn.Module] | None:
        """Return the module of each member, to be differentiated one by one; None if gradients are enough."""


@runtime_checkable
class Remarked(Protocol):
    """A plan has something to say of it. Asked of the class, before a study runs."""

    @staticmethod
    def remark(settings: Mapping[str, Any]) -> str:
        """Return what costs more than elsewhere, or isn't counted, of an arm with these settings."""


@runtime_checkable
class Particular(Protocol):
    """There are networks that it can't train. Asked of the class, before a study runs."""

    @staticmethod
    def unusable(settings: Mapping[str, Any], networks: Networks) -> str | None:
        """Return why an arm of these settings can't train them, and what to do; None if it can."""


RuleBuilder = Callable[[Mapping[str, Any], Networks], Rule]
RULES: dict[str, RuleBuilder] = {}
"""What builds the rule of each declared kind."""
_R = TypeVar("_R", bound=RuleBuilder)


def registered(arm: type[Arm], kind: str = "") -> Callable[[_R], _R]:
    """Register what is decorated as the rule of `arm`, and declare the arm: all that adds an optimizer.

    The kind is the default of the arm's field, if it isn't given.
    """

    def register(rule: _R) -> _R:
        name = kind or str(arm.model_fields["kind"].default)
        RULES[name] = rule
        declare(name, arm)
        return rule

    return register
