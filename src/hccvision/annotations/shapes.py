"""Boxes that enclose the shapes of annotation tools: points, turned rectangles, ellipses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

NO_BOX = (np.nan,) * 4


def numbers(values: Iterable[Any]) -> list[float]:
    """Return stated values as numbers.

    Args:
        values: numbers, or texts of numbers.

    Returns:
        A float for each; NaN for what is no number, such as a boolean.

    Example:
        >>> numbers([1, "2.5", None, True, 10**400])
        [1.0, 2.5, nan, nan, nan]
    """
    found = []
    for value in values:
        try:
            found.append(np.nan if isinstance(value, bool) else float(value))
        except (TypeError, ValueError, OverflowError):
            found.append(np.nan)
    return found


def size_of(height: Any, width: Any) -> tuple[int, int] | None:
    """Return a stated image size.

    Args:
        height: in pixels, as stated.
        width: in pixels, as stated.

    Returns:
        ``(height, width)``; None if it is missing or impossible.

    Example:
        >>> size_of(300, 484), size_of(0, 484), size_of(None, "484")
        ((300, 484), None, None)
    """
    is_stated = type(height) is int and type(width) is int and min(height, width) > 0
    return (height, width) if is_stated and max(height, width) < 2**31 else None


def box_of_points(xs: Iterable[Any], ys: Iterable[Any]) -> tuple[float, ...]:
    """Return the box that encloses points.

    Args:
        xs: their stated x.
        ys: their stated y, as many.

    Returns:
        ``x1, y1, x2, y2``; four NaN if there are no points, or one is not two finite numbers.

    Example:
        >>> box_of_points([10, 30, 20], [5, 5, "25"])
        (10.0, 5.0, 30.0, 25.0)
    """
    x, y = np.array(numbers(xs)), np.array(numbers(ys))
    if not len(x) or len(x) != len(y) or not np.isfinite(np.concatenate([x, y])).all():
        return NO_BOX
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def box_of_rectangle(
    corner: Iterable[Any], sides: Iterable[Any], degrees: Any = 0, *, about_centre: bool = True
) -> tuple[float, ...]:
    """Return the box that encloses a rectangle, which may be turned.

    Args:
        corner: stated x and y of its upper left corner before it is turned.
        sides: stated width and height.
        degrees: by which it is turned clockwise.
        about_centre: whether it is turned about its centre, or else about the corner.

    Returns:
        ``x1, y1, x2, y2``; four NaN if a number is missing.

    Example:
        >>> box_of_rectangle((10, 20), (30, 5))
        (10.0, 20.0, 40.0, 25.0)
        >>> [round(x) for x in box_of_rectangle((10, 20), (30, 5), 90, about_centre=False)]
        [5, 20, 10, 50]
    """
    (x, y), (width, height), (angle,) = numbers(corner), numbers(sides), numbers([degrees])
    if not angle or not (width > 0 and height > 0):
        return x, y, x + width, y + height
    if not np.isfinite([x, y, width, height, angle]).all():
        return NO_BOX
    pivot = (width / 2, height / 2) if about_centre else (0.0, 0.0)
    dx, dy = np.array([0, width, width, 0]) - pivot[0], np.array([0, 0, height, height]) - pivot[1]
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return box_of_points(x + pivot[0] + dx * cos - dy * sin, y + pivot[1] + dx * sin + dy * cos)


def box_of_ellipse(centre: Iterable[Any], radii: Iterable[Any], degrees: Any = 0) -> tuple[float, ...]:
    """Return the box that encloses an ellipse, which may be turned about its centre.

    Args:
        centre: stated x and y.
        radii: stated radii along x and y before it is turned.
        degrees: by which it is turned.

    Returns:
        ``x1, y1, x2, y2``; four NaN if a number is missing.

    Example:
        >>> box_of_ellipse((50, 50), (20, 10))
        (30.0, 40.0, 70.0, 60.0)
    """
    (x, y), (a, b), (angle,) = numbers(centre), numbers(radii), numbers([degrees])
    if not np.isfinite([x, y, a, b, angle]).all():
        return NO_BOX
    if a <= 0 or b <= 0:
        return x, y, x, y
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    half_width, half_height = float(np.hypot(a * cos, b * sin)), float(np.hypot(a * sin, b * cos))
    return x - half_width, y - half_height, x + half_width, y + half_height
