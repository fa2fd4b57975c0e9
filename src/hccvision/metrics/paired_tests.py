"""Tests of whether two predictors differ on the same cases, and the correction for many such tests."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from hccvision.metrics.arrays import as_array
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.metrics.intervals import check_confidence, members_of, percentiles

Statistic = Callable[[Comparison], float]
_Name = TypeVar("_Name", bound=Hashable)


@dataclass(frozen=True)
class PairedTest:
    """Difference of one figure between two predictors.

    Args:
        difference: first minus second, with its interval.
        p_value: two-sided, of the hypothesis that both are equally good.

    Example:
        >>> print(PairedTest(Figure(0.05, interval=(0.01, 0.09)), Figure(0.012)))
        0.0500 (95 %: 0.0100 to 0.0900), p = 0.0120
    """

    difference: Figure
    p_value: Figure

    def __str__(self) -> str:
        interval = self.difference.interval
        more = "" if interval is None else f" (95 %: {interval[0]:.4f} to {interval[1]:.4f})"
        return f"{self.difference}{more}, p = {self.p_value}"


def mcnemar(right_a: Any, right_b: Any) -> float:
    """Compute the exact McNemar test of whether two classifiers are right equally often.

    Only the cases count in which one is right and the other wrong. Cases are taken as independent, such as one per
    patient; for several of one patient use `permutation_test`.

    Args:
        right_a: ``(N,) bool``, whether the first is right.
        right_b: ``(N,) bool``, whether the second is, for the same cases.

    Returns:
        The two-sided p-value in [0, 1].

    Raises:
        ValueError: for arrays of other shapes or values.

    Example:
        >>> mcnemar([True] * 9 + [False], [False] * 8 + [True] * 2)
        0.0390625

    Source:
        McNemar, Psychometrika 12 (1947); exact by the binomial distribution.
    """
    a, b = _flags("right_a", right_a), _flags("right_b", right_b)
    if a.shape != b.shape:
        raise ValueError(f"expected two arrays of one length, got {a.shape} and {b.shape}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a + only_b == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue)


def permutation_test(
    statistic: Statistic,
    a: Comparison | Sequence[Comparison],
    b: Comparison | Sequence[Comparison],
    *,
    permutations: int = 1000,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedTest:
    """Test whether two predictors differ in any figure, by exchanging their predictions for some of the patients.

    If both are equally good, it doesn't matter which of the two made which prediction. Where patients are known, their
    images are exchanged, and resampled for the interval, together.

    Several trainings of each may be given, such as of different seeds; then the mean figure over them is compared. The
    p-value tells whether these trained models differ; the interval also resamples the trainings.

    Args:
        statistic: takes a `Comparison` and returns the figure, such as ``lambda c: float(compute_roc_auc(c))``.
        a: the first predictor's comparison, or one per training.
        b: the second's, of the same images in the same order; as many.
        permutations: number of random exchanges.
        resamples: number of bootstrap resamples for the interval of the difference; 0: no interval.
        confidence: of the interval, between 0 and 1.
        seed: the same seed gives the same result.

    Returns:
        The difference with its percentile interval, and the p-value, at least ``1 / (permutations + 1)``. Resamples in
        which the figure is undefined are left out; if they are more than half, there is no interval.

    Raises:
        ValueError: if the comparisons are not of the same images, classes and patients, or ``permutations`` is below 1.

    Example:
        >>> from hccvision.metrics.roc import compute_roc_auc
        >>> truths, rng = [0, 1] * 30, np.random.default_rng(0)
        >>> good, bad = (np.clip(np.array(truths) * s + rng.random(60) / 2, 0, 1) for s in (0.5, 0.0))
        >>> a, b = (Comparison(np.stack([1 - p, p], 1), truths, classes=("normal", "cancer")) for p in (good, bad))
        >>> found = permutation_test(lambda c: float(compute_roc_auc(c)), a, b, permutations=200, resamples=200)
        >>> found.difference > 0.2, found.p_value < 0.05
        (True, True)

    Source:
        Good, "Permutation, Parametric, and Bootstrap Tests of Hypotheses" (2005), section 3.7.
    """
    check_confidence(confidence)
    if permutations < 1 or resamples < 0:
        raise ValueError(f"expected permutations >= 1 and resamples >= 0, got {permutations} and {resamples}")
    both, trainings, count = _join(a, b)
    names = both.patients[:count] if both.patients is not None else [None]
    members = members_of(range(count) if None in names else names)
    starts = count * np.arange(2 * trainings).reshape(2, trainings)  # of the images of each training in ``both``

    def difference(
        rows: np.ndarray,
        swapped: np.ndarray | bool = False,
        chosen: np.ndarray = starts,
        patients: list[Hashable | None] | None = None,
    ) -> float:
        first, second = chosen[:, :, np.newaxis] + rows
        of_a, of_b = np.where(swapped, second, first), np.where(swapped, first, second)
        pairs = [(both.take(x), both.take(y)) for x, y in zip(of_a, of_b, strict=True)]
        if patients is not None:
            for comparison in (c for pair in pairs for c in pair):
                comparison.patients = patients
        return float(np.mean([float(statistic(x)) - float(statistic(y)) for x, y in pairs]))

    rows = np.arange(count)
    observed = difference(rows)
    if not np.isfinite(observed):
        undefined = Figure.undefined("the figure is undefined for one of the two", count=count)
        return PairedTest(undefined, undefined)
    generator = np.random.default_rng(seed)
    group = np.empty(count, np.int64)
    for number, indices in enumerate(members):
        group[indices] = number
    reached = 0
    for _ in range(permutations):
        found = difference(rows, generator.integers(2, size=len(members)).astype(bool)[group])
        reached += not abs(found) < abs(observed) - 1e-12  # an undefined one counts against a difference
    values = np.empty(resamples)
    for i in range(resamples):
        chosen = np.take_along_axis(starts, generator.integers(trainings, size=starts.shape), 1)
        drawn = generator.integers(len(members), size=len(members))
        copies: list[Hashable | None] = [n for n, g in enumerate(drawn) for _ in members[g]]  # drawn twice, he is two
        values[i] = difference(np.concatenate([members[g] for g in drawn]), chosen=chosen, patients=copies)
    values = values[np.isfinite(values)]
    interval, method = None, "no interval: undefined in most resamples" if resamples else ""
    if 2 * len(values) > resamples:
        low, high = percentiles(values, confidence)
        interval = (low, high) if low < high else None
        method = "paired bootstrap" if interval else "no interval: the resamples agree"
    return PairedTest(
        Figure(observed, count=count, interval=interval, method=method),
        Figure((reached + 1) / (permutations + 1), count=count),
    )


def holm(p_values: Mapping[_Name, float]) -> dict[_Name, float]:
    """Adjust the p-values of several tests, so that the chance of any false difference stays below the level.

    Args:
        p_values: test to p-value in [0, 1].

    Returns:
        Test to adjusted p-value, in the order given.

    Raises:
        ValueError: for a p-value outside [0, 1].

    Example:
        >>> holm({"auc": 0.01, "f1": 0.04, "mcc": 0.03})
        {'auc': 0.03, 'f1': 0.06, 'mcc': 0.06}

    Source:
        Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
    """
    bad = {name: p for name, p in p_values.items() if not 0 <= p <= 1}
    if bad:
        raise ValueError(f"expected p-values in [0, 1], got {bad}")
    adjusted: dict[_Name, float] = {}
    reached = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = reached
    return {name: adjusted[name] for name in p_values}


def _join(a: Comparison | Sequence[Comparison], b: Comparison | Sequence[Comparison]) -> tuple[Comparison, int, int]:
    """Return one comparison of the images of all trainings of both predictors, how many each has, and of how many."""
    of_a, of_b = ([c] if isinstance(c, Comparison) else list(c) for c in (a, b))
    every = [*of_a, *of_b]
    facts = [(len(c), c.classes, c.positive, c.patients) for c in every]
    if len(of_a) != len(of_b) or not of_a or any(fact != facts[0] for fact in facts):
        raise ValueError(
            f"expected comparisons of the same images, classes and patients, as many of each, got {of_a} and {of_b}"
        )
    predictions, truths = (
        [x for items in lists for x in items] for lists in zip(*((c.predictions, c.truths) for c in every), strict=True)
    )
    first = every[0]
    patients = None if first.patients is None else first.patients * len(every)
    joined = Comparison(predictions, truths, classes=first.classes, positive=first.positive, patients=patients)
    return joined, len(of_a), len(first)


def _flags(name: str, values: Any) -> np.ndarray:
    flags = as_array(values)
    if flags.ndim != 1 or not np.isin(flags, (0, 1)).all():
        raise ValueError(f"expected {name} as one True or False per case, got {flags.dtype} of shape {flags.shape}")
    return flags.astype(bool)
