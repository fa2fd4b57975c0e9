"""Formats of weights files: how other libraries name the tensors of a part, and what images they expect."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class WeightFormat:
    r"""Names that some library gives to the tensors of a part, and the preprocessing that its weights expect.

    Backbones and heads state theirs as ``formats``. A file also provides weights for the head if the head has a format
    of the same name as the one recognised for the backbone.

    Args:
        name: for reports, and to pair the formats of a backbone and a head.
        rename: maps a key of the file to a key of the part, or to None for a tensor that the part doesn't have.
        mean: per RGB channel, of images in [0, 1]; divide values stated for 0 … 255 by 255.
        std: per RGB channel, of images in [0, 1]; divide values stated for 0 … 255 by 255.
        options: backbone options that the weights require, such as their activation.
        channel_order: ``"rgb"`` or ``"bgr"``, of the images that the weights were trained with. The model takes RGB in
            either case: loading reverses the input channels of the first convolution.

    Example:
        >>> caffe = WeightFormat("caffe", prefix(r"vgg\.", "features."), channel_order="bgr")
        >>> caffe.rename("vgg.0.weight")
        'features.0.weight'
    """

    name: str
    rename: Callable[[str], str | None]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    options: Mapping[str, Any] = field(default_factory=dict)
    channel_order: str = "rgb"


def rules(*pairs: tuple[str, str]) -> Callable[[str], str | None]:
    r"""Combine rename rules: the first one that matches the start of a key is applied; unmatched keys are dropped.

    Args:
        pairs: each a regular expression for the start of the key, and its replacement, in which ``\1`` is the first
            group of the expression.

    Returns:
        The rule.

    Example:
        >>> rename = rules((r"conv(\d+)\.", r"layers.\1.0."), (r"bn(\d+)\.", r"layers.\1.1."))
        >>> rename("conv3.weight"), rename("bn3.bias"), rename("fc.bias")
        ('layers.3.0.weight', 'layers.3.1.bias', None)
    """
    patterns = [(re.compile(old), new) for old, new in pairs]

    def rename(key: str) -> str | None:
        hits = ((pattern.match(key), new) for pattern, new in patterns)
        return next((hit.expand(new) + key[hit.end() :] for hit, new in hits if hit), None)

    return rename


def prefix(old: str, new: str) -> Callable[[str], str | None]:
    r"""Build a rename rule that replaces a prefix; unmatched keys are dropped.

    Args:
        old: regular expression for the start of the key.
        new: its replacement.

    Returns:
        The rule.

    Example:
        >>> prefix(r"backbone\.", "")("backbone.layers.0.weight"), prefix(r"backbone\.", "")("head.bias")
        ('layers.0.weight', None)
    """
    return rules((old, new))


HCCVISION = WeightFormat("hccvision", prefix(r"backbone\.", ""))
HCCVISION_HEAD = WeightFormat("hccvision", prefix(r"head\.", ""))


def recognise(tensors: Mapping[str, Tensor], formats: Sequence[WeightFormat], source: str) -> WeightFormat:
    """Recognise the format of a file.

    Args:
        tensors: of the file.
        formats: of the backbone; hccvision's own format is always a candidate as well.
        source: name of the file, for the message.

    Returns:
        The format that maps the most keys.

    Raises:
        ValueError: if no format maps any key.
    """
    best = max((*formats, HCCVISION), key=lambda f: sum(f.rename(k) is not None for k in tensors))
    if not any(best.rename(k) is not None for k in tensors):
        raise ValueError(
            f"{source}: these are the weights of another network: none of its {len(tensors)} tensors "
            f"({', '.join(list(tensors)[:3])}, …) belongs to this backbone, which reads the formats "
            f"{', '.join(f.name for f in (HCCVISION, *formats))}"
        )
    return best
