"""Convolutions of an SSD head."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

# Channels of each pair of extra convolutions: 1×1, then 3×3 with stride 2. The last pair repeats.
EXTRAS = ((256, 512), (128, 256), (128, 256), (128, 256))

Convolution = Callable[..., nn.Module]


def convolution(channels: int, out: int, cells: tuple[int, int], *, stride: int = 1, padding: int = 1) -> nn.Module:
    """Build a 3×3 convolution.

    Args:
        channels: of the input.
        out: channels of the output.
        cells: ``(height, width)`` of the output, not used.
        stride: of the convolution.
        padding: of the convolution.

    Returns:
        The layer.
    """
    return nn.Conv2d(channels, out, 3, stride, padding)


def separable_convolution(
    channels: int, out: int, cells: tuple[int, int], *, stride: int = 1, padding: int = 1
) -> nn.Module:
    """Build a depthwise 3×3 convolution followed by a 1×1 convolution across channels.

    A map of one cell has no batch norm, which could not train on a last batch of one image.

    Args:
        channels: of the input.
        out: channels of the output.
        cells: ``(height, width)`` of the output.
        stride: of the depthwise convolution.
        padding: of the depthwise convolution.

    Returns:
        The layers.
    """
    single = cells == (1, 1)
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, padding, groups=channels, bias=single),
        nn.Identity() if single else nn.BatchNorm2d(channels),
        nn.ReLU6(inplace=True),
        nn.Conv2d(channels, out, 1),
    )


def extra_layer(convolve: Convolution, channels: int, index: int, cells: tuple[int, int], *, halved: bool) -> nn.Module:
    """Build the extra layer that makes a coarser map from the one before.

    Args:
        convolve: `convolution` or `separable_convolution`.
        channels: of the map before.
        index: of the extra layer, from 0.
        cells: ``(height, width)`` of the new map.
        halved: halve the map; False: remove two rows and two columns.

    Returns:
        The layer, whose output has ``EXTRAS[index][1]`` channels.
    """
    squeeze, out = EXTRAS[min(index, len(EXTRAS) - 1)]
    last = convolve(squeeze, out, cells, stride=2 if halved else 1, padding=1 if halved else 0)
    return nn.Sequential(nn.Conv2d(channels, squeeze, 1), nn.ReLU(inplace=True), last, nn.ReLU(inplace=True))


def initialise(module: nn.Module) -> None:
    """Initialise all convolutions: Xavier uniform weights, biases 0.

    Args:
        module: changed in place.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def set_prior(class_convs: nn.ModuleList, num_classes: int, prior: float) -> None:
    """Set the biases of the class convolutions so that a fresh head predicts few lesions.

    Args:
        class_convs: changed in place.
        num_classes: K, without background.
        prior: probability of a lesion at each default box, in (0, 1).

    Raises:
        ValueError: for a prior out of range.
    """
    if not 0 < prior < 1:
        raise ValueError(f"prior is a probability in (0, 1), got {prior}")
    for conv in class_convs:
        bias: Any = (conv[-1] if isinstance(conv, nn.Sequential) else conv).bias
        bias.data.view(-1, num_classes + 1)[:, 0] = math.log(num_classes * (1 - prior) / prior)


def per_box(values: Tensor, size: int) -> Tensor:
    """Reorder ``(B, boxes · size, h, w)`` to ``(B, h · w · boxes, size)``, cell by cell.

    Args:
        values: output of a convolution.
        size: number of values per default box.

    Returns:
        One row per default box, in the order of the default boxes.
    """
    return values.permute(0, 2, 3, 1).reshape(values.shape[0], -1, size)
