"""What kinds of errors a detector makes, and how much average precision each kind costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from hccvision.metrics.average_precision import average_precision_of_hits, mean_over_classes
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.metrics.matches import Matches
from hccvision.metrics.matching import Matching, overlap_of, pairs_within
from hccvision.registry import METRICS

KINDS = ("localisation", "class", "duplicate", "class_and_localisation", "background")


@dataclass(frozen=True, eq=False)
class Errors:
    """The kind of error of each detection, and the truths that were missed.

    Args:
        kinds: ``(D,)`` index into `KINDS`; −1 for a hit, and for a detection that is ignored.
        targets: ``(D,)`` index of the truth that a detection of the wrong class, or a badly placed one, is nearest to;
            −1 for all others.
        missed: ``(M,) bool``, truths that no detection is near to.
    """

    kinds: np.ndarray
    targets: np.ndarray
    missed: np.ndarray


def classify_errors(matches: Matches, *, background: float = 0.1) -> Errors:
    """Tell which kind of error each false positive is: the first that holds.

    ``localisation``: the nearest truth of its class is near, but not near enough for a match. ``class``: on a truth of
    another class. ``duplicate``: on a truth that a detection of higher score has found. ``class_and_localisation``:
    near a truth of another class. ``background``: near none. *On* is the IoU of the matching, *near* at least
    ``background``.

    Args:
        matches: at one IoU threshold, by either rule.
        background: IoU below which a detection is near no truth.

    Returns:
        The errors.

    Raises:
        ValueError: if ``background`` is not between 0 and the IoU threshold.

    Source:
        Bolya et al., "TIDE: a general toolbox for identifying object detection errors", ECCV 2020.
    """
    threshold = matches.iou_thresholds[0]
    if not 0 < background <= threshold:
        raise ValueError(f"expected background in (0, {threshold}], got {background}")
    wrong = ~matches.hits[0] & ~matches.ignored[0]
    own, own_iou = _nearest(matches, of_same_class=True)
    other, other_iou = _nearest(matches, of_same_class=False)
    badly_placed = (own_iou >= background) & (own_iou < threshold)
    tests = (badly_placed, other_iou >= threshold, own_iou >= threshold, other_iou >= background)
    kinds = np.select([wrong & test for test in tests], range(4), 4)
    kinds = np.where(wrong, kinds, -1)
    targets = np.select([kinds == KINDS.index("localisation"), kinds == KINDS.index("class")], [own, other], -1)
    missed = ~matches.truth_ignored
    missed[matches.found[0, matches.hits[0]]] = False
    missed[targets[targets >= 0]] = False
    return Errors(kinds, targets, missed)


def corrected(matches: Matches, errors: Errors, kind: str) -> Matches:
    """Return the matches as they would be without the errors of one kind.

    Of all detections of the wrong class, or badly placed, that are nearest to one truth, the one of highest score finds
    it, unless it is found already. The others of the kind are left out, as are duplicates and those in the background.

    Args:
        matches: at one IoU threshold.
        errors: of these matches.
        kind: one of `KINDS`, or ``"missed"``: truths that no detection is near to.

    Returns:
        The matches.
    """
    if kind == "missed":
        return replace(matches, truth_ignored=matches.truth_ignored | errors.missed)
    chosen = errors.kinds == KINDS.index(kind)
    found, ignored, labels = matches.found.copy(), matches.ignored | chosen, matches.labels.copy()
    free = np.ones(len(matches.truth_labels), bool)
    free[matches.found[0, matches.hits[0]]] = False
    candidates = np.flatnonzero(errors.targets >= 0)
    candidates = candidates[free[errors.targets[candidates]]]
    claimed, first = np.unique(errors.targets[candidates], return_index=True)  # the claimant of highest score
    own = chosen[candidates[first]]
    winners, claimed = candidates[first][own], claimed[own]
    found[0, winners], ignored[0, winners], labels[winners] = claimed, False, matches.truth_labels[claimed]
    return replace(matches, found=found, ignored=ignored, labels=labels)


def _counts_matching(settings: Mapping[str, Any]) -> Matching:
    return Matching((settings["iou_threshold"],), "coco", max_detections=settings["max_detections"])


@METRICS.register(
    "error_kinds",
    task="detection",
    higher_is_better={"errors": False, "cost": False},
    matching=_counts_matching,
)
def compute_error_kinds(
    comparison: Comparison,
    *,
    iou_threshold: float = 0.5,
    background: float = 0.1,
    max_detections: int | None = 100,
    method: Literal["area", "11point", "coco"] = "area",
) -> dict[str, Figure]:
    """Count a detector's errors by kind, and compute how much mean average precision each kind costs.

    Args:
        comparison: of detections and truths; all detections count, whatever their score.
        iou_threshold: a match needs at least this IoU; by COCO's rule.
        background: see `classify_errors`.
        max_detections: of each image and class, those of highest score.
        method: of the average precision, see `average_precision`.

    Returns:
        ``errors/<kind>``, and ``cost/<kind>``: by how much the mean average precision would rise if the errors of this
        kind alone were corrected. Kinds are those of `classify_errors`, and ``missed``. Costs don't add up to what is
        lacking to 1.

    Example:
        >>> truths = [{"boxes": [[0, 0, 10, 10]], "labels": [0]}]
        >>> predictions = [{"boxes": [[0, 0, 10, 4]], "scores": [0.6], "labels": [0]}]
        >>> found = compute_error_kinds(Comparison(predictions, truths, classes=("hcc",)))
        >>> print(found["errors/localisation"], found["cost/localisation"], found["cost/missed"])
        1 1.0000 0.0000

    Source:
        As `classify_errors`.
    """
    matches = comparison.matches((iou_threshold,), "coco", max_detections=max_detections)
    errors = classify_errors(matches, background=background)
    before = _mean_precision(matches, method)
    figures = {f"errors/{kind}": Figure.number(int((errors.kinds == i).sum())) for i, kind in enumerate(KINDS)}
    figures["errors/missed"] = Figure.number(int(errors.missed.sum()))
    for kind in (*KINDS, "missed"):
        after = _mean_precision(corrected(matches, errors, kind), method)
        rise = max(after - before, 0.0) if before.defined and after.defined else math.nan
        reason = before.reason or "without these truths there is nothing left to find"
        figures[f"cost/{kind}"] = Figure(rise, count=before.count, reason=reason)
    return figures


def _mean_precision(matches: Matches, method: str) -> Figure:
    counts = {label: int(count) for label, count in enumerate(matches.num_truths) if count}
    values = [average_precision_of_hits(matches.flags(label), count, method) for label, count in counts.items()]
    return mean_over_classes(values, sum(counts.values()))


def _nearest(matches: Matches, *, of_same_class: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return for each detection the truth of highest IoU, of its class or of any other, and the IoU; −1 and 0 if none.

    Truths that are not counted are left out.
    """
    counted = np.flatnonzero(~matches.truth_ignored)
    detection, truth = pairs_within(matches.images, matches.truth_images[counted])
    truth = counted[truth]
    chosen = (matches.labels[detection] == matches.truth_labels[truth]) == of_same_class
    detection, truth = detection[chosen], truth[chosen]
    overlap = overlap_of(matches.boxes[detection], matches.truth_boxes[truth], 0.0, of_first=False)
    order = np.lexsort((-truth, overlap))  # the highest is written last, the earlier truth on a tie
    nearest, iou = np.full(len(matches.labels), -1), np.zeros(len(matches.labels))
    nearest[detection[order]], iou[detection[order]] = truth[order], overlap[order]
    return nearest, iou
