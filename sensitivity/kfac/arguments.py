"""Validation of the arguments of `KFAC`."""

import numbers
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sensitivity.kfac.config import KFACConfig


def check_arguments(model: Any, config: Any, *, generator: Any, scaler: Any) -> None:
    """Raise TypeError for an argument of the wrong type, and ValueError for a model that K-FAC cannot train.

    The message names the argument, its type and a call that works.
    """
    _check_model(model)
    if not isinstance(config, KFACConfig):
        raise TypeError(f"config is {_named(config)}, not a KFACConfig. {_config_fix(config)}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator is {_named(generator)}, not a torch.Generator. "
            "Pass generator=torch.Generator().manual_seed(0), for a seed of 0."
        )
    if scaler is not None and not hasattr(scaler, "get_scale"):
        raise TypeError(f"scaler is {_named(scaler)}, not a torch.amp.GradScaler. Pass the one that scales the loss.")


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {_named(model)}, not a torch.nn.Module. {_model_fix(model)}")
    if isinstance(model, nn.DataParallel):
        raise TypeError(
            "model is a DataParallel, whose replicas K-FAC cannot record. Pass model.module and train on one device, "
            "or use torch.nn.parallel.DistributedDataParallel."
        )
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(
                f"The parameter {name!r} has no shape yet. Pass a batch through the model, then build KFAC."
            )
        if parameter.is_meta:
            raise ValueError(
                f'The parameter {name!r} is on the "meta" device and has no values. Move the model to its device '
                "(model.to_empty(device=...), then initialise it), then build KFAC."
            )
        if parameter.layout != torch.strided or not parameter.is_floating_point():
            raise ValueError(
                f"The parameter {name!r} has dtype {parameter.dtype} and layout {parameter.layout}. K-FAC trains dense "
                "floating-point parameters; freeze it or convert it."
            )
    for name, module in model.named_modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse and module.weight.requires_grad:
            raise ValueError(
                f"The {type(module).__name__} {name!r} has sparse gradients, which K-FAC cannot use. Build it with "
                "sparse=False."
            )


def terms_of(outputs: Tensor, config: KFACConfig) -> float:
    """Count the loss terms of `outputs`: rows before the class dimension for cross entropy, otherwise examples."""
    return float((outputs.shape[:-1] if config.loss == "cross_entropy" else outputs.shape[:1]).numel())


def check_terms(outputs: Tensor, weights: Tensor | None, terms: float | None, config: KFACConfig) -> None:
    """Raise ValueError for weights that do not match the loss terms of `outputs`, or terms that are not positive."""
    if weights is not None:
        shape = outputs.shape[:-1] if config.loss == "cross_entropy" else outputs.shape[:1]
        if weights.shape != shape:
            raise ValueError(
                f"weights have shape {tuple(weights.shape)}, but the loss terms of these outputs have shape "
                f"{tuple(shape)}. Pass one weight for each loss term."
            )
        if not bool(((weights >= 0) & torch.isfinite(weights)).all()) or not bool(weights.any()):
            raise ValueError("Invalid weights: must be finite, >= 0 and not all 0. Skip batches without loss terms.")
    if terms is not None and not (isinstance(terms, numbers.Real) and 0 < float(terms) < float("inf")):
        raise ValueError(f"Invalid terms: {terms!r}. Must be a finite number > 0.")


def _model_fix(model: Any) -> str:
    if isinstance(model, type) and issubclass(model, nn.Module):
        return f"Pass an instance: KFAC({model.__name__}(...), config)."
    if isinstance(model, (Tensor, Iterable)) and not isinstance(model, str):
        return (
            "Pass the model, not its parameters: KFAC(model, config). It reads the inputs and output gradients of "
            "layers; for parameter groups pass param_groups=[...] too."
        )
    return "Pass the network itself: KFAC(model, config)."


def _config_fix(config: Any) -> str:
    if config is KFACConfig:
        return "Call it: KFAC(model, KFACConfig())."
    if isinstance(config, dict):
        return "Pass KFAC(model, KFACConfig(**config))."
    if isinstance(config, numbers.Real):
        return f"Pass KFAC(model, KFACConfig(lr={config!r})), if this is the learning rate."
    return "Pass KFAC(model, KFACConfig(lr=0.01, damping=0.03)), for example."


def _named(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"
