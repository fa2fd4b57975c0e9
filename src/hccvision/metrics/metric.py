"""Metrics: what is computed from a comparison, for which task, and whether higher is better."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hccvision.contracts.errors import noted
from hccvision.metrics.figure import Figure
from hccvision.registry import METRICS

if TYPE_CHECKING:
    from hccvision.metrics.comparison import Comparison
    from hccvision.metrics.matching import Matching

Compute = Callable[..., float | Mapping[str, float]]


@dataclass(frozen=True)
class Metric:
    """A function of a comparison, with the facts that training and reports need to know about it.

    Args:
        name: also the name of its figure, where it has one figure only.
        compute: takes a `Comparison` and keyword options; returns a number, a `Figure`, or a mapping of names to them.
        task: such as ``"detection"``; None suits any task.
        higher_is_better: direction of the figure ``name`` and of those below it (``name/…``); for figures of other
            names a mapping, figure name to direction. None: not stated.
        options: keyword options for ``compute``.
        matching: for a detection metric, a function from its options (defaults included) to the `Matching` it reads,
            so that the IoU thresholds of several metrics are matched together; optional.

    Raises:
        TypeError: for an option that ``compute`` does not have.

    Example:
        >>> from hccvision.metrics.comparison import Comparison
        >>> errors = Metric("errors", lambda c: float((c.calls != c.class_ids).sum()), higher_is_better=False)
        >>> errors(Comparison([[0.9, 0.1], [0.8, 0.2]], [0, 1], classes=("normal", "cancer")))
        {'errors': Figure(1.0)}
    """

    name: str
    compute: Compute = field(repr=False)
    task: str | None = None
    higher_is_better: bool | Mapping[str, bool] | None = field(default=None, hash=False)
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    matching: Callable[[Mapping[str, Any]], Matching] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        try:
            inspect.signature(self.compute).bind(None, **self.options)
        except TypeError as error:
            known = ", ".join(self._defaults()) or "none"
            raise TypeError(f"the metric {self.name!r}: {error}; its options are: {known}") from error
        except ValueError:  # a builtin without a signature
            return

    @property
    def settings(self) -> dict[str, Any]:
        """All keyword options of ``compute``: those given, and the defaults of the others."""
        return {**self._defaults(), **self.options}

    def _defaults(self) -> dict[str, Any]:
        try:
            parameters = list(inspect.signature(self.compute).parameters.values())[1:]
        except ValueError:
            parameters = []
        kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return {p.name: p.default for p in parameters if p.kind not in kinds}

    def __call__(self, comparison: Comparison) -> dict[str, Figure]:
        """Compute the figures.

        Args:
            comparison: predictions and truths.

        Returns:
            Name to figure; a bare nan gets a general reason.

        Raises:
            TypeError: if ``compute`` returned something other than numbers.
        """
        with noted(f"in the metric {self.name!r}"):
            found = self.compute(comparison, **self.options)
        named = found if isinstance(found, Mapping) else {self.name: found}
        return {str(name): self._figure(str(name), value) for name, value in named.items()}

    def direction(self, figure: str) -> bool | None:
        """Return whether higher is better.

        Args:
            figure: name of a figure; ``"froc/0.5"`` follows ``"froc"``.

        Returns:
            True or False; None where it is not stated, or the figure is not one of this metric.

        Example:
            >>> find_metrics(["froc", "detection_counts"], "detection")[0].direction("froc/0.5")
            True
        """
        stated = self.higher_is_better
        directions = stated if isinstance(stated, Mapping) else {self.name: stated}
        return directions.get(figure, directions.get(figure.split("/")[0]))

    def with_options(self, **options: Any) -> Metric:
        """Return the metric with other options.

        Args:
            options: for ``compute``; those not named stay as they are.

        Returns:
            The new metric.

        Raises:
            TypeError: for an option that ``compute`` does not have.
        """
        return replace(self, options={**self.options, **options})

    def _figure(self, name: str, value: Any) -> Figure:
        if isinstance(value, Figure):
            return value
        try:
            number = float("a text" if isinstance(value, (str, bytes)) else value)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"the metric {self.name!r} returned {type(value).__name__} for {name!r}: expected a number, a Figure, "
                "or a mapping of names to them"
            ) from error
        return Figure(number, reason=f"{name} is undefined for these cases" if math.isnan(number) else "")


def find_metrics(metrics: Any, task: str | None = None) -> list[Metric]:
    """Look metrics up.

    Args:
        metrics: registered names, `Metric` objects or functions of a comparison, one or several; or a mapping of these
            to their options. A function's name is ``__name__``, its direction its attribute ``higher_is_better``.
        task: such as ``"classification"``; a metric without a task suits all. None: any.

    Returns:
        The metrics, in order.

    Raises:
        KeyError: for an unknown name; the message lists the known ones.
        ValueError: for a metric of another task.
        TypeError: for anything else, or an option that the metric does not have.

    Example:
        >>> [m.name for m in find_metrics(["f1", "roc_auc"], "classification")]
        ['f1', 'roc_auc']
        >>> find_metrics({"froc": {"iou_threshold": 0.3}}, "detection")[0].options
        {'iou_threshold': 0.3}
    """
    found = [_metric(part, options) for part, options in _entries(metrics)]
    for metric in found:
        if task is not None and metric.task not in (None, task):
            raise ValueError(
                f"the metric {metric.name!r} is for {metric.task}, and this model does {task}; metrics for that: "
                f"{', '.join(METRICS.names(task=task))}"
            )
    return found


def compute_metrics(metrics: Iterable[Metric], comparison: Comparison) -> dict[str, Figure]:
    """Compute several metrics of one comparison, with one matching for all IoU thresholds of a rule.

    Args:
        metrics: from `find_metrics`.
        comparison: predictions and truths.

    Returns:
        Name to figure, in order.

    Raises:
        ValueError: if two metrics give different values under one name.
    """
    metrics = list(metrics)
    comparison.plan(metrics)
    figures: dict[str, Figure] = {}
    source: dict[str, str] = {}
    for metric in metrics:
        for name, figure in metric(comparison).items():
            known = figures.setdefault(name, figure)
            origin = source.setdefault(name, metric.name)
            if (known.defined or figure.defined) and not math.isclose(known, figure, abs_tol=1e-9):
                raise ValueError(
                    f"the metrics {origin!r} and {metric.name!r} give different values for {name!r}, {known} and "
                    f"{figure}: compute them separately"
                )
    return figures


def direction_of(figure: str, metrics: Iterable[Metric]) -> bool | None:
    """Return whether a higher figure is better, as the first metric that states it.

    Args:
        figure: its name.
        metrics: from `find_metrics`.

    Returns:
        True or False; None where no metric states it.

    Example:
        >>> direction_of("fp", find_metrics(["froc", "detection_counts"]))
        False
    """
    return next((d for m in metrics if (d := m.direction(figure)) is not None), None)


def _entries(metrics: Any) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    if isinstance(metrics, Mapping):
        for part, options in metrics.items():
            yield part, options or {}
    elif isinstance(metrics, str | Metric) or callable(metrics):
        yield metrics, {}
    else:
        for part in metrics:
            yield from _entries(part)


def _metric(part: Any, options: Mapping[str, Any]) -> Metric:
    if isinstance(part, Metric):
        return part.with_options(**options) if options else part
    if isinstance(part, str):
        compute, tags = METRICS.get(part), METRICS.tags(part)
        stated = tags.get("higher_is_better", getattr(compute, "higher_is_better", None))
        return Metric(part, compute, tags.get("task"), stated, dict(options), tags.get("matching"))
    named = getattr(part, "func", part)  # of a functools.partial
    name = getattr(named, "__name__", type(named).__name__)
    return Metric(name, part, None, getattr(part, "higher_is_better", None), dict(options))
