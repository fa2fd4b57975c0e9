"""The matcher of SSD: by IoU threshold, and one default box of its own for every truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hccvision.boxes.overlap import area
from hccvision.contracts.outputs import SSDOutput
from hccvision.matchers.assignment import Match
from hccvision.registry import MATCHERS


@MATCHERS.register("bipartite")
@dataclass
class BipartiteMatcher:
    """Match every default box that overlaps a truth enough, and one default box of its own with every truth.

    Args:
        iou_threshold: IoU from which a default box is matched with its best truth, in [0, 1].

    Example:
        >>> grid = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]])
        >>> truths = torch.tensor([[[0.0, 0.0, 0.4, 1.0]]])
        >>> BipartiteMatcher()(grid, truths, torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)).truth
        tensor([[ 0, -1]])

    Source:
        Liu et al. 2016, SSD, section 2.2, "Matching strategy".
    """

    iou_threshold: float = 0.5

    def __call__(
        self,
        default_boxes: Tensor,
        truths: Tensor,
        labels: Tensor,
        valid: Tensor,
        *,
        output: SSDOutput | None = None,
        levels: Sequence[int] | None = None,
    ) -> Match:
        """Match the ground truth of a batch, see `match`; labels, output and levels are ignored."""
        return match(default_boxes, truths, valid, iou_threshold=self.iou_threshold)


def match(default_boxes: Tensor, boxes: Tensor, valid: Tensor, *, iou_threshold: float = 0.5) -> Match:
    """Match each truth with a default box of its own, then each default box with a truth that it overlaps enough.

    The first step is greedy by IoU over all pairs, so that no truth is lost when two share their best default box. In
    an image without truths, all default boxes are background.

    Args:
        default_boxes: ``(A, 4)`` as ``cx, cy, w, h``.
        boxes: ``(B, N, 4)`` ground truth, xyxy in the unit of the default boxes, padded.
        valid: ``(B, N) bool``, False for padding.
        iou_threshold: IoU from which a default box is matched with its best truth, in [0, 1].

    Returns:
        The match, without weights.

    Raises:
        ValueError: if an image has more truths than there are default boxes.

    Example:
        >>> grid = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]])
        >>> both = torch.tensor([[[0.0, 0.0, 0.4, 1.0], [0.1, 0.0, 0.5, 1.0]]])   # the left box is best for both
        >>> match(grid, both, torch.ones(1, 2, dtype=torch.bool)).truth
        tensor([[0, 1]])

    Source:
        Liu et al. 2016, SSD, section 2.2, "Matching strategy"; greedy pairs as in its Caffe code.
    """
    batch, n, a = *boxes.shape[:2], len(default_boxes)
    if n == 0:
        return Match(torch.full((batch, a), -1, device=boxes.device), boxes.new_zeros(batch, a))
    if n > a and int(valid.sum(1).max()) > a:
        raise ValueError(f"an image has {int(valid.sum(1).max())} truths, but there are only {a} default boxes")
    overlaps = _overlaps(boxes, default_boxes)  # (B, N, A)
    image, number = valid.nonzero(as_tuple=True)  # (W,), truths that have no default box yet
    if len(image) < batch * n:
        overlaps[~valid] = -1.0
    best = overlaps.amax(1)  # (B, A)
    truth = torch.full(best.shape, -1, device=best.device)
    positive = (best >= iou_threshold).nonzero(as_tuple=True)  # few: only for these the best truth is looked up
    truth[positive] = overlaps[positive[0], :, positive[1]].argmax(1)
    best.clamp_(min=0)

    # Pairs are found in rounds: all those that are the best remaining pair of both their truth and their default box.
    # No better pair can break them up, so the result equals the greedy pairs, mostly after a round or two.
    box = overlaps.argmax(2)[image, number]  # (W,), best default box of each truth, the first of equal ones
    while len(image):
        won = overlaps[image, :, box].argmax(1) == number  # this truth is the best of the box, the first of equal ones
        pair = won.nonzero().squeeze(1)
        i, k, b = image[pair], number[pair], box[pair]
        truth[i, b] = k
        best[i, b] = overlaps[i, k, b]
        if len(pair) == len(image):
            break
        overlaps[i, k] = overlaps[i, :, b] = -1.0
        rest = (~won).nonzero().squeeze(1)
        image, number = image[rest], number[rest]
        box = overlaps[image, number].argmax(1)
    return Match(truth, best)


def _overlaps(boxes: Tensor, default_boxes: Tensor, piece: int = 2**18) -> Tensor:
    """Compute the IoU of truths ``(B, N, 4)`` with default boxes: ``(B, N, A)``, as `boxes.iou` does.

    Computed in place on whole coordinates, a few images at a time, so that on a CPU it stays in the cache of a core.
    """
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    cx, cy, w, h = default_boxes.to(boxes.dtype).unbind(-1)
    w, h = w * 0.5, h * 0.5
    u1, v1, u2, v2 = cx - w, cy - h, cx + w, cy + h  # each (A,)
    areas = ((u2 - u1) * (v2 - v1)).clamp_(min=torch.finfo(boxes.dtype).tiny)  # no union is 0
    result = boxes.new_empty(*boxes.shape[:2], len(areas))
    images = max(1, piece // result[0].numel()) if boxes.is_cpu else len(boxes)
    for shared, some in zip(result.split(images), boxes.split(images), strict=True):
        x1, y1, x2, y2 = some.unsqueeze(-1).unbind(-2)  # each (b, N, 1)
        other = torch.maximum(x1, u1)
        torch.minimum(x2, u2, out=shared).sub_(other).clamp_(min=0)  # the width
        torch.maximum(y1, v1, out=other)
        shared.mul_(torch.minimum(y2, v2).sub_(other).clamp_(min=0))
        union = torch.add(area(some).unsqueeze(-1), areas, out=other).sub_(shared)
        shared.div_(union)
    return result
