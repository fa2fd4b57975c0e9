"""Detections over the images, beside the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hccvision.boxes.overlap import iou
from hccvision.contracts.outputs import Detections
from hccvision.contracts.samples import Annotation
from hccvision.plots.labels import fit_text, place_labels
from hccvision.plots.panels import check_images, grid_of_panels, outline_box
from hccvision.plots.style import GOOD_IOU, HIT, INK, MISS, TRUTH, as_written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle


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
    """Plot detections over the images, with class, score and overlap, beside the ground truth.

    The overlap is the largest IoU with a ground-truth box of the same class. With several classes, a ground-truth box
    that no detection of its class overlaps by an IoU of 0.5 is labelled with its class.

    Args:
        images: N of ``(H, W, C) uint8``, of any sizes; 3 channels are RGB, else the first channel is shown.
        found: N detections, boxes in pixels of these images.
        truths: N annotations; one without boxes is an image without lesions, None is unknown.
        classes: the K class names in order.
        score_threshold: lowest score of the detections shown, in [0, 1].
        titles: N texts, such as file names, shortened in the middle where they are too long; None: no titles.
        columns: largest number of panels side by side.

    Returns:
        The figure, one panel per image, all panels of the same size.

    Raises:
        ValueError: if the sequences are empty or differ in length, an image is not ``(H, W, C) uint8``, a label is
            not the id of a class, or ``columns`` is below 1.
        ImportError: if matplotlib is missing.

    Example:
        >>> truth = Annotation(np.array([[10, 10, 30, 30]], np.float32), ("hcc",))
        >>> d = Detections(torch.tensor([[10.0, 10.0, 30.0, 26.0]]), torch.tensor([0.9]), torch.tensor([0]))
        >>> figure = detections([np.zeros((48, 64, 1), np.uint8)], [d], [truth], classes=("hcc",))
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['hcc 0.90 · IoU 0.80']

    Source:
        Mizouri 2026, figure 11.
    """
    _check_detections(images, found, truths, classes, titles, columns)
    head = 0.3 if titles is None else 0.45
    figure, panels = grid_of_panels(images, "Detections", columns=columns, head=head, foot=0.55)
    kinds: dict[str, Any] = {}
    for i, (axes, detected, truth) in enumerate(zip(panels, found, truths, strict=True)):
        shown = detected.above(score_threshold)
        _draw_boxes(axes, shown, truth, classes)
        known = "truth not known" if truth is None else f"truth: {len(truth)}" if len(truth) else "no lesion"
        state = f"{known} · found: {len(shown)}"
        title = axes.set_title(state, loc="left", fontsize=8, color=INK, pad=4)
        if titles is not None:
            as_written([title])
            fit_text(title, titles[i], f"\n{state}", axes.get_window_extent().width)
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


def _check_detections(
    images: Sequence[np.ndarray],
    found: Sequence[Detections],
    truths: Sequence[Annotation | None],
    classes: Sequence[str],
    titles: Sequence[str] | None,
    columns: int,
) -> None:
    check_images(images, found=found, truths=truths, titles=titles)
    if columns < 1:
        raise ValueError(f"expected at least 1 column, got {columns}")
    for i, detected in enumerate(found):
        unknown = [label for label in detected.labels.tolist() if not 0 <= label < len(classes)]
        if unknown:
            raise ValueError(
                f"image {i}: the label {unknown[0]} was found, and there are {len(classes)} classes, from 0: "
                "pass all classes of the model"
            )


def _draw_boxes(axes: Axes, found: Detections, truth: Annotation | None, classes: Sequence[str]) -> None:
    names = [classes[label] for label in found.labels.tolist()]
    overlaps = np.zeros((len(found), 0))
    if truth is not None:
        same = np.array(names, object)[:, None] == np.array(truth.names, object)
        overlaps = same * iou(found.boxes.cpu().float(), torch.from_numpy(truth.boxes)).numpy()
    best = overlaps.max(1, initial=0)

    labels: list[tuple[Rectangle, str, str]] = []  # box, class name, and the rest of the label
    if truth is not None:  # underneath and wider, so that it stays visible under a perfect detection
        met = np.any(overlaps >= GOOD_IOU, axis=0).tolist()
        for box, name, is_met in zip(truth.boxes.tolist(), truth.names, met, strict=True):
            rectangle = outline_box(axes, box, TRUTH, 2.4, label="truth")
            if len(classes) > 1 and not is_met:
                labels.append((rectangle, name, ""))
    for box, name, score, overlap in zip(found.boxes.tolist(), names, found.scores.tolist(), best, strict=True):
        if truth is None:
            rectangle = outline_box(axes, box, HIT, 1.2, label="found")
            labels.append((rectangle, name, f" {score:.2f}"))
        elif overlap >= GOOD_IOU:
            rectangle = outline_box(axes, box, HIT, 1.2, label=f"found, IoU ≥ {GOOD_IOU:g}")
            labels.append((rectangle, name, f" {score:.2f} · IoU {overlap:.2f}"))
        else:
            rectangle = outline_box(axes, box, MISS, 1.2, "--", label=f"found, IoU < {GOOD_IOU:g}")
            labels.append((rectangle, name, f" {score:.2f} · IoU {overlap:.2f}"))
    place_labels(axes, labels)
