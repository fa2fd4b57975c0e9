"""Pipelines of models: classify then locate, and propose annotations for a human to correct."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from hccvision.annotations.formats import ImageWriter, image_writer
from hccvision.contracts.outputs import Detections, Prediction
from hccvision.contracts.parts import Predictor
from hccvision.contracts.samples import printable
from hccvision.images.read import image_size
from hccvision.inference import Input, list_inputs, predict
from hccvision.tasks.task import Task, task_of

DEFAULT_SCORE = 0.01  # the lowest score that the SSD head returns unless asked for others


class CAD:
    """The paper's system: each slice is classified, and lesions are located in those classified as cancer.

    Args:
        classifier: predicts probabilities; its ``positive`` class means disease.
        detector: predicts lesions.
        threshold: probability of the positive class from which a slice is classified as cancer, in [0, 1].
        score_threshold: lowest score of a detection kept, in [0, 1].

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
            One prediction per input, in order, with both probabilities and detections; there are no detections in
            images not classified as cancer.

        Raises:
            ValueError: as `predict`.
            FileNotFoundError: if a folder given has no images.
        """
        items = list(list_inputs(inputs))
        classified = predict(self.classifier, items, **options)
        positive = self.classifier.classes.index(task_of(self.classifier).positive)
        cancer = [
            i
            for i, p in enumerate(classified)
            if p.probabilities is not None and p.probabilities[positive] >= self.threshold
        ]
        options |= _low_scores(self.score_threshold)
        located = dict(zip(cancer, predict(self.detector, [items[i] for i in cancer], **options), strict=True))
        return [self._joined(p, located.get(i)) for i, p in enumerate(classified)]

    def _joined(self, classified: Prediction, located: Prediction | None) -> Prediction:
        """Return the classifier's prediction with the detector's, which is None for an image not given to it."""
        if classified.error is not None:
            return classified
        if located is None:
            nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
            return replace(classified, detections=nothing)
        if located.detections is None:
            error = located.error or f"{located.path}: the detector returned no detections"
            return replace(classified, error=error.replace(located.path, classified.path, 1))  # "array 3" of all inputs
        return replace(classified, detections=located.detections.above(self.score_threshold))


@dataclass(frozen=True)
class Proposal:
    """Result of `propose` for one image.

    Args:
        image: the image file.
        annotation: the annotation file, newly written or already there.
        boxes: number of boxes proposed.
        written: False if there was an annotation already, which is left as it is, or ``error`` says why not.
        error: why the image could not be read or the annotation not be written; None if they could.
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
    """Write detections as annotation files beside their images, for a human to correct.

    LabelImg's files are marked ``verified="no"``. An annotation file that exists already is never changed, also one
    that appears meanwhile. Files are written batch by batch; what can't be written is an error of its image, and the
    others follow.

    Args:
        model: a detector.
        folder: folder of images.
        score_threshold: lowest score of a box proposed, in [0, 1].
        format: a name in ``ANNOTATION_FORMATS``, of a format with one file per image, or a writer of your own.
        options: of the model's ``predict``, such as ``batch`` and ``device``.

    Returns:
        One proposal per image, by file name.

    Raises:
        KeyError: for an unknown format; the message lists the known ones.
        ValueError: if the model is not a detector, the format does not write one file per image, or as `predict`.
        FileNotFoundError: if there is no such folder, or no images in it.

    Source:
        Mizouri 2026, section 3.2: semi-automatic annotation.
    """
    task = task_of(model)
    if not task.annotates:
        raise ValueError(f"proposing boxes takes a detector, and this model does {task.name}")
    writer = image_writer(format)
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    paths = [Path(str(path)) for path in list_inputs(root)]
    options |= _low_scores(score_threshold)
    missing = [path for path in paths if not os.path.lexists(writer.annotation_path(path))]
    proposals = {path: Proposal(path, writer.annotation_path(path), 0, False) for path in paths}
    for path, prediction in _predicted(model, missing, options):
        proposals[path] = _proposal(path, prediction, task, writer, score_threshold)
    return list(proposals.values())


def _predicted(model: Predictor, paths: Sequence[Path], options: dict[str, Any]) -> Iterator[tuple[Path, Prediction]]:
    """Predict a batch at a time and yield its predictions before the next."""
    given = options.get("batch", 8)
    size = given if isinstance(given, int) and given > 0 else 1  # `predict` refuses other values
    with tqdm(total=len(paths), desc="propose", disable=None) as bar:
        for start in range(0, len(paths), size):
            batch = paths[start : start + size]
            yield from zip(batch, predict(model, batch, **options), strict=True)
            bar.update(len(batch))


def _proposal(path: Path, prediction: Prediction, task: Task, writer: ImageWriter, score_threshold: float) -> Proposal:
    """Write the detections in one image, unless there is an annotation already."""
    file = writer.annotation_path(path)
    nothing = Proposal(path, file, 0, False, prediction.error)
    if prediction.error is not None:
        return nothing
    try:
        annotation = task.annotation(prediction, image_size(path), score_threshold=score_threshold)
        writer.write_one(path, replace(annotation, filename=path.name), classes=task.classes)
    except FileExistsError:  # of a human, written meanwhile; or of another image with this stem
        return nothing
    except (OSError, ValueError) as error:
        message = str(error)
        named = file.name in message or path.name in message
        return replace(nothing, error=printable(message if named else f"{file}: {message}"))
    return Proposal(path, file, len(annotation), True)


def _low_scores(score_threshold: float) -> dict[str, Any]:
    """Return the option that asks a detector for scores below those it returns by default."""
    return {} if score_threshold >= DEFAULT_SCORE else {"score_threshold": score_threshold}
