"""Several draws of an augmentation on one slice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from hccvision.contracts.batches import Targets
from hccvision.plots.panels import check_image, outline_box, show_image
from hccvision.plots.style import INK, TRUTH, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def gallery(
    image: np.ndarray,
    boxes: np.ndarray,
    augment: Callable[[torch.Tensor, Targets, torch.Generator], tuple[torch.Tensor, Targets]],
    *,
    count: int = 6,
    columns: int = 6,
    seed: int = 0,
    title: str = "",
) -> Figure:
    """Plot several draws of an augmentation, applied to one slice and its boxes.

    Args:
        image: ``(H, W, C) uint8``; 3 channels are RGB, else the first channel is shown.
        boxes: ``(N, 4)`` xyxy in pixels of the image.
        augment: the augmentation, such as ``AUGMENTATIONS.build("mri")``.
        count: number of draws.
        columns: largest number of panels side by side.
        seed: of the draws.
        title: of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: if the image is not ``(H, W, C) uint8``, or ``count`` or ``columns`` is below 1.
        ImportError: if matplotlib is missing.

    Example:
        >>> boxes = np.array([[10, 10, 20, 20]], np.float32)
        >>> figure = gallery(np.zeros((30, 40, 1), np.uint8), boxes, lambda images, targets, _: (images, targets))
        >>> len(figure.axes)
        6
    """
    check_image(image)
    if count < 1 or columns < 1:
        raise ValueError(f"expected count and columns of at least 1, got {count} and {columns}")
    batch = (torch.from_numpy(image).permute(2, 0, 1).float() / 255).repeat(count, 1, 1, 1)
    own = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    targets = Targets.pad([own] * count, [torch.zeros(len(own))] * count)
    moved, found = augment(batch, targets, torch.Generator().manual_seed(seed))
    columns = min(columns, count)
    rows = -(-count // columns)
    aspect = float(np.clip(image.shape[0] / image.shape[1], 0.6, 1.4))
    figure = new_figure(1.7 * columns, 1.7 * rows * aspect + 0.3 * bool(title), title or "Augmentation")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=9, color=INK)
    for i in range(count):
        axes = figure.add_subplot(rows, columns, i + 1, facecolor="black", xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        show_image(axes, (moved[i] * 255).round().byte().permute(1, 2, 0).numpy(), aspect)
        for box in found.boxes[i][found.labels[i] >= 0].tolist():
            outline_box(axes, box, TRUTH, 1.0)
    return figure
