"""The optimizers, a file each. Importing this package declares all of them, and loads no torch."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
