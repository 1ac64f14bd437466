"""A small decoder-only transformer (Vaswani et al. 2017; Radford et al. 2019), with pre-norm blocks.

``forward_with`` is the forward pass for inputs ``[..., batch, time]``, which gets its layers by name: the module's own
for one network, or those of a whole pack (``packed_composed``).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from sensitivity.study.arms import WidthRule
from sensitivity.study.errors import UserError
from sensitivity.training.models.arguments import check_counts, dropouts

_EMBEDDED_STD = 0.5
"""Standard deviation of embeddings; with 0.02, SGD takes several times as many steps and K-FAC needs more damping."""
_FEEDFORWARD = 4
"""Width of each block's hidden layer relative to the width of the network."""
_ROTARY_BASE = 10_000.0


def transformer(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    width: int = 32,
    depth: int = 2,
    heads: int = 2,
    dropout: float = 0.0,
    positions: str = "learnt",
    tied: bool = False,
    parametrisation: str = "standard",
    base_width: int = 32,
) -> nn.Module:
    """Return a transformer over ids below `outputs` that predicts the next token at every position.

    Embeddings are drawn from N(0, 0.5²), matrices from N(0, 1 / inputs); linear layers have no biases. `positions` are
    "learnt" embeddings or "rotary" (Su et al. 2021). `tied` shares the embeddings with the last layer; they are then
    drawn from N(0, 1 / width). `dropout` is applied to the embeddings and to the residual branches.

    `parametrisation` "mup" makes initialisation and training dynamics comparable across widths (Yang et al. 2022): the
    last layer is drawn as at `base_width` and its outputs are divided by m = width / base_width, attention logits scale
    with 1 / (width / heads), and learning rates are multiplied per layer (``optimizers.width``). At the base width it
    equals the standard network.

    Raises:
        ValueError: inputs are not sequences of ids.
        UserError: an argument is invalid.
    """
    check_counts("transformer", width=width, depth=depth, heads=heads, base_width=base_width)
    if len(input_shape) != 1:
        raise ValueError(f"transformer takes sequences of token ids [time]; got inputs {input_shape}")
    if width % heads or (positions == "rotary" and width // heads % 2):
        even = " and even" if positions == "rotary" else ""
        raise UserError(
            f"problem.model_arguments.heads: {heads} heads must divide width = {width} into parts of equal{even} size"
        )
    if positions not in ("learnt", "rotary"):
        raise UserError(f'problem.model_arguments.positions: transformer takes "learnt" or "rotary"; got {positions!r}')
    if parametrisation not in ("standard", "mup"):
        raise UserError(
            f'problem.model_arguments.parametrisation: transformer takes "standard" or "mup"; got {parametrisation!r}'
        )
    if not isinstance(tied, bool):
        raise UserError(f"problem.model_arguments.tied: transformer takes true or false; got {tied!r}")
    length = input_shape[0] if positions == "learnt" else None
    base = base_width if parametrisation == "mup" else width
    return Transformer(outputs, length, width, depth, heads, dropout, tied=tied, base_width=base)


class Transformer(nn.Module):
    """The network built by `transformer`."""

    def __init__(
        self,
        vocabulary: int,
        length: int | None,
        width: int,
        depth: int,
        heads: int,
        dropout: float,
        *,
        tied: bool,
        base_width: int,
    ) -> None:
        super().__init__()
        self.width, self._heads = width, heads
        self.width_ratio = width / base_width
        self._attention_scale = math.sqrt(base_width / heads) / (width / heads)
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = None if length is None else nn.Embedding(length, width)
        self.dropout = nn.Sequential(*dropouts("transformer", dropout))
        self.blocks = nn.ModuleList(_block(width, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=1 / math.sqrt(base_width) if tied else _EMBEDDED_STD)
            elif module is self.head:
                nn.init.normal_(module.weight, std=1 / math.sqrt(base_width))
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
        if tied:
            self.head.weight = self.tokens.weight
        self._dropouts = [name for name, module in self.named_modules() if isinstance(module, nn.Dropout)]

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits ``[batch, time, vocabulary]`` of the next token at each position."""
        return self.forward_with(ids, self.get_submodule)

    def lr_multipliers(self, rule: WidthRule) -> Mapping[str, float]:
        """Return the learning-rate multipliers by parameter, if not 1."""
        linear = [name for name, module in self.named_modules() if isinstance(module, nn.Linear)]
        hidden = [f"{name}.weight" for name in linear if name != "head"]
        if rule in ("adam", "adamw"):
            return dict.fromkeys(hidden, 1 / self.width_ratio)
        if rule == "sgd":
            return {name: self.width_ratio for name, _ in self.named_parameters() if name not in hidden}
        return {}

    def forward_with(self, ids: Tensor, layer: Callable[[str], Callable[[Tensor], Tensor]]) -> Tensor:
        """Return the logits ``[..., batch, time, vocabulary]``, computed with the layers that `layer` returns."""

        def dropped(x: Tensor, within: str) -> Tensor:
            return layer(f"{within}dropout.0")(x) if self._dropouts else x

        x = layer("tokens")(ids)
        if self.positions is not None:
            places = torch.arange(ids.shape[-1], device=ids.device).expand(ids.shape)  # per example, as K-FAC expects
            x = x + layer("positions")(places)
        x = dropped(x, "")
        for k in range(len(self.blocks)):
            block = f"blocks.{k}."
            x = x + dropped(self._attended(layer(f"{block}norm")(x), layer, block), block)
            hidden = functional.gelu(layer(f"{block}widen")(layer(f"{block}second_norm")(x)))
            x = x + dropped(layer(f"{block}narrow")(hidden), block)
        logits = layer("head")(layer("norm")(x))
        return logits if self.width_ratio == 1 else logits / self.width_ratio

    def _attended(self, x: Tensor, layer: Callable[[str], Callable[[Tensor], Tensor]], block: str) -> Tensor:
        shape = (*x.shape[:-1], self._heads, x.shape[-1] // self._heads)

        def split(name: str) -> Tensor:
            """Return ``[examples, heads, time, features]``; more leading dimensions would select a slower kernel."""
            return layer(block + name)(x).view(shape).flatten(0, -4).transpose(1, 2)

        query, key, value = split("query"), split("key"), split("value")
        if self.positions is None:
            query, key = _rotated(query), _rotated(key)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=self._attention_scale)
        return layer(f"{block}mix")(mixed.transpose(1, 2).reshape(x.shape))


def _block(width: int, dropout: float) -> nn.ModuleDict:
    layers: dict[str, nn.Module] = {"norm": nn.LayerNorm(width)}
    layers |= {name: nn.Linear(width, width, bias=False) for name in ("query", "key", "value", "mix")}
    layers["second_norm"] = nn.LayerNorm(width)
    layers["widen"] = nn.Linear(width, _FEEDFORWARD * width, bias=False)
    layers["narrow"] = nn.Linear(_FEEDFORWARD * width, width, bias=False)
    if dropped := dropouts("transformer", dropout):
        layers["dropout"] = nn.Sequential(*dropped)
    return nn.ModuleDict(layers)


def _rotated(x: Tensor) -> Tensor:
    """Rotate pairs of features ``[..., time, features]`` by angles proportional to the position."""
    cosine, sine = _angles(x.shape[-2], x.shape[-1], x.device, x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), -1)


@functools.lru_cache(maxsize=8)
def _angles(length: int, numbers: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cached cosines and sines ``[time, numbers / 2]``, which must not be modified."""
    steps = torch.arange(length, dtype=torch.float64, device=device)
    speeds = _ROTARY_BASE ** -(torch.arange(0, numbers, 2, dtype=torch.float64, device=device) / numbers)
    angles = steps[:, None] * speeds
    return angles.cos().to(dtype), angles.sin().to(dtype)
