"""Detection: lesions are boxes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hccvision.boxes.borders import clip
from hccvision.boxes.overlap import area
from hccvision.contracts.batches import Targets
from hccvision.contracts.outputs import Detections, Prediction
from hccvision.contracts.samples import Annotation, Sample
from hccvision.images.placement import Placement
from hccvision.images.read import image_size, read_image
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.error_kinds import compute_error_kinds
from hccvision.metrics.froc import froc_points
from hccvision.metrics.probabilities import reliability_curve
from hccvision.plots import evaluation_curves
from hccvision.plots.detection_panels import detections
from hccvision.registry import TASKS
from hccvision.tasks.task import Task


@TASKS.register("detection")
class Detection(Task):
    """Lesions are boxes with classes; predictions are `Detections`.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> lesion = Annotation(np.array([[1, 1, 9, 9]]), ("hcc",), size=(20, 30))
        >>> Detection(["hcc"]).truth(Sample(Path("a.png"), annotation=lesion))["labels"]
        tensor([0])
    """

    name = "detection"
    answer = "detections"
    annotates = True
    wrapped_image_size = None
    metrics = ("voc_map", "voc07_map", "coco_map", "detection_counts", "froc")
    training_metrics = ("voc_map",)

    def labels(self, sample: Sample) -> tuple[str, ...]:
        """Return the class of each box."""
        if sample.annotation is None:
            raise ValueError(
                f"{sample.path}: the ground truth of detection is an annotation, and this sample has none: annotate "
                "it, or leave it out"
            )
        return sample.annotation.names

    def check(self, sample: Sample) -> None:
        """Check that a sample has boxes of known classes, with finite coordinates, of which some part is visible."""
        super().check(sample)
        assert sample.annotation is not None
        self._visible(sample, sample.annotation.size or (math.inf, math.inf))

    def objects(self, sample: Sample, size: tuple[int, int]) -> dict[str, torch.Tensor]:
        """Return the boxes as training and evaluation use them: clipped to the image, without empty ones.

        Difficult boxes are lesions like the others in training, as in SSD's own code; metrics by the VOC rule ignore
        them, those of COCO know none. Crowds are neither lesions nor background in both.

        Args:
            sample: with an annotation.
            size: ``(height, width)`` of its image.

        Returns:
            ``boxes (n, 4) float32`` in pixels of the original image, ``labels (n,) int64``, ``difficult (n,) bool`` and
            ``crowd (n,) bool``.

        Raises:
            ValueError: as `check`; if the annotation states another image size; or if it has boxes, and no part of any
                is inside the image: it would count as free of lesions.
        """
        self.check(sample)
        annotation = sample.annotation
        assert annotation is not None
        if annotation.size is not None and tuple(annotation.size) != tuple(size):
            raise ValueError(
                f"{sample.path}: its annotation is of an image of {annotation.size[1]}×{annotation.size[0]} pixels, "
                f"and it has {size[1]}×{size[0]}: annotate this version of the image"
            )
        boxes, keep = self._visible(sample, size)
        labels = torch.tensor([self.ids[name] for name in annotation.names], dtype=torch.int64)
        flags = {k: torch.tensor(getattr(annotation, k), dtype=torch.bool) for k in ("difficult", "crowd")}
        return {key: values[keep] for key, values in {"boxes": boxes, "labels": labels, **flags}.items()}

    def _visible(self, sample: Sample, size: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the boxes of a sample clipped to its image, and which of them have an area there."""
        annotation = sample.annotation
        assert annotation is not None
        file = annotation.path or sample.path
        given, stated = torch.from_numpy(annotation.boxes), f"{annotation.boxes.tolist()!s:.200}"
        if not bool(given.isfinite().all()):
            raise ValueError(f"{file}: expected boxes of finite numbers, got {stated}: correct them")
        boxes = clip(given, size)
        keep = area(boxes) > 0
        if len(keep) and not bool(keep.any()):
            raise ValueError(
                f"{file}: expected boxes with an area inside the image, got {stated}: correct them, "
                "or leave the sample out, which would count as free of lesions"
            )
        return boxes, keep

    def check_training(self, samples: Sequence[Sample]) -> None:
        """Warn if no sample has a box, which can only teach that there is no lesion, or none has one of a class."""
        if any(self.counted(sample) for sample in samples):
            super().check_training(samples)
        elif samples:
            warnings.warn(
                f"expected boxes to train a detector, got none in {len(samples)} samples, such as {samples[0].path}: "
                "the model can only learn to find nothing; check the folder and the format that was read",
                stacklevel=3,
            )

    def truth(self, sample: Sample) -> dict[str, torch.Tensor]:
        """Return `objects` with ``size (2,)``, the height and width of the image."""
        self.check(sample)
        assert sample.annotation is not None
        size = sample.annotation.size or image_size(sample.path)
        return {**self.objects(sample, size), "size": torch.tensor(size)}

    def target(self, sample: Sample, placement: Placement) -> Targets:
        """Return boxes in pixels of the model's input, with their class ids, and the crowds by themselves."""
        found = self.objects(sample, placement.original_size)
        boxes, crowd = placement.to_input(found["boxes"]), found["crowd"]
        keep = (area(boxes) > 0) & ~crowd
        crowds = boxes[crowd][None] if crowd.any() else None
        return Targets(boxes[keep][None], found["labels"][keep][None], crowds=crowds)

    def stratum(self, sample: Sample) -> Hashable:
        """Return whether the image has any lesion to learn; a crowd is none."""
        return bool(self.counted(sample))

    def counted(self, sample: Sample) -> tuple[str, ...]:
        """Return the class of each box but the crowds."""
        return () if sample.annotation is None else sample.annotation.object_names

    def decode(self, output: Any, *, first_label: int = 0, score_threshold: float = 0.0) -> list[Detections]:
        """Return the detections in torchvision's output: one dictionary of boxes, scores and labels per image."""
        found = []
        for number, entry in enumerate(output):
            missing = [key for key in ("boxes", "scores", "labels") if key not in entry]
            if missing:
                raise ValueError(
                    f"expected one dictionary of boxes, scores and labels per image, and entry {number} lacks "
                    f"{', '.join(missing)}: pass a callable, wrap(…, decode=…)"
                )
            boxes, scores, labels = (torch.as_tensor(entry[key]) for key in ("boxes", "scores", "labels"))
            boxes = boxes.reshape(-1, 4) if boxes.numel() == 0 else boxes
            if boxes.shape != (len(scores), 4) or scores.shape != labels.shape or scores.ndim != 1:
                raise ValueError(
                    f"expected boxes (N, 4), scores (N,) and labels (N,) for each image, and entry {number} has "
                    f"{tuple(boxes.shape)}, {tuple(scores.shape)} and {tuple(labels.shape)}: pass a callable, "
                    "wrap(…, decode=…)"
                )
            labels = labels.long() - first_label
            known = (labels >= 0) & (labels < len(self.classes))
            if not known.all():
                warnings.warn(
                    f"{int((~known).sum())} detections have labels that stand for none of the classes "
                    f"({', '.join(self.classes)}; the first has the label {first_label}) and are left out: pass wrap "
                    "the names of all classes in order, or another first_label",
                    stacklevel=2,
                )
            keep = known & (scores >= score_threshold)
            order = scores[keep].argsort(descending=True, stable=True)
            found.append(Detections(*(t[keep][order] for t in (boxes.float(), scores.float(), labels))))
        return found

    def prediction(self, path: str, decoded: Any, placement: Placement) -> Prediction:
        """Return the detections in pixels of the original image."""
        return Prediction(path, detections=to_original(decoded, placement))

    def compared(self, prediction: Prediction) -> dict[str, torch.Tensor]:
        """Return the dictionary of boxes, scores and labels."""
        found: Detections = super().compared(prediction)
        return found.as_dict()

    def annotation(self, prediction: Prediction, size: tuple[int, int], *, score_threshold: float = 0.0) -> Annotation:
        """Return the detections as boxes."""
        found: Detections = super().compared(prediction).above(score_threshold)
        names = tuple(self.classes[i] for i in found.labels.tolist())
        return Annotation(found.boxes.numpy(), names, size=size, verified=False)

    def table(self, predictions: Sequence[Prediction], samples: Sequence[Sample]) -> tuple[list[str], list[list[Any]]]:
        """Return one row per detection."""
        rows = []
        for prediction, sample in zip(predictions, samples, strict=True):
            found = self.compared(prediction)
            for box, score, label in zip(*(found[k].tolist() for k in ("boxes", "scores", "labels")), strict=True):
                rows.append([sample.path, self.classes[label], f"{score:.6f}", *(f"{x:.2f}" for x in box)])
        return ["path", "class", "score", "x1", "y1", "x2", "y2"], rows

    def pictures(
        self,
        predictions: Sequence[Prediction],
        samples: Sequence[Sample],
        details: Mapping[str, Any],
        *,
        count: int = 12,
        score_threshold: float = 0.5,
    ) -> dict[str, Any]:
        """Draw detections and ground truth on some of the images, those with lesions first."""
        pairs = list(zip(predictions, samples, strict=True))
        pairs.sort(key=lambda pair: not pair[1].annotation)  # an annotation without boxes is false
        with_lesion = sum(bool(s.annotation) for _, s in pairs)
        normal = min(len(pairs) - with_lesion, max(count // 4, count - with_lesion))
        chosen = pairs[: min(count - normal, with_lesion)] + pairs[with_lesion : with_lesion + normal]
        if not chosen:
            return {}
        figure = detections(
            [read_image(s.path) for _, s in chosen],
            [p.detections for p, _ in chosen if p.detections is not None],
            [s.annotation for _, s in chosen],
            classes=self.classes,
            score_threshold=score_threshold,
            titles=[s.path.name for _, s in chosen],
        )
        return {"detections.png": figure}

    def curves(self, comparison: Comparison) -> dict[str, Any]:
        """Draw precision and recall, FROC, calibration and kinds of errors, at an IoU of 0.5."""
        matches = comparison.matches((0.5,))
        if not matches.num_truths.any() or not len(matches.scores):
            return {}
        of_class = {}
        for label, count in enumerate(matches.num_truths.tolist()):
            flags = matches.flags(label)
            if count and len(flags):
                hits = np.cumsum(flags)
                of_class[self.classes[label]] = (hits / count, hits / np.arange(1, len(flags) + 1))
        counted = ~matches.ignored[0]
        bins = reliability_curve(matches.scores[counted].clip(0, 1), matches.hits[0, counted])
        errors = compute_error_kinds(comparison)
        kinds = [name.removeprefix("errors/") for name in errors if name.startswith("errors/")]
        return {
            "froc.png": evaluation_curves.froc(*froc_points(matches)),
            "precision_recall.png": evaluation_curves.precision_recall(of_class),
            "calibration.png": evaluation_curves.calibration(bins, score="score"),
            "error_kinds.png": evaluation_curves.error_kinds(
                {kind: errors[f"errors/{kind}"] for kind in kinds}, {kind: errors[f"cost/{kind}"] for kind in kinds}
            ),
        }


def to_original(found: Detections, placement: Placement) -> Detections:
    """Map detections from the model's input to the original image.

    Args:
        found: in pixels of the model's input.
        placement: how the image lies in the input.

    Returns:
        The detections on the CPU, boxes in pixels of the original image and clipped to it; those wholly outside, such
        as in the black bars of a letterbox, are left out.

    Example:
        >>> from hccvision.images import place
        >>> placement = place((300, 600), (300, 300), "letterbox")
        >>> in_the_bar = Detections(torch.tensor([[0.0, 0.0, 50.0, 70.0]]), torch.ones(1), torch.zeros(1).long())
        >>> len(to_original(in_the_bar, placement))
        0
    """
    boxes = placement.to_original(found.boxes.detach().cpu())
    keep = area(boxes) > 0
    return Detections(boxes[keep], found.scores.detach().cpu()[keep], found.labels.cpu()[keep])
