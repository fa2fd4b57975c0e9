import numpy as np
import pytest

from hccvision.curation.shortcuts import predict_from


def test_a_value_that_is_the_class_is_found():
    result = predict_from(["a", "b"] * 30, ["yes", "no"] * 30)
    assert (result.accuracy, result.chance, result.images, result.p, result.found) == (1.0, 0.5, 60, 0.005, True)
    assert result.by_chance < 0.85


def test_noise_is_rarely_taken_for_a_shortcut():
    found = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        result = predict_from(rng.integers(0, 4, 80).tolist(), rng.choice(["yes", "no"], 80).tolist(), seed=seed)
        assert abs(result.accuracy - 0.5) < 0.25
        found += result.found
    assert found <= 1


def test_an_own_value_for_each_image_predicts_nothing():
    result = predict_from(list(range(60)), ["yes", "no"] * 30)
    assert result.accuracy == pytest.approx(0.5)
    assert not result.found


def test_unequal_classes_do_not_look_like_a_shortcut():
    rng = np.random.default_rng(0)
    result = predict_from(rng.integers(0, 3, 200).tolist(), ["yes"] * 180 + ["no"] * 20)
    assert result.accuracy < 0.75
    assert not result.found


def test_slices_of_few_patients_are_no_independent_evidence():
    """Each patient has a size and a class of its own: by image the size tells the class, by patient it doesn't."""
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(24), 10)
    size, label = rng.permutation(24)[patients].tolist(), np.where(np.arange(24) % 2, "yes", "no")[patients].tolist()
    assert predict_from(size, label).found
    assert not predict_from(size, label, patients.tolist()).found


def test_rare_classes_are_left_out_and_too_little_says_nothing():
    values, labels = [1, 2] * 20 + [1] * 5, ["a", "b"] * 20 + ["c"] * 5
    assert predict_from(values, labels).images == 40
    assert predict_from([1] * 40, ["a", "b"] * 20) is None
    assert predict_from([1, 2] * 9, ["a", "b"] * 9) is None
    assert predict_from([], []) is None
    with pytest.raises(ValueError, match="a value, a label and a group per image, got 1, 2 and 1"):
        predict_from([1], ["a", "b"])


def test_the_same_seed_gives_the_same_answer_whatever_the_values_are_called():
    rng = np.random.default_rng(2)
    values, labels = rng.integers(0, 3, 90).tolist(), rng.choice(["x", "y", "z"], 90).tolist()
    named = predict_from([f"scanner {v}" for v in values], labels)
    assert predict_from(values, labels) == named
    assert named.chance == pytest.approx(1 / 3)
