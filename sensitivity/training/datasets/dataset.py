"""``Dataset``: a loaded data set."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sensitivity.study.metrics import Split


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """Conversion of memory-mapped arrays, which may be larger than memory, to network inputs."""

    as_floats: bool
    """Whether inputs stored as integers are numbers rather than ids."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Target device; the arrays are stored on the host."""
    dtype: torch.dtype = torch.float32
    """Dtype of floating-point values."""

    def inputs(self, values: Tensor) -> Tensor:
        """Convert the inputs of a batch."""
        wanted = self.dtype if self.as_floats or values.is_floating_point() else torch.int64
        return _moved(values, self.device, wanted)

    def targets(self, values: Tensor) -> Tensor:
        """Convert the targets of a batch."""
        return _moved(values, self.device, self.dtype if values.is_floating_point() else torch.int64)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Inputs ``[examples, ...]`` and targets: classes ``[examples, *positions]`` (int64), or values shaped as outputs.

    Targets of sequences are classes ``[examples, time]``; their inputs are ``[examples, time, ...]``. Token ids may be
    stored as narrower integers, and both arrays may be views of one stream in a file; only the rows gathered for a
    batch are copied, as int64 (`standardised`, `labels`).

    Images are stored as bytes ``[examples, channels, height, width]``, a quarter of their size as floats, in a file
    that all workers of a node map into memory; with subsets or splits by class, each worker has its own copy. Network
    inputs are ``standardised(inputs[rows])``.
    """

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    validation_inputs: Tensor | None = None
    """Examples used to make choices, such as those of a search; None if the study has none."""
    validation_targets: Tensor | None = None
    mean: Tensor | None = None
    """Mean of each channel over the training pixels ``[channels, 1, 1]``; None if inputs need no standardisation."""
    deviation: Tensor | None = None
    token_bytes: Tensor | None = None
    """For text, the number of bytes of each token ``[vocabulary]``."""
    mapped: Mapped | None = None
    """Conversion of memory-mapped arrays; None for others."""
    fingerprint: str = ""
    """Hash of the content of the study's data files; empty if the data set's name determines the data."""
    is_stand_in: bool = False
    """Whether this is a placeholder with the size of a data set that is not downloaded yet."""

    @property
    def train_size(self) -> int:
        """Number of training examples."""
        return len(self.train_inputs)

    @property
    def targets(self) -> tuple[Tensor, ...]:
        """The targets of every split."""
        there = (self.train_targets, self.validation_targets, self.test_targets)
        return tuple(targets for targets in there if targets is not None)

    @property
    def splits(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """The stored inputs and the targets of every split."""
        pairs = (
            (self.train_inputs, self.train_targets),
            (self.validation_inputs, self.validation_targets),
            (self.test_inputs, self.test_targets),
        )
        return tuple((x, y) for x, y in pairs if x is not None and y is not None)

    def split(self, name: Split) -> tuple[Tensor, Tensor]:
        """Return the stored inputs and the targets of a split."""
        inputs, targets = getattr(self, f"{name}_inputs"), getattr(self, f"{name}_targets")
        assert inputs is not None, f"no {name} split"
        return inputs, targets

    def standardised(self, inputs: Tensor) -> Tensor:
        """Return stored inputs ``[..., channels, height, width]`` as network inputs, with zero mean and unit variance.

        Inputs that are not stored as bytes are unchanged, apart from ids, which become int64. Inputs that a pack shares
        stay shared.
        """
        if self.mapped is not None:
            return self.mapped.inputs(inputs)
        if self.mean is None or self.deviation is None:
            return _as_int64(inputs)
        if inputs.dim() > 4 and inputs.stride(0) == 0:
            return self.standardised(inputs[0]).expand(inputs.shape)
        return inputs.to(self.mean.dtype).sub_(self.mean).div_(self.deviation)

    def labels(self, targets: Tensor) -> Tensor:
        """Return stored targets as arguments of a loss: classes as int64. Targets that a pack shares stay shared."""
        return _as_int64(targets) if self.mapped is None else self.mapped.targets(targets)

    def to(self, device: torch.device, dtype: torch.dtype) -> Dataset:
        """Return the data on a device with floating-point tensors as `dtype`; mapped arrays are converted per batch."""
        if self.mapped is not None:
            return replace(self, mapped=replace(self.mapped, device=device, dtype=dtype))

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)

        held = (self.validation_inputs, self.validation_targets)
        return replace(
            self,
            validation_inputs=None if held[0] is None else move(held[0]),
            validation_targets=None if held[1] is None else move(held[1]),
            train_inputs=move(self.train_inputs),
            train_targets=move(self.train_targets),
            test_inputs=move(self.test_inputs),
            test_targets=move(self.test_targets),
            mean=None if self.mean is None else move(self.mean),
            deviation=None if self.deviation is None else move(self.deviation),
            token_bytes=None if self.token_bytes is None else move(self.token_bytes),
        )


def are_sequences(inputs: Tensor, targets: Tensor) -> bool:
    """Whether the targets ``[examples, time]`` are classes at each position of sequences."""
    if targets.dim() != 2 or targets.is_floating_point() or targets.dtype == torch.bool:
        return False
    ids = inputs.dim() == 2 and not inputs.is_floating_point()
    return (ids or inputs.dim() > 2) and inputs.shape[1] == targets.shape[1]


def _moved(values: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return values on another device and with another dtype; values that a pack shares stay shared."""
    if values.dim() > 1 and values.stride(0) == 0:
        return values[0].to(device, dtype).expand(values.shape)
    return values.to(device, dtype)


def _as_int64(values: Tensor) -> Tensor:
    if values.is_floating_point() or values.dtype == torch.int64:
        return values
    if values.dim() > 1 and values.stride(0) == 0:
        return values[0].long().expand(values.shape)
    return values.long()
