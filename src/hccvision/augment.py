"""Augmentation on the batch's own device: one draw moves images and boxes together. Presets over kornia."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Generator, Tensor

from hccvision import boxes as box_functions
from hccvision.contracts import Targets
from hccvision.registry import AUGMENTATIONS

Augmentation = Callable[[Tensor, Targets, Generator], tuple[Tensor, Targets]]


def draw_affine(
    batch: int,
    size: tuple[int, int],
    generator: Generator,
    *,
    flip: float = 0.0,
    rotation: float = 0.0,
    translation: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """Draw one affine map per image: mirror, scale and rotate about the centre, then shift.

    Args:
        batch: number of images, B.
        size: ``(height, width)`` in pixels.
        generator: on the CPU; the draw is the same on every device.
        flip: probability of a left-right mirror image, in [0, 1].
        rotation: largest angle in degrees, drawn evenly from both sides.
        translation: largest shift as a share of each side.
        scale: smallest and largest factor.

    Returns:
        ``(B, 3, 3) float32``, from pixels of the input to pixels of the output, where pixel centres lie at 0.5.

    Example:
        >>> draw_affine(1, (10, 20), torch.Generator(), flip=1.0)[0, 0] @ torch.tensor([3.0, 5.0, 1.0])
        tensor(17.)
    """
    height, width = size
    u = torch.rand(batch, 5, generator=generator)
    mirror = torch.where(u[:, 0] < flip, -1.0, 1.0)
    angle = (u[:, 1] * 2 - 1) * math.radians(rotation)
    zoom = scale[0] + u[:, 2] * (scale[1] - scale[0])
    shift = (u[:, 3:] * 2 - 1) * translation * torch.tensor([width, height])
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    centre = torch.tensor([width / 2, height / 2])
    linear = torch.stack((torch.stack((cos * mirror, -sin), -1), torch.stack((sin * mirror, cos), -1)), -2)
    matrix = torch.eye(3).repeat(batch, 1, 1)
    matrix[:, :2, :2] = linear
    matrix[:, :2, 2] = centre + shift - (linear @ centre)
    return matrix


def move_images(images: Tensor, matrix: Tensor) -> Tensor:
    """Warp each image by its map, bilinearly; what comes from outside is black.

    Args:
        images: ``(B, C, H, W) float`` in [0, 1].
        matrix: ``(B, 3, 3)`` from `draw_affine`.

    Returns:
        ``(B, C, H, W)`` in [0, 1].
    """
    from kornia.geometry.transform import warp_affine

    half = torch.eye(3, device=matrix.device)
    half[:2, 2] = 0.5
    centred = torch.linalg.inv(half) @ matrix @ half  # kornia's pixel centres lie at 0
    size = (images.shape[-2], images.shape[-1])
    moved = warp_affine(images, centred[:, :2].to(images), size, align_corners=True)
    return moved.clamp(0, 1)  # the four weights of a pixel sum to a little more than 1 here and there


def move_boxes(targets: Targets, matrix: Tensor, size: tuple[int, int], *, visible: float = 0.4) -> Targets:
    """Move boxes by their image's map, cut them off at the borders, and drop what is hardly visible any more.

    A lesion is round rather than square, so a rotated box is bounded by its inscribed ellipse, not by its corners,
    which would grow it by up to 40 %.

    Args:
        targets: in pixels of the images.
        matrix: ``(B, 3, 3)`` from `draw_affine`.
        size: ``(height, width)`` of the images in pixels.
        visible: a box keeps its label if at least this share of its area stays inside, in [0, 1].

    Returns:
        New targets; dropped boxes are padding (label −1).

    Example:
        >>> t = Targets(torch.tensor([[[0.0, 0.0, 4.0, 4.0]]]), torch.tensor([[0]]))
        >>> mirror = torch.tensor([[[-1.0, 0.0, 20.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
        >>> move_boxes(t, mirror, (10, 20)).boxes
        tensor([[[16.,  0., 20.,  4.]]])
    """
    cx, cy, w, h = box_functions.xyxy_to_cxcywh(targets.boxes).unbind(-1)
    m = matrix.to(targets.boxes).unsqueeze(1)
    x = m[..., 0, 0] * cx + m[..., 0, 1] * cy + m[..., 0, 2]
    y = m[..., 1, 0] * cx + m[..., 1, 1] * cy + m[..., 1, 2]
    width = ((m[..., 0, 0] * w) ** 2 + (m[..., 0, 1] * h) ** 2).sqrt()
    height = ((m[..., 1, 0] * w) ** 2 + (m[..., 1, 1] * h) ** 2).sqrt()
    whole = box_functions.cxcywh_to_xyxy(torch.stack((x, y, width, height), -1))
    inside = box_functions.clip(whole, size)
    area = box_functions.area(inside)
    keep = targets.valid & (area > 0) & (area >= visible * box_functions.area(whole))
    return replace(
        targets,
        boxes=torch.where(keep.unsqueeze(-1), inside, 0.0),
        labels=torch.where(keep, targets.labels, -1),
    )


def add_noise(images: Tensor, generator: Generator, *, share: float, std: float) -> Tensor:
    """Add Gaussian noise to a share of the images.

    Args:
        images: ``(B, C, H, W) float`` in [0, 1].
        generator: on the CPU.
        share: probability for each image, in [0, 1].
        std: standard deviation, on the scale of the images.

    Returns:
        ``(B, C, H, W)`` in [0, 1].
    """
    chosen = (torch.rand(len(images), generator=generator) < share).nonzero().squeeze(1).to(images.device)
    if not len(chosen):
        return images
    from kornia.augmentation import RandomGaussianNoise

    noisy = _seeded(RandomGaussianNoise(std=std, p=1.0), images[chosen], generator)
    return images.index_copy(0, chosen, noisy.clamp(0, 1))


def blur(images: Tensor, generator: Generator, *, share: float, sigma: tuple[float, float]) -> Tensor:
    """Blur a share of the images.

    Args:
        images: ``(B, C, H, W) float`` in [0, 1].
        generator: on the CPU.
        share: probability for each image, in [0, 1].
        sigma: smallest and largest standard deviation of the Gaussian, in pixels.

    Returns:
        ``(B, C, H, W)`` in [0, 1].
    """
    chosen = (torch.rand(len(images), generator=generator) < share).nonzero().squeeze(1).to(images.device)
    if not len(chosen):
        return images
    from kornia.augmentation import RandomGaussianBlur

    size = 2 * math.ceil(3 * sigma[1]) + 1
    blurred = _seeded(RandomGaussianBlur((size, size), sigma, p=1.0), images[chosen], generator)
    return images.index_copy(0, chosen, blurred.clamp(0, 1))


def adjust_intensity(
    images: Tensor, generator: Generator, *, gain: float = 0.0, offset: float = 0.0, gamma: float = 0.0
) -> Tensor:
    """Change brightness and contrast of each image a little.

    Args:
        images: ``(B, C, H, W) float`` in [0, 1].
        generator: on the CPU.
        gain: contrast is multiplied by a factor in ``1 ± gain``, about mid-grey.
        offset: brightness is shifted by up to so much.
        gamma: the exponent lies in ``1 ± gamma``.

    Returns:
        ``(B, C, H, W)`` in [0, 1].
    """
    u = (torch.rand(3, len(images), 1, 1, 1, generator=generator) * 2 - 1).to(images)
    images = (images - 0.5) * (1 + gain * u[0]) + 0.5 + offset * u[1]
    return images.clamp(0, 1) ** (1 + gamma * u[2]) if gamma else images.clamp(0, 1)


def _seeded(module: Callable[[Tensor], Tensor], images: Tensor, generator: Generator) -> Tensor:
    """Run a kornia module, which draws from torch's global generator, by our own generator."""
    seed = int(torch.randint(2**31, (), generator=generator))
    devices = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        return module(images)


def _check(images: Tensor, targets: Targets) -> None:
    if images.dim() != 4 or not images.is_floating_point():
        raise TypeError(
            f"augmentation takes images (B, C, H, W) float in [0, 1], got {tuple(images.shape)} {images.dtype}"
        )
    if len(images) != len(targets) or images.device != targets.boxes.device:
        raise ValueError(
            f"{len(images)} images on {images.device} need as many targets there, got {len(targets)} on "
            f"{targets.boxes.device}"
        )


@AUGMENTATIONS.register("none")
def none() -> Augmentation:
    """Give the augmentation that changes nothing.

    Returns:
        A callable on (images, targets, generator).

    Example:
        >>> images = torch.zeros(1, 3, 8, 8)
        >>> none()(images, Targets.pad([torch.zeros(0, 4)], [torch.zeros(0)]), torch.Generator())[0] is images
        True
    """

    def apply(images: Tensor, targets: Targets, generator: Generator) -> tuple[Tensor, Targets]:
        _check(images, targets)
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
) -> Augmentation:
    """Give the paper's augmentation: flip 0.3, rotation 25°, noise 0.5, blur 0.1, and translation.

    The paper doesn't say whether 0.3, 0.5 and 0.1 are probabilities or strengths; they are probabilities here, and
    the strengths (noise of standard deviation 0.02, blur of 0.5 to 1.5 pixels, shifts of up to 10 %) are ours.

    Args:
        flip: probability of a left-right mirror image.
        rotation: largest angle in degrees, either way.
        translation: largest shift as a share of the side, either way.
        noise: probability of Gaussian noise.
        noise_std: its standard deviation, for images in [0, 1].
        blurred: probability of Gaussian blur.
        visible: share of a box that must stay inside the image for its label to be kept.

    Returns:
        A callable on (images, targets, generator).

    Example:
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
        _check(images, targets)
        size = (images.shape[-2], images.shape[-1])
        matrix = draw_affine(len(images), size, generator, flip=flip, rotation=rotation, translation=translation).to(
            images.device
        )
        images = move_images(images, matrix)
        images = add_noise(images, generator, share=noise, std=noise_std)
        images = blur(images, generator, share=blurred, sigma=(0.5, 1.5))
        return images, move_boxes(targets, matrix, size, visible=visible)

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
) -> Augmentation:
    """Give a mild augmentation: mirror image, a little scale and shift, brightness and contrast; no rotation.

    Args:
        flip: probability of a left-right mirror image.
        scale: smallest and largest factor.
        translation: largest shift as a share of the side, either way.
        gain: contrast changes by up to this share.
        offset: brightness shifts by up to so much, for images in [0, 1].
        visible: share of a box that must stay inside the image for its label to be kept.

    Returns:
        A callable on (images, targets, generator).

    Example:
        >>> images = torch.rand(1, 1, 32, 32)
        >>> light()(images, Targets.pad([torch.zeros(0, 4)], [torch.zeros(0)]), torch.Generator())[0].shape
        torch.Size([1, 1, 32, 32])
    """

    def apply(images: Tensor, targets: Targets, generator: Generator) -> tuple[Tensor, Targets]:
        _check(images, targets)
        size = (images.shape[-2], images.shape[-1])
        matrix = draw_affine(len(images), size, generator, flip=flip, scale=scale, translation=translation).to(
            images.device
        )
        images = move_images(adjust_intensity(images, generator, gain=gain, offset=offset), matrix)
        return images, move_boxes(targets, matrix, size, visible=visible)

    return apply
