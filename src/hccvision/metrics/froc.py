"""The free-response ROC: lesions found at given false positives per image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hccvision.metrics.average_precision import NO_TRUTHS
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.metrics.matches import Matches
from hccvision.metrics.matching import at_one_threshold
from hccvision.metrics.rows import Images
from hccvision.registry import METRICS

FROC_RATES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)


@METRICS.register("froc", task="detection", higher_is_better=True, matching=at_one_threshold)
def compute_froc(
    comparison: Comparison, *, iou_threshold: float = 0.5, rates: Sequence[float] = FROC_RATES
) -> dict[str, Figure]:
    """Compute the share of lesions found at given false positives per image (free-response ROC).

    Matching is within each class by the VOC rule; counts are over all classes. Images without lesions count as
    images. Each rate takes the best score threshold that does not exceed it, without interpolation.

    Args:
        comparison: of detections and truths; difficult truths are ignored.
        iou_threshold: a match needs at least this IoU.
        rates: false positives per image.

    Returns:
        ``froc``, the mean over the rates, and ``froc/<rate>`` for each, in [0, 1]; nan without truths.

    Raises:
        ValueError: if there is no rate, or a negative one.

    Source:
        Bunch et al., SPIE 127 (1977); the seven rates: Setio et al. (LUNA16), Medical Image Analysis 42 (2017).
    """
    if len(rates) == 0 or not all(rate >= 0 for rate in rates):
        raise ValueError(f"expected rates of 0 or more false positives per image, got {tuple(rates)}")
    m = comparison.matches((iou_threshold,))
    names, total = [f"froc/{rate:g}" for rate in rates], int(m.num_truths.sum())
    if not total:
        return dict.fromkeys(["froc", *names], Figure.undefined(NO_TRUTHS, count=0))
    found, false = _counts(m)
    at = np.searchsorted(false, np.asarray(rates) * m.num_images, side="right") - 1
    values = [int(found[i]) / total for i in at]
    figures = {name: Figure(value, count=total) for name, value in zip(names, values, strict=True)}
    return {"froc": Figure(float(np.mean(values)), count=total), **figures}


def froc_points(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of the curve.

    Args:
        matches: at one IoU threshold.

    Returns:
        ``(n,)`` false positives per image, ascending, and ``(n,)`` share of lesions found; nan without truths.
    """
    found, false = _counts(matches)
    total = int(matches.num_truths.sum())
    return false / matches.num_images, found / total if total else np.full(len(found), np.nan)


def _counts(m: Matches) -> tuple[np.ndarray, np.ndarray]:
    """Return lesions found and false positives at every threshold, from none on."""
    counted = ~m.ignored[0]
    hits, scores = m.hits[0, counted], m.scores[counted]
    last_of_score = np.append(scores[1:] != scores[:-1], True)[: len(scores)]  # equal scores pass a threshold together
    return np.append(0, np.cumsum(hits)[last_of_score]), np.append(0, np.cumsum(~hits)[last_of_score])


def froc(
    predictions: Images,
    truths: Images,
    *,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    iou_threshold: float = 0.5,
    rates: Sequence[float] = FROC_RATES,
) -> dict[str, Figure]:
    """Compute the share of lesions found at given false positives per image (free-response ROC).

    Matching is within each class by the VOC rule; counts are over all classes. Images without lesions count as
    images. Each rate takes the best score threshold that does not exceed it, without interpolation.

    Args:
        predictions: one dictionary per image, see `hccvision.metrics.detection`.
        truths: likewise, in the same order; difficult ones are ignored.
        classes: the K class names in order.
        num_classes: K, instead of ``classes``.
        iou_threshold: a match needs at least this IoU.
        rates: false positives per image.

    Returns:
        ``froc``, the mean over the rates, and ``froc/<rate>`` for each, in [0, 1]; nan without truths.

    Raises:
        ValueError: as `match`, or if there is no rate, or a negative one.

    Example:
        >>> truths = [{"boxes": [[0, 0, 10, 10]], "labels": [0]}, {"boxes": [], "labels": []}]
        >>> predictions = [
        ...     {"boxes": [[0, 0, 10, 9]], "scores": [0.6], "labels": [0]},
        ...     {"boxes": [[5, 5, 9, 9]], "scores": [0.8], "labels": [0]},
        ... ]
        >>> found = froc(predictions, truths, classes=("tumor",), rates=(0.25, 0.5))
        >>> {name: str(figure) for name, figure in found.items()}
        {'froc': '0.5000', 'froc/0.25': '0.0000', 'froc/0.5': '1.0000'}

    Source:
        Bunch et al., SPIE 127 (1977); the seven rates: Setio et al. (LUNA16), Medical Image Analysis 42 (2017).
    """
    comparison = Comparison.of_boxes(predictions, truths, classes, num_classes)
    return compute_froc(comparison, iou_threshold=iou_threshold, rates=rates)
