"""Weights from timm's hub."""

from __future__ import annotations

import difflib
from typing import Any

from torch import Tensor

from hccvision.weights.formats import IMAGENET_MEAN, IMAGENET_STD


def hub_tensors(tag: str, **options: Any) -> dict[str, Tensor]:
    """Load the tensors of a timm model from the hub, downloading them if they are not cached.

    Args:
        tag: timm's model name with its tag, such as ``"vgg16.tv_in1k"``; without a tag, timm's default is used.
        options: of the timm model that the weights are adapted to, such as ``img_size`` of a vision transformer.

    Returns:
        Tensors by timm's keys.

    Raises:
        ValueError: if timm has no such weights; the message lists those of the model, or similar models.
        RuntimeError: if the download fails; the message states the reason and the alternatives.
    """
    import timm

    name = tag.split(".")[0]
    known = timm.list_pretrained(f"{name}.*")
    if ":" not in tag and (not known or (tag != name and tag not in known)):  # hf-hub:… can name any repository
        near = ", ".join(known or difflib.get_close_matches(name, timm.list_models(), n=5))
        hint = f"{f'those of {name}' if known else 'similar models'}: {near}" if near else "see timm.list_pretrained()"
        raise ValueError(f"timm has no weights {tag!r}; {hint}")
    try:
        return timm.create_model(tag, pretrained=True, **options).state_dict()
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise RuntimeError(
            f"the weights {tag!r} could not be downloaded: {reason}. Without a network, pass weights=<path "
            "of a weights file>, or weights=None to start from random weights"
        ) from error


def hub_preprocessing(tag: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Look up the mean and std that timm states for weights of its hub.

    Args:
        tag: timm's model name, with or without a tag.

    Returns:
        Mean and std per RGB channel, of images in [0, 1].

    Example:
        >>> hub_preprocessing("mobilenetv1_100.ra4_e3600_r224_in1k")
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """
    import timm

    config = timm.get_pretrained_cfg(tag, allow_unregistered=True)
    return (tuple(config.mean), tuple(config.std)) if config else (IMAGENET_MEAN, IMAGENET_STD)
