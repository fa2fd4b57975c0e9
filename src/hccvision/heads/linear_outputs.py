"""Outputs of the linear head: what its logits mean, which losses they take, and how they become probabilities."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from hccvision.losses.classification import image_weights


class Output(Protocol):
    """Meaning of the logits of a linear head."""

    task: str  # of a head with this output, a name in TASKS
    losses: str  # the task whose registered losses this output takes
    labels_from: str  # the attribute of a sample that the image labels are made from

    def logits(self, num_classes: int) -> int:
        """Return the number of logits for K classes; raise a ValueError if K doesn't suit."""

    def label_shape(self, logits: Tensor) -> tuple[int, ...]:
        """Return the shape of the image labels of a batch with these logits."""

    def loss_inputs(self, labels: Tensor, class_weights: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """Return the labels as the loss takes them, and its options for the class weights."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Compute ``(B, K)`` probabilities."""


class Softmax:
    """One of K classes, by one logit each."""

    task = losses = "classification"
    labels_from = "class_name"

    def logits(self, num_classes: int) -> int:
        """Return K."""
        _require_two(num_classes)
        return num_classes

    def label_shape(self, logits: Tensor) -> tuple[int, ...]:
        """Return ``(B,)``."""
        return (len(logits),)

    def loss_inputs(self, labels: Tensor, class_weights: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """Return the labels unchanged, and the class weights."""
        return labels, {} if class_weights is None else {"class_weights": class_weights}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Compute the softmax."""
        return logits.softmax(-1)


class Sigmoid:
    """One of two classes, by the logit of the last class."""

    task = "classification"
    losses = "multilabel"
    labels_from = "class_name"

    def logits(self, num_classes: int) -> int:
        """Return 1."""
        _require_two(num_classes)
        if num_classes != 2:
            raise ValueError(f'a single sigmoid separates 2 classes, got {num_classes}: use output="softmax"')
        return 1

    def label_shape(self, logits: Tensor) -> tuple[int, ...]:
        """Return ``(B,)``."""
        return (len(logits),)

    def loss_inputs(self, labels: Tensor, class_weights: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """Return labels ``(B, 1)``, and weights of the same shape."""
        weights = image_weights(labels, class_weights)
        return labels[:, None], {} if weights is None else {"weights": weights[:, None]}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Compute the sigmoid of the logit and of its negative, each without rounding at 1."""
        return torch.cat((-logits, logits), -1).sigmoid()


class Multilabel:
    """Any of K classes, each by its own sigmoid."""

    task = losses = "multilabel"
    labels_from = "annotations"

    def logits(self, num_classes: int) -> int:
        """Return K."""
        return num_classes

    def label_shape(self, logits: Tensor) -> tuple[int, ...]:
        """Return ``(B, K)``."""
        return tuple(logits.shape)

    def loss_inputs(self, labels: Tensor, class_weights: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        """Return the labels unchanged, and weights that are those of the classes where the label is 1, else 1."""
        if class_weights is None:
            return labels, {}
        return labels, {"weights": torch.where(labels > 0, class_weights.to(labels.device), 1.0)}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Compute the sigmoid of each logit."""
        return logits.sigmoid()


OUTPUTS: dict[str, Output] = {"softmax": Softmax(), "sigmoid": Sigmoid(), "multilabel": Multilabel()}


def _require_two(num_classes: int) -> None:
    if num_classes < 2:
        raise ValueError(
            f"a classifier needs at least 2 classes, got {num_classes}; to detect a single class, use "
            'output="multilabel"'
        )
