"""Layer calls of the sampled Fisher, and the observations that belong to the gradient of the next step.

A call is stored in the metadata of the autograd node that computed its output, so that it lives as long as the graph: a
forward pass that is not observed costs nothing once its graph is freed. An observation counts if a backward pass that
accumulates gradients goes through its outputs. If no gradient is left when the next observation begins, the earlier
ones belong to batches that were skipped.
"""

from typing import NamedTuple

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from sensitivity.kfac.attention import View
from sensitivity.kfac.diagonal import Norm
from sensitivity.kfac.hooks import Names, parts_of
from sensitivity.kfac.passes import PassLedger


class Call(NamedTuple):
    """A call whose output gradients an observation computes.

    names, view: as for `CallHandler`. version: version counter of the inputs (`version_of`). output_number: index of
    the output of its autograd node. norm: the normalisation layer, if it is one.
    """

    names: Names
    inputs: Tensor
    version: int
    output_number: int
    view: View | None = None
    norm: Norm | None = None

    def parts(self, grad: Tensor) -> list[tuple[str, Tensor]]:
        """Return the part of each covered layer of the gradient of the outputs."""
        return parts_of(self.names, grad, self.view)


class Observations:
    """Observations since the last step."""

    def __init__(self, ledger: PassLedger) -> None:
        self._ledger, self._key, self._last = ledger, f"K-FAC {id(self)}", 0
        self.clear()

    def clear(self) -> None:
        """Discard all observations."""
        self._reached: dict[int, bool] = {}
        self._dropped_reached = False

    def record(
        self, names: Names, inputs: Tensor, version: int, output: Tensor, view: View | None, norm: Norm | None = None
    ) -> None:
        """Store a call with the graph of its output."""
        edge = get_gradient_edge(output)
        kept: dict[str, list[Call]] = edge.node.metadata  # type: ignore[assignment]  # a property
        kept.setdefault(self._key, []).append(Call(names, inputs, version, edge.output_nr, view, norm))

    def take(self, outputs: Tensor) -> list[tuple[Call, GradientEdge]]:
        """Remove and return the calls that these outputs were computed from, with the edges of their outputs."""
        found, waiting = list[tuple[Call, GradientEdge]](), [outputs.grad_fn]
        known = set[Node]()
        while waiting:
            node = waiting.pop()
            if node is None or node in known:
                continue
            known.add(node)
            kept: dict[str, list[Call]] = node.metadata  # type: ignore[assignment]  # a property
            for call in kept.pop(self._key, []):
                found.append((call, GradientEdge(node, call.output_number)))
            waiting.extend(each for each, _ in node.next_functions)
        return found[::-1]

    def begin(self, outputs: Tensor) -> int:
        """Begin an observation; return its id, a negative number (ids of backward passes are not negative)."""
        self._last -= 1
        own = self._last
        self._reached[own] = False

        def after_backward(_: Tensor) -> None:
            if self._ledger.any_counts():
                if own in self._reached:
                    self._reached[own] = True
                else:
                    self._dropped_reached = True

        if outputs.requires_grad:
            outputs.register_hook(after_backward)  # type: ignore[no-untyped-call]
        return own

    def are_stale(self) -> bool:
        """Whether there are observations of batches whose gradients have all been cleared."""
        return bool(self._reached) and self._ledger.all_cleared()

    def drop(self) -> None:
        """Discard the observations so far; their batches were skipped."""
        self._reached.clear()

    def require_all_reached(self) -> None:
        """Raise RuntimeError if backward passes went through some of the observed outputs only."""
        if self._dropped_reached:
            raise RuntimeError(
                "observe() was called more than once before a backward pass. If one loss is computed from several "
                "outputs, observe them together: optimizer.observe(torch.cat([first, second])) before loss.backward()."
            )
        if len(set(self._reached.values())) > 1:
            raise RuntimeError(
                "observe() was called for a batch whose loss had no backward pass, and for others that had one: the "
                "statistics would not be those of the gradient. Call observe() after deciding to use a batch, or clear "
                "all gradients with optimizer.zero_grad() when a batch is skipped."
            )
