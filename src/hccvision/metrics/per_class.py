"""Figures of each class of a classifier against all others, and their macro and weighted means."""

from __future__ import annotations

import numpy as np

from hccvision.metrics.comparison import Comparison
from hccvision.metrics.confusion import figures, one_against_rest
from hccvision.metrics.figure import Figure
from hccvision.registry import METRICS

NAMES = ("sensitivity", "specificity", "precision", "npv", "f1")
_DIRECTIONS = {f"{mean}{name}": True for name in NAMES for mean in ("", "macro_", "weighted_")}


@METRICS.register("per_class", task="classification", higher_is_better=_DIRECTIONS)
def compute_per_class(comparison: Comparison) -> dict[str, Figure]:
    """Compute sensitivity, specificity, precision, NPV and F1 of each class, and their means.

    Args:
        comparison: of probabilities and class ids.

    Returns:
        ``<figure>/<class>``; ``macro_<figure>``, the mean over the classes where it is defined; ``weighted_<figure>``,
        the mean weighted by the cases of each class, over the same.

    Example:
        >>> c = Comparison([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], [0, 0, 1], classes=("normal", "cancer"))
        >>> found = compute_per_class(c)
        >>> print(found["precision/normal"], found["macro_precision"], found["weighted_precision"])
        1.0000 0.7500 0.8333
    """
    matrix = comparison.confusion_matrix
    cases = matrix.sum(1)
    of_class = [figures(matrix, positive=c, classes=comparison.classes) for c in range(len(matrix))]
    found: dict[str, Figure] = {}
    for name in NAMES:
        found |= {f"{name}/{c}": f[name] for c, f in zip(comparison.classes, of_class, strict=True)}
        values = np.array([float(f[name]) for f in of_class])
        defined = ~np.isnan(values)
        reason = f"{name} is undefined for every class"
        found[f"macro_{name}"] = Figure.ratio(
            values[defined].sum(), defined.sum(), reason=reason, count=len(comparison)
        )
        found[f"weighted_{name}"] = Figure.ratio(
            (values * cases)[defined].sum(), cases[defined].sum(), reason=reason, count=len(comparison)
        )
    return found


@METRICS.register(
    "likelihood_ratios",
    task="classification",
    higher_is_better={"positive_likelihood_ratio": True, "negative_likelihood_ratio": False},
)
def compute_likelihood_ratios(comparison: Comparison) -> dict[str, Figure]:
    """Compute by how much a call changes the odds of disease.

    Args:
        comparison: of probabilities and class ids.

    Returns:
        ``positive_likelihood_ratio``, sensitivity / (1 − specificity), and ``negative_likelihood_ratio``,
        (1 − sensitivity) / specificity; nan where a part is undefined or the denominator is 0.

    Example:
        >>> c = Comparison([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], [0, 0, 1], classes=("normal", "cancer"))
        >>> print(compute_likelihood_ratios(c)["positive_likelihood_ratio"])
        2.0000

    Source:
        Deeks and Altman, BMJ 329 (2004).
    """
    tp, fn, fp, tn = one_against_rest(comparison.confusion_matrix, comparison.positive_id)
    count, name = len(comparison), comparison.positive
    missing = f"no case is {name}" if not tp + fn else f"all cases are {name}" if not fp + tn else ""
    positives, negatives = tp + fn, fp + tn
    return {
        "positive_likelihood_ratio": Figure.ratio(
            tp * negatives, fp * positives, reason=missing or f"no other case was called {name}", count=count
        ),
        "negative_likelihood_ratio": Figure.ratio(
            fn * negatives, tn * positives, reason=missing or f"all other cases were called {name}", count=count
        ),
    }
