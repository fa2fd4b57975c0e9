"""Training curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hccvision.plots.style import DASHES, FAMILIES, GREY, INK, METRIC_COLOURS, RULE, as_written, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_METRICS = 12


def training_curves(rows: Sequence[Mapping[str, float]], *, best: int | None = None) -> Figure:
    """Plot a training log: the loss, its parts, the metrics, and the learning rate where it changes.

    Each quantity has one colour, light for training and dark for validation. Metrics of single classes, such as
    ``voc_map/tumor``, are drawn thinner; where there are more than twelve curves they are left out and the title says
    so. Metrics beyond [−1, 1] and the counts ``tp``, ``fn``, ``fp`` and ``tn`` have a panel of their own.

    Args:
        rows: one per epoch, as in a history: ``epoch`` (by default the row's number, from 1), ``train_loss``,
            ``val_loss``, their parts (``train_regression`` …), ``val_<metric>`` and ``learning_rate``. Each may be
            missing, also from some rows only, which leaves a gap.
        best: index of the row to mark with a thin vertical line.

    Returns:
        The figure, with one panel for each group of quantities found.

    Raises:
        ValueError: if no row holds anything to plot, or ``best`` is not the index of a row.
        ImportError: if matplotlib is missing.

    Example:
        >>> figure = training_curves([{"epoch": 1, "train_loss": 2.0}, {"epoch": 2, "train_loss": 1.5}], best=1)
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['loss']

    Source:
        Mizouri 2026, figure 9.
    """
    if best is not None and not 0 <= best < len(rows):
        raise ValueError(f"expected best to be the index of one of {len(rows)} rows, got {best}")
    panels = _group_quantities(rows)
    if not panels:
        raise ValueError(f"expected rows with numbers such as train_loss, got {len(rows)} rows without any")
    columns = 2 if len(panels) in (2, 4) else min(3, len(panels))
    grid_rows = math.ceil(len(panels) / columns)
    figure = new_figure(4.2 * columns, 3.8 * grid_rows, "Training curves")

    epochs = [row.get("epoch", i) for i, row in enumerate(rows, 1)]
    for place, (title, curves) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(grid_rows, columns, place)
        for name, (values, style) in curves.items():
            few = sum(map(math.isfinite, values)) <= 30
            axes.plot(epochs, values, label=name, marker="o" if few else "", markersize=3, **style)
        if best is not None:
            name = f"best: epoch {epochs[best]:g}" if place == 1 else "_"  # "_": not listed in the legend
            axes.axvline(epochs[best], color=INK, linewidth=0.8, zorder=1, label=name)
        finite = [v for values, _ in curves.values() for v in values if math.isfinite(v)]
        if title.startswith("metrics"):
            axes.set_ylim(-1.02 if min(finite) < 0 else -0.02, 1.02)
        elif min(finite) >= 0:
            axes.set_ylim(0, 1.05 * max(finite) or 1)
        if len(rows) == 1:
            axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
        _style_axes(axes, title)
    return figure


def _style_axes(axes: Axes, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
    axes.set_xlabel("epoch", fontsize=9, color=INK)
    axes.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold")
    axes.grid(color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(labelsize=8, color=GREY, labelcolor=INK)
    legend = axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=8, frameon=False, labelcolor=INK
    )
    as_written(legend.get_texts())


def _group_quantities(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, tuple[list[float], dict[str, Any]]]]:
    """Group the quantities of a training log into panels: title -> name -> values and line style."""
    names = dict.fromkeys(key for row in rows for key in row if key.startswith(("train_", "val_")))
    series = {name: [float(row.get(name, math.nan)) for row in rows] for name in names}
    series = {name: values for name, values in series.items() if any(map(math.isfinite, values))}
    parts = dict.fromkeys(name.removeprefix("train_") for name in series if name.startswith("train_")) | {"loss": None}
    parts.pop("loss")

    def losses(quantities: Sequence[str]) -> dict[str, Any]:
        return {
            f"{side} {quantity}": (series[f"{side}_{quantity}"], {"color": colours[side == "val"], "linewidth": 1.6})
            for quantity, colours in zip(quantities, FAMILIES * len(quantities), strict=False)
            for side in ("train", "val")
            if f"{side}_{quantity}" in series
        }

    def metrics(names: Sequence[str]) -> dict[str, Any]:
        return {
            name: (
                series[f"val_{name}"],
                {
                    "color": METRIC_COLOURS[i % len(METRIC_COLOURS)],
                    "linestyle": DASHES[i // len(METRIC_COLOURS) % len(DASHES)],
                    "linewidth": 0.9 if "/" in name else 1.6,
                },
            )
            for i, name in enumerate(names)
        }

    figures = [n.removeprefix("val_") for n in series if n.startswith("val_")]
    figures = [n for n in figures if n != "loss" and n not in parts]
    others = [n for n in figures if n in ("tp", "fn", "fp", "tn") or np.nanmax(np.abs(series[f"val_{n}"])) > 1]
    shares = [n for n in figures if n not in others]
    title = "metrics"
    if len(shares) > MAX_METRICS:
        means = [n for n in shares if "/" not in n]
        title, shares = f"metrics ({len(shares) - len(means)} of single classes left out)", means
    rates = [float(row.get("learning_rate", math.nan)) for row in rows]
    panels = {
        "loss": losses(["loss"]),
        "parts of the loss": losses(list(parts)),
        title: metrics(shares),
        "counts and other figures": metrics(others),
    }
    if len({rate for rate in rates if math.isfinite(rate)}) > 1:
        panels["learning rate"] = {"learning rate": (rates, {"color": GREY, "linewidth": 1.6})}
    return {title: curves for title, curves in panels.items() if curves}
