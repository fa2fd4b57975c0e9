"""A training on labels that mean nothing finds them only where the split leaks."""

import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import hccvision as hv
from hccvision.controls import _exchanged, null_control

RECIPE = hv.Recipe(epochs=15, batch=8, learning_rate=0.01, schedule="constant", augmentation="none")


def slices(folder, patients=16, each=6):
    """Slices that show who the patient is, and nothing of his class."""
    rng, samples = np.random.default_rng(0), []
    for patient in range(patients):
        own = rng.integers(0, 256, (4, 4), np.uint8)
        for number in range(each):
            noisy = np.kron(own, np.ones((8, 8))) + rng.normal(0, 5, (32, 32))
            path = folder / f"P{patient:02}_{number}.png"
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
            samples.append(hv.Sample(path, f"P{patient:02}", class_name=("normal", "cancer")[patient % 2]))
    return samples


def control(train, test, **options):
    model = hv.build_model(
        "mobilenet_v1", "linear", classes=["normal", "cancer"], image_size=64, seed=0,
        backbone_options={"width": 0.25}, head_options={"hidden": (), "dropout": 0.0},
    )  # fmt: skip
    return null_control(model, train, test, recipe=RECIPE, device="cpu", permutations=300, **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return slices(tmp_path_factory.mktemp("slices"))


def test_a_split_by_patient_stays_within_chance_and_one_by_image_does_not(data):
    by_patient = control(*hv.split(data, (0.5, 0.5), group="patient", seed=0))
    low, high = by_patient.figure.interval
    assert low <= by_patient.figure <= high
    assert low <= 0.5 <= high
    assert not by_patient.leaks
    shuffled = random.Random(0).sample(data, len(data))
    by_image = control(shuffled[:48], shuffled[48:])
    assert by_image.figure > 0.9
    assert by_image.leaks
    assert "the test set leaks" in str(by_image)


def test_labels_are_exchanged_between_groups():
    groups = [[0, 1, 2], [3, 4], [5]]
    labels = ["a", "a", "a", "b", "b", "c"]
    seen = set()
    for seed in range(40):
        found = _exchanged(labels, groups, random.Random(seed))
        assert all(len({found[i] for i in members}) == 1 for members in groups)
        seen.add(tuple(found[members[0]] for members in groups))
    assert len(seen) == 2  # both ways in which none of three keeps its own


def test_what_cannot_be_controlled_is_refused(data):
    unnamed = replace(data[0], class_name=None)
    with pytest.raises(ValueError, match="class_name"):
        control([unnamed, *data[1:10]], data[10:])
    with pytest.raises(ValueError, match="no usable sample"):
        control(data[:10], [])
    with pytest.raises(ValueError, match="one figure"):
        control(data[:48], data[48:], metric="confusion")
