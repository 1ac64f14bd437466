"""``Dataset``: what every data set is once loaded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sensitivity.study.metrics import Split


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """How arrays that are mapped into memory, as they may be larger than it, become what a network takes."""

    as_floats: bool
    """Whether inputs that are stored as integers are numbers, and no ids."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where they are wanted; they are stored on the host."""
    dtype: torch.dtype = torch.float32
    """As which floating-point numbers are wanted."""

    def inputs(self, values: Tensor) -> Tensor:
        """Return inputs of a batch."""
        wanted = self.dtype if self.as_floats or values.is_floating_point() else torch.int64
        return _moved(values, self.device, wanted)

    def targets(self, values: Tensor) -> Tensor:
        """Return targets of a batch."""
        return _moved(values, self.device, self.dtype if values.is_floating_point() else torch.int64)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Inputs ``[examples, ...]`` and targets: classes ``[examples, *positions]`` (int64), or values shaped as outputs.

    Targets of sequences are classes ``[examples, time]``; their inputs are ``[examples, time, ...]``. Token ids may be
    stored in narrower integers, and both arrays may be views of one stream in a file: what is gathered for a batch
    becomes int64 (`standardised`, `labels`), nothing else is copied.

    Images are stored as bytes ``[examples, channels, height, width]``, a quarter of their size as floats, and in a
    file that all workers of a node map into memory; of a subset, or of splits by class, each worker has its own copy.
    What a network takes is ``standardised(inputs[rows])``.
    """

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    validation_inputs: Tensor | None = None
    """Examples that choices are made by, such as those of a search; None where the study has none."""
    validation_targets: Tensor | None = None
    mean: Tensor | None = None
    """Of each channel over the training set's pixels, ``[channels, 1, 1]``; None where inputs are stored as taken."""
    deviation: Tensor | None = None
    token_bytes: Tensor | None = None
    """Of text, how many bytes each token stands for ``[vocabulary]``."""
    mapped: Mapped | None = None
    """Of arrays that are never copied whole; None of others."""
    fingerprint: str = ""
    """Hash of the content of files that the study names; empty where the name alone says what the data are."""
    is_stand_in: bool = False
    """Whether it only has the size of the data set that it is named after, as that one is not downloaded yet."""

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
        """Return stored inputs ``[..., channels, height, width]`` as a network takes them: zero mean, unit variance.

        Inputs of data sets that are not stored as bytes come back as they are, ids as int64; a pack's shared inputs
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
        """Return stored targets as a loss takes them: classes as int64; a pack's shared targets stay shared."""
        return _as_int64(targets) if self.mapped is None else self.mapped.targets(targets)

    def to(self, device: torch.device, dtype: torch.dtype) -> Dataset:
        """Return the data on a device, floating-point tensors as `dtype`; mapped ones where and as they are stored."""
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
    """Whether there is a class at each position of sequences: targets ``[examples, time]``."""
    if targets.dim() != 2 or targets.is_floating_point() or targets.dtype == torch.bool:
        return False
    ids = inputs.dim() == 2 and not inputs.is_floating_point()
    return (ids or inputs.dim() > 2) and inputs.shape[1] == targets.shape[1]


def _moved(values: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return values elsewhere, in another type; what a pack shares stays shared."""
    if values.dim() > 1 and values.stride(0) == 0:
        return values[0].to(device, dtype).expand(values.shape)
    return values.to(device, dtype)


def _as_int64(values: Tensor) -> Tensor:
    if values.is_floating_point() or values.dtype == torch.int64:
        return values
    if values.dim() > 1 and values.stride(0) == 0:
        return values[0].long().expand(values.shape)
    return values.long()
