"""Outputs of a model: raw ones, detections, and the prediction for one input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Detections:
    """Lesions detected in one image, sorted by descending score.

    Args:
        boxes: ``(N, 4) float32``, xyxy pixels of the original image.
        scores: ``(N,) float32`` in [0, 1], descending.
        labels: ``(N,) int64``, class ids ``0 ... K-1``; there is no background among them.

    Example:
        >>> import torch
        >>> d = Detections(torch.tensor([[1.0, 2.0, 9.0, 9.0]]), torch.tensor([0.8]), torch.tensor([0]))
        >>> d.as_dict(first_label=1)["labels"]
        tensor([1])
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def above(self, score: float) -> Detections:
        """Return the detections of at least a score.

        Args:
            score: lowest score to keep, in [0, 1].

        Returns:
            The detections kept, in the same order.
        """
        keep = self.scores >= score
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep])

    def as_dict(self, first_label: int = 0) -> dict[str, Tensor]:
        """Return the dictionary that torchmetrics takes.

        Args:
            first_label: the id of the first class; torchvision's own detectors count from 1.

        Returns:
            ``boxes (N, 4)``, ``scores (N,)``, ``labels (N,)``.
        """
        return {"boxes": self.boxes, "scores": self.scores, "labels": self.labels + first_label}


@dataclass(frozen=True, eq=False)
class Prediction:
    """Answer for one input; there is one per input, in the order of the inputs.

    Args:
        path: the file; ``"array 3"`` for an input that is not a file, with its number among the inputs, from 0.
        probabilities: ``(K,) float32`` of a classifier, summing to 1 unless it is multi-label; None for a detector.
        detections: of a detector, in pixels of the original image; None for a classifier.
        error: why this input could not be used, naming it; None if it could.
        mask: ``(H, W) int64`` of a segmentation, the class id of each pixel of the original image; None otherwise.

    Example:
        >>> Prediction("a.png", error="a.png: not an image").detections is None
        True
    """

    path: str
    probabilities: Tensor | None = None
    detections: Detections | None = None
    error: str | None = None
    mask: Tensor | None = None


class SSDOutput(NamedTuple):
    """The raw output of an SSD head, before softmax and decoding.

    Args:
        logits: ``(B, A, K + 1)``; index 0 is the background, class ``k`` is index ``k + 1``.
        offsets: ``(B, A, 4)``, ``cx, cy, w, h`` encoded against the A default boxes.
    """

    logits: Tensor
    offsets: Tensor
