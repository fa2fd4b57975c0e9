"""The weighted alternative free-response ROC: lesions found against healthy patients with a false alarm."""

from __future__ import annotations

import math

import numpy as np

from hccvision.metrics.average_precision import NO_TRUTHS
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.metrics.matching import at_one_threshold
from hccvision.registry import METRICS


@METRICS.register("weighted_afroc", task="detection", higher_is_better=True, matching=at_one_threshold)
def compute_weighted_afroc(comparison: Comparison, *, iou_threshold: float = 0.5) -> Figure:
    """Compute the area under the weighted AFROC curve: how often a lesion scores above a healthy patient.

    The score of a lesion is that of the detection that found it; the score of a healthy patient is that of the highest
    false alarm. Without one, either is below any score. Each patient with lesions counts equally, shared among his
    lesions. Where not all patients are known, each image counts as one. Matching is within each class by the VOC rule;
    a patient with difficult lesions or crowds alone counts on neither side.

    Args:
        comparison: of detections and truths.
        iou_threshold: a match needs at least this IoU.

    Returns:
        The area in [0, 1]; nan without lesions, or without healthy patients.

    Example:
        >>> truths = [{"boxes": [[0, 0, 10, 10]], "labels": [0]}, {"boxes": [], "labels": []}]
        >>> predictions = [{"boxes": [[0, 0, 10, 9]], "scores": [s], "labels": [0]} for s in (0.9, 0.4)]
        >>> compute_weighted_afroc(Comparison(predictions, truths, classes=("hcc",)))
        Figure(1.0, count=2)

    Source:
        Chakraborty and Zhai, "On the meaning of the weighted alternative free-response operating characteristic figure
        of merit", Medical Physics 43 (2016).
    """
    m = comparison.matches((iou_threshold,))
    names = comparison.patients
    names = list(range(m.num_images)) if names is None or None in names else names
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    case = np.array([number[name] for name in names])
    counted = ~m.truth_ignored
    lesions = np.bincount(case[m.truth_images[counted]], minlength=len(number))
    healthy = np.bincount(case[m.truth_images], minlength=len(number)) == 0
    if not counted.any():
        return Figure.undefined(NO_TRUTHS, count=0)
    if not healthy.any():
        return Figure.undefined("every patient has a lesion", count=len(number))

    of_truth = np.full(len(counted), -np.inf)
    hit = m.hits[0]
    of_truth[m.found[0, hit]] = m.scores[hit]
    of_case = np.full(len(number), -np.inf)
    alarms = ~m.ignored[0]
    np.maximum.at(of_case, case[m.images[alarms]], m.scores[alarms])
    alarm = np.sort(of_case[healthy])
    below, not_above = (np.searchsorted(alarm, of_truth[counted], side) for side in ("left", "right"))
    weights = 1 / lesions[case[m.truth_images[counted]]]
    won = (below + not_above) / 2 / len(alarm) * weights
    area = math.fsum(won) / math.fsum(weights)  # the same in any order of the images
    return Figure(area, count=int(healthy.sum() + (lesions > 0).sum()))
