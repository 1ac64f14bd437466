"""What of a model an optimizer covers, and modules left to plain gradients."""

from collections.abc import Collection, Sequence

from torch import nn

from sensitivity.kfac.attention import OUT
from sensitivity.kfac.layers import PROJECTIONS, Layer, within

_RULED = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def comparable(modules: Sequence[nn.Module]) -> bool:
    """Whether the gradient is the sum over calls of all rows: an embedding's leaves out its padding."""
    return all(getattr(module, "padding_idx", None) is None for module in modules)


def attentions_of(model: nn.Module, layers: Sequence[Layer]) -> dict[nn.MultiheadAttention, dict[str, str]]:
    """Find the attention modules of these layers, with the names of their layers by projection."""
    by_weight: dict[int, dict[int, str]] = {}
    for layer in layers:
        by_weight.setdefault(id(model.get_parameter(layer.weight)), {})[layer.part[0]] = layer.name
    found = {}
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            inner = by_weight.get(id(module.in_proj_weight), {})
            names = {PROJECTIONS[i]: name for i, name in inner.items()}
            outputs = by_weight.get(id(module.out_proj.weight), {})
            names |= {OUT: outputs[0]} if outputs else {}
            if names:
                found[module] = names
    return found


def uncovered_modules(model: nn.Module, layers: Sequence[Layer], exclude: Collection[str]) -> tuple[str, ...]:
    """Name the modules whose own parameters K-FAC does not cover.

    Not normalisation layers, modules whose bias alone is left (transposed convolutions, linear layers tied to an
    embedding), and what was excluded by name.
    """
    covered = {name for layer in layers for name in layer.parameters}
    covered |= {f"{layer.name}.bias".lstrip(".") for layer in layers if layer.adjoint is not None}
    tables = {id(model.get_parameter(layer.weight)) for layer in layers if layer.kind == "embedding"}
    tied = [name for name, module in model.named_modules() if id(getattr(module, "weight", None)) in tables]
    covered |= {f"{name}.{own}".lstrip(".") for name in tied for own in ("weight", "bias")}
    return tuple(
        f"{name or 'the model itself'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if not isinstance(module, _RULED)
        and not within(name, exclude)
        and any(
            p.requires_grad and (f"{name}.{own}" if name else own) not in covered
            for own, p in module.named_parameters(recurse=False)
        )
    )


def uncovered_message(names: Sequence[str]) -> str:
    """Warn of modules that plain gradients move, and say what to write if that is meant."""
    plain = [name.rpartition(" (")[0] for name in names if not name.startswith("the model itself")]
    listed = ", ".join(repr(name) for name in plain)
    meant = f" If that is meant, pass KFAC(..., exclude=[{listed}])." if plain else ""
    return f"K-FAC does not cover {', '.join(names)}: plain gradients move their parameters.{meant}"
