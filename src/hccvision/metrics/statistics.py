"""Confidence intervals: Wilson's for a share of counts, the bootstrap for anything else."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np


def as_array(values: Any) -> np.ndarray:
    """Give a numpy array of what may be a tensor of any device and precision.

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


def wilson(successes: int, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Give Wilson's score interval of a share.

    Unlike the interval of plus or minus two standard errors, it holds for few cases and for shares near 0 and 1.

    Args:
        successes: how many of the cases, ``0 <= successes <= total``.
        total: how many cases; of none nothing is known, and the interval is ``(0.0, 1.0)``.
        confidence: of the interval, between 0 and 1.

    Returns:
        ``(low, high)`` as shares in [0, 1].

    Raises:
        ValueError: if the counts or the confidence are out of range.

    Example:
        >>> low, high = wilson(173, 184)
        >>> f"sensitivity {173 / 184:.1%}, 95 % interval {low:.1%} to {high:.1%}"
        'sensitivity 94.0%, 95 % interval 89.6% to 96.6%'

    Source:
        Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if not 0 <= successes <= total:
        raise ValueError(f"expected 0 <= successes <= total, got {successes} of {total}")
    _check_confidence(confidence)
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == total else min(1.0, centre + half)
    return float(low), float(high)


def bootstrap(
    statistic: Callable[..., float],
    *arrays: Any,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """Give the percentile bootstrap interval of any statistic.

    Slices of one patient resemble one another: resampling slices makes the interval too narrow, so give their patients
    as ``groups`` and whole patients are drawn.

    Args:
        statistic: takes resampled arrays in the order given, and returns one finite number.
        arrays: N items each, first axis; tensors reach the statistic as numpy arrays, other sequences as lists (such as
            one dictionary of detections per image).
        samples: how many resamples.
        confidence: of the interval, between 0 and 1.
        seed: the same seed gives the same interval.
        groups: N names, such as patients; items of one name are drawn together.

    Returns:
        ``(low, high)``.

    Raises:
        ValueError: if there are no items, lengths differ, a group is None, or the statistic is not finite.

    Example:
        >>> right = np.array([1, 1, 1, 0, 1, 1, 0, 1])
        >>> low, high = bootstrap(np.mean, right, groups=["P1", "P1", "P2", "P2", "P3", "P3", "P4", "P4"])
        >>> low, high
        (0.5, 1.0)

    Source:
        Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13; groups as in the cluster bootstrap.
    """
    _check_confidence(confidence)
    if samples < 1:
        raise ValueError(f"expected at least one resample, got samples={samples}")
    columns = [as_array(a) if hasattr(a, "__array__") else list(a) for a in arrays]
    count = len(columns[0]) if columns else 0
    members = _members(range(count) if groups is None else groups)
    lengths = [len(c) for c in columns] + [sum(map(len, members))]
    if count == 0 or set(lengths) != {count}:
        raise ValueError(f"expected arrays, and groups if any, of one length above 0, got lengths {lengths}")

    generator = np.random.default_rng(seed)
    values = np.empty(samples)
    for i in range(samples):
        drawn = generator.integers(len(members), size=len(members))
        index = drawn if groups is None else np.concatenate([members[g] for g in drawn])
        values[i] = statistic(*(c[index] if isinstance(c, np.ndarray) else [c[j] for j in index] for c in columns))
        if not math.isfinite(values[i]):
            raise ValueError(
                f"the statistic gave {values[i]} on resample {i}: let it return a number for any resample, "
                "such as one that holds a single class"
            )
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _members(groups: Sequence[Hashable]) -> list[np.ndarray]:
    """Give the item indices of each group, groups in order of first appearance so that names don't matter."""
    found: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        if group is None:
            raise ValueError(f"item {index} has no group (None): name its patient, or leave groups out")
        found.setdefault(group, []).append(index)
    return [np.array(indices) for indices in found.values()]


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, such as 0.95, got {confidence}")
