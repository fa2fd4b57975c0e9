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
from hccvision.images.placement import Placement
from hccvision.metrics.comparison import Comparison
from hccvision.plots.confusion import confusion_matrix
from hccvision.registry import TASKS
from hccvision.tasks.task import Task

NO_BOXES = torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64)


@TASKS.register("classification")
class Classification(Task):
    """Each image is of one class; predictions are probabilities that sum to 1.

    Example:
        >>> from pathlib import Path
        >>> Classification(["normal", "cancer"]).truth(Sample(Path("a.png"), class_name="cancer"))
        1
    """

    name = "classification"
    answer = "probabilities"
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

    def target(self, sample: Sample, placement: Placement) -> Targets:
        """Return targets with the class id of the image."""
        return Targets(*NO_BOXES, torch.tensor([self.truth(sample)]))

    def example_targets(self, count: int, image_size: tuple[int, int]) -> Targets:
        """Return targets of the first class."""
        return Targets.pad([torch.zeros(0, 4)] * count, [torch.zeros(0)] * count, torch.zeros(count, dtype=torch.int64))

    def decode(self, output: Any, *, first_label: int = 0, score_threshold: float = 0.0) -> Tensor:
        """Return the probabilities of logits ``(B, K)``."""
        return self.activation(self._logits(output))

    def activation(self, logits: Tensor) -> Tensor:
        """Return the probabilities of logits."""
        return logits.softmax(-1)

    def _logits(self, output: Any) -> Tensor:
        shape = tuple(getattr(output, "shape", ()))
        if len(shape) != 2 or shape[1] != len(self.classes):
            raise ValueError(
                f"expected logits (B, {len(self.classes)}), one for each of the classes {', '.join(self.classes)}, got "
                f"{shape or type(output).__name__}: build the model for these classes, or pass a callable, "
                "wrap(…, decode=…)"
            )
        return torch.as_tensor(output).float()

    def prediction(self, path: str, decoded: Any, placement: Placement) -> Prediction:
        """Return the probabilities of the image."""
        return Prediction(path, probabilities=decoded.detach().cpu().clone())

    def compared(self, prediction: Prediction) -> np.ndarray:
        """Return the probabilities, ``(K,)``."""
        return np.asarray(super().compared(prediction))

    @property
    def heading(self) -> str:
        """The positive class."""
        return f", positive class: {self.positive}"

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

    def table(self, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> tuple[list[str], list[list[Any]]]:
        """Return one row per image: ground truth, predicted class and probabilities."""
        rows = []
        for sample, prediction in zip(samples, predictions, strict=True):
            p = self.compared(prediction).tolist()
            truth, called = self.called(sample, p)
            rows.append([sample.path, truth, called, *(f"{x:.6f}" for x in p)])
        return ["path", "truth", "predicted", *(f"p({c})" for c in self.classes)], rows

    def called(self, sample: Sample, probabilities: Sequence[float]) -> tuple[str, str]:
        """Return the true and the predicted class of an image as text."""
        return self.labels(sample)[0], self.classes[int(np.argmax(probabilities))]

    def pictures(
        self,
        samples: Sequence[Sample],
        predictions: Sequence[Prediction],
        details: Mapping[str, Any],
        *,
        count: int = 12,
        score_threshold: float = 0.5,
    ) -> dict[str, Any]:
        """Draw the confusion matrix."""
        matrix = np.asarray(details["confusion_matrix"])
        return {"confusion_matrix.png": confusion_matrix(matrix, self.classes, positive=self.positive)}
