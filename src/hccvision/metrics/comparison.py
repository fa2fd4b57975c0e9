"""Predictions and truths of the same images, compared once: what every metric reads."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import numpy as np

from hccvision.metrics.arrays import as_array, as_items, take_items
from hccvision.metrics.cases import as_class_ids, as_presence, as_probabilities
from hccvision.metrics.match_cache import MatchCache
from hccvision.metrics.matches import Matches
from hccvision.metrics.matching import Matching, detection_rows, match_rows, truth_rows
from hccvision.metrics.rows import Images, class_names

if TYPE_CHECKING:
    from hccvision.metrics.metric import Metric


def _per_case(method: Callable[[Comparison], np.ndarray]) -> cached_property[np.ndarray]:
    """Make a cached property of one row per image, which a resample looks up in the comparison it was taken from."""

    @wraps(method)
    def rows(self: Comparison) -> np.ndarray:
        return method(self) if self._whole is None else getattr(self._whole, method.__name__)[self._rows]

    return cached_property(rows)


class Comparison:
    """Predictions compared with the truths of the same images; each result is computed on first use and kept.

    What the items are depends on the task:

    * classification: a row of K probabilities, and a class id;
    * multi-label classification: a row of K probabilities, and K times 0 or 1;
    * detection: `hv.Detections` or a dictionary of ``boxes (N, 4)``, ``scores (N,)`` and ``labels (N,)``, and a
      dictionary of ``boxes``, ``labels`` and, optionally, ``difficult (N,)``, ``crowd (N,)`` and ``size``, the image's
      ``(height, width)``; boxes xyxy in pixels, labels ``0 ... K-1``;
    * a task of your own: whatever its metrics read from ``predictions`` and ``truths``.

    Args:
        predictions: N items, one per image.
        truths: N items, in the same order.
        classes: the K class names in order.
        positive: name of the class regarded as disease; None is the last class.
        patients: N names, None where the patient is not known; or None for all.

    Raises:
        ValueError: if there are no images, lengths differ, or ``positive`` is not among ``classes``.

    Example:
        >>> c = Comparison([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], [0, 0, 1], classes=("normal", "cancer"))
        >>> c.confusion_matrix
        array([[1, 1],
               [0, 1]])
        >>> c.take([0, 0, 2]).confusion_matrix
        array([[2, 0],
               [0, 1]])
    """

    _given: tuple[Any, Any, list[Hashable | None] | None]  # predictions, truths, patients
    _whole: Comparison | None  # of a resample: the comparison that it was taken from
    _rows: np.ndarray  # of a resample: the index of each image there
    _cache: MatchCache
    _per_image: WeakKeyDictionary[Callable[..., Any], dict[Any, np.ndarray]]

    def __init__(
        self,
        predictions: Sequence[Any] | Any,
        truths: Sequence[Any] | Any,
        *,
        classes: Sequence[str],
        positive: str | None = None,
        patients: Sequence[Hashable | None] | None = None,
    ) -> None:
        self.classes = class_names(classes)
        if not self.classes:
            raise ValueError("expected at least one class, got none")
        self.positive = self.classes[-1] if positive is None else positive
        if self.positive not in self.classes:
            raise ValueError(f"expected positive as one of the classes {', '.join(self.classes)}, got {positive!r}")
        self._given = as_items(predictions), as_items(truths), None if patients is None else list(patients)
        self._whole, self._rows, self._count = None, np.zeros(0, np.int64), len(self._given[1])
        self._connect()
        if len(self._given[0]) != self._count:
            raise ValueError(
                f"expected one prediction per truth, got {len(self._given[0])} predictions and {self._count} truths"
            )
        if self._count == 0:
            raise ValueError("there are no cases to score: expected at least one image, got no images")
        if self._given[2] is not None and len(self._given[2]) != self._count:
            raise ValueError(f"expected one patient per image, got {len(self._given[2])} for {self._count} images")

    @classmethod
    def of_boxes(
        cls,
        predictions: Images,
        truths: Images,
        classes: Sequence[str] | None = None,
        num_classes: int | None = None,
    ) -> Comparison:
        """Compare detections whose classes may be named, counted or neither.

        Args:
            predictions: one dictionary per image.
            truths: likewise.
            classes: the K class names in order; None names them ``"0", "1", ...``.
            num_classes: K, instead of ``classes``; without either, K is one more than the highest label.

        Returns:
            The comparison.
        """
        return cls(predictions, truths, classes=class_names(classes, num_classes, predictions, truths))

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images, classes: {', '.join(self.classes)})"

    @cached_property
    def predictions(self) -> Any:
        """N items, detections as dictionaries."""
        return self._given[0] if self._whole is None else take_items(self._whole.predictions, self._rows)

    @cached_property
    def truths(self) -> Any:
        """N items."""
        return self._given[1] if self._whole is None else take_items(self._whole.truths, self._rows)

    @cached_property
    def patients(self) -> list[Hashable | None] | None:
        """N names, None where the patient is not known; None if none was given."""
        whole = None if self._whole is None else self._whole.patients
        return self._given[2] if whole is None else take_items(whole, self._rows)

    @property
    def positive_id(self) -> int:
        """Class id of ``positive``."""
        return self.classes.index(self.positive)

    # classification

    @_per_case
    def probabilities(self) -> np.ndarray:
        """``(N, K) float64``: probabilities of a classifier."""
        return as_probabilities(self.predictions, self.classes)

    @_per_case
    def class_ids(self) -> np.ndarray:
        """``(N,) int64``: the true classes of a classification."""
        return as_class_ids(self.truths, self.classes)

    @_per_case
    def present(self) -> np.ndarray:
        """``(N, K) bool``: the classes that each image shows, of a multi-label classification."""
        return as_presence(self.truths, self.classes)

    @_per_case
    def calls(self) -> np.ndarray:
        """``(N,) int64``: the class of highest probability, the lowest id on a tie."""
        return self.probabilities.argmax(1)

    @cached_property
    def confusion_matrix(self) -> np.ndarray:
        """``(K, K) int64``: counts, one row per true class and one column per called class."""
        k = len(self.classes)
        return np.bincount(self.class_ids * k + self.calls, minlength=k * k).reshape(k, k)

    # detection

    def matches(
        self,
        iou_thresholds: Sequence[float] = (0.5,),
        rule: Literal["voc", "coco"] = "voc",
        *,
        extra_pixel: bool = False,
        max_detections: int | None = None,
    ) -> Matches:
        """Match detections to truths, or return what has been matched.

        Thresholds that were announced by `plan` are matched together.

        Args:
            iou_thresholds: T values in (0, 1]; a match needs at least this IoU.
            rule: ``"voc"`` or ``"coco"``, see `Matching`.
            extra_pixel: see `Matching`.
            max_detections: see `Matching`.

        Returns:
            The matches at these thresholds, in this order.

        Raises:
            ValueError: for bad options, shapes, labels, boxes or scores; names the image.
            TypeError: if an image is not a dictionary.
        """
        return self.matched(Matching(tuple(iou_thresholds), rule, extra_pixel, max_detections))

    def matched(self, how: Matching) -> Matches:
        """Match detections to truths, or return what has been matched; as `matches`, for all options.

        Args:
            how: the options.

        Returns:
            The matches.

        Raises:
            ValueError: as `matches`.
            TypeError: as `matches`.
        """
        return self._cache.get(how)

    def plan(self, metrics: Iterable[Metric]) -> None:
        """Announce metrics, so that one matching serves all their IoU thresholds.

        Args:
            metrics: those that will be computed.
        """
        for metric in metrics:
            if metric.matching is not None:
                self._cache.plan(metric.matching(metric.settings))

    def _match(self, how: Matching) -> Matches:
        return match_rows(self._detection_rows, self._truth_rows, self.classes, len(self), how)

    @cached_property
    def _detection_rows(self) -> dict[str, np.ndarray]:
        return detection_rows(self.predictions, self.classes)

    @cached_property
    def _truth_rows(self) -> dict[str, np.ndarray]:
        return truth_rows(self.truths, self.classes)

    # any task

    def per_image(self, function: Callable[..., Any], **options: Hashable) -> np.ndarray:
        """Compute numbers for each image; resamples look them up instead of computing them again.

        Args:
            function: takes a prediction, its truth and the options, and returns a number, or numbers of one shape for
                all images. Results are kept as long as the function exists: define it outside the metric.
            options: for the function.

        Returns:
            ``(N, …)``, one row per image.

        Raises:
            ValueError: if the function does not return the same shape for all images.

        Example:
            >>> def overlap(prediction, truth):
            ...     return (prediction & truth).sum(), prediction.sum() + truth.sum()
            >>> masks = np.array([[True, True, False]]), np.array([[True, False, False]])
            >>> common, area = Comparison(*masks, classes=("tumor",)).per_image(overlap).sum(0)
            >>> 2 * float(common / area)  # Dice
            0.666...
        """
        if self._whole is not None:
            return self._whole.per_image(function, **options)[self._rows]
        kept = self._per_image.setdefault(function, {})
        key = tuple(sorted(options.items()))
        if key not in kept:
            pairs = zip(self.predictions, self.truths, strict=True)
            rows = [np.asarray(function(prediction, truth, **options)) for prediction, truth in pairs]
            shapes = sorted({row.shape for row in rows})
            if len(shapes) > 1:
                raise ValueError(f"expected numbers of one shape for all images, got the shapes {shapes}")
            kept[key] = np.stack(rows)
        return kept[key]

    def take(self, indices: Any) -> Comparison:
        """Return the comparison of some of the images, or of a resample; nothing is matched or computed again.

        Args:
            indices: of images, repeated at will; or ``(N,)`` bool.

        Returns:
            The comparison. Among detections of equal score, those of copies of an image stay side by side.

        Raises:
            ValueError: for no index, or an index out of range.
        """
        rows = as_array(indices)
        rows = np.flatnonzero(rows) if rows.dtype == bool and len(rows) == len(self) else rows
        if rows.ndim != 1 or rows.size == 0 or rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= len(self):
            raise ValueError(f"expected at least one index from 0 to {len(self) - 1}, got {indices!r}")
        taken = type(self).__new__(type(self))
        taken.classes, taken.positive = self.classes, self.positive
        taken._given, taken._whole, taken._rows, taken._count = (None, None, None), self, rows, len(rows)
        taken._connect()
        return taken

    def _connect(self) -> None:
        """Make the cache of matches; that of a resample takes them from the comparison that it was taken from."""
        whole, rows = self._whole, self._rows
        if whole is None:
            self._cache, self._per_image = MatchCache(self._match), WeakKeyDictionary()
        else:
            self._cache = whole._cache.take(lambda how: whole._cache.get(how).take(rows))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_cache", "_per_image")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._connect()
