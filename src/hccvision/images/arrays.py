"""Arrays, tensors and Pillow images to the images that `read_image` returns."""

from __future__ import annotations

import os

import numpy as np
import torch
from PIL import Image

from hccvision.images.formats.checks import decoding
from hccvision.images.formats.picture import slice_of
from hccvision.images.slices import Slice
from hccvision.images.window import DEFAULT_WINDOW, Window


def to_image(
    item: np.ndarray | torch.Tensor | Image.Image, *, channels: int = 3, window: Window = DEFAULT_WINDOW
) -> np.ndarray:
    """Convert an array, tensor or Pillow image to an image as `read_image` returns it.

    Args:
        item: one image. An array: see `from_array`. A tensor of any device: the same shapes and types, or channels
            first, ``(C, H, W)`` with 1, 3, 4 or ``channels`` channels, if the last axis can't be channels; it may
            require grad. A Pillow image of any mode is converted like its file: EXIF orientation applied, alpha
            composited over black; of several pages the current one.
        channels: number of channels of the image.
        window: mapping to 8 bits; see `from_array`.

    Returns:
        ``(H, W, channels) uint8``; it may share memory with the item.

    Raises:
        TypeError: if the item is a path; use `read_image`.
        ValueError: as `from_array`; also if both the first and the last axis of a tensor can be channels, or a Pillow
            image can't be decoded.

    Example:
        >>> to_image(Image.new("1", (4, 2), 1), channels=1).shape
        (2, 4, 1)
        >>> to_image(torch.zeros(3, 300, 484)).shape
        (300, 484, 3)
    """
    if isinstance(item, (str, os.PathLike)):
        raise TypeError(f"expected an array, tensor or Pillow image, got the path {item}: use read_image")
    if isinstance(item, Image.Image):
        with decoding("Pillow image"):
            plane = slice_of(item)
        return plane.to_image(channels, window)
    if isinstance(item, torch.Tensor):
        item = _channels_last(item, channels)
    return from_array(item, channels=channels, window=window)


def from_array(array: np.ndarray, *, channels: int = 3, window: Window = DEFAULT_WINDOW) -> np.ndarray:
    """Convert an array to an image as `read_image` returns it.

    Args:
        array: ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` RGB, ``(H, W, 4) uint8`` RGBA, composited over black, or
            ``(H, W, channels)``. uint8 counts as a picture and is unchanged; other types, also floats in [0, 1], are
            converted by `to_uint8`, all channels in one window.
        channels: number of channels of the image.
        window: mapping to 8 bits instead of `to_uint8`. A fixed one expects raw values in its own unit.

    Returns:
        ``(H, W, channels) uint8``; the array itself where it is that already.

    Raises:
        ValueError: if the array has another shape, is empty, is not of real numbers, holds NaN or infinity, or does not
            fit a fixed window.

    Example:
        >>> from_array(np.array([[0, 500], [1000, 1500]], np.uint16))[..., 0]
        array([[  0,  85],
               [170, 255]], dtype=uint8)
    """
    array = np.asarray(array)
    own = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or array.size == 0 or own not in (1, 3, 4, channels):
        raise ValueError(
            f"expected an image array (H, W), (H, W, 1), (H, W, 3), (H, W, 4) or (H, W, {channels}), got "
            f"{array.shape}: pass one image at a time, channels last"
        )
    if own == 4 and channels != 4 and array.dtype != np.uint8:
        raise ValueError(f"an RGBA array must be uint8, got {array.dtype}: scale it to 0-255, or leave the alpha out")
    return Slice(array).to_image(channels, window)


def _channels_last(tensor: torch.Tensor, channels: int) -> np.ndarray:
    """Return a tensor as an array ``(H, W)`` or ``(H, W, C)``."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # unknown to NumPy
        tensor = tensor.float()
    if tensor.ndim == 3:
        first, last = (tensor.shape[i] in (1, 3, 4, channels) for i in (0, 2))
        if first and last:
            raise ValueError(
                f"a tensor of shape {tuple(tensor.shape)} is ambiguous, its channels may come first or last: pass an "
                "array with channels last, tensor.numpy() or tensor.permute(1, 2, 0).numpy()"
            )
        if first:
            tensor = tensor.permute(1, 2, 0)
    return tensor.numpy()
