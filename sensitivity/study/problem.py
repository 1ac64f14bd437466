"""``ProblemSpec``: what is trained."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainValidator, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sensitivity.study.metrics import METRICS, MetricName
from sensitivity.study.section import Count, Seed
from sensitivity.study.user_functions import IMPORT_PATH
from sensitivity.study.varying import Varying

DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "text", "noisy_quadratic")
IMAGE_FOLDER = "imagefolder:"
"""What stands before the path of a folder of images, as a data set."""
TEXT = "text:"
"""Likewise before that of a text file, or of a folder of text files."""
_PATHS = (IMAGE_FOLDER, TEXT)
_TEXT_DEFAULTS = {"tokenizer": "characters", "sequence_length": 32, "vocabulary": 1024}
"""Of fields that a text has; a vocabulary has a size of its own with "bpe" alone."""
MODELS = (
    "perceptron",
    "small_cnn",
    "lenet",
    "alexnet",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "transformer",
    "quadratic",
)
_ORACLE = {"dataset": "noisy_quadratic", "model": "quadratic", "loss": "quadratic"}
"""The fields that make the noisy quadratic; none of them means anything without the others."""


def _argument(raw: Any) -> Any:
    """Read an argument that has one value."""
    if isinstance(raw, (bool, str, int, float)) or (isinstance(raw, dict) and raw.keys() == {"fixed"}):
        return raw
    raise PydanticCustomError(
        "argument", "give a number, a text, true, false, a list of numbers, an interval, or { fixed = ... }"
    )


_Argument = Annotated[Any, PlainValidator(_argument)]


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


def _is_text(dataset: str) -> bool:
    return dataset == "text" or dataset.startswith(TEXT)


class ProblemSpec(Varying):
    """What is trained: data set, model and loss."""

    table: ClassVar[str] = "problem"
    own: ClassVar[Collection[str]] = ("label_smoothing", "model_arguments")

    dataset: str = "digits"
    model: str = "perceptron"
    model_arguments: dict[str, _Argument] = Field(default_factory=dict)
    """What the model's function is given beside the shape of an input and the number of outputs."""
    loss: Literal["cross_entropy", "squared_error", "quadratic"] = "cross_entropy"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of an example's target that is spread over all classes in training; losses are measured without."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    split_seed: Seed = 0
    train_subset: Count | None = None
    test_subset: Count | None = None
    image_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    tokenizer: Annotated[Literal["characters", "bytes", "bpe"] | None, Field(validate_default=True)] = None
    """What the tokens of a text are; "bpe" is a byte-level one that is trained on its training part."""
    vocabulary: Annotated[int | None, Field(ge=257, le=1_000_000, validate_default=True)] = None
    """Tokens of a "bpe"."""
    sequence_length: Annotated[Count | None, Field(validate_default=True)] = None
    """Tokens of an example of a text."""
    augment: Literal["none", "crop_flip"] = "none"
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Of products: TF32 on an accelerator's tensor cores, or autocast to bfloat16; parameters stay float32."""
    ghost_batch: Count | None = None
    """Every batch is normalised, and differentiated, in chunks of so many examples."""

    @field_validator("dataset")
    @classmethod
    def _dataset_known(cls, value: str) -> str:
        for kind in _PATHS:
            if value.startswith(kind):
                if not value.removeprefix(kind).strip():
                    raise PydanticCustomError("path", "the path is empty: give {kind}PATH", {"kind": kind})
                return value
        return _known_or_import_path(value, DATASETS, "data set", "".join(f", {kind}PATH" for kind in _PATHS))

    @field_validator("model")
    @classmethod
    def _model_known(cls, value: str) -> str:
        return _known_or_import_path(value, MODELS, "model")

    @field_validator("label_smoothing")
    @classmethod
    def _smooths_classes(cls, value: float, info: ValidationInfo) -> float:
        if value and info.data.get("loss", "cross_entropy") != "cross_entropy":
            raise PydanticCustomError("problem", 'belongs to loss = "cross_entropy"; remove it')
        return value

    @field_validator("image_size")
    @classmethod
    def _resizes_images(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and not info.data.get("dataset", IMAGE_FOLDER).startswith(IMAGE_FOLDER):
            raise PydanticCustomError("problem", 'belongs to dataset = "imagefolder:PATH"; remove it')
        return value

    @field_validator("tokenizer", "vocabulary", "sequence_length")
    @classmethod
    def _of_text(cls, value: Any, info: ValidationInfo) -> Any:
        if "dataset" not in info.data:  # which has a mistake of its own
            return value
        if not _is_text(info.data["dataset"]):
            if value is not None:
                raise PydanticCustomError("problem", 'belongs to dataset = "text" or "text:PATH"; remove it')
            return None
        if info.field_name == "vocabulary" and info.data.get("tokenizer") != "bpe":
            if value is not None:
                raise PydanticCustomError("problem", 'belongs to tokenizer = "bpe"; remove it')
            return None
        return _TEXT_DEFAULTS[str(info.field_name)] if value is None else value

    @model_validator(mode="after")
    def _oracle_whole(self) -> ProblemSpec:
        if 0 < sum(getattr(self, name) == value for name, value in _ORACLE.items()) < len(_ORACLE):
            raise PydanticCustomError(
                "problem",
                "the noisy quadratic needs all of {fields}",
                {"fields": ", ".join(f'{name} = "{value}"' for name, value in _ORACLE.items())},
            )
        return self

    def _unused(self) -> Collection[str]:
        return [name for name in ("model_arguments", "label_smoothing", *_TEXT_DEFAULTS) if not getattr(self, name)]

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @property
    def has_own_data(self) -> bool:
        """Whether the data come from a function of the user's."""
        return self.dataset not in DATASETS and self.path is None

    @property
    def path(self) -> str | None:
        """The path of the data, where they are files that the study names."""
        return next((self.dataset.removeprefix(kind).strip() for kind in _PATHS if self.dataset.startswith(kind)), None)

    @property
    def is_text(self) -> bool:
        """Whether examples are windows of a text."""
        return _is_text(self.dataset)

    @property
    def is_oracle(self) -> bool:
        """Whether this is the noisy quadratic, whose outcome is known in closed form."""
        return self.dataset == _ORACLE["dataset"]

    def metrics(self) -> tuple[MetricName, ...]:
        """Return the names of the metrics that this problem has (accuracy needs classes)."""
        return tuple(m.name for m in METRICS.values() if self.loss == "cross_entropy" or not m.is_fraction)
