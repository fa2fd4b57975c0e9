"""The presets ``"none"``, ``"paper"`` and ``"light"``."""

from __future__ import annotations

from torch import Generator, Tensor

from hccvision.augment.affine import draw_affine, move_images
from hccvision.augment.batch import Augmentation, check_batch
from hccvision.augment.intensity import adjust_intensity, blur
from hccvision.augment.noise import add_noise
from hccvision.augment.targets import move_targets
from hccvision.contracts.batches import Targets
from hccvision.registry import AUGMENTATIONS


@AUGMENTATIONS.register("none", random=False)
def none() -> Augmentation:
    """Build the augmentation that changes nothing.

    Returns:
        A callable on (images, targets, generator).

    Example:
        >>> import torch
        >>> images = torch.zeros(1, 3, 8, 8)
        >>> none()(images, Targets.pad([torch.zeros(0, 4)], [torch.zeros(0)]), torch.Generator())[0] is images
        True
    """

    def apply(images: Tensor, targets: Targets, generator: Generator) -> tuple[Tensor, Targets]:
        check_batch(images, targets)
        return images, targets

    return apply


@AUGMENTATIONS.register("paper")
def paper(
    *,
    flip: float = 0.3,
    rotation: float = 25.0,
    translation: float = 0.1,
    noise: float = 0.5,
    noise_std: float = 0.02,
    blurred: float = 0.1,
    visible: float = 0.4,
    bound: str = "ellipse",
) -> Augmentation:
    """Build the paper's augmentation: flip 0.3, rotation 25°, noise 0.5, blur 0.1, and translation.

    The paper does not say whether 0.3, 0.5 and 0.1 are probabilities or strengths; they are probabilities here. The
    strengths (noise of standard deviation 0.02, blur of 0.5 to 1.5 pixels, shifts of up to 10 %) are our choice.

    Args:
        flip: probability of a left-right flip.
        rotation: largest angle in degrees, in either direction.
        translation: largest shift as a fraction of the side, in either direction.
        noise: probability of Gaussian noise.
        noise_std: standard deviation of the noise, for images in [0, 1].
        blurred: probability of Gaussian blur.
        visible: fraction of a box that must stay inside the image for the box to be kept.
        bound: bounding box of rotated boxes, see `hccvision.augment.move_boxes`.

    Returns:
        A callable on (images, targets, generator).

    Example:
        >>> import torch
        >>> images = torch.rand(2, 3, 32, 32)
        >>> lesion = torch.tensor([[8.0, 8.0, 16.0, 16.0]])
        >>> targets = Targets.pad([lesion, torch.zeros(0, 4)], [torch.zeros(1), torch.zeros(0)])
        >>> moved, boxes = paper()(images, targets, torch.Generator().manual_seed(0))
        >>> moved.shape, boxes.labels.tolist()
        (torch.Size([2, 3, 32, 32]), [[0], [-1]])

    Source:
        Mizouri 2026, table 2 and section 2.2.
    """

    def apply(images: Tensor, targets: Targets, generator: Generator) -> tuple[Tensor, Targets]:
        check_batch(images, targets)
        size = (images.shape[-2], images.shape[-1])
        matrix = draw_affine(len(images), size, generator, flip=flip, rotation=rotation, translation=translation)
        images = move_images(images, matrix)
        images = add_noise(images, generator, share=noise, std=noise_std, inplace=True)
        images = blur(images, generator, share=blurred, sigma=(0.5, 1.5), inplace=True)
        return images, move_targets(targets, matrix, size, visible=visible, bound=bound)

    return apply


@AUGMENTATIONS.register("light")
def light(
    *,
    flip: float = 0.5,
    scale: tuple[float, float] = (0.85, 1.2),
    translation: float = 0.1,
    gain: float = 0.25,
    offset: float = 0.12,
    visible: float = 0.4,
    bound: str = "ellipse",
) -> Augmentation:
    """Build a mild augmentation: flip, a little scale and shift, brightness and contrast; no rotation.

    Args:
        flip: probability of a left-right flip.
        scale: smallest and largest factor.
        translation: largest shift as a fraction of the side, in either direction.
        gain: contrast is multiplied by a factor in ``1 ± gain``.
        offset: largest brightness shift, in either direction, for images in [0, 1].
        visible: fraction of a box that must stay inside the image for the box to be kept.
        bound: bounding box of rotated boxes, see `hccvision.augment.move_boxes`.

    Returns:
        A callable on (images, targets, generator).

    Example:
        >>> import torch
        >>> images = torch.rand(1, 1, 32, 32)
        >>> light()(images, Targets.pad([torch.zeros(0, 4)], [torch.zeros(0)]), torch.Generator())[0].shape
        torch.Size([1, 1, 32, 32])
    """

    def apply(images: Tensor, targets: Targets, generator: Generator) -> tuple[Tensor, Targets]:
        check_batch(images, targets)
        size = (images.shape[-2], images.shape[-1])
        matrix = draw_affine(len(images), size, generator, flip=flip, scale=scale, translation=translation)
        images = move_images(adjust_intensity(images, generator, gain=gain, offset=offset), matrix)
        return images, move_targets(targets, matrix, size, visible=visible, bound=bound)

    return apply
