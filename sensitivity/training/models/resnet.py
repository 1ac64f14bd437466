"""The residual networks for CIFAR of He et al. (2016, CVPR, section 4.2), with option-A shortcuts."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from sensitivity.training.models.arguments import check_counts


class _Block(nn.Module):
    """Two 3×3 convolutions with a parameter-free shortcut (option A)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)
        self.stride = stride
        self.added = channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.first_norm(self.first(x)))
        h = self.second_norm(self.second(h))
        if self.stride > 1 or self.added:
            # Every second pixel, and zeros for the additional channels.
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return functional.relu(h + x)


def _resnet(depth: int) -> Callable[..., nn.Module]:
    def build(input_shape: tuple[int, ...], outputs: int, *, width: int = 16) -> nn.Module:
        check_counts(f"resnet{depth}", width=width)
        if len(input_shape) != 3 or min(input_shape[1:]) < 4:
            raise ValueError(f"resnet{depth} takes images [channels, height, width] of at least 4×4; got {input_shape}")
        blocks: list[nn.Module] = []
        channels_in = width
        for channels, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
            for k in range((depth - 2) // 6):
                blocks.append(_Block(channels_in, channels, stride if k == 0 else 1))
                channels_in = channels
        network = nn.Sequential(
            nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * width, outputs),
        )
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)  # the paper's initialisation (He et al. 2015), fan-in mode
        return network

    build.__doc__ = f"Return ResNet-{depth}: 6 x {(depth - 2) // 6} convolutions of 1, 2, 4 times `width` channels."
    return build


resnet20, resnet32, resnet44, resnet56 = (_resnet(depth) for depth in (20, 32, 44, 56))
