"""All hooks of an optimizer on its model, and which of them are registered."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sensitivity.kfac.attention import View, run
from sensitivity.kfac.diagonal import Norm
from sensitivity.kfac.hooks import AttentionHook, CallHandler, Hook, Names, PassCounter, ProductHook, outside_graphs


class HookSet:
    """Hooks on the modules of the covered layers and on the model.

    Attributes:
        passes: counter of the model's forward passes.

    Args:
        model: the model.
        modules: all modules that have the weight of a layer, by layer name.
        embeddings: names of the layers that are embeddings.
        attentions: attention modules, with the names of their covered layers by projection.
        norms: normalisation layers with a diagonal Fisher, and their modules.
        on_call: receives every call of a layer.
        on_norm_call: receives every call of a normalisation layer, after the layer.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, Sequence[nn.Module]],
        embeddings: Collection[str],
        attentions: Mapping[nn.MultiheadAttention, Mapping[str, str]],
        norms: Mapping[Norm, nn.Module],
        on_call: CallHandler,
        on_norm_call: Callable[[Norm, Names, Tensor, Tensor, View | None], None],
    ) -> None:
        handle, handle_norm = outside_graphs(on_call), outside_graphs(on_norm_call)
        self.passes = PassCounter(model)
        self._hooks: list[Hook | AttentionHook | PassCounter | ProductHook] = [self.passes]
        tables = {name: modules[name][0] for name in modules if name in embeddings}
        if tables and not any(isinstance(module, nn.Linear) for name in tables for module in modules[name]):
            self._hooks.append(ProductHook(model, tables, handle))
        self._hooks += [Hook(name, module, handle) for name, held in modules.items() for module in held]
        self._hooks += [
            AttentionHook(names, module, handle, outside_graphs(run)) for module, names in attentions.items()
        ]
        self._hooks += [Hook(norm.name, module, partial(handle_norm, norm)) for norm, module in norms.items()]
        self._handles: dict[int, list[RemovableHandle]] = {}

    def attach(self, names: Collection[str] | None) -> None:
        """Register the hooks of the layers with these names, or all hooks for None, and remove the others."""
        wanted = {
            i for i, hook in enumerate(self._hooks) if names is None or (isinstance(hook, Hook) and hook.name in names)
        }
        for i in self._handles.keys() - wanted:
            for handle in self._handles.pop(i):
                handle.remove()
        for i in wanted - self._handles.keys():
            self._handles[i] = self._hooks[i].attach()
