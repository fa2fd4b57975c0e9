"""Resizing an image to the model's input, and moving boxes and label maps between the two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

Boxes = TypeVar("Boxes", np.ndarray, torch.Tensor)
LabelMap = TypeVar("LabelMap", np.ndarray, torch.Tensor)

POLICIES = ("stretch", "letterbox")


@dataclass(frozen=True)
class Placement:
    """Position of one image within the model's input: scaled, then shifted by padding.

    Args:
        scale_x: input pixels per original pixel along x.
        scale_y: input pixels per original pixel along y.
        pad_x: columns of padding on the left, in pixels of the input.
        pad_y: rows of padding at the top, in pixels of the input.
        original_size: ``(height, width)`` of the image.
        input_size: ``(height, width)`` of the model's input.

    Example:
        >>> p = place((300, 484), (300, 300), "letterbox")
        >>> p.pad_y, p.resized_size, p.to_input(np.array([[0, 0, 484, 300]])).tolist()
        (57, (186, 300), [[0.0, 57.0, 300.0, 243.0]])
        >>> p.to_original(torch.tensor([[0.0, 0.0, 300.0, 150.0]]))
        tensor([[  0.,   0., 484., 150.]])
    """

    scale_x: float
    scale_y: float
    pad_x: int
    pad_y: int
    original_size: tuple[int, int]
    input_size: tuple[int, int]

    @property
    def resized_size(self) -> tuple[int, int]:
        """``(height, width)`` of the image within the input, without padding."""
        height, width = self.original_size
        return round(height * self.scale_y), round(width * self.scale_x)

    def to_input(self, boxes: Boxes) -> Boxes:
        """Convert boxes from the original image to the model's input.

        Args:
            boxes: ``(..., 4)``, xyxy pixels of the original image, NumPy or torch.

        Returns:
            Boxes of the same kind, xyxy pixels of the input; integers become float32.

        Raises:
            ValueError: if the last axis is not 4.
        """
        boxes = _floating(boxes)
        return boxes * _like(boxes, self.scale_x, self.scale_y) + _like(boxes, self.pad_x, self.pad_y)

    def to_original(self, boxes: Boxes) -> Boxes:
        """Convert boxes from the model's input to the original image, clipped to its edges.

        Args:
            boxes: ``(..., 4)``, xyxy pixels of the model's input, NumPy or torch.

        Returns:
            Boxes of the same kind, xyxy pixels of the original image; integers become float32.

        Raises:
            ValueError: if the last axis is not 4.
        """
        boxes = _floating(boxes)
        height, width = self.original_size
        moved = (boxes - _like(boxes, self.pad_x, self.pad_y)) / _like(boxes, self.scale_x, self.scale_y)
        return moved.clip(_like(boxes, 0, 0), _like(boxes, width, height))

    def place_map(self, mask: LabelMap, *, fill: float = 0) -> LabelMap:
        """Resize a label map of the original image to the model's input by nearest neighbour.

        Args:
            mask: ``(..., H, W)``, one value per pixel of the original image, of any type, NumPy or torch.
            fill: value of the padding, such as an index the loss ignores.

        Returns:
            ``(..., input height, input width)`` of the same kind, type and device.

        Raises:
            ValueError: if the last two axes are not the size of the original image, or the map's type can't hold
                ``fill``.

        Example:
            >>> place((2, 4), (4, 4), "letterbox").place_map(np.array([[1, 1, 0, 0], [0, 0, 2, 2]]), fill=-1)
            array([[-1, -1, -1, -1],
                   [ 1,  1,  0,  0],
                   [ 0,  0,  2,  2],
                   [-1, -1, -1, -1]])
        """
        mask = _sized(mask, self.original_size, "the original image")
        height, width = self.resized_size
        rows, columns = (_nearest(n, own) for n, own in zip((height, width), self.original_size, strict=True))
        placed = _filled(mask, (*mask.shape[:-2], *self.input_size), fill)
        placed[..., self.pad_y : self.pad_y + height, self.pad_x : self.pad_x + width] = _picked(mask, rows, columns)
        return placed

    def restore_map(self, mask: LabelMap) -> LabelMap:
        """Resize a label map of the model's input to the original image by nearest neighbour; padding is cut off.

        The result of `place_map` is restored exactly wherever the input has at least the original's resolution.

        Args:
            mask: ``(..., height, width)``, one value per pixel of the model's input, of any type, NumPy or torch.

        Returns:
            ``(..., H, W)`` of the same kind, type and device, in pixels of the original image.

        Raises:
            ValueError: if the last two axes are not the size of the model's input.

        Example:
            >>> place((2, 4), (4, 4), "letterbox").restore_map(torch.eye(4, dtype=torch.int64))
            tensor([[0, 1, 0, 0],
                    [0, 0, 1, 0]])
        """
        mask = _sized(mask, self.input_size, "the model's input")
        rows, columns = (_nearest(n, own) for n, own in zip(self.original_size, self.resized_size, strict=True))
        return _picked(mask, rows + self.pad_y, columns + self.pad_x)


def place(original_size: tuple[int, int], image_size: tuple[int, int], policy: str) -> Placement:
    """Compute the position of an image of one size within an input of another.

    Args:
        original_size: ``(height, width)`` of the image.
        image_size: ``(height, width)`` of the model's input.
        policy: ``"stretch"`` fills the input, ``"letterbox"`` keeps the aspect ratio and centres the image.

    Returns:
        The placement; its scales are those of the resized image in whole pixels.

    Raises:
        ValueError: if a size is not positive or the policy is unknown.

    Example:
        >>> place((300, 600), (300, 300), "stretch").scale_x
        0.5
    """
    if min(*original_size, *image_size) < 1:
        raise ValueError(f"expected sizes (height, width) of at least 1 pixel, got {original_size} and {image_size}")
    if policy not in POLICIES:
        raise ValueError(f"unknown resize policy {policy!r}: use one of {', '.join(map(repr, POLICIES))}")
    (height, width), (input_height, input_width) = original_size, image_size
    resized_height, resized_width = image_size
    if policy == "letterbox":
        scale = min(input_height / height, input_width / width)
        resized_height, resized_width = (max(1, round(side * scale)) for side in original_size)
    return Placement(
        scale_x=resized_width / width,
        scale_y=resized_height / height,
        pad_x=(input_width - resized_width) // 2,
        pad_y=(input_height - resized_height) // 2,
        original_size=(height, width),
        input_size=(input_height, input_width),
    )


def resize(image: np.ndarray, image_size: tuple[int, int], policy: str = "stretch") -> tuple[np.ndarray, Placement]:
    """Resize an image to the model's input, bilinear with antialiasing; letterbox padding is black.

    Args:
        image: ``(H, W, C) uint8``, of any number of channels.
        image_size: ``(height, width)`` of the model's input.
        policy: ``"stretch"`` or ``"letterbox"``; see `place`.

    Returns:
        ``(height, width, C) uint8``, and its placement.

    Raises:
        ValueError: if the image is not ``(H, W, C) uint8``, a size is not positive or the policy is unknown.

    Example:
        >>> resized, placement = resize(np.full((300, 600, 3), 9, np.uint8), (300, 300), "letterbox")
        >>> resized.shape, placement.pad_y, resized[74:76, 0, 0].tolist()
        ((300, 300, 3), 75, [0, 9])
    """
    if image.ndim != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"expected an image (H, W, C) uint8, got {image.shape} {image.dtype}: use from_array first")
    placement = place(image.shape[:2], image_size, policy)
    height, width = placement.resized_size
    channels = image.shape[2]
    planes = [image] if channels == 3 else list(np.moveaxis(image, 2, 0))
    resized = [np.asarray(Image.fromarray(p).resize((width, height), Image.Resampling.BILINEAR)) for p in planes]
    result = np.zeros((*placement.input_size, channels), np.uint8)
    y, x = placement.pad_y, placement.pad_x
    result[y : y + height, x : x + width] = resized[0] if channels == 3 else np.stack(resized, axis=2)
    return result, placement


def _floating(boxes: Any) -> Any:
    """Return boxes of the same kind as floats."""
    if not isinstance(boxes, torch.Tensor):
        boxes = np.asarray(boxes)
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"expected boxes (..., 4), got {tuple(boxes.shape)}: pass xyxy pixels")
    if isinstance(boxes, torch.Tensor):
        return boxes if boxes.is_floating_point() else boxes.float()
    return boxes if boxes.dtype.kind == "f" else boxes.astype(np.float32)


def _like(boxes: Any, x: float, y: float) -> Any:
    """Return x, y, x, y in the kind, type and device of the boxes."""
    return boxes.new_tensor([x, y, x, y]) if isinstance(boxes, torch.Tensor) else np.array([x, y, x, y], boxes.dtype)


def _sized(mask: Any, size: tuple[int, int], of: str) -> Any:
    if not isinstance(mask, torch.Tensor):
        mask = np.asarray(mask)
    if tuple(mask.shape[-2:]) != size:
        raise ValueError(f"expected a label map (..., {size[0]}, {size[1]}) of {of}, got {tuple(mask.shape)}")
    return mask


def _filled(mask: Any, shape: tuple[int, ...], fill: float) -> Any:
    """Return a map of one value, of the kind, type and device of the mask."""
    is_tensor = isinstance(mask, torch.Tensor)
    try:
        with np.errstate(invalid="ignore"):
            value = (mask.new_full((), fill) if is_tensor else np.full((), fill, mask.dtype)).item()
        held = value == fill or (value != value and fill != fill)  # equal, or both NaN
    except (OverflowError, RuntimeError, ValueError):
        held = False
    if not held:
        raise ValueError(f"fill={fill} can't be held by a label map of {mask.dtype}: convert the map first")
    return mask.new_full(shape, fill) if is_tensor else np.full(shape, fill, mask.dtype)


def _nearest(count: int, own: int) -> np.ndarray:
    """Return, for each of ``count`` pixels, the index of the pixel among ``own`` that its centre lies in."""
    return (2 * np.arange(count) + 1) * own // (2 * count)


def _picked(mask: Any, rows: np.ndarray, columns: np.ndarray) -> Any:
    if isinstance(mask, torch.Tensor):
        at = (torch.from_numpy(index).to(mask.device) for index in (rows, columns))
        return mask.index_select(-2, next(at)).index_select(-1, next(at))
    return mask[..., rows[:, np.newaxis], columns]
