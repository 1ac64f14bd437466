"""``ExecutionSpec``: how a study uses the machine it runs on."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from sensitivity.study.section import Count, Section

_RAYS_OWN = ("CPU", "GPU", "memory", "object_store_memory", "bundle")


class ExecutionSpec(Section):
    """How the machine is used. Results do not depend on it, apart from rounding."""

    pack_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    micro_batch: Count | None = None
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    device: Literal["cpu", "cuda"] = "cpu"
    accelerator_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of one accelerator, for each pack on "cuda"; so many packs train on it side by side."""
    checkpoint_minutes: Annotated[float, Field(gt=0, le=1e6)] = 10.0
    """A pack in training is put aside so often, and goes on from there when its worker or the command was lost."""

    accelerator_type: str | None = None
    """By Ray's name for it, such as A100 or H100."""
    max_concurrent: Count | None = None
    """Packs at a time, however large the cluster."""
    resources: dict[str, Annotated[float, Field(gt=0, le=1e6)]] = Field(default_factory=dict)
    """Of each custom resource of Ray, for each pack."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Of the nodes on which packs may run."""
    elastic: bool = False
    """The cluster grows when packs wait: what it has at the start does not limit them."""

    @field_validator("accelerator_type")
    @classmethod
    def _of_accelerators(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("device") == "cpu":
            raise PydanticCustomError("type", 'belongs to device = "cuda"; remove it')
        return value

    @field_validator("resources")
    @classmethod
    def _custom(cls, value: dict[str, float]) -> dict[str, float]:
        for name, amount in value.items():
            if name in _RAYS_OWN:
                raise PydanticCustomError(
                    "resources", "{name} is Ray's own; give threads, device and accelerator_share", {"name": name}
                )
            if amount > 1 and amount != round(amount):
                raise PydanticCustomError("resources", "{name}: above 1 give a whole number", {"name": name})
        return value

    @field_validator("elastic")
    @classmethod
    def _has_a_limit(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("max_concurrent", 1) is None:
            raise PydanticCustomError("elastic", "needs max_concurrent: how many packs the cluster may grow to hold")
        return value

    @field_validator("accelerator_share")
    @classmethod
    def _one_in_so_many(cls, value: float) -> float:
        # Ray places shares as they are given: with 0.3, a tenth of every accelerator would stay idle (docs/ray.md).
        if not math.isclose(1 / value, round(1 / value), rel_tol=1e-3):
            raise PydanticCustomError("share", "give one in so many: 1, 0.5, 0.3333, 0.25, 0.2")
        return 1 / round(1 / value)
