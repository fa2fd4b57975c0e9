"""Default boxes over an image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from hccvision.boxes.formats import cxcywh_to_xyxy
from hccvision.boxes.overlap import iou
from hccvision.contracts.samples import Annotation
from hccvision.plots.panels import check_image, outline_box, show_image
from hccvision.plots.style import GOOD_IOU, HIT, INK, MISS, TRUTH, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def default_boxes(
    image: np.ndarray,
    boxes: torch.Tensor,
    truth: Annotation | None = None,
    *,
    limit: int = 40,
) -> Figure:
    """Plot default boxes over an image: the best one for each ground-truth box, or else a sample of all shapes.

    With ground truth, the figure shows whether lesions of that size can be learnt: the best default box is drawn with
    its overlap, in one colour where it reaches an IoU of 0.5 and in another where it does not.

    Args:
        image: ``(H, W, C) uint8``; 3 channels are RGB, else the first channel is shown.
        boxes: ``(A, 4)`` default boxes as ``cx, cy, w, h``, as fractions of the image sides, from
            `hccvision.default_boxes.generate`.
        truth: boxes in pixels of the image; None: draw default boxes of every shape at the centre of the image.
        limit: largest number of boxes drawn without ground truth.

    Returns:
        The figure.

    Raises:
        ValueError: if the image is not ``(H, W, C) uint8``, or there are no default boxes.
        ImportError: if matplotlib is missing.

    Example:
        >>> from hccvision.default_boxes import generate
        >>> truth = Annotation(np.array([[10, 10, 30, 30], [60, 60, 130, 130]], np.float32), ("hcc", "hcc"))
        >>> figure = default_boxes(np.zeros((300, 300, 1), np.uint8), generate("ssd300_mobilenet"), truth)
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['IoU 0.11', 'IoU 0.69']
    """
    check_image(image)
    if len(boxes) == 0:
        raise ValueError(f"expected at least one default box, got boxes of shape {tuple(boxes.shape)}")
    height, width = image.shape[:2]
    aspect = float(np.clip(height / width, 0.6, 1.4))
    figure = new_figure(5.0, 5.0 * aspect + 0.4, "Default boxes")
    axes = figure.add_subplot(facecolor="black", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    show_image(axes, image, aspect)
    corners = cxcywh_to_xyxy(boxes.cpu()) * torch.tensor([width, height, width, height])
    if truth is None:
        distance = (boxes[:, :2].cpu() - 0.5).square().sum(1).sqrt()
        size = (boxes[:, 2:].cpu() * 1e4).round().long()
        shapes, member = size.unique(dim=0, return_inverse=True)
        nearest = [int(torch.where(member == i, distance, torch.inf).argmin()) for i in range(len(shapes))]
        step = math.ceil(len(nearest) / limit)
        for index in nearest[::step]:
            outline_box(axes, corners[index].tolist(), HIT, 0.8)
        axes.set_title(f"{len(boxes)} default boxes of {len(shapes)} shapes", loc="left", fontsize=8, color=INK)
        return figure
    overlaps = iou(torch.from_numpy(truth.boxes), corners)
    for box, (best, index) in zip(truth.boxes, zip(*overlaps.max(1), strict=True), strict=True):
        colour = HIT if best >= GOOD_IOU else MISS
        outline_box(axes, box.tolist(), TRUTH, 1.6)
        outline_box(axes, corners[int(index)].tolist(), colour, 1.2, "--")
        axes.text(box[0], box[1] - 0.01 * height, f"IoU {best:.2f}", color=colour, fontsize=7, va="bottom")
    reached = int((overlaps.amax(1) >= GOOD_IOU).sum()) if len(truth) else 0
    axes.set_title(
        f"{reached} of {len(truth)} truths (green) reach IoU {GOOD_IOU:g} with one of {len(boxes)} default boxes",
        loc="left",
        fontsize=8,
        color=INK,
    )
    return figure
