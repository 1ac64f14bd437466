"""Checks of a cluster before training, with a message and a fix for each problem that would occur later.

Every node on which packs may run reports its versions, its access to the storage place, and its data set. A storage
place that is local to each machine would only be noticed at the first missing checkpoint, so it is detected here.
"""

from __future__ import annotations

import platform
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sensitivity.execution.loading import ChangedError, load
from sensitivity.execution.losses import ATTEMPTS, GONE, LOST, last_line
from sensitivity.execution.prepare import Plan
from sensitivity.execution.resources import packs_on, request
from sensitivity.store.directory import Place
from sensitivity.study.errors import StorageError, UserError
from sensitivity.study.origin import Origin

ANSWER_S = 600.0
"""How long nodes have to answer; a node without the data set downloads it first."""
_MARK = ".preflight-"


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """The report of one node."""

    node: str
    """Host name or address of the node."""
    versions: Mapping[str, str]
    """Versions of Python and of the packages that must agree."""
    storage: str
    """Problem with the storage place on the node; empty if it is the driver's and can be written."""
    dataset: str
    """Problem with the data set or the user's code on the node; empty if they equal the driver's."""
    accelerator: str = ""
    """Reason why PyTorch can't use the node's accelerators; empty if it can."""


def check_nodes(plan: Plan, directory: Place) -> None:
    """Query every node that can run packs, and compare it with this process, the driver.

    Raises:
        UserError: there are problems; the message lists those of all nodes.
    """
    mark = f"{_MARK}{uuid.uuid4().hex}"
    nodes = [id_ for id_, node in _alive().items() if packs_on(node, plan.spec.execution)]
    directory.write(mark, b"")
    reports: list[NodeReport] = []
    try:
        reports += _query(nodes, plan, directory, mark)
        unseen = [each.node for each in reports if not each.storage and not directory.exists(f"{mark}-{each.node}")]
    finally:
        for name in (mark, *(f"{mark}-{each.node}" for each in reports)):
            directory.delete(name)
    own = versions()
    mistakes = faults(reports, own, driver=platform.node(), place=directory.uri)
    mistakes += [f"{directory.uri}: files that {node} writes there do not appear here{_SHARED}" for node in unseen]
    if mistakes:
        raise UserError("the cluster is not ready; nothing was run\n" + "\n".join(f"  - {line}" for line in mistakes))


_SHARED = "; use a place that all nodes share for --storage: NFS mounted at the same path, s3://..., gs://..."


def faults(reports: Sequence[NodeReport], own: Mapping[str, str], *, driver: str, place: str) -> list[str]:
    """Return the reasons why a study can't run on the nodes that sent `reports`, one per line.

    Args:
        reports: reports of the nodes.
        own: versions of the driver.
        driver: host name of the driver.
        place: place of the results.
    """
    lines = []
    for report in reports:
        different = [
            f"{name} {report.versions.get(name)} ({version} on {driver})"
            for name, version in own.items()
            if report.versions.get(name) != version
        ]
        if different:
            lines.append(f"{report.node} has {', '.join(different)}; install the same on every node")
        if report.storage:
            lines.append(f"{place} on {report.node}: {report.storage}")
        if report.dataset:
            lines.append(f"the problem on {report.node}: {report.dataset}")
        if report.accelerator:
            lines.append(f"{report.node}: {report.accelerator}")
    return lines


def versions() -> dict[str, str]:
    """Return the versions that must agree between nodes (for Python the minor version, as Ray requires)."""
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "Ray": str(ray.__version__),
        "PyTorch": str(torch.__version__),
        "pyarrow": str(pyarrow.__version__),
    }


def _query(nodes: Sequence[str], plan: Plan, directory: Place, mark: str, attempts: int = ATTEMPTS) -> list[NodeReport]:
    """Return the reports of `nodes`; without nodes, that of the node on which Ray places a pack.

    A node that is removed meanwhile has no report; one whose worker is lost is queried again, `attempts` times in all.
    """
    asked = request(plan.spec.execution)
    anywhere = {
        "num_cpus": asked.pop("CPU"),
        "num_gpus": asked.pop("GPU", 0),
        "resources": asked,
        "label_selector": dict(plan.spec.execution.labels),
    }
    wheres = [
        {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)} for node in nodes
    ] or [anywhere]
    device = plan.spec.execution.device
    question = (directory, mark, plan.origin, device)
    task = ray.remote(max_retries=0)(_report)
    answers = [task.options(**where).remote(*question) for where in wheres]
    # Without nodes there is no time limit, because packs would wait for a new node, too.
    answered, silent = ray.wait(answers, num_returns=len(answers), timeout=ANSWER_S if nodes else None)
    if silent:
        names = ", ".join(_name(nodes[answers.index(each)]) for each in silent)
        raise UserError(
            f"no answer within {ANSWER_S:.0f} s from {names}; nothing was run\n"
            "  Look for the reason in Ray's dashboard, or remove it from the cluster"
        )
    reports, again = [], []
    for each in answered:
        node = nodes[answers.index(each)] if nodes else None
        try:
            reports.append(ray.get(each))
        except ray.exceptions.RayError as error:
            if node and (isinstance(error, GONE) or node not in _alive()):
                continue  # the node was removed meanwhile, so no pack will run there
            if isinstance(error, LOST) and attempts > 1:
                again.append(node)
                continue
            raise UserError(
                f"{_name(node) if node else 'a new node'} can't run this study ({last_line(error)}); nothing was run\n"
                "  Install the driver's versions there, or remove it from the cluster"
            ) from None
    if again or not reports:
        reports += _query([node for node in again if node], plan, directory, mark, attempts=attempts - bool(again))
    return reports


def _alive() -> dict[str, dict[str, Any]]:
    """Return Ray's nodes that are alive, by id."""
    there: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node for node in there if node["Alive"]}


def _name(node_id: str) -> str:
    """Return a readable and unique name of a node; several nodes may share a machine."""
    return f"{_alive().get(node_id, {}).get('NodeManagerHostname', 'node')}-{node_id[:6]}"


def _report(directory: Place, mark: str, origin: Origin, device: str) -> NodeReport:
    node = f"{platform.node()}-{ray.get_runtime_context().get_node_id()[:6]}"
    return NodeReport(
        node=node,
        versions=versions(),
        storage=_storage(directory, mark, node),
        dataset=problem_fault(origin),
        accelerator=lacking_accelerator(device),
    )


def lacking_accelerator(device: str) -> str:
    """Return the reason why this PyTorch can't train on `device`; empty if it can. Ray does not check this."""
    if device == "cpu" or torch.version.cuda or torch.version.hip:
        return ""
    return f'device = "{device}", but PyTorch {torch.__version__} there is built without it; install one that has it'


def _storage(directory: Place, mark: str, node: str) -> str:
    try:
        if not directory.exists(mark):  # write nothing, because that would create a folder nobody knows of
            return f"files that the driver wrote there do not appear{_SHARED}"
        directory.write(f"{mark}-{node}", b"")
    except StorageError as error:
        return " ".join(str(error).split())
    return ""


def problem_fault(origin: Origin) -> str:
    """Return a description of how the problem in this process differs from the plan; empty if it does not."""
    try:
        load(origin, torch.device("cpu"))
    except ChangedError as error:
        return f"{' '.join(str(error).split())}; use the same files on every node"
    return ""
