"""Augmentation on the batch's own device: one draw moves images and boxes together. Presets over kornia."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, interpolate

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
    height, width = images.shape[-2:]
    shares = torch.tensor([[2 / width, 0, -1], [0, 2 / height, -1], [0, 0, 1]])  # of pixels, in [-1, 1] over the image
    pixels = torch.tensor([[width / 2, 0, width / 2], [0, height / 2, height / 2], [0, 0, 1]])
    back = _send(shares, matrix) @ torch.linalg.inv_ex(matrix).inverse @ _send(pixels, matrix)
    grid = affine_grid(_send(back[:, :2], images), list(images.shape), align_corners=False)
    moved = grid_sample(images, grid, align_corners=False)
    return moved.clamp_(0, 1)  # the four weights of a pixel sum to a little more than 1 here and there


BOUNDS = ("ellipse", "corners")


def move_boxes(
    targets: Targets, matrix: Tensor, size: tuple[int, int], *, visible: float = 0.4, bound: str = "ellipse"
) -> Targets:
    """Move boxes by their image's map, cut them off at the borders, and drop what is hardly visible any more.

    Args:
        targets: in pixels of the images.
        matrix: ``(B, 3, 3)`` from `draw_affine`.
        size: ``(height, width)`` of the images in pixels.
        visible: a box keeps its label if at least this share of its area stays inside, in [0, 1].
        bound: what a turned box is bounded by: its inscribed ``"ellipse"``, as lesions are round rather than square, or
            its ``"corners"``, which make it larger by up to 41 % of each side.

    Returns:
        New targets; dropped boxes are padding (label −1).

    Raises:
        ValueError: for an unknown bound.

    Example:
        >>> t = Targets(torch.tensor([[[0.0, 0.0, 4.0, 4.0]]]), torch.tensor([[0]]))
        >>> mirror = torch.tensor([[[-1.0, 0.0, 20.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
        >>> move_boxes(t, mirror, (10, 20)).boxes
        tensor([[[16.,  0., 20.,  4.]]])
    """
    cx, cy, w, h = box_functions.xyxy_to_cxcywh(targets.boxes).unbind(-1)
    m = _send(matrix, targets.boxes).unsqueeze(1)
    x = m[..., 0, 0] * cx + m[..., 0, 1] * cy + m[..., 0, 2]
    y = m[..., 1, 0] * cx + m[..., 1, 1] * cy + m[..., 1, 2]
    sides = m[..., :2, :2].abs() * torch.stack((w, h), -1).unsqueeze(-2)
    if bound not in BOUNDS:
        raise ValueError(f"unknown bound {bound!r}; known: {', '.join(BOUNDS)}")
    width, height = (sides.norm(dim=-1) if bound == "ellipse" else sides.sum(-1)).unbind(-1)
    return _cut(targets, box_functions.cxcywh_to_xyxy(torch.stack((x, y, width, height), -1)), size, visible)


def _cut(targets: Targets, boxes: Tensor, size: tuple[int, int], visible: float) -> Targets:
    """Give targets their moved boxes, cut off at the borders, without those that are hardly visible any more."""
    inside = box_functions.clip(boxes, size)
    area = box_functions.area(inside)
    keep = targets.valid & (area > 0) & (area >= visible * box_functions.area(boxes))
    return replace(
        targets,
        boxes=torch.where(keep.unsqueeze(-1), inside, 0.0),
        labels=torch.where(keep, targets.labels, -1),
    )


def add_noise(images: Tensor, generator: Generator, *, share: float, std: float, inplace: bool = False) -> Tensor:
    """Add Gaussian noise to a share of the images.

    Args:
        images: ``(B, C, H, W) float`` in [0, 1].
        generator: on the CPU.
        share: probability for each image, in [0, 1].
        std: standard deviation, on the scale of the images.
        inplace: change the images given.

    Returns:
        ``(B, C, H, W)`` in [0, 1].
    """
    chosen = _choose(len(images), share, generator)
    if not len(chosen):
        return images
    noisy = images if inplace else images.clone()
    for i, noise in zip(chosen.tolist(), _normals(len(chosen), images, generator), strict=True):
        noisy[i].add_(noise, alpha=std).clamp_(0, 1)
    return noisy


def blur(
    images: Tensor, generator: Generator, *, share: float, sigma: tuple[float, float], inplace: bool = False
) -> Tensor:
    """Blur a share of the images.

    Args:
        images: ``(B, C, H, W) float`` in [0, 1].
        generator: on the CPU.
        share: probability for each image, in [0, 1].
        sigma: smallest and largest standard deviation of the Gaussian, in pixels.
        inplace: change the images given.

    Returns:
        ``(B, C, H, W)`` in [0, 1].
    """
    chosen = _choose(len(images), share, generator)
    if not len(chosen):
        return images
    from kornia.filters import gaussian_blur2d

    side = 2 * math.ceil(3 * sigma[1]) + 1
    spread = sigma[0] + torch.rand(len(chosen), 1, generator=generator) * (sigma[1] - sigma[0])
    rows = chosen.to(images.device, non_blocking=True)
    blurred = gaussian_blur2d(images[rows], (side, side), spread.expand(-1, 2))  # on the CPU: kornia looks at it
    blurred.clamp_(0, 1)
    return images.index_copy_(0, rows, blurred) if inplace else images.index_copy(0, rows, blurred)


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
    u = _send(torch.rand(3, len(images), 1, 1, 1, generator=generator) * 2 - 1, images)
    images = (images - 0.5) * (1 + gain * u[0]) + 0.5 + offset * u[1]
    return images.clamp(0, 1) ** (1 + gamma * u[2]) if gamma else images.clamp(0, 1)


def shade(images: Tensor, generator: Generator, *, strength: float, cells: int = 4) -> Tensor:
    """Brighten and darken each image by a smooth field, as uneven coils do.

    Args:
        images: ``(B, C, H, W) float`` in [0, 1].
        generator: on the CPU.
        strength: standard deviation of the field's logarithm at its knots.
        cells: knots along each side.

    Returns:
        ``(B, C, H, W)`` in [0, 1].

    Source:
        The multiplicative bias field of Sled, Zijdenbos and Evans 1998, doi:10.1109/42.668698, as a smooth random one.
    """
    knots = strength * torch.randn(len(images), 1, cells, cells, generator=generator)
    field = interpolate(_send(knots, images), images.shape[-2:], mode="bicubic", align_corners=True)
    return (images * field.exp()).clamp_(0, 1)


def add_rician_noise(images: Tensor, generator: Generator, *, share: float, std: float) -> Tensor:
    """Add the noise of magnitude images to a share of them: Gaussian where it is bright, never negative where dark.

    Args:
        images: ``(B, C, H, W) float`` in [0, 1].
        generator: on the CPU.
        share: probability for each image, in [0, 1].
        std: standard deviation in both channels of the receiver, on the scale of the images.

    Returns:
        ``(B, C, H, W)`` in [0, 1].

    Source:
        Gudbjartsson and Patz 1995, doi:10.1002/mrm.1910340618.
    """
    chosen = _choose(len(images), share, generator)
    if not len(chosen):
        return images
    noisy = images.clone()
    both = _normals(len(chosen), images, generator), _normals(len(chosen), images, generator)
    for i, real, imaginary in zip(chosen.tolist(), *both, strict=True):
        noisy[i] = torch.hypot(noisy[i] + std * real, std * imaginary).clamp_(0, 1)
    return noisy


def ghost(
    images: Tensor,
    generator: Generator,
    *,
    share: float,
    strength: tuple[float, float],
    copies: tuple[int, int] = (2, 6),
) -> Tensor:
    """Lay faint shifted copies over a share of the images, as breathing does along the phase direction.

    Args:
        images: ``(B, C, H, W) float`` in [0, 1].
        generator: on the CPU.
        share: probability for each image, in [0, 1].
        strength: by which share every n-th line of the spectrum is weakened, from and to, in [0, 1].
        copies: n, from and to; so many ghosts lie across the image, up and down or, for every other image, sideways.

    Returns:
        ``(B, C, H, W)`` in [0, 1].

    Source:
        Pérez-García, Sparks and Ourselin 2021, TorchIO, doi:10.1016/j.cmpb.2021.106236, "RandomGhosting".
    """
    chosen = _choose(len(images), share, generator)
    if not len(chosen):
        return images
    ghosted = images.clone()
    u = torch.rand(len(chosen), 3, generator=generator).tolist()
    for i, (along, weak, number) in zip(chosen.tolist(), u, strict=True):
        dim = -2 if along < 0.5 else -1
        every = copies[0] + int(number * (copies[1] - copies[0] + 1))
        spectrum = torch.fft.fft(ghosted[i].to(torch.promote_types(images.dtype, torch.float32)), dim=dim)
        factor = torch.ones(spectrum.shape[dim], device=images.device)
        factor[every::every] = 1 - strength[0] - weak * (strength[1] - strength[0])
        middle = spectrum.shape[dim] // 50 + 1  # the lowest frequencies, the brightness, stay
        factor[:middle] = factor[-middle:] = 1
        shape = (-1, 1) if dim == -2 else (-1,)
        ghosted[i] = torch.fft.ifft(spectrum * factor.view(shape), dim=dim).abs().clamp_(0, 1)
    return ghosted


def draw_crop(
    targets: Targets, size: tuple[int, int], generator: Generator, *, share: float, zoom: tuple[float, float]
) -> Tensor:
    """Draw a part of each image that holds one of its lesions whole, if it has any that fits, and fills the image.

    Args:
        targets: in pixels of the images.
        size: ``(height, width)`` in pixels.
        generator: on the CPU.
        share: probability for each image, in [0, 1]; the others stay whole.
        zoom: from and to, at least 1.

    Returns:
        ``(B, 3, 3) float32``, as of `draw_affine`, on the targets' device.

    Raises:
        ValueError: for a zoom below 1, or from more to less.
    """
    if not 1 <= zoom[0] <= zoom[1]:
        raise ValueError(f"zoom goes from at least 1 up, got {zoom}")
    boxes, count = targets.boxes, len(targets)
    u = torch.rand(count, 4, generator=generator)
    factor = _send(torch.where(u[:, 0] < share, zoom[0] + u[:, 1] * (zoom[1] - zoom[0]), 1.0), boxes)
    whole = _send(torch.tensor([size[1], size[0]], dtype=torch.float32), boxes)
    window = whole / factor.unsqueeze(1)
    least, most = torch.zeros_like(window), whole - window  # of the window's corner
    if targets.labels.shape[1]:
        order = _send(torch.rand(count, targets.labels.shape[1], generator=generator), boxes)
        lesion = order.masked_fill(~targets.valid, -1).argmax(1, keepdim=True)
        box = boxes.gather(1, lesion.unsqueeze(-1).expand(-1, -1, 4))[:, 0]
        low, high = torch.maximum(box[:, 2:] - window, least), torch.minimum(box[:, :2], most)
        holds = (targets.valid.any(1, keepdim=True) & (low <= high)).all(1, keepdim=True)
        least, most = torch.where(holds, low, least), torch.where(holds, high, most)
    corner = least + _send(u[:, 2:], boxes) * (most - least)
    matrix = torch.eye(3, device=boxes.device).repeat(count, 1, 1)
    matrix[:, 0, 0] = matrix[:, 1, 1] = factor
    matrix[:, :2, 2] = -corner * factor.unsqueeze(1)
    return matrix


POOL = 2**20


@lru_cache(maxsize=4)
def _pool(device: torch.device) -> Tensor:
    """Standard normals to read noise from at random places: drawing each anew costs more than all the rest."""
    return torch.randn(POOL, generator=Generator().manual_seed(0)).to(device)


def _normals(count: int, images: Tensor, generator: Generator) -> list[Tensor]:
    """Give noise for some of the images, each from a place of the pool of its own."""
    pool, shape = _pool(images.device), images.shape[1:]
    size = shape.numel()
    pool = pool if size < POOL // 2 else pool.repeat(2 * size // POOL + 1)
    places = torch.randint(len(pool) - size, (count,), generator=generator).tolist()
    return [pool[i : i + size].view(shape).to(images.dtype) for i in places]


def _send(tensor: Tensor, like: Tensor) -> Tensor:
    return tensor.to(like.device, like.dtype, non_blocking=True)


def _choose(count: int, share: float, generator: Generator) -> Tensor:
    return (torch.rand(count, generator=generator) < share).nonzero().squeeze(1)


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
    if images.device.type == "cpu" and images.numel():  # elsewhere a look would have to wait for the device
        low, high = (float(value) for value in images.aminmax())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"augmentation takes images in [0, 1], got {low:g} to {high:g}: divide 8-bit images by 255, and let "
                "the model normalise them afterwards"
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
    bound: str = "ellipse",
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
        bound: of turned boxes, see `move_boxes`.

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
        matrix = draw_affine(len(images), size, generator, flip=flip, rotation=rotation, translation=translation)
        images = move_images(images, matrix)
        images = add_noise(images, generator, share=noise, std=noise_std, inplace=True)
        images = blur(images, generator, share=blurred, sigma=(0.5, 1.5), inplace=True)
        return images, move_boxes(targets, matrix, size, visible=visible, bound=bound)

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
    """Give a mild augmentation: mirror image, a little scale and shift, brightness and contrast; no rotation.

    Args:
        flip: probability of a left-right mirror image.
        scale: smallest and largest factor.
        translation: largest shift as a share of the side, either way.
        gain: contrast changes by up to this share.
        offset: brightness shifts by up to so much, for images in [0, 1].
        visible: share of a box that must stay inside the image for its label to be kept.
        bound: of turned boxes, see `move_boxes`.

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
        matrix = draw_affine(len(images), size, generator, flip=flip, scale=scale, translation=translation)
        images = move_images(adjust_intensity(images, generator, gain=gain, offset=offset), matrix)
        return images, move_boxes(targets, matrix, size, visible=visible, bound=bound)

    return apply


@AUGMENTATIONS.register("mri")
def mri(
    *,
    flip: float = 0.0,
    rotation: float = 8.0,
    scale: tuple[float, float] = (0.9, 1.1),
    translation: float = 0.05,
    crop: float = 0.3,
    zoom: tuple[float, float] = (1.0, 1.5),
    bias: float = 0.15,
    gain: float = 0.2,
    offset: float = 0.05,
    gamma: float = 0.2,
    noise: float = 0.3,
    noise_std: float = 0.02,
    ghosting: float = 0.1,
    ghost_strength: tuple[float, float] = (0.2, 0.5),
    visible: float = 0.4,
    bound: str = "ellipse",
) -> Augmentation:
    """Give what varies between MR scans: position, coil shading, contrast, Rician noise, breathing; no mirror image.

    A mirrored abdomen has its liver on the wrong side, so ``flip`` is 0 unless asked for. Crop, mirror image, scale,
    rotation and shift are one map: the image is resampled once.

    Args:
        flip: probability of a left-right mirror image.
        rotation: largest angle in degrees, either way.
        scale: smallest and largest factor.
        translation: largest shift as a share of the side, either way.
        crop: probability of a crop, which keeps a lesion whole before it is turned and shifted.
        zoom: smallest and largest factor of a crop.
        bias: strength of the coil shading, see `shade`.
        gain: contrast changes by up to this share.
        offset: brightness shifts by up to so much, for images in [0, 1].
        gamma: the exponent of the grey levels lies in ``1 ± gamma``.
        noise: probability of Rician noise.
        noise_std: its standard deviation, for images in [0, 1].
        ghosting: probability of motion ghosts.
        ghost_strength: from and to, see `ghost`.
        visible: share of a box that must stay inside the image for its label to be kept.
        bound: of turned boxes, see `move_boxes`.

    Returns:
        A callable on (images, targets, generator).

    Example:
        >>> images = torch.rand(2, 1, 32, 32)
        >>> lesion = torch.tensor([[8.0, 8.0, 16.0, 16.0]])
        >>> targets = Targets.pad([lesion, torch.zeros(0, 4)], [torch.zeros(1), torch.zeros(0)])
        >>> mri()(images, targets, torch.Generator().manual_seed(0))[0].shape
        torch.Size([2, 1, 32, 32])
    """

    def apply(images: Tensor, targets: Targets, generator: Generator) -> tuple[Tensor, Targets]:
        _check(images, targets)
        size = (images.shape[-2], images.shape[-1])
        part = draw_crop(targets, size, generator, share=crop, zoom=zoom)
        affine = draw_affine(
            len(images), size, generator, flip=flip, rotation=rotation, translation=translation, scale=scale
        )
        matrix = _send(affine, part) @ part
        images = move_images(images, matrix)
        images = shade(images, generator, strength=bias)
        images = adjust_intensity(images, generator, gain=gain, offset=offset, gamma=gamma)
        images = ghost(images, generator, share=ghosting, strength=ghost_strength)
        images = add_rician_noise(images, generator, share=noise, std=noise_std)
        return images, move_boxes(targets, matrix, size, visible=visible, bound=bound)

    return apply


def adapt(transform: Callable[..., Any], *, visible: float = 0.4) -> Augmentation:
    """Make an augmentation of any kornia module, or of any callable on (images, targets).

    Args:
        transform: a kornia augmentation, or several in an ``AugmentationSequential``, which moves the boxes too; or a
            callable that takes images and targets and gives both, by torch's global random numbers.
        visible: share of a box that must stay inside the image for its label to be kept, where kornia moves it.

    Returns:
        A callable on (images, targets, generator), to be registered: ``AUGMENTATIONS.register("mine")(lambda:
        adapt(…))``. Grey levels that the transform takes below 0 or above 1 are cut off there.

    Raises:
        TypeError: if it is neither.

    Example:
        >>> from kornia.augmentation import RandomHorizontalFlip
        >>> mirror = adapt(RandomHorizontalFlip(p=1.0))
        >>> lesion = Targets.pad([torch.tensor([[2.0, 2.0, 4.0, 4.0]])], [torch.zeros(1)])
        >>> mirror(torch.zeros(1, 1, 8, 8), lesion, torch.Generator())[1].boxes
        tensor([[[4., 2., 6., 4.]]])
    """
    if isinstance(transform, nn.Module) and type(transform).__module__.startswith("kornia."):
        change = _kornia(transform, visible)
    elif callable(transform) and len(inspect.signature(transform).parameters) == 2:
        change = transform
    else:
        raise TypeError(f"expected a kornia module, or a callable on (images, targets), got {transform!r}")

    def apply(images: Tensor, targets: Targets, generator: Generator) -> tuple[Tensor, Targets]:
        _check(images, targets)
        seed = int(torch.randint(2**31, (), generator=generator))
        with torch.random.fork_rng([images.device] if images.is_cuda else []):
            torch.manual_seed(seed)
            images, targets = change(images, targets)
        return images.clamp(0, 1), targets

    return apply


def _kornia(module: nn.Module, visible: float) -> Callable[[Tensor, Targets], tuple[Tensor, Targets]]:
    from kornia.augmentation import AugmentationSequential

    parts: list[Any] = list(module.children()) if isinstance(module, AugmentationSequential) else [module]
    both = AugmentationSequential(*parts, data_keys=["input", "bbox_xyxy"])
    alone = AugmentationSequential(*parts, data_keys=["input"])

    def change(images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        if not targets.labels.shape[1]:
            return alone(images), targets
        size = (images.shape[-2], images.shape[-1])
        moved, whole = both(images, targets.boxes - 0.5)  # kornia's pixel centres lie at whole numbers
        return moved, _cut(targets, whole.as_subclass(Tensor) + 0.5, size, visible)

    return change
