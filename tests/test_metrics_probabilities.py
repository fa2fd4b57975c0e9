"""Probabilities, classes one by one, and curves over thresholds, against scikit-learn and torchmetrics."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics.functional.classification import binary_calibration_error

from hccvision.metrics.comparison import Comparison
from hccvision.metrics.metric import compute_metrics, find_metrics
from hccvision.metrics.probabilities import reliability_curve
from hccvision.metrics.threshold_curves import curve_of, threshold_curve

CLASSES = ("normal", "benign", "cancer")
METRICS = ["brier", "log_loss", "calibration_error", "per_class", "likelihood_ratios", "average_precision"]


def cases(seed, classes=CLASSES, n=80, ties=False):
    rng = np.random.default_rng(seed)
    truths = rng.integers(0, len(classes), n)
    logits = rng.normal(0, 1, (n, len(classes))) + np.eye(len(classes))[truths]
    logits = np.round(logits) if ties else logits
    table = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Comparison(table, truths, classes=classes), table, truths


@pytest.mark.parametrize("classes", [CLASSES, ("normal", "cancer")])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_figures_equal_other_programs(seed, ties, classes):
    comparison, table, truths = cases(seed, classes, ties=ties)
    found = compute_metrics(find_metrics(METRICS), comparison)
    calls, positive = table.argmax(1), truths == len(classes) - 1
    score = table[:, -1]
    assert found["brier"] == pytest.approx(sk.brier_score_loss(positive, score))
    assert found["log_loss"] == pytest.approx(sk.log_loss(truths, table))
    assert found["average_precision"] == pytest.approx(sk.average_precision_score(positive, score))
    expected = binary_calibration_error(torch.from_numpy(score), torch.from_numpy(positive).long(), n_bins=10)
    assert found["calibration_error"] == pytest.approx(float(expected), abs=1e-6)
    report = sk.classification_report(truths, calls, target_names=classes, output_dict=True, zero_division=np.nan)
    for ours, theirs in (("sensitivity", "recall"), ("precision", "precision"), ("f1", "f1-score")):
        assert [found[f"{ours}/{c}"] for c in classes] == pytest.approx([report[c][theirs] for c in classes])
        assert found[f"macro_{ours}"] == pytest.approx(report["macro avg"][theirs])
        assert found[f"weighted_{ours}"] == pytest.approx(report["weighted avg"][theirs])
    ratios = sk.class_likelihood_ratios(positive, calls == len(classes) - 1)
    names = ("positive_likelihood_ratio", "negative_likelihood_ratio")
    assert [found[name] for name in names] == pytest.approx(ratios)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_curves_equal_scikit_learn(seed, ties):
    comparison, table, truths = cases(seed, ties=ties)
    curve, positive, score = curve_of(comparison), truths == 2, table[:, 2]
    fpr, tpr, thresholds = sk.roc_curve(positive, score, drop_intermediate=False)
    assert 1 - curve.specificity == pytest.approx(fpr)
    assert curve.sensitivity == pytest.approx(tpr)
    assert curve.thresholds[1:] == pytest.approx(thresholds[1:])
    precision, recall, _ = sk.precision_recall_curve(positive, score)
    assert curve.precision[1:][::-1] == pytest.approx(precision[:-1])
    assert curve.sensitivity[::-1] == pytest.approx(recall)


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.3, 0.5, 0.9, 0.99])
def test_the_net_benefit_is_counted_case_by_case(threshold):
    _, table, truths = cases(0, ties=True)
    positive, score = truths == 2, table[:, 2]
    treated = score >= threshold
    expected = (treated & positive).mean() - (treated & ~positive).mean() * threshold / (1 - threshold)
    assert threshold_curve(score, positive).net_benefit(np.array([threshold])) == pytest.approx([expected])
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        threshold_curve(score, positive).net_benefit(np.array([1.0]))


@pytest.mark.parametrize("seed", range(10))
def test_chosen_thresholds_keep_what_was_asked_for(seed):
    _, table, truths = cases(seed, ties=seed % 2 == 0)
    positive, score = truths == 2, table[:, 2]
    curve = threshold_curve(score, positive)
    levels = np.append(np.unique(score), np.inf)

    def shares(threshold):
        return (score[positive] >= threshold).mean(), (score[~positive] < threshold).mean()

    for wanted in (0, 0.5, 0.9, 1):
        assert curve.choose(sensitivity=wanted) == max(t for t in levels if shares(t)[0] >= wanted)
        assert curve.choose(specificity=wanted) == min(t for t in levels if shares(t)[1] >= wanted)
    assert sum(shares(curve.choose())) == pytest.approx(max(sum(shares(t)) for t in levels))


def test_what_cannot_be_chosen_is_refused():
    curve = threshold_curve(np.array([0.1, 0.9]), np.array([True, True]))
    with pytest.raises(ValueError, match="2 positive, 0 negative"):
        curve.choose()
    good = threshold_curve(np.array([0.1, 0.9]), np.array([False, True]))
    with pytest.raises(ValueError, match="got both"):
        good.choose(sensitivity=0.9, specificity=0.9)
    with pytest.raises(ValueError, match="share"):
        good.choose(sensitivity=95)
    with pytest.raises(ValueError, match="finite"):
        threshold_curve(np.array([0.1, np.nan]), np.array([False, True]))
    with pytest.raises(ValueError, match="bin"):
        reliability_curve(np.array([0.1]), np.array([True]), bins=0)


def test_figures_without_cases_are_undefined_with_the_reason():
    comparison = Comparison([[0.9, 0.1], [0.8, 0.2]], [0, 0], classes=("normal", "cancer"))
    found = compute_metrics(find_metrics(METRICS), comparison)
    assert found["average_precision"].reason == "no case is cancer"
    assert found["positive_likelihood_ratio"].reason == "no case is cancer"
    assert found["sensitivity/cancer"].reason == "no case is cancer"
    assert found["macro_sensitivity"] == 1.0
    perfect = Comparison([[1, 0], [0, 1]], [0, 1], classes=("normal", "cancer"))
    found = compute_metrics(find_metrics(METRICS), perfect)
    assert found["positive_likelihood_ratio"].reason == "no other case was called cancer"
    assert found["negative_likelihood_ratio"] == 0
    assert found["log_loss"] == pytest.approx(0, abs=1e-6)
