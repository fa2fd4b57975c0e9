"""Figures of a detector from its predictions and truths, by one function each; plain numpy.

Everywhere ``predictions`` holds one dictionary per image with ``boxes (N, 4)``, ``scores (N,)`` and ``labels (N,)``, or
`hv.Detections`; ``truths`` holds one dictionary with ``boxes (M, 4)``, ``labels (M,)`` and, optionally,
``difficult (M,)``, ``crowd (M,)`` and ``size``, the image's ``(height, width)``: tensors or arrays, boxes xyxy in
pixels, labels ``0 ... K-1``. An image without lesions has no rows, and counts as an image.

These functions build a `Comparison` and compute the metric of the same name; to compute several, build it once.
Undefined figures, such as the average precision without truths, are nan with a reason, see `Figure`; `coco_map` keeps
pycocotools' −1.
"""

from hccvision.metrics.average_precision import average_precision
from hccvision.metrics.coco import COCO_THRESHOLDS, coco_map
from hccvision.metrics.coco_summary import coco_summary
from hccvision.metrics.counts import detection_counts
from hccvision.metrics.froc import FROC_RATES, froc
from hccvision.metrics.matching import match
from hccvision.metrics.sizes import sensitivity_by_size
from hccvision.metrics.voc import voc07_map, voc_ap, voc_map

__all__ = [
    "COCO_THRESHOLDS",
    "FROC_RATES",
    "average_precision",
    "coco_map",
    "coco_summary",
    "detection_counts",
    "froc",
    "match",
    "sensitivity_by_size",
    "voc07_map",
    "voc_ap",
    "voc_map",
]
