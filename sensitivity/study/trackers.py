"""``[log]``: the tools that a study's runs are sent to while it runs, each an entry of `TRACKERS`.

The entry names the module that sends (``sensitivity/exporting/destinations``), which is loaded only when it is used.
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
from sensitivity.study.section import AsList, Section


@dataclass(frozen=True, kw_only=True)
class TrackerKind:
    """A tool that tracks runs."""

    name: str
    """Before the colon of an address, as in ``mlflow:http://...``; names the extra that installs the tool, too."""
    label: str
    module: str
    """In ``sensitivity.exporting.destinations``, with ``open_tracker(address, study) -> Tracker``."""
    package: str
    """What the module imports."""
    addresses: str
    """What follows the colon, in words, and what is taken without it."""
    check: str
    """What a user checks where it can't be reached."""


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
        """As a user writes it."""
        return f"{self.kind.name}:{self.address}" if self.address else self.kind.name

    @property
    def shown(self) -> str:
        """The same without credentials."""
        return redacted(self.text)

    @property
    def missing(self) -> str:
        """What to install, in words; empty if the tool's package is there."""
        if importlib.util.find_spec(self.kind.package) is not None:
            return ""
        return (
            f"{self.kind.label} needs the package {self.kind.package}, which isn't installed\n"
            f"  Install it: pip install 'sensitivity[{self.kind.name}]'"
        )


def names_tracker(text: str) -> bool:
    """Whether a text begins as a target does."""
    return text.partition(":")[0] in {kind.name for kind in TRACKERS}


def parse_target(text: str) -> Target:
    """Parse ``TOOL`` or ``TOOL:ADDRESS``.

    Raises:
        UserError: no such tool.
    """
    name, _, address = text.partition(":")
    kind = next((each for each in TRACKERS if each.name == name), None)
    if kind is None:
        known = [each.name for each in TRACKERS]
        near = nearest(name, known)
        meant = f" (did you mean {near!r}?)" if near else ""
        raise UserError(f"{redacted(text)!r}: no tool that tracks runs{meant}\n  Allowed: {', '.join(known)}")
    return Target(kind, address)


def target_without_credentials(text: str) -> str:
    """Return a target that may be kept and shown as it is.

    Raises:
        UserError: no such tool, or the address holds credentials.
    """
    target = parse_target(text)
    if target.shown != target.text:
        raise UserError(
            f"{target.shown}: holds credentials, which would be kept and shown\n"
            "  Leave them out, and set the environment variables that the tool reads where the study runs"
        )
    return text


class LogSpec(Section):
    """Tools that runs are sent to while the study runs. No result depends on it."""

    to: Annotated[tuple[str, ...], AsList, Field(max_length=10)] = ()
    """Of each its name, or NAME:ADDRESS."""

    @field_validator("to")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                target_without_credentials(text)
            except UserError as error:
                raise PydanticCustomError("target", "{why}", {"why": str(error).replace("\n ", ".")}) from None
        return value
