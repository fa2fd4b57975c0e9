"""Pictures with matplotlib: training curves, the confusion matrix, and detections beside the truth.

Every function returns a `matplotlib.figure.Figure` of its own: no pyplot, no global state, no display needed.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hccvision.boxes import cxcywh_to_xyxy, iou
from hccvision.contracts import Annotation, Detections, Targets

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from matplotlib.text import Text

BLUE, BURNT, PURPLE, MOSS = "#1f5fa8", "#c4540a", "#5f3d91", "#1b7a43"
CRIMSON, BROWN, TEAL = "#c2304a", "#8a5a2b", "#0f8f9c"
INK, GREY, RULE = "#222222", "#767676", "#e4e4e4"
TRUTH, HIT, MISS = "#2fd36b", "#ffa02e", "#ff6a5c"  # light, so that black text reads well on them
FAMILIES = (("#93bce8", BLUE), ("#f5b183", BURNT), ("#bca6dc", PURPLE), ("#93d1ab", MOSS))  # training, validation
METRIC_COLOURS = (BLUE, BURNT, MOSS, PURPLE, CRIMSON, BROWN, TEAL, GREY)
DASHES = ("-", "--", ":", "-.")
MAX_METRICS = 12
DPI = 150
GOOD_IOU = 0.5


def training_curves(rows: Sequence[Mapping[str, float]], *, best: int | None = None) -> Figure:
    """Draw a training epoch by epoch: the loss, its parts, the metrics and a learning rate that changes.

    Training is light and validation dark, in one colour for each quantity. Metrics named ``voc_map/<class>`` are
    drawn thinner, and left out, saying so, where there are more than twelve curves; metrics beyond [−1, 1] and the
    counts ``tp``, ``fn``, ``fp`` and ``tn`` have a panel of their own.

    Args:
        rows: one per epoch, as in a history: ``epoch`` (else the rows are counted from 1), ``train_loss``,
            ``val_loss``, their parts (``train_regression`` …), ``val_<metric>`` and ``learning_rate``. Any of them
            may be absent, also from some rows only, which leaves a gap.
        best: index of the row to mark by a thin vertical line.

    Returns:
        The figure, a panel for each group of quantities that occurs.

    Raises:
        ValueError: if there is no row or nothing to draw in them, or ``best`` is not one of them.
        ImportError: if matplotlib is missing.

    Example:
        >>> figure = training_curves([{"epoch": 1, "train_loss": 2.0}, {"epoch": 2, "train_loss": 1.5}], best=1)
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['loss']

    Source:
        The paper's Fig. 9.
    """
    if best is not None and not 0 <= best < len(rows):
        raise ValueError(f"expected best to be the index of one of {len(rows)} rows, got {best}")
    panels = _panels(rows)
    if not panels:
        raise ValueError(f"expected rows with figures such as train_loss, got {len(rows)} rows without any")
    columns = 2 if len(panels) in (2, 4) else min(3, len(panels))
    grid_rows = math.ceil(len(panels) / columns)
    figure = _figure(4.2 * columns, 3.8 * grid_rows, "Training curves")

    from matplotlib.ticker import MaxNLocator

    epochs = [row.get("epoch", i) for i, row in enumerate(rows, 1)]
    for place, (title, curves) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(grid_rows, columns, place)
        for name, (values, style) in curves.items():
            few = sum(map(math.isfinite, values)) <= 30
            axes.plot(epochs, values, label=name, marker="o" if few else "", markersize=3, **style)
        if best is not None:
            name = f"best: epoch {epochs[best]:g}" if place == 1 else "_"  # matplotlib lists no name that begins with _
            axes.axvline(epochs[best], color=INK, linewidth=0.8, zorder=1, label=name)
        finite = [v for values, _ in curves.values() for v in values if math.isfinite(v)]
        if title.startswith("metrics"):
            axes.set_ylim(-1.02 if min(finite) < 0 else -0.02, 1.02)
        elif min(finite) >= 0:
            axes.set_ylim(0, 1.05 * max(finite) or 1)
        if len(rows) == 1:
            axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
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
        _as_written(legend.get_texts())
    return figure


def confusion_matrix(matrix: Any, classes: Sequence[str], *, positive: str | None = None) -> Figure:
    """Draw a confusion matrix: counts, and their share of the row's truth as number and shade.

    Args:
        matrix: ``(K, K)`` counts, one row per truth and one column per prediction.
        classes: the K class names in order.
        positive: the class that means disease; None is the last. Of two classes the cells are named by it: TP, FN,
            FP, TN.

    Returns:
        The figure; the positive class is named at its row. A row without cases has no shares.

    Raises:
        ValueError: if the matrix is not ``(K, K)`` whole counts of 0 or more, or ``positive`` is not a class.
        ImportError: if matplotlib is missing.

    Example:
        >>> figure = confusion_matrix([[179, 3], [11, 173]], ("normal", "cancer"))
        >>> [text.get_text() for text in figure.axes[0].texts][-1].splitlines()
        ['TP', '173', '94.0 %']

    Source:
        The paper's Table 4.
    """
    counts, k = np.asarray(matrix), len(classes)
    if k == 0 or counts.shape != (k, k) or not np.all((counts >= 0) & (counts == np.floor(counts))):
        raise ValueError(
            f"expected a ({k}, {k}) matrix of counts for the classes {tuple(classes)}, got {counts.tolist()}: "
            "give one row per truth and one column per prediction"
        )
    positive = classes[-1] if positive is None else positive
    if positive not in classes:
        raise ValueError(f"the positive class {positive!r} is not among the classes ({', '.join(classes)})")
    cell = min(1.4, max(0.65, 10 / k))  # inches
    longest = max(8, *map(len, classes))
    slanted = longest > 9 * cell
    height = cell * k + 1.0 + slanted * 0.04 * longest
    figure = _figure(cell * k + 0.8 + 0.075 * longest, height, "Confusion matrix")

    from matplotlib.colors import LinearSegmentedColormap

    totals = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    shades = LinearSegmentedColormap.from_list("shares", ["#ffffff", BLUE])
    axes = figure.add_subplot()
    axes.imshow(shares, cmap=shades, vmin=0, vmax=1)
    for truth, predicted in np.ndindex(k, k):
        lines = [f"{counts[truth, predicted]:.0f}", f"{shares[truth, predicted]:.1%}".replace("%", " %")]
        if totals[truth] == 0:
            lines[1] = "–"
        if k == 2:
            right, called = truth == predicted, classes[predicted] == positive
            lines.insert(0, f"{'T' if right else 'F'}{'P' if called else 'N'}")
        colour = "white" if _luminance(shades(shares[truth, predicted])[:3]) < 0.18 else "black"
        axes.text(predicted, truth, "\n".join(lines), ha="center", va="center", fontsize=3 + 6 * cell, color=colour)
    axes.set_xticks(
        range(k), classes, rotation=35 if slanted else 0, ha="right" if slanted else "center", rotation_mode="anchor"
    )
    axes.set_yticks(range(k), [f"{name}\n(positive)" if name == positive else name for name in classes])
    axes.set_xticks(np.arange(1, k) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, k) - 0.5, minor=True)
    axes.grid(which="minor", color=RULE, linewidth=1)
    axes.tick_params(which="both", length=0, labelsize=9, labelcolor=INK)
    axes.spines[:].set_color(RULE)
    axes.set_xlabel("predicted", fontsize=9, color=GREY)
    axes.set_ylabel("truth", fontsize=9, color=GREY)
    axes.set_title(f"n = {counts.sum():.0f}", loc="left", fontsize=9, color=INK)
    _as_written([*axes.get_xticklabels(), *axes.get_yticklabels()])
    return figure


def detections(
    images: Sequence[np.ndarray],
    found: Sequence[Detections],
    truths: Sequence[Annotation | None],
    *,
    classes: Sequence[str],
    score_threshold: float = 0.5,
    titles: Sequence[str] | None = None,
    columns: int = 4,
) -> Figure:
    """Draw what was found over the images, with class, score and overlap, beside the truth.

    The overlap written is the IoU with the best truth of the same class. A truth that no box of its class meets with
    an IoU of 0.5 bears its name where there are several classes.

    Args:
        images: N of ``(H, W, C) uint8``, each of its own size; 3 channels are RGB, of others the first is shown.
        found: N, boxes in pixels of these images.
        truths: N; one of no boxes is an image without lesion, None is one whose truth is not known.
        classes: the K class names in order.
        score_threshold: the least score of a box that is drawn, in [0, 1].
        titles: N texts, such as file names; too long ones are shortened in the middle. None: none.
        columns: of the grid, at most.

    Returns:
        The figure, one panel per image, all panels of the same size.

    Raises:
        ValueError: if the sequences are empty or not of one length, an image is not ``(H, W, C) uint8``, a label is
            not that of a class, or ``columns`` is below 1.
        ImportError: if matplotlib is missing.

    Example:
        >>> truth = Annotation(np.array([[10, 10, 30, 30]], np.float32), ("hcc",))
        >>> d = Detections(torch.tensor([[10.0, 10.0, 30.0, 26.0]]), torch.tensor([0.9]), torch.tensor([0]))
        >>> figure = detections([np.zeros((48, 64, 1), np.uint8)], [d], [truth], classes=("hcc",))
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['hcc 0.90 · IoU 0.80']

    Source:
        The paper's Fig. 11.
    """
    _check_detections(images, found, truths, classes, titles, columns)
    columns = min(columns, len(images))
    grid_rows = math.ceil(len(images) / columns)
    # Laid out in inches: the room for the labels must be known before they are placed.
    width = 3.0 if columns > 1 else 4.5
    aspect = float(np.clip(np.median([image.shape[0] / image.shape[1] for image in images]), 0.6, 1.4))
    height, gap, head, foot = width * aspect, 0.15, 0.3 if titles is None else 0.45, 0.55
    total_width = gap + columns * (width + gap)
    total_height = grid_rows * (head + height) + foot
    figure = _figure(total_width, total_height, "Detections", constrained=False)

    kinds: dict[str, Any] = {}
    for i, (image, detected, truth) in enumerate(zip(images, found, truths, strict=True)):
        row, column = divmod(i, columns)
        left, bottom = gap + column * (width + gap), total_height - (row + 1) * (head + height)
        axes = figure.add_axes(
            (left / total_width, bottom / total_height, width / total_width, height / total_height),
            facecolor="black",
            xticks=[],
            yticks=[],
        )
        axes.spines[:].set_visible(False)
        _show(axes, image, aspect)
        shown = detected.above(score_threshold)
        _draw_boxes(axes, shown, truth, classes)
        known = "truth not known" if truth is None else f"truth: {len(truth)}" if len(truth) else "no lesion"
        state = f"{known} · found: {len(shown)}"
        title = axes.set_title(state, loc="left", fontsize=8, color=INK, pad=4)
        if titles is not None:
            _as_written([title])
            _fit(title, titles[i], f"\n{state}", axes.get_window_extent().width)
        kinds |= {str(patch.get_label()): patch for patch in axes.patches}
    if kinds:
        names = sorted(kinds, reverse=True)  # truth, found, …
        figure.legend(
            [kinds[name] for name in names],
            names,
            title=f"boxes of score {score_threshold:g} and above",
            loc="lower center",
            ncols=len(names),
            fontsize=8,
            title_fontsize=8,
            frameon=False,
        )
    return figure


def default_boxes(
    image: np.ndarray,
    boxes: torch.Tensor,
    truth: Annotation | None = None,
    *,
    limit: int = 40,
) -> Figure:
    """Draw default boxes over an image: for each truth the one that overlaps it best, or else a sample of them all.

    With a truth the picture answers whether a lesion of that size can be learnt: the box that fits best is drawn with
    its overlap, in one colour where it reaches an IoU of 0.5 and in another where it doesn't.

    Args:
        image: ``(H, W, C) uint8``; 3 channels are RGB, of others the first is shown.
        boxes: ``(A, 4)`` default boxes as ``cx, cy, w, h`` in shares of the image sides, from
            `hccvision.default_boxes.generate`.
        truth: boxes in pixels of the image; None: draw the default boxes about the image's centre, of every size.
        limit: without a truth, at most so many boxes.

    Returns:
        The figure.

    Raises:
        ValueError: if the image is not ``(H, W, C) uint8``, or there is no default box.
        ImportError: if matplotlib is missing.

    Example:
        >>> from hccvision.default_boxes import generate
        >>> truth = Annotation(np.array([[10, 10, 30, 30], [60, 60, 130, 130]], np.float32), ("hcc", "hcc"))
        >>> figure = default_boxes(np.zeros((300, 300, 1), np.uint8), generate("ssd300_mobilenet"), truth)
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['IoU 0.11', 'IoU 0.69']
    """
    if image.ndim != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image is (H, W, C) uint8, got {image.shape} {image.dtype}")
    if len(boxes) == 0:
        raise ValueError("there is no default box to draw")
    height, width = image.shape[:2]
    aspect = float(np.clip(height / width, 0.6, 1.4))
    figure = _figure(5.0, 5.0 * aspect + 0.4, "Default boxes")
    axes = figure.add_subplot(facecolor="black", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    _show(axes, image, aspect)
    corners = cxcywh_to_xyxy(boxes.cpu()) * torch.tensor([width, height, width, height])
    if truth is None:
        distance = (boxes[:, :2].cpu() - 0.5).square().sum(1).sqrt()
        size = (boxes[:, 2:].cpu() * 1e4).round().long()
        shapes, member = size.unique(dim=0, return_inverse=True)
        nearest = [int(torch.where(member == i, distance, torch.inf).argmin()) for i in range(len(shapes))]
        step = math.ceil(len(nearest) / limit)
        for index in nearest[::step]:
            _outline(axes, corners[index].tolist(), HIT, 0.8)
        axes.set_title(f"{len(boxes)} default boxes of {len(shapes)} shapes", loc="left", fontsize=8, color=INK)
        return figure
    overlaps = iou(torch.from_numpy(truth.boxes), corners)
    for box, (best, index) in zip(truth.boxes, zip(*overlaps.max(1), strict=True), strict=True):
        colour = HIT if best >= GOOD_IOU else MISS
        _outline(axes, box.tolist(), TRUTH, 1.6)
        _outline(axes, corners[int(index)].tolist(), colour, 1.2, "--")
        axes.text(box[0], box[1] - 0.01 * height, f"IoU {best:.2f}", color=colour, fontsize=7, va="bottom")
    reached = int((overlaps.amax(1) >= GOOD_IOU).sum()) if len(truth) else 0
    axes.set_title(
        f"{reached} of {len(truth)} truths (green) reach IoU {GOOD_IOU:g} with one of {len(boxes)} default boxes",
        loc="left",
        fontsize=8,
        color=INK,
    )
    return figure


def gallery(
    image: np.ndarray,
    boxes: np.ndarray,
    augment: Callable[[torch.Tensor, Targets, torch.Generator], tuple[torch.Tensor, Targets]],
    *,
    count: int = 6,
    columns: int = 6,
    seed: int = 0,
    title: str = "",
) -> Figure:
    """Draw what an augmentation makes of a slice, and of the boxes on it.

    Args:
        image: ``(H, W, C) uint8``; 3 channels are RGB, of others the first is shown.
        boxes: ``(N, 4)`` xyxy in pixels of the image.
        augment: what to look at, such as ``AUGMENTATIONS.build("mri")``.
        count: draws.
        columns: side by side.
        seed: of the draws.
        title: of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: if the image is not ``(H, W, C) uint8``, or nothing is to be drawn.
        ImportError: if matplotlib is missing.

    Example:
        >>> boxes = np.array([[10, 10, 20, 20]], np.float32)
        >>> figure = gallery(np.zeros((30, 40, 1), np.uint8), boxes, lambda images, targets, _: (images, targets))
        >>> len(figure.axes)
        6
    """
    if image.ndim != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image is (H, W, C) uint8, got {image.shape} {image.dtype}")
    if count < 1 or columns < 1:
        raise ValueError(f"count and columns are at least 1, got {count} and {columns}")
    batch = (torch.from_numpy(image).permute(2, 0, 1).float() / 255).repeat(count, 1, 1, 1)
    own = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    targets = Targets.pad([own] * count, [torch.zeros(len(own))] * count)
    moved, found = augment(batch, targets, torch.Generator().manual_seed(seed))
    columns = min(columns, count)
    rows = -(-count // columns)
    aspect = float(np.clip(image.shape[0] / image.shape[1], 0.6, 1.4))
    figure = _figure(1.7 * columns, 1.7 * rows * aspect + 0.3 * bool(title), title or "Augmentation")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=9, color=INK)
    for i in range(count):
        axes = figure.add_subplot(rows, columns, i + 1, facecolor="black", xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        _show(axes, (moved[i] * 255).round().byte().permute(1, 2, 0).numpy(), aspect)
        for box in found.boxes[i][found.labels[i] >= 0].tolist():
            _outline(axes, box, TRUTH, 1.0)
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as PNG; readers see the old file or the new one whole.

    The file says nothing but its title about itself, so the same figure gives the same bytes.

    Args:
        figure: to write.
        path: ending in ``.png``; its folder is made.

    Returns:
        The path.

    Raises:
        ValueError: if the path ends otherwise.

    Example:
        >>> import tempfile
        >>> save(training_curves([{"train_loss": 2.0}]), tempfile.mkdtemp() + "/curves.png").name
        'curves.png'
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: pictures are written as PNG: give a path that ends in .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        title = str(figure.get_label()) or None
        figure.savefig(partial, format="png", dpi=DPI, metadata={"Software": None, "Title": title})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _figure(width: float, height: float, label: str, *, constrained: bool = True) -> Figure:
    """Make an empty figure of so many inches; its label becomes the title of the file."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "hccvision[plots]"') from error
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1) if constrained else None
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout=layout)
    figure.set_label(label)
    return figure


def _panels(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, tuple[list[float], dict[str, Any]]]]:
    """Sort the quantities of a history into panels: title -> name -> values and line style."""
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


def _luminance(colour: Sequence[float]) -> float:
    """Give the relative luminance of an sRGB colour in [0, 1] (WCAG 2); below 0.18 white reads better than black."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def _check_detections(
    images: Sequence[np.ndarray],
    found: Sequence[Detections],
    truths: Sequence[Annotation | None],
    classes: Sequence[str],
    titles: Sequence[str] | None,
    columns: int,
) -> None:
    n = len(images)
    counts = {"found": len(found), "truths": len(truths), "titles": n if titles is None else len(titles)}
    if n == 0 or any(count != n for count in counts.values()):
        raise ValueError(f"expected one of each for at least one image, got {n} images and {counts}")
    if columns < 1:
        raise ValueError(f"expected at least 1 column, got {columns}")
    for i, (image, detected) in enumerate(zip(images, found, strict=True)):
        if image.ndim != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(
                f"image {i}: expected (H, W, C) uint8, got {image.shape} {image.dtype}: use images.from_array first"
            )
        unknown = [label for label in detected.labels.tolist() if not 0 <= label < len(classes)]
        if unknown:
            raise ValueError(
                f"image {i}: the label {unknown[0]} was found, and there are {len(classes)} classes, from 0: "
                "give all classes of the model"
            )


def _show(axes: Axes, image: np.ndarray, aspect: float) -> None:
    """Show an image in the middle of a panel of that height per width, pixel 0 from 0 to 1."""
    height, width, channels = image.shape
    pixels = image if channels == 3 else image[..., 0]
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0), aspect="auto")
    spare_x, spare_y = max(0, height / aspect - width) / 2, max(0, width * aspect - height) / 2
    axes.set_xlim(-spare_x, width + spare_x)
    axes.set_ylim(height + spare_y, -spare_y)


def _outline(axes: Axes, box: Sequence[float], colour: str, width: float, dashes: str = "-") -> None:
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = box
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width, ls=dashes))


def _draw_boxes(axes: Axes, found: Detections, truth: Annotation | None, classes: Sequence[str]) -> None:
    from matplotlib.patches import Rectangle

    names = [classes[label] for label in found.labels.tolist()]
    overlaps = np.zeros((len(found), 0))
    if truth is not None:
        same = np.array(names, object)[:, None] == np.array(truth.names, object)
        overlaps = same * iou(found.boxes.cpu().float(), torch.from_numpy(truth.boxes)).numpy()
    best = overlaps.max(1, initial=0)

    def draw(box: Sequence[float], kind: str, colour: str, width: float, dashes: str = "-") -> Rectangle:
        x1, y1, x2, y2 = box
        rectangle = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=width, ls=dashes, label=kind)
        axes.add_patch(rectangle)
        return rectangle

    labels: list[tuple[Rectangle, str, str]] = []  # the class name and what follows it
    if truth is not None:  # beneath and wider, so that a perfect find hides none of the two
        met = np.any(overlaps >= GOOD_IOU, axis=0).tolist()
        for box, name, is_met in zip(truth.boxes.tolist(), truth.names, met, strict=True):
            rectangle = draw(box, "truth", TRUTH, 2.4)
            if len(classes) > 1 and not is_met:
                labels.append((rectangle, name, ""))
    for box, name, score, overlap in zip(found.boxes.tolist(), names, found.scores.tolist(), best, strict=True):
        if truth is None:
            labels.append((draw(box, "found", HIT, 1.2), name, f" {score:.2f}"))
        elif overlap >= GOOD_IOU:
            rectangle = draw(box, f"found, IoU ≥ {GOOD_IOU:g}", HIT, 1.2)
            labels.append((rectangle, name, f" {score:.2f} · IoU {overlap:.2f}"))
        else:
            rectangle = draw(box, f"found, IoU < {GOOD_IOU:g}", MISS, 1.2, "--")
            labels.append((rectangle, name, f" {score:.2f} · IoU {overlap:.2f}"))
    _place_labels(axes, labels)


def _place_labels(axes: Axes, labels: Sequence[tuple[Rectangle, str, str]]) -> None:
    """Write labels beside their boxes, inside the panel, over as little of each other and of any box as can be."""
    panel = axes.get_window_extent()
    size = 7 if len(labels) <= 6 else 5
    pad = 0.2 * size * DPI / 72  # pixels, of the label's frame
    boxes = [patch.get_window_extent().extents for patch in axes.patches]
    taken: list[np.ndarray] = []
    for rectangle, name, rest in labels:
        frame = {"boxstyle": "square,pad=0.2", "fc": rectangle.get_edgecolor(), "ec": "none", "alpha": 0.9}
        text = axes.text(0, 0, "", fontsize=size, color="black", ha="left", va="bottom", bbox=frame, clip_on=True)
        _as_written([text])
        _fit(text, name, rest, panel.width - 2 * pad)
        extent = text.get_window_extent()
        w, h = extent.width + 2 * pad, extent.height + 2 * pad
        x1, y1, x2, y2 = rectangle.get_window_extent().extents
        spots = [(x, y) for y in (y2, y1 - h) for x in (x1, x2 - w)]  # above and below
        spots += [(x, y) for x in (x2, x1 - w) for y in (y2 - h, y1)]  # beside
        spots += [(x, y2 - h) for x in (x1, x2 - w)]  # inside
        spots += [(x, y) for y in (y2 + h, y1 - 2 * h) for x in (x1, x2 - w)]  # a line further off, which is unclear
        spots = [(min(max(x, panel.x0), panel.x1 - w), min(max(y, panel.y0), panel.y1 - h)) for x, y in spots]
        areas = np.array([(x, y, x + w, y + h) for x, y in spots])
        cost = 100 * _shared(areas, taken) + _shared(areas, boxes)
        cost[-4:] += 4 * w * h
        place = areas[int(cost.argmin())]
        taken.append(place)
        x, y = axes.transData.inverted().transform(place[:2] + pad)
        text.set_position((x, y))


def _shared(areas: np.ndarray, others: Sequence[Any]) -> np.ndarray:
    """Give the area that each of (N, 4) shares with all others together."""
    other = np.reshape(others, (-1, 4))
    sides = np.minimum(areas[:, None, 2:], other[:, 2:]) - np.maximum(areas[:, None, :2], other[:, :2])
    return sides.clip(0).prod(-1).sum(-1)


def _fit(artist: Text, text: str, rest: str, pixels: float) -> None:
    """Write a text and what follows it, the text shortened in the middle until all of it is narrow enough."""

    def width(kept: int) -> float:
        short = text if kept == len(text) else f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
        artist.set_text(short + rest)
        return artist.get_window_extent().width

    if width(len(text)) > pixels:
        width(bisect_left(range(len(text)), True, lo=1, key=lambda kept: width(kept) > pixels) - 1)


def _as_written(texts: Sequence[Text]) -> None:
    """Keep matplotlib from reading a ``$`` in a name as the start of a formula."""
    for text in texts:
        text.set_parse_math(False)
