"""``ProblemSpec``: what is trained."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainValidator, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sensitivity.study.measured import MetricField, metric_mistake, quantities_of
from sensitivity.study.metrics import SPLITS, Metric
from sensitivity.study.section import AsList, Count, OneOrMore, Section, Seed
from sensitivity.study.user_functions import IMPORT_PATH
from sensitivity.study.varying import Varying

DATASETS = ("digits", "diabetes", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "text", "noisy_quadratic")
IMAGE_FOLDER = "imagefolder:"
"""Prefix of a data set that is a folder of images, before its path."""
TEXT = "text:"
"""Prefix of a data set that is a text file or a folder of text files."""
TABLE = "table:"
"""Prefix of a data set that is a file of columns or arrays."""
_PATHS = (IMAGE_FOLDER, TEXT, TABLE)
_TEXT_DEFAULTS = {"tokenizer": "characters", "sequence_length": 32, "vocabulary": 1024}
"""Defaults of fields for text; the vocabulary size can only be chosen with "bpe"."""
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
TABLE_SUFFIXES = (".csv", ".parquet", ".npz", ".npy")
LOSSES = ("cross_entropy", "squared_error", "huber", "binary_cross_entropy", "quadratic")
_LOSS_ARGUMENTS = {"cross_entropy": ("class_weights",), "huber": ("delta",)}
"""Arguments of the shipped losses."""
_ORACLE = {"dataset": "noisy_quadratic", "model": "quadratic", "loss": "quadratic"}
"""Fields of the noisy quadratic, which are only valid together."""
_ADDED_LATER = (
    "columns",
    *_TEXT_DEFAULTS,
    "outputs",
    "model_arguments",
    "loss_arguments",
    "metrics",
    "validation_fraction",
    "label_smoothing",
)
"""Fields added after the first release; left out of trial ids if unused, so that the ids of old studies stay valid."""


def _argument(raw: Any) -> Any:
    """Parse an argument of the model that is not an axis."""
    if isinstance(raw, (bool, str, int, float)) or (isinstance(raw, dict) and raw.keys() == {"fixed"}):
        return raw
    raise PydanticCustomError(
        "argument", "give a number, a string, true, false, a list of numbers, an interval, or { fixed = ... }"
    )


_Argument = Annotated[Any, PlainValidator(_argument)]


_Names = Annotated[tuple[str, ...], AsList, OneOrMore]


def _loss_argument(raw: Any) -> Any:
    """Parse an argument of a loss: a number, a string, true, false, or a list of numbers."""
    if isinstance(raw, (bool, str, int, float)):
        return raw
    if isinstance(raw, (list, tuple)) and all(isinstance(each, (int, float)) for each in raw):
        return list(raw)
    raise PydanticCustomError("argument", "give a number, a string, true, false, or a list of numbers")


_LossArgument = Annotated[Any, PlainValidator(_loss_argument)]


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


class ColumnsSpec(Section):
    """Roles of the columns of a table, or of the arrays of an ``.npz`` file."""

    inputs: _Names | None = None
    """Input columns; by default all without another role, and in an ``.npz`` the array ``x``."""
    targets: _Names | None = None
    """Target columns; by default the last column, and in an ``.npz`` the array ``y``."""
    split: str | None = None
    """A column that contains train, validation or test for each row; by default splits are drawn at random."""
    group: str | None = None
    """A column that groups rows; rows with the same value are kept in the same split."""
    standardise: Literal["all", "inputs", "none"] = "all"
    """Columns to standardise to mean 0 and standard deviation 1 on the training rows; "all" means inputs and numeric
    targets."""


def _is_text(dataset: str) -> bool:
    return dataset == "text" or dataset.startswith(TEXT)


class ProblemSpec(Varying):
    """The training problem: data set, model and loss."""

    table: ClassVar[str] = "problem"
    own: ClassVar[Collection[str]] = ("label_smoothing", "model_arguments")

    dataset: str = "digits"
    columns: ColumnsSpec | None = None
    """Roles of columns; only for ``table:PATH``."""
    model: str = "perceptron"
    model_arguments: dict[str, _Argument] = Field(default_factory=dict)
    """Arguments of the model's function in addition to the input shape and the number of outputs."""
    outputs: Count | None = None
    """Number of outputs of the model; by default the number of classes, or of values in a target."""
    loss: str = "cross_entropy"
    loss_arguments: Annotated[dict[str, _LossArgument], Field(validate_default=True)] = Field(default_factory=dict)
    """Arguments of the loss in addition to outputs and targets."""
    metrics: dict[str, MetricField] = Field(default_factory=dict)
    """Quantities measured in addition to the loss and, with cross-entropy, the accuracy."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of an example's target that is spread over all classes in training; evaluation does not smooth."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Fraction of the training examples held out as validation data for making choices; by default none."""
    split_seed: Seed = 0
    train_subset: Count | None = None
    test_subset: Count | None = None
    image_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    tokenizer: Annotated[Literal["characters", "bytes", "bpe"] | None, Field(validate_default=True)] = None
    """Tokenization of text; "bpe" is a byte-level BPE trained on the training split."""
    vocabulary: Annotated[int | None, Field(ge=257, le=1_000_000, validate_default=True)] = None
    """Vocabulary size of "bpe"."""
    sequence_length: Annotated[int | None, Field(ge=2, le=1_000_000, validate_default=True)] = None
    """Number of tokens in an example of text."""
    augment: Literal["none", "crop_flip"] = "none"
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Precision of matrix products: TF32 on an accelerator's tensor cores, or autocast to bfloat16; parameters are
    always float32."""
    ghost_batch: Count | None = None
    """Size of the chunks ("ghost batches") in which every batch is normalised and differentiated."""

    @field_validator("dataset")
    @classmethod
    def _dataset_known(cls, value: str) -> str:
        for kind in _PATHS:
            if value.startswith(kind):
                if not value.removeprefix(kind).strip():
                    raise PydanticCustomError("path", "the path is empty: give {kind}PATH", {"kind": kind})
                if kind == TABLE and not value.lower().endswith(TABLE_SUFFIXES):
                    raise PydanticCustomError(
                        "path",
                        "give table:PATH, the path of a file that ends in {all}",
                        {"all": ", ".join(TABLE_SUFFIXES)},
                    )
                return value
        return _known_or_import_path(value, DATASETS, "data set", "".join(f", {kind}PATH" for kind in _PATHS))

    @field_validator("columns")
    @classmethod
    def _only_for_tables(cls, value: ColumnsSpec | None, info: ValidationInfo) -> ColumnsSpec | None:
        if value is not None and not info.data.get("dataset", TABLE).startswith(TABLE):
            raise PydanticCustomError("problem", 'belongs to dataset = "table:PATH"; remove it')
        return value

    @field_validator("model")
    @classmethod
    def _model_known(cls, value: str) -> str:
        return _known_or_import_path(value, MODELS, "model")

    @field_validator("loss")
    @classmethod
    def _loss_known(cls, value: str) -> str:
        return _known_or_import_path(value, LOSSES, "loss")

    @field_validator("loss_arguments")
    @classmethod
    def _loss_takes(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        loss = info.data.get("loss", "")
        allowed = _LOSS_ARGUMENTS.get(loss, ())
        if loss not in LOSSES:  # a user's loss checks its arguments itself
            return value
        if unknown := [name for name in value if name not in allowed]:
            takes = f"it takes {', '.join(allowed)}" if allowed else "it takes no arguments"
            raise PydanticCustomError(
                "problem",
                '{name}: unknown argument of "{loss}"; {takes}',
                {"name": unknown[0], "loss": loss, "takes": takes},
            )
        weights, delta = value.get("class_weights", [1.0]), value.get("delta", 1.0)
        if not isinstance(weights, list) or not weights or not all(0 <= w < 1e30 for w in weights) or not any(weights):
            raise PydanticCustomError("problem", "class_weights: give a number >= 0 for each class, not all 0")
        if isinstance(delta, (bool, str, list)) or not 0 < delta < 1e30:
            raise PydanticCustomError("problem", "delta: give a number above 0")
        return value

    @field_validator("metrics")
    @classmethod
    def _metrics_apply(cls, value: dict[str, MetricField], info: ValidationInfo) -> dict[str, MetricField]:
        for name, declared in value.items():
            mistake = metric_mistake(name, declared, info.data.get("loss", ""))
            if name == "bits_per_byte" and not _is_text(info.data.get("dataset", TEXT)):
                mistake = 'bits_per_byte: only for text, dataset = "text" or "text:PATH"; remove it'
            if mistake is not None:
                raise PydanticCustomError("problem", "{mistake}", {"mistake": mistake})
        return value

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
    def _only_for_text(cls, value: Any, info: ValidationInfo) -> Any:
        if "dataset" not in info.data:  # the data set itself is invalid
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
    def _noisy_quadratic_complete(self) -> ProblemSpec:
        if 0 < sum(getattr(self, name) == value for name, value in _ORACLE.items()) < len(_ORACLE):
            raise PydanticCustomError(
                "problem",
                "the noisy quadratic needs all of {fields}",
                {"fields": ", ".join(f'{name} = "{value}"' for name, value in _ORACLE.items())},
            )
        return self

    def _unused(self) -> Collection[str]:
        return [name for name in _ADDED_LATER if not getattr(self, name)]

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @property
    def has_own_data(self) -> bool:
        """Whether the data come from a user's function."""
        return self.dataset not in DATASETS and self.path is None

    @property
    def path(self) -> str | None:
        """Path of the data if the study names files, otherwise None."""
        return next((self.dataset.removeprefix(kind).strip() for kind in _PATHS if self.dataset.startswith(kind)), None)

    @property
    def is_text(self) -> bool:
        """Whether examples are windows of a text."""
        return _is_text(self.dataset)

    def named_code(self) -> dict[str, str]:
        """Return the import paths of the user's functions in this problem, by field."""
        own = {f"metrics.{name}": each.function for name, each in self.metrics.items() if not each.shipped}
        own |= {"loss": self.loss, "model": self.model, "dataset": self.dataset if self.has_own_data else ""}
        return {field: path for field, path in own.items() if ":" in path}

    @property
    def is_oracle(self) -> bool:
        """Whether this is the noisy quadratic, whose outcome is known in closed form."""
        return self.dataset == _ORACLE["dataset"]

    def measured(self) -> tuple[Metric, ...]:
        """Return the metrics of this problem's runs: its quantities on each of its splits."""
        splits = [split for split in SPLITS if split != "validation" or self.validation_fraction is not None]
        return tuple(Metric(split, each) for split in splits for each in quantities_of(self.loss, self.metrics))
