"""Tests of two predictors on the same cases, exact intervals and sample sizes, against independent programs."""

import itertools
import math

import numpy as np
import pytest
from MLstatkit import Delong_test
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_reference
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from hccvision.metrics.comparison import Comparison
from hccvision.metrics.delong import auc_interval, auc_test
from hccvision.metrics.intervals import add_intervals, wilson
from hccvision.metrics.metric import compute_metrics, find_metrics
from hccvision.metrics.paired_tests import holm, mcnemar, permutation_test
from hccvision.metrics.proportions import clopper_pearson, sample_size
from hccvision.metrics.roc import compute_roc_auc
from hccvision.metrics.voc import compute_voc_map

CLASSES = ("normal", "cancer")


def scores(seed, n=60, ties=False):
    rng = np.random.default_rng(seed)
    truths = rng.integers(0, 2, n)
    a, b = (truths * shift + rng.normal(0, 1, n) for shift in (1.0, 0.6))
    return truths, *(np.round(x) if ties else x for x in (a, b))


def classified(probability, truths, patients=None):
    return Comparison(np.stack([1 - probability, probability], 1), truths, classes=CLASSES, patients=patients)


# Areas under ROC curves


def components(values, positive):
    """Placement values by their definition, one pair at a time."""
    x, y = values[positive == 1], values[positive == 0]
    kernel = np.array([[1.0 if i > j else 0.5 if i == j else 0.0 for j in y] for i in x])
    return kernel.mean(1), kernel.mean(0)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_delong_equals_its_definition_and_another_program(seed, ties):
    truths, a, b = scores(seed, ties=ties)
    (v10a, v01a), (v10b, v01b) = components(a, truths), components(b, truths)
    m, n = truths.sum(), (1 - truths).sum()
    variance = np.var(v10a - v10b, ddof=1) / m + np.var(v01a - v01b, ddof=1) / n
    found = auc_test(a, b, truths)
    assert found.difference == pytest.approx(v10a.mean() - v10b.mean(), abs=1e-12)
    expected = 2 * stats.norm.sf(abs(v10a.mean() - v10b.mean()) / math.sqrt(variance))
    assert found.p_value == pytest.approx(expected, abs=1e-12)
    assert found.p_value == pytest.approx(Delong_test(truths, a, b)[1], abs=1e-9)
    area = auc_interval(a, truths)
    half = stats.norm.ppf(0.975) * math.sqrt(np.var(v10a, ddof=1) / m + np.var(v01a, ddof=1) / n)
    assert area == pytest.approx(v10a.mean())
    assert area.interval == pytest.approx((max(0, area - half), min(1, area + half)))


def test_an_area_without_variance_has_no_interval_and_says_why():
    perfect = auc_interval([1, 2, 3, 4], [0, 0, 1, 1])
    assert perfect == 1
    assert perfect.interval is None
    assert "variance is 0" in perfect.method
    assert auc_interval([1, 2], [0, 1]).interval is None
    assert auc_interval([1, 2], [1, 1]).reason == "all cases are positive"
    same = auc_test([1, 3, 2, 4], [1, 3, 2, 4], [0, 0, 1, 1])
    assert same.difference == 0
    assert same.p_value.reason == "the variance of the difference is 0 or undefined"
    for wrong in ([1, 2, 3], [1, float("nan")]):
        with pytest.raises(ValueError, match="expected"):
            auc_interval(wrong, [0, 1])


# McNemar, permutation, Holm


@pytest.mark.parametrize("seed", range(10))
def test_mcnemar_equals_statsmodels(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, 40)) < ((0.8,), (0.6,))
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    assert mcnemar(a, b) == pytest.approx(mcnemar_reference(table, exact=True).pvalue)


def test_mcnemar_of_equal_calls_finds_nothing_and_bad_flags_are_refused():
    assert mcnemar([1, 0, 1], [1, 0, 1]) == 1
    with pytest.raises(ValueError, match="right_b"):
        mcnemar([1, 0], [1, 0.5])
    with pytest.raises(ValueError, match="one length"):
        mcnemar([1, 0], [1])


def accuracy(comparison):
    return float((comparison.calls == comparison.class_ids).mean())


def test_the_permutation_test_equals_the_exact_one():
    """Over all 2^8 exchanges, counted by hand."""
    truths = np.array([0, 1] * 4)
    a, b = (np.where(np.isin(np.arange(8), wrong), 1 - truths, truths) * 0.8 + 0.1 for wrong in ([3], [0, 1, 2, 4, 6]))
    gain = ((a > 0.5) == truths).astype(int) - ((b > 0.5) == truths).astype(int)
    signs = np.array(list(itertools.product((-1, 1), repeat=8)))
    exact = (np.abs(signs @ gain) >= abs(gain.sum())).mean()
    found = permutation_test(accuracy, classified(a, truths), classified(b, truths), permutations=4000, resamples=0)
    assert found.difference == pytest.approx(gain.mean())
    assert found.p_value == pytest.approx(exact, abs=0.03)


def test_patients_are_exchanged_whole():
    """Ten slices of each patient, all right or all wrong together, are ten times one case, not ten cases."""
    rng = np.random.default_rng(0)
    truths = np.repeat(rng.integers(0, 2, 12), 10)
    wrong = np.repeat(rng.random((2, 12)) < ((0.2,), (0.5,)), 10, axis=1)
    a, b = (np.where(w, 1 - truths, truths) * 0.8 + 0.1 for w in wrong)
    names = np.repeat([f"P{i}" for i in range(12)], 10).tolist()
    grouped, alone = (
        permutation_test(accuracy, classified(a, truths, p), classified(b, truths, p), permutations=300, resamples=300)
        for p in (names, None)
    )
    assert grouped.p_value > 0.05 > alone.p_value
    low, high = grouped.difference.interval
    assert high - low > 2 * np.ptp(alone.difference.interval)


def test_detectors_are_compared_with_one_matching(monkeypatch):
    rng = np.random.default_rng(0)
    truths = [{"boxes": rng.uniform(0, 50, (2, 2)).repeat(2, 1)[:, [0, 2, 1, 3]], "labels": [0, 0]} for _ in range(20)]
    for truth in truths:
        truth["boxes"] = truth["boxes"] + [0, 0, 20, 20]
    good, bad = (
        [{"boxes": t["boxes"] + rng.normal(0, s, (2, 4)), "scores": rng.random(2), "labels": [0, 0]} for t in truths]
        for s in (0.5, 4)
    )
    a, b = (Comparison(p, truths, classes=("hcc",)) for p in (good, bad))
    matched = []
    match = Comparison._match
    monkeypatch.setattr(Comparison, "_match", lambda self, how: matched.append(how) or match(self, how))
    found = permutation_test(lambda c: compute_voc_map(c)["voc_map"], a, b, permutations=100, resamples=100)
    assert found.difference > 0.2
    assert found.p_value < 0.05
    assert len(matched) == 1


def test_equal_predictors_differ_no_more_often_than_by_chance():
    p_values = []
    for seed in range(60):
        truths, a, b = scores(seed, n=40)
        rng = np.random.default_rng(seed)
        b = np.where(truths, 1.0, 0) + rng.normal(0, 1, 40)
        a, b = (1 / (1 + np.exp(-x)) for x in (a, b))
        pair = classified(a, truths), classified(b, truths)
        found = permutation_test(compute_roc_auc, *pair, permutations=60, resamples=0, seed=seed)
        p_values.append(float(found.p_value))
    assert 0 < np.mean(np.array(p_values) <= 0.2) < 0.36  # three standard errors around 0.2


def test_comparisons_of_other_images_are_refused_and_undefined_figures_are_named():
    truths, a, _ = scores(0)
    a = 1 / (1 + np.exp(-a))
    with pytest.raises(ValueError, match="of the same images"):
        permutation_test(accuracy, classified(a, truths), classified(a[:-1], truths[:-1]))
    ones = np.ones(60, int)
    found = permutation_test(compute_roc_auc, classified(a, ones), classified(a, ones))
    assert found.p_value.reason == "the figure is undefined for one of the two"


@pytest.mark.parametrize("seed", range(5))
def test_holm_equals_statsmodels(seed):
    values = np.random.default_rng(seed).random(7) ** 3
    names = [f"m{i}" for i in range(7)]
    assert list(holm(dict(zip(names, values, strict=True))).values()) == pytest.approx(
        multipletests(values, method="holm")[1].tolist()
    )
    with pytest.raises(ValueError, match="p-values"):
        holm({"m": 1.5})


# Shares


@pytest.mark.parametrize(("successes", "total"), [(0, 9), (9, 9), (3, 9), (173, 184)])
def test_clopper_pearson_equals_statsmodels(successes, total):
    assert clopper_pearson(successes, total) == pytest.approx(proportion_confint(successes, total, method="beta"))


def test_no_cases_say_nothing():
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="successes"):
        clopper_pearson(3, 2)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.94, 1])
@pytest.mark.parametrize("width", [0.05, 0.3])
def test_the_sample_size_is_the_smallest_that_is_narrow_enough(share, width):
    n = sample_size(share, width)
    assert np.ptp(wilson(share * n, n)) <= width < np.ptp(wilson(share * (n - 1), n - 1))


@pytest.mark.slow
def test_equal_predictors_differ_in_at_most_five_percent_of_tests():
    """1000 simulated pairs of equally good predictors, with three slices of each of 20 patients that go together."""
    found, alone = 0, 0
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        truths = np.repeat(rng.integers(0, 2, 20), 3)
        wrong = np.repeat(rng.random((2, 20)) < 0.3, 3, axis=1)
        a, b = (np.where(w, 1 - truths, truths) * 0.8 + 0.1 for w in wrong)
        names = np.repeat([f"P{i}" for i in range(20)], 3).tolist()
        by_patient, by_slice = (
            permutation_test(
                accuracy, classified(a, truths, p), classified(b, truths, p), permutations=99, resamples=0, seed=seed
            ).p_value
            for p in (names, None)
        )
        found += by_patient <= 0.05
        alone += by_slice <= 0.05
    assert found <= 50 + 2 * 7  # two standard errors
    assert alone > 150  # slices taken for cases: far too many


@pytest.mark.slow
def test_intervals_by_patient_cover_the_truth_and_those_by_slice_do_not():
    """The accuracy is 0.7; slices of a patient go together."""
    covered = {"patient": 0, "slice": 0}
    for seed in range(600):
        rng = np.random.default_rng(seed)
        truths = np.repeat(rng.integers(0, 2, 60), 4)
        wrong = np.repeat(rng.random(60) < 0.3, 4)
        p = np.where(wrong, 1 - truths, truths) * 0.8 + 0.1
        names = np.repeat([f"P{i}" for i in range(60)], 4).tolist()
        metrics = find_metrics(["accuracy"])
        for kind, patients in (("patient", names), ("slice", None)):
            comparison = classified(p, truths, patients)
            found = add_intervals(metrics, comparison, compute_metrics(metrics, comparison), resamples=300, seed=seed)
            low, high = found["accuracy"].interval
            covered[kind] += low <= 0.7 <= high
    assert 0.92 <= covered["patient"] / 600 <= 0.98
    assert covered["slice"] / 600 < 0.8
