"""``[log]``: the experiment trackers that receive a study's runs while it runs, each an entry of `TRACKERS`.

Each entry names a module in ``sensitivity/exporting/destinations``, which is imported only when it is used.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from sensitivity.study.errors import UserError
from sensitivity.study.nearest import nearest
from sensitivity.study.redaction import redacted
from sensitivity.study.section import AsList, OneOrMore, Section


@dataclass(frozen=True, kw_only=True)
class TrackerKind:
    """An experiment tracker."""

    name: str
    """Prefix of an address, as in ``mlflow:http://...``, and name of the extra that installs the tool."""
    label: str
    module: str
    """Module in ``sensitivity.exporting.destinations`` that defines ``open_tracker(address, study) -> Tracker``."""
    package: str
    """Package that the module imports."""
    addresses: str
    """Description of the address after the colon and of its default."""
    check: str
    """Advice to the user if the tool can't be reached."""


TRACKERS: tuple[TrackerKind, ...] = (
    TrackerKind(
        name="mlflow",
        label="MLflow",
        module="mlflow_tracking",
        package="mlflow",
        addresses="a tracking URI (default: MLFLOW_TRACKING_URI)",
        check="Check that the tracking server answers at this address, and MLFLOW_TRACKING_USERNAME and _PASSWORD",
    ),
    TrackerKind(
        name="tensorboard",
        label="TensorBoard",
        module="tensorboard_events",
        package="tensorboardX",
        addresses="a folder or URI (default: tensorboard)",
        check="Check that the folder can be written and has space left",
    ),
    TrackerKind(
        name="wandb",
        label="W&B",
        module="wandb_runs",
        package="wandb",
        addresses="[ENTITY/]PROJECT (default: the study's name)",
        check="Check the network and `wandb login`, or set WANDB_MODE=offline and `wandb sync` the files later",
    ),
)


@dataclass(frozen=True)
class Target:
    """A tracker at an address."""

    kind: TrackerKind
    address: str
    """Empty for the default."""

    @property
    def text(self) -> str:
        """The target as written by the user."""
        return f"{self.kind.name}:{self.address}" if self.address else self.kind.name

    @property
    def shown(self) -> str:
        """The target without credentials."""
        return redacted(self.text)

    @property
    def missing(self) -> str:
        """Message on what to install; empty if the tool's package is installed."""
        if importlib.util.find_spec(self.kind.package) is not None:
            return ""
        return (
            f"{self.kind.label} needs the package {self.kind.package}, which isn't installed\n"
            f"  Install it: pip install 'sensitivity[{self.kind.name}]'"
        )


def names_tracker(text: str) -> bool:
    """Whether a text begins with the name of a tracker."""
    return text.partition(":")[0] in {kind.name for kind in TRACKERS}


def parse_target(text: str) -> Target:
    """Parse ``TOOL`` or ``TOOL:ADDRESS``.

    Raises:
        UserError: there is no such tool.
    """
    name, _, address = text.partition(":")
    kind = next((each for each in TRACKERS if each.name == name), None)
    if kind is None:
        known = [each.name for each in TRACKERS]
        near = nearest(name, known)
        meant = f" (did you mean {near!r}?)" if near else ""
        raise UserError(f"{redacted(text)!r}: unknown experiment tracker{meant}\n  Allowed: {', '.join(known)}")
    return Target(kind, address)


def target_without_credentials(text: str) -> str:
    """Return a target unchanged if it contains no credentials, so that it can be stored and shown.

    Raises:
        UserError: there is no such tool, or the address contains credentials.
    """
    target = parse_target(text)
    if target.shown != target.text:
        raise UserError(
            f"{target.shown}: contains credentials, which would be stored and shown\n"
            "  Remove them, and set the tool's environment variables where the study runs"
        )
    return text


class LogSpec(Section):
    """Experiment trackers that receive runs while the study runs. No result depends on them."""

    to: Annotated[tuple[str, ...], AsList, OneOrMore, Field(max_length=10)] = ()
    """Trackers, each as NAME or NAME:ADDRESS."""

    @field_validator("to")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                target_without_credentials(text)
            except UserError as error:
                raise PydanticCustomError("target", "{why}", {"why": str(error).replace("\n ", ".")}) from None
        return value
