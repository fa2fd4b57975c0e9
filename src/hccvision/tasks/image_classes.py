"""Common base of the tasks whose answer is a probability of each class for the whole image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hccvision.contracts.batches import Targets
from hccvision.contracts.outputs import Prediction
from hccvision.contracts.samples import Sample
from hccvision.images.placement import Placement
from hccvision.tasks.task import Task


class ImageClasses(Task):
    """Questions about the whole image, answered by a probability of each class.

    A subclass states the ground truth, the activation that turns logits into probabilities, and which classes are
    predicted from probabilities.
    """

    answer = "probabilities"

    @abstractmethod
    def activation(self, logits: Tensor) -> Tensor:
        """Return the probabilities ``(B, K)`` of logits ``(B, K)``."""

    @abstractmethod
    def predicted(self, probabilities: Sequence[float]) -> list[str]:
        """Return the classes predicted from the K probabilities of an image."""

    def target(self, sample: Sample, placement: Placement) -> Targets:
        """Return targets with the ground truth of the image as its image label."""
        return Targets(
            torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64), torch.as_tensor([self.truth(sample)])
        )

    def decode(self, output: Any, *, first_label: int = 0, score_threshold: float = 0.0) -> Tensor:
        """Return the probabilities of logits ``(B, K)``."""
        shape = tuple(getattr(output, "shape", ()))
        if len(shape) != 2 or shape[1] != len(self.classes):
            raise ValueError(
                f"expected logits (B, {len(self.classes)}), one for each of the classes {', '.join(self.classes)}, got "
                f"{shape or type(output).__name__}: build the model for these classes, or pass a callable, "
                "wrap(…, decode=…)"
            )
        return self.activation(torch.as_tensor(output).float())

    def prediction(self, path: str, decoded: Any, placement: Placement) -> Prediction:
        """Return the probabilities of the image."""
        return Prediction(path, probabilities=torch.as_tensor(decoded).detach().cpu().clone())

    def compared(self, prediction: Prediction) -> np.ndarray:
        """Return the probabilities, ``(K,)``."""
        return np.asarray(super().compared(prediction))

    def table(self, predictions: Sequence[Prediction], samples: Sequence[Sample]) -> tuple[list[str], list[list[Any]]]:
        """Return one row per image: its classes, the predicted ones, and the probabilities."""
        rows = []
        for prediction, sample in zip(predictions, samples, strict=True):
            p, shown = self.compared(prediction).tolist(), self.labels(sample)
            truth = [name for name in self.classes if name in shown]
            rows.append([sample.path, ";".join(truth), ";".join(self.predicted(p)), *(f"{x:.6f}" for x in p)])
        return ["path", "truth", "predicted", *(f"p({c})" for c in self.classes)], rows
