"""Checks of a user's model and of its outputs; each message contains the fix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sensitivity.study.errors import UserError
from sensitivity.study.words import kind_of


def checked_module(model: Any, name: str) -> nn.Module:
    """Return the result of the function `name` if it is a trainable network.

    Raises:
        UserError: it is not a module, or its parameters are not initialised.
    """
    where = f"problem.model: {name}"
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise UserError(f"{where} returned the class {model.__name__}; return an instance: {model.__name__}(...)")
    if not isinstance(model, nn.Module):
        hint = "; it has no return statement" if model is None else ""
        raise UserError(f"{where} returned {kind_of(model)}{hint}; return a torch.nn.Module")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise UserError(f"{where} returned {kind_of(model)}; return the wrapped network, its .module attribute")
    for part, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise UserError(
                f"{where}: {part} has no shape yet (a Lazy layer); pass a batch through the network once in the "
                "function: model(torch.zeros(1, *shape))"
            )
        if tensor.is_meta:
            raise UserError(
                f'{where}: {part} is on the "meta" device and has no values; build the network on the CPU, where it '
                "draws its initialisation"
            )
        if tensor.requires_grad and not tensor.is_floating_point():  # complex parameters
            raise UserError(f"{where}: the parameter {part} is {_short(tensor.dtype)}; it must be floating-point")
    return model


def output_mistake(
    outputs: Any, targets: Tensor, *, classes: int | None, split: str, any_shape: bool = False
) -> str | None:
    """Return the mistake in a network's output for a batch, with the fix; None if the output is valid.

    Args:
        outputs: the value returned by the forward pass.
        targets: the targets of the batch.
        classes: number of classes; None if targets are values.
        split: "training" or "test".
        any_shape: whether outputs may have any shape per example, because they are compared by a user's loss.
    """
    if classes is None:
        wanted = f"{list(targets.shape)}, like the targets"
    else:
        wanted = f"{[*targets.shape, classes]}, one value per class"
    if (mistake := _kind_mistake(outputs, wanted)) is not None:
        return mistake
    if classes is None:
        fits = outputs.shape == targets.shape or (any_shape and outputs.shape[:1] == targets.shape[:1])
    else:
        fits = outputs.shape[:-1] == targets.shape and outputs.shape[-1] >= classes
    if not fits:
        return f"returns {list(outputs.shape)} for {len(targets)} {split} examples; it must be {wanted}"
    if split == "training" and not outputs.requires_grad:
        return "returns outputs without a gradient: the forward method detaches them, or runs under torch.no_grad()"
    return None


def _kind_mistake(outputs: Any, wanted: str) -> str | None:
    if isinstance(outputs, Tensor):
        if outputs.is_meta:
            return f'returns a tensor on the "meta" device, without values; it must be {wanted}'
        if outputs.layout != torch.strided:
            return f"returns a {_short(outputs.layout)} tensor; it must be dense, {wanted}: call .to_dense()"
        if not outputs.is_floating_point():
            fix = "outputs before any argmax or rounding"
            return f"returns {_short(outputs.dtype)}; it must be floating-point, {wanted}: {fix}"
        return None
    got, fix = kind_of(outputs), "return one tensor"
    if isinstance(outputs, (tuple, list)):
        got, fix = f"{got} of {len(outputs)}", "return only its tensor of outputs, such as outputs[0]"
    elif isinstance(outputs, dict) or hasattr(outputs, "logits"):
        fix = 'return only its tensor of outputs, such as outputs["logits"]'
    elif outputs is None:
        got, fix = "None", "does its forward method have a return statement?"
    return f"returns {got}; it must be one tensor {wanted}: {fix}"


def _short(value: object) -> str:
    return str(value).removeprefix("torch.")
