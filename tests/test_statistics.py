import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from hccvision.metrics.intervals import bootstrap, wilson
from hccvision.metrics.statistics import as_array


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(352, 366, 93.68, 97.71), (173, 184, 89.61, 96.63), (179, 182, 95.27, 99.44), (173, 176, 95.11, 99.42)],
)
def test_wilson_gives_the_intervals_of_the_papers_table_4(successes, total, low, high):
    assert [round(100 * bound, 2) for bound in wilson(successes, total)] == [low, high]


@settings(deadline=None)
@given(st.integers(1, 10**6), st.floats(0, 1), st.floats(0.5, 0.999))
def test_wilson_equals_scipy(total, share, confidence):
    successes = round(share * total)
    expected = binomtest(successes, total).proportion_ci(confidence, method="wilson")
    low, high = wilson(successes, total, confidence=confidence)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= low <= successes / total <= high <= 1


def test_wilson_of_nothing_knows_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


def test_wilson_reaches_the_ends_exactly():
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0


@pytest.mark.parametrize(("successes", "total"), [(-1, 3), (4, 3), (0, -1)])
def test_wilson_refuses_impossible_counts(successes, total):
    with pytest.raises(ValueError, match="successes <= total"):
        wilson(successes, total)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, float("nan")])
def test_confidence_must_be_a_share(confidence):
    with pytest.raises(ValueError, match="confidence between 0 and 1"):
        wilson(1, 2, confidence=confidence)
    with pytest.raises(ValueError, match="confidence between 0 and 1"):
        bootstrap(np.mean, np.ones(3), confidence=confidence)


def test_bootstrap_of_a_mean_agrees_with_its_standard_error():
    values = np.random.default_rng(3).normal(5.0, 2.0, 400)
    low, high = bootstrap(np.mean, values, samples=4000)
    error = values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_bootstrap_is_repeatable_and_the_seed_matters():
    values = np.random.default_rng(0).random(30)
    assert bootstrap(np.mean, values, seed=1) == bootstrap(np.mean, values, seed=1)
    assert bootstrap(np.mean, values, seed=1) != bootstrap(np.mean, values, seed=2)


def test_bootstrap_keeps_the_arrays_aligned():
    values = np.arange(50)
    assert bootstrap(lambda a, b: float(np.abs(a - b).max()), values, values.copy()) == (0.0, 0.0)
    groups = [f"P{i % 7}" for i in range(50)]
    assert bootstrap(lambda a, b: float(np.abs(a - b).max()), values, values.copy(), groups=groups) == (0.0, 0.0)


def test_groups_are_drawn_whole():
    groups = ["a", "a", "a", "b", "b", "c"]
    sizes = {"a": 3, "b": 2, "c": 1}
    seen = []

    def record(names):
        seen.append(list(names))
        return 0.0

    bootstrap(record, np.array(groups), samples=50, groups=groups)
    assert all(names.count(g) % sizes[g] == 0 for names in seen for g in sizes)
    assert all(sum(names.count(g) // sizes[g] for g in sizes) == 3 for names in seen)


def test_groups_of_alike_items_widen_the_interval():
    values = np.repeat(np.random.default_rng(0).random(20), 10)  # ten equal slices of each patient
    items = bootstrap(np.mean, values)
    patients = bootstrap(np.mean, values, groups=np.repeat(np.arange(20), 10))
    assert patients[1] - patients[0] > 2 * (items[1] - items[0])


def test_names_of_groups_do_not_matter():
    values = np.random.default_rng(0).random(6)
    assert bootstrap(np.mean, values, groups=list("zzyyxx")) == bootstrap(np.mean, values, groups=list("aabbcc"))


def test_lists_of_dictionaries_are_resampled_as_lists():
    images = [{"boxes": i} for i in range(5)]
    low, high = bootstrap(lambda ds: sum(d["boxes"] for d in ds) / len(ds), images)
    assert 0 <= low < 2 < high <= 4


def test_tensors_arrive_as_arrays():
    assert bootstrap(lambda a: float(isinstance(a, np.ndarray)), torch.ones(3, requires_grad=True)) == (1.0, 1.0)


@pytest.mark.parametrize("arrays", [(), (np.zeros(0),), (np.ones(3), np.ones(4))])
def test_bootstrap_refuses_nothing_and_unequal_lengths(arrays):
    with pytest.raises(ValueError, match="one length above 0"):
        bootstrap(lambda *a: 0.0, *arrays)


def test_bootstrap_refuses_bad_groups_samples_and_statistics():
    with pytest.raises(ValueError, match="one length above 0"):
        bootstrap(np.mean, np.ones(3), groups=["a", "b"])
    with pytest.raises(ValueError, match="item 1 has no group"):
        bootstrap(np.mean, np.ones(3), groups=["a", None, "b"])
    with pytest.raises(ValueError, match="samples=0"):
        bootstrap(np.mean, np.ones(3), samples=0)
    with pytest.raises(ValueError, match="the statistic gave nan"):
        bootstrap(lambda a: float("nan"), np.ones(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_as_array_takes_every_precision(dtype):
    found = as_array(torch.tensor([0.5, 0.25], dtype=dtype, requires_grad=True))
    assert found.dtype == np.float64
    assert found.tolist() == [0.5, 0.25]


def test_as_array_keeps_whole_numbers_whole():
    assert as_array(torch.tensor([2**60 + 1])).tolist() == [2**60 + 1]
