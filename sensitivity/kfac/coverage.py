"""What of a model an optimizer covers: checks of parameter groups, and modules left to plain gradients."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

_RULED = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def comparable(modules: Sequence[nn.Module]) -> bool:
    """Whether the gradient is the sum over calls of all rows: an embedding's leaves out its padding."""
    return all(getattr(module, "padding_idx", None) is None for module in modules)


def check_groups(groups: list[dict[str, Any]], model: nn.Module, named: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the groups hold all of these parameters, and none of another model."""
    held, own = {id(p) for group in groups for p in group["params"]}, {id(p) for p in model.parameters()}
    left = [name for name, p in named.items() if id(p) not in held]
    if left:
        raise ValueError(f"param_groups leave out {', '.join(left)}. Freeze these parameters or add them to a group.")
    if held - own:
        raise ValueError(f"param_groups hold {len(held - own)} parameters that are not of this model. Take them out.")


def uncovered_modules(model: nn.Module, covered: set[str]) -> tuple[str, ...]:
    """Name the modules whose own parameters K-FAC does not cover, normalisation layers excepted."""
    return tuple(
        f"{name or 'the model itself'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if not isinstance(module, _RULED)
        and any(
            p.requires_grad and (f"{name}.{own}" if name else own) not in covered
            for own, p in module.named_parameters(recurse=False)
        )
    )
