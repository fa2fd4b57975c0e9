"""Scoring: compare predictions with the ground truth of samples."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hccvision.annotations.problems import usable
from hccvision.contracts.outputs import Prediction
from hccvision.contracts.parts import Predictor
from hccvision.contracts.samples import Sample, printable
from hccvision.data.seals import fingerprint, note_opening
from hccvision.inference import Tracked, predict, require_finite
from hccvision.metrics.intervals import add_intervals
from hccvision.metrics.metric import Metric, compute_metrics, find_metrics
from hccvision.model.model import Model, class_names
from hccvision.report_page import version_of
from hccvision.reporting import Report
from hccvision.tasks.task import Task, build_task, task_of

_ARRAY = re.compile(r"array \d+")
_OneMetric = str | Metric | Callable[..., Any]
Metrics = _OneMetric | Sequence[_OneMetric] | Mapping[_OneMetric, Mapping[str, Any] | None]


def evaluate(
    model: Predictor,
    data: Sequence[Sample],
    metrics: Metrics | None = None,
    *,
    on_problem: str = "raise",
    resamples: int = 1000,
    **options: Any,
) -> Report:
    """Predict samples and compare the predictions with their ground truth.

    Equivalent to ``score(predict(model, data), data, classes=model.classes, task=model.task)``.

    Args:
        model: a `Model`, a model wrapped by `wrap`, or any other predictor.
        data: samples that the model was not trained on.
        metrics: see `score`.
        on_problem: see `score`.
        resamples: see `score`.
        options: of the model's ``predict``, such as ``batch=8`` and ``device="auto"``.

    Returns:
        The report: print it, read ``report["sensitivity"]`` or ``report.figures``, or ``report.save(folder)``.

    Raises:
        ValueError: for samples with problems or images that could not be predicted (unless skipped); for samples
            without ground truth, or of classes that the model doesn't know; for a metric of another task.
        KeyError: for an unknown metric; the message lists the known ones.

    Example:
        >>> import tempfile
        >>> from hccvision import phantom
        >>> from hccvision.annotations.voc_folder import read_voc_folder
        >>> from hccvision.model.build import build_model
        >>> data = read_voc_folder(phantom.write_dataset(tempfile.mkdtemp() + "/liver", patients=2, slices=1))
        >>> model = build_model("mobilenet_v1", "ssd", classes=["hcc"], backbone_options={"width": 0.25})
        >>> report = evaluate(model, data, ["detection_counts"], device="cpu")
        >>> len(report.samples), "sensitivity" in report.figures
        (2, True)
    """
    task = task_of(model)
    wanted = find_metrics(task.metrics if metrics is None else metrics, task.name)
    samples = usable(data, on_problem)
    for sample in samples:  # now rather than after the predictions, which take time
        task.check(sample)
    opened = note_opening(samples, "evaluate", model)
    predictions = predict(model, Tracked([s.path for s in samples], "predict"), **options)
    if sorted(p.path for p in predictions) == sorted(str(s.path) for s in samples):
        predictions = match_by_path(predictions, samples)
    return _report(task, wanted, predictions, samples, on_problem, resamples, about_model(model), opened)


def score(
    predictions: Iterable[Prediction],
    samples: Sequence[Sample],
    *,
    classes: Sequence[str],
    task: str,
    positive: str | None = None,
    metrics: Metrics | None = None,
    on_problem: str = "raise",
    resamples: int = 1000,
) -> Report:
    """Compare predictions from any source with the ground truth of samples.

    Args:
        predictions: one for each sample, in any order: they are matched by their paths. Predictions for arrays, which
            have no paths, are in the order of the samples.
        samples: annotated as the task needs them.
        classes: names, in the order of the class ids of the predictions.
        task: a name in ``TASKS``.
        positive: the class that means disease; None: the last one.
        metrics: registered names, `Metric` objects or functions of a `Comparison`, one or several; or a mapping of
            these to their options, such as ``{"froc": {"iou_threshold": 0.3}}``; None: the task's default metrics.
        on_problem: ``"raise"``, or ``"skip"`` to print problems and leave out what they concern, see `usable`, and
            images that could not be predicted.
        resamples: number of bootstrap resamples; 0: no intervals.

    Returns:
        The report. Intervals are by patient (cluster bootstrap) where the patients of all samples are known, otherwise
        Wilson's for shares of a count; the report says which.

    Raises:
        ValueError: for samples with problems or predictions with errors (unless skipped), without ground truth, or of
            unknown classes; for predictions that can't be matched with the samples; for a metric of another task.
        KeyError: for an unknown metric or task; the message lists the known ones.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np, torch
        >>> from hccvision.contracts import Annotation, Detections
        >>> lesion = Annotation(np.array([[10, 10, 30, 30]]), ("hcc",), size=(64, 64))
        >>> found = Detections(torch.tensor([[10.0, 10, 30, 28]]), torch.tensor([0.9]), torch.tensor([0]))
        >>> report = score(
        ...     [Prediction("a.png", detections=found)],
        ...     [Sample(Path("a.png"), annotation=lesion)],
        ...     classes=["hcc"],
        ...     task="detection",
        ... )
        >>> float(report["map_50"])
        1.0
    """
    described = build_task(task, class_names(classes), positive=positive)
    wanted = find_metrics(described.metrics if metrics is None else metrics, task)
    kept = usable(samples, on_problem)
    matched = match_by_path(predictions, kept, samples)
    opened = note_opening(kept, "score", predictions)
    return _report(described, wanted, matched, kept, on_problem, resamples, {}, opened)


def _report(
    task: Task,
    metrics: Sequence[Metric],
    predictions: Sequence[Prediction],
    samples: Sequence[Sample],
    on_problem: str,
    resamples: int,
    about: Mapping[str, Any],
    opened: int,
) -> Report:
    """Score one prediction per sample, in the same order."""
    if len(predictions) != len(samples):
        raise ValueError(f"expected one prediction for each of {len(samples)} samples, got {len(predictions)}")
    predictions = [require_finite(prediction) for prediction in predictions]
    failed = [p.error for p in predictions if p.error is not None]
    if len(failed) == len(samples) or (failed and on_problem == "raise"):
        raise ValueError(
            f"{len(failed)} of {len(samples)} images could not be predicted, first {printable(str(failed[0]))}"
        )
    for error in failed:
        print(printable(f"skipped: {error}"))
    scored = [(p, s) for p, s in zip(predictions, samples, strict=True) if p.error is None]
    predictions, samples = [p for p, _ in scored], [s for _, s in scored]
    comparison = task.comparison(predictions, samples)
    figures = compute_metrics(metrics, comparison)
    if resamples:
        figures = add_intervals(metrics, comparison, figures, resamples=resamples)
    return Report(
        task=task.name,
        classes=task.classes,
        positive=task.positive,
        figures=figures,
        details=task.details(comparison),
        samples=samples,
        predictions=predictions,
        metrics=metrics,
        resamples=resamples,
        about=about,
        opened=opened,
    )


def about_model(model: Any) -> dict[str, Any]:
    """Return facts about a model, for a reader of the report.

    Args:
        model: any predictor.

    Returns:
        Name to value; for models of other libraries little more than its type.
    """
    facts: dict[str, Any] = {"type": type(getattr(model, "model", model)).__name__}
    if isinstance(model, Model):
        settings = model.settings()
        facts |= {key: _part(settings[key]) for key in ("backbone", "neck", "head") if settings.get(key)}
        facts["image size"] = "×".join(map(str, reversed(model.image_size))) + f" pixels, {model.resize}"
        window = model.window
        facts["window"] = window.kind if window.low is None else f"{window.kind}, {window.low:g} to {window.high:g}"
        facts["pretrained weights"] = "random" if not model.weights else ", ".join(map(str, model.weights.values()))
        facts["parameters"] = f"{sum(p.numel() for p in model.parameters()):,}"
        facts["SHA-256 of the weights"] = fingerprint(model)
    facts["libraries"] = ", ".join(f"{n} {version_of(n)}" for n in ("hccvision", "torch", "numpy"))
    return facts


def _part(setting: Any) -> str:
    """Return a saved part, a name and its options, as text."""
    name, options = setting
    told = ", ".join(f"{key} {value}" for key, value in options.items())
    return f"{name} ({told})" if told else str(name)


def _is_copy(one: Sample, other: Sample) -> bool:
    """Return whether two samples are the same but for what was said of their problems."""
    same = one.annotation is other.annotation and one.class_name == other.class_name and one.patient == other.patient
    return one is other or (same and one.path == other.path)


def match_by_path(
    predictions: Iterable[Prediction], samples: Sequence[Sample], others: Sequence[Sample] = ()
) -> list[Prediction]:
    """Match each sample with its prediction.

    Args:
        predictions: with the paths of the samples, in any order; or all for arrays, in the order of the samples.
        samples: with different paths, unless the predictions are in the same order.
        others: samples that may have predictions too; these are left out.

    Returns:
        The prediction of each sample, in the order of the samples.

    Raises:
        ValueError: if a sample has no prediction or several, or a prediction is of no sample.
    """
    given = list(predictions)
    if given and all(_ARRAY.fullmatch(prediction.path) for prediction in given):
        if len(given) == len(others):
            rest, chosen = list(samples), []
            for prediction, sample in zip(given, others, strict=True):
                if rest and _is_copy(rest[0], sample):
                    chosen.append(prediction)
                    rest.pop(0)
            return chosen
        if len(given) != len(samples):
            raise ValueError(f"expected one prediction for each of {len(samples)} samples, got {len(given)}")
        return given
    wanted = [os.path.abspath(sample.path) for sample in samples]
    found = [os.path.abspath(prediction.path) for prediction in given]
    if found == wanted:
        return given
    known = {*wanted, *(os.path.abspath(sample.path) for sample in others)}
    by_path: dict[str, Prediction] = {}
    for path, prediction in zip(found, given, strict=True):
        if path in by_path:
            raise ValueError(f"{prediction.path}: there are two predictions for this image: keep one")
        if path not in known:
            raise ValueError(f"{prediction.path}: this prediction is for none of the {len(samples)} samples")
        by_path[path] = prediction
    missing = [sample.path for path, sample in zip(wanted, samples, strict=True) if path not in by_path]
    if missing:
        raise ValueError(f"{len(missing)} of {len(samples)} samples have no prediction, first {missing[0]}")
    return [by_path[path] for path in wanted]
