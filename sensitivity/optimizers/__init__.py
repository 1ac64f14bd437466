"""Optimizers for packs, one file each in `kinds`, with a common interface.

* ``contract``: the interface of an optimizer (`Rule`) and its optional extensions; ``registered`` adds an optimizer.
* ``kinds``: the optimizers, each with its declaration and its update; torch is imported only for training.
* ``numbers``: hyperparameters as tensors over the members of a pack.
* ``pack``: `PackOptimizer`, the optimizer of one pack in training, of any kind.

Parameters, gradients and state are ``[trials, ...]``, hyperparameters ``[trials]``. This package does not import torch.
"""
