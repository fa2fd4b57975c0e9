"""Evaluation: predict test samples, compare with the truth, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from hccvision import images as image_functions
from hccvision.contracts import Sample
from hccvision.data.linter import usable
from hccvision.metrics import classification as classification_metrics
from hccvision.metrics import detection as detection_metrics
from hccvision.metrics.statistics import wilson
from hccvision.model import Model
from hccvision.prediction import predict
from hccvision.registry import METRICS
from hccvision.reporting import Report

DEFAULT_METRICS = {
    "classification": ("confusion", "balanced_accuracy", "roc_auc"),
    "detection": ("voc_map", "voc07_map", "coco_map", "detection_counts", "froc"),
}


def evaluate(
    model: Model,
    data: Sequence[Sample],
    metrics: Sequence[str] | None = None,
    *,
    batch: int = 8,
    device: str = "auto",
    on_problem: str = "raise",
) -> Report:
    """Predict samples and compare with what is known about them.

    Args:
        model: classifier or detector.
        data: samples that the model was not trained on.
        metrics: registered names; None: all the usual ones of the model's task.
        batch: images at a time.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        on_problem: ``"raise"`` or ``"skip"``, see `linter.usable`.

    Returns:
        The report: print it, take ``report.figures``, or ``report.save(folder)``.

    Raises:
        ValueError: for samples with problems (unless skipped), without truth, or of classes the model doesn't know; or
            for a metric of the other task.
        KeyError: for an unknown metric; the message lists the known ones.
    """
    names = DEFAULT_METRICS[model.task] if metrics is None else tuple(metrics)
    scorers = find_metrics(names, model.task)
    samples = usable(data, on_problem)
    truths = ground_truth(samples, model)
    found = predict(model, [s.path for s in samples], batch=batch, device=device, progress=True)
    failed = [p.error for p in found if p.error is not None]
    if failed:
        raise ValueError(f"{len(failed)} of {len(found)} images could not be predicted, first {failed[0]}")

    positive = model.classes.index(model.positive)
    if model.task == "classification":
        predictions: Any = np.stack([p.probabilities.numpy() for p in found if p.probabilities is not None])
        compared: Any = np.array(truths)
        options: dict[str, Any] = {"positive": positive}
    else:
        predictions = [p.detections.as_dict() for p in found if p.detections is not None]
        compared, options = truths, {}
    figures: dict[str, float] = {}
    for scorer in scorers.values():
        figures |= scorer(predictions, compared, classes=model.classes, **options)

    matrix, intervals = None, {}
    if model.task == "classification":
        matrix = classification_metrics.confusion_matrix(predictions, compared, classes=model.classes)
        tp, fn = int(matrix[positive, positive]), int(matrix[positive].sum() - matrix[positive, positive])
        fp = int(matrix[:, positive].sum()) - tp
        tn = int(matrix.sum()) - tp - fn - fp
        shares = {
            "accuracy": (int(np.trace(matrix)), int(matrix.sum())),
            "sensitivity": (tp, tp + fn),
            "specificity": (tn, tn + fp),
            "precision": (tp, tp + fp),
            "npv": (tn, tn + fn),
        }
    else:
        counts = detection_metrics.detection_counts(predictions, compared, classes=model.classes)
        tp, fp, fn = (int(counts[k]) for k in ("tp", "fp", "fn"))
        shares = {"sensitivity": (tp, tp + fn), "precision": (tp, tp + fp)}
    for name in figures:
        if name.startswith("lesions/"):
            share, count = name.replace("lesions", "sensitivity"), int(figures[name])
            shares[share] = (round(figures[share] * count), count)
    intervals = {k: wilson(*v) for k, v in shares.items() if k in figures}
    return Report(
        task=model.task,
        classes=model.classes,
        positive=model.positive,
        figures=figures,
        intervals=intervals,
        matrix=matrix,
        samples=samples,
        predictions=found,
    )


def find_metrics(names: Sequence[str], task: str) -> dict[str, Callable[..., dict[str, float]]]:
    """Look metrics up by name.

    Args:
        names: as registered.
        task: ``"classification"`` or ``"detection"``; a metric registered without a task suits both.

    Returns:
        The metrics by name.

    Raises:
        KeyError: for an unknown name; the message lists the known ones.
        ValueError: for a metric of the other task.

    Example:
        >>> list(find_metrics(["f1"], "classification"))
        ['f1']
    """
    for name in names:
        own = METRICS.tags(name).get("task", task)
        if own != task:
            raise ValueError(
                f"the metric {name!r} is for {own}, and this model does {task}; metrics for that: "
                f"{', '.join(METRICS.names(task=task))}"
            )
    return {name: METRICS.get(name) for name in names}


def ground_truth(samples: Sequence[Sample], model: Model) -> list[Any]:
    """Give what the metrics of a model's task compare predictions with.

    Args:
        samples: with class names for a classifier, with annotations for a detector.
        model: whose classes give the ids.

    Returns:
        One class id per sample, or one dictionary of ``boxes (N, 4)`` in pixels of the original image, ``labels (N,)``,
        ``difficult (N,)`` and ``size (2,)``, the image's height and width.

    Raises:
        ValueError: for a sample without truth, or of a class the model doesn't know.
    """
    ids = {name: i for i, name in enumerate(model.classes)}
    return [_truth(sample, model.task, ids) for sample in samples]


def _truth(sample: Sample, task: str, ids: dict[str, int]) -> Any:
    kind = "class_name" if task == "classification" else "annotation"
    if getattr(sample, kind) is None:
        raise ValueError(
            f"{sample.path}: the truth of a {task} is its {kind}, and this sample has none: label it, or leave it out"
        )
    annotation = sample.annotation if task == "detection" else None
    names = (sample.class_name,) if annotation is None else annotation.names
    unknown = [n for n in names if n not in ids]
    if unknown:
        raise ValueError(
            f"{sample.path}: the class {unknown[0]!r} is not among the model's classes ({', '.join(ids)}): correct the "
            "label, or leave the sample out"
        )
    if annotation is None:
        return ids[str(sample.class_name)]
    return {
        "boxes": torch.from_numpy(annotation.boxes),
        "labels": torch.tensor([ids[n] for n in annotation.names], dtype=torch.int64),
        "difficult": torch.tensor(annotation.difficult, dtype=torch.bool),
        "size": torch.tensor(annotation.size or image_functions.image_size(sample.path)),
    }
