"""Any ``nn.Module`` as a function of stacked parameters: one network a trial, computed together.

A model is vmapped over trials where that is exact. A model with buffers (BatchNorm), dropout, or code that vmap
can't follow is run member by member instead, each with its own buffers and its own random stream:
slower, never wrong, and said in the log.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.dropout import _DropoutNd

from sensitivity.study.seeds import derive
from sensitivity.training.packed_layers import Tape, install

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer: its inputs, and the output tensors whose gradients K-FAC needs."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    together: bool
    """Whether both hold one tensor ``[trials, batch, ...]``, rather than one ``[batch, ...]`` a member."""

    def packed(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return `tensors`, in the form of `inputs`, as one tensor ``[trials, batch, ...]``."""
        return tensors[0] if self.together else torch.stack(list(tensors)) if len(tensors) > 1 else tensors[0][None]


class PackedModel:
    """The networks of a pack."""

    def __init__(self, build: Callable[[], nn.Module], seeds: Sequence[int]) -> None:
        """Build one network a seed with torch's global generator; equal seeds give equal networks."""
        networks = {seed: _initialised(build, seed) for seed in dict.fromkeys(seeds)}
        self._skeleton = copy.deepcopy(next(iter(networks.values())))
        self._tape = Tape()
        self._loops = _loop_reason(self._skeleton)
        if self._loops and len(seeds) > 1:
            logger.info("%s: members of a pack run one by one", self._loops)
        install(self._skeleton, self._tape)
        members = [networks[seed] for seed in seeds]
        trained = [name for name, p in self._skeleton.named_parameters() if p.requires_grad]
        self.params = {name: _stack(members, name).requires_grad_() for name in trained}
        """Trained parameters, each ``[trials, *shape]``."""
        frozen = [name for name, p in self._skeleton.named_parameters() if not p.requires_grad]
        self._constants = {name: _stack(members, name) for name in frozen}
        self._buffers = {name: _stack(members, name) for name, _ in self._skeleton.named_buffers()}
        self._random = [torch.Generator().manual_seed(derive(seed, "layer")).get_state() for seed in seeds]

    @property
    def network(self) -> nn.Module:
        """One network of the pack, for its structure: its parameter values are nobody's."""
        return self._skeleton

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(iter(self.params.values())).device

    @property
    def trials(self) -> int:
        """Number of members."""
        return len(self._random)

    def train_outputs(self, inputs: Tensor, *, record: bool) -> tuple[Tensor, dict[str, list[LayerCall]]]:
        """Run the networks in training mode on ``[trials, batch, ...]``.

        Returns:
            Outputs ``[trials, batch, outputs]`` and, if `record`, the calls of its layers by name.
        """
        self._skeleton.train()
        self._tape.recording = record
        try:
            return self._run(inputs)
        finally:
            self._tape.recording = False

    @torch.no_grad()
    def eval_outputs(self, inputs: Tensor) -> Tensor:
        """Run the networks in evaluation mode on inputs that all share, ``[batch, ...]``."""
        self._skeleton.eval()
        return self._run(inputs.expand(self.trials, *inputs.shape))[0]

    def select(self, index: Tensor) -> None:
        """Keep only the members at `index`."""
        self.params = {name: p.detach()[index].requires_grad_() for name, p in self.params.items()}
        self._constants = {name: p[index] for name, p in self._constants.items()}
        self._buffers = {name: b[index] for name, b in self._buffers.items()}
        self._random = [self._random[k] for k in index.tolist()]

    def _run(self, inputs: Tensor) -> tuple[Tensor, dict[str, list[LayerCall]]]:
        if self._loops is None and self.trials > 1:
            try:
                return self._run_together(inputs)
            except RuntimeError as error:
                # Whatever vmap can't follow, the loop can; a fault of the model's own comes up again there.
                self._loops = f"vmap can't follow the model ({str(error).splitlines()[0]})"
                logger.info("%s: members of a pack run one by one", self._loops)
        return self._run_one_by_one(inputs)

    def _run_together(self, inputs: Tensor) -> tuple[Tensor, dict[str, list[LayerCall]]]:
        self._tape.calls = {}
        self._tape.vmapped = True
        try:
            outputs = vmap(lambda tensors, x: functional_call(self._skeleton, tensors, (x,)))(
                {**self.params, **self._constants}, inputs
            )
        finally:
            self._tape.vmapped = False
        calls = {
            name: [LayerCall((x,), (y,), together=True) for x, y in recorded]
            for name, recorded in self._tape.calls.items()
        }
        return outputs, calls

    def _run_one_by_one(self, inputs: Tensor) -> tuple[Tensor, dict[str, list[LayerCall]]]:
        outputs: list[Tensor] = []
        tapes: list[dict[str, list[tuple[Tensor, Tensor]]]] = []
        tensors = {**self.params, **self._constants, **self._buffers}
        with torch.random.fork_rng(devices=[]):
            for k in range(self.trials):
                self._tape.calls = {}
                torch.random.set_rng_state(self._random[k])
                member = {name: tensor[k] for name, tensor in tensors.items()}
                outputs.append(functional_call(self._skeleton, member, (inputs[k],)))
                if self._skeleton.training:
                    self._random[k] = torch.random.get_rng_state()
                tapes.append(self._tape.calls)
        calls = {
            name: [
                LayerCall(tuple(x for x, _ in one_call), tuple(y for _, y in one_call), together=False)
                for one_call in zip(*(tape[name] for tape in tapes), strict=True)
            ]
            for name in tapes[0]
        }
        return torch.stack(outputs), calls


def _initialised(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "init"))
        return build()


def _stack(members: Sequence[nn.Module], name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    return torch.stack([getattr(member.get_submodule(owner), leaf).detach() for member in members])


def _loop_reason(model: nn.Module) -> str | None:
    """Return why `model` must run member by member, or None."""
    if any(True for _ in model.buffers()):
        return "the model keeps buffers"
    if any(isinstance(module, _DropoutNd) for module in model.modules()):
        return "the model has dropout"
    if any(isinstance(module, nn.Embedding) and module.max_norm is not None for module in model.modules()):
        return "the model renormalises an embedding in its forward pass"
    return None
