"""Reports: the result of an evaluation as a table, files and pictures."""

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

from hccvision.cases import FILE, HASHES, cases_document
from hccvision.contracts.outputs import Prediction
from hccvision.contracts.samples import Sample
from hccvision.files import file_sha256, write_text
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.metrics.metric import Metric
from hccvision.plots.saving import save
from hccvision.replacement import new_files
from hccvision.report_page import page
from hccvision.tasks.task import Task, build_task


@dataclass(frozen=True, eq=False)
class Report:
    """Result of an evaluation.

    Args:
        task: a name in ``TASKS``.
        classes: names, in the order of the class ids.
        positive: the class that means disease.
        figures: name to figure; each is a float with its count, its 95 % interval and, if undefined, the reason.
        details: of the task, plain values ready for JSON, such as the ``confusion_matrix`` of a classification.
        samples: those evaluated.
        predictions: one per sample, in the same order.
        metrics: that the figures were computed by, so that `verify` can compute them again.
        resamples: number of bootstrap resamples of the intervals.
        about: facts about the model, for the page.
        opened: how often the sealed test set has been opened, this time included; 0: it is not sealed.

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
    metrics: Sequence[Metric] = ()
    resamples: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)
    opened: int = 0

    def __getitem__(self, name: str) -> Figure:
        if name not in self.figures:
            raise KeyError(f"no figure {name!r} in this report; it has: {', '.join(self.figures) or 'none'}")
        return self.figures[name]

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Name to 95 % interval ``(low, high)``, of the figures that have one."""
        return {name: f.interval for name, f in self.figures.items() if f.interval is not None}

    @property
    def matrix(self) -> np.ndarray | None:
        """``(K, K) int64`` confusion matrix of a classification, rows truth, columns prediction; otherwise None."""
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
        reasons = dict.fromkeys(f.method for f in self.figures.values() if f.interval is None and f.method)
        lines += [f"95 % intervals: {', '.join(methods)}"] if methods else []
        lines += [f"sealed test set, opened {_times(self.opened)}"] if self.opened else []
        return "\n".join([*lines, *reasons, *task.detail_lines(self.details)])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON.

        Returns:
            Task, classes, positive class, number of images, figures (None where not finite), intervals and how they
            were computed or why there is none, the reasons of undefined figures, and the details.
        """
        return {
            "task": self.task,
            "classes": list(self.classes),
            "positive": self.positive,
            "images": len(self.samples),
            "figures": {name: _finite(f) for name, f in self.figures.items()},
            "intervals": {name: [_finite(end) for end in interval] for name, interval in self.intervals.items()},
            "interval_methods": {name: f.method for name, f in self.figures.items() if f.method},
            "undefined": {name: f.reason for name, f in self.figures.items() if math.isnan(f)},
            "confusion_matrix": None,
            **({"test_set_opened": self.opened} if self.opened else {}),
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
        """Write the report as a page, ``index.html``, and as ``report.json`` and ``report.txt``.

        Beside them stand ``predictions.csv``, ``figures.csv``, the curves as PNG and SVG, the other pictures as PNG,
        and ``cases.json``, from which `verify` computes every figure again. ``SHA256SUMS`` lists the hashes of all,
        for `verify` and ``sha256sum -c``.

        Args:
            folder: for the report; created if missing.
            pictures: number of images shown in ``detections.png``.
            score_threshold: lowest score of the boxes shown there, in [0, 1].
            overwrite: replace the files of an older report, all together or, if one can't be written, none.

        Returns:
            The folder.

        Raises:
            FileExistsError: if there is a report in the folder and ``overwrite`` is False.
            ImportError: if matplotlib is missing; all files but the pictures are written.
            OSError: if a file can't be written; an older report remains as it was.
        """
        folder = Path(folder)
        if (folder / "report.json").exists() and not overwrite:
            raise FileExistsError(f"{folder}: there is a report here already; give another folder, or overwrite=True")
        missing: ImportError | None = None
        with new_files(folder, last="report.json", overwrite=overwrite) as draft:
            texts = {"report.txt": f"{self}\n", "predictions.csv": self._table(), "figures.csv": self._figures_table()}
            cases = self._cases()
            if cases is not None:
                texts[FILE] = json.dumps(cases, allow_nan=False)
            for name, text in texts.items():
                write_text(draft / name, text, errors="backslashreplace")  # file names of any bytes
            shown: list[Path] = []
            try:
                curves = self._curves()
                for name, figure in {**curves, **self._pictures(pictures, score_threshold)}.items():
                    shown.append(save(figure, draft / name))
                for name, figure in curves.items():
                    save(figure, draft / name.replace(".png", ".svg"))
            except ImportError as error:
                missing = error
            write_text(draft / "index.html", self._page(shown, cases is not None), errors="backslashreplace")
            content = json.dumps(self.to_dict(), indent=2, allow_nan=False)  # NaN is not JSON
            write_text(draft / "report.json", content, errors="backslashreplace")
            hashes = [f"{file_sha256(path)}  {path.name}\n" for path in sorted(draft.iterdir())]
            write_text(draft / HASHES, "".join(hashes))
        if missing is not None:
            raise missing
        return folder

    def picture(self, count: int = 12, *, score_threshold: float = 0.5) -> Any:
        """Draw the first picture of the task, such as the detections or the confusion matrix.

        Args:
            count: number of images shown, those with lesions first.
            score_threshold: lowest score of the boxes shown, in [0, 1].

        Returns:
            A matplotlib figure.

        Raises:
            ValueError: if the task draws no picture.
            ImportError: if matplotlib is missing.
        """
        drawn = self._pictures(count, score_threshold)
        if not drawn:
            raise ValueError(f"there is no picture of this evaluation: {self.task} draws none")
        return next(iter(drawn.values()))

    def _task(self) -> Task:
        return build_task(self.task, self.classes, positive=self.positive)

    def _pictures(self, count: int, score_threshold: float) -> dict[str, Any]:
        return self._task().pictures(
            self.predictions, self.samples, self.details, count=count, score_threshold=score_threshold
        )

    def _comparison(self) -> Comparison | None:
        return self._task().comparison(self.predictions, self.samples) if self.samples else None

    def _curves(self) -> dict[str, Any]:
        comparison = self._comparison()
        return {} if comparison is None else self._task().curves(comparison)

    def _cases(self) -> dict[str, Any] | None:
        comparison = self._comparison()
        return None if comparison is None else cases_document(self.task, comparison, self.metrics, self.resamples)

    def _page(self, pictures: Sequence[Path], has_cases: bool) -> str:
        task = self._task()
        return page(
            task=self.task,
            figures=self.figures,
            samples=self.samples,
            summary=f"{len(self.samples)} images{task.heading}",
            opened=_times(self.opened) if self.opened else None,
            details=task.detail_lines(self.details),
            pictures=pictures,
            about=self.about,
            verification="hv.verify(folder) computes every figure again from cases.json." if has_cases else "",
        )

    def _figures_table(self) -> str:
        text = io.StringIO()
        rows = [
            [name, _finite(f), *(f.interval or ("", "")), "" if f.count is None else f.count, f.method, f.reason]
            for name, f in self.figures.items()
        ]
        csv.writer(text).writerows(
            [["figure", "value", "low", "high", "cases", "interval", "undefined because"], *rows]
        )
        return text.getvalue()

    def _table(self) -> str:
        header, rows = self._task().table(self.predictions, self.samples)
        text = io.StringIO()
        csv.writer(text).writerows([header, *rows])
        return text.getvalue()


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _finite(value: float) -> float | None:
    """Return a number as JSON can hold it: None for nan and infinity."""
    return float(value) if math.isfinite(value) else None
