"""One slice as it was read: values, and the way to an 8-bit image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hccvision.images.window import Window, blacken, to_uint8


@dataclass(frozen=True)
class Slice:
    """Values of one slice before any window, and how its file displays them.

    Args:
        values: ``(H, W)`` grey or ``(H, W, n)`` with colours or alpha; uint8, or any real type for raw values.
        show: the file's own conversion of ``values`` to uint8, used by windows of kind ``"file"``.
        inverted: whether the file displays small values as white.
        padding: ``(H, W) bool``, True for pixels that are no part of the image, as `Window.apply` takes them: they
            become black. None: there are none.

    Example:
        >>> Slice(np.array([[0, 500], [1000, 1500]], np.uint16), inverted=True).to_image(1)[..., 0]
        array([[255, 170],
               [ 85,   0]], dtype=uint8)
    """

    values: np.ndarray
    show: Callable[[np.ndarray], np.ndarray] = to_uint8
    inverted: bool = False
    padding: np.ndarray | None = None

    def to_image(self, channels: int = 3, window: Window | None = None) -> np.ndarray:
        """Convert the slice to an 8-bit image.

        Args:
            channels: number of channels of the image, see `to_channels`.
            window: mapping to 8 bits; None or a window of kind ``"file"``: the file's own.

        Returns:
            ``(H, W, channels) uint8``; the values themselves where they are that already.

        Raises:
            ValueError: if the values are not finite real numbers, don't fit a fixed window, or have other channels.
        """
        if window is None or window.kind == "file":
            pixels = to_channels(self.show(self.values), channels)
        elif self.values.dtype == np.uint8:  # may hold alpha, which no window applies to
            pixels = to_channels(self.values, channels)
            padding = None if self.padding is None else np.broadcast_to(self.padding[..., np.newaxis], pixels.shape)
            pixels = window.apply(pixels, padding)
        else:
            pixels = to_channels(window.apply(self.values, self.padding), channels)
        pixels = 255 - pixels if self.inverted else pixels
        return pixels if self.padding is None else blacken(pixels, self.padding[..., np.newaxis])


def to_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Convert an 8-bit image to a number of channels.

    Grey is repeated to 3 channels, colour becomes its luminance in 1 (ITU-R 601), and alpha is composited over black.
    Other numbers of channels can't be converted.

    Args:
        pixels: ``(H, W)`` or ``(H, W, n) uint8``; 2 channels are grey with alpha, 4 are RGB with alpha.
        channels: number of channels wanted.

    Returns:
        ``(H, W, channels) uint8``; the array itself where it has that many.

    Raises:
        ValueError: if there is no conversion.

    Example:
        >>> to_channels(np.full((1, 1, 3), [255, 0, 0], np.uint8), 1).item()
        76
    """
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    own = pixels.shape[2]
    if own == channels:
        return pixels
    if channels not in (1, 3) or own > 4:
        raise ValueError(f"expected {channels} channels, the image has {own}: pass channels={own}, or another image")
    if own in (2, 4):
        over_black = pixels[..., :-1].astype(np.uint16) * pixels[..., -1:]
        pixels = ((over_black + 127) // 255).astype(np.uint8)
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    luminance = pixels @ np.array([19595, 38470, 7471], np.uint32)  # 0.299, 0.587, 0.114 of 65536
    return ((luminance + 0x8000) >> 16).astype(np.uint8)[..., np.newaxis]
