"""AlexNet for 32×32 images: the five convolutions of Krizhevsky (2014, arXiv 1404.5997) with a single linear layer."""

from __future__ import annotations

from torch import nn

from sensitivity.training.models.arguments import dropouts


def alexnet(input_shape: tuple[int, ...], outputs: int, *, dropout: float = 0.0) -> nn.Module:
    """Return the usual reduction of AlexNet to 32×32 images, with 2,472,266 parameters for colour and ten classes.

    It has 64, 192, 384, 256 and 256 channels as in the original, three poolings that leave one position, and therefore
    one linear layer; there is no local response normalisation. `dropout` is the rate for the linear layer's inputs.

    Raises:
        ValueError: the input is not ``[channels, 32, 32]``.
    """
    if len(input_shape) != 3 or input_shape[1:] != (32, 32):
        raise ValueError(f"alexnet takes images [channels, 32, 32]; got {input_shape}")
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 64, 11, stride=4, padding=5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        *dropouts("alexnet", dropout),
        nn.Linear(256, outputs),
    )
