"""Boxes: formats, areas and overlaps, clipping, and non-maximum suppression. Pure functions without state.

All functions accept any leading axes, keep the dtype and device, and return empty results of the right shape for empty
input. Areas and overlaps of half-precision boxes are computed in float32, because an image can have more pixels than
float16 can count. Overlaps and their gradients are finite, also for boxes without area: 0 / 0 counts as 0.
"""

from hccvision.boxes.borders import clip
from hccvision.boxes.formats import cxcywh_to_xyxy, xywh_to_xyxy, xyxy_to_cxcywh, xyxy_to_xywh
from hccvision.boxes.overlap import area, ciou, diou, giou, iou
from hccvision.boxes.suppression import batched_nms, nms, soft_nms

__all__ = [
    "area", "batched_nms", "ciou", "clip", "cxcywh_to_xyxy", "diou", "giou", "iou", "nms", "soft_nms", "xywh_to_xyxy",
    "xyxy_to_cxcywh", "xyxy_to_xywh",
]  # fmt: skip
