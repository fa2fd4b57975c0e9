"""Guarantees hold on new patients, and calibration makes scores believable."""

import numpy as np
import pytest
import torch

from hccvision.metrics.calibration import (
    compute_detection_calibration_error,
    fit_detection_temperature,
    fit_temperature,
    soften,
)
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.conformal import bound_misses, box_margin, enlarge
from hccvision.metrics.probabilities import compute_log_loss


def patients(rng, count):
    """Two slices of each patient; some patients are easy, some hard, so that slices of one are alike."""
    predictions, truths, names = [], [], []
    for number in range(count):
        ease, shift = rng.beta(2, 1), rng.exponential(0.05)
        for _ in range(2):
            n = int(rng.integers(1, 4))
            corner = rng.uniform(0, 200, (n, 2)) + np.arange(n)[:, None] * [300, 0]
            truth = np.concatenate([corner, corner + 40], 1)
            found = truth + 40 * shift * rng.uniform(0, 1, (n, 4)) * [1, 1, -1, -1]
            scores = np.clip(rng.beta(8 * ease + 0.5, 3, n), 0, 1)
            predictions.append({"boxes": found, "scores": scores, "labels": np.zeros(n, int)})
            truths.append({"boxes": truth, "labels": np.zeros(n, int)})
            names.append(f"P{number}")
    return Comparison(predictions, truths, classes=("hcc",), patients=names)


def missed_share(comparison, threshold):
    """Mean over patients of the share of their lesions that no detection of that score has found."""
    m = comparison.matches((0.5,))
    score = np.full(len(m.truth_labels), -np.inf)
    score[m.found[0, m.hits[0]]] = m.scores[m.hits[0]]
    names = np.array(comparison.patients)[m.truth_images]
    return np.mean([(score[names == name] < threshold).mean() for name in np.unique(names)])


def covered_share(comparison, margin):
    m = comparison.matches((0.5,))
    hit = np.flatnonzero(m.hits[0])
    grown, truth = enlarge(m.boxes[hit], margin), m.truth_boxes[m.found[0, hit]]
    inside = (grown[:, :2] <= truth[:, :2] + 1e-9).all(1) & (grown[:, 2:] >= truth[:, 2:] - 1e-9).all(1)
    names = np.array(comparison.patients)[m.images[hit]]
    return np.mean([inside[names == name].all() for name in np.unique(names)])


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_the_share_of_missed_lesions_is_bounded_for_new_patients(share):
    rng = np.random.default_rng(0)
    misses = []
    for _ in range(60):
        threshold = bound_misses(patients(rng, 30), share)
        misses.append(missed_share(patients(rng, 30), threshold))
    error = np.std(misses) / np.sqrt(len(misses))
    assert share - 0.08 < np.mean(misses) < share + 2 * error


@pytest.mark.parametrize("rate", [0.8, 0.9])
def test_the_margin_covers_the_lesions_of_new_patients(rate):
    rng = np.random.default_rng(1)
    covered = [covered_share(patients(rng, 30), box_margin(patients(rng, 30), rate)) for _ in range(60)]
    error = np.std(covered) / np.sqrt(len(covered))
    assert rate - 2 * error < np.mean(covered) < rate + 0.08


def test_the_chosen_threshold_is_the_highest_that_keeps_the_bound():
    comparison = patients(np.random.default_rng(2), 25)
    chosen = bound_misses(comparison, 0.2)
    assert (25 * missed_share(comparison, chosen) + 1) / 26 <= 0.2
    assert (25 * missed_share(comparison, np.nextafter(chosen, np.inf)) + 1) / 26 > 0.2


def test_what_cannot_be_guaranteed_is_refused_with_what_can():
    comparison = patients(np.random.default_rng(3), 5)
    with pytest.raises(ValueError, match=r"at least 9 patients with lesions, got 5: add patients, or allow 0.167"):
        bound_misses(comparison, 0.1)
    with pytest.raises(ValueError, match=r"at least 9 patients with found lesions, got 5.*ask for 0.833"):
        box_margin(comparison, 0.9)
    truths = [{"boxes": [[0, 0, 9, 9]], "labels": [0]}] * 20
    nothing = [{"boxes": [], "scores": [], "labels": []}] * 20
    with pytest.raises(ValueError, match="without any threshold it is 1"):
        bound_misses(Comparison(nothing, truths, classes=("hcc",)), 0.2)
    with pytest.raises(ValueError, match="share"):
        bound_misses(comparison, 0)
    with pytest.raises(ValueError, match="margin"):
        enlarge(np.zeros((1, 4)), -0.1)


def test_enlarged_boxes_stay_in_the_image():
    assert enlarge(np.array([[0.0, 10, 20, 30]]), 0.5, (32, 40)).tolist() == [[0, 0, 30, 32]]


# temperatures


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_what_was_done_to_the_logits(factor):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (4000, 3))
    table = torch.from_numpy(logits).softmax(1).numpy()
    truths = np.array([rng.choice(3, p=row) for row in table])
    spoilt = torch.from_numpy(logits * factor).softmax(1).numpy()
    comparison = Comparison(spoilt, truths, classes=("a", "b", "c"))
    temperature = fit_temperature(comparison)
    assert temperature == pytest.approx(factor, rel=0.08)
    softened = soften(spoilt, temperature)
    assert np.allclose(softened.sum(1), 1)
    assert (softened.argmax(1) == spoilt.argmax(1)).all()
    expected = torch.from_numpy(logits * factor / temperature).softmax(1).numpy()
    assert softened == pytest.approx(expected, abs=1e-9)
    after = Comparison(softened, truths, classes=("a", "b", "c"))
    assert compute_log_loss(after) <= compute_log_loss(comparison) + 1e-9


def detections(scores, hits):
    truths = [{"boxes": [[0, 0, 10, 10]] if hit else [], "labels": [0] if hit else []} for hit in hits]
    found = [{"boxes": [[0, 0, 10, 10]], "scores": [score], "labels": [0]} for score in scores]
    return Comparison(found, truths, classes=("hcc",))


def test_detection_scores_become_believable():
    rng = np.random.default_rng(0)
    honest = rng.random(3000)
    comparison = detections(soften(honest, 0.4), rng.random(3000) < honest)
    temperature = fit_detection_temperature(comparison)
    assert temperature == pytest.approx(2.5, rel=0.1)
    before = compute_detection_calibration_error(comparison)
    m = comparison.matches((0.5,))
    after = detections(soften(m.scores, temperature), m.hits[0])
    assert compute_detection_calibration_error(after) < 0.04 < 0.1 < before


def test_without_detections_nothing_is_claimed():
    empty = Comparison([{"boxes": [], "scores": [], "labels": []}], [{"boxes": [], "labels": []}], classes=("hcc",))
    assert not compute_detection_calibration_error(empty).defined
    with pytest.raises(ValueError, match="detections"):
        fit_detection_temperature(empty)
    with pytest.raises(ValueError, match="temperature"):
        soften([0.5], 0)
