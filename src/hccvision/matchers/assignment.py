"""Contract of a matcher and the assignment it returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from hccvision.contracts.outputs import SSDOutput


class Match(NamedTuple):
    """Ground truth assigned to each default box.

    Args:
        truth: ``(B, A) int64``, index into the image's row of the targets, −1 for background.
        iou: ``(B, A)`` with the truth assigned, or with the best one for background; 0 in images without truths.
        weights: ``(B, A) float``, how much each positive default box counts in the loss, at least 0; values at
            background boxes are ignored. None: all positives count 1.
    """

    truth: Tensor
    iou: Tensor
    weights: Tensor | None = None


class Matcher(Protocol):
    """Callable that assigns ground truth to default boxes, registered in MATCHERS by a builder of it.

    `SSDHead` calls it once per loss.
    """

    def __call__(
        self,
        default_boxes: Tensor,
        truths: Tensor,
        labels: Tensor,
        valid: Tensor,
        *,
        output: SSDOutput | None = None,
        levels: Sequence[int] | None = None,
    ) -> Match:
        """Match the ground truth of a batch.

        Args:
            default_boxes: ``(A, 4)`` as ``cx, cy, w, h`` in fractions of the image sides.
            truths: ``(B, N, 4)`` ground truth, xyxy in the same unit, padded.
            labels: ``(B, N) int64``, class ids ``0 ... K-1``, −1 for padding.
            valid: ``(B, N) bool``, False for padding.
            output: raw output of the head, without gradient: logits ``(B, A, K + 1)`` and offsets ``(B, A, 4)``, which
                `default_boxes.decode` turns into boxes. None outside of training.
            levels: number of default boxes of each feature map, from fine to coarse; their sum is A.

        Returns:
            The match.
        """
