"""Matches: every detection of every image, with the truth that it found at each IoU threshold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Matches:
    """All detections of all images, highest score first, matched to the truths at T IoU thresholds.

    Args:
        classes: the K class names in order.
        iou_thresholds: T values.
        num_images: N, images without truths or detections included.
        images: ``(D,) int64``, index of each detection's image.
        labels: ``(D,) int64``, class ids of the detections.
        scores: ``(D,) float64``, descending.
        boxes: ``(D, 4) float64``, xyxy pixels.
        found: ``(T, D) int32``, index of the truth that the detection found; −1 where it found none, or a detection of
            higher score had found it.
        ignored: ``(T, D) bool``, whether it lies on a difficult truth or in a crowd, and counts as neither hit nor
            miss.
        truth_images: ``(M,) int64``, index of each truth's image.
        truth_labels: ``(M,) int64``, class ids of the truths.
        truth_boxes: ``(M, 4) float64``, xyxy pixels.
        truth_ignored: ``(M,) bool``, truths not to be counted: crowds, and under the VOC rule the difficult ones.

    Example:
        >>> from hccvision.metrics.matching import match
        >>> truths = [{"boxes": [[0, 0, 10, 10]], "labels": [0]}]
        >>> predictions = [{"boxes": [[0, 0, 10, 10], [0, 0, 10, 9]], "scores": [0.7, 0.9], "labels": [0, 0]}]
        >>> m = match(predictions, truths)
        >>> m.scores.tolist(), m.hits.tolist()
        ([0.9, 0.7], [[True, False]])
    """

    classes: tuple[str, ...]
    iou_thresholds: tuple[float, ...]
    num_images: int
    images: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    found: np.ndarray
    ignored: np.ndarray
    truth_images: np.ndarray
    truth_labels: np.ndarray
    truth_boxes: np.ndarray
    truth_ignored: np.ndarray

    @cached_property
    def hits(self) -> np.ndarray:
        """``(T, D) bool``: whether the detection found a truth that no detection of higher score had found."""
        return self.found >= 0

    @cached_property
    def num_truths(self) -> np.ndarray:
        """``(K,) int64``: number of truths per class, without those ignored."""
        return np.bincount(self.truth_labels[~self.truth_ignored], minlength=len(self.classes))

    def flags(self, label: int, threshold: int = 0) -> np.ndarray:
        """Return hit or miss of one class's detections in score order, as `average_precision` takes them.

        Args:
            label: the class id.
            threshold: index of the IoU threshold.

        Returns:
            ``(n,) bool``, those ignored left out.
        """
        own, ignored = self._of_class(label), self.ignored[threshold]
        own = own[~ignored[own]] if self._any_ignored else own
        return self.hits[threshold].take(own)

    def at(self, iou_thresholds: tuple[float, ...]) -> Matches:
        """Return the part at some of the IoU thresholds.

        Args:
            iou_thresholds: among those matched.

        Returns:
            The matches, with ``found``, ``ignored`` and ``hits`` in the order of ``iou_thresholds``.
        """
        if iou_thresholds == self.iou_thresholds:
            return self
        rows = [self.iou_thresholds.index(t) for t in iou_thresholds]
        return replace(self, iou_thresholds=iou_thresholds, found=self.found[rows], ignored=self.ignored[rows])

    def take(self, indices: np.ndarray) -> Matches:
        """Return the matches of a resample of the images, without matching again.

        Detections stay in score order; among equal scores they stay in the original order, copies side by side.

        Args:
            indices: ``(n,)`` indices of images; an index that occurs twice gives two copies.

        Returns:
            The matches of ``n`` images.
        """
        times = np.bincount(indices, minlength=self.num_images)
        # new index of the c-th copy of image i: places[first[i] + c]
        places, first = np.argsort(indices, kind="stable"), np.cumsum(times) - times
        rows, copy = _repeat(times[self.images])
        truth_rows, truth_copy = _repeat(times[self.truth_images])
        first_truth = np.cumsum(times[self.truth_images]) - times[self.truth_images]
        found = self.found.take(rows, axis=1)
        at, detection = np.nonzero(found >= 0)
        found[at, detection] = first_truth[found[at, detection]] + copy[detection]
        images, truth_images = self.images[rows], self.truth_images[truth_rows]
        none = not self._any_ignored
        return Matches(
            classes=self.classes,
            iou_thresholds=self.iou_thresholds,
            num_images=len(indices),
            images=places[first[images] + copy],
            labels=self.labels[rows],
            scores=self.scores[rows],
            boxes=self.boxes[rows],
            found=found,
            ignored=np.zeros(found.shape, bool) if none else self.ignored.take(rows, axis=1),
            truth_images=places[first[truth_images] + truth_copy],
            truth_labels=self.truth_labels[truth_rows],
            truth_boxes=self.truth_boxes[truth_rows],
            truth_ignored=self.truth_ignored[truth_rows],
        )

    @cached_property
    def _any_ignored(self) -> bool:
        return bool(self.ignored.any())

    @cached_property
    def _by_class(self) -> dict[int, np.ndarray]:
        return {}

    def _of_class(self, label: int) -> np.ndarray:
        """Indices of one class's detections; computed once."""
        if label not in self._by_class:
            self._by_class[label] = np.flatnonzero(self.labels == label)
        return self._by_class[label]


def _repeat(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's index as often as ``times`` says, and which copy of its row each one is, from 0."""
    rows = np.repeat(np.arange(len(times)), times)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(times) - times, times)
