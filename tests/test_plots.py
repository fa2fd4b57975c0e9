import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from hccvision import plots
from hccvision.contracts import Annotation, Detections, Targets

figure_module = pytest.importorskip("matplotlib.figure")
colors = pytest.importorskip("matplotlib.colors")


def found(*rows: tuple[list[float], float, int]) -> Detections:
    boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
    )


def truth(*rows: tuple[list[float], str]) -> Annotation:
    return Annotation(np.array([box for box, _ in rows], np.float32), tuple(name for _, name in rows))


def black(height: int = 80, width: int = 100, channels: int = 1) -> np.ndarray:
    return np.zeros((height, width, channels), np.uint8)


def one(image: np.ndarray, detected: Detections, known: Annotation | None, **options):
    options.setdefault("classes", ("hcc",))
    return plots.detections([image], [detected], [known], **options).axes[0]


def rectangles(axes) -> list[tuple[str, tuple[float, ...]]]:
    """Kind and ``x1, y1, x2, y2`` of each box drawn."""
    return [(p.get_label(), tuple(p.get_bbox().extents)) for p in axes.patches]


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def legend_of(figure_or_axes) -> list[str]:
    legends = getattr(figure_or_axes, "legends", None) or [figure_or_axes.get_legend()]
    return [text.get_text() for text in legends[0].get_texts()]


def panels(figure) -> dict[str, list[str]]:
    return {axes.get_title(loc="left"): legend_of(axes) for axes in figure.axes}


def luminance(colour) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colors.to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(colour, other) -> float:
    """The contrast ratio of WCAG 2.1; text needs 4.5."""
    dark, light = sorted((luminance(colour), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def assert_nothing_is_cut_off(figure) -> None:
    figure.draw_without_rendering()
    frame, drawn = figure.bbox_inches, figure.get_tightbbox()
    assert frame.x0 <= drawn.x0 <= drawn.x1 <= frame.x1
    assert frame.y0 <= drawn.y0 <= drawn.y1 <= frame.y1


def history(epochs: int, **more: float) -> list[dict[str, float]]:
    return [
        {
            "epoch": e,
            "learning_rate": 0.01,
            **{f"{side}_{part}": 3.0 / e for side in ("train", "val") for part in ("loss", "regression")},
            "val_voc_map": 1 - 1 / e,
            **more,
        }
        for e in range(1, epochs + 1)
    ]


# --- training curves


def test_curves_are_grouped_by_quantity():
    figure = plots.training_curves(history(5), best=3)
    assert panels(figure) == {
        "loss": ["train loss", "val loss", "best: epoch 4"],
        "parts of the loss": ["train regression", "val regression"],
        "metrics": ["voc_map"],
    }
    assert all(axes.get_xlabel() == "epoch" for axes in figure.axes)


def test_curves_hold_the_numbers_of_the_rows():
    rows = history(5)
    lines = {line.get_label(): line for axes in plots.training_curves(rows).axes for line in axes.lines}
    assert set(lines) == {"train loss", "val loss", "train regression", "val regression", "voc_map"}
    assert lines["voc_map"].get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert lines["voc_map"].get_ydata().tolist() == [row["val_voc_map"] for row in rows]
    assert lines["val loss"].get_ydata().tolist() == [row["val_loss"] for row in rows]


def test_training_is_lighter_than_validation_in_the_same_hue():
    parts = {f"{s}_{p}": 1.0 for s in ("train", "val") for p in ("loss", "regression", "classification")}
    figure = plots.training_curves([parts])
    lines = {line.get_label(): line.get_color() for axes in figure.axes for line in axes.lines}
    hues = {}
    for name in ("regression", "classification"):
        light, dark = lines[f"train {name}"], lines[f"val {name}"]
        assert luminance(light) > luminance(dark) + 0.1
        hues[name], dark_hue = (colors.rgb_to_hsv(colors.to_rgb(c))[0] for c in (light, dark))
        assert abs(hues[name] - dark_hue) < 0.05
    assert abs(hues["regression"] - hues["classification"]) > 0.2


@pytest.mark.parametrize("best", [0, 2, 4])
def test_the_best_epoch_is_marked_in_every_panel(best):
    rows = [row | {"epoch": row["epoch"] + 10} for row in history(5)]  # as after a resumed run
    for axes in plots.training_curves(rows, best=best).axes:
        assert axes.lines[-1].get_xdata() == [11 + best, 11 + best]
    assert len(axes.lines) == 2  # the metric and the mark


def test_without_best_nothing_is_marked():
    assert all("best" not in name for names in panels(plots.training_curves(history(3))).values() for name in names)


def test_one_epoch_shows_as_points():
    figure = plots.training_curves(history(1), best=0)
    assert len(figure.axes) == 3
    for axes in figure.axes:
        assert all(line.get_marker() == "o" for line in axes.lines[:-1])
        assert axes.get_xlim() == (0, 2)


def test_without_validation_and_without_epochs_numbers():
    figure = plots.training_curves([{"train_loss": 2.0}, {"train_loss": 1.0}])
    assert panels(figure) == {"loss": ["train loss"]}
    assert figure.axes[0].lines[0].get_xdata().tolist() == [1, 2]


def test_values_missing_from_some_rows_leave_gaps():
    rows = [{"train_loss": 2.0}, {"train_loss": 1.0, "val_loss": 1.5}, {"train_loss": 1.0, "val_loss": float("inf")}]
    lines = plots.training_curves(rows).axes[0].lines
    assert [line.get_label() for line in lines] == ["train loss", "val loss"]
    assert lines[1].get_ydata()[1] == 1.5
    assert np.isnan(lines[1].get_ydata()[0])


def test_the_axis_of_metrics_is_0_to_1_and_extends_below_only_where_needed():
    (axes,) = plots.training_curves([{"val_voc_map": 0.2}, {"val_voc_map": 0.3}]).axes
    assert axes.get_ylim() == pytest.approx((0, 1), abs=0.05)
    (axes,) = plots.training_curves([{"val_mcc": -0.2}, {"val_mcc": 0.3}]).axes
    assert axes.get_ylim() == pytest.approx((-1, 1), abs=0.05)


def test_counts_and_large_figures_have_their_own_panel():
    figure = plots.training_curves([{"val_tp": 1.0, "val_f1": 0.5, "val_distance": 12.0}])
    assert panels(figure) == {"metrics": ["f1"], "counts and other figures": ["tp", "distance"]}
    assert figure.axes[1].get_ylim()[1] > 12


def test_a_learning_rate_that_changes_is_drawn():
    assert "learning rate" not in panels(plots.training_curves(history(3)))
    rows = [row | {"learning_rate": 0.01 / row["epoch"]} for row in history(3)]
    assert panels(plots.training_curves(rows))["learning rate"] == ["learning rate"]


@pytest.mark.parametrize(("classes", "drawn"), [(3, True), (11, True), (12, False), (80, False)])
def test_metrics_of_single_classes_are_drawn_while_they_are_few(classes, drawn):
    more = {f"val_voc_map/class {i}": 0.5 for i in range(classes)}
    groups = panels(plots.training_curves(history(2, **more)))
    title = "metrics" if drawn else f"metrics ({classes} of single classes left out)"
    assert len(groups[title]) == (1 + classes if drawn else 1)


def test_metric_curves_differ_in_colour_or_dashes():
    axes = plots.training_curves([{f"val_metric{i}": 0.5 for i in range(12)}]).axes[0]
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 12


@pytest.mark.parametrize("epochs", [1, 50])
def test_no_text_of_the_curves_is_cut_off_or_overlaps_a_panel(epochs):
    names = {f"val_voc_map/{name}": 0.5 for name in ("hepatocellular carcinoma", "cyst", "$a$b$", "haemangioma")}
    figure = plots.training_curves(history(epochs, **names, val_tp=12.0), best=0)
    assert_nothing_is_cut_off(figure)
    for axes in figure.axes:
        legend = axes.get_legend().get_window_extent()
        assert not any(legend.overlaps(other.get_window_extent()) for other in figure.axes)


@pytest.mark.parametrize(
    ("rows", "best", "message"),
    [
        ([], None, "0 rows"),
        ([{"epoch": 1, "learning_rate": 0.1}], None, "1 rows"),
        ([{"train_loss": float("nan")}], None, "without any"),
        ([{"train_loss": 1.0}], 1, "index of one of 1 rows, got 1"),
        ([{"train_loss": 1.0}], -1, "got -1"),
    ],
)
def test_curves_refuse_what_cannot_be_drawn(rows, best, message):
    with pytest.raises(ValueError, match=message):
        plots.training_curves(rows, best=best)


# --- confusion matrix


def test_two_classes_name_the_cells():
    axes = plots.confusion_matrix([[179, 3], [11, 173]], ("normal", "cancer")).axes[0]
    cells = {text.get_position(): text.get_text().splitlines() for text in axes.texts}  # (column, row)
    assert cells == {
        (0, 0): ["TN", "179", f"{100 * 179 / 182:.1f} %"],
        (1, 0): ["FP", "3", f"{100 * 3 / 182:.1f} %"],
        (0, 1): ["FN", "11", f"{100 * 11 / 184:.1f} %"],
        (1, 1): ["TP", "173", f"{100 * 173 / 184:.1f} %"],
    }
    assert [label.get_text() for label in axes.get_xticklabels()] == ["normal", "cancer"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["normal", "cancer\n(positive)"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "truth")
    assert axes.get_title(loc="left") == "n = 366"


def test_the_positive_class_may_be_the_first():
    axes = plots.confusion_matrix([[173, 11], [3, 179]], ("cancer", "normal"), positive="cancer").axes[0]
    assert [text.get_text().split("\n")[:2] for text in axes.texts] == [
        ["TP", "173"],
        ["FN", "11"],
        ["FP", "3"],
        ["TN", "179"],
    ]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_three_classes_have_no_names_for_cells_and_an_empty_row_no_shares(kind):
    matrix = [[8, 1, 1], [0, 0, 0], [0, 3, 1]]
    axes = plots.confusion_matrix(kind(matrix), ("normal", "benign", "hcc")).axes[0]
    shares = [["80.0 %", "10.0 %", "10.0 %"], ["–"] * 3, ["0.0 %", "75.0 %", "25.0 %"]]
    assert texts(axes) == [f"{matrix[i][j]}\n{shares[i][j]}" for i in range(3) for j in range(3)]
    assert axes.images[0].get_array().tolist() == [[0.8, 0.1, 0.1], [0, 0, 0], [0, 0.75, 0.25]]


@pytest.mark.parametrize("k", [1, 20])
def test_any_number_of_classes(k):
    axes = plots.confusion_matrix(np.eye(k, dtype=int), [f"c{i}" for i in range(k)]).axes[0]
    assert len(axes.texts) == k * k


def test_text_reads_well_on_every_shade():
    row = np.arange(0, 101, 4)
    matrix = np.zeros((26, 26), int)
    matrix[:, 0], matrix[:, 1] = row, 100 - row
    axes = plots.confusion_matrix(matrix, [f"c{i}" for i in range(26)]).axes[0]
    pixels = axes.images[0].to_rgba(axes.images[0].get_array())
    ratios = [contrast(text.get_color(), pixels[text.get_position()[::-1]][:3]) for text in axes.texts]
    assert min(ratios) >= 4.5


@pytest.mark.parametrize(
    "classes",
    [
        ("normal", "cancer"),
        ("$x", "y$"),
        ("a rather long name of no lesion at all", "hepatocellular carcinoma in a cirrhotic liver"),
    ],
)
def test_names_are_written_as_they_are_inside_the_figure(classes):
    figure = plots.confusion_matrix([[12345, 3], [11, 173]], classes)
    assert_nothing_is_cut_off(figure)
    labels = [*figure.axes[0].get_xticklabels(), *figure.axes[0].get_yticklabels()]
    assert [label.get_text().splitlines()[0] for label in labels] == [*classes, *classes]
    assert not any(label.get_parse_math() for label in labels)


@pytest.mark.parametrize(
    "matrix", [[[1, 2]], [[1, -1], [0, 0]], [[0.5, 1], [0, 0]], [[1]], [], [[float("nan"), 1], [0, 0]]]
)
def test_an_invalid_matrix_is_refused(matrix):
    with pytest.raises(ValueError, match=r"expected a \(2, 2\) matrix of counts"):
        plots.confusion_matrix(matrix, ("normal", "cancer"))


def test_an_unknown_positive_class_is_refused():
    with pytest.raises(ValueError, match="'tumor' is not among the classes \\(normal, cancer\\)"):
        plots.confusion_matrix(np.eye(2), ("normal", "cancer"), positive="tumor")


# --- detections


def test_a_detection_is_labelled_with_class_score_and_overlap():
    axes = one(black(), found(([10, 20, 50, 60], 0.934, 0)), truth(([20, 20, 60, 60], "hcc")))
    overlap = (30 * 40) / (40 * 40 + 40 * 40 - 30 * 40)
    assert texts(axes) == [f"hcc 0.93 · IoU {overlap:.2f}"]
    assert rectangles(axes) == [("truth", (20, 20, 60, 60)), ("found, IoU ≥ 0.5", (10, 20, 50, 60))]
    assert axes.get_title(loc="left") == "truth: 1 · found: 1"


def test_overlaps_agree_with_torchvision():
    from torchvision.ops import box_iou

    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 9, 4, generator=generator) * 50
    boxes, others = torch.cat((corners[..., :2], corners[..., :2] + 5 + corners[..., 2:]), -1)
    labels, names = torch.arange(9) % 3, ["abc"[i % 3] for i in range(9)]
    detected = Detections(boxes, torch.linspace(0.95, 0.55, 9), labels)
    axes = one(black(), detected, Annotation(others.numpy(), tuple(names)), classes=("a", "b", "c"))
    same = labels[:, None] == torch.arange(9)[None] % 3
    best = torch.where(same, box_iou(boxes, others), 0).max(1).values
    expected = [f"{names[i]} {detected.scores[i]:.2f} · IoU {best[i]:.2f}" for i in range(9)]
    assert sorted(t for t in texts(axes) if "IoU" in t) == sorted(expected)


def test_only_a_truth_of_the_same_class_counts():
    known = truth(([0, 0, 40, 40], "cyst"), ([0, 0, 40, 20], "hcc"))
    axes = one(black(), found(([0, 0, 40, 40], 0.8, 1)), known, classes=("cyst", "hcc"))
    assert sorted(texts(axes)) == ["cyst", "hcc 0.80 · IoU 0.50"]  # the cyst that was not found is labelled
    axes = one(black(), found(([0, 0, 40, 40], 0.8, 0)), truth(([0, 0, 40, 40], "hcc")), classes=("cyst", "hcc"))
    assert sorted(texts(axes)) == ["cyst 0.80 · IoU 0.00", "hcc"]
    assert [kind for kind, _ in rectangles(axes)] == ["truth", "found, IoU < 0.5"]


def test_kinds_of_boxes_have_their_colours_and_are_named_once():
    detected = found(([0, 0, 20, 20], 0.9, 0), ([60, 40, 80, 60], 0.7, 0), ([61, 40, 80, 60], 0.6, 0))
    figure = plots.detections([black()] * 2, [detected] * 2, [truth(([0, 0, 20, 20], "hcc"))] * 2, classes=("hcc",))
    assert legend_of(figure) == ["truth", "found, IoU ≥ 0.5", "found, IoU < 0.5"]
    assert figure.legends[0].get_title().get_text() == "boxes of score 0.5 and above"
    drawn = [colors.to_hex(p.get_edgecolor()) for p in figure.axes[1].patches]
    assert drawn == [plots.TRUTH, plots.HIT, plots.MISS, plots.MISS]
    assert all(contrast("black", colour) >= 4.5 for colour in drawn)  # that of the labels


def test_only_scores_from_the_threshold_on_are_drawn():
    detected = found(([0, 0, 9, 9], 0.75, 0), ([0, 0, 8, 8], 0.5, 0), ([0, 0, 7, 7], 0.4999, 0))
    assert len(rectangles(one(black(), detected, None))) == 2
    axes = one(black(), detected, None, score_threshold=0.0)
    assert len(rectangles(axes)) == 3
    assert axes.get_title(loc="left") == "truth not known · found: 3"


def test_an_image_without_lesions_or_detections_is_ordinary():
    figure = plots.detections([black()], [found()], [truth()], classes=("hcc",))
    assert figure.axes[0].get_title(loc="left") == "no lesion · found: 0"
    assert not figure.axes[0].patches
    assert not figure.axes[0].texts
    assert not figure.legends


def test_a_detection_in_an_image_without_lesions_overlaps_nothing():
    axes = one(black(), found(([0, 0, 9, 9], 0.75, 0)), truth())
    assert texts(axes) == ["hcc 0.75 · IoU 0.00"]


def test_without_truth_no_overlap_is_claimed():
    figure = plots.detections([black()], [found(([0, 0, 9, 9], 0.75, 0))], [None], classes=("hcc",))
    assert texts(figure.axes[0]) == ["hcc 0.75"]
    assert legend_of(figure) == ["found"]


def test_a_lesion_that_was_not_found_is_drawn():
    axes = one(black(), found(), truth(([1, 2, 3, 4], "hcc")))
    assert rectangles(axes) == [("truth", (1, 2, 3, 4))]
    assert axes.get_title(loc="left") == "truth: 1 · found: 0"


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_grey_levels_are_unchanged_and_pixel_0_extends_from_0_to_1(channels):
    image = np.random.default_rng(0).integers(50, 90, (6, 8, channels), np.uint8)
    axes = one(image, found(), None)
    (shown,) = axes.images
    assert shown.get_extent() == [0, 8, 6, 0]
    pixels = shown.to_rgba(shown.get_array(), bytes=True)[..., :3]
    difference = pixels.astype(int) - (image if channels == 3 else image[..., :1])
    assert np.abs(difference).max() <= 1  # matplotlib's grey map rounds down


@pytest.mark.parametrize("sizes", [[(1, 1)], [(80, 100)] * 3, [(400, 60), (60, 400), (1, 1), (100, 100), (300, 484)]])
def test_images_of_any_size_keep_their_shape_in_panels_of_one_size(sizes):
    images = [black(*size) for size in sizes]
    figure = plots.detections(images, [found()] * len(sizes), [None] * len(sizes), classes=("hcc",), columns=2)
    panel_sizes = {tuple(np.round(axes.get_window_extent().size, 3)) for axes in figure.axes}
    assert len(panel_sizes) == 1
    for axes, (height, width) in zip(figure.axes, sizes, strict=True):
        (x0, x1), (y1, y0) = axes.get_xlim(), axes.get_ylim()
        assert x0 <= 0 < width <= x1
        assert y0 <= 0 < height <= y1
        corners = axes.transData.transform([(0, 0), (width, height)])
        across, down = np.abs(corners[1] - corners[0])
        assert down / across == pytest.approx(height / width)


@pytest.mark.parametrize(
    ("n", "columns", "grid"), [(1, 4, (1, 1)), (3, 4, (3, 1)), (4, 4, (4, 1)), (5, 4, (4, 2)), (3, 1, (1, 3))]
)
def test_the_grid_has_at_most_the_given_number_of_columns(n, columns, grid):
    figure = plots.detections([black()] * n, [found()] * n, [None] * n, classes=("hcc",), columns=columns)
    spans = [axes.get_position() for axes in figure.axes]
    assert (len({round(s.x0, 6) for s in spans}), len({round(s.y0, 6) for s in spans})) == grid
    assert not any(a.overlaps(b) for i, a in enumerate(spans) for b in spans[:i])
    assert spans[0].y1 == max(s.y1 for s in spans)


@pytest.mark.parametrize(
    "name", ["hcc", "W" * 60, "hepatocellular carcinoma of the left lobe, arterial phase", "$cost"]
)
@pytest.mark.parametrize("size", [(1, 1), (400, 60), (80, 100)])
def test_labels_stay_inside_the_panel(name, size):
    h, w = size
    boxes = [
        [0, 0, w, h],
        [0, 0, w / 4, h / 4],
        [w * 0.9, h * 0.9, w, h],
        [-w, -h, w / 9, h / 9],
        [w * 0.8, 0, 2 * w, h / 9],
    ]
    detected = found(*((box, 0.9 - i / 10, 0) for i, box in enumerate(boxes)))
    figure = plots.detections(
        [black(*size)], [detected], [truth(([0, 0, w, h], name))], classes=(name,), titles=[name * 3]
    )
    axes = figure.axes[0]
    assert_nothing_is_cut_off(figure)
    panel = axes.get_window_extent()
    frames = [text.get_bbox_patch().get_window_extent() for text in axes.texts]
    assert len(frames) == 5
    for frame in frames:
        assert panel.x0 - 1 <= frame.x0 <= frame.x1 <= panel.x1 + 1
        assert panel.y0 - 1 <= frame.y0 <= frame.y1 <= panel.y1 + 1


def test_labels_of_neighbours_do_not_overlap():
    boxes = [[x, y, x + 60, y + 40] for x in (0, 5, 200) for y in (0, 4, 150)]
    detected = found(*((box, 0.9 - i / 50, 0) for i, box in enumerate(boxes)))
    axes = one(black(300, 300), detected, truth(*((box, "hcc") for box in boxes)))
    axes.figure.draw_without_rendering()
    frames = [text.get_bbox_patch().get_window_extent().padded(-1) for text in axes.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(frames) for b in frames[:i])


def test_titles_are_written_as_they_are_and_long_ones_shortened_in_the_middle():
    names = ["P007 $3$.png", "study-" + "x" * 200 + "-slice12.png"]
    figure = plots.detections([black()] * 2, [found()] * 2, [truth()] * 2, classes=("hcc",), titles=names)
    first, second = (axes.get_title(loc="left").splitlines() for axes in figure.axes)
    assert first == ["P007 $3$.png", "no lesion · found: 0"]
    assert second[0].startswith("study-x")
    assert "…" in second[0]
    assert second[0].endswith("x-slice12.png")
    assert second[1] == "no lesion · found: 0"
    assert_nothing_is_cut_off(figure)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], []), "at least one image, got 0"),
        (([black()], [found()] * 2, [None]), "1 images and {'found': 2"),
        (([black()], [found()], []), "'truths': 0"),
        (([np.zeros((5, 5), np.uint8)], [found()], [None]), r"image 0: expected \(H, W, C\) uint8, got \(5, 5\) uint8"),
        (([np.zeros((5, 5, 3))], [found()], [None]), "float64: use images.from_array"),
        (([np.zeros((0, 5, 3), np.uint8)], [found()], [None]), r"got \(0, 5, 3\)"),
        (([black()], [found(([0, 0, 1, 1], 0.1, 1))], [None]), "the label 1 was found, and there are 1 classes"),
        (([black()], [found(([0, 0, 1, 1], 0.9, -1))], [None]), "the label -1"),
    ],
)
def test_detections_refuse_what_cannot_be_drawn(arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.detections(*arguments, classes=("hcc",))


@pytest.mark.parametrize(("option", "message"), [({"columns": 0}, "1 column, got 0"), ({"titles": []}, "'titles': 0")])
def test_detections_refuse_wrong_options(option, message):
    with pytest.raises(ValueError, match=message):
        plots.detections([black()], [found()], [None], classes=("hcc",), **option)


@pytest.mark.shared_data
def test_a_real_slice_with_its_annotation(shared, tmp_path):
    folder = shared / "data" / "brain_mri_boxes"
    corners = ElementTree.parse(folder / "Annotations" / "Y1.xml").find("object/bndbox")
    x1, y1, x2, y2 = (float(corners.findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax"))
    image = np.array(Image.open(folder / "JPEGImages" / "Y1.jpg").convert("RGB"))
    shifted = [x1 + 9, y1 - 1, x2, y2]
    axes = one(image, found((shifted, 0.8, 0)), truth(([x1 - 1, y1 - 1, x2, y2], "tumor")), classes=("tumor",))
    assert texts(axes) == [f"tumor 0.80 · IoU {(x2 - x1 - 9) / (x2 - x1 + 1):.2f}"]
    with Image.open(plots.save(axes.figure, tmp_path / "real.png")) as picture:
        assert np.asarray(picture.convert("L")).std() > 20


# --- masks


def region(rows: slice, columns: slice, label: int = 1, size: tuple[int, int] = (80, 100)) -> np.ndarray:
    label_map = np.zeros(size, np.int64)
    label_map[rows, columns] = label
    return label_map


def outlines(axes) -> list[tuple[str, tuple[float, ...]]]:
    """Colour and ``x1, y1, x2, y2`` of each contour drawn."""
    return [
        (colors.to_hex(c.get_edgecolor()[0]), tuple(c.get_paths()[0].get_extents().extents)) for c in axes.collections
    ]


def test_masks_are_outlined_where_they_lie():
    figure = plots.masks(
        [black()] * 2,
        [region(np.s_[10:30], np.s_[20:60]), torch.from_numpy(region(np.s_[5:9], np.s_[1:3]))],
        [region(np.s_[12:30], np.s_[20:60], 3), None],
        titles=["$a$.png", "b" * 200],
    )
    first, second = figure.axes
    # background and lesion share one border; contours run half-way between pixel centres
    assert outlines(first) == [(plots.TRUTH, (20, 12, 60, 30))] * 2 + [(plots.HIT, (20, 10, 60, 30))] * 2
    assert outlines(second) == [(plots.HIT, (1, 5, 3, 9))] * 2
    assert first.get_title(loc="left") == "$a$.png"
    assert "…" in second.get_title(loc="left")
    assert legend_of(figure) == ["truth", "predicted"]
    assert_nothing_is_cut_off(figure)


@pytest.mark.parametrize("value", [-1, 0, 2])
def test_a_mask_of_one_value_has_no_outline(value):
    label_map = np.full((80, 100), value)
    assert not plots.masks([black()], [label_map], [label_map]).axes[0].collections


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], []), "at least one image, got 0"),
        (([black()], [], [None]), "1 images and {'predicted': 0"),
        (([np.zeros((5, 5))], [np.zeros((5, 5))], [None]), r"image 0: expected \(H, W, C\) uint8"),
        (([black()], [np.zeros((5, 5))], [None]), r"image 0: expected a label map \(80, 100\), got \(5, 5\)"),
        (([black()], [np.zeros((80, 100))], [np.zeros(3)]), r"got \(3,\)"),
    ],
)
def test_masks_refuse_what_cannot_be_drawn(arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.masks(*arguments)


# --- files, and what every function has in common


def test_a_gallery_shows_each_draw_with_the_boxes_it_kept():
    def second_without(images, targets, generator):
        shown = images.clone()
        shown[1] = torch.rand((), generator=generator)
        labels = targets.labels.clone()
        labels[1, 0] = -1
        return shown, Targets(targets.boxes + 1, labels)

    image = np.full((20, 30, 1), 100, np.uint8)
    boxes = np.array([[2, 3, 10, 12], [5, 5, 9, 9]], np.float32)
    figure = plots.gallery(image, boxes, second_without, count=3, columns=2)
    assert [len(axes.patches) for axes in figure.axes] == [2, 1, 2]
    assert figure.axes[0].patches[0].get_bbox().extents.tolist() == [3, 4, 11, 13]
    assert figure.axes[0].images[0].get_array().tolist() == image[..., 0].tolist()
    assert figure.axes[1].images[0].get_array().max() != 100
    with pytest.raises(ValueError, match=r"\(H, W, C\) uint8, got \(20, 30, 1\) float64"):
        plots.gallery(image / 255, boxes, second_without)
    with pytest.raises(ValueError, match="at least 1, got 0 and 6"):
        plots.gallery(image, boxes, second_without, count=0)


def test_saved_figures_have_their_title_as_only_metadata(tmp_path):
    path = plots.save(plots.confusion_matrix(np.eye(2), ("a", "b")), tmp_path / "new" / "matrix.PNG")
    assert path == tmp_path / "new" / "matrix.PNG"
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert round(picture.info.pop("dpi")[0]) == 150
        assert picture.info == {"Title": "Confusion matrix"}
    assert os.listdir(path.parent) == ["matrix.PNG"]


def test_a_figure_made_by_the_user_is_saved_without_title(tmp_path):
    path = plots.save(figure_module.Figure(figsize=(2, 1)), str(tmp_path / "own.png"))
    with Image.open(path) as picture:
        assert picture.size == (300, 150)
        assert set(picture.info) == {"dpi"}


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    files = [plots.save(plots.training_curves(history(2)), tmp_path / f"{i}.png") for i in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_an_existing_file_is_unchanged_when_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    path.write_bytes(b"older")
    figure = figure_module.Figure()

    def fail(target, **options):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.save(figure, path)
    assert path.read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["curves.png"]


@pytest.mark.parametrize("name", ["curves.pdf", "curves"])
def test_other_formats_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"ends in \.png"):
        plots.save(figure_module.Figure(), tmp_path / name)
    assert not os.listdir(tmp_path)


DRAW = {
    "training_curves": lambda: plots.training_curves(history(2), best=1),
    "confusion_matrix": lambda: plots.confusion_matrix(np.eye(2), ("a", "b")),
    "detections": lambda: plots.detections([black()], [found()], [truth()], classes=("hcc",)),
    "masks": lambda: plots.masks([black()], [region(np.s_[1:9], np.s_[1:9])], [None]),
}


@pytest.mark.parametrize("name", DRAW)
def test_without_matplotlib_the_error_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "hccvision\[plots\]"'):
        DRAW[name]()


@pytest.mark.parametrize("name", DRAW)
def test_arguments_and_global_settings_are_left_alone(name):
    import matplotlib

    before = dict(matplotlib.rcParams)
    image, detected, known = black(), found(([1, 1, 9, 9], 0.9, 0)), truth(([0, 0, 9, 9], "hcc"))
    copies = image.copy(), detected.boxes.clone(), known.boxes.copy()
    plots.detections([image], [detected], [known], classes=("hcc",))
    DRAW[name]()
    assert dict(matplotlib.rcParams) == before
    assert (image == copies[0]).all()
    assert torch.equal(detected.boxes, copies[1])
    assert (known.boxes == copies[2]).all()


def test_no_pyplot_and_no_matplotlib_before_it_is_needed():
    code = (
        "import sys; from hccvision import plots; assert 'matplotlib' not in sys.modules\n"
        "plots.training_curves([{'train_loss': 1.0}]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
