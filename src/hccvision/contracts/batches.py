"""Targets of a batch and the loss of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Targets:
    """Ground truth of a batch, padded, in pixels of the model's input.

    Args:
        boxes: ``(B, N, 4) float32``, xyxy pixels of the model's input; N is the largest count in the batch, also 0.
        labels: ``(B, N) int64``, class ids ``0 ... K-1``, −1 for padding. An image without lesions is a row of −1.
        image_labels: ``(B,) int64``, the class id of each whole image, for classification; ``(B, K) int64`` of 0 and
            1 for multi-label classification; None for detection.
        masks: ``(B, H, W) int64``, the class id of each pixel of the model's input, −1 where a pixel is ignored; None
            but for segmentation.
        crowds: ``(B, M, 4) float32``, regions with an uncounted group of lesions, xyxy pixels of the model's input,
            which count neither as lesions nor as background; padding has no area. None: there are none.

    Example:
        >>> t = Targets.pad([torch.zeros(0, 4), torch.tensor([[1.0, 2.0, 3.0, 4.0]])], [torch.zeros(0), torch.zeros(1)])
        >>> t.boxes.shape, t.labels.tolist()
        (torch.Size([2, 1, 4]), [[-1], [0]])
    """

    boxes: Tensor
    labels: Tensor
    image_labels: Tensor | None = None
    masks: Tensor | None = None
    crowds: Tensor | None = None

    @classmethod
    def pad(
        cls,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        image_labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> Targets:
        """Pad one ``(n_i, 4)`` box tensor and one ``(n_i,)`` label tensor per image to the largest count.

        Args:
            boxes: B tensors ``(n_i, 4)``, xyxy pixels of the model's input.
            labels: B tensors ``(n_i,)`` of class ids.
            image_labels: ``(B,)`` class ids of the images, ``(B, K)`` of 0 and 1, or None.
            masks: ``(B, H, W)`` class ids of the pixels, or None.

        Returns:
            The batch's targets, ``N = max(n_i)``.

        Raises:
            ValueError: if an image has not as many labels as boxes.
        """
        counts, label_counts = [len(b) for b in boxes], [len(label) for label in labels]
        if counts != label_counts:
            raise ValueError(f"each image needs as many labels as boxes, got {label_counts} labels for {counts} boxes")
        n = max(counts, default=0)
        out_boxes = torch.zeros(len(boxes), n, 4)
        out_labels = torch.full((len(boxes), n), -1, dtype=torch.int64)
        for i, (b, label) in enumerate(zip(boxes, labels, strict=True)):
            out_boxes[i, : len(b)] = b
            out_labels[i, : len(b)] = label
        return cls(out_boxes, out_labels, image_labels, masks)

    @property
    def valid(self) -> Tensor:
        """``(B, N) bool``, False for padding."""
        return self.labels >= 0

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> Targets:
        """Return the targets of some of the images.

        Args:
            rows: ``(M,) int64``, indices of the images, in any order.

        Returns:
            New targets of M images, padded as these are.

        Example:
            >>> two = Targets.pad([torch.zeros(1, 4), torch.zeros(0, 4)], [torch.zeros(1), torch.zeros(0)])
            >>> two.take(torch.tensor([1])).labels
            tensor([[-1]])
        """
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> Targets:
        """Move to a device.

        Args:
            device: target device.

        Returns:
            New targets; these are left as they are.
        """
        ahead = torch.device(device).type == "cuda"  # copies back to the CPU are awaited: they are read at once
        return self._map(lambda tensor: tensor.to(device, non_blocking=ahead))

    @classmethod
    def cat(cls, parts: Sequence[Targets]) -> Targets:
        """Concatenate the targets of several batches, padded to the largest count among them.

        Args:
            parts: targets of one kind, at least one.

        Returns:
            The targets of all images, in order.

        Example:
            >>> one = Targets.pad([torch.zeros(0, 4)], [torch.zeros(0)])
            >>> two = Targets.pad([torch.zeros(2, 4)], [torch.zeros(2)])
            >>> Targets.cat([one, two]).labels.tolist()
            [[-1, -1], [0, 0]]
        """
        most = max(part.labels.shape[1] for part in parts)
        pad = torch.nn.functional.pad
        labels = torch.cat([pad(part.labels, (0, most - part.labels.shape[1]), value=-1) for part in parts])
        image_labels = [part.image_labels for part in parts if part.image_labels is not None]
        masks = [part.masks for part in parts if part.masks is not None]
        crowds = None
        if any(part.crowds is not None for part in parts):
            crowds = _stack([part.boxes[:, :0] if part.crowds is None else part.crowds for part in parts])
        return cls(
            _stack([part.boxes for part in parts]),
            labels,
            torch.cat(image_labels) if image_labels else None,
            torch.cat(masks) if masks else None,
            crowds,
        )

    def _map(self, change: Callable[[Tensor], Tensor]) -> Targets:
        changed = (None if v is None else change(v) for v in (self.image_labels, self.masks, self.crowds))
        return Targets(change(self.boxes), change(self.labels), *changed)


def _stack(boxes: Sequence[Tensor]) -> Tensor:
    """Concatenate boxes ``(b, n, 4)`` along the batch, padded to the largest n."""
    most = max(b.shape[1] for b in boxes)
    return torch.cat([torch.nn.functional.pad(b, (0, 0, 0, most - b.shape[1])) for b in boxes])


@dataclass(frozen=True, eq=False)
class Loss(Mapping[str, Tensor]):
    """Summed loss of a batch and what to divide it by.

    As a mapping it holds the normalised loss: ``loss["loss"]`` is the total, and each part has its own name. Parts of a
    batch combine exactly: their sums and counts add up to those of the whole.

    Args:
        sums: scalar of each part of the loss, summed over the batch.
        count: scalar to divide by: images, labels, or default boxes matched with a lesion. A count of 0 divides by 1.

    Example:
        >>> loss = Loss({"regression": torch.tensor(2.0), "classification": torch.tensor(4.0)}, torch.tensor(4))
        >>> loss["loss"], dict(loss)["regression"]
        (tensor(1.5000), tensor(0.5000))
    """

    sums: Mapping[str, Tensor]
    count: Tensor

    @property
    def divisor(self) -> Tensor:
        """The count, or 1 where it is 0."""
        return torch.where(self.count > 0, self.count, torch.ones_like(self.count))

    def __getitem__(self, name: str) -> Tensor:
        if name != "loss":
            return self.sums[name] / self.divisor
        parts = [value / self.divisor for value in self.sums.values()]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def __iter__(self) -> Iterator[str]:
        return iter(("loss", *self.sums))

    def __len__(self) -> int:
        return 1 + len(self.sums)

    def backward(self) -> None:
        """Compute the gradients of the normalised total."""
        self["loss"].backward()
