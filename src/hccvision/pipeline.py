"""Models in use: classify then locate, and propose annotations for a human to correct."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from hccvision.annotations.formats import ImageWriter, image_writer
from hccvision.contracts.outputs import Detections, Prediction
from hccvision.contracts.parts import Predictor
from hccvision.images.read import image_size
from hccvision.inference import Input, list_inputs, predict
from hccvision.tasks.task import task_of


class CAD:
    """The paper's system: a slice is classified, and lesions are located in slices classified as cancer.

    Args:
        classifier: of normal and cancer; its ``positive`` class means disease.
        detector: of lesions.
        threshold: probability of the positive class from which a slice is classified as cancer, in [0, 1].
        score_threshold: lowest score of a lesion shown, in [0, 1].

    Raises:
        ValueError: if the predictors are not a classifier and a detector, in this order.

    Example:
        >>> from hccvision.model.build import build_model
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
        self, classifier: Predictor, detector: Predictor, *, threshold: float = 0.5, score_threshold: float = 0.5
    ) -> None:
        answers = task_of(classifier).answer, task_of(detector).answer
        if answers != ("probabilities", "detections"):
            raise ValueError(
                f"CAD takes a classifier and a detector, got models for {classifier.task} and {detector.task}"
            )
        self.classifier = classifier
        self.detector = detector
        self.threshold = threshold
        self.score_threshold = score_threshold

    def predict(self, inputs: Input | Iterable[Input], **options: Any) -> list[Prediction]:
        """Classify images, then locate lesions in those classified as cancer.

        Args:
            inputs: as in `predict`.
            options: of both predictors' ``predict``, such as ``batch`` and ``device``.

        Returns:
            One prediction per input, in order, with probabilities and detections both; there are no detections in
            images classified as normal.
        """
        items = list(list_inputs(inputs))
        called = predict(self.classifier, items, **options)
        positive = self.classifier.classes.index(task_of(self.classifier).positive)
        cancer = [
            i
            for i, p in enumerate(called)
            if p.probabilities is not None and p.probabilities[positive] >= self.threshold
        ]
        located = dict(zip(cancer, predict(self.detector, [items[i] for i in cancer], **options), strict=True))
        return [p if p.error is not None else replace(p, **self._lesions(located.get(i))) for i, p in enumerate(called)]

    def _lesions(self, located: Prediction | None) -> dict[str, Any]:
        """Return what a detector's answer adds to a classifier's."""
        if located is None:
            nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
            return {"detections": nothing}
        found = located.detections
        return {"detections": None if found is None else found.above(self.score_threshold), "error": located.error}


@dataclass(frozen=True)
class Proposal:
    """Result of `propose` for one image.

    Args:
        image: the image file.
        annotation: the annotation file, written or found there already.
        boxes: number of boxes proposed.
        written: False if an annotation was there already (it is left as it is), or the image could not be read.
        error: why the image could not be read; None if it could.
    """

    image: Path
    annotation: Path
    boxes: int
    written: bool
    error: str | None = None


def propose(
    model: Predictor,
    folder: str | os.PathLike[str],
    *,
    score_threshold: float = 0.5,
    format: str | ImageWriter = "voc",
    **options: Any,
) -> list[Proposal]:
    """Write detections as annotations beside their images, for a human to correct.

    LabelImg's are marked ``verified="no"``. An annotation that exists already is never touched.

    Args:
        model: a detector.
        folder: of images.
        score_threshold: lowest score of a box proposed, in [0, 1].
        format: a name in ``ANNOTATION_FORMATS`` of a format with a file for each image, or a writer of your own.
        options: of the model's ``predict``, such as ``batch`` and ``device``.

    Returns:
        One proposal per image, by file name.

    Raises:
        ValueError: if the model is not a detector, or the format has no file for each image.
        FileNotFoundError: if there are no images in the folder.

    Source:
        Mizouri 2026, section 3.2: semi-automatic annotation.
    """
    task = task_of(model)
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    task.annotation(Prediction("", detections=nothing), (1, 1))  # refuses other tasks before the time is spent
    writer = image_writer(format)
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    proposals = []
    paths = [Path(str(path)) for path in list_inputs(root)]
    todo = [path for path in paths if not writer.annotation_path(path).exists()]
    found = dict(zip(todo, predict(model, tqdm(todo, desc="propose", disable=None), **options), strict=True))
    for path in paths:
        file, answer = writer.annotation_path(path), found.get(path)
        if answer is None or answer.detections is None or file.exists():
            proposals.append(Proposal(path, file, 0, False, None if answer is None else answer.error))
            continue
        kept = replace(answer, detections=answer.detections.above(score_threshold))
        annotation = replace(task.annotation(kept, image_size(path)), filename=path.name)
        writer.write_one(path, annotation, classes=task.classes)
        proposals.append(Proposal(path, file, len(annotation), True))
    return proposals
