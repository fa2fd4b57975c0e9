"""Augmentation on the batch's own device: one draw moves images, boxes and masks together."""

from hccvision.augment.adapter import adapt
from hccvision.augment.affine import draw_affine, move_images
from hccvision.augment.batch import Augmentation
from hccvision.augment.cropping import draw_crop
from hccvision.augment.ghosting import ghost
from hccvision.augment.intensity import adjust_intensity, blur, shade
from hccvision.augment.mr_scan import Crop, ScanEffects, mri
from hccvision.augment.noise import POOL, add_noise, add_rician_noise
from hccvision.augment.presets import light, none, paper
from hccvision.augment.targets import BOUNDS, move_boxes, move_masks, move_targets

__all__ = [
    "BOUNDS", "POOL", "Augmentation", "Crop", "ScanEffects", "adapt", "add_noise", "add_rician_noise",
    "adjust_intensity", "blur", "draw_affine", "draw_crop", "ghost", "light", "move_boxes", "move_images",
    "move_masks", "move_targets", "mri", "none", "paper", "shade",
]  # fmt: skip
