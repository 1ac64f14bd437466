"""``ProblemSpec``: what is trained: the ``[problem]`` table of a study file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sensitivity.study.metrics import METRICS, MetricName
from sensitivity.study.section import Count, Section, Seed
from sensitivity.study.user_functions import IMPORT_PATH

DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "noisy_quadratic")
IMAGE_FOLDER = "imagefolder:"
"""What stands before the path of a folder of images, as a data set."""
MODELS = (
    "perceptron",
    "small_cnn",
    "lenet",
    "alexnet",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "quadratic",
)
_ORACLE = {"dataset": "noisy_quadratic", "model": "quadratic", "loss": "quadratic"}
"""The fields that make the noisy quadratic; none of them means anything without the others."""


def _known_or_import_path(value: str, known: tuple[str, ...], what: str, other: str = "") -> str:
    if value in known or IMPORT_PATH.fullmatch(value):
        return value
    raise PydanticCustomError(
        "unknown_name",
        'unknown {what} {value}. Allowed: {allowed}{other}, or your own as "module:function"',
        {
            "what": what,
            "value": repr(value),
            "allowed": ", ".join(known),
            "other": other,
            "known": known,
            "name": value,
        },
    )


class ProblemSpec(Section):
    """What is trained: data set, model and loss."""

    dataset: str = "digits"
    model: str = "perceptron"
    loss: Literal["cross_entropy", "squared_error", "quadratic"] = "cross_entropy"
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    split_seed: Seed = 0
    train_subset: Count | None = None
    test_subset: Count | None = None
    image_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    augment: Literal["none", "crop_flip"] = "none"
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Of products: TF32 on an accelerator's tensor cores, or autocast to bfloat16; parameters stay float32."""
    ghost_batch: Count | None = None
    """Every batch is normalised, and differentiated, in chunks of so many examples."""

    @field_validator("dataset")
    @classmethod
    def _dataset_known(cls, value: str) -> str:
        if value.startswith(IMAGE_FOLDER):
            if not value.removeprefix(IMAGE_FOLDER).strip():
                raise PydanticCustomError("path", "the path is empty: give imagefolder:PATH")
            return value
        return _known_or_import_path(value, DATASETS, "data set", ", imagefolder:PATH")

    @field_validator("model")
    @classmethod
    def _model_known(cls, value: str) -> str:
        return _known_or_import_path(value, MODELS, "model")

    @field_validator("image_size")
    @classmethod
    def _resizes_images(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and not info.data.get("dataset", IMAGE_FOLDER).startswith(IMAGE_FOLDER):
            raise PydanticCustomError("problem", 'belongs to dataset = "imagefolder:PATH"; remove it')
        return value

    @model_validator(mode="after")
    def _oracle_whole(self) -> ProblemSpec:
        if 0 < sum(getattr(self, name) == value for name, value in _ORACLE.items()) < len(_ORACLE):
            raise PydanticCustomError(
                "problem",
                "the noisy quadratic needs all of {fields}",
                {"fields": ", ".join(f'{name} = "{value}"' for name, value in _ORACLE.items())},
            )
        return self

    @property
    def has_own_data(self) -> bool:
        """Whether the data come from a function of the user's."""
        return self.dataset not in DATASETS and not self.dataset.startswith(IMAGE_FOLDER)

    @property
    def is_oracle(self) -> bool:
        """Whether this is the noisy quadratic, whose outcome is known in closed form."""
        return self.dataset == _ORACLE["dataset"]

    def metrics(self) -> tuple[MetricName, ...]:
        """Return the names of the metrics that this problem has (accuracy needs classes)."""
        return tuple(m.name for m in METRICS.values() if self.loss == "cross_entropy" or not m.is_fraction)
