import contextlib
import copy
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hccvision.metrics.comparison import Comparison
from hccvision.metrics.detection import (
    average_precision,
    coco_map,
    coco_summary,
    detection_counts,
    froc,
    match,
    sensitivity_by_size,
    voc_ap,
)
from hccvision.metrics.figure import Figure
from hccvision.metrics.metric import find_metrics
from hccvision.registry import METRICS

CLASSES = ("tumor", "cyst", "vessel")
NAMES = ("voc_map", "voc07_map", "coco_map", "froc", "detection_counts")


def compute(name, predictions, truths, *, classes):
    """The figures of a registered metric."""
    return find_metrics([name])[0](Comparison(predictions, truths, classes=classes))


def undefined(figures):
    """The reasons of the undefined figures."""
    return {name: figure.reason for name, figure in figures.items() if math.isnan(figure)}


def predicted(boxes=(), scores=(), labels=None):
    return {"boxes": boxes, "scores": scores, "labels": [0] * len(boxes) if labels is None else labels}


def truth(boxes=(), labels=None, **more):
    return {"boxes": boxes, "labels": [0] * len(boxes) if labels is None else labels, **more}


def random_case(seed, images=6, k=3, most=12):
    """Truths on a coarse grid, predictions near them: ties in score and in IoU, duplicates, empty images."""
    rng = np.random.default_rng(seed)
    grid = [1.0, 5.0, 0.01][seed % 3]  # coarse and fine coordinates
    used = rng.permutation(k)[: rng.integers(1, k + 1)]  # classes that have truths
    predictions, truths = [], []
    for _ in range(images):
        m = int(rng.integers(0, 6))
        corner, size = rng.uniform(0, 80, (m, 2)), rng.uniform(5, 40, (m, 2))
        real = np.round(np.concatenate([corner, corner + size], 1) / grid) * grid
        labels = rng.choice(used, m)
        n = int(rng.integers(0, most))
        near = real[rng.integers(0, m, n)] if m else np.tile([10.0, 10, 30, 30], (n, 1))
        near = near + np.round(rng.normal(0, 4, (n, 4)) / grid) * grid * (rng.random((n, 1)) < 0.8)
        near[:, 2:] = np.maximum(near[:, :2], near[:, 2:])
        scores = rng.integers(0, 12, n) / 12 if seed % 2 else rng.random(n)
        guesses = labels[rng.integers(0, m, n)] if m and rng.random() < 0.7 else rng.integers(0, k, n)
        predictions.append({"boxes": near, "scores": scores, "labels": guesses})
        truths.append({"boxes": real, "labels": labels, "difficult": rng.random(m) < 0.25})
    return predictions, truths


# average precision of flags


@pytest.mark.parametrize(
    ("flags", "num_truths", "eleven", "area", "coco"),
    [
        ([1, 0, 1, 0, 1], 3, 0.763636, 0.755556, 0.756436),
        ([1, 1, 0, 1, 0, 0], 5, 0.522727, 0.550000, 0.554455),
        ([0, 1], 1, 0.5, 0.5, 0.5),
        ([1], 2, 0.545455, 0.5, 0.504950),
        ([], 3, 0.0, 0.0, 0.0),
    ],
)
def test_average_precision_of_known_flags(flags, num_truths, eleven, area, coco):
    for method, expected in (("11point", eleven), ("area", area), ("coco", coco)):
        assert round(average_precision(flags, num_truths, method=method), 6) == expected


@pytest.mark.parametrize("method", ["area", "11point", "coco"])
def test_average_precision_at_the_ends(method):
    assert average_precision([1, 1, 1], 3, method=method) == 1.0
    assert average_precision([0, 0], 3, method=method) == 0.0
    assert math.isnan(average_precision([0], 0, method=method))
    assert average_precision([0], 0, method=method).reason == "no image has a lesion to find"
    assert average_precision(torch.tensor([True, False]), 1, method=method) == 1.0


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 10))
def test_eleven_points_are_voc_evals(flags, missed):
    total = max(1, sum(flags) + missed)
    recall = np.cumsum(flags) / total
    precision = np.cumsum(flags) / np.arange(1, len(flags) + 1)
    expected = 0.0  # py-faster-rcnn's voc_eval.py
    for t in np.arange(0.0, 1.1, 0.1):
        expected += (np.max(precision[recall >= t]) if (recall >= t).any() else 0) / 11.0
    assert average_precision(flags, total, method="11point") == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 10))
def test_the_area_is_voc_evals(flags, missed):
    total = max(1, sum(flags) + missed)
    recall = np.concatenate([[0.0], np.cumsum(flags) / total, [1.0]])
    precision = np.concatenate([[0.0], np.cumsum(flags) / np.arange(1, len(flags) + 1), [0.0]])
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    steps = np.where(recall[1:] != recall[:-1])[0]
    expected = np.sum((recall[steps + 1] - recall[steps]) * precision[steps + 1])
    assert average_precision(flags, total) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 10), st.sampled_from(["area", "11point", "coco"]))
def test_average_precision_is_a_share_and_order_matters(flags, missed, method):
    total = sum(flags) + missed
    value = average_precision(flags, total, method=method)
    assert 0 <= value <= 1
    assert average_precision(sorted(flags, reverse=True), total, method=method) >= value - 1e-12
    assert average_precision([*flags, False], total, method=method) == value
    assert average_precision([*flags, True], total, method=method) >= value - 1e-12


def test_average_precision_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="2 hits of 1 truths"):
        average_precision([1, 1], 1)
    with pytest.raises(ValueError, match="'area', '11point' or 'coco'"):
        average_precision([1], 1, method="12point")


# VOC, against the development kit's loop


def voc_reference(predictions, truths, label, threshold, extra):
    """VOCevaldet.m, line by line: flags in score order and the number of truths."""
    taken = [np.zeros(len(t["labels"]), bool) for t in truths]
    rows = [
        (-score, image, row)
        for image, p in enumerate(predictions)
        for row, score in enumerate(p["scores"])
        if p["labels"][row] == label
    ]
    flags = []
    for _, image, row in sorted(rows):
        bb, best, found = predictions[image]["boxes"][row], -math.inf, None
        for j, gt in enumerate(truths[image]["boxes"]):
            if truths[image]["labels"][j] != label:
                continue
            iw = min(bb[2], gt[2]) - max(bb[0], gt[0]) + extra
            ih = min(bb[3], gt[3]) - max(bb[1], gt[1]) + extra
            if iw > 0 and ih > 0:
                union = (bb[2] - bb[0] + extra) * (bb[3] - bb[1] + extra)
                union += (gt[2] - gt[0] + extra) * (gt[3] - gt[1] + extra) - iw * ih
                if iw * ih / union > best:
                    best, found = iw * ih / union, j
        if best >= threshold:
            if truths[image]["difficult"][found]:
                continue
            flags.append(not taken[image][found])
            taken[image][found] = True
        else:
            flags.append(False)
    return flags, sum(int(((t["labels"] == label) & ~t["difficult"]).sum()) for t in truths)


@pytest.mark.parametrize("seed", range(40))
def test_voc_equals_the_development_kit(seed):
    predictions, truths = random_case(seed)
    for extra in (False, True):
        for threshold in (0.3, 0.5):
            matches = match(
                predictions, truths, classes=CLASSES, iou_thresholds=(0.9, threshold), rule="voc", extra_pixel=extra
            )
            for label in range(3):
                flags, total = voc_reference(predictions, truths, label, threshold, int(extra))
                assert matches.flags(label, 1).tolist() == flags
                assert matches.num_truths[label] == total


def test_the_extra_pixel_decides_at_the_edge():
    predictions, truths = [predicted([[0, 0, 9, 4]], [0.9])], [truth([[0, 0, 9, 9]])]  # IoU 0.444, or 0.5
    assert voc_ap(predictions, truths, num_classes=1)["map"] == 0.0
    assert voc_ap(predictions, truths, num_classes=1, extra_pixel=True)["map"] == 1.0
    matches = match(predictions, truths, iou_thresholds=(4 / 9, 0.4445))
    assert matches.hits.tolist() == [[True], [False]]


def test_an_iou_of_just_the_threshold_matches():
    predictions, truths = [predicted([[0, 0, 10, 5]], [0.9])], [truth([[0, 0, 10, 10]])]
    assert voc_ap(predictions, truths, num_classes=1)["map"] == 1.0


def test_difficult_truths_are_neither_hit_nor_miss():
    predictions = [predicted([[0, 0, 10, 10], [20, 20, 30, 30]], [0.9, 0.8])]
    truths = [truth([[0, 0, 10, 10], [20, 20, 30, 30]], difficult=[True, False])]
    assert voc_ap(predictions, truths, num_classes=1) == {"map": 1.0, "ap/0": 1.0}
    counts = detection_counts(predictions, truths, num_classes=1)
    assert (counts["tp"], counts["fp"], counts["fn"]) == (1, 0, 0)
    only_difficult = [truth([[0, 0, 10, 10], [20, 20, 30, 30]], difficult=[True, True])]
    assert undefined(voc_ap(predictions, only_difficult, num_classes=1)) == {"map": "no image has a lesion to find"}


def test_a_second_detection_of_a_lesion_is_a_miss():
    predictions, truths = [predicted([[0, 0, 10, 10], [0, 0, 10, 10]], [0.5, 0.9])], [truth([[0, 0, 10, 10]])]
    assert match(predictions, truths).hits.tolist() == [[True, False]]


def test_the_rules_differ_where_the_best_truth_is_taken():
    predictions = [predicted([[0, 0, 10, 10], [0, 0, 10, 11]], [0.9, 0.8])]
    truths = [truth([[0, 0, 10, 10], [0, 2, 10, 12]])]
    assert match(predictions, truths, rule="voc").hits.tolist() == [[True, False]]
    assert match(predictions, truths, rule="coco").hits.tolist() == [[True, True]]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_equal_overlaps_go_to_the_earlier_truth_in_voc_and_the_later_in_coco(order):
    low, high = [0, 2, 10, 10], [0, 0, 10, 8]  # both of IoU 0.8 with the first detection
    predictions = [predicted([[0, 0, 10, 10], low], [0.9, 0.8])]
    truths = [truth([(low, high)[i] for i in order])]
    second_hits = order == (1, 0)  # its own truth is free if the first took the other
    assert match(predictions, truths).hits.tolist() == [[True, second_hits]]
    matches = match(predictions, truths, rule="coco", iou_thresholds=(0.75,))
    assert matches.hits.tolist() == [[True, not second_hits]]
    assert coco_map(predictions, truths)["map"] == pytest.approx(pycocotools_map(predictions, truths, 1)["map"])


def test_a_class_without_truths_is_left_out_of_the_mean():
    predictions = [predicted([[0, 0, 10, 10], [0, 0, 10, 10]], [0.9, 0.9], labels=[0, 2])]
    truths = [truth([[0, 0, 10, 10]])]
    assert voc_ap(predictions, truths, classes=CLASSES) == {"map": 1.0, "ap/tumor": 1.0}
    found = compute("voc07_map", predictions, truths, classes=CLASSES)
    assert found == {"voc07_map": 1.0, "voc07_map/tumor": 1.0}


# COCO, against pycocotools


def pycocotools(predictions, truths, k, most=100):
    """Return the evaluation of COCO's own program."""

    def boxed(image, row, label, key):
        x1, y1, x2, y2 = map(float, row)
        box = [x1, y1, x2 - x1, y2 - y1]
        return {"image_id": image, "category_id": int(label), "bbox": box, "area": box[2] * box[3], "iscrowd": 0, **key}

    def crowd(image, row):
        return {"iscrowd": int(image.get("crowd", np.zeros(row + 1))[row])}

    def dataset(images, scored):
        rows = [
            (i, box, label, {"score": float(image["scores"][j])} if scored else crowd(image, j))
            for i, image in enumerate(images)
            for j, (box, label) in enumerate(zip(image["boxes"], image["labels"], strict=True))
        ]
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(len(images))],
            "categories": [{"id": c} for c in range(k)],
            "annotations": [boxed(*row) | {"id": number} for number, row in enumerate(rows, 1)],
        }
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(dataset(truths, False), dataset(predictions, True), "bbox")
        evaluation.params.maxDets = [1, 10, most]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def pycocotools_summary(predictions, truths, k):
    evaluation = pycocotools(predictions, truths, k)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    return evaluation.stats.tolist()


def pycocotools_map(predictions, truths, k, most=100):
    evaluation = pycocotools(predictions, truths, k, most)
    precision = evaluation.eval["precision"][:, :, :, 0, 2]  # (T, R, K), all areas, most detections

    def mean(values):
        return float(values[values > -1].mean()) if (values > -1).any() else -1.0

    return {
        "map": mean(precision),
        "map_50": mean(precision[0]),
        "map_75": mean(precision[5]),
        "map_per_class": [mean(precision[:, :, c]) for c in range(k)],
    }


@pytest.mark.parametrize("seed", range(60))
def test_coco_equals_pycocotools(seed):
    crowded = seed % 10 == 0
    predictions, truths = random_case(seed, images=2 + seed % 7, k=4, most=400 if crowded else 15)
    expected = pycocotools_map(predictions, truths, 4)
    found = coco_map(predictions, truths, num_classes=4)
    assert list(found) == list(expected)
    assert found.pop("map_per_class") == pytest.approx(expected.pop("map_per_class"), abs=1e-9)
    assert found == pytest.approx(expected, abs=1e-9)


def crowded_case(seed):
    """As `random_case`, with crowds, boxes clipped to an image of 100 × 100, empty boxes and empty images."""
    rng = np.random.default_rng(1000 + seed)
    predictions, truths = random_case(seed, images=2 + seed % 7, k=4, most=120 if seed % 25 == 0 else 15)
    for prediction, real in zip(predictions, truths, strict=True):
        n = int(rng.integers(0, 3))
        corner = rng.integers(0, 60, (n, 2)).astype(float)
        regions = np.concatenate([corner, corner + rng.integers(0, 60, (n, 2))], 1)
        order = rng.permutation(len(real["labels"]) + n)
        real["boxes"] = np.clip(np.concatenate([real["boxes"], regions])[order], 0, 100)
        real["labels"] = np.concatenate([real["labels"], rng.integers(0, 4, n)])[order]
        real["difficult"] = rng.random(len(order)) < 0.25
        real["crowd"] = np.concatenate([rng.random(len(order) - n) < 0.2, np.ones(n, bool)])[order]
        prediction["boxes"] = np.clip(prediction["boxes"], 0, 100)
        if rng.random() < 0.1:
            prediction.update({key: values[:0] for key, values in prediction.items()})
    return predictions, truths


@pytest.mark.parametrize("seed", range(60))
def test_coco_with_crowds_equals_pycocotools(seed):
    predictions, truths = crowded_case(seed)
    expected = pycocotools_map(predictions, truths, 4)
    found = coco_map(predictions, truths, num_classes=4)
    assert found.pop("map_per_class") == pytest.approx(expected.pop("map_per_class"), abs=1e-9)
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(60))
def test_the_twelve_figures_of_coco_equal_pycocotools(seed):
    predictions, truths = crowded_case(seed)
    for image in (*predictions, *truths):  # small, medium and large ones, some of just a limit's area
        image["boxes"] = np.asarray(image["boxes"]) * (1, 1.6, 3.2)[seed % 3]
    if seed % 4 == 0:
        for image in truths[: len(truths) // 2]:
            image["boxes"][:, 2:] = image["boxes"][:, :2] + (32 if seed % 8 else 96)
    found = coco_summary(predictions, truths, num_classes=4)
    expected = pycocotools_summary(predictions, truths, 4)
    assert len(found) == 12
    assert [-1.0 if math.isnan(x) else x for x in found.values()] == pytest.approx(expected, abs=1e-9)
    flat = coco_map(predictions, truths, num_classes=4)
    for name in ("map", "map_50", "map_75"):
        assert flat[name] == pytest.approx(found[name].value if found[name].defined else -1.0)


@pytest.mark.parametrize("rule", ["voc", "coco"])
def test_a_crowd_ignores_any_number_of_detections_by_their_own_area(rule):
    predictions = [predicted([[0, 0, 10, 10], [20, 20, 30, 30], [95, 0, 105, 10], [94, 0, 105, 10]], [0.9] * 4)]
    crowd = truth([[0, 0, 100, 100], [20, 20, 30, 30]], crowd=[True, False])
    matches = match(predictions, [crowd], rule=rule)
    assert matches.ignored.tolist() == [[True, False, True, True]]
    assert matches.hits.tolist() == [[False, True, False, False]]
    assert matches.num_truths.tolist() == [1]
    other_class = truth([[0, 0, 100, 100]], [1], crowd=[True])
    assert not match(predictions, [other_class], rule=rule).ignored.any()
    counts = detection_counts(predictions, [crowd])
    assert (counts["tp"], counts["fp"], counts["fn"]) == (1, 0, 0)


def test_only_the_best_hundred_of_an_image_and_class_count():
    noise = [[200 + i, 200, 210 + i, 210] for i in range(100)]
    predictions = [predicted([*noise, [0, 0, 10, 10]], [0.9] * 100 + [0.1])]
    truths = [truth([[0, 0, 10, 10]])]
    assert coco_map(predictions, truths, num_classes=1)["map"] == 0.0
    assert coco_map(predictions, truths, num_classes=1, max_detections=101)["map"] == pytest.approx(1 / 101)
    for most in (1, 100, 101):
        expected = pycocotools_map(predictions, truths, 1, most)["map"]
        assert coco_map(predictions, truths, num_classes=1, max_detections=most)["map"] == pytest.approx(expected)


def test_coco_without_any_truth_is_minus_one_and_the_metric_undefined():
    predictions, truths = [predicted([[0, 0, 1, 1]], [0.5])], [truth()]
    minus = {"map": -1.0, "map_50": -1.0, "map_75": -1.0, "map_per_class": [-1.0, -1.0]}
    assert coco_map(predictions, truths, num_classes=2) == minus == pycocotools_map(predictions, truths, 2)
    found = compute("coco_map", predictions, truths, classes=("a", "b"))
    assert undefined(found) == dict.fromkeys(("map", "map_50", "map_75"), "no image has a lesion to find")
    assert len(found) == 3


def test_coco_takes_difficult_truths_as_ordinary():
    predictions, truths = [predicted([[0, 0, 9, 9]], [0.5])], [truth([[0, 0, 9, 9]], difficult=[True])]
    assert coco_map(predictions, truths, num_classes=1)["map"] == 1.0


def test_the_flat_metric_names_the_classes():
    predictions, truths = random_case(3)
    nested = coco_map(predictions, truths, classes=CLASSES)
    flat = compute("coco_map", predictions, truths, classes=CLASSES)
    per_class = {f"map/{c}": v for c, v in zip(CLASSES, nested.pop("map_per_class"), strict=True) if v >= 0}
    assert flat == nested | per_class


# FROC and counts


@pytest.mark.parametrize("seed", range(20))
def test_froc_equals_a_search_of_all_thresholds(seed):
    predictions, truths = random_case(seed, images=9)
    points = [(0.0, 0.0)]
    for threshold in {float(s) for p in predictions for s in p["scores"]}:
        counts = detection_counts(predictions, truths, classes=CLASSES, score_threshold=threshold)
        points.append((counts["fp"] / 9, counts["sensitivity"]))
    found = froc(predictions, truths, classes=CLASSES)
    values = [max(s for f, s in points if f <= rate) for rate in (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)]
    keys = ["froc/0.125", "froc/0.25", "froc/0.5", "froc/1", "froc/2", "froc/4", "froc/8"]
    assert found == pytest.approx({"froc": np.mean(values), **dict(zip(keys, values, strict=True))})


def test_images_without_lesions_lower_the_rate():
    lesion, false = truth([[0, 0, 10, 10]]), predicted([[50, 50, 60, 60], [0, 0, 10, 10]], [0.9, 0.8])
    assert froc([false], [lesion], num_classes=1, rates=(0.5,))["froc"] == 0.0
    assert froc([false, predicted()], [lesion, truth()], num_classes=1, rates=(0.5,))["froc"] == 1.0


def test_equal_scores_pass_together():
    predictions = [predicted([[0, 0, 10, 10], [50, 50, 60, 60]], [0.9, 0.9])]
    assert froc(predictions, [truth([[0, 0, 10, 10]])], num_classes=1, rates=(0.5, 1))["froc/0.5"] == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_counts_equal_the_development_kits(seed):
    predictions, truths = random_case(seed)
    tp = fp = total = 0
    for label in range(3):
        kept = [{key: v[p["scores"] >= 0.5] for key, v in p.items()} for p in predictions]
        flags, count = voc_reference(kept, truths, label, 0.5, 0)
        tp, fp, total = tp + sum(flags), fp + len(flags) - sum(flags), total + count
    found = detection_counts(predictions, truths, classes=CLASSES)
    assert (found["tp"], found["fp"], found["fn"]) == (tp, fp, total - tp)
    if tp:
        assert found["sensitivity"] == tp / total
        assert found["precision"] == tp / (tp + fp)
        assert found["f1"] == pytest.approx(2 / (total / tp + (tp + fp) / tp))


def test_a_score_of_just_the_threshold_counts():
    predictions, truths = [predicted([[0, 0, 10, 10]], [0.5])], [truth([[0, 0, 10, 10]])]
    assert detection_counts(predictions, truths, num_classes=1)["tp"] == 1
    assert detection_counts(predictions, truths, num_classes=1, score_threshold=0.51)["fn"] == 1


# every metric

LOST = "no image has a lesion to find"
NONE = "nothing was detected with a score of at least 0.5"
RATES = ("froc", "froc/0.125", "froc/0.25", "froc/0.5", "froc/1", "froc/2", "froc/4", "froc/8")
EMPTY = {
    "voc_map": {"voc_map": LOST},
    "voc07_map": {"voc07_map": LOST},
    "coco_map": {"map": LOST, "map_50": LOST, "map_75": LOST},
    "coco_summary": {
        **dict.fromkeys(("map", "map_50", "map_75", "ar_1", "ar_10", "ar_100"), LOST),
        **{
            f"{name}_{size}": f"{LOST} that is {size}"
            for name in ("map", "ar")
            for size in ("small", "medium", "large")
        },
    },
    "froc": dict.fromkeys(RATES, LOST),
    "detection_counts": {"sensitivity": LOST, "precision": NONE, "f1": f"{LOST}, and {NONE}"},
}


@pytest.mark.parametrize("name", NAMES)
def test_figures_of_no_lesion_are_undefined_and_say_why(name):
    found = compute(name, [predicted()], [truth()], classes=CLASSES)
    assert undefined(found) == EMPTY[name]
    assert {key: value for key, value in found.items() if key not in EMPTY[name]} == (
        dict.fromkeys(("tp", "fp", "fn"), 0.0) if name == "detection_counts" else {}
    )
    missed = compute(name, [predicted()], [truth([[0, 0, 1, 1]])], classes=CLASSES)
    assert {v for key, v in missed.items() if key not in ("fn", "precision")} == {0.0}
    assert undefined(missed) == ({"precision": NONE} if name == "detection_counts" else {})


@pytest.mark.parametrize("name", NAMES)
def test_perfect_predictions_are_perfect(name):
    _, truths = random_case(4, images=12)
    truths = [{**t, "difficult": np.zeros(len(t["labels"]), bool)} for t in truths]
    predictions = [{**t, "scores": np.full(len(t["labels"]), 0.9)} for t in truths]
    found = compute(name, predictions, truths, classes=CLASSES)
    if name == "detection_counts":
        assert found.pop("tp") == sum(len(t["labels"]) for t in truths)
        assert found.pop("fp") == found.pop("fn") == 0
    assert set(found.values()) == {1.0}


@pytest.mark.parametrize("name", NAMES)
def test_tensors_and_arrays_give_the_same_plain_floats_and_stay_as_they_were(name):
    arrays = random_case(5)
    before = copy.deepcopy(arrays)
    tensors = [[{key: torch.as_tensor(v) for key, v in image.items()} for image in images] for images in arrays]
    found = compute(name, *arrays, classes=CLASSES)
    assert found == compute(name, *tensors, classes=CLASSES)
    assert all(type(value) is Figure and math.isfinite(value) for value in found.values())
    for images, old in zip(arrays, before, strict=True):
        for image, was in zip(images, old, strict=True):
            assert all((image[key] == was[key]).all() for key in was)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from(NAMES), st.randoms(use_true_random=False))
def test_the_order_of_images_and_the_scale_of_boxes_do_not_matter(seed, name, random):
    predictions, truths = random_case(2 * seed)  # an even seed: no ties in score
    order = list(range(len(truths)))
    random.shuffle(order)
    moved = [[{**image, "boxes": image["boxes"] * 4} for image in (images[i] for i in order)]
             for images in (predictions, truths)]  # fmt: skip
    expected = compute(name, predictions, truths, classes=CLASSES)
    assert compute(name, *moved, classes=CLASSES) == pytest.approx(expected, abs=1e-12)


def test_classes_may_be_named_counted_or_left_out():
    predictions, truths = [predicted([[0, 0, 9, 9]], [0.5], [1])], [truth([[0, 0, 9, 9]], [1])]
    assert voc_ap(predictions, truths) == voc_ap(predictions, truths, num_classes=3) == {"map": 1.0, "ap/1": 1.0}
    assert coco_map(predictions, truths)["map_per_class"] == [-1.0, 1.0]
    assert coco_map(predictions, truths, num_classes=3)["map_per_class"] == [-1.0, 1.0, -1.0]
    assert voc_ap(predictions, truths, classes=("a", "b"), num_classes=2) == {"map": 1.0, "ap/b": 1.0}
    with pytest.raises(ValueError, match="expected 3 classes"):
        voc_ap(predictions, truths, classes=("a", "b"), num_classes=3)
    with pytest.raises(ValueError, match="different names"):
        voc_ap(predictions, truths, classes=("a", "a"))


# bad input

BOX = [0, 0, 10, 10]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("second_prediction", "second_truth", "message"),
    [
        (predicted([[0, 0, math.nan, 1]], [0.5]), truth(), r"predictions\[1\]: boxes are not finite"),
        (predicted([BOX], [math.nan]), truth(), r"predictions\[1\]: scores are not finite: got nan"),
        (predicted([BOX], [0.5], [3]), truth(), r"predictions\[1\]: got the label 3, expected 0 to 2"),
        (predicted([BOX], [0.5], [-1]), truth(), r"predictions\[1\]: labels are not whole numbers from 0: got -1"),
        (predicted([BOX], [0.5], [0.5]), truth(), r"predictions\[1\]: labels are not whole"),
        (predicted([BOX], [0.5], [math.nan]), truth(), r"predictions\[1\]: labels are not whole"),
        (predicted([[30, 30, 10, 10]], [0.5]), truth(), r"predictions\[1\]: boxes have x2 < x1.*not xywh"),
        (predicted([BOX], [0.5, 0.6]), truth(), r"predictions\[1\]: expected scores of shape \(1,\), got \(2,\)"),
        (predicted([BOX], []), truth(), r"predictions\[1\]: expected scores of shape \(1,\), got \(0,\)"),
        (predicted(BOX, [0.5]), truth(), r"predictions\[1\]: expected boxes of shape \(4, 4\), got \(4,\)"),
        (predicted([["a", "b", "c", "d"]], [0.5]), truth(), r"predictions\[1\]: expected boxes as numbers"),
        ({"boxes": [BOX], "labels": [0]}, truth(), r"predictions\[1\] lacks 'scores'"),
        (predicted(None, [], []), truth(), r"predictions\[1\] lacks 'boxes'"),
        (predicted([BOX], [0.5], [math.inf]), truth(), r"predictions\[1\]: labels are not whole"),
        (predicted(), truth([BOX], [3]), r"truths\[1\]: got the label 3.*no background"),
        (predicted(), truth([[0, 0, math.inf, 1]]), r"truths\[1\]: boxes are not finite"),
        (predicted(), truth([BOX], difficult=[False, True]), r"truths\[1\]: expected difficult of shape \(1,\)"),
        (predicted(), {"boxes": [BOX]}, r"truths\[1\] lacks 'labels'"),
    ],
)
def test_bad_images_are_refused_by_their_index(name, second_prediction, second_truth, message):
    good = predicted([BOX], [0.5]), truth([BOX])
    with pytest.raises(ValueError, match=message):
        compute(name, [good[0], second_prediction], [good[1], second_truth], classes=CLASSES)


@pytest.mark.parametrize("name", NAMES)
def test_no_images_and_unequal_numbers_are_refused(name):
    with pytest.raises(ValueError, match="no images"):
        compute(name, [], [], classes=CLASSES)
    with pytest.raises(ValueError, match="got 1 predictions and 2 truths"):
        compute(name, [predicted()], [truth()] * 2, classes=CLASSES)
    with pytest.raises(TypeError, match=r"predictions\[0\]: expected a dictionary.*as_dict.*got list"):
        compute(name, [[BOX]], [truth()], classes=CLASSES)


def test_bad_options_are_refused():
    images = [predicted()], [truth()]
    for threshold in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="IoU thresholds above 0"):
            voc_ap(*images, num_classes=1, iou_threshold=threshold)
    with pytest.raises(ValueError, match="'area', '11point' or 'coco'"):
        voc_ap(*images, num_classes=1, method="mean")
    with pytest.raises(ValueError, match="rule 'voc' or 'coco'"):
        match(*images, rule="kitti")
    with pytest.raises(ValueError, match="max_detections of at least 1"):
        coco_map(*images, num_classes=1, max_detections=0)
    with pytest.raises(ValueError, match="false positives per image"):
        froc(*images, num_classes=1, rates=())
    with pytest.raises(ValueError, match="false positives per image"):
        froc(*images, num_classes=1, rates=(-1,))
    with pytest.raises(ValueError, match="num_classes of at least 1"):
        froc(*images, num_classes=0)
    with pytest.raises(ValueError, match="score threshold"):
        detection_counts(*images, num_classes=1, score_threshold=math.nan)


def test_the_promised_names_are_registered():
    assert set(NAMES) <= set(METRICS.names(task="detection"))


# sensitivity by size


def scene(*sides, found=(), size=(100, 100), **more):
    """Squares in a row on an image of 100 pixels; ``found`` are the sides that were found, with their scores."""
    lefts = np.cumsum([0, *sides])[:-1]
    boxes = [[x, 0, x + s, s] for x, s in zip(lefts, sides, strict=True)]
    hits = [(boxes[sides.index(s)], score) for s, score in found]
    return (
        {"boxes": [b for b, _ in hits], "scores": [s for _, s in hits], "labels": [0] * len(hits)},
        {"boxes": boxes, "labels": [0] * len(boxes), "size": size, **more},
    )


def test_sensitivity_by_size_counts_each_range_by_itself():
    one = scene(5, 8, 12, 30, found=[(8, 0.9), (30, 0.4)])
    two = scene(5, 20, found=[(5, 0.7), (20, 0.2)])
    predictions, truths = zip(one, two, strict=True)
    assert sensitivity_by_size(predictions, truths) == {
        "sensitivity/0-10 %": pytest.approx(2 / 3),
        "lesions/0-10 %": 3,
        "sensitivity/10-15 %": 0,
        "lesions/10-15 %": 1,
        "sensitivity/15-25 %": 1,
        "lesions/15-25 %": 1,
        "sensitivity/25-100 %": 1,
        "lesions/25-100 %": 1,
        "score_threshold": 0,
    }


def test_sensitivity_by_size_keeps_to_its_false_positives():
    prediction, truth = scene(8, 30, found=[(8, 0.3), (30, 0.9)])
    wrong = [[60, 60, 90, 90], [60, 0, 90, 30], [0, 60, 30, 90]]
    prediction = {
        "boxes": prediction["boxes"] + wrong, "scores": prediction["scores"] + [0.95, 0.5, 0.4], "labels": [0] * 5,
    }  # fmt: skip
    sensitivity = {}
    for rate in (0, 1, 2, 3):
        figures = sensitivity_by_size([prediction], [truth], false_positives=rate, edges=(0.1,))
        sensitivity[rate] = (figures["sensitivity/0-10 %"], figures["sensitivity/10-100 %"])
    assert sensitivity == {0: (0, 0), 1: (0, 1), 2: (0, 1), 3: (1, 1)}


def test_sensitivity_by_size_of_an_oblong_image_and_of_difficult_truths():
    prediction, truth = scene(10, 20, found=[(20, 0.9)], size=(50, 200), difficult=[True, False])
    figures = sensitivity_by_size([prediction], [truth], edges=(0.15,))
    assert figures == {"sensitivity/15-100 %": 1, "lesions/15-100 %": 1, "score_threshold": 0}
    none, truth = scene()
    assert sensitivity_by_size([none], [truth]) == {"score_threshold": 0}


def test_sensitivity_by_size_over_all_sizes_is_that_of_the_counts():
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(20):
        sides = rng.permutation([4, 7, 11, 14, 18, 26])[: rng.integers(0, 5)].tolist()
        kept = [(s, float(rng.random())) for s in sides if rng.random() < 0.6]
        pairs.append(scene(*sides, found=kept))
    predictions, truths = zip(*pairs, strict=True)
    figures = sensitivity_by_size(predictions, truths)
    found = sum(figures[k] * figures[k.replace("sensitivity", "lesions")] for k in figures if k.startswith("sens"))
    counts = detection_counts(predictions, truths, score_threshold=0.0)
    assert found == pytest.approx(counts["tp"])
    assert sum(v for k, v in figures.items() if k.startswith("lesions")) == counts["tp"] + counts["fn"]


def test_sensitivity_by_size_says_what_it_needs():
    prediction, truth = scene(5)
    with pytest.raises(ValueError, match=r"edges ascending within \(0, 1\), got \(0.3, 0.2\)"):
        sensitivity_by_size([prediction], [truth], edges=(0.3, 0.2))
    with pytest.raises(ValueError, match="0 or more false positives per image, got -1"):
        sensitivity_by_size([prediction], [truth], false_positives=-1)
    with pytest.raises(ValueError, match=r"truths\[0\] lacks 'size'"):
        sensitivity_by_size([prediction], [{"boxes": [], "labels": []}])
