"""The words every part of hccvision speaks: samples, annotations, targets, detections, and the two protocols.

Boxes are everywhere ``(..., 4) float32``, ``xyxy``, pixels, 0-based, half-open: the box of pixel columns 0 to 9 is
``x1 = 0, x2 = 10``. Sizes are everywhere ``(height, width)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a file: readers collect these, and nothing is silently dropped.

    Args:
        kind: a short fixed word to count by, such as ``"degenerate_box"`` or ``"missing_image"``.
        path: the file it was found in.
        message: what was expected, what came, and what to do.
        usable: whether the sample can still be used without the offending part; False leaves the whole sample out.

    Example:
        >>> print(Problem("missing_image", "a.xml", "there is no image beside it: add a.png or delete a.xml", False))
        a.xml: there is no image beside it: add a.png or delete a.xml
    """

    kind: str
    path: str
    message: str
    usable: bool = True

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclass(frozen=True, eq=False)
class Annotation:
    """The boxes drawn in one image, in the pixels of that image.

    Args:
        boxes: ``(N, 4) float32``, xyxy pixels, 0-based, half-open.
        names: N class names, in the order of the boxes.
        size: ``(height, width)`` as the annotation states it; None where it doesn't.
        difficult: N flags; difficult truths are trained on, and left out of the VOC metrics. Empty means all False.
        truncated: N flags. Empty means all False.
        poses: N free texts. Empty means ``"Unspecified"``.
        filename: the image's file name as the annotation states it.
        verified: whether a human has confirmed the whole annotation.
        path: the annotation's own file.
        problems: what was found wrong while reading; the boxes concerned are not in ``boxes``.
        extra: the file's own fields, without its objects, in its own words: plain dictionaries, lists and texts that
            `voc.write` writes back in place. Empty means LabelImg's usual ones.
        object_extras: N dictionaries, the fields of each object where they are not the usual ones. Empty means none.

    Example:
        >>> a = Annotation(np.array([[10, 20, 30, 40]], np.float32), ("tumor",), size=(300, 484))
        >>> len(a), a.difficult
        (1, (False,))
    """

    boxes: np.ndarray
    names: tuple[str, ...]
    size: tuple[int, int] | None = None
    difficult: tuple[bool, ...] = ()
    truncated: tuple[bool, ...] = ()
    poses: tuple[str, ...] = ()
    filename: str = ""
    verified: bool = False
    path: Path | None = None
    problems: tuple[Problem, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    object_extras: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, np.float32).reshape(-1, 4)
        n = len(boxes)
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "names", tuple(self.names))
        defaults = {"difficult": False, "truncated": False, "poses": "Unspecified", "object_extras": {}}
        for name, default in defaults.items():
            object.__setattr__(self, name, tuple(getattr(self, name)) or (default,) * n)
        for name in ("names", *defaults):
            if len(getattr(self, name)) != n:
                raise ValueError(f"an Annotation of {n} boxes needs {n} {name}, got {len(getattr(self, name))}")

    def __len__(self) -> int:
        return len(self.boxes)

    def keep(self, numbers: Sequence[int]) -> Annotation:
        """Give the annotation of some of its boxes, with all that is said of them.

        Args:
            numbers: indices of the boxes, in the order wanted.

        Returns:
            A new annotation.

        Example:
            >>> a = Annotation(np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32), ("hcc", "cyst"))
            >>> a.keep([1]).names
            ('cyst',)
        """
        chosen = list(numbers)
        return replace(
            self,
            boxes=self.boxes[chosen],
            names=tuple(self.names[i] for i in chosen),
            difficult=tuple(self.difficult[i] for i in chosen),
            truncated=tuple(self.truncated[i] for i in chosen),
            poses=tuple(self.poses[i] for i in chosen),
            object_extras=tuple(self.object_extras[i] for i in chosen),
        )


@dataclass(frozen=True, eq=False)
class Sample:
    """One image on disk with what is known about it: a class name, or an annotation, and its patient.

    Args:
        path: the image file.
        patient: whose slice it is; None where nobody said.
        class_name: the image's class, for classification.
        annotation: its boxes, for detection; one of no boxes means "looked at, no lesion".
        problems: what is wrong with its files.
        source_id: whose copy it is: the path of the image it was made from, or the last parts of it, without the
            suffix; None where it is nobody's copy.
        series: the acquisition it comes from; None where nobody said.

    Example:
        >>> Sample(Path("liver/P007_03.png"), patient="P007", class_name="cancer").class_name
        'cancer'
    """

    path: Path
    patient: str | None = None
    class_name: str | None = None
    annotation: Annotation | None = None
    problems: tuple[Problem, ...] = ()
    source_id: str | None = None
    series: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @property
    def names(self) -> tuple[str, ...]:
        """All class names the sample bears: its own, or those of its boxes."""
        if self.class_name is not None:
            return (self.class_name,)
        return self.annotation.names if self.annotation is not None else ()


@dataclass(frozen=True, eq=False)
class Targets:
    """What a batch of images should come to, padded, in the pixels of the model's input.

    Args:
        boxes: ``(B, N, 4) float32``, xyxy pixels of the model's input; N is the largest count in the batch, also 0.
        labels: ``(B, N) int64``, class ids ``0 ... K-1``, −1 for padding. An image without lesions is a row of −1.
        image_labels: ``(B,) int64``, the class id of each whole image, for classification; ``(B, K) int64`` of 0 and
            1 for multi-label classification; None for detection.

    Example:
        >>> t = Targets.pad([torch.zeros(0, 4), torch.tensor([[1.0, 2.0, 3.0, 4.0]])], [torch.zeros(0), torch.zeros(1)])
        >>> t.boxes.shape, t.labels.tolist()
        (torch.Size([2, 1, 4]), [[-1], [0]])
    """

    boxes: Tensor
    labels: Tensor
    image_labels: Tensor | None = None

    @classmethod
    def pad(cls, boxes: Sequence[Tensor], labels: Sequence[Tensor], image_labels: Tensor | None = None) -> Targets:
        """Pad one ``(n_i, 4)`` box tensor and one ``(n_i,)`` label tensor per image to the largest count.

        Args:
            boxes: B tensors ``(n_i, 4)``, xyxy pixels of the model's input.
            labels: B tensors ``(n_i,)`` of class ids.
            image_labels: ``(B,)`` class ids of the images, ``(B, K)`` of 0 and 1, or None.

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
        return cls(out_boxes, out_labels, image_labels)

    @property
    def valid(self) -> Tensor:
        """``(B, N) bool``, False for padding."""
        return self.labels >= 0

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> Targets:
        """Give the targets of some of the images.

        Args:
            rows: ``(M,) int64``, which of them, in any order.

        Returns:
            New targets of M images, padded as these are.

        Example:
            >>> two = Targets.pad([torch.zeros(1, 4), torch.zeros(0, 4)], [torch.zeros(1), torch.zeros(0)])
            >>> two.take(torch.tensor([1])).labels
            tensor([[-1]])
        """
        labels = self.image_labels
        return Targets(self.boxes[rows], self.labels[rows], None if labels is None else labels[rows])

    def to(self, device: torch.device | str) -> Targets:
        """Move to a device.

        Args:
            device: where to.

        Returns:
            New targets; these are left as they are.
        """
        ahead = torch.device(device).type == "cuda"  # the way back is waited for: what arrives is read at once
        boxes, labels = (tensor.to(device, non_blocking=ahead) for tensor in (self.boxes, self.labels))
        image_labels = None if self.image_labels is None else self.image_labels.to(device, non_blocking=ahead)
        return replace(self, boxes=boxes, labels=labels, image_labels=image_labels)


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, best first.

    Args:
        boxes: ``(N, 4) float32``, xyxy pixels of the original image.
        scores: ``(N,) float32`` in [0, 1], descending.
        labels: ``(N,) int64``, class ids ``0 ... K-1``; there is no background among them.

    Example:
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
        """Keep what scores at least so much.

        Args:
            score: the least score, in [0, 1].

        Returns:
            The detections kept, in the same order.
        """
        keep = self.scores >= score
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep])

    def as_dict(self, first_label: int = 0) -> dict[str, Tensor]:
        """Give the dictionary that torchmetrics takes.

        Args:
            first_label: the id of the first class; torchvision's own detectors count from 1.

        Returns:
            ``boxes (N, 4)``, ``scores (N,)``, ``labels (N,)``.
        """
        return {"boxes": self.boxes, "scores": self.scores, "labels": self.labels + first_label}


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer for one input; there is one per input, in the order of the inputs.

    Args:
        path: the file, or ``"array 3"`` for the fourth of the arrays given.
        probabilities: ``(K,) float32`` of a classifier, summing to 1 unless it is multi-label; None for a detector.
        detections: of a detector, in pixels of the original image; None for a classifier.
        error: why this input could not be used, naming it; None if it could.

    Example:
        >>> Prediction("a.png", error="a.png: not an image").detections is None
        True
    """

    path: str
    probabilities: Tensor | None = None
    detections: Detections | None = None
    error: str | None = None


class SSDOutput(NamedTuple):
    """The raw output of an SSD head, before softmax and decoding.

    Args:
        logits: ``(B, A, K + 1)``; index 0 is the background, class ``k`` is index ``k + 1``.
        offsets: ``(B, A, 4)``, ``cx, cy, w, h`` encoded against the A default boxes.
    """

    logits: Tensor
    offsets: Tensor


class FeatureSpec(NamedTuple):
    """All a head needs to know of a backbone: the maps it gives at the model's image size.

    Args:
        channels: of each map.
        strides: nominal, input pixels per map cell.
        sizes: ``(height, width)`` of each map, from one dry forward.
        image_size: ``(height, width)`` of the model's input.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    image_size: tuple[int, int]


@runtime_checkable
class Backbone(Protocol):
    """Turns images into feature maps, and says which.

    A backbone is a ``torch.nn.Module`` with these two statements; maps go from fine to coarse.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of normalised images ``(B, C, H, W)``."""


@runtime_checkable
class Head(Protocol):
    """Turns feature maps into a raw output, and knows how to score and to read that output.

    A head is a ``torch.nn.Module`` built as ``builder(features: FeatureSpec, num_classes: int, **options)``. A recipe
    with ``label_smoothing`` or ``class_weights`` asks for a ``loss`` that takes them. A loss that is no mean over
    images takes ``normaliser`` and the head has a method of this name, see `SSDHead`: then a batch may be cut up. A
    head may have ``select(maps)``, which gives what it needs of the maps, in less space, such that it makes the same of
    both: that is what a feature cache keeps.
    """

    task: str  # "classification" or "detection"

    def __call__(self, maps: tuple[Tensor, ...]) -> Any:
        """Compute the raw output from all maps of the backbone."""

    def loss(self, output: Any, targets: Targets, *, name: str | None = None) -> dict[str, Tensor]:
        """Give ``"loss"`` and its parts as scalars; ``loss`` is their sum."""

    def decode(self, output: Any) -> Any:
        """Read the output: ``(B, K)`` probabilities, or one `Detections` per image in pixels of the model's input."""
