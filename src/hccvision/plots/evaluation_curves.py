"""Curves of an evaluation: ROC, precision and recall, calibration, net benefit, FROC, and kinds of errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hccvision.plots.style import BLUE, BURNT, DASHES, GREY, INK, METRIC_COLOURS, RULE, as_written, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hccvision.metrics.probabilities import ReliabilityCurve
    from hccvision.metrics.threshold_curves import ThresholdCurve

_SIDE = 3.6  # inches


def roc(curve: ThresholdCurve, *, area: float | None = None) -> Figure:
    """Plot a ROC curve.

    Args:
        curve: of a classifier.
        area: under the curve, for the title; None: not stated.

    Returns:
        The figure.

    Raises:
        ImportError: if matplotlib is missing.

    Example:
        >>> from hccvision.metrics.threshold_curves import threshold_curve
        >>> figure = roc(threshold_curve(np.array([0.1, 0.6, 0.8]), np.array([False, False, True])), area=1.0)
        >>> figure.axes[0].get_title(loc="left")
        'ROC, area 1.000'
    """
    axes = _axes("ROC" if area is None else f"ROC, area {area:.3f}", "1 - specificity", "sensitivity")
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1, zorder=1)
    axes.plot(1 - curve.specificity, curve.sensitivity, color=BLUE, linewidth=1.8)
    return _unit_square(axes)


def precision_recall(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Plot precision against recall (sensitivity), one curve per class.

    Args:
        curves: class name to ``(n,)`` recall, ascending, and ``(n,)`` precision.

    Returns:
        The figure.

    Raises:
        ImportError: if matplotlib is missing.
    """
    axes = _axes("Precision and recall", "recall (sensitivity)", "precision")
    for number, (name, (recall, precision)) in enumerate(curves.items()):
        shown = slice(int(np.searchsorted(recall, recall.max(initial=0))) + 1)  # beyond, precision falls to no avail
        style = DASHES[number // len(METRIC_COLOURS) % len(DASHES)]
        colour = METRIC_COLOURS[number % len(METRIC_COLOURS)]
        axes.step(
            recall[shown], precision[shown], where="pre", color=colour, linestyle=style, linewidth=1.8, label=name
        )
    if len(curves) > 1:
        as_written(axes.legend(fontsize=8, frameon=False).get_texts())
    return _unit_square(axes)


def calibration(curve: ReliabilityCurve, *, error: float | None = None, score: str = "predicted probability") -> Figure:
    """Plot how often cases of similar probability are positive, above the number of cases.

    Args:
        curve: from `reliability_curve`.
        error: expected calibration error, for the title; None: not stated.
        score: what the horizontal axis shows.

    Returns:
        The figure.

    Raises:
        ImportError: if matplotlib is missing.
    """
    title = "Calibration" if error is None else f"Calibration, error {error:.3f}"
    axes = _axes(title, score, "share that is positive")
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1, zorder=1)
    sizes = 15 + 120 * np.sqrt(curve.counts / max(1, curve.counts.max(initial=1)))
    axes.plot(curve.predicted, curve.observed, color=BLUE, linewidth=1)
    axes.scatter(curve.predicted, curve.observed, s=sizes, color=BLUE, zorder=3)
    for x, y, count in zip(curve.predicted, curve.observed, curve.counts.tolist(), strict=True):
        axes.annotate(str(count), (x, y), (5, 5), textcoords="offset points", fontsize=7, color=GREY)
    _unit_square(axes)
    axes.set_ylim(-0.05, 1.1)
    return _figure(axes)


def net_benefit(curve: ThresholdCurve, *, name: str = "model") -> Figure:
    """Plot a decision curve: the net benefit of the model, of treating all and of treating none.

    Args:
        curve: of a classifier's probabilities.
        name: of the model.

    Returns:
        The figure.

    Raises:
        ImportError: if matplotlib is missing.
    """
    axes = _axes("Decision curve", "threshold probability", "net benefit")
    thresholds = np.linspace(0.01, 0.99, 99)
    share = curve.positives / max(1, curve.positives + curve.negatives)
    everyone = share - (1 - share) * thresholds / (1 - thresholds)
    found = curve.net_benefit(thresholds)
    axes.plot(thresholds, everyone, color=GREY, linestyle="--", linewidth=1.2, label="treat all")
    axes.plot([0, 1], [0, 0], color=GREY, linestyle=":", linewidth=1.2, label="treat none")
    axes.plot(thresholds, found, color=BLUE, linewidth=1.8, label=name)
    top = max(share, 0.05)
    axes.set(xlim=(0, 1), ylim=(-0.35 * top, 1.1 * top))
    as_written(axes.legend(fontsize=8, frameon=False).get_texts())
    return _figure(axes)


def froc(rates: np.ndarray, sensitivity: np.ndarray) -> Figure:
    """Plot the free-response ROC.

    Args:
        rates: ``(n,)`` false positives per image, ascending.
        sensitivity: ``(n,)`` share of lesions found.

    Returns:
        The figure.

    Raises:
        ImportError: if matplotlib is missing.
    """
    axes = _axes("FROC", "false positives per image", "sensitivity")
    axes.step(rates, sensitivity, where="post", color=BLUE, linewidth=1.8)
    axes.set_xscale("symlog", base=2, linthresh=1 / 8, linscale=0.5)
    ticks = [0, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8]
    axes.set_xticks(ticks, ["0", "1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.minorticks_off()
    axes.set(xlim=(0, 8), ylim=(0, 1.02))
    return _figure(axes)


def error_kinds(counts: Mapping[str, float], costs: Mapping[str, float]) -> Figure:
    """Plot how many errors of each kind a detector makes, and what each costs.

    Args:
        counts: kind to number of errors.
        costs: kind to mean average precision lost; nan where it is undefined.

    Returns:
        The figure.

    Raises:
        ImportError: if matplotlib is missing.
    """
    figure = new_figure(2 * _SIDE, 0.35 * len(counts) + 1.1, "Kinds of errors")
    names = [name.replace("_", " ") for name in counts]
    for axes, values, title, colour, form in (
        (figure.add_subplot(1, 2, 1), list(counts.values()), "errors", BURNT, "{:.0f}"),
        (figure.add_subplot(1, 2, 2), [costs[name] for name in counts], "mean average precision lost", BLUE, "{:.3f}"),
    ):
        places = np.arange(len(names))
        axes.barh(places, np.nan_to_num(values), color=colour, height=0.65)
        for place, value in zip(places, values, strict=True):
            text = "–" if np.isnan(value) else form.format(value)
            axes.annotate(
                text, (np.nan_to_num(value), place), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
        axes.set_yticks(places, names if title == "errors" else [""] * len(names), fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_title(title, loc="left", fontsize=9, color=INK)
        _style(axes)
    return figure


def _axes(title: str, horizontal: str, vertical: str) -> Axes:
    figure = new_figure(_SIDE, _SIDE, title)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=9, color=INK)
    axes.set_xlabel(horizontal, fontsize=9, color=GREY)
    axes.set_ylabel(vertical, fontsize=9, color=GREY)
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    _style(axes)
    return axes


def _style(axes: Axes) -> None:
    axes.tick_params(labelsize=8, labelcolor=INK, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)


def _unit_square(axes: Axes) -> Figure:
    ticks: Sequence[float] = np.linspace(0, 1, 6).tolist()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xticks=ticks, yticks=ticks, aspect="equal")
    return _figure(axes)


def _figure(axes: Axes) -> Any:
    return axes.get_figure()
