"""The preset ``"mri"``: variation between MR scans."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from hccvision.augment.affine import draw_affine, move_images
from hccvision.augment.batch import Augmentation, check_batch, match_device
from hccvision.augment.cropping import draw_crop
from hccvision.augment.ghosting import ghost
from hccvision.augment.intensity import adjust_intensity, shade
from hccvision.augment.noise import add_rician_noise
from hccvision.augment.targets import move_targets
from hccvision.contracts.batches import Targets
from hccvision.registry import AUGMENTATIONS


@dataclass(frozen=True)
class Crop:
    """Random crops of the preset `mri`, see `draw_crop`.

    Args:
        share: probability of a crop, in [0, 1].
        zoom: smallest and largest factor, at least 1.
    """

    share: float = 0.3
    zoom: tuple[float, float] = (1.0, 1.5)


@dataclass(frozen=True)
class ScanEffects:
    """How the preset `mri` varies the grey levels, for images in [0, 1].

    Args:
        bias: strength of the coil shading, see `shade`.
        gain: contrast is multiplied by a factor in ``1 ± gain``.
        offset: largest brightness shift, in either direction.
        gamma: the exponent of the grey levels lies in ``1 ± gamma``.
        noise: probability of Rician noise, in [0, 1].
        noise_std: standard deviation of the noise, see `add_rician_noise`.
        ghosting: probability of motion ghosts, in [0, 1].
        ghost_strength: smallest and largest strength of the ghosts, see `ghost`.
    """

    bias: float = 0.15
    gain: float = 0.2
    offset: float = 0.05
    gamma: float = 0.2
    noise: float = 0.3
    noise_std: float = 0.02
    ghosting: float = 0.1
    ghost_strength: tuple[float, float] = (0.2, 0.5)


@AUGMENTATIONS.register("mri")
def mri(
    *,
    flip: float = 0.0,
    rotation: float = 8.0,
    scale: tuple[float, float] = (0.9, 1.1),
    translation: float = 0.05,
    crop: Crop = Crop(),
    scan: ScanEffects = ScanEffects(),
    visible: float = 0.4,
    bound: str = "ellipse",
) -> Augmentation:
    """Build the MR augmentation: position, crops, coil shading, contrast, Rician noise and breathing ghosts.

    A flipped abdomen has its liver on the wrong side, so ``flip`` is 0 by default. Crop, flip, scale, rotation and
    shift are composed into one map: the image is resampled once.

    Args:
        flip: probability of a left-right flip.
        rotation: largest angle in degrees, in either direction.
        scale: smallest and largest factor.
        translation: largest shift as a fraction of the side, in either direction.
        crop: random crops, each of which keeps a lesion whole before it is rotated and shifted.
        scan: shading, contrast, noise and ghosts.
        visible: fraction of a box that must stay inside the image for the box to be kept.
        bound: bounding box of rotated boxes, see `move_boxes`.

    Returns:
        A callable on (images, targets, generator).

    Example:
        >>> import torch
        >>> images = torch.rand(2, 1, 32, 32)
        >>> lesion = torch.tensor([[8.0, 8.0, 16.0, 16.0]])
        >>> targets = Targets.pad([lesion, torch.zeros(0, 4)], [torch.zeros(1), torch.zeros(0)])
        >>> without_ghosts = mri(rotation=15.0, scan=ScanEffects(ghosting=0.0))
        >>> without_ghosts(images, targets, torch.Generator().manual_seed(0))[0].shape
        torch.Size([2, 1, 32, 32])
    """

    def apply(images: Tensor, targets: Targets, generator: Generator) -> tuple[Tensor, Targets]:
        check_batch(images, targets)
        size = (images.shape[-2], images.shape[-1])
        window = draw_crop(targets, size, generator, share=crop.share, zoom=crop.zoom)
        affine = draw_affine(
            len(images), size, generator, flip=flip, rotation=rotation, translation=translation, scale=scale
        )
        matrix = match_device(affine, window) @ window
        images = move_images(images, matrix)
        images = shade(images, generator, strength=scan.bias)
        images = adjust_intensity(images, generator, gain=scan.gain, offset=scan.offset, gamma=scan.gamma)
        images = ghost(images, generator, share=scan.ghosting, strength=scan.ghost_strength)
        images = add_rician_noise(images, generator, share=scan.noise, std=scan.noise_std)
        return images, move_targets(targets, matrix, size, visible=visible, bound=bound)

    return apply
