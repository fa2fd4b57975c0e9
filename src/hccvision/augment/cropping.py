"""Random crops that keep a lesion whole."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from hccvision.augment.batch import match_device
from hccvision.contracts.batches import Targets


def draw_crop(
    targets: Targets, size: tuple[int, int], generator: Generator, *, share: float, zoom: tuple[float, float]
) -> Tensor:
    """Draw a window of each image, enlarged to fill it, that contains one of its lesions whole where one fits.

    Args:
        targets: in pixels of the images.
        size: ``(height, width)`` in pixels.
        generator: on the CPU.
        share: probability for each image, in [0, 1]; the others stay whole.
        zoom: smallest and largest factor, at least 1.

    Returns:
        ``(B, 3, 3) float32``, as of `draw_affine`, on the targets' device.

    Raises:
        ValueError: for a zoom below 1, or a smallest factor above the largest.

    Example:
        >>> none = Targets.pad([torch.zeros(0, 4)], [torch.zeros(0)])
        >>> draw_crop(none, (10, 20), torch.Generator(), share=1.0, zoom=(2.0, 2.0))[0, :2, :2]
        tensor([[2., 0.],
                [0., 2.]])
    """
    if not 1 <= zoom[0] <= zoom[1]:
        raise ValueError(f"expected zoom factors of at least 1, the smaller one first, got {zoom}")
    boxes, count = targets.boxes, len(targets)
    u = torch.rand(count, 4, generator=generator)
    factor = match_device(torch.where(u[:, 0] < share, zoom[0] + u[:, 1] * (zoom[1] - zoom[0]), 1.0), boxes)
    whole = match_device(torch.tensor([size[1], size[0]], dtype=torch.float32), boxes)
    window = whole / factor.unsqueeze(1)
    least, most = torch.zeros_like(window), whole - window  # range of the window's top left corner
    if targets.labels.shape[1]:
        order = match_device(torch.rand(count, targets.labels.shape[1], generator=generator), boxes)
        lesion = order.masked_fill(~targets.valid, -1).argmax(1, keepdim=True)
        box = boxes.gather(1, lesion.unsqueeze(-1).expand(-1, -1, 4))[:, 0]
        low, high = torch.maximum(box[:, 2:] - window, least), torch.minimum(box[:, :2], most)
        fits = (targets.valid.any(1, keepdim=True) & (low <= high)).all(1, keepdim=True)
        least, most = torch.where(fits, low, least), torch.where(fits, high, most)
    corner = least + match_device(u[:, 2:], boxes) * (most - least)
    matrix = torch.eye(3, device=boxes.device).repeat(count, 1, 1)
    matrix[:, 0, 0] = matrix[:, 1, 1] = factor
    matrix[:, :2, 2] = -corner * factor.unsqueeze(1)
    return matrix
