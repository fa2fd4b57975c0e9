"""Compare predictors on the same samples: one table, paired tests and costs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hccvision.annotations.problems import usable
from hccvision.contracts.outputs import Prediction
from hccvision.contracts.parts import Predictor
from hccvision.contracts.samples import Sample
from hccvision.data.seals import note_opening
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.metrics.intervals import add_intervals
from hccvision.metrics.metric import Metric, compute_metrics, find_metrics
from hccvision.metrics.paired_tests import PairedTest, holm, permutation_test
from hccvision.scoring import Metrics, match_by_path
from hccvision.tasks.task import Task, build_task, task_of

Candidate = Predictor | Sequence[Prediction]


@dataclass(frozen=True)
class Cost:
    """What a predictor costs.

    Args:
        parameters: number of trainable and other parameters.
        macs: multiply-accumulate operations for one image.
        milliseconds: per image, reading and post-processing included, on the device that predicted.
    """

    parameters: int | None = None
    macs: int | None = None
    milliseconds: float | None = None

    def __str__(self) -> str:
        parameters = "–" if self.parameters is None else f"{self.parameters / 1e6:.2f} M"
        macs = "–" if self.macs is None else f"{self.macs / 1e9:.2f} G"
        milliseconds = "–" if self.milliseconds is None else f"{self.milliseconds:.1f} ms"
        return f"{parameters:>10} {macs:>9} {milliseconds:>10}"


@dataclass(frozen=True, eq=False)
class Table:
    """Predictors side by side; prints as a table.

    Args:
        figures: figures of each candidate; the mean over its trainings if it has several.
        costs: of each candidate.
        tests: difference between two candidates in one figure, by ``(first, second, figure)``.
        adjusted: the p-value of each test, by Holm's correction for all of them.
        images: number of images.
        trainings: number of trainings of each candidate.
    """

    figures: Mapping[str, Mapping[str, Figure]]
    costs: Mapping[str, Cost]
    tests: Mapping[tuple[str, str, str], PairedTest]
    adjusted: Mapping[tuple[str, str, str], float]
    images: int
    trainings: int = 1

    def better(self, first: str, second: str, figure: str, *, level: float = 0.05) -> bool:
        """Return whether one candidate is better than another beyond chance.

        Args:
            first: a candidate.
            second: another.
            figure: one that was tested.
            level: the chance of any false difference in the table that is accepted.

        Returns:
            Whether the first is better: its figure is higher, the adjusted p-value is at most ``level``, and the
            interval of the difference, if there is one, excludes 0.

        Raises:
            KeyError: if the two were not tested in this figure.
        """
        key = (first, second, figure) if (first, second, figure) in self.tests else (second, first, figure)
        if key not in self.tests:
            known = ", ".join(f"{a} - {b}, {name}" for a, b, name in self.tests)
            raise KeyError(f"{first} and {second} were not tested in {figure!r}; tested: {known or 'none'}")
        test, sign = self.tests[key], 1 if key[0] == first else -1
        interval = test.difference.interval
        clear = interval is None or not interval[0] <= 0 <= interval[1]
        return bool(sign * test.difference > 0 and self.adjusted[key] <= level and clear)

    def __str__(self) -> str:
        width = max(16, *map(len, self.figures))
        names = list(dict.fromkeys(name for figures in self.figures.values() for name in figures))
        lines = [f"{self.images} images" + (f", means of {self.trainings} trainings" if self.trainings > 1 else "")]
        for name in names:
            lines.append(name)
            for candidate, figures in self.figures.items():
                figure = figures[name]
                interval = "" if figure.interval is None else "  (95 %: {:.4f} to {:.4f})".format(*figure.interval)
                lines.append(f"  {candidate:<{width}} {figure}{interval}")
        lines.append(f"{'cost':<{width + 2}} parameters      MACs  per image")
        lines += [f"  {candidate:<{width}} {cost}" for candidate, cost in self.costs.items()]
        for (first, second, name), test in self.tests.items():
            p = self.adjusted[first, second, name]
            lines.append(f"{first} - {second}, {name}: {test}, {p:.4f} by Holm's correction")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the table as plain values, ready for JSON.

        Returns:
            Figures with their intervals (None where undefined), costs and tests.
        """
        return {
            "images": self.images,
            "trainings": self.trainings,
            "figures": {c: {n: _plain(f) for n, f in figures.items()} for c, figures in self.figures.items()},
            "costs": {c: vars(cost) for c, cost in self.costs.items()},
            "tests": [
                {
                    "first": first,
                    "second": second,
                    "figure": name,
                    "difference": _plain(test.difference),
                    "p_value": _plain(test.p_value)["value"],
                    "adjusted_p_value": self.adjusted[first, second, name],
                }
                for (first, second, name), test in self.tests.items()
            ],
        }


def compare(
    candidates: Mapping[str, Candidate | Sequence[Candidate]],
    samples: Sequence[Sample],
    metrics: Metrics | None = None,
    *,
    test: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    task: str | None = None,
    positive: str | None = None,
    on_problem: str = "raise",
    resamples: int = 1000,
    permutations: int = 1000,
    seed: int = 0,
    **options: Any,
) -> Table:
    """Compare predictors on the same samples, and test in which figures they differ.

    Tests exchange the predictions of whole patients where all are known, see `permutation_test`, and p-values are
    corrected for all tests of the table. For folds, pass each candidate's pooled predictions: every sample predicted by
    the model that was not trained on it.

    Args:
        candidates: name to a predictor or to one prediction per sample; or to a list of these, as many for each
            candidate, such as trainings with different seeds.
        samples: that none of the candidates was trained on.
        metrics: of the table, see `score`; None: the task's default metrics.
        test: names of the figures that are tested; None: that of the task's first training metric, such as
            ``voc_map`` or ``balanced_accuracy``.
        classes: names in the order of the class ids; None: those of the first predictor.
        task: a name in ``TASKS``; None: that of the first predictor.
        positive: the class that means disease; None: that of the first predictor, or the last class.
        on_problem: see `score`. Images that one candidate could not predict are left out for all if ``"skip"``.
        resamples: number of bootstrap resamples; 0: no intervals.
        permutations: number of exchanges of each test.
        seed: of resamples and exchanges.
        options: of the predictors' ``predict``, such as ``device="cpu"``.

    Returns:
        The table: print it, or ask ``table.better("a", "b", "voc_map")``.

    Raises:
        ValueError: for fewer than two candidates, different numbers of trainings or classes, an unknown figure to test,
            and as `score`.

    Example:
        >>> from pathlib import Path
        >>> samples = [Sample(Path(f"{i}.png"), class_name=("normal", "cancer")[i % 2]) for i in range(20)]
        >>> right, coin = (
        ...     [Prediction(f"{i}.png", torch.tensor([1 - p, p])) for i, p in enumerate(values)]
        ...     for values in ([0.1, 0.9] * 10, [0.1, 0.1, 0.9, 0.9] * 5)
        ... )
        >>> table = compare(
        ...     {"right": right, "coin": coin}, samples, classes=["normal", "cancer"], task="classification"
        ... )
        >>> table.better("right", "coin", "balanced_accuracy")
        True
    """
    if len(candidates) < 2:
        raise ValueError(f"expected at least two candidates, got {', '.join(candidates) or 'none'}")
    trainings = {name: _trainings(given) for name, given in candidates.items()}
    counts = {name: len(given) for name, given in trainings.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        raise ValueError(f"expected as many trainings of each candidate, got {counts}")
    described = _task([c for given in trainings.values() for c in given], classes, task, positive)
    wanted = find_metrics(described.metrics if metrics is None else metrics, described.name)
    kept = usable(samples, on_problem)
    for sample in kept:
        described.check(sample)
    note_opening(kept, "compare", list(candidates))
    costs, predicted = {}, {}
    for name, given in trainings.items():
        found = [_predict(candidate, kept, samples, options) for candidate in given]
        predicted[name] = [predictions for predictions, _ in found]
        costs[name] = found[0][1]
    kept, predicted = _without_errors(predicted, kept, on_problem)
    comparisons = {name: [described.comparison(p, kept) for p in given] for name, given in predicted.items()}
    figures = {
        name: _figures(wanted, given, resamples if len(given) == 1 else 0, seed) for name, given in comparisons.items()
    }
    tests = _test(comparisons, figures, described, wanted, test, resamples, permutations, seed)
    p_values = {key: float(result.p_value) for key, result in tests.items() if result.p_value.defined}
    adjusted = {**dict.fromkeys(tests, float("nan")), **holm(p_values)}
    return Table(figures, costs, tests, adjusted, len(kept), next(iter(counts.values())))


def cost_of(predictor: Any, milliseconds: float | None = None) -> Cost:
    """Count the parameters and operations of a model.

    Args:
        predictor: a `Model`, or any predictor; only torch modules can be counted.
        milliseconds: per image, measured before.

    Returns:
        The cost, None where it is not known. Operations are those of matrix products and convolutions.

    Example:
        >>> from hccvision.model.build import build_model
        >>> small = {"width": 0.25}
        >>> model = build_model("mobilenet_v1", "linear", classes=["normal", "cancer"], backbone_options=small)
        >>> cost = cost_of(model)
        >>> cost.parameters, round(cost.macs / 1e6)
        (6899794, 47)
    """
    module = predictor if isinstance(predictor, nn.Module) else getattr(predictor, "model", None)
    if not isinstance(module, nn.Module):
        return Cost(milliseconds=milliseconds)
    parameters = sum(p.numel() for p in module.parameters())
    size = getattr(predictor, "image_size", None)
    macs = None
    if size is not None:
        image = torch.zeros(1, getattr(predictor, "in_channels", 3), *size, device=next(module.parameters()).device)
        mode, counter = module.training, FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            module.eval()(image)
        module.train(mode)
        macs = counter.get_total_flops() // 2
    return Cost(parameters, macs, milliseconds)


def _trainings(given: Any) -> list[Any]:
    """Return the trainings of a candidate: predictors, or lists of predictions."""
    if hasattr(given, "predict"):
        return [given]
    items = list(given)
    return [items] if items and isinstance(items[0], Prediction) else items


def _task(candidates: Sequence[Any], classes: Sequence[str] | None, task: str | None, positive: str | None) -> Task:
    predictors = [c for c in candidates if hasattr(c, "predict")]
    if not predictors and (classes is None or task is None):
        raise ValueError("expected classes= and task= where no candidate is a predictor that states them")
    first = task_of(predictors[0]) if predictors else None
    names = first.classes if classes is None and first is not None else tuple(classes or ())
    described = build_task(
        first.name if task is None and first is not None else str(task),
        names,
        positive=first.positive if positive is None and first is not None else positive,
    )
    for predictor in predictors:
        if (predictor.task, tuple(predictor.classes)) != (described.name, described.classes):
            raise ValueError(
                f"expected candidates of the task {described.name!r} with the classes {', '.join(described.classes)}, "
                f"got one of {predictor.task!r} with {', '.join(predictor.classes)}"
            )
    return described


def _predict(
    candidate: Any, kept: Sequence[Sample], samples: Sequence[Sample], options: Mapping[str, Any]
) -> tuple[list[Prediction], Cost]:
    if not hasattr(candidate, "predict"):
        return match_by_path(candidate, kept, samples), Cost()
    start = time.perf_counter()
    predictions = candidate.predict([s.path for s in kept], **options)
    milliseconds = 1000 * (time.perf_counter() - start) / max(1, len(kept))
    return match_by_path(predictions, kept), cost_of(candidate, milliseconds)


def _without_errors(
    predicted: Mapping[str, Sequence[Sequence[Prediction]]], samples: Sequence[Sample], on_problem: str
) -> tuple[list[Sample], dict[str, list[list[Prediction]]]]:
    """Leave out the images that one of the candidates could not predict."""
    errors: dict[int, str] = {}
    for name, given in predicted.items():
        for predictions in given:
            errors.update({i: f"{name}: {p.error}" for i, p in enumerate(predictions) if p.error is not None})
    if len(errors) == len(samples) or (errors and on_problem == "raise"):
        raise ValueError(
            f"{len(errors)} of {len(samples)} images could not be predicted, first {errors[min(errors)]}"
            if samples
            else "there are no samples to compare on"
        )
    for error in errors.values():
        print(f"skipped for all: {error}")
    rest = [i for i in range(len(samples)) if i not in errors]
    return [samples[i] for i in rest], {n: [[p[i] for i in rest] for p in given] for n, given in predicted.items()}


def _figures(
    metrics: Sequence[Metric], trainings: Sequence[Comparison], resamples: int, seed: int
) -> dict[str, Figure]:
    """Return the figures of one training with intervals, or the means over several."""
    found = [compute_metrics(metrics, comparison) for comparison in trainings]
    if len(found) == 1:
        return add_intervals(metrics, trainings[0], found[0], resamples=resamples, seed=seed) if resamples else found[0]
    means = {}
    for name in found[0]:
        values = [figures[name] for figures in found if name in figures]
        mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
        reason = next((v.reason for v in values if v.reason), "")
        means[name] = Figure(mean, count=values[0].count, reason=reason, method=f"standard deviation {spread:.4f}")
    return means


def _test(
    comparisons: Mapping[str, Sequence[Comparison]],
    figures: Mapping[str, Mapping[str, Figure]],
    task: Task,
    metrics: Sequence[Metric],
    test: Sequence[str] | None,
    resamples: int,
    permutations: int,
    seed: int,
) -> dict[tuple[str, str, str], PairedTest]:
    names = task.training_metrics[:1] if test is None else (test,) if isinstance(test, str) else tuple(test)
    known = [*metrics, *(m for m in find_metrics(task.training_metrics, task.name) if m.name in names)]
    tests = {}
    for name in names:
        metric = next((m for m in known if name in m(next(iter(comparisons.values()))[0])), None)
        if metric is None:
            there = ", ".join(next(iter(figures.values())))
            raise ValueError(f"can't test {name!r}: no metric of the table gives that figure; it has: {there}")
        for first, second in itertools.combinations(comparisons, 2):
            tests[first, second, name] = permutation_test(
                lambda comparison, m=metric, n=name: float(m(comparison).get(n, float("nan"))),  # type: ignore[misc]
                comparisons[first],
                comparisons[second],
                permutations=permutations,
                resamples=resamples,
                seed=seed,
            )
    return tests


def _plain(figure: Figure) -> dict[str, Any]:
    value = float(figure) if figure.defined else None
    return {"value": value, "interval": None if figure.interval is None else list(figure.interval)}
