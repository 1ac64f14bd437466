"""Any ``nn.Module`` as a function of stacked parameters, with one network per trial, computed together.

Plain sequences of known layers (``packed_sequence``) and models with custom code over such layers (``packed_composed``)
are computed for the whole pack directly. Other models are vmapped over trials, including buffers (such as BatchNorm
statistics) and dropout masks, so that each member has the same ones as when trained alone. A model that vmap does not
support is run member by member, with the same results but more slowly; this is logged.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from sensitivity.optimizers.joint import are_joined, laid_out
from sensitivity.study.seeds import derive
from sensitivity.training.device_errors import of_device
from sensitivity.training.packed_composed import Layers, layers_of
from sensitivity.training.packed_layers import Tape, install, loop_reason
from sensitivity.training.packed_sequence import Step, run_sequence, sequence_of
from sensitivity.training.precision import autocast
from sensitivity.training.random_states import (
    cuda_of,
    draws,
    initialised,
    random_state,
    random_state_now,
    set_random_state,
)
from sensitivity.training.recomputation import no_recomputation

logger = logging.getLogger(__name__)


_Calls = dict[str, list[tuple[Tensor, Tensor]]]
"""Inputs and outputs of each layer's calls for one member."""
_warned: set[str] = set()
"""Warnings already logged by this process."""


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer: its inputs, and the output tensors whose gradients K-FAC needs."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    together: bool
    """Whether both are single tensors ``[trials, batch, ...]`` rather than one ``[batch, ...]`` per member."""

    def packed(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return `tensors`, which have the form of `inputs`, as one tensor ``[trials, batch, ...]``."""
        return tensors[0] if self.together else torch.stack(list(tensors)) if len(tensors) > 1 else tensors[0][None]


class PackedModel:
    """The networks of a pack."""

    def __init__(
        self,
        build: Callable[[], nn.Module],
        seeds: Sequence[int],
        *,
        products: torch.dtype | None = None,
        shipped: bool = False,
        began: int | None = None,
    ) -> None:
        """Build one network per seed with torch's global generator; equal seeds give equal networks.

        Args:
            build: builds a network.
            seeds: seeds of the members.
            products: dtype of matrix products, if given; outputs are then converted to float32.
            shipped: whether the model is part of this package, so that each pass does the same operations and draws
                random numbers only in random layers. This can't be assumed of a user's code.
            began: initial number of members of the pack, if some have been dropped.
        """
        self._products, self._build = products, build
        networks = {seed: initialised(build, seed) for seed in dict.fromkeys(seeds)}
        self._skeleton = copy.deepcopy(next(iter(networks.values())))
        self._tape = Tape()
        self._sequence = sequence_of(self._skeleton, self._tape)
        self._layers = layers_of(self._skeleton, self._tape)
        self._shipped, self._draws = shipped, any(draws(module) for module in self._skeleton.modules())
        self._loops = None if self._sequence or self._layers else loop_reason(self._skeleton)
        if self._loops and len(seeds) > 1:
            logger.debug("%s: members of a pack run one by one", self._loops)
        install(self._skeleton, self._tape)
        members = [networks[seed] for seed in seeds]
        trained = [name for name, p in self._skeleton.named_parameters() if p.requires_grad]
        stacked = {name: _stack(members, name) for name in trained}
        self._joint = are_joined(stacked, began or len(seeds))
        self.params = self._trained(stacked)
        """Trained parameters, each ``[trials, *shape]``."""
        frozen = [name for name, p in self._skeleton.named_parameters() if not p.requires_grad]
        self._constants = {name: _stack(members, name) for name in frozen}
        self._buffers = {name: _stack(members, name) for name, _ in self._skeleton.named_buffers()}
        self._generators = [torch.Generator(self.device).manual_seed(derive(seed, "dropout")) for seed in seeds]
        self._random = [random_state(derive(seed, "layer"), self.device) for seed in seeds]
        self._tried: set[bool] = set()
        """Modes (training or not) in which the current way of running has succeeded before."""
        self._writes = False
        """Whether the model writes to its parameters in its forward pass."""

    @property
    def network(self) -> nn.Module:
        """A network with the structure of the members; its parameter values are meaningless."""
        return self._skeleton

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return next(iter(self.params.values())).device

    @property
    def gradients_are_products(self) -> bool:
        """Whether a layer's gradient comes from its recorded calls only, which can't be assumed of custom code."""
        shared = len(list(self._skeleton.named_parameters(remove_duplicate=False))) != len(self.params)
        return self._sequence is not None or (self._layers is not None and not shared)

    @property
    def repeats(self) -> bool:
        """Whether each training pass does the same operations on the same tensors, which can't be assumed of user code.

        It is false for dropout and for members that run one by one, because these use generators on the host.
        """
        known = self._sequence is not None or self._layers is not None
        together = known or (self._shipped and (self._loops is None or self.trials == 1))
        return together and not self._draws

    @property
    def trials(self) -> int:
        """Number of members."""
        return len(self._random)

    def train_outputs(self, inputs: Tensor, *, record: bool) -> tuple[Tensor, dict[str, list[LayerCall]]]:
        """Run the networks in training mode on ``[trials, batch, ...]``.

        Returns:
            Outputs ``[trials, batch, outputs]`` and, if `record`, the calls of layers by name.
        """
        self._set_mode(training=True)
        self._tape.recording = record
        try:
            return self._run(inputs)
        finally:
            self._tape.recording = False

    @torch.no_grad()
    def eval_outputs(self, inputs: Tensor) -> Tensor:
        """Run all networks in evaluation mode on the same inputs ``[batch, ...]``."""
        self._set_mode(training=False)
        return self._run(inputs.expand(self.trials, *inputs.shape))[0]

    def _set_mode(self, *, training: bool) -> None:
        """Set the mode of all modules, unless it is known to be set; a user's code may change the mode of modules."""
        if self._sequence is None or self._skeleton.training is not training:
            self._skeleton.train(training)

    def member(self, place: int) -> nn.Module:
        """Return the network of one member as a separate module that shares memory with the pack (see `rebind`)."""
        with torch.random.fork_rng(devices=[]):
            module = self._build()
        self.rebind(place, module)
        return module

    def rebind(self, place: int, module: nn.Module) -> None:
        """Make a module's parameters and buffers views of those of the member at `place`."""
        packed = {**self.params, **self._constants, **self._buffers}
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            tensor.data = packed[name].detach()[place]

    def train_member(self, place: int, module: nn.Module, inputs: Tensor) -> Tensor:
        """Run a member's own module in training mode on ``[batch, ...]``, with the member's random numbers."""
        with torch.random.fork_rng(devices=cuda_of(self.device)), autocast(self._products, self.device):
            set_random_state(self._random[place], self.device)
            outputs: Tensor = module.train()(inputs)
            self._random[place] = random_state_now(self.device)
        for name, buffer in module.named_buffers():
            inside = self._buffers[name][place]
            if buffer.data_ptr() != inside.data_ptr():  # the model has replaced the buffer
                inside.copy_(buffer)
                buffer.data = inside
        return outputs if self._products is None else outputs.float()

    def select(self, index: Tensor) -> None:
        """Keep only the members at `index`."""
        self.params = self._trained({name: p.detach()[index] for name, p in self.params.items()})
        self._constants = {name: p[index] for name, p in self._constants.items()}
        self._buffers = {name: b[index] for name, b in self._buffers.items()}
        self._random = [self._random[k] for k in index.tolist()]
        self._generators = [self._generators[k] for k in index.tolist()]

    def _trained(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        trained = {name: p.requires_grad_() for name, p in (laid_out(params) if self._joint else params).items()}
        single = len(next(iter(trained.values()))) == 1
        self._single = tuple(p.detach()[0].requires_grad_() for p in trained.values()) if single else ()
        return trained

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """Tensors to differentiate by, in the order of `params`; for a single sequence, views ``[*shape]`` of them."""
        return self._single if self._single and self._sequence is not None else tuple(self.params.values())

    def state(self) -> dict[str, Any]:
        """Return everything that training changes, as plain containers of tensors."""
        return {"params": {name: p.detach() for name, p in self.params.items()}, **self.volatile()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by `state` for the same members."""
        self.restore_volatile(state)

    def volatile(self) -> dict[str, Any]:
        """Return the state that a forward pass changes: buffers and random generators."""
        return {
            "buffers": {name: buffer.clone() for name, buffer in self._buffers.items()},
            "generators": [generator.get_state() for generator in self._generators],
            "random": list(self._random),
        }

    def restore_volatile(self, volatile: Mapping[str, Any]) -> None:
        """Restore the result of `volatile`, and parameters if they are included."""
        for name, parameter in volatile.get("params", {}).items():
            self.params[name].detach().copy_(parameter)
        for name, buffer in self._buffers.items():
            buffer.copy_(volatile["buffers"][name])
        for generator, kept in zip(self._generators, volatile["generators"], strict=True):
            generator.set_state(kept)
        self._random = list(volatile["random"])

    def _run(self, inputs: Tensor) -> tuple[Tensor, dict[str, list[LayerCall]]]:
        with autocast(self._products, self.device), no_recomputation():
            outputs, calls = self._dispatch(inputs)
        return outputs if self._products is None else outputs.float(), calls

    def _dispatch(self, inputs: Tensor) -> tuple[Tensor, dict[str, list[LayerCall]]]:
        if self._sequence:
            return self._run_sequence(self._sequence, inputs)
        if self._layers:
            return self._run_layers(self._layers, inputs)
        if self._shipped and not self._draws and self.trials == 1:
            return self._run_single(inputs)
        if self._loops is not None or self.trials == 1:
            return self._try_one_by_one(inputs)
        if self._skeleton.training in self._tried:
            return self._run_together(inputs)
        before = self.volatile()
        try:
            with warnings.catch_warnings():
                # Raised for operations that vmap runs member by member, such as attention on a CPU.
                warnings.filterwarnings("error", "There is a performance drop", UserWarning)
                result = self._run_together(inputs)
        except (RuntimeError, UserWarning) as error:
            if of_device(error):
                raise
            # The loop handles whatever vmap does not support; errors of the model itself are raised again there.
            self._loops = f"vmap can't follow the model ({str(error).splitlines()[0]})"
            if self._loops not in _warned:  # warn once, although a process builds a model for every pack
                _warned.add(self._loops)
                logger.warning("%s: members of a pack run one by one, which saves less", self._loops)
            self.restore_volatile(before)
            self._tried.clear()
            return self._try_one_by_one(inputs)
        self._tried.add(self._skeleton.training)
        return result

    def _run_together(self, inputs: Tensor) -> tuple[Tensor, dict[str, list[LayerCall]]]:
        self._tape.calls, self._tape.generators, self._tape.vmapped = {}, self._generators, True

        def member(tensors: dict[str, Tensor], x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            outputs = functional_call(self._skeleton, tensors, (x,))
            return outputs, {name: tensors[name] for name in self._buffers}  # some may be replaced

        try:
            outputs, buffers = vmap(member)({**self.params, **self._constants, **self._buffers}, inputs)
        finally:
            self._tape.vmapped = False
        self._buffers = {name: buffer.detach() for name, buffer in buffers.items()}
        return outputs, self._joint_calls()

    def _run_sequence(self, steps: tuple[Step, ...], inputs: Tensor) -> tuple[Tensor, dict[str, list[LayerCall]]]:
        self._tape.calls, self._tape.generators = {}, self._generators
        if self.trials > 1:
            tensors = {**self.params, **self._constants}
        else:
            tensors = dict(zip(self.params, self.leaves, strict=True))
            tensors |= {name: p[0] for name, p in self._constants.items()}
        outputs = run_sequence(steps, inputs, tensors)
        return outputs, self._joint_calls()

    def _run_layers(self, layers: Layers, inputs: Tensor) -> tuple[Tensor, dict[str, list[LayerCall]]]:
        if not layers.runs_separately(inputs):
            self._tape.calls, self._tape.generators = {}, self._generators
            return layers.whole(inputs, {**self.params, **self._constants}), self._joint_calls()
        # Unbound, because the gradient of indexing has the size of the whole pack for each member.
        apart = (lambda p: p.unbind()) if self.trials > 1 else (lambda p: (p.squeeze(0),))
        members = {name: apart(p) for name, p in {**self.params, **self._constants}.items()}
        outputs, tapes = list[Tensor](), list[_Calls]()
        for k, (x, generator) in enumerate(zip(inputs, self._generators, strict=True)):
            self._tape.calls, self._tape.generators = {}, (generator,)
            outputs.append(layers.single(x, {name: own[k] for name, own in members.items()}))
            tapes.append(self._tape.calls)
        return torch.stack(outputs) if len(outputs) > 1 else outputs[0][None], _combined_calls(tapes)

    def _joint_calls(self) -> dict[str, list[LayerCall]]:
        return {
            name: [LayerCall((x,), (y,), together=True) for x, y in recorded]
            for name, recorded in self._tape.calls.items()
        }

    def _run_single(self, inputs: Tensor) -> tuple[Tensor, dict[str, list[LayerCall]]]:
        """Run a pack of one directly, without setting the generators, which only user code may need."""
        self._tape.calls = {}
        tensors = {**self.params, **self._constants, **self._buffers}
        member = {name: tensor.squeeze(0) for name, tensor in tensors.items()}
        outputs: Tensor = functional_call(self._skeleton, member, (inputs.squeeze(0),))
        calls = {
            name: [LayerCall((x,), (y,), together=False) for x, y in recorded]
            for name, recorded in self._tape.calls.items()
        }
        return outputs.unsqueeze(0), calls

    def _try_one_by_one(self, inputs: Tensor) -> tuple[Tensor, dict[str, list[LayerCall]]]:
        if self._writes or self.trials == 1 or self._skeleton.training in self._tried:
            return self._run_one_by_one(inputs)
        before = {"params": {name: p.detach().clone() for name, p in self.params.items()}, **self.volatile()}
        try:
            result = self._run_one_by_one(inputs)
        except RuntimeError as error:
            if "multiple views" not in str(error):
                raise
            self._writes = True
            self.restore_volatile(before)
            return self._run_one_by_one(inputs)
        self._tried.add(self._skeleton.training)
        return result

    def _run_one_by_one(self, inputs: Tensor) -> tuple[Tensor, dict[str, list[LayerCall]]]:
        outputs: list[Tensor] = []
        tapes: list[_Calls] = []
        # Unbound, because the gradient of indexing has the size of the whole pack for each member. Autograd does not
        # allow in-place changes of unbound tensors.
        apart = self.trials > 1 and not self._writes
        trained = {name: p.unbind() if apart else p for name, p in self.params.items()}
        rest = {**self._constants, **self._buffers}
        # A copy, if a model that writes to its input would change that of other members or the data set.
        shared = inputs.stride(0) == 0 or not self._skeleton.training
        with torch.random.fork_rng(devices=cuda_of(self.device)):
            for k in range(self.trials):
                self._tape.calls, self._tape.generators = {}, (self._generators[k],)
                set_random_state(self._random[k], self.device)
                member = {name: members[k] for name, members in trained.items()}
                member |= {name: tensor[k] for name, tensor in rest.items()}
                before = {name: member[name] for name in self._buffers}
                own = inputs[k].clone() if shared else inputs[k]
                outputs.append(functional_call(self._skeleton, member, (own,)))
                for name, buffer in before.items():
                    if member[name] is not buffer:  # the model has replaced the buffer
                        self._buffers[name][k] = member[name].detach()
                if self._skeleton.training:
                    self._random[k] = random_state_now(self.device)
                tapes.append(self._tape.calls)
        return torch.stack(outputs), _combined_calls(tapes)


def _combined_calls(tapes: Sequence[_Calls]) -> dict[str, list[LayerCall]]:
    """Combine the calls of members that ran one by one."""
    shapes = [{name: len(called) for name, called in tape.items()} for tape in tapes]
    if any(shape != shapes[0] for shape in shapes):
        names = ", ".join(
            sorted({name for shape in shapes for name in shape if len({s.get(name) for s in shapes}) > 1})
        )
        raise RuntimeError(
            f"members of a pack call layers of the model differently in one step ({names}), but their "
            "optimizer needs the same calls of all; set execution.pack_size = 1"
        )
    return {
        name: [
            LayerCall(tuple(x for x, _ in one_call), tuple(y for _, y in one_call), together=False)
            for one_call in zip(*(tape[name] for tape in tapes), strict=True)
        ]
        for name in tapes[0]
    }


def _stack(members: Sequence[nn.Module], name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    return torch.stack([getattr(member.get_submodule(owner), leaf).detach() for member in members])
