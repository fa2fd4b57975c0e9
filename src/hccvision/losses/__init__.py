"""Losses of classifiers, multi-label classifiers and detectors. Importing this registers them.

A registered loss returns the sums of its parts over the batch and the count to divide them by, a `Loss`. Functions
named after a formula, such as `cross_entropy`, return the mean as a scalar.
"""

from hccvision.losses.binary import (
    binary_cross_entropy,
    binary_cross_entropy_sums,
    binary_focal,
    binary_focal_sums,
)
from hccvision.losses.box_targets import BoxTargets
from hccvision.losses.classification import (
    cross_entropy,
    cross_entropy_sums,
    focal,
    focal_sums,
    image_weights,
)
from hccvision.losses.detection import (
    focal_giou_multibox_loss,
    focal_multibox_loss,
    giou_multibox_loss,
    multibox,
    multibox_loss,
)
from hccvision.losses.focusing import box_focal
from hccvision.losses.mining import HardNegatives, hard_negatives, mined_cross_entropy
from hccvision.losses.regression import MAX_OFFSET, giou_regression, smooth_l1_regression

__all__ = [
    "MAX_OFFSET", "BoxTargets", "HardNegatives", "binary_cross_entropy", "binary_cross_entropy_sums", "binary_focal",
    "binary_focal_sums", "box_focal", "cross_entropy", "cross_entropy_sums", "focal", "focal_giou_multibox_loss",
    "focal_multibox_loss", "focal_sums", "giou_multibox_loss", "giou_regression", "hard_negatives", "image_weights",
    "mined_cross_entropy", "multibox", "multibox_loss", "smooth_l1_regression",
]  # fmt: skip
