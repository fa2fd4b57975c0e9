"""Arrays of values that may be tensors, arrays or sequences, one item or row per image."""

from __future__ import annotations

from typing import Any

import numpy as np


def as_array(values: Any) -> np.ndarray:
    """Return a numpy array of a tensor (of any device and precision), an array or nested sequences.

    Args:
        values: a tensor, an array or nested sequences; tensors of floats become ``float64``.

    Returns:
        The array, a view where nothing had to change.

    Example:
        >>> as_array([0.5, 1.0])
        array([0.5, 1. ])
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values
    return np.asarray(values)


def as_items(values: Any) -> Any:
    """Return one item per image: an array or tensor as it is, anything else as a list.

    Args:
        values: N items.

    Returns:
        The items, `Detections` and the like as dictionaries (``as_dict()``).
    """
    if hasattr(values, "__array__"):
        return values
    return [item.as_dict() if hasattr(item, "as_dict") else item for item in values]


def take_items(items: Any, rows: np.ndarray) -> Any:
    """Return some of the items.

    Args:
        items: a list, an array or a tensor.
        rows: ``(n,)`` indices.

    Returns:
        The items, of the same kind.
    """
    return [items[i] for i in rows.tolist()] if isinstance(items, list) else items[rows]
