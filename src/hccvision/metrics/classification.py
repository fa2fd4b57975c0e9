"""Figures of a classifier, from its confusion matrix; one rule for what is undefined.

A share of no cases (0/0) is 0.0, never NaN: the sensitivity where nobody is ill, the precision where nobody is called
ill, a correlation where only one class occurs. Averages over classes leave out classes that don't occur, as
scikit-learn's do. The ROC AUC of a single class is 0.5, chance.

The metrics of the task ``"multilabel"`` judge images that show several classes or none, each class by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from hccvision.metrics.statistics import as_array
from hccvision.registry import METRICS

FIGURES: dict[str, str] = {
    "accuracy": "the share of all cases given their own class",
    "balanced_accuracy": "the mean, over the classes that occur in the truths, of the share of their cases found",
    "sensitivity": "TP / (TP + FN): the share of positive cases found",
    "specificity": "TN / (TN + FP): the share of the other cases left alone",
    "precision": "TP / (TP + FP): the share of positive calls that are right",
    "npv": "TN / (TN + FN): the share of negative calls that are right",
    "f1": "2 TP / (2 TP + FP + FN): the harmonic mean of precision and sensitivity",
    "macro_f1": "the mean of every class's F1, over the classes that occur in truths or predictions",
    "kappa": "Cohen's kappa over all classes: agreement beyond chance",
    "mcc": "the correlation of truths and predictions over all classes (Matthews, Gorodkin)",
}

YES = 0.5  # the probability from which a multi-label classifier says that it sees a class


def confusion_matrix(predictions: Any, truths: Any, *, classes: Sequence[str]) -> np.ndarray:
    """Count how often each class was called each class.

    Args:
        predictions: ``(N, K)`` probabilities in [0, 1]; the highest is the call, the lowest id on a tie.
        truths: ``(N,)`` class ids ``0 ... K-1``.
        classes: the K class names in order.

    Returns:
        ``(K, K) int64``, one row per truth and one column per call.

    Raises:
        ValueError: if there are no cases, or shapes, class ids or probabilities are not as above.

    Example:
        >>> probabilities = [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]
        >>> confusion_matrix(probabilities, [0, 0, 1], classes=("normal", "cancer"))
        array([[1, 1],
               [0, 1]])
    """
    probabilities, ids = _check(predictions, truths, classes)
    k = len(classes)
    return np.bincount(ids * k + probabilities.argmax(1), minlength=k * k).reshape(k, k)


def figures(matrix: Any, *, positive: int | None = None) -> dict[str, float]:
    """Give every figure of `FIGURES` that follows from a confusion matrix.

    Sensitivity, specificity, precision, NPV and F1 are of the positive class against all others; the rest are over
    all classes.

    Args:
        matrix: ``(K, K)`` counts, one row per truth and one column per call, K at least 2.
        positive: the class id regarded as disease; None is the last class.

    Returns:
        Name to value: shares in [0, 1], kappa and mcc in [−1, 1]; what is undefined is 0.0.

    Raises:
        ValueError: if the matrix is not square, holds no case or a negative or broken count, or lacks the class.

    Example:
        >>> f"{figures([[179, 3], [11, 173]])['accuracy']:.2%}"
        '96.17%'

    Source:
        MCC of K classes: Gorodkin, Computational Biology and Chemistry 28 (2004). Kappa: Cohen (1960).
    """
    counts = as_array(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or len(counts) < 2:
        raise ValueError(f"expected a (K, K) matrix of counts with K of at least 2, got shape {counts.shape}")
    if not ((counts >= 0) & (counts == np.floor(counts))).all() or counts.sum() < 1:
        raise ValueError(f"expected whole counts of 0 or more with at least one case, got {counts.tolist()}")
    tp, fn, fp, tn = _against_rest(counts, positive)
    # Python's whole numbers: no overflow, and a perfect correlation is exactly 1
    rights, rows, columns = (list(map(int, c)) for c in (counts.diagonal(), counts.sum(1), counts.sum(0)))
    total, right = sum(rows), sum(rights)
    by_chance = sum(r * c for r, c in zip(rows, columns, strict=True))
    spread = (total**2 - sum(r * r for r in rows)) * (total**2 - sum(c * c for c in columns))
    recalls = [d / r for d, r in zip(rights, rows, strict=True) if r]
    f1s = [2 * d / (r + c) for d, r, c in zip(rights, rows, columns, strict=True) if r + c]
    return {
        "accuracy": right / total,
        "balanced_accuracy": sum(recalls) / len(recalls),
        "sensitivity": _ratio(tp, tp + fn),
        "specificity": _ratio(tn, tn + fp),
        "precision": _ratio(tp, tp + fp),
        "npv": _ratio(tn, tn + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "macro_f1": sum(f1s) / len(f1s),
        "kappa": _ratio(right * total - by_chance, total**2 - by_chance),
        "mcc": _ratio(right * total - by_chance, math.sqrt(spread)),
    }


def binary_figures(tp: int, fn: int, fp: int, tn: int) -> dict[str, float]:
    """Give every figure of `FIGURES` that follows from the four counts of a two-class table.

    Args:
        tp: positive cases called positive.
        fn: positive cases called negative.
        fp: negative cases called positive.
        tn: negative cases called negative.

    Returns:
        Name to value, as `figures` gives them.

    Raises:
        ValueError: if a count is negative or not whole, or all are 0.

    Example:
        >>> f"{binary_figures(tp=173, fn=11, fp=3, tn=179)['f1']:.3%}"
        '96.111%'
    """
    return figures([[tn, fp], [fn, tp]])


def _register(name: str, meaning: str) -> None:
    @METRICS.register(name, task="classification")
    def metric(
        predictions: Any, truths: Any, *, classes: Sequence[str], positive: int | None = None
    ) -> dict[str, float]:
        return {name: figures(confusion_matrix(predictions, truths, classes=classes), positive=positive)[name]}

    metric.__name__ = metric.__qualname__ = name
    metric.__doc__ = f"Give {meaning}."


for _name, _meaning in FIGURES.items():
    _register(_name, _meaning)


@METRICS.register("confusion", task="classification")
def confusion(
    predictions: Any, truths: Any, *, classes: Sequence[str], positive: int | None = None
) -> dict[str, float]:
    """Give all of `FIGURES`, and the four counts of the positive class against all others.

    Args:
        predictions: ``(N, K)`` probabilities in [0, 1].
        truths: ``(N,)`` class ids ``0 ... K-1``.
        classes: the K class names in order.
        positive: the class id regarded as disease; None is the last class.

    Returns:
        ``tp``, ``fn``, ``fp``, ``tn`` and every figure of `figures`.

    Raises:
        ValueError: as `confusion_matrix`.

    Example:
        >>> found = confusion([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], [0, 0, 1], classes=("normal", "cancer"))
        >>> found["tp"], found["fp"], found["specificity"]
        (1.0, 1.0, 0.5)
    """
    matrix = confusion_matrix(predictions, truths, classes=classes)
    counts = dict(zip(("tp", "fn", "fp", "tn"), map(float, _against_rest(matrix, positive)), strict=True))
    return {**counts, **figures(matrix, positive=positive)}


@METRICS.register("roc_auc", task="classification")
def roc_auc(predictions: Any, truths: Any, *, classes: Sequence[str], positive: int | None = None) -> dict[str, float]:
    """Give the area under the ROC curve: how often a positive case scores above another, ties counting half.

    Args:
        predictions: ``(N, K)`` probabilities in [0, 1]; the positive class's column is the score.
        truths: ``(N,)`` class ids ``0 ... K-1``.
        classes: the K class names in order.
        positive: the class id regarded as disease, against all others; None is the last class.

    Returns:
        ``roc_auc`` in [0, 1]; 0.5, chance, where the truths hold only positives or none.

    Raises:
        ValueError: as `confusion_matrix`.

    Example:
        >>> roc_auc([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], [0, 0, 1], classes=("normal", "cancer"))
        {'roc_auc': 1.0}

    Source:
        Hanley and McNeil, Radiology 143 (1982): the area is the Mann-Whitney statistic.
    """
    probabilities, ids = _check(predictions, truths, classes)
    positive = _positive(positive, len(classes))
    area = _area(probabilities[:, positive], ids == positive)
    return {"roc_auc": 0.5 if area is None else area}


@METRICS.register("multilabel_auc", task="multilabel")
def multilabel_auc(predictions: Any, truths: Any, *, classes: Sequence[str]) -> dict[str, float]:
    """Give the area under the ROC curve of every class, and their mean.

    Args:
        predictions: ``(N, K)`` probabilities in [0, 1], each class by itself.
        truths: ``(N, K)`` of 0 and 1.
        classes: the K class names in order.

    Returns:
        ``multilabel_auc/<class>`` as `roc_auc`, and ``multilabel_auc``, the mean over the classes that some cases show
        and others don't; 0.5, chance, where there is none.

    Raises:
        ValueError: if there are no cases, or shapes, truths or probabilities are not as above.

    Example:
        >>> multilabel_auc([[0.9, 0.2], [0.4, 0.1], [0.2, 0.8]], [[1, 1], [0, 0], [0, 1]], classes=("hcc", "cyst"))
        {'multilabel_auc': 1.0, 'multilabel_auc/hcc': 1.0, 'multilabel_auc/cyst': 1.0}
    """
    probabilities, shown = _check_multilabel(predictions, truths, classes)
    areas = [_area(p, s) for p, s in zip(probabilities.T, shown.T, strict=True)]
    return _per_class("multilabel_auc", areas, classes, undefined=0.5)


@METRICS.register("multilabel_f1", task="multilabel")
def multilabel_f1(predictions: Any, truths: Any, *, classes: Sequence[str]) -> dict[str, float]:
    """Give the F1 of every class, said to be seen from a probability of 0.5, and their mean.

    Args:
        predictions: ``(N, K)`` probabilities in [0, 1], each class by itself.
        truths: ``(N, K)`` of 0 and 1.
        classes: the K class names in order.

    Returns:
        ``multilabel_f1/<class>``, and ``multilabel_f1``, the mean over the classes that occur in truths or calls; 0.0
        where there is none.

    Raises:
        ValueError: as `multilabel_auc`.

    Example:
        >>> multilabel_f1([[0.9, 0.2], [0.7, 0.1], [0.2, 0.8]], [[1, 1], [1, 0], [0, 0]], classes=("hcc", "cyst"))
        {'multilabel_f1': 0.5, 'multilabel_f1/hcc': 1.0, 'multilabel_f1/cyst': 0.0}
    """
    probabilities, shown = _check_multilabel(predictions, truths, classes)
    called = probabilities >= YES
    right, wrong = (called & shown).sum(0).tolist(), (called ^ shown).sum(0).tolist()
    f1s = [2 * r / (2 * r + w) if r + w else None for r, w in zip(right, wrong, strict=True)]
    return _per_class("multilabel_f1", f1s, classes, undefined=0.0)


@METRICS.register("exact_match", task="multilabel")
def exact_match(predictions: Any, truths: Any, *, classes: Sequence[str]) -> dict[str, float]:
    """Give the share of cases of which every class is called right, said to be seen from a probability of 0.5.

    Args:
        predictions: ``(N, K)`` probabilities in [0, 1], each class by itself.
        truths: ``(N, K)`` of 0 and 1.
        classes: the K class names in order.

    Returns:
        ``exact_match`` in [0, 1].

    Raises:
        ValueError: as `multilabel_auc`.

    Example:
        >>> exact_match([[0.9, 0.2], [0.4, 0.1]], [[1, 1], [0, 0]], classes=("hcc", "cyst"))
        {'exact_match': 0.5}
    """
    probabilities, shown = _check_multilabel(predictions, truths, classes)
    return {"exact_match": float(((probabilities >= YES) == shown).all(1).mean())}


@dataclass(frozen=True)
class ReportCheck:
    """What came of checking a report's figures against its counts; prints as a table.

    Args:
        figures: what the counts give, as `binary_figures`.
        claims: what was claimed, as shares.
        faults: a sentence for each claim that cannot follow, by its name.

    Example:
        >>> ReportCheck(figures={"f1": 0.9611}, claims={"f1": 0.96}, faults={}).consistent
        True
    """

    figures: dict[str, float]
    claims: dict[str, float]
    faults: dict[str, str]

    @property
    def consistent(self) -> bool:
        """Whether every claim can follow."""
        return not self.faults

    @property
    def findings(self) -> list[str]:
        """One sentence for each claim that cannot follow."""
        return list(self.faults.values())

    def __str__(self) -> str:
        rows = [("figure", "claimed", "from counts", "can follow")]
        for name, claim in self.claims.items():
            rows.append((name, f"{claim:.4g}", f"{self.figures[name]:.4f}", "no" if name in self.faults else "yes"))
        table = [f"{name:<17} {claim:>8} {figure:>12} {follows:>11}" for name, claim, figure, follows in rows]
        return "\n".join(table + self.findings)


def check_report(counts: Mapping[str, int], claims: Mapping[str, float], *, decimals: int | None = None) -> ReportCheck:
    """Check which figures of a report can follow from its own counts, and from one another.

    Each claim is compared with what the counts give, rounded to the nearest, a tie either way. An F1 that fails is also
    held against the claimed precision and sensitivity, each taken anywhere within its rounding.

    Args:
        counts: ``tp``, ``fn``, ``fp`` and ``tn`` of the positive class.
        claims: figures by the names of `FIGURES`, as shares, or in percent where above 1.
        decimals: how many decimals of a share were printed (2 are whole percents); None takes as many as each claim
            shows, and at least 2.

    Returns:
        The check; print it for a table with a sentence on each claim that fails.

    Raises:
        ValueError: if a count is missing or a claim is unknown or not a finite number.

    Example:
        >>> check = check_report({"tp": 173, "fn": 11, "fp": 3, "tn": 179}, {"precision": 98, "f1": 98})
        >>> print(check)
        figure             claimed  from counts  can follow
        precision             0.98       0.9830         yes
        f1                    0.98       0.9611          no
        f1 is claimed as 0.98, but the counts give 0.9611
        >>> check.consistent
        False
    """
    if set(counts) != {"tp", "fn", "fp", "tn"}:
        raise ValueError(f"expected the counts tp, fn, fp and tn, got {', '.join(map(str, counts)) or 'none'}")
    unknown = [name for name in claims if name not in FIGURES]
    if unknown:
        raise ValueError(f"can't check the claim {unknown[0]!r}: known figures are {', '.join(FIGURES)}")
    found = binary_figures(**counts)
    shares = {name: _share(name, claim) for name, claim in claims.items()}
    bounds = {name: _rounding_bounds(share, decimals) for name, share in shares.items()}
    faults = {}
    for name, (low, high) in bounds.items():
        if not low - 1e-12 <= found[name] <= high + 1e-12:
            faults[name] = f"{name} is claimed as {shares[name]}, but the counts give {found[name]:.4f}"
    if "f1" in faults and {"precision", "sensitivity"} <= set(bounds):
        low, high = (max(0.0, m) for m in map(_harmonic_mean, bounds["precision"], bounds["sensitivity"]))
        faults["f1"] += (
            f"; with the claimed precision {shares['precision']} and sensitivity {shares['sensitivity']} "
            f"it lies between {low:.4f} and {high:.4f}, even at the kindest rounding"
        )
    return ReportCheck(found, {name: float(share) for name, share in shares.items()}, faults)


def _check(predictions: Any, truths: Any, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Give ``(N, K) float64`` probabilities and ``(N,) int64`` class ids, or say what is wrong with them."""
    probabilities, ids, k = as_array(predictions), as_array(truths), len(classes)
    if k < 2:
        raise ValueError(f"expected at least two classes, got {tuple(classes)}")
    if len(set(classes)) != k:
        raise ValueError(f"expected class names that differ, got {tuple(classes)}")
    if ids.size == 0 or probabilities.size == 0:
        raise ValueError("there are no cases to score: expected at least one prediction and its truth")
    if ids.ndim != 1 or probabilities.shape != (len(ids), k):
        raise ValueError(
            f"expected predictions of shape (N, {k}), one column per class, and truths of shape (N,); "
            f"got {probabilities.shape} and {ids.shape}"
        )
    _check_range(probabilities, "softmax")
    known = np.isin(ids, np.arange(k))
    if not known.all():
        row = np.flatnonzero(~known)[0]
        raise ValueError(f"truths[{row}] is {ids[row]}: expected a class id from 0 to {k - 1}, of {tuple(classes)}")
    return probabilities.astype(np.float64), ids.astype(np.int64)


def _check_multilabel(predictions: Any, truths: Any, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Give ``(N, K) float64`` probabilities and ``(N, K) bool`` truths, or say what is wrong with them."""
    probabilities, shown, k = as_array(predictions), as_array(truths), len(classes)
    if k < 1 or len(set(classes)) != k:
        raise ValueError(f"expected class names that differ, got {tuple(classes)}")
    if shown.size == 0 or probabilities.size == 0:
        raise ValueError("there are no cases to score: expected at least one prediction and its truth")
    if shown.ndim != 2 or shown.shape[1] != k or probabilities.shape != shown.shape:
        raise ValueError(
            f"expected predictions and truths of shape (N, {k}), one column per class; got {probabilities.shape} and "
            f"{shown.shape}"
        )
    _check_range(probabilities, "sigmoid")
    if not np.isin(shown, (0, 1)).all():
        row = np.argwhere(~np.isin(shown, (0, 1)))[0][0]
        raise ValueError(f"truths[{row}] is {shown[row].tolist()}: expected 0 or 1 for each of {tuple(classes)}")
    return probabilities.astype(np.float64), shown.astype(bool)


def _check_range(probabilities: np.ndarray, activation: str) -> None:
    in_range = (probabilities >= -1e-6) & (probabilities <= 1 + 1e-6)  # False for NaN too
    if not in_range.all():
        row, column = np.argwhere(~in_range)[0]
        raise ValueError(
            f"predictions[{row}] holds {probabilities[row, column]}: expected probabilities in [0, 1]; "
            f"for raw outputs, take their {activation} first"
        )


def _area(scores: np.ndarray, ill: np.ndarray) -> float | None:
    """Give the area under the ROC curve; None where all cases are ill or none is."""
    levels, level = np.unique(scores, return_inverse=True)
    ill_at = np.bincount(level[ill], minlength=len(levels))
    well_at = np.bincount(level[~ill], minlength=len(levels))
    pairs = int(ill.sum()) * int((~ill).sum())
    won = (ill_at * (np.cumsum(well_at) - well_at / 2)).sum()
    return float(won / pairs) if pairs else None


def _per_class(
    name: str, values: Sequence[float | None], classes: Sequence[str], *, undefined: float
) -> dict[str, float]:
    defined = [v for v in values if v is not None]
    mean = sum(defined) / len(defined) if defined else undefined
    each = {f"{name}/{c}": undefined if v is None else v for c, v in zip(classes, values, strict=True)}
    return {name: mean, **each}


def _positive(positive: int | None, k: int) -> int:
    if positive is None:
        return k - 1
    if positive not in range(k):
        raise ValueError(f"expected the positive class as an id from 0 to {k - 1}, got {positive!r}")
    return int(positive)


def _against_rest(matrix: np.ndarray, positive: int | None) -> tuple[int, int, int, int]:
    """Give tp, fn, fp and tn of one class against all others."""
    c = _positive(positive, len(matrix))
    tp, of_truth, of_calls, total = (int(n) for n in (matrix[c, c], matrix[c].sum(), matrix[:, c].sum(), matrix.sum()))
    return tp, of_truth - tp, of_calls - tp, total - of_truth - of_calls + tp


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _harmonic_mean(a: float, b: float) -> float:
    return _ratio(2 * a * b, a + b)


def _share(name: str, claim: float) -> Decimal:
    """Give a claim as a share, in just the digits it was written with."""
    if not math.isfinite(claim):
        raise ValueError(f"expected {name} as a share or in percent, got {claim}")
    share = Decimal(str(claim))
    return (share / 100 if abs(share) > 1 else share).normalize()


def _rounding_bounds(share: Decimal, decimals: int | None) -> tuple[float, float]:
    """Give the least and the greatest value that round to a share of so many decimals."""
    shown = max(2, -int(share.as_tuple().exponent)) if decimals is None else decimals
    half_unit = Decimal(5).scaleb(-1 - shown)
    return max(float(share - half_unit), -1.0), min(float(share + half_unit), 1.0)
