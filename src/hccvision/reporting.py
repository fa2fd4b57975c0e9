"""Reports: the figures of an evaluation as a table, as files and as pictures."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hccvision.contracts.outputs import Prediction
from hccvision.contracts.samples import Sample
from hccvision.files import write_text
from hccvision.metrics.figure import Figure
from hccvision.plots.saving import save
from hccvision.registry import TASKS
from hccvision.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Report:
    """Result of an evaluation.

    Args:
        task: a name in ``TASKS``.
        classes: names, in the order of the class ids.
        positive: the class that means disease.
        figures: by name; each is a float that also knows its count, its 95 % interval and, where it is undefined, why.
        details: of the task, ready for JSON, such as the ``confusion_matrix`` of a classification.
        samples: evaluated.
        predictions: one per sample.

    Example:
        >>> print(Report("detection", ("hcc",), "hcc", {"map": Figure(0.5)}))
        detection, 0 images, positive class: hcc
        map              0.5000
    """

    task: str
    classes: tuple[str, ...]
    positive: str
    figures: Mapping[str, Figure]
    details: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[Sample] = ()
    predictions: Sequence[Prediction] = ()

    def __getitem__(self, name: str) -> Figure:
        return self.figures[name]

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals ``(low, high)`` by the names of the figures that have one."""
        return {name: f.interval for name, f in self.figures.items() if f.interval is not None}

    @property
    def matrix(self) -> np.ndarray | None:
        """``(K, K)`` confusion matrix of a classification, rows truth, columns prediction; otherwise None."""
        found = self.details.get("confusion_matrix")
        return None if found is None else np.asarray(found)

    def __str__(self) -> str:
        task = self._task()
        lines = [f"{self.task}, {len(self.samples)} images{task.heading}"]
        width = max(16, *map(len, self.figures), *map(len, self.classes))
        for name, figure in self.figures.items():
            more = f"  ({figure.reason})" if figure.reason else ""
            if figure.interval is not None:
                more = f"  (95 %: {figure.interval[0]:.4f} to {figure.interval[1]:.4f})"
            lines.append(f"{name:<{width}} {figure}{more}")
        methods = dict.fromkeys(f.method for f in self.figures.values() if f.interval is not None)
        lines += [f"95 % intervals: {', '.join(methods)}"] if methods else []
        return "\n".join(lines + task.detail_lines(self.details))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON.

        Returns:
            Task, classes, positive class, number of images, figures, intervals and how they were made, reasons of
            undefined figures (which are None), and details.
        """
        numbers = {name: None if math.isnan(f) else float(f) for name, f in self.figures.items()}
        return {
            "task": self.task,
            "classes": list(self.classes),
            "positive": self.positive,
            "images": len(self.samples),
            "figures": numbers,
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
            "interval_methods": {name: f.method for name, f in self.figures.items() if f.interval is not None},
            "undefined": {name: f.reason for name, f in self.figures.items() if math.isnan(f)},
            "confusion_matrix": None,
            **self.details,
        }

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        pictures: int = 12,
        score_threshold: float = 0.5,
        overwrite: bool = False,
    ) -> Path:
        """Write ``report.json``, ``report.txt``, ``predictions.csv`` and the task's pictures.

        Args:
            folder: of the report; is made if need be.
            pictures: number of images shown in ``detections.png``.
            score_threshold: lowest score of the boxes shown there, in [0, 1].
            overwrite: replace an older report there.

        Returns:
            The folder.

        Raises:
            FileExistsError: if there is a report in the folder and ``overwrite`` is False.
            ImportError: if matplotlib is missing; the other files are written before.
        """
        folder = Path(folder)
        if (folder / "report.json").exists() and not overwrite:
            raise FileExistsError(f"{folder}: there is a report here already; give another folder, or overwrite=True")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "report.json", json.dumps(self.to_dict(), indent=2))
        write_text(folder / "report.txt", f"{self}\n")
        write_text(folder / "predictions.csv", self._table())
        for name, figure in self._pictures(pictures, score_threshold).items():
            save(figure, folder / name)
        return folder

    def picture(self, count: int = 12, *, score_threshold: float = 0.5) -> Any:
        """Draw the task's picture: detections beside the ground truth, or the confusion matrix.

        Args:
            count: images to show: those with lesions first, so that they are not crowded out.
            score_threshold: lowest score of the boxes shown, in [0, 1].

        Returns:
            A matplotlib figure.

        Raises:
            ValueError: if the task draws none.
        """
        found = self._pictures(count, score_threshold)
        if not found:
            raise ValueError(f"there is no picture of this evaluation of {self.task}")
        return next(iter(found.values()))

    def _task(self) -> Task:
        task: Task = TASKS.get(self.task)(self.classes, positive=self.positive)
        return task

    def _pictures(self, count: int, score_threshold: float) -> dict[str, Any]:
        return self._task().pictures(
            self.samples, self.predictions, self.details, count=count, score_threshold=score_threshold
        )

    def _table(self) -> str:
        header, rows = self._task().table(self.samples, self.predictions)
        text = io.StringIO()
        csv.writer(text).writerows([header, *rows])
        return text.getvalue()
