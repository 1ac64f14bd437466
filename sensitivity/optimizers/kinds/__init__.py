"""The optimizers, one file each. Importing this package registers all of them and does not import torch."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
