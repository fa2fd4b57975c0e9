import math

import numpy as np
import pytest

from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.metrics.intervals import add_intervals, bootstrap, wilson
from hccvision.metrics.metric import Metric, compute_metrics, find_metrics

CLASSES = ("normal", "cancer")
PATIENTS = [f"P{i // 5}" for i in range(40)]
DEFAULT = ("voc_map", "voc07_map", "coco_map", "detection_counts", "froc", "sensitivity_by_size")


def classified(patients=None, seed=0):
    rng = np.random.default_rng(seed)
    truths = rng.integers(0, 2, 40)
    probability = np.clip(0.25 + 0.4 * truths + rng.normal(0, 0.25, 40), 0, 1)
    return Comparison(np.stack([1 - probability, probability], 1), truths, classes=CLASSES, patients=patients)


def detected(patients=None, seed=0):
    rng = np.random.default_rng(seed)
    predictions, truths = [], []
    for _ in range(40):
        corner = rng.uniform(0, 80, (int(rng.integers(0, 3)), 2))
        real = np.concatenate([corner, corner + rng.uniform(8, 40, corner.shape)], 1)
        found = np.concatenate([real + rng.normal(0, 2, real.shape), [[100, 100, 120, 120]]])
        labels = np.zeros(len(found), int)
        predictions.append({"boxes": found, "scores": rng.random(len(found)), "labels": labels})
        truths.append({"boxes": real, "labels": labels[1:], "size": (120, 120)})
    return Comparison(predictions, truths, classes=("hcc",), patients=patients)


def intervals(comparison, metrics, **options):
    metrics = find_metrics(metrics)
    return add_intervals(metrics, comparison, compute_metrics(metrics, comparison), **options)


# patients known


def test_patients_are_resampled_whole_as_the_bootstrap_of_arrays_does():
    comparison = classified(PATIENTS)
    found = intervals(comparison, ["confusion", "roc_auc"], resamples=200, seed=3)

    def sensitivity(calls, truths):
        return ((calls == 1) & (truths == 1)).sum() / (truths == 1).sum()

    arrays = comparison.calls, comparison.class_ids
    assert found["sensitivity"].interval == bootstrap(sensitivity, *arrays, samples=200, seed=3, groups=PATIENTS)
    assert {figure.method for figure in found.values()} == {"", "bootstrap by patient"}
    low, high = found["roc_auc"].interval
    assert low < found["roc_auc"] < high
    assert found["sensitivity"].count == (comparison.class_ids == 1).sum()


def test_every_figure_of_a_detector_but_its_counts_gets_an_interval():
    comparison = detected(PATIENTS)
    metrics = find_metrics(DEFAULT)
    figures = compute_metrics(metrics, comparison)
    found = add_intervals(metrics, comparison, figures, resamples=50)
    assert found == figures
    assert all(figure.interval is None for figure in figures.values())
    for name, figure in found.items():
        assert (figure.interval is None) == (name in ("tp", "fp", "fn") or name.startswith("lesions/")), name
    low, high = found["voc_map"].interval
    assert low <= found["voc_map"] <= high

    def voc_map(indices):
        taken = Comparison(
            [comparison.predictions[i] for i in indices], [comparison.truths[i] for i in indices], classes=("hcc",)
        )
        return find_metrics("voc_map")[0](taken)["voc_map"]

    assert (low, high) == bootstrap(voc_map, np.arange(40), samples=50, groups=PATIENTS)


def test_the_same_seed_gives_the_same_intervals():
    comparison = classified(PATIENTS)
    first, again, other = (intervals(comparison, "f1", resamples=50, seed=seed)["f1"] for seed in (1, 1, 2))
    assert first.interval == again.interval != other.interval
    wide, narrow = (intervals(comparison, "f1", resamples=200, confidence=c)["f1"].interval for c in (0.95, 0.5))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_resamples_in_which_a_figure_is_undefined_are_left_out():
    truths = np.repeat([1, 0, 0, 0], 2)
    probabilities = np.eye(2)[[1, 0, 0, 0, 0, 0, 1, 0]]
    few = Comparison(probabilities, truths, classes=CLASSES, patients=list("aabbccdd"))
    found = intervals(few, "sensitivity", resamples=400)["sensitivity"]
    # 0.75 ** 4 = 32 % have no case; the others all have half of theirs found, as all are of one patient
    assert (found.interval, found.method) == (wilson(1, 2), "Wilson (every resample of patients gives the same value)")
    found = intervals(few, "accuracy", resamples=400)["accuracy"]
    assert found.method == "bootstrap by patient"
    assert found.interval[0] < 0.75 < found.interval[1]
    rare = Comparison(probabilities, truths, classes=CLASSES, patients=list("aabbccdd"))
    once = Metric("rare", lambda c: 1.0 if len(c.take([0])) and (c.class_ids == 1).sum() >= 4 else math.nan)
    found = add_intervals([once], rare, {"rare": Figure(1.0)}, resamples=400)["rare"]
    assert found.interval is None
    assert found.method.startswith("no interval: undefined in ")
    assert found.method.endswith(" of 400 resamples of patients")


def test_an_undefined_figure_stays_undefined():
    table = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]
    comparison = Comparison(table, [0] * 4, classes=CLASSES, patients=list("abcd"))
    found = intervals(comparison, "confusion", resamples=20)
    assert (found["sensitivity"].interval, found["sensitivity"].reason) == (None, "no case is cancer")
    assert found["specificity"].interval == wilson(4, 4)


def test_a_metric_that_fails_on_a_resample_is_named():
    def fragile(comparison):
        if len(set(comparison.probabilities[:, 0])) < 4:
            raise ValueError("too few patients")
        return 1.0

    table = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]
    comparison = Comparison(table, [0] * 4, classes=CLASSES, patients=list("abcd"))
    with pytest.raises(ValueError, match=r"'fragile' failed on a resample of the patients \(too few patients\)"):
        intervals(comparison, fragile)


# patients not known


@pytest.mark.parametrize(
    ("patients", "note"),
    [
        (None, ""),
        ([None] * 40, ""),
        ([None, *PATIENTS[1:]], "patients are known for only some images"),
        (["P1"] * 40, "all images are of one patient"),
    ],
)
def test_shares_get_wilsons_interval_where_patients_are_not_known(patients, note):
    found = intervals(classified(patients), ["confusion", "balanced_accuracy", "roc_auc"])
    shares = {"accuracy", "sensitivity", "specificity", "precision", "npv"}
    assert {name for name, figure in found.items() if figure.interval} == shares
    for name in shares:
        figure = found[name]
        assert figure.interval == wilson(figure.successes, figure.count)
        assert figure.method == (f"Wilson ({note})" if note else "Wilson")
    assert found["roc_auc"].method == f"no interval: {note or 'patients are not known'}"
    assert found["tp"].method == ""


def test_wilsons_interval_of_a_detector_and_of_nothing():
    found = intervals(detected(), DEFAULT, confidence=0.9)
    shares = {name for name, figure in found.items() if figure.interval}
    assert {"sensitivity", "precision"} < shares
    assert all(name in ("sensitivity", "precision") or name.startswith("sensitivity/") for name in shares)
    sensitivity = found["sensitivity"]
    assert sensitivity.interval == wilson(sensitivity.successes, sensitivity.count, confidence=0.9)
    none = intervals(Comparison([[0.9, 0.1]], [0], classes=CLASSES), "sensitivity")["sensitivity"]
    assert (none.interval, none.reason, none.method) == (None, "no case is cancer", "")


def test_bad_options_are_refused():
    comparison = classified(PATIENTS)
    with pytest.raises(ValueError, match="confidence between 0 and 1"):
        intervals(comparison, "f1", confidence=95)
    with pytest.raises(ValueError, match="resamples=0"):
        intervals(comparison, "f1", resamples=0)


def test_where_all_resamples_agree_the_interval_is_not_a_point():
    """Of four lesions of four patients none is found: that doesn't prove a sensitivity of 0."""
    box = np.array([[0.0, 0, 10, 10]])
    truths = [{"boxes": box, "labels": [0]}] * 4
    predictions = [{"boxes": box + 50, "scores": [0.9], "labels": [0]}] * 4
    comparison = Comparison(predictions, truths, classes=("hcc",), patients=["P1", "P2", "P3", "P4"])
    metrics = find_metrics(["detection_counts", "voc_map"])
    found = add_intervals(metrics, comparison, compute_metrics(metrics, comparison), resamples=50)
    assert found["sensitivity"].interval == wilson(0, 4)
    assert found["sensitivity"].method == "Wilson (every resample of patients gives the same value)"
    assert found["voc_map"].interval is None
    assert found["voc_map"].method == "no interval: every resample of patients gives the same value"


def test_where_nearly_all_resamples_agree_the_interval_is_not_a_point():
    """A patient is drawn four times in 1.9 % of the resamples: less than an end of the interval cuts off."""
    called = np.eye(2)[[1] + [0] * 59]
    comparison = Comparison(called, np.zeros(60, np.int64), classes=CLASSES, patients=[f"P{i}" for i in range(60)])
    rare = Metric("rare", lambda c: float((c.calls == 1).sum() > 3))
    for figure, interval, method in (
        (Figure.share(0, 60), wilson(0, 60), "Wilson (nearly every resample of patients gives the same value)"),
        (Figure(0.0), None, "no interval: nearly every resample of patients gives the same value"),
    ):
        found = add_intervals([rare], comparison, {"rare": figure})["rare"]
        assert (found.interval, found.method) == (interval, method)


def test_a_bootstrap_of_resamples_that_agree_says_so():
    for values, groups in ((np.ones(5), None), (np.arange(5), ["P1"] * 5), (np.ones(1), None)):
        with pytest.warns(UserWarning, match=r"items in \d groups is the single value \d, as the resamples agree"):
            low, high = bootstrap(np.mean, values, groups=groups, samples=20)
        assert low == high
