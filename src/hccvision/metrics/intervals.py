"""Confidence intervals: Wilson's for a share of a count, the bootstrap for anything else."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from hccvision.metrics.arrays import as_array
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure

if TYPE_CHECKING:
    from hccvision.metrics.metric import Metric

BY_PATIENT = "bootstrap by patient"


def wilson(successes: float, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Compute Wilson's score interval of a share.

    Unlike the interval of plus or minus two standard errors, it holds for few cases and for shares near 0 and 1.

    Args:
        successes: how many of the cases, ``0 <= successes <= total``; an expected number need not be whole.
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
    check_confidence(confidence)
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
    """Compute the percentile bootstrap interval of any statistic.

    Slices of one patient resemble one another: resampling slices makes the interval too narrow. Give their patients as
    ``groups``, and whole patients are resampled.

    Args:
        statistic: takes resampled arrays in the order given, and returns one finite number.
        arrays: N items each, first axis; tensors reach the statistic as numpy arrays, other sequences as lists (such as
            one dictionary of detections per image).
        samples: number of resamples.
        confidence: of the interval, between 0 and 1.
        seed: the same seed gives the same interval.
        groups: N names, such as patients; items of one name are drawn together.

    Returns:
        ``(low, high)``; a warning says where the resamples agree, so that both are one value.

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
    check_confidence(confidence)
    if samples < 1:
        raise ValueError(f"expected at least one resample, got samples={samples}")
    columns = [as_array(a) if hasattr(a, "__array__") else list(a) for a in arrays]
    count = len(columns[0]) if columns else 0
    members = members_of(range(count) if groups is None else groups)
    lengths = [len(c) for c in columns] + [sum(map(len, members))]
    if count == 0 or set(lengths) != {count}:
        raise ValueError(f"expected arrays, and groups if any, of one length above 0, got lengths {lengths}")

    generator = np.random.default_rng(seed)
    values = np.empty(samples)
    for i in range(samples):
        index = draw(members, generator)
        values[i] = statistic(*(c[index] if isinstance(c, np.ndarray) else [c[j] for j in index] for c in columns))
        if not math.isfinite(values[i]):
            raise ValueError(
                f"the statistic gave {values[i]} on resample {i}: let it return a number for any resample, "
                "such as one that holds a single class"
            )
    low, high = percentiles(values, confidence)
    if low == high:
        warnings.warn(
            f"the interval of {count} items in {len(members)} groups is the single value {low:g}, as the resamples "
            "agree: that is no measure of its uncertainty; for a share of a count use wilson",
            stacklevel=2,
        )
    return low, high


def add_intervals(
    metrics: Iterable[Metric],
    comparison: Comparison,
    figures: Mapping[str, Figure],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Figure]:
    """Add confidence intervals to the figures of a comparison.

    Where the patients of all images are known, whole patients are resampled (cluster bootstrap, percentile interval);
    otherwise, and where all resamples agree, figures that are a share of a count get Wilson's interval, which regards
    cases as independent. Counts and undefined figures get none. Each figure's ``method`` says how its interval was
    computed, or why there is none.

    Args:
        metrics: those that ``figures`` were computed by.
        comparison: what they were computed from.
        figures: name to figure.
        confidence: of the intervals, between 0 and 1.
        resamples: number of bootstrap resamples. Those in which a figure is undefined are left out; if they are more
            than half, it gets no interval.
        seed: the same seed gives the same intervals.

    Returns:
        The same figures, with intervals.

    Raises:
        ValueError: if ``confidence`` or ``resamples`` are out of range, or a metric fails on a resample.

    Example:
        >>> from hccvision.metrics.metric import compute_metrics, find_metrics
        >>> calls = [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.1, 0.9]]
        >>> c = Comparison(calls, [0, 0, 1, 1], classes=("normal", "cancer"), patients=["P1", "P2", "P3", "P4"])
        >>> metrics = find_metrics(["accuracy", "sensitivity"])
        >>> found = add_intervals(metrics, c, compute_metrics(metrics, c))
        >>> found["accuracy"].interval, found["accuracy"].method
        ((0.25, 1.0), 'bootstrap by patient')
    """
    check_confidence(confidence)
    if resamples < 1:
        raise ValueError(f"expected at least one resample, got resamples={resamples}")
    known = {p for p in comparison.patients or [] if p is not None}
    incomplete = comparison.patients is None or None in comparison.patients
    if incomplete or len(known) < 2:
        note = "patients are known for only some images" if known and incomplete else ""
        note = "all images are of one patient" if known and not incomplete else note
        return {name: _with_wilson(figure, confidence, note) for name, figure in figures.items()}

    wanted = [name for name, figure in figures.items() if figure.defined and not figure.is_count]
    values = _resampled(metrics, comparison, wanted, resamples, seed)
    found = dict(figures)
    for name in wanted:
        defined = values[name][~np.isnan(values[name])]
        undefined = resamples - len(defined)
        if undefined > resamples / 2:
            method = f"no interval: undefined in {undefined} of {resamples} resamples of patients"
            found[name] = figures[name].replace(interval=None, method=method)
            continue
        interval = percentiles(defined, confidence)
        if interval[0] < interval[1]:
            found[name] = figures[name].replace(interval=interval, method=BY_PATIENT)
        else:  # the bootstrap can't see beyond what the patients have in common
            share = "every resample" if defined.min() == defined.max() else "nearly every resample"
            found[name] = _with_wilson(figures[name], confidence, f"{share} of patients gives the same value")
    return found


def _resampled(
    metrics: Iterable[Metric], comparison: Comparison, wanted: Sequence[str], resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Return each figure's values in the resamples, nan where it is undefined."""
    values = {name: np.full(resamples, math.nan) for name in wanted}
    metrics, needed = list(metrics), set(wanted)
    comparison.plan(metrics)
    members = members_of(comparison.patients or [])
    generator = np.random.default_rng(seed)
    for i in tqdm(range(resamples), desc="intervals", leave=False, disable=None, delay=2):
        sample = resample(comparison, members, generator)
        for metric in metrics:
            try:
                found = metric(sample)
            except (ValueError, ArithmeticError) as error:
                raise ValueError(
                    f"the metric {metric.name!r} failed on a resample of the patients ({error}): let it return nan "
                    "where it is undefined, such as for images of a single class"
                ) from error
            for name in needed & found.keys():
                values[name][i] = found[name]
    return values


def _with_wilson(figure: Figure, confidence: float, note: str) -> Figure:
    if figure.is_count or not figure.defined:
        return figure
    if figure.successes is None or figure.count is None:
        return figure.replace(interval=None, method=f"no interval: {note or 'patients are not known'}")
    interval = wilson(figure.successes, figure.count, confidence=confidence)
    return figure.replace(interval=interval, method=f"Wilson ({note})" if note else "Wilson")


def members_of(groups: Sequence[Hashable]) -> list[np.ndarray]:
    """Return the item indices of each group, groups in order of first appearance so that names don't matter.

    Args:
        groups: N names, such as patients.

    Returns:
        One array of indices per group.

    Raises:
        ValueError: if a name is None.

    Example:
        >>> members_of(["P1", "P2", "P1"])
        [array([0, 2]), array([1])]
    """
    found: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        if group is None:
            raise ValueError(f"item {index} has no group (None): name its patient, or leave groups out")
        found.setdefault(group, []).append(index)
    return [np.array(indices) for indices in found.values()]


def resample(comparison: Comparison, members: Sequence[np.ndarray], generator: np.random.Generator) -> Comparison:
    """Draw as many patients as there are, with replacement; one who is drawn twice counts as two patients.

    Args:
        comparison: of all images.
        members: images of each patient, as `members_of` returns them.
        generator: random numbers.

    Returns:
        The comparison of the images drawn.
    """
    drawn = generator.integers(len(members), size=len(members))
    sample = comparison.take(np.concatenate([members[g] for g in drawn]))
    sample.patients = [number for number, g in enumerate(drawn) for _ in members[g]]
    return sample


def draw(members: Sequence[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """Draw as many groups as there are, with replacement, and return their items.

    Args:
        members: as `members_of` returns them.
        generator: random numbers.

    Returns:
        Indices of the items.
    """
    return np.concatenate([members[g] for g in generator.integers(len(members), size=len(members))])


def percentiles(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """Return the percentile interval of resampled values.

    Args:
        values: of the resamples.
        confidence: of the interval, between 0 and 1.

    Returns:
        ``(low, high)``.
    """
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def check_confidence(confidence: float) -> None:
    """Refuse a confidence that is not between 0 and 1.

    Args:
        confidence: of an interval.

    Raises:
        ValueError: if it is out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, such as 0.95, got {confidence}")
