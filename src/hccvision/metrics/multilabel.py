"""Metrics of the task ``"multilabel"``: images that show several classes or none, each class judged by itself."""

from __future__ import annotations

from collections.abc import Mapping

from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.metrics.roc import roc_area
from hccvision.registry import METRICS

YES = 0.5  # lowest probability at which a multi-label classifier calls a class present


@METRICS.register("multilabel_auc", task="multilabel", higher_is_better=True)
def compute_multilabel_auc(comparison: Comparison) -> dict[str, Figure]:
    """Compute the area under the ROC curve of every class, and their mean.

    Args:
        comparison: of probabilities and class presence, each ``(N, K)``.

    Returns:
        ``multilabel_auc``, the mean over the classes that some images show and others do not, and
        ``multilabel_auc/<class>``; nan where undefined.
    """
    columns = zip(comparison.classes, comparison.probabilities.T, comparison.present.T, strict=True)
    areas = {name: roc_area(scores, shown, name=name) for name, scores, shown in columns}
    return _with_mean("multilabel_auc", areas, "no class is shown by some images and not by others", len(comparison))


@METRICS.register("multilabel_f1", task="multilabel", higher_is_better=True)
def compute_multilabel_f1(comparison: Comparison) -> dict[str, Figure]:
    """Compute the F1 of every class, called present from a probability of 0.5, and their mean.

    Args:
        comparison: of probabilities and class presence, each ``(N, K)``.

    Returns:
        ``multilabel_f1``, the mean over the classes that occur in truths or calls, and ``multilabel_f1/<class>``; nan
        where undefined.
    """
    called, shown = comparison.probabilities >= YES, comparison.present
    counts = zip(comparison.classes, (called & shown).sum(0).tolist(), (called ^ shown).sum(0).tolist(), strict=True)
    f1s = {
        name: Figure.ratio(
            2 * right,
            2 * right + wrong,
            reason=f"no image shows {name}, and none was called {name}",
            count=len(comparison),
        )
        for name, right, wrong in counts
    }
    return _with_mean("multilabel_f1", f1s, "no image shows any class, and none was called", len(comparison))


@METRICS.register("exact_match", task="multilabel", higher_is_better=True)
def compute_exact_match(comparison: Comparison) -> Figure:
    """Compute the share of images of which every class is called right, present from a probability of 0.5.

    Args:
        comparison: of probabilities and class presence, each ``(N, K)``.

    Returns:
        The share in [0, 1].
    """
    right = ((comparison.probabilities >= YES) == comparison.present).all(1)
    return Figure.share(int(right.sum()), len(comparison))


def _with_mean(name: str, figures: Mapping[str, Figure], reason: str, count: int) -> dict[str, Figure]:
    defined = [figure for figure in figures.values() if figure.defined]
    mean = Figure(sum(defined) / len(defined), count=count) if defined else Figure.undefined(reason, count=count)
    return {name: mean, **{f"{name}/{c}": figure for c, figure in figures.items()}}
