"""Grey levels of any depth to 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WINDOWS = ("file", "percentile", "zscore", "fixed")
_DEFAULT_BOUNDS = {"percentile": (0.5, 99.5), "zscore": (-3.0, 3.0)}
_MIN_SHARE = 0.01  # of the pixels, and of the window's width, below which a fixed window does not fit the image


@dataclass(frozen=True)
class Window:
    """Mapping of grey levels of any depth to 8 bits.

    Values from the lower to the upper bound are mapped linearly to 0-255, values beyond are clipped. A model stores its
    window, so that prediction prepares images as training did. A ``"fixed"`` window is for values with the same meaning
    in every file, such as Hounsfield units; images that can't hold such values are refused.

    Args:
        kind: ``"file"``: the default of `read_image`: the file's own VOI window where it has one, otherwise the 0.5 and
            99.5 percentiles; 8-bit images are unchanged. ``"percentile"``: bounds are percentiles of the image's
            pixels. ``"zscore"``: bounds are standard deviations from the image's mean. ``"fixed"``: bounds are values.
        low: lower bound; None: 0.5 percent or −3 standard deviations.
        high: upper bound; None: 99.5 percent or 3 standard deviations.

    Raises:
        ValueError: if the kind is unknown, or the bounds are missing, not ascending or out of range for the kind.

    Example:
        >>> Window("fixed", 0, 1000).apply(np.array([-7, 0, 500, 1000, 2000], np.int16))
        array([  0,   0, 128, 255, 255], dtype=uint8)
        >>> Window("zscore")
        Window(kind='zscore', low=-3.0, high=3.0)
    """

    kind: str = "file"
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in WINDOWS:
            raise ValueError(f"unknown kind of window {self.kind!r}: use one of {', '.join(map(repr, WINDOWS))}")
        low, high = _DEFAULT_BOUNDS.get(self.kind, (None, None))
        low, high = (low if self.low is None else self.low), (high if self.high is None else self.high)
        if self.kind == "file":
            if (low, high) != (None, None):
                raise ValueError(f"a window of kind 'file' has no bounds, got {low} and {high}: leave them out")
            return
        if low is None or high is None or not np.isfinite([low, high]).all() or not low < high:
            raise ValueError(f"a window of kind {self.kind!r} has bounds low < high, got {low} and {high}")
        if self.kind == "percentile" and not 0 <= low < high <= 100:
            raise ValueError(f"expected percentiles 0 <= low < high <= 100, got {low} and {high}")
        object.__setattr__(self, "low", float(low))
        object.__setattr__(self, "high", float(high))

    def apply(self, values: np.ndarray, padding: np.ndarray | None = None) -> np.ndarray:
        """Convert grey levels to 8 bits.

        Args:
            values: array of any shape, bool, integer or real floating point, before any other window.
            padding: bool array of the same shape, True for pixels that are no part of the image: they become 0, and
                are left out of percentiles, means and checks. None: all are.

        Returns:
            uint8 array of the same shape. A constant image becomes zeros, except that a fixed window refuses it.

        Raises:
            ValueError: if the array is empty, not of real numbers, or holds NaN or infinity. For a fixed window also
                if less than 1 % of the pixels lie inside it, if they cover less than 1 % of its width, or if the array
                is 8-bit and the window extends beyond 0 and 255: such values went through a window before. The message
                contains both ranges.
        """
        values = np.asarray(values)
        if self.kind == "file":
            return to_uint8(values, padding=padding)
        assert self.low is not None
        assert self.high is not None
        numbers = finite_values(values)
        inside = _inside(numbers, padding)
        low, high = self.low, self.high
        if self.kind == "fixed":
            _require_fit(inside, low, high, is_8_bit=values.dtype in (np.uint8, bool))
        elif self.kind == "percentile":
            low, high = _percentiles(inside, (low, high))
        else:
            scale = -np.frexp(np.abs(inside).max())[1]  # to at most 1, so that squares are finite
            numbers, inside = np.ldexp(numbers, scale), np.ldexp(inside, scale)
            low, high = (float(inside.mean() + k * inside.std()) for k in (low, high))
        return blacken(stretch(numbers, low, high), padding)


DEFAULT_WINDOW = Window()


def to_uint8(
    array: np.ndarray, *, percentiles: tuple[float, float] = (0.5, 99.5), padding: np.ndarray | None = None
) -> np.ndarray:
    """Convert grey levels of any depth to 8 bits by a percentile window.

    Values between the two percentiles are mapped linearly to 0-255, values beyond are clipped; where the percentiles
    coincide, the minimum and maximum take their place. uint8 is returned unchanged and bool becomes 0 and 255.

    Args:
        array: array of any shape, bool, integer or real floating point.
        percentiles: lower and upper percentile of the pixels, in [0, 100].
        padding: as in `Window.apply`.

    Returns:
        uint8 array of the same shape; zeros for a constant image.

    Raises:
        ValueError: if the array is empty, not of real numbers, or holds NaN or infinity, or the percentiles are not
            ascending within 0 and 100.

    Example:
        >>> to_uint8(np.array([-1.0, 0.0, 1.0]), percentiles=(0, 100))
        array([  0, 128, 255], dtype=uint8)
    """
    array = np.asarray(array)
    _require_real(array)
    if not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ValueError(f"expected percentiles 0 <= low < high <= 100, got {percentiles}")
    if array.dtype == np.uint8:
        return blacken(array, padding)
    if array.dtype == bool:
        return blacken(array.astype(np.uint8) * np.uint8(255), padding)
    values = finite_values(array)
    return blacken(stretch(values, *_percentiles(_inside(values, padding), percentiles)), padding)


def blacken(image: np.ndarray, padding: np.ndarray | None) -> np.ndarray:
    """Set the padding of an image to 0.

    Args:
        image: array of any shape.
        padding: bool array of the same shape, or None for an image without padding.

    Returns:
        The image, or a copy of it with zeros.

    Example:
        >>> blacken(np.array([7, 8]), np.array([False, True]))
        array([7, 0])
    """
    return image if padding is None else np.where(padding, image.dtype.type(0), image)


def finite_values(array: np.ndarray) -> np.ndarray:
    """Return an array as float64.

    Args:
        array: array of any shape, bool, integer or real floating point.

    Returns:
        float64 array of the same shape, of a finite range.

    Raises:
        ValueError: if the array is empty, not of real numbers, or holds NaN or infinity.

    Example:
        >>> finite_values(np.array([1, 2], np.uint16))
        array([1., 2.])
    """
    _require_real(array)
    values = array.astype(np.float64)
    with np.errstate(all="ignore"):
        if not np.isfinite(np.ptp(values)):
            raise ValueError("the pixels hold NaN or infinity: replace them first, for instance by numpy.nan_to_num")
    return values


def stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map values from low to high linearly to 0-255 and clip those beyond.

    Args:
        values: float64 array of any shape.
        low: value that becomes 0.
        high: value that becomes 255, at least ``low``.

    Returns:
        uint8 array of the same shape; zeros where ``low == high``.

    Example:
        >>> stretch(np.array([-5.0, 0.0, 2.0, 9.0]), 0, 4)
        array([  0,   0, 128, 255], dtype=uint8)
    """
    if low == high:
        return np.zeros(values.shape, np.uint8)
    if max(-low, high) > 1e307:  # high - low may overflow
        values, low, high = values / 16, low / 16, high / 16
    return unit_to_uint8((np.clip(values, low, high) - low) / (high - low))


def unit_to_uint8(values: np.ndarray) -> np.ndarray:
    """Scale values in [0, 1] to 0-255 and round them.

    Args:
        values: float array of any shape, in [0, 1].

    Returns:
        uint8 array of the same shape.

    Example:
        >>> unit_to_uint8(np.array([0.0, 0.5, 1.0]))
        array([  0, 128, 255], dtype=uint8)
    """
    return np.rint(values * 255).astype(np.uint8)


def _inside(values: np.ndarray, padding: np.ndarray | None) -> np.ndarray:
    """Return the values that are not padding; all of them where there are no others."""
    return values if padding is None or padding.all() else values[~padding]


def _percentiles(values: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    """Return two percentiles; the minimum and maximum where they coincide."""
    low, high = np.percentile(values, percentiles)
    return (low, high) if low < high else (values.min(), values.max())


def _require_real(array: np.ndarray) -> None:
    if array.size == 0 or array.dtype.kind not in "buif":
        raise ValueError(f"expected pixels of real numbers, got {array.dtype} {array.shape}: convert the array first")


def _require_fit(values: np.ndarray, low: float, high: float, *, is_8_bit: bool) -> None:
    ranges = (
        f"grey levels from {values.min():g} to {values.max():g} do not fit the fixed window from {low:g} to {high:g}"
    )
    if is_8_bit and (low < 0 or high > 255):
        raise ValueError(f"8-bit {ranges}: they went through a window already; pass the raw values")
    inside = np.mean((values >= low) & (values <= high))
    if inside < _MIN_SHARE:
        raise ValueError(f"{ranges}, {100 * inside:.2g} % of the pixels are inside: pass raw values in the same unit")
    if np.ptp(np.clip(values, low, high)) < _MIN_SHARE * (high - low):
        raise ValueError(
            f"{ranges}, they fill less than 1 % of it: pass raw values in the same unit, and leave out empty slices"
        )
