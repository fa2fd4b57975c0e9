"""Boxes of all images joined into one array per field, checked, each row with the index of its image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hccvision.metrics.arrays import as_array

Images = Sequence[Mapping[str, Any]]
Rows = dict[str, np.ndarray]

PREDICTION_FIELDS = ("boxes", "scores", "labels")
FLAGS = ("difficult", "crowd")  # of truths, optional
TRUTH_FIELDS = ("boxes", "labels", *FLAGS)
_DTYPES = {"boxes": np.float64, "scores": np.float64, "labels": np.int64, "image": np.int64} | dict.fromkeys(
    FLAGS, np.bool_
)


def join_rows(images: Images, kind: str, fields: tuple[str, ...]) -> Rows:
    """Join the rows of all images into one array per field.

    Args:
        images: one dictionary per image (or an object with ``as_dict()``), with ``boxes (N, 4)``, and ``scores``,
            ``labels``, ``difficult`` and ``crowd`` ``(N,)`` as far as they are among ``fields``; the latter two are
            optional.
        kind: ``"predictions"`` or ``"truths"``, for messages.
        fields: to join, ``"boxes"`` first.

    Returns:
        The fields, and ``image``, the index of each row's image.

    Raises:
        ValueError: for shapes, dtypes or values that are not as above; the message names the image.
        TypeError: if an image is not a dictionary.
    """
    columns: dict[str, list[np.ndarray]] = {field: [] for field in fields}
    for index, image in enumerate(images):
        rows = image.as_dict() if hasattr(image, "as_dict") else image
        if not isinstance(rows, Mapping):
            raise TypeError(
                f"{kind}[{index}]: expected a dictionary with {', '.join(fields)}, or Detections, which give one by "
                f"as_dict(); got {type(image).__name__}"
            )
        for field, values in _fields_of(rows, f"{kind}[{index}]", fields):
            columns[field].append(values)
    joined = {field: np.concatenate(arrays) for field, arrays in columns.items()}
    joined["image"] = np.repeat(np.arange(len(images)), [len(boxes) for boxes in columns["boxes"]])
    _check_values(joined, kind)
    return {field: values.astype(_DTYPES[field], copy=False) for field, values in joined.items()}


def check_labels(rows: Rows, kind: str, classes: tuple[str, ...]) -> None:
    """Check that every label is the id of a class.

    Args:
        rows: as `join_rows` returns.
        kind: ``"predictions"`` or ``"truths"``, for messages.
        classes: the K class names in order.

    Raises:
        ValueError: for a label of K or more; the message names the image.
    """
    beyond = np.flatnonzero(rows["labels"] >= len(classes))
    if len(beyond):
        raise ValueError(
            f"{kind}[{rows['image'][beyond[0]]}]: got the label {rows['labels'][beyond[0]]}, expected 0 to "
            f"{len(classes) - 1}, of the classes {', '.join(classes)}; there is no background among them"
        )


def class_names(
    classes: Sequence[str] | None, num_classes: int | None = None, predictions: Images = (), truths: Images = ()
) -> tuple[str, ...]:
    """Return the class names, numbered where only their count or nothing is known.

    Args:
        classes: the K class names in order; None names them ``"0", "1", ...``.
        num_classes: K, instead of ``classes``; without either, K is one more than the highest label.
        predictions: one dictionary per image.
        truths: likewise.

    Returns:
        The names.

    Raises:
        ValueError: if ``num_classes`` is below 1 or not the number of ``classes``, or two classes share a name.
    """
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"expected num_classes of at least 1, got {num_classes}")
    if classes is not None:
        if isinstance(classes, str) or num_classes not in (None, len(classes)) or len(set(classes)) != len(classes):
            count = "" if num_classes is None else f"{num_classes} "
            raise ValueError(f"expected {count}classes of different names, got {classes!r}")
        return tuple(classes)
    if num_classes is None:
        labels = [
            join_rows(images, kind, ("boxes", "labels"))["labels"]
            for images, kind in ((predictions, "predictions"), (truths, "truths"))
            if len(images)
        ]
        num_classes = max([1, *(1 + int(ids.max(initial=-1)) for ids in labels)])
    return tuple(map(str, range(num_classes)))


def _fields_of(rows: Mapping[str, Any], where: str, fields: tuple[str, ...]) -> list[tuple[str, np.ndarray]]:
    """Return the arrays of one image, their shapes and dtypes checked."""
    found: list[tuple[str, np.ndarray]] = []
    count = 0
    for field in fields:
        default = np.zeros(count, bool) if field in FLAGS else None
        if rows.get(field, default) is None:
            raise ValueError(f"{where} lacks {field!r}: expected {', '.join(fields)}, got {list(rows)}")
        values = as_array(rows.get(field, default))
        if field == "boxes":
            values = values if values.size else values.reshape(0, 4)
            count = len(values) if values.ndim else 0
        expected = (count, 4) if field == "boxes" else (count,)
        if values.shape != expected:
            raise ValueError(f"{where}: expected {field} of shape {expected}, got {values.shape}")
        if values.dtype.kind not in "biuf":
            raise ValueError(f"{where}: expected {field} as numbers, got {values.dtype}")
        found.append((field, values))
    return found


def _check_values(rows: Rows, kind: str) -> None:
    boxes, labels = rows["boxes"], rows["labels"]
    faults = {
        "boxes are not finite": ~np.isfinite(boxes).all(1),
        "boxes have x2 < x1 or y2 < y1 (expected xyxy, not xywh)": (boxes[:, 2:] < boxes[:, :2]).any(1),
        "labels are not whole numbers from 0": ~((labels >= 0) & (labels < 2**31) & (np.floor(labels) == labels)),
        "scores are not finite": ~np.isfinite(rows.get("scores", np.zeros(0))),
    }
    for fault, bad in faults.items():
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            values = rows[fault.split()[0]][row].tolist()
            raise ValueError(f"{kind}[{rows['image'][row]}]: {fault}: got {values}")
