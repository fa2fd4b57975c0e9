"""Infinite numbers and NaN, found wherever tensors are held."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def finite_rows(output: Any, count: int) -> list[bool]:
    """Return for each image of a batch whether a model's output for it is finite.

    Args:
        output: of a network or of its decoding: a tensor whose first axis is the batch, a list with one entry per
            image, or tuples, dictionaries and dataclasses of tensors. A tensor of another length concerns all images.
        count: number of images, at least 1.

    Returns:
        One entry per image: False if a number of its output is infinite or NaN.

    Example:
        >>> finite_rows(torch.tensor([[0.0, 1.0], [0.0, torch.nan]]), 2)
        [True, False]
        >>> finite_rows([{"scores": torch.tensor([torch.inf])}, {"scores": torch.zeros(0)}], 2)
        [False, True]
    """
    if isinstance(output, np.ndarray):
        output = torch.from_numpy(np.asarray(np.isfinite(output))) if output.dtype.kind in "fc" else None
    elif isinstance(output, Tensor):
        output = output.isfinite()
    if isinstance(output, Tensor):
        if output.dim() and len(output) == count:
            return [bool(row) for row in output.reshape(count, -1).all(1).tolist()]
        return [bool(output.all())] * count
    if isinstance(output, float):
        return [math.isfinite(output)] * count
    items = _items(output)
    if isinstance(output, list) and len(items) == count and not all(_is_batch(item, count) for item in items):
        return [all(finite_rows(item, 1)) for item in items]
    rows = [finite_rows(item, count) for item in items]
    return [all(found) for found in zip(*rows, strict=True)] if rows else [True] * count


def is_finite(output: Any) -> bool:
    """Return whether all numbers of an output are finite.

    Args:
        output: tensors, in any containers.

    Returns:
        False if one is infinite or NaN.

    Example:
        >>> is_finite({"boxes": torch.zeros(2, 4)}), is_finite((torch.zeros(2), float("nan")))
        (True, False)
    """
    return all(finite_rows(output, 1))


def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Find a tensor that holds an infinite number or NaN.

    Args:
        tensors: with their names.

    Returns:
        Name of the first one; None if all are finite.

    Example:
        >>> first_not_finite([("a", torch.zeros(2)), ("b", torch.tensor([1.0, torch.inf]))])
        'b'
    """
    return next((name for name, tensor in tensors if not bool(tensor.isfinite().all())), None)


def require_finite_weights(module: torch.nn.Module, when: str) -> None:
    """Raise unless the weights of a network are finite, and of a size that it can compute with.

    Args:
        module: the network.
        when: of the training, for the message.

    Raises:
        FloatingPointError: for a parameter or buffer that is infinite or NaN, or whose norm overflows float32.
    """
    state = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    if bool(torch.nn.utils.get_total_norm(state.values()).isfinite()):
        return
    odd = next((n for n, tensor in state.items() if not bool(tensor.norm().isfinite())), "all together")
    raise FloatingPointError(
        f"the weights became infinite, NaN or as good as infinite {when} ({odd}), and were not saved: lower the "
        'learning rate, or train with precision="fp32"'
    )


def _items(output: Any) -> list[Any]:
    if isinstance(output, Mapping):
        return list(output.values())
    if isinstance(output, (list, tuple)):
        return list(output)
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return [getattr(output, field.name) for field in dataclasses.fields(output)]
    return []


def _is_batch(item: Any, count: int) -> bool:
    return isinstance(item, (Tensor, np.ndarray)) and item.ndim > 1 and len(item) == count
