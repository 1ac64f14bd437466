"""Resource requests of packs, and the number of packs that fit on a cluster (without Ray; see ``ray.nodes()``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sensitivity.study.errors import UserError
from sensitivity.study.execution import ExecutionSpec

_TYPE_AMOUNT = 0.001
"""Requested amount of the resource ``accelerator_type:NAME``, of which a node has 1, as Ray itself requests it."""
_ROUNDING = 1e-6
_MAX_PACKS_PER_CORE = 8
"""Most packs per core on this machine; more would only wait for each other."""


def request(execution: ExecutionSpec) -> dict[str, float]:
    """Return the resource request of a pack, by Ray's names."""
    asked = {"CPU": float(execution.threads), **execution.resources}
    if execution.device == "cuda":
        asked["GPU"] = execution.accelerator_share
    if execution.accelerator_type is not None:
        asked[f"accelerator_type:{execution.accelerator_type}"] = _TYPE_AMOUNT
    return asked


def local_cores(workers: int, execution: ExecutionSpec, *, available: int) -> int:
    """Return the number of cores for a Ray on this machine: those that `workers` packs use at a time.

    It may exceed the available cores (for packs that share an accelerator), but is limited, because Ray starts a
    process for each.

    Raises:
        UserError: the number is far larger than the `available` cores.
    """
    most = _MAX_PACKS_PER_CORE * available
    if execution.threads > most:
        raise UserError(
            f"execution.threads = {execution.threads}: this machine has {available} cores\n"
            f"  Set threads to at most {available}"
        )
    if workers * execution.threads > most:
        each = f" of {execution.threads} threads" if execution.threads > 1 else ""
        raise UserError(
            f"--workers {workers}: too many{each} for the {available} cores of this machine\n"
            f"  Use at most {most // execution.threads}, or omit it for one per core"
        )
    return workers * execution.threads


def packs_on(node: Mapping[str, Any], execution: ExecutionSpec) -> int:
    """Return the number of packs that fit on a node."""
    labels: Mapping[str, str] = node.get("Labels") or {}
    if any(labels.get(name) != value for name, value in execution.labels.items()):
        return 0
    has: Mapping[str, float] = node["Resources"]
    return min(int(has.get(name, 0.0) / amount + _ROUNDING) for name, amount in request(execution).items())


def packs_at_once(nodes: Sequence[Mapping[str, Any]], execution: ExecutionSpec, *, workers: int | None) -> int:
    """Return the number of packs that may run at a time on the nodes of a cluster.

    Args:
        nodes: nodes that are alive.
        execution: resources of a pack.
        workers: upper limit; None for as many as fit.

    Raises:
        UserError: no pack fits, and the cluster does not grow. Ray would wait forever (docs/ray.md).
    """
    if execution.elastic and execution.max_concurrent is not None:
        fit = execution.max_concurrent
    else:
        fit = sum(packs_on(node, execution) for node in nodes)
        if not fit:
            raise _infeasible(nodes, execution)
    return min(limit for limit in (fit, workers, execution.max_concurrent) if limit is not None)


def _infeasible(nodes: Sequence[Mapping[str, Any]], execution: ExecutionSpec) -> UserError:
    most = {name: max((node["Resources"].get(name, 0.0) for node in nodes), default=0.0) for name in request(execution)}
    if execution.device == "cuda" and not most["GPU"]:
        return UserError(
            'execution.device = "cuda", but Ray sees no accelerator: no pack could ever start\n'
            '  Set device = "cpu", or use the --address of a cluster that has one'
        )
    if most["CPU"] < execution.threads:
        return UserError(
            f"execution.threads = {execution.threads}, but no node has more than {most['CPU']:.0f} CPUs: no pack could "
            f"ever start\n  Set threads to at most {most['CPU']:.0f}"
        )
    if execution.accelerator_type is not None and not most[f"accelerator_type:{execution.accelerator_type}"]:
        kinds = sorted({name for node in nodes for name in node["Resources"] if name.startswith("accelerator_type:")})
        there = ", ".join(name.partition(":")[2] for name in kinds) or "none whose type Ray recognises"
        return UserError(
            f'execution.accelerator_type = "{execution.accelerator_type}", but the cluster has {there}\n'
            "  Use one of these, or omit it"
        )
    for name, amount in execution.resources.items():
        if most[name] < amount:
            return UserError(
                f"execution.resources: {name} = {amount:g}, but no node has more than {most[name]:g}\n"
                f"  Start nodes with `ray start --resources='{{\"{name}\": {amount:g}}}'`, or request less"
            )
    wanted = ", ".join(f"{name} = {value!r}" for name, value in execution.labels.items())
    with_labels = f" and the labels {wanted}" if wanted else ""
    return UserError(
        f"execution: no single node has all resources of a pack{with_labels}: no pack could ever start\n"
        "  Request less, or start such a node (`ray start --labels`, `--resources`); set elastic = true if the cluster "
        "is autoscaled"
    )
