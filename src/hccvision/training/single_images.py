"""Parts of a batch that hold one image only, which some batch norms can't be trained on."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from hccvision.model.model import Model
from hccvision.recipes import Recipe
from hccvision.training.optimisers import frozen_epochs


def smallest_batch(model: Model, recipe: Recipe, images: int, processes: int) -> int:
    """Return how many images a batch needs at least; a smaller last one is joined to the batch before it.

    In training, a batch norm needs more than one value per channel: on a map of 1×1 pixels more than one image.

    Args:
        model: to be trained.
        recipe: of the training.
        images: of an epoch.
        processes: number of processes that share a batch.

    Returns:
        1, or 2 for a model with such a batch norm.

    Raises:
        ValueError: if such a batch norm would meet a single image all the same.
    """
    if min(_parts(recipe, batch_sizes(images, recipe.batch), processes), default=2) > 1:
        return 1
    norm = _norm_of_one_value(model, recipe)
    if norm is None:
        return 1
    if min(_parts(recipe, batch_sizes(images, recipe.batch, 2), processes)) > 1:
        return 2
    shared = f" in {recipe.accumulate} parts" * (recipe.accumulate > 1) + f" on {processes} processes" * (processes > 1)
    raise ValueError(
        f"the batch norm {norm!r} of this model normalises maps of 1×1 pixels and can't be trained on a single image, "
        f"and {images} images in batches of {recipe.batch}{shared} come to that: choose another batch in the recipe, "
        "freeze that part, or build the model with a larger image_size"
    )


def batch_sizes(images: int, batch: int, smallest: int = 1) -> list[int]:
    """Return the number of images in each batch of an epoch.

    Args:
        images: of the epoch.
        batch: size of a batch, at least 1.
        smallest: a last batch of fewer images is joined to the batch before it.

    Returns:
        The sizes, in order.

    Example:
        >>> batch_sizes(7, 3), batch_sizes(7, 3, 2)
        ([3, 3, 1], [3, 4])
    """
    sizes = [batch] * (images // batch) + [images % batch] * (images % batch > 0)
    if len(sizes) > 1 and sizes[-1] < smallest:
        sizes[-2:] = [sizes[-2] + sizes[-1]]
    return sizes


def _parts(recipe: Recipe, sizes: Iterable[int], processes: int) -> set[int]:
    """Return how many images pass through the network at a time, in any process."""
    found: set[int] = set()
    for size in set(sizes):
        for share in {size // processes, -(-size // processes)} - {0}:
            found |= {len(part) for part in torch.arange(share).chunk(recipe.accumulate)}
    return found


def _norm_of_one_value(model: Model, recipe: Recipe) -> str | None:
    """Return the name of a batch norm that is trained and sees one value per channel and image, or None."""
    frozen = frozen_epochs(model, recipe)
    seen: dict[str, int] = {}

    def record(name: str) -> Any:
        return lambda _, inputs: seen.__setitem__(name, math.prod(inputs[0].shape[2:]))

    trial = _structure(model).eval()
    for name, module in trial.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and frozen.get(name, 0.0) < math.inf:
            module.register_forward_pre_hook(record(name))
    device = next(model.parameters()).device
    with torch.inference_mode():
        trial(torch.zeros(1, model.in_channels, *model.image_size, device=device))
    return next((name for name, values in seen.items() if values == 1), None)


def _structure(model: Model) -> Model:
    """Return a copy of a model that shares its tensors, without the hooks that others have set on it."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, dict(shared))
    for module in copied.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        vars(module).pop("forward", None)
    return copied
