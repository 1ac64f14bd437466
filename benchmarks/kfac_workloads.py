"""The models and batches on which `kfac_step.py` times a step."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = {"perceptron": (64, 128, 128, 10), "wide": (784, 1000, 500, 250, 30, 250, 500, 1000, 784)}
"""Widths of perceptron layers; "wide" is the MNIST autoencoder of Martens and Grosse 2015, section 13."""
VOCABULARY, LENGTH = 256, 128


@dataclass(frozen=True)
class Workload:
    """A model and its batch, with the same parameters each time."""

    name: str
    batch: int
    device: torch.device

    def model(self) -> nn.Module:
        """Build the model with its initial parameters."""
        torch.manual_seed(0)
        made = {"resnet20": ResNet20, "transformer": Decoder}.get(self.name, lambda: _perceptron(WIDTHS[self.name]))()
        return made.to(self.device)

    @property
    def examples(self) -> int:
        """Number of examples in the batch: sequences for a transformer, otherwise `self.batch`."""
        return 32 if self.name == "transformer" else self.batch

    def data(self) -> tuple[Tensor, Tensor]:
        """Build one batch."""
        generator = torch.Generator().manual_seed(1)
        if self.name == "transformer":
            tokens, labels = torch.randint(VOCABULARY, (2, self.examples, LENGTH), generator=generator)
            return tokens.to(self.device), labels.flatten().to(self.device)
        shape = (3, 32, 32) if self.name == "resnet20" else WIDTHS[self.name][:1]
        x = torch.randn(self.batch, *shape, generator=generator)
        return x.to(self.device), torch.randint(10, (self.batch,), generator=generator).to(self.device)


def _perceptron(widths: tuple[int, ...]) -> nn.Module:
    layers = [module for a, b in pairwise(widths) for module in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class Block(nn.Module):
    """A residual block whose shortcut pads channels (He et al. 2016, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """Add the block's branch to its input."""
        branch = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return functional.relu(branch + shortcut)


class ResNet20(nn.Module):
    """ResNet-20 for 3×32×32 (He et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        plan = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2
        self.blocks = nn.Sequential(*(Block(*each) for each in plan))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        outputs: Tensor = self.head(self.blocks(functional.relu(self.norm(self.conv(x)))).mean((2, 3)))
        return outputs


class DecoderBlock(nn.Module):
    """Causal self-attention with 4 heads and a perceptron of 4 times the width, each with a normalised residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Add both branches."""
        h = self.norm1(x)
        q, k, v = (m(h).unflatten(-1, (4, -1)).transpose(1, 2) for m in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        widened: Tensor = self.down(functional.gelu(self.up(self.norm2(x))))
        return x + widened


class Decoder(nn.Module):
    """A decoder-only transformer with 4 layers of width 256, for sequences of 128 bytes."""

    def __init__(self, width: int = 256, depth: int = 4) -> None:
        super().__init__()
        self.word, self.place = nn.Embedding(VOCABULARY, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(*(DecoderBlock(width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of all tokens, [batch * length, vocabulary]."""
        places = torch.arange(LENGTH, device=tokens.device)
        logits: Tensor = self.head(self.norm(self.blocks(self.word(tokens) + self.place(places))))
        return logits.flatten(0, 1)
