"""Figures with matplotlib: training curves, confusion matrices, detections and masks beside the ground truth.

Every function returns its own `matplotlib.figure.Figure`: no pyplot, no global state, no display needed.
"""

from hccvision.plots.augmentation_gallery import gallery
from hccvision.plots.confusion import confusion_matrix
from hccvision.plots.curves import training_curves
from hccvision.plots.default_box_overlay import default_boxes
from hccvision.plots.detection_panels import detections
from hccvision.plots.mask_panels import masks
from hccvision.plots.saving import save
from hccvision.plots.style import HIT, MISS, TRUTH

__all__ = [
    "HIT", "MISS", "TRUTH", "confusion_matrix", "default_boxes", "detections", "gallery", "masks", "save",
    "training_curves",
]  # fmt: skip
