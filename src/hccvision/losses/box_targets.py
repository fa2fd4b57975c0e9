"""What a detection loss compares the raw output with."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from hccvision.losses.mining import HardNegatives


class BoxTargets(NamedTuple):
    """Targets of the default boxes of a batch.

    Args:
        classes: ``(B, A) int64``, 0 for background, ``k + 1`` for class ``k``.
        offsets: ``(B, A, 4)``, encoded; those of background boxes are ignored.
        default_boxes: ``(A, 4)`` as ``cx, cy, w, h``, for losses that decode the offsets.
        weights: ``(B, A)``, how much each positive default box counts, at least 0; None: all positives count 1.
        negatives: how many background boxes count, for losses that mine them.
        ignored: ``(B, A) bool``, background boxes that lie in a crowd and count neither as lesion nor as background;
            None: there are none.

    Example:
        >>> import torch
        >>> BoxTargets(torch.tensor([[0, 2, 1]]), torch.zeros(1, 3, 4)).positives
        tensor(2)
    """

    classes: Tensor
    offsets: Tensor
    default_boxes: Tensor | None = None
    weights: Tensor | None = None
    negatives: HardNegatives = HardNegatives()
    ignored: Tensor | None = None

    @property
    def positive(self) -> Tensor:
        """``(B, A) bool``, True for default boxes matched with a lesion."""
        return self.classes > 0

    @property
    def positives(self) -> Tensor:
        """Scalar number of positive default boxes, or the sum of their weights: the count of a loss."""
        return self.positive.sum() if self.weights is None else self.weights[self.positive].sum()
