"""Dispatch modes that observe operations."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class ObserverMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Base class of dispatch modes that only observe.

    For other modes, torch imports its compiler at the first operation in order to exclude it from compilation, which
    takes each worker a second or two.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class FlopCounter(ObserverMode):
    """Counts FLOPs by torch's own formulas, as its ``FlopCounterMode`` does."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        formula = flop_registry.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:  # operations without a kernel may decompose to matrix products
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        result = func(*args, **(kwargs or {}))
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result
