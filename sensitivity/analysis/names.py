"""What optimizers and hyperparameters are called in sentences. Names are the study file's, and not escaped."""

from __future__ import annotations

_OPTIMIZERS = {"kfac": "K-FAC", "sgd": "SGD"}
_PARAMETERS = {"lr": "learning rate", "weight_decay": "weight decay"}


def optimizer_name(name: str) -> str:
    """Return an optimizer's name as it is read."""
    return _OPTIMIZERS.get(name, name)


def parameter_name(name: str) -> str:
    """Return a hyperparameter's name as it is read."""
    return _PARAMETERS.get(name, name.replace("_", " "))


def at_batch_size(optimizer: str, batch_size: int) -> str:
    """Return which optimizer and batch size a sentence is of."""
    return f"{optimizer_name(optimizer)}, batch size {batch_size:,}"
