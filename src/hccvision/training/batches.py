"""Operations on the batches of a training: cut, join, select images, move to a device."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from hccvision.data.dataset import Batch, Item, collate
from hccvision.training.single_images import batch_sizes


def cut(numbers: Sequence[int], batch: int, smallest: int = 1) -> list[Sequence[int]]:
    """Cut the numbers of an epoch into batches.

    Args:
        numbers: of the samples, in the order of the epoch.
        batch: size of a batch, at least 1; the last one may be smaller.
        smallest: a last batch of fewer images is joined to the batch before it.

    Returns:
        The numbers of each batch.

    Example:
        >>> cut([4, 1, 3, 0, 2], 2)
        [[4, 1], [3, 0], [2]]
    """
    sizes = batch_sizes(len(numbers), batch, smallest)
    return [numbers[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]


def join(items: Sequence[Item] | Batch) -> Batch | None:
    """Join what a data set returned for the numbers of a batch.

    Args:
        items: single samples, or the batch that a feature cache returns.

    Returns:
        The batch; None for an empty one, as a process without a share of a small batch gets.
    """
    if isinstance(items, Batch):
        return items if len(items.indices) else None
    return collate(items) if items else None


def move(batch: Batch, device: torch.device) -> Batch:
    """Move images or feature maps and targets to a device.

    Args:
        batch: of images or of feature maps.
        device: target device.

    Returns:
        The batch on that device; its indices stay on the CPU.
    """
    return Batch(_map(batch.images, lambda t: t.to(device)), batch.targets.to(device), batch.indices)


def take(batch: Batch, rows: Tensor) -> Batch:
    """Return some images of a batch.

    Args:
        batch: of images or of feature maps.
        rows: ``(M,) int64``, positions in the batch.

    Returns:
        A batch of M images.
    """
    return Batch(_map(batch.images, lambda t: t[rows]), batch.targets.take(rows), batch.indices[rows])


def chunks(batch: Batch, count: int) -> list[Batch]:
    """Cut a batch into parts of nearly equal size.

    Args:
        batch: at least one image.
        count: maximum number of parts; 1 returns the batch itself.

    Returns:
        The parts, in order; none is empty.
    """
    if count == 1:
        return [batch]
    return [take(batch, rows) for rows in torch.arange(len(batch.indices)).chunk(count)]


def _map(images: Any, change: Any) -> Any:
    """Change a tensor of images, or each of several feature maps."""
    return tuple(change(m) for m in images) if isinstance(images, tuple) else change(images)
