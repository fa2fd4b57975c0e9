"""Classification: each image is of one class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hccvision.contracts.batches import Targets
from hccvision.contracts.outputs import Prediction
from hccvision.contracts.samples import Sample
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.probabilities import compute_calibration_error, reliability_curve
from hccvision.metrics.roc import compute_roc_auc
from hccvision.metrics.threshold_curves import curve_of
from hccvision.plots import evaluation_curves
from hccvision.plots.confusion import confusion_matrix
from hccvision.registry import TASKS
from hccvision.tasks.image_classes import ImageClasses


@TASKS.register("classification")
class Classification(ImageClasses):
    """Each image is of one class; predictions are probabilities that sum to 1.

    Example:
        >>> from pathlib import Path
        >>> Classification(["normal", "cancer"]).truth(Sample(Path("a.png"), class_name="cancer"))
        1
    """

    name = "classification"
    metrics = ("confusion", "balanced_accuracy", "roc_auc")
    training_metrics = ("balanced_accuracy",)

    def labels(self, sample: Sample) -> tuple[str, ...]:
        """Return the class of the image."""
        if sample.class_name is None:
            raise ValueError(
                f"{sample.path}: the ground truth of classification is a class_name, and this sample has none: label "
                "it, or leave it out"
            )
        return (sample.class_name,)

    def truth(self, sample: Sample) -> int:
        """Return the class id of the image."""
        self.check(sample)
        return self.ids[self.labels(sample)[0]]

    def example_targets(self, count: int, image_size: tuple[int, int]) -> Targets:
        """Return targets of the first class."""
        return Targets.pad([torch.zeros(0, 4)] * count, [torch.zeros(0)] * count, torch.zeros(count, dtype=torch.int64))

    def activation(self, logits: Tensor) -> Tensor:
        """Return the softmax of logits."""
        return logits.softmax(-1)

    def predicted(self, probabilities: Sequence[float]) -> list[str]:
        """Return the class of the highest probability."""
        return [self.classes[int(np.argmax(probabilities))]]

    def details(self, comparison: Comparison) -> Mapping[str, Any]:
        """Return the confusion matrix, rows truth, columns prediction."""
        return {"confusion_matrix": comparison.confusion_matrix.tolist()}

    def detail_lines(self, details: Mapping[str, Any]) -> list[str]:
        """Return the confusion matrix as a table."""
        width = max(16, *map(len, self.classes))
        columns = [max(len(c), 6) for c in self.classes]
        head = " ".join(f"{c:>{w}}" for c, w in zip(self.classes, columns, strict=True))
        lines = ["confusion matrix, rows truth, columns prediction:", f"{'':<{width}} {head}"]
        for name, row in zip(self.classes, details["confusion_matrix"], strict=True):
            cells = " ".join(f"{n:>{w}d}" for n, w in zip(row, columns, strict=True))
            lines.append(f"{name:<{width}} {cells}")
        return lines

    def pictures(
        self,
        predictions: Sequence[Prediction],
        samples: Sequence[Sample],
        details: Mapping[str, Any],
        *,
        count: int = 12,
        score_threshold: float = 0.5,
    ) -> dict[str, Any]:
        """Draw the confusion matrix."""
        matrix = np.asarray(details["confusion_matrix"])
        return {"confusion_matrix.png": confusion_matrix(matrix, self.classes, positive=self.positive)}

    def curves(self, comparison: Comparison) -> dict[str, Any]:
        """Draw ROC, precision and recall, calibration and net benefit of the positive class."""
        curve = curve_of(comparison)
        if not curve.positives or not curve.negatives:
            return {}
        probability = comparison.probabilities[:, comparison.positive_id]
        bins = reliability_curve(probability, comparison.class_ids == comparison.positive_id)
        points = curve.sensitivity[1:], curve.precision[1:]
        return {
            "roc.png": evaluation_curves.roc(curve, area=compute_roc_auc(comparison)),
            "precision_recall.png": evaluation_curves.precision_recall({self.positive: points}),
            "calibration.png": evaluation_curves.calibration(bins, error=compute_calibration_error(comparison)),
            "decision_curve.png": evaluation_curves.net_benefit(curve),
        }
