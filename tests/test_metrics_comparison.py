import gc
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hccvision.contracts.outputs import Detections
from hccvision.metrics import comparison as comparison_file
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.matching import Matching, match
from hccvision.metrics.metric import Metric, compute_metrics, find_metrics
from hccvision.registry import METRICS

CLASSES = ("hcc", "cyst")
DEFAULT = ("voc_map", "voc07_map", "coco_map", "detection_counts", "froc")


def detected(seed, images=6):
    """Truths of two classes, and detections near them, invented and repeated; no two of equal score."""
    rng = np.random.default_rng(seed)
    predictions, truths = [], []
    for _ in range(images):
        m, n = int(rng.integers(0, 4)), int(rng.integers(0, 9))
        corner = rng.uniform(0, 80, (m, 2))
        real = np.concatenate([corner, corner + rng.uniform(5, 40, (m, 2))], 1)
        near = real[rng.integers(0, m, n)] if m else np.tile([10.0, 10, 30, 30], (n, 1))
        near = near + rng.normal(0, 4, (n, 4)) * (rng.random((n, 1)) < 0.8)
        near[:, 2:] = np.maximum(near[:, :2], near[:, 2:])
        labels = rng.integers(0, 2, m)
        guesses = labels[rng.integers(0, m, n)] if m else rng.integers(0, 2, n)
        predictions.append({"boxes": near, "scores": rng.random(n), "labels": guesses})
        truths.append({"boxes": real, "labels": labels, "difficult": rng.random(m) < 0.2, "size": (120, 120)})
    return predictions, truths


def classified(seed, images=8):
    rng = np.random.default_rng(seed)
    return rng.dirichlet([1, 1], images), rng.integers(0, 2, images)


def labelled(seed, images=8):
    rng = np.random.default_rng(seed)
    return rng.random((images, 2)), rng.integers(0, 2, (images, 2))


CASES = {"classification": classified, "multilabel": labelled, "detection": detected}


@pytest.fixture
def calls(monkeypatch):
    """The matchings that are made."""
    made = []
    match_rows = comparison_file.match_rows

    def counted(detections, truths, classes, num_images, how):
        made.append(how)
        return match_rows(detections, truths, classes, num_images, how)

    monkeypatch.setattr(comparison_file, "match_rows", counted)
    return made


def same(found, expected):
    assert {k: repr(v) for k, v in found.items()} == {k: repr(v) for k, v in expected.items()}


# what is compared


def test_the_items_may_be_lists_arrays_tensors_generators_and_detections():
    probabilities, ids = classified(0)
    expected = Comparison(probabilities, ids, classes=CLASSES)
    for predictions, truths in (
        (probabilities.tolist(), ids.tolist()),
        (torch.from_numpy(probabilities).requires_grad_(), torch.from_numpy(ids)),
        (list(torch.from_numpy(probabilities)), (int(i) for i in ids)),
    ):
        found = Comparison(predictions, truths, classes=list(CLASSES))
        assert (found.probabilities == expected.probabilities).all()
        assert (found.confusion_matrix == expected.confusion_matrix).all()
        assert len(found) == 8
    boxes, scores, labels = torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0.9]), torch.tensor([1])
    truths = [{"boxes": boxes, "labels": labels}]
    found = Comparison([Detections(boxes, scores, labels)], truths, classes=CLASSES)
    assert found.matches().hits.tolist() == [[True]]
    assert found.predictions[0]["labels"] is not None
    assert match([Detections(boxes, scores, labels)], truths).hits.tolist() == [[True]]


def test_the_positive_class_is_a_name_and_the_last_unless_said():
    probabilities, ids = classified(0)
    comparison = Comparison(probabilities, ids, classes=CLASSES)
    assert (comparison.positive, comparison.positive_id) == ("cyst", 1)
    assert Comparison(probabilities, ids, classes=CLASSES, positive="hcc").positive_id == 0
    for wrong in ("scar", 1):
        with pytest.raises(ValueError, match=f"positive as one of the classes hcc, cyst, got {wrong!r}"):
            Comparison(probabilities, ids, classes=CLASSES, positive=wrong)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="one prediction per truth, got 1 predictions and 2 truths"):
        Comparison([[0.5, 0.5]], [0, 1], classes=CLASSES)
    with pytest.raises(ValueError, match="no images"):
        Comparison([], [], classes=CLASSES)
    with pytest.raises(ValueError, match="at least one class"):
        Comparison([0], [0], classes=())
    with pytest.raises(ValueError, match="classes of different names, got 'hcc'"):
        Comparison([0], [0], classes="hcc")
    with pytest.raises(ValueError, match="one patient per image, got 1 for 2 images"):
        Comparison([0, 0], [0, 1], classes=CLASSES, patients=["P1"])


def test_the_representation_is_short():
    assert repr(Comparison(*detected(0), classes=CLASSES)) == "Comparison(6 images, classes: hcc, cyst)"


# computed once


def test_the_default_metrics_of_a_detector_match_twice(calls):
    compute_metrics(find_metrics(DEFAULT, "detection"), Comparison(*detected(1), classes=CLASSES))
    assert [(how.rule, len(how.iou_thresholds)) for how in calls] == [("voc", 1), ("coco", 10)]


def test_iou_thresholds_of_several_metrics_are_matched_together(calls):
    metrics = find_metrics({"voc_map": {}, "froc": {"iou_threshold": 0.3}, "sensitivity_by_size": None}, "detection")
    found = compute_metrics(metrics, Comparison(*detected(1), classes=CLASSES))
    assert [how.iou_thresholds for how in calls] == [(0.5, 0.3)]
    alone = [m(Comparison(*detected(1), classes=CLASSES)) for m in metrics]
    same(found, alone[0] | alone[1] | alone[2])


def test_a_metric_that_announces_nothing_is_matched_when_it_asks(calls):
    comparison = Comparison(*detected(1), classes=CLASSES)
    mine = Metric("mine", lambda c: float(c.matches((0.25,)).hits.sum()))
    compute_metrics([*find_metrics(["voc_map"]), mine, mine], comparison)
    assert [how.iou_thresholds for how in calls] == [(0.5,), (0.5, 0.25)]
    comparison.matches((0.25, 0.5))
    comparison.matches((0.5,), extra_pixel=True)
    comparison.matches((0.5,), max_detections=1)
    assert len(calls) == 4


def test_a_slice_of_the_matches_is_what_would_have_been_matched():
    predictions, truths = detected(2, 20)
    comparison = Comparison(predictions, truths, classes=CLASSES)
    for rule in ("voc", "coco"):
        comparison.matches((0.3, 0.5, 0.7), rule)
        for thresholds in ((0.5,), (0.7, 0.3)):
            expected = match(predictions, truths, classes=CLASSES, iou_thresholds=thresholds, rule=rule)
            found = comparison.matches(thresholds, rule)
            assert found.iou_thresholds == thresholds
            assert (found.found == expected.found).all()
            assert (found.ignored == expected.ignored).all()


def test_the_metrics_of_a_resample_match_nothing(calls):
    comparison = Comparison(*detected(3), classes=CLASSES)
    metrics = find_metrics(DEFAULT, "detection")
    compute_metrics(metrics, comparison)
    for seed in range(5):
        sample = comparison.take(np.random.default_rng(seed).integers(0, 6, 6))
        compute_metrics(metrics, sample)
        compute_metrics(metrics, sample.take([0, 0, 5]))
    assert len(calls) == 2
    fresh = Comparison(*detected(3), classes=CLASSES).take([1, 2])
    compute_metrics(metrics, fresh)
    assert len(calls) == 4


def test_numbers_of_an_image_are_computed_once():
    seen = []

    def area(prediction, truth, *, scale=1.0):
        seen.append(scale)
        return scale * len(truth["boxes"]), len(prediction["boxes"])

    predictions, truths = detected(4)
    comparison = Comparison(predictions, truths, classes=CLASSES)
    found = comparison.per_image(area)
    assert found.tolist() == [[len(t["boxes"]), len(p["boxes"])] for p, t in zip(predictions, truths, strict=True)]
    assert comparison.take([5, 5, 0]).per_image(area).tolist() == found[[5, 5, 0]].tolist()
    assert len(seen) == 6
    assert (comparison.per_image(area, scale=2.0)[:, 0] == 2 * found[:, 0]).all()
    assert seen == [1.0] * 6 + [2.0] * 6
    with pytest.raises(ValueError, match=r"one shape for all images, got the shapes \[\(1,\), "):
        comparison.per_image(lambda prediction, truth: [1] * len(truth["boxes"]))
    del area
    gc.collect()
    assert len(comparison._per_image) == 0


# resamples


@pytest.mark.parametrize("task", CASES)
@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6))
def test_taking_all_images_changes_no_figure(task, seed):
    comparison = Comparison(*CASES[task](seed), classes=CLASSES)
    metrics = [Metric(name, METRICS.get(name)) for name in METRICS.names(task=task)]
    same(compute_metrics(metrics, comparison.take(np.arange(len(comparison)))), compute_metrics(metrics, comparison))


@pytest.mark.parametrize("task", CASES)
@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_taking_images_again_is_comparing_repeated_lists(task, seed, indices):
    predictions, truths = CASES[task](seed)
    metrics = [Metric(name, METRICS.get(name)) for name in METRICS.names(task=task)]
    found = Comparison(predictions, truths, classes=CLASSES).take(indices)
    repeated = [[items[i] for i in indices] for items in (predictions, truths)]
    expected = Comparison(*repeated, classes=CLASSES)
    same(compute_metrics(metrics, found), compute_metrics(metrics, expected))
    assert len(found) == len(indices)
    assert [np.asarray(t["labels"] if task == "detection" else t).tolist() for t in found.truths] == [
        np.asarray(t["labels"] if task == "detection" else t).tolist() for t in expected.truths
    ]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 5), min_size=1, max_size=10))
def test_matches_of_a_resample_are_those_of_repeated_lists(seed, indices):
    predictions, truths = detected(seed)
    taken = match(predictions, truths, classes=CLASSES, iou_thresholds=(0.3, 0.6)).take(np.array(indices))
    lists = [[items[i] for i in indices] for items in (predictions, truths)]
    made = match(*lists, classes=CLASSES, iou_thresholds=(0.3, 0.6))
    assert taken.num_images == made.num_images
    assert (taken.scores == made.scores).all()
    assert (taken.num_truths == made.num_truths).all()
    # copies of one detection have equal scores: their order is that of the images in both, but for the truths
    order = np.lexsort((taken.images, -taken.scores))
    for field in ("images", "labels"):
        assert (getattr(taken, field)[order] == getattr(made, field)).all()
    assert (taken.hits[:, order] == made.hits).all()
    assert (taken.ignored[:, order] == made.ignored).all()
    for t, d in zip(*np.nonzero(taken.hits[:, order]), strict=True):
        one, other = taken.found[t, order[d]], made.found[t, d]
        assert (taken.truth_boxes[one] == made.truth_boxes[other]).all()
        assert taken.truth_images[one] == made.truth_images[other] == made.images[d]
        assert taken.truth_labels[one] == made.truth_labels[other]


def test_a_selection_by_bool_and_what_cannot_be_taken():
    comparison = Comparison(*classified(0, 3), classes=CLASSES, patients=["P1", None, "P2"])
    assert comparison.take(np.array([True, False, True])).patients == ["P1", "P2"]
    assert comparison.take(torch.tensor([2, 2])).patients == ["P2", "P2"]
    assert Comparison(*classified(0, 3), classes=CLASSES).take([0]).patients is None
    for wrong in ([], [3], [-1], [0.5], [[0]], [True]):
        with pytest.raises(ValueError, match="at least one index from 0 to 2"):
            comparison.take(wrong)


def test_bad_items_are_refused_by_the_number_of_their_image():
    with pytest.raises(ValueError, match=r"predictions\[1\]: expected 2 probabilities"):
        _ = Comparison([[0.5, 0.5], [1.0]], [0, 1], classes=CLASSES).confusion_matrix
    with pytest.raises(ValueError, match=r"truths\[1\] is None: expected a class id"):
        _ = Comparison([[0.5, 0.5]] * 2, [0, None], classes=CLASSES).class_ids
    with pytest.raises(TypeError, match=r"truths\[0\]: expected a dictionary"):
        Comparison([{"boxes": [], "scores": [], "labels": []}], [3], classes=CLASSES).matches()
    bare = Comparison([{"boxes": [], "scores": [], "labels": []}], [{"boxes": [], "labels": []}], classes=CLASSES)
    with pytest.raises(ValueError, match=r"truths\[0\] lacks 'size'"):
        compute_metrics(find_metrics("sensitivity_by_size"), bare)


def test_matchings_are_checked():
    with pytest.raises(ValueError, match="rule 'voc' or 'coco', got 'kitti'"):
        Matching(rule="kitti")
    with pytest.raises(ValueError, match="IoU thresholds above 0"):
        Matching(())
    with pytest.raises(ValueError, match="IoU thresholds above 0"):
        Matching((math.nan,))


# a task of one's own


def test_any_objects_can_be_compared():
    def overlap(prediction, truth):
        return (prediction & truth).sum(), prediction.sum() + truth.sum()

    def dice(comparison):
        common, total = comparison.per_image(overlap).sum(0)
        return 2 * common / total

    rng = np.random.default_rng(0)
    masks = [rng.random((8, 8)) > 0.5 for _ in range(5)]
    truths = [rng.random((8, 8)) > 0.5 for _ in range(5)]
    comparison = Comparison(masks, truths, classes=("tumor",))
    metric = find_metrics(dice)[0]
    common = sum((m & t).sum() for m, t in zip(masks, truths, strict=True))
    assert metric(comparison) == {
        "dice": 2 * common / sum(m.sum() + t.sum() for m, t in zip(masks, truths, strict=True))
    }
    taken = Comparison([masks[2]], [truths[2]], classes=("tumor",))
    assert metric(comparison.take([2])) == metric(taken)


# pickling


@pytest.mark.parametrize("name", METRICS.names())
def test_metrics_are_pickled(name):
    metric = find_metrics([name])[0]
    assert pickle.loads(pickle.dumps(metric)) == metric


def test_comparisons_and_resamples_are_pickled():
    truths = [{"boxes": [[0, 0, 5, 5]], "labels": [0]}, {"boxes": [], "labels": []}]
    predictions = [{"boxes": [[0, 0, 5, 4]], "scores": [0.5], "labels": [0]}] * 2
    whole = Comparison(predictions, truths, classes=("hcc",), patients=["a", "b"])
    metrics = find_metrics(["voc_map", "detection_counts"])
    for comparison in (whole, whole.take([1, 1, 0])):
        for computed in (False, True):  # with and without what is kept
            expected = compute_metrics(metrics, comparison) if computed else None
            again = pickle.loads(pickle.dumps(comparison))
            assert compute_metrics(metrics, again) == (expected or compute_metrics(metrics, comparison))
            assert (again.patients, len(again)) == (comparison.patients, len(comparison))
