"""Augmentations made of kornia modules or of plain callables."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from hccvision.augment.batch import Augmentation, check_batch
from hccvision.augment.targets import replace_boxes
from hccvision.boxes.borders import clip
from hccvision.contracts.batches import Targets
from hccvision.generators import borrowed_generators


def adapt(transform: Callable[..., Any], *, visible: float = 0.4) -> Augmentation:
    """Build an augmentation from any kornia module, or from any callable on (images, targets).

    Args:
        transform: a kornia augmentation, or several in an ``AugmentationSequential``, which moves boxes and masks too;
            or a callable that takes images and targets and returns both, and draws from torch's global generator.
        visible: fraction of a box that must stay inside the image for the box to be kept, where kornia moves it.

    Returns:
        A callable on (images, targets, generator). Register it as
        ``AUGMENTATIONS.register("mine")(lambda: adapt(…))``. Grey levels are clipped to [0, 1].

    Raises:
        TypeError: if ``transform`` is neither.

    Example:
        >>> from kornia.augmentation import RandomHorizontalFlip
        >>> mirror = adapt(RandomHorizontalFlip(p=1.0))
        >>> lesion = Targets.pad([torch.tensor([[2.0, 2.0, 4.0, 4.0]])], [torch.zeros(1)])
        >>> mirror(torch.zeros(1, 1, 8, 8), lesion, torch.Generator())[1].boxes
        tensor([[[4., 2., 6., 4.]]])
    """
    if isinstance(transform, nn.Module) and type(transform).__module__.startswith("kornia."):
        change = _kornia(transform, visible)
    elif callable(transform) and len(inspect.signature(transform).parameters) == 2:
        change = transform
    else:
        raise TypeError(f"expected a kornia module, or a callable on (images, targets), got {transform!r}")

    def apply(images: Tensor, targets: Targets, generator: Generator) -> tuple[Tensor, Targets]:
        check_batch(images, targets)
        seed = int(torch.randint(2**31, (), generator=generator))
        with borrowed_generators(seed, images.device):
            images, targets = change(images, targets)
        return images.clamp(0, 1), targets

    return apply


def _kornia(module: nn.Module, visible: float) -> Callable[[Tensor, Targets], tuple[Tensor, Targets]]:
    from kornia.augmentation import AugmentationSequential

    parts: list[Any] = list(module.children()) if isinstance(module, AugmentationSequential) else [module]
    sequence = AugmentationSequential(*parts)

    def change(images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        inputs: dict[str, Tensor] = {"input": images}
        count = targets.labels.shape[1]
        boxes = targets.boxes if targets.crowds is None else torch.cat((targets.boxes, targets.crowds), 1)
        if boxes.shape[1]:
            inputs["bbox_xyxy"] = boxes - 0.5  # kornia's pixel centres lie at whole numbers
        if targets.masks is not None:
            inputs["mask"] = targets.masks.unsqueeze(1).to(images.dtype) + 1  # kornia pads with 0, which becomes -1
        outputs = sequence(*inputs.values(), data_keys=list(inputs))
        moved = dict(zip(inputs, outputs if len(inputs) > 1 else [outputs], strict=True))
        if "bbox_xyxy" in moved:
            size = (images.shape[-2], images.shape[-1])
            boxes = moved["bbox_xyxy"].as_subclass(Tensor) + 0.5
            targets = replace_boxes(targets, boxes[:, :count], size, visible=visible)
            if targets.crowds is not None:
                targets = replace(targets, crowds=clip(boxes[:, count:], size))
        if "mask" in moved:
            targets = replace(targets, masks=moved["mask"].squeeze(1).to(torch.int64) - 1)
        return moved["input"], targets

    return change
