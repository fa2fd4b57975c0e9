"""Samplers: at most `per_patient` slices of a patient, every slice drawn over the epochs, classes equally frequent."""

import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from hccvision.contracts.samples import Sample
from hccvision.data.samplers import PatientSampler, build_sampler

PATIENTS = st.lists(st.integers(0, 5), max_size=60)


def sampler(patients, per_patient, classes=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return PatientSampler(patients, per_patient, classes=classes, generator=generator)


@given(PATIENTS, st.integers(1, 12))
def test_no_patient_has_more_and_no_slice_comes_twice(patients, per_patient):
    drawn = sampler(patients, per_patient)
    epoch = list(drawn)
    assert len(epoch) == len(drawn) == len(set(epoch))
    counts = Counter(patients[i] for i in epoch)
    assert counts == {p: min(n, per_patient) for p, n in Counter(patients).items()}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=60), st.integers(1, 12), st.integers(0, 9))
def test_balanced_too_the_cap_holds_and_classes_and_slices_come_evenly(table, per_patient, seed):
    patients, classes = [p for p, _ in table], [c for _, c in table]
    drawn = sampler(patients, per_patient, classes, seed)
    epoch = list(drawn)
    assert len(epoch) == len(drawn) == sum(min(n, per_patient) for n in Counter(patients).values())
    assert max(Counter(patients[i] for i in set(epoch)).values(), default=0) <= per_patient
    by_class = Counter(classes[i] for i in epoch)
    assert max(by_class.values(), default=0) - min(by_class.values(), default=0) <= 1
    for name in by_class:
        times = Counter(i for i in epoch if classes[i] == name)
        assert max(times.values()) - min(times.values()) <= 1


def test_a_cap_that_binds_nobody_is_a_shuffle():
    epoch = list(sampler("aabbbc", 9))
    assert sorted(epoch) == list(range(6))
    assert epoch != sorted(epoch)


def test_each_epoch_draws_anew_and_over_many_every_slice_is_drawn():
    drawn = sampler(["a"] * 30 + ["b"] * 2, 5)
    epochs = [list(drawn) for _ in range(60)]
    assert len({tuple(sorted(epoch)) for epoch in epochs}) > 50
    counts = Counter(i for epoch in epochs for i in epoch)
    assert set(counts) == set(range(32))
    assert counts[30] == counts[31] == 60
    assert max(counts[i] for i in range(30)) < 25  # 10 expected of a fair draw, sd 2.9


def test_the_order_mixes_patients_and_classes():
    patients = [i // 50 for i in range(200)]
    for classes in (None, [i % 2 for i in range(200)]):
        epoch = list(sampler(patients, 50, classes))
        halves = Counter(patients[i] for i in epoch[:100])
        assert max(halves.values()) < 40
        assert sum(patients[a] == patients[b] for a, b in itertools.pairwise(epoch)) < 80


@settings(max_examples=20)
@given(PATIENTS, st.integers(1, 5), st.integers(0, 2**40))
def test_equal_seeds_draw_equal_epochs(patients, per_patient, seed):
    classes = [i % 2 for i in range(len(patients))]
    first, again = (sampler(patients, per_patient, classes, seed) for _ in range(2))
    assert [list(first), list(first)] == [list(again), list(again)]


def test_a_rare_class_comes_as_often_by_coming_again():
    epoch = list(sampler(["a"] * 10 + ["b"] * 10, 10, ["x"] * 19 + ["y"]))
    assert len(epoch) == 20
    assert Counter(i == 19 for i in epoch) == {True: 10, False: 10}


def test_batches_are_made_of_it():
    assert sum(len(batch) for batch in BatchSampler(sampler("aaaab", 2), 2, drop_last=False)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], 0), "per_patient is a whole number from 1, got 0"),
        ((["a", "b"], 1, ["x"]), "expected a class for each of 2 samples, got 1"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sampler(*arguments)


# Of a training set


def slices(*patients, every=5):
    return [Sample(Path(f"{i}.png"), p, "normal" if i % every else "cancer") for i, p in enumerate(patients)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def class_names(samples):
    return [sample.class_name for sample in samples]


@pytest.mark.parametrize("balanced", [False, True])
def test_patients_are_capped(balanced):
    data = slices(*(["a"] * 40 + ["b"] * 8 + ["c"] * 2))
    strata = class_names(data) if balanced else None
    epoch = list(build_sampler(data, strata=strata, per_patient=8, generator=generator(3)))
    assert len(epoch) == 18
    assert max(Counter(data[i].patient for i in set(epoch)).values()) <= 8
    cancer = sum(data[i].class_name == "cancer" for i in epoch)
    assert cancer == 9 if balanced else cancer < 9


def test_an_unknown_patient_is_named():
    with pytest.raises(ValueError, match=r"1.png: the recipe's per_patient needs the patient of each slice.*patient="):
        build_sampler(slices("a", None), per_patient=1, generator=generator())


def test_balanced_draws_make_classes_equally_frequent():
    data = slices(*[None] * 1000, every=10)
    drawn = [list(build_sampler(data, strata=class_names(data), generator=generator(s))) for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 1000
    assert 430 < sum(i % 10 == 0 for i in drawn[0]) < 570
    every = list(build_sampler(data, generator=generator()))
    assert sorted(every) == list(range(1000))
