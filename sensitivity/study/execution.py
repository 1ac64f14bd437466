"""``ExecutionSpec``: how a study uses its hardware."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from sensitivity.study.section import Count, Section

_BUILT_IN_RESOURCES = ("CPU", "GPU", "memory", "object_store_memory", "bundle")


class ExecutionSpec(Section):
    """Use of the hardware. Results do not depend on it, apart from rounding."""

    pack_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    micro_batch: Count | None = None
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    device: Literal["cpu", "cuda"] = "cpu"
    accelerator_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Fraction of an accelerator that each pack takes on "cuda"; with 0.25, four packs share one accelerator."""
    checkpoint_minutes: Annotated[float, Field(gt=0, le=1e6)] = 10.0
    """Minutes between checkpoints of a pack in training, from which it resumes if its worker or the command dies."""

    accelerator_type: str | None = None
    """Accelerator model by Ray's name, such as A100 or H100."""
    max_concurrent: Count | None = None
    """Maximum number of packs that train at the same time."""
    resources: dict[str, Annotated[float, Field(gt=0, le=1e6)]] = Field(default_factory=dict)
    """Amount of each custom Ray resource that a pack requires."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels that a node must have to run packs."""
    elastic: bool = False
    """Whether the cluster scales up when packs wait, so that its initial size does not limit them."""

    @field_validator("accelerator_type")
    @classmethod
    def _for_accelerators(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("device") == "cpu":
            raise PydanticCustomError("type", 'belongs to device = "cuda"; remove it')
        return value

    @field_validator("resources")
    @classmethod
    def _custom(cls, value: dict[str, float]) -> dict[str, float]:
        for name, amount in value.items():
            if name in _BUILT_IN_RESOURCES:
                raise PydanticCustomError(
                    "resources", "{name} is Ray's own; use threads, device and accelerator_share", {"name": name}
                )
            if amount > 1 and amount != round(amount):
                raise PydanticCustomError("resources", "{name}: values above 1 must be whole numbers", {"name": name})
        return value

    @field_validator("elastic")
    @classmethod
    def _has_a_limit(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("max_concurrent", 1) is None:
            raise PydanticCustomError("elastic", "needs max_concurrent: how many packs the cluster may grow to hold")
        return value

    @field_validator("accelerator_share")
    @classmethod
    def _is_unit_fraction(cls, value: float) -> float:
        # With a share of 0.3, Ray would leave a tenth of every accelerator idle (docs/ray.md).
        if not math.isclose(1 / value, round(1 / value), rel_tol=1e-3):
            raise PydanticCustomError("share", "give 1 divided by a whole number: 1, 0.5, 0.3333, 0.25, 0.2")
        return 1 / round(1 / value)
