"""Which modules of a model K-FAC covers, and which ones follow plain gradients."""

from collections.abc import Collection, Sequence

from torch import nn

from sensitivity.kfac.attention import OUT
from sensitivity.kfac.layers import PROJECTIONS, Layer, within

_NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def comparable(modules: Sequence[nn.Module]) -> bool:
    """Whether the weight gradient is the sum over all rows of the calls; an embedding with padding omits some."""
    return all(getattr(module, "padding_idx", None) is None for module in modules)


def attentions_of(model: nn.Module, layers: Sequence[Layer]) -> dict[nn.MultiheadAttention, dict[str, str]]:
    """Attention modules that contain some of these layers, with their layer names by projection."""
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
    """Describe the modules with trained parameters of their own that K-FAC does not cover.

    Omits normalisation layers, modules of which only the bias is not covered (transposed convolutions, linear layers
    tied to an embedding), and excluded modules.
    """
    covered = {name for layer in layers for name in layer.parameters}
    covered |= {f"{layer.name}.bias".lstrip(".") for layer in layers if layer.adjoint is not None}
    tables = {id(model.get_parameter(layer.weight)) for layer in layers if layer.kind == "embedding"}
    tied = [name for name, module in model.named_modules() if id(getattr(module, "weight", None)) in tables]
    covered |= {f"{name}.{own}".lstrip(".") for name in tied for own in ("weight", "bias")}
    return tuple(
        f"{name or 'the model itself'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if not isinstance(module, _NORMALISATIONS)
        and not within(name, exclude)
        and any(
            p.requires_grad and (f"{name}.{own}" if name else own) not in covered
            for own, p in module.named_parameters(recurse=False)
        )
    )


def uncovered_message(names: Sequence[str]) -> str:
    """Warning about modules that follow plain gradients, with the argument that silences it."""
    plain = [name.rpartition(" (")[0] for name in names if not name.startswith("the model itself")]
    listed = ", ".join(repr(name) for name in plain)
    fix = f" If this is intended, pass KFAC(..., exclude=[{listed}])." if plain else ""
    return f"K-FAC does not cover {', '.join(names)}: their parameters follow plain gradients.{fix}"
