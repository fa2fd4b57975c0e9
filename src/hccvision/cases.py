"""The predictions and truths behind a report as a file, from which every figure can be computed again."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hccvision.documents import read_document
from hccvision.files import file_sha256
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.metrics.intervals import add_intervals
from hccvision.metrics.metric import Metric, compute_metrics, find_metrics
from hccvision.registry import METRICS

FORMAT = "hccvision cases 1"
FILE, HASHES = "cases.json", "SHA256SUMS"
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Verified:
    """What `verify` found.

    Args:
        figures: number of figures that were computed again and are as reported.
        faults: a sentence for each that is not, and for each file that was changed.
        unchecked: names of figures of metrics that are not registered, which can't be computed again.
    """

    figures: int
    faults: tuple[str, ...]
    unchecked: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.faults

    def __str__(self) -> str:
        lines = [f"{self.figures} figures computed again from the predictions: as reported"] if self.figures else []
        if self.unchecked:
            lines.append(f"not checked, as their metrics are not registered: {', '.join(self.unchecked)}")
        return "\n".join([*lines, *self.faults])


def cases_document(
    task: str, comparison: Comparison, metrics: Sequence[Metric], resamples: int
) -> dict[str, Any] | None:
    """Return all that the figures of a report are computed from, as plain values.

    Args:
        task: a name in ``TASKS``.
        comparison: of all predictions and truths.
        metrics: of the report.
        resamples: number of bootstrap resamples of its intervals.

    Returns:
        The document, without names of files and patients; None where items are not made of numbers.
    """
    names = comparison.patients
    number = {name: i for i, name in enumerate(dict.fromkeys(names or ()))}
    try:
        predictions, truths = (
            [_plain(item) for item in items] for items in (comparison.predictions, comparison.truths)
        )
        listed = [{"name": m.name, "options": _plain(m.options)} for m in metrics if _is_registered(m)]
    except TypeError:
        return None
    return {
        "format": FORMAT,
        "task": task,
        "classes": list(comparison.classes),
        "positive": comparison.positive,
        "metrics": listed,
        "resamples": resamples,
        "patients": None if names is None else [None if name is None else number[name] for name in names],
        "predictions": predictions,
        "truths": truths,
    }


def verify(folder: str | os.PathLike[str]) -> Verified:
    """Compute every figure of a saved report again from the predictions saved with it, without images or model.

    Args:
        folder: that `Report.save` wrote.

    Returns:
        The result, true if nothing was changed; print it.

    Raises:
        FileNotFoundError: if there is no report, or no cases in it.
        ValueError: if a file is not one of a report.
    """
    root = Path(folder)
    report, cases = (_read(root / name) for name in ("report.json", FILE))
    faults = []
    lines = (root / HASHES).read_text(encoding="utf-8").splitlines() if (root / HASHES).is_file() else []
    if not lines:
        faults.append(f"{root / HASHES}: is missing, so that changes of the other files can't be seen")
    for line in lines:
        expected, _, name = line.partition("  ")
        path = root / name
        if not path.is_file():
            faults.append(f"{path}: is missing")
        elif file_sha256(path) != expected:
            faults.append(f"{path}: was changed after the report was saved")
    stated = report.get("figures")
    if not isinstance(stated, Mapping):
        raise ValueError(f"{root / 'report.json'}: expected an object 'figures' in it: save the report again")
    found = _compute(cases, root / FILE)
    unchecked = tuple(name for name in stated if name not in found)
    told_intervals = report.get("intervals")
    intervals = told_intervals if isinstance(told_intervals, Mapping) else {}
    right = 0
    for name, figure in found.items():
        told = [stated.get(name), *(intervals.get(name) or (None, None))]
        again = [float(figure), *(figure.interval or (None, None))]
        if all(_same(a, b) for a, b in zip(told, again, strict=True)):
            right += 1
        else:
            faults.append(f"{name} is reported as {_told(told)}, and the predictions give {_told(again)}")
    return Verified(right, tuple(faults), unchecked)


def _compute(cases: Mapping[str, Any], path: Path) -> dict[str, Figure]:
    if cases.get("format") != FORMAT:
        raise ValueError(f"{path}: expected the format {FORMAT!r}, got {cases.get('format')!r}: save the report again")
    try:
        predictions, truths = (_items(cases[name]) for name in ("predictions", "truths"))
        comparison = Comparison(
            predictions, truths, classes=cases["classes"], positive=cases["positive"], patients=cases["patients"]
        )
        wanted = {entry["name"]: _tuples(entry["options"]) for entry in cases["metrics"]}
        metrics = find_metrics(wanted, cases["task"])
        figures = compute_metrics(metrics, comparison)
        if cases["resamples"]:
            figures = add_intervals(metrics, comparison, figures, resamples=cases["resamples"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: its cases can't be evaluated ({error}): save the report again") from error
    return figures


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file: verify needs a folder that report.save(folder) wrote")
    return read_document(path)


def _plain(item: Any) -> Any:
    if isinstance(item, Mapping):
        return {str(key): _plain(value) for key, value in item.items()}
    if hasattr(item, "tolist"):
        return item.tolist()
    if item is None or isinstance(item, (bool, int, float, str)):
        return item
    if isinstance(item, (list, tuple)):
        return [_plain(value) for value in item]
    raise TypeError(f"can't save {type(item).__name__}")


def _items(saved: Sequence[Any]) -> Any:
    """Return dictionaries of arrays, or one array of all items, as they were compared."""
    if saved and isinstance(saved[0], dict):
        return [{key: np.array(value) for key, value in item.items()} for item in saved]
    return np.array(saved)


def _tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}


def _is_registered(metric: Metric) -> bool:
    return metric.name in METRICS and METRICS.get(metric.name) is metric.compute


def _same(told: Any, again: float | None) -> bool:
    if told is None or again is None or not math.isfinite(again):
        return told is None and (again is None or not math.isfinite(again))
    return isinstance(told, (int, float)) and math.isclose(told, again, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)


def _told(values: Sequence[Any]) -> str:
    value, low, high = values
    shown = "undefined" if value is None or not math.isfinite(value) else f"{value:.6g}"
    return shown if low is None else f"{shown} ({low:.6g} to {high:.6g})"
