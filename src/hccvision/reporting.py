"""Reports: the figures of an evaluation as a table, as files and as pictures."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hccvision.contracts import Prediction, Sample
from hccvision.metrics.classification import YES


@dataclass(frozen=True, eq=False)
class Report:
    """What an evaluation gave.

    Args:
        task: ``"classification"``, ``"multilabel"`` or ``"detection"``.
        classes: names, in the order of the class ids.
        positive: the class that means disease.
        figures: by name; shares in [0, 1] and counts.
        intervals: 95 % Wilson intervals ``(low, high)`` of those figures that are shares of a count.
        matrix: ``(K, K)`` confusion matrix of a classification, rows truth, columns prediction; else None.
        samples: evaluated.
        predictions: one per sample.

    Example:
        >>> print(Report("detection", ("hcc",), "hcc", {"map": 0.5}, {}, None, [], []))
        detection, 0 images, positive class: hcc
        map              0.5000
    """

    task: str
    classes: tuple[str, ...]
    positive: str
    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    matrix: np.ndarray | None
    samples: Sequence[Sample]
    predictions: Sequence[Prediction]

    def __getitem__(self, name: str) -> float:
        return self.figures[name]

    def __str__(self) -> str:
        positive = "" if self.task == "multilabel" else f", positive class: {self.positive}"
        lines = [f"{self.task}, {len(self.samples)} images{positive}"]
        width = max(16, *map(len, self.figures), *map(len, self.classes))
        for name, value in self.figures.items():
            count = name in ("tp", "fp", "fn", "tn") or name.startswith("lesions/")
            text = f"{value:.0f}" if count else f"{value:.4f}"
            interval = self.intervals.get(name)
            lines.append(
                f"{name:<{width}} {text}" + (f"  (95 %: {interval[0]:.4f} to {interval[1]:.4f})" if interval else "")
            )
        if self.matrix is not None:
            columns = [max(len(c), 6) for c in self.classes]
            lines.append("confusion matrix, rows truth, columns prediction:")
            head = " ".join(f"{c:>{w}}" for c, w in zip(self.classes, columns, strict=True))
            lines.append(f"{'':<{width}} {head}")
            for name, row in zip(self.classes, self.matrix, strict=True):
                cells = " ".join(f"{n:>{w}d}" for n, w in zip(row, columns, strict=True))
                lines.append(f"{name:<{width}} {cells}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain values, ready for JSON.

        Returns:
            Task, classes, positive class, number of images, figures, intervals and confusion matrix.
        """
        return {
            "task": self.task,
            "classes": list(self.classes),
            "positive": self.positive,
            "images": len(self.samples),
            "figures": self.figures,
            "intervals": {k: list(v) for k, v in self.intervals.items()},
            "confusion_matrix": None if self.matrix is None else self.matrix.tolist(),
        }

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        pictures: int = 12,
        score_threshold: float = 0.5,
        overwrite: bool = False,
    ) -> Path:
        """Write ``report.json``, ``report.txt``, ``predictions.csv`` and a picture.

        Args:
            folder: to make.
            pictures: so many images are shown in ``detections.png``, see `picture`.
            score_threshold: least score of the boxes shown there, in [0, 1].
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
        texts = {
            "report.json": json.dumps(self.to_dict(), indent=2),
            "report.txt": f"{self}\n",
            "predictions.csv": self._table(),
        }
        for name, text in texts.items():
            partial = folder / f".{name}.tmp"
            partial.write_text(text, encoding="utf-8", newline="")
            os.replace(partial, folder / name)
        from hccvision import plots

        if self.matrix is not None:
            figure = plots.confusion_matrix(self.matrix, self.classes, positive=self.positive)
            plots.save(figure, folder / "confusion_matrix.png")
        elif self.task == "detection" and self.samples:
            plots.save(self.picture(pictures, score_threshold=score_threshold), folder / "detections.png")
        return folder

    def picture(self, count: int = 12, *, score_threshold: float = 0.5) -> Any:
        """Draw detections beside the truth.

        Args:
            count: images to show: those with lesions first, so that they are not crowded out.
            score_threshold: least score of the boxes shown, in [0, 1].

        Returns:
            A matplotlib figure.
        """
        from hccvision import images, plots

        pairs = list(zip(self.samples, self.predictions, strict=True))
        pairs.sort(key=lambda pair: not pair[0].annotation)  # which is false where it has no boxes
        with_lesion = sum(bool(s.annotation) for s, _ in pairs)
        normal = min(len(pairs) - with_lesion, max(count // 4, count - with_lesion))
        chosen = pairs[: min(count - normal, with_lesion)] + pairs[with_lesion : with_lesion + normal]
        return plots.detections(
            [images.read_image(s.path) for s, _ in chosen],
            [p.detections for _, p in chosen if p.detections is not None],
            [s.annotation for s, _ in chosen],
            classes=self.classes,
            score_threshold=score_threshold,
            titles=[s.path.name for s, _ in chosen],
        )

    def _table(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text)
        if self.task != "detection":
            writer.writerow(["path", "truth", "predicted", *(f"p({c})" for c in self.classes)])
            for sample, prediction in zip(self.samples, self.predictions, strict=True):
                assert prediction.probabilities is not None
                p = prediction.probabilities.tolist()
                truth, called = sample.class_name, self.classes[p.index(max(p))]
                if self.task == "multilabel":
                    names = sample.annotation.names if sample.annotation is not None else ()
                    truth = ";".join(c for c in self.classes if c in names)
                    called = ";".join(c for c, x in zip(self.classes, p, strict=True) if x >= YES)
                writer.writerow([sample.path, truth, called, *(f"{x:.6f}" for x in p)])
        else:
            writer.writerow(["path", "class", "score", "x1", "y1", "x2", "y2"])
            for sample, prediction in zip(self.samples, self.predictions, strict=True):
                assert prediction.detections is not None
                d = prediction.detections
                for box, score, label in zip(d.boxes.tolist(), d.scores.tolist(), d.labels.tolist(), strict=True):
                    writer.writerow([sample.path, self.classes[label], f"{score:.6f}", *(f"{x:.2f}" for x in box)])
        return text.getvalue()
