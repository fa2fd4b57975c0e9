"""The feature maps of a backbone or a neck at one image size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hccvision.contracts.parts import Backbone, FeatureSpec, Neck


def features_of(
    backbone: nn.Module, image_size: int | tuple[int, int], *, neck: nn.Module | None = None
) -> FeatureSpec:
    """Return the feature maps that a head will be given, from one dry forward.

    Args:
        backbone: states its ``channels`` and ``strides``.
        image_size: side or ``(height, width)`` of the model's input in pixels.
        neck: between backbone and head; None: none.

    Returns:
        Channels, strides and sizes of the maps of the neck, or of the backbone where there is no neck.

    Raises:
        TypeError: if the backbone or the neck doesn't state its channels and strides.
        ValueError: if it can't take images of that size, or returns other maps than it states.

    Example:
        >>> from hccvision.registry import BACKBONES
        >>> features_of(BACKBONES.build("mobilenet_v1", width=0.25), 300).sizes
        ((75, 75), (38, 38), (19, 19), (10, 10))
    """
    size = (image_size, image_size) if isinstance(image_size, int) else (int(image_size[0]), int(image_size[1]))
    if not isinstance(backbone, Backbone):
        raise TypeError(f"a backbone states its channels and strides; {type(backbone).__name__} doesn't")
    probe = torch.zeros(1, getattr(backbone, "in_channels", 3), *size)
    maps = _forward(backbone, probe, f"this backbone can't take images of {size} pixels")
    features = _spec(backbone, maps, size)
    if neck is None:
        return features
    if not isinstance(neck, Neck):
        raise TypeError(f"a neck states its channels and strides; {type(neck).__name__} doesn't")
    return _spec(neck, _forward(neck, maps, f"this neck can't take maps of sizes {features.sizes}"), size)


def _forward(part: Any, given: Any, problem: str) -> tuple[Tensor, ...]:
    """Run a part once in evaluation mode, without gradients."""
    call: Callable[[Any], Sequence[Tensor]] = part
    training = part.training
    part.eval()
    try:
        with torch.no_grad():
            return tuple(call(given))
    except Exception as error:
        raise ValueError(f"{problem}: {error}") from error
    finally:
        part.train(training)


def _spec(part: Any, maps: tuple[Tensor, ...], size: tuple[int, int]) -> FeatureSpec:
    channels, strides = tuple(m.shape[1] for m in maps), tuple(part.strides)
    if channels != tuple(part.channels) or len(strides) != len(channels):
        raise ValueError(
            f"{type(part).__name__} states maps of {tuple(part.channels)} channels at strides {strides}, and returns "
            f"maps of {channels} channels"
        )
    return FeatureSpec(channels, strides, tuple((m.shape[2], m.shape[3]) for m in maps), size)
