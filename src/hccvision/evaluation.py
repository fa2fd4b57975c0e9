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
    "multilabel": ("multilabel_auc", "multilabel_f1", "exact_match"),
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
    task = metric_task(model)
    names = DEFAULT_METRICS[task] if metrics is None else tuple(metrics)
    scorers = find_metrics(names, task)
    samples = usable(data, on_problem)
    truths = ground_truth(samples, model)
    found = predict(model, [s.path for s in samples], batch=batch, device=device, progress=True)
    failed = [p.error for p in found if p.error is not None]
    if failed:
        raise ValueError(f"{len(failed)} of {len(found)} images could not be predicted, first {failed[0]}")

    positive = model.classes.index(model.positive)
    options: dict[str, Any] = {"positive": positive} if task == "classification" else {}
    if model.task == "classification":
        predictions: Any = np.stack([p.probabilities.numpy() for p in found if p.probabilities is not None])
        compared: Any = np.array(truths)
    else:
        predictions = [p.detections.as_dict() for p in found if p.detections is not None]
        compared = truths
    figures: dict[str, float] = {}
    for scorer in scorers.values():
        figures |= scorer(predictions, compared, classes=model.classes, **options)

    matrix, intervals = None, {}
    if task == "classification":
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
    elif task == "multilabel":
        right = int(((predictions >= classification_metrics.YES) == compared).all(1).sum())
        shares = {"exact_match": (right, len(compared))}
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
        task=task,
        classes=model.classes,
        positive=model.positive,
        figures=figures,
        intervals=intervals,
        matrix=matrix,
        samples=samples,
        predictions=found,
    )


def metric_task(model: Model) -> str:
    """Say by which metrics a model is judged.

    Args:
        model: classifier or detector.

    Returns:
        Its task, or ``"multilabel"`` for a classifier of images that show several classes or none.
    """
    return "multilabel" if model.multilabel else model.task


def find_metrics(names: Sequence[str], task: str) -> dict[str, Callable[..., dict[str, float]]]:
    """Look metrics up by name.

    Args:
        names: as registered.
        task: ``"classification"``, ``"multilabel"`` or ``"detection"``; a metric registered without a task suits all.

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
        samples: with class names for a classifier, with annotations for a detector or a multi-label classifier.
        model: whose classes give the ids.

    Returns:
        One class id per sample, for a multi-label classifier K times 0 or 1, or one dictionary of ``boxes (N, 4)`` in
        pixels of the original image, ``labels (N,)``, ``difficult (N,)`` and ``size (2,)``, the image's height and
        width.

    Raises:
        ValueError: for a sample without truth, or of a class the model doesn't know.
    """
    ids = {name: i for i, name in enumerate(model.classes)}
    return [_truth(sample, metric_task(model), ids) for sample in samples]


def _truth(sample: Sample, task: str, ids: dict[str, int]) -> Any:
    kind = "class_name" if task == "classification" else "annotation"
    what = "multi-label classification" if task == "multilabel" else task
    if getattr(sample, kind) is None:
        raise ValueError(
            f"{sample.path}: the truth of a {what} is its {kind}, and this sample has none: label it, or leave it out"
        )
    annotation = None if task == "classification" else sample.annotation
    names = (sample.class_name,) if annotation is None else annotation.names
    unknown = [n for n in names if n not in ids]
    if unknown:
        raise ValueError(
            f"{sample.path}: the class {unknown[0]!r} is not among the model's classes ({', '.join(ids)}): correct the "
            "label, or leave the sample out"
        )
    if annotation is None:
        return ids[str(sample.class_name)]
    if task == "multilabel":
        return [int(name in names) for name in ids]
    return {
        "boxes": torch.from_numpy(annotation.boxes),
        "labels": torch.tensor([ids[n] for n in annotation.names], dtype=torch.int64),
        "difficult": torch.tensor(annotation.difficult, dtype=torch.bool),
        "size": torch.tensor(annotation.size or image_functions.image_size(sample.path)),
    }
