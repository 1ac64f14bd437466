"""Optimizers over packs: a file each in `kinds`, behind one contract.

* ``contract``: what an optimizer is (`Rule`), and what it may offer beyond that; ``registered`` adds one.
* ``kinds``: the optimizers, each with its declaration and its update. They import torch only once they train.
* ``numbers``: hyperparameters as tensors over the members of a pack.
* ``pack``: `PackOptimizer`, the optimizer of one pack in training, whatever its kind.

Parameters, gradients and state are ``[trials, ...]``, hyperparameters ``[trials]``. Importing this room loads no torch.
"""
