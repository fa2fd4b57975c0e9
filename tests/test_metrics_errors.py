"""Kinds of errors of a detector, and the weighted AFROC, against plain loops over their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from hccvision.metrics.afroc import compute_weighted_afroc
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.error_kinds import KINDS, classify_errors, compute_error_kinds
from hccvision.metrics.intervals import add_intervals
from hccvision.metrics.metric import compute_metrics, find_metrics

CLASSES = ("hcc", "cyst")


def case(seed, images=6):
    """Detections around truths, some of the wrong class, some alone; scores with ties."""
    rng = np.random.default_rng(seed)
    predictions, truths = [], []
    for _ in range(images):
        n = int(rng.integers(0, 4))
        corner = rng.uniform(0, 60, (n, 2))
        boxes, labels = np.concatenate([corner, corner + rng.uniform(10, 30, (n, 2))], 1), rng.integers(0, 2, n)
        found = [boxes[i] + rng.normal(0, rng.choice([1, 5, 9]), 4) for i in rng.integers(0, n, 4 if n else 0)]
        found += [[x, y, x + 10, y + 10] for x, y in rng.uniform(0, 80, (int(rng.integers(0, 3)), 2))]
        found = np.array(found).reshape(-1, 4)
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 2)
        scores = np.round(rng.random(len(found)), 1)
        predictions.append({"boxes": found, "scores": scores, "labels": rng.integers(0, 2, len(found))})
        truths.append(
            {"boxes": boxes, "labels": labels, "difficult": rng.random(n) < 0.1, "crowd": rng.random(n) < 0.1}
        )
    return predictions, truths


def compare(predictions, truths, **options):
    return Comparison(predictions, truths, classes=CLASSES, **options)


@pytest.mark.parametrize("seed", range(30))
def test_each_error_is_of_the_first_kind_that_holds(seed):
    predictions, truths = case(seed)
    matches = compare(predictions, truths).matches((0.5,), "coco")
    errors = classify_errors(matches)
    hits = set(matches.found[0, matches.hits[0]].tolist())
    near_missed = set()
    for d in range(len(matches.scores)):
        if matches.hits[0, d] or matches.ignored[0, d]:
            assert errors.kinds[d] == -1
            continue
        own, other = {}, {}
        for t in np.flatnonzero((matches.truth_images == matches.images[d]) & ~matches.truth_ignored):
            pair = (torch.from_numpy(b[None]) for b in (matches.boxes[d], matches.truth_boxes[t]))
            same = matches.truth_labels[t] == matches.labels[d]
            (own if same else other)[int(t)] = float(box_iou(*pair))
        best, other_best = max(own.values(), default=0), max(other.values(), default=0)
        if 0.1 <= best < 0.5:
            expected = "localisation"
            near_missed.add(max(own, key=own.get))
        elif other_best >= 0.5:
            expected = "class"
            near_missed.add(max(other, key=other.get))
        elif best >= 0.5:
            expected = "duplicate"
        else:
            expected = "class_and_localisation" if other_best >= 0.1 else "background"
        assert KINDS[errors.kinds[d]] == expected
    counted = np.flatnonzero(~matches.truth_ignored).tolist()
    assert np.flatnonzero(errors.missed).tolist() == [t for t in counted if t not in hits | near_missed]


BOX = [0.0, 0, 10, 10]


def one(*found, truths=((BOX, 0),)):
    boxes, labels, scores = zip(*found, strict=True) if found else ((), (), ())
    predictions = [{"boxes": list(boxes), "labels": list(labels), "scores": list(scores)}]
    truth = [{"boxes": [b for b, _ in truths], "labels": [c for _, c in truths]}]
    return compute_error_kinds(compare(predictions, truth))


def costs(figures):
    return {name.split("/")[1]: round(float(f), 4) for name, f in figures.items() if name.startswith("cost") and f > 0}


def test_what_each_kind_costs():
    other = [50.0, 50, 60, 60]
    assert costs(one((BOX, 0, 0.9))) == {}
    assert costs(one(([0.0, 0, 10, 4], 0, 0.9))) == {"localisation": 1.0}
    assert costs(one(([0.0, 0, 10, 4], 0, 0.9), (BOX, 0, 0.5))) == {"localisation": 0.5}  # is found already: left out
    assert costs(one((other, 0, 0.9), (BOX, 0, 0.5))) == {"background": 0.5}
    assert costs(one((BOX, 1, 0.9))) == {"class": 1.0}
    two = ((BOX, 0), (other, 0))
    assert costs(one((BOX, 0, 0.9), (BOX, 0, 0.8), (other, 0, 0.5), truths=two)) == {"duplicate": pytest.approx(0.1667)}
    assert costs(one((BOX, 0, 0.9), truths=two)) == {"missed": 0.5}
    assert one(truths=()).get("cost/missed").reason == "no image has a lesion to find"
    assert one()["cost/missed"].reason == "without these truths there is nothing left to find"
    assert one()["errors/missed"] == 1


def test_the_better_of_two_badly_placed_detections_is_corrected():
    found = one(([0.0, 0, 10, 4], 0, 0.9), ([0.0, 0, 10, 3], 0, 0.8))
    assert (found["errors/localisation"], costs(found)) == (2, {"localisation": 1.0})


def test_costs_are_metrics_with_a_direction_and_share_the_matching_of_coco(monkeypatch):
    calls = []
    original = Comparison._match
    monkeypatch.setattr(Comparison, "_match", lambda self, how: calls.append(how) or original(self, how))
    comparison = compare(*case(0))
    metrics = find_metrics(["coco_map", "error_kinds"], "detection")
    comparison.plan(metrics)
    for metric in metrics:
        metric(comparison)
    assert metrics[1].direction("cost/missed") is False
    assert len(calls) == 1
    with pytest.raises(ValueError, match="background"):
        compute_error_kinds(comparison, background=0.6)


# weighted AFROC


def by_definition(predictions, truths, patients):
    """Every lesion against every healthy patient."""
    matches = compare(predictions, truths).matches((0.5,))
    of = np.array(patients)
    healthy = [p for p in dict.fromkeys(patients) if not np.isin(of[matches.truth_images], p).any()]
    alarms = []
    for p in healthy:
        own = (of[matches.images] == p) & ~matches.ignored[0]
        alarms.append(matches.scores[own].max(initial=-np.inf))
    counted = np.flatnonzero(~matches.truth_ignored)
    cases = {p: [t for t in counted if of[matches.truth_images[t]] == p] for p in dict.fromkeys(patients)}
    values = []
    for lesions in filter(None, cases.values()):
        won = []
        for t in lesions:
            score = matches.scores[matches.found[0] == t].max(initial=-np.inf)
            won.append(np.mean([1.0 if score > a else 0.5 if score == a else 0.0 for a in alarms]))
        values.append(np.mean(won))
    return np.mean(values)


@pytest.mark.parametrize("seed", range(20))
def test_the_weighted_afroc_is_that_of_its_definition(seed):
    predictions, truths = case(seed, images=12)
    for truth in truths[::3]:
        truth.update(boxes=[], labels=[], difficult=[], crowd=[])
    patients = [f"P{i // 2}" for i in range(12)]
    for i in (0, 1, 6, 7):
        truths[i].update(boxes=[], labels=[], difficult=[], crowd=[])
    found = compute_weighted_afroc(compare(predictions, truths, patients=patients))
    assert found == pytest.approx(by_definition(predictions, truths, patients))
    alone = compute_weighted_afroc(compare(predictions, truths))
    assert alone == pytest.approx(by_definition(predictions, truths, list(range(12))))


def test_without_healthy_patients_or_lesions_it_is_undefined():
    empty = {"boxes": [], "scores": [], "labels": []}
    lesion = {"boxes": [BOX], "labels": [0]}
    healthy = {"boxes": [], "labels": []}
    assert compute_weighted_afroc(compare([empty], [lesion])).reason == "every patient has a lesion"
    assert compute_weighted_afroc(compare([empty], [healthy])).reason == "no image has a lesion to find"
    assert compute_weighted_afroc(compare([empty, empty], [lesion, healthy])) == 0.5  # nothing found, no alarm


@given(st.permutations(range(8)))
def test_the_order_of_images_does_not_matter(order):
    predictions, truths = case(3, images=8)
    for number, prediction in enumerate(predictions):  # different scores: ties are broken by the order
        prediction["scores"] = prediction["scores"] + np.arange(len(prediction["scores"])) * 1e-3 + number * 1e-5
    figures, others = (
        {**compute_error_kinds(c), "afroc": compute_weighted_afroc(c)}
        for c in (compare(predictions, truths), compare(predictions, truths).take(np.array(order)))
    )
    assert {k: float(v) for k, v in figures.items()} == pytest.approx({k: float(v) for k, v in others.items()})


def test_a_patient_who_is_drawn_twice_counts_twice():
    """Intervals by patient of patients with one image each are those of images."""
    rng = np.random.default_rng(0)
    predictions, truths = [], []
    for number in range(40):
        lesion = number % 2 == 0
        truths.append({"boxes": [BOX] if lesion else [], "labels": [0] if lesion else []})
        predictions.append({"boxes": [BOX], "scores": [rng.random() * (1.4 if lesion else 1)], "labels": [0]})
    names = [f"P{i}" for i in range(40)]
    metrics = find_metrics(["weighted_afroc"], "detection")
    comparison = compare(predictions, truths, patients=names)
    found = add_intervals(metrics, comparison, compute_metrics(metrics, comparison), resamples=300)["weighted_afroc"]
    generator = np.random.default_rng(0)
    plain = compare(predictions, truths)
    values = [float(compute_weighted_afroc(plain.take(generator.integers(40, size=40)))) for _ in range(300)]
    assert found.interval == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))
