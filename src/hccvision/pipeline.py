"""Models at work: classify then locate, and propose annotations for a human to correct."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hccvision import images
from hccvision.annotations import voc
from hccvision.contracts import Annotation, Detections, Prediction
from hccvision.model import Model
from hccvision.prediction import Input, _listed, predict


class CAD:
    """The paper's system: a slice is classified, and lesions are located in what was called cancer.

    Args:
        classifier: of normal and cancer; its ``positive`` class means disease.
        detector: of lesions.
        threshold: probability of the positive class from which a slice is called cancer, in [0, 1].
        score_threshold: least score of a lesion shown, in [0, 1].

    Raises:
        ValueError: if the models are not a classifier and a detector, in this order.

    Example:
        >>> from hccvision.model import build_model
        >>> small = {"width": 0.25}
        >>> classifier = build_model("mobilenet_v1", "linear", classes=["normal", "cancer"], backbone_options=small)
        >>> detector = build_model("mobilenet_v1", "ssd", classes=["hcc"], backbone_options=small)
        >>> found = CAD(classifier, detector).predict([torch.zeros(64, 64).numpy()], device="cpu")[0]
        >>> found.probabilities.shape, found.detections is not None
        (torch.Size([2]), True)

    Source:
        Mizouri 2026, figure 1.
    """

    def __init__(
        self, classifier: Model, detector: Model, *, threshold: float = 0.5, score_threshold: float = 0.5
    ) -> None:
        if classifier.task != "classification" or detector.task != "detection":
            raise ValueError(
                f"CAD takes a classifier and a detector, got models for {classifier.task} and {detector.task}"
            )
        self.classifier = classifier
        self.detector = detector
        self.threshold = threshold
        self.score_threshold = score_threshold

    def predict(self, inputs: Input | Sequence[Input], *, batch: int = 8, device: str = "auto") -> list[Prediction]:
        """Classify images, then locate lesions in those called cancer.

        Args:
            inputs: paths or arrays, as in `prediction.predict`.
            batch: images at a time.
            device: ``"auto"``, ``"cpu"`` or ``"cuda"``.

        Returns:
            One prediction per input, in order, with probabilities and detections both; there are no detections in
            what was called normal.
        """
        items = _listed(inputs)
        called = predict(self.classifier, items, batch=batch, device=device)
        positive = self.classifier.classes.index(self.classifier.positive)
        cancer = [
            i
            for i, p in enumerate(called)
            if p.probabilities is not None and p.probabilities[positive] >= self.threshold
        ]
        located = predict(
            self.detector,
            [items[i] for i in cancer],
            batch=batch,
            device=device,
            score_threshold=self.score_threshold,
        )
        nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
        found = dict(zip(cancer, located, strict=True))
        return [
            p
            if p.error is not None
            else replace(p, detections=found[i].detections, error=found[i].error)
            if i in found
            else replace(p, detections=nothing)
            for i, p in enumerate(called)
        ]


@dataclass(frozen=True)
class Proposal:
    """What became of one image of `propose`.

    Args:
        image: the image file.
        annotation: the XML written, or found there already.
        boxes: number of boxes proposed.
        written: False if an XML was there already (it is left as it is), or the image could not be read.
        error: why the image could not be read; None if it could.
    """

    image: Path
    annotation: Path
    boxes: int
    written: bool
    error: str | None = None


def propose(
    model: Model,
    folder: str | os.PathLike[str],
    *,
    score_threshold: float = 0.5,
    batch: int = 8,
    device: str = "auto",
) -> list[Proposal]:
    """Write detections as LabelImg annotations beside their images, for a human to correct.

    The annotations are marked ``verified="no"``. One that exists already is never touched.

    Args:
        model: a detector.
        folder: of images.
        score_threshold: least score of a box proposed, in [0, 1].
        batch: images at a time.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        One proposal per image, by file name.

    Raises:
        ValueError: if the model is not a detector.
        FileNotFoundError: if there are no images in the folder.

    Source:
        Mizouri 2026, section 3.2: semi-automatic annotation.
    """
    if model.task != "detection":
        raise ValueError(f"proposing boxes takes a detector, and this model does {model.task}")
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    paths = [Path(str(p)) for p in _listed(root)]
    todo = [p for p in paths if not _xml(p).exists()]
    found = dict(
        zip(
            todo,
            predict(model, todo, batch=batch, device=device, progress=True, score_threshold=score_threshold),
            strict=True,
        )
    )
    proposals = []
    for path in paths:
        answer = found.get(path)
        if answer is None or answer.detections is None or _xml(path).exists():
            error = None if answer is None else answer.error
            proposals.append(Proposal(path, _xml(path), 0, False, error))
            continue
        annotation = Annotation(
            answer.detections.boxes.numpy(),
            tuple(model.classes[i] for i in answer.detections.labels.tolist()),
            size=images.image_size(path),
            filename=path.name,
            verified=False,
        )
        voc.write(_xml(path), annotation, image_path=path)
        proposals.append(Proposal(path, _xml(path), len(annotation), True))
    return proposals


def _xml(image: Path) -> Path:
    return image.with_suffix(".xml")
