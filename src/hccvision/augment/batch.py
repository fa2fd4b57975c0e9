"""What an augmentation is called with: images, targets and a generator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from hccvision.contracts.batches import Targets

Augmentation = Callable[[Tensor, Targets, Generator], tuple[Tensor, Targets]]


def check_batch(images: Tensor, targets: Targets) -> None:
    """Raise unless a batch is what an augmentation takes.

    Args:
        images: ``(B, C, H, W) float`` in [0, 1].
        targets: B images' ground truth on the same device; its masks, if any, are ``(B, H, W)``.

    Raises:
        TypeError: if the images are not ``(B, C, H, W) float``.
        ValueError: if images and targets differ in count, device or size, or (checked on the CPU only) a pixel lies
            outside [0, 1].

    Example:
        >>> check_batch(torch.zeros(1, 3, 8, 8), Targets.pad([torch.zeros(0, 4)], [torch.zeros(0)]))
    """
    if images.dim() != 4 or not images.is_floating_point():
        raise TypeError(
            f"augmentation takes images (B, C, H, W) float in [0, 1], got {tuple(images.shape)} {images.dtype}"
        )
    if len(images) != len(targets) or images.device != targets.boxes.device:
        raise ValueError(
            f"{len(images)} images on {images.device} need as many targets there, got {len(targets)} on "
            f"{targets.boxes.device}"
        )
    expected = (len(images), *images.shape[-2:])
    if targets.masks is not None and tuple(targets.masks.shape) != expected:
        raise ValueError(f"expected one mask per image, {expected}, got {tuple(targets.masks.shape)}")
    if images.device.type == "cpu" and images.numel():  # elsewhere reading the range would wait for the device
        low, high = (float(value) for value in images.aminmax())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"augmentation takes images in [0, 1], got {low:g} to {high:g}: divide 8-bit images by 255, and let "
                "the model normalise them afterwards"
            )


def checked(augment: Augmentation, name: str) -> Augmentation:
    """Return an augmentation whose results are checked.

    Args:
        augment: of any origin.
        name: for messages.

    Returns:
        The same augmentation, which raises a TypeError or ValueError for results that can't be trained on: other than
        as many images of the same size with their targets, or infinite numbers or NaN.

    Example:
        >>> broken = checked(lambda images, targets, _: (images / 0, targets), "mine")
        >>> broken(torch.zeros(1, 3, 8, 8), Targets.pad([torch.zeros(0, 4)], [torch.zeros(0)]), torch.Generator())
        Traceback (most recent call last):
        ValueError: the augmentation 'mine' returned images with infinite numbers or NaN: correct it
    """

    def apply(images: Tensor, targets: Targets, generator: Generator) -> tuple[Tensor, Targets]:
        found = augment(images, targets, generator)
        kinds = [type(part) for part in found] if isinstance(found, (tuple, list)) else [type(found)]
        if len(kinds) != 2 or not issubclass(kinds[0], Tensor) or not issubclass(kinds[1], Targets):
            raise TypeError(
                f"expected a tensor of images and hv.Targets from the augmentation {name!r}, got "
                f"{', '.join(kind.__name__ for kind in kinds)}: return both"
            )
        made, moved = found
        shapes = tuple(made.shape), tuple(moved.boxes.shape), tuple(moved.labels.shape)
        if shapes[0] != tuple(images.shape) or shapes[1] != (*shapes[2], 4) or len(shapes[2]) != 2:
            expected = f"images {tuple(images.shape)} and as many rows of boxes (B, N, 4) and labels (B, N)"
            raise ValueError(
                f"expected {expected} from the augmentation {name!r}, got images {shapes[0]}, boxes {shapes[1]} and "
                f"labels {shapes[2]}: keep number and size of the images"
            )
        if len(moved) != len(images):
            raise ValueError(
                f"expected the targets of {len(images)} images from the augmentation {name!r}, got {len(moved)}: keep "
                "the targets of all images"
            )
        if not (made.is_floating_point() and bool(made.isfinite().all()) and bool(moved.boxes.isfinite().all())):
            what = "boxes" if made.is_floating_point() and bool(made.isfinite().all()) else "images"
            raise ValueError(f"the augmentation {name!r} returned {what} with infinite numbers or NaN: correct it")
        return made, moved

    return apply


def choose_images(count: int, share: float, generator: Generator) -> Tensor:
    """Draw which images of a batch are changed.

    Args:
        count: number of images.
        share: probability for each image, in [0, 1].
        generator: on the CPU.

    Returns:
        ``(M,) int64``, ascending indices on the CPU.

    Example:
        >>> choose_images(3, 1.0, torch.Generator())
        tensor([0, 1, 2])
    """
    return (torch.rand(count, generator=generator) < share).nonzero().squeeze(1)


def match_device(tensor: Tensor, like: Tensor) -> Tensor:
    """Convert a tensor to another's device and dtype, without waiting for the device.

    Args:
        tensor: to convert.
        like: has the device and dtype wanted.

    Returns:
        The tensor there.

    Example:
        >>> match_device(torch.ones(2), torch.zeros(1, dtype=torch.float64)).dtype
        torch.float64
    """
    return tensor.to(like.device, like.dtype, non_blocking=True)
