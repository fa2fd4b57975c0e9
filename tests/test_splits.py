from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hccvision.contracts import Annotation, Problem, Sample
from hccvision.data.folders import read_image_folder
from hccvision.data.splits import folds, leakage, split

PARTS = (0.7, 0.1, 0.2)


def cohort(slices: list[int], *, classes: str = "ab") -> list[Sample]:
    """Make so many slices for each patient; every patient is of one class, in turn."""
    return [
        Sample(Path(f"P{p}_{i}.png"), patient=f"P{p}", class_name=classes[p % len(classes)])
        for p, n in enumerate(slices)
        for i in range(n)
    ]


def balanced(patients: int, slices: int, classes: str = "ab") -> list[Sample]:
    return cohort([slices] * patients, classes=classes)


def boxed(path: str, *names: str, patient: str | None = None) -> Sample:
    box = np.tile(np.array([[1, 2, 9, 8]], np.float32), (len(names), 1))
    return Sample(Path(path), patient, annotation=Annotation(box, names, size=(10, 10)))


def shares_of(sizes: list[int]) -> tuple[float, ...]:
    return tuple(n / sum(sizes) for n in sizes)


# split: what always holds


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(1, 12), min_size=5, max_size=30),
    st.lists(st.integers(1, 10), min_size=2, max_size=5).map(shares_of),
    st.integers(0, 99),
    st.sampled_from(["a", "ab", "abc"]),
)
def test_no_patient_is_torn_and_no_sample_lost(slices, shares, seed, classes):
    data = cohort(slices, classes=classes)
    parts = split(data, shares, seed=seed)
    assert len(parts) == len(shares)
    assert all(parts)
    assert Counter(id(s) for part in parts for s in part) == Counter(id(s) for s in data)
    seen = [{s.patient for s in part} for part in parts]
    assert sum(map(len, seen)) == len(slices)
    place = {id(s): i for i, s in enumerate(data)}
    for part in parts:
        assert part == sorted(part, key=lambda s: place[id(s)])
    assert split(data, shares, seed=seed) == parts


@settings(deadline=None, max_examples=30)
@given(st.integers(10, 40), st.integers(1, 6), st.integers(0, 99))
def test_parts_come_near_their_shares_and_classes_stay_balanced(patients, slices, seed):
    """With equal patients every part is at most one patient of each class off its share."""
    data = balanced(2 * patients, slices)
    for part, share in zip(split(data, PARTS, seed=seed), PARTS, strict=True):
        for name in "ab":
            assert abs(sum(s.class_name == name for s in part) - share * patients * slices) <= slices


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_is_shared_out_too(seed):
    data = [Sample(Path(f"{i}.png"), class_name="rare" if i < 10 else "common") for i in range(200)]
    parts = split(data, PARTS, group="none", seed=seed)
    assert [sum(s.class_name == "rare" for s in part) for part in parts] == [7, 1, 2]
    assert [len(part) for part in parts] == [140, 20, 40]


@pytest.mark.parametrize("seed", range(5))
def test_detection_is_stratified_by_images_with_each_class(seed):
    data = [boxed(f"{i}.png", *["hcc"] * (i % 2), *["cyst"] * (i % 4 == 0) * 3) for i in range(80)]
    for part, share in zip(split(data, PARTS, group="none", seed=seed), PARTS, strict=True):
        assert sum("hcc" in s.names for s in part) == pytest.approx(40 * share, abs=1)
        assert sum("cyst" in s.names for s in part) == pytest.approx(20 * share, abs=1)
        assert sum(s.names == () for s in part) == pytest.approx(20 * share, abs=1)


def test_patients_of_uneven_size_still_fill_their_shares():
    rng = np.random.default_rng(0)
    data = cohort(rng.integers(1, 20, 60).tolist())
    for seed in range(5):
        for part, share in zip(split(data, PARTS, seed=seed), PARTS, strict=True):
            assert len(part) / len(data) == pytest.approx(share, abs=0.03)


def test_another_seed_is_another_split():
    data = balanced(20, 3)
    assert len({tuple(s.path for s in split(data, PARTS, seed=seed)[2]) for seed in range(5)}) > 1


def test_two_parts_and_four_parts():
    assert [len(p) for p in split(balanced(10, 2), (0.5, 0.5))] == [10, 10]
    assert [len(p) for p in split(balanced(20, 1), (0.25,) * 4, group="none")] == [5] * 4


def test_no_part_is_empty_even_if_its_share_is_tiny():
    parts = split(cohort([50, 50, 1]), (0.98, 0.01, 0.01))
    assert all(parts)


# split: errors


@pytest.mark.parametrize("shares", [(), (1.0,), (0.5, 0.6), (0.7, 0.2), (1.0, 0.0), (1.2, -0.2), (0.5, float("nan"))])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ValueError, match="shares are two or more numbers above 0 that sum to 1, got"):
        split(balanced(10, 1), shares)


def test_too_few_groups_are_refused():
    with pytest.raises(ValueError, match="2 groups can't fill 3 parts without being torn apart"):
        split(cohort([30, 30]), PARTS)
    with pytest.raises(ValueError, match="4 groups can't fill 5 parts"):
        folds(cohort([9] * 4), 5)


def test_samples_without_patient_are_refused_with_the_ways_out():
    data = [*balanced(10, 1), Sample(Path("x.png"), class_name="a")]
    with pytest.raises(ValueError, match=r'1 of 11 samples have no patient, first x.png: .*group="duplicate"'):
        split(data, PARTS)
    assert sum(map(len, split(data, PARTS, group="none"))) == 11


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="unknown group 'slice'; known: 'patient', 'duplicate', 'none'"):
        split(balanced(10, 1), PARTS, group="slice")
    with pytest.raises(ValueError, match="unknown on_problem='ignore'"):
        split(balanced(10, 1), PARTS, on_problem="ignore")


@pytest.mark.parametrize("group", ["patient", "duplicate", "none"])
def test_a_sample_given_twice_is_refused(group):
    data = balanced(10, 1)
    with pytest.raises(ValueError, match="the same sample is in the data more than once"):
        split([*data, data[0]], PARTS, group=group)


def test_problems_stop_a_split_or_are_skipped(capsys):
    bad = Sample(Path("bad.png"), "P99", "a", problems=(Problem("unreadable_image", "bad.png", "torn", False),))
    data = [*balanced(10, 2), bad]
    for cut in (lambda **o: split(data, PARTS, **o), lambda **o: folds(data, 5, **o)):
        with pytest.raises(ValueError, match=r"1 problems in 21 samples(.|\n)*bad.png: torn"):
            cut()
        parts = cut(on_problem="skip")
        assert "skipped: bad.png: torn" in capsys.readouterr().out
        flat = [s for part in parts for s in (part[1] if isinstance(part, tuple) else part)]
        assert len(flat) == 20
        assert bad not in flat


# folds


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 8), min_size=6, max_size=25), st.integers(2, 6), st.integers(0, 99))
def test_every_sample_is_tested_once_and_no_patient_is_on_both_sides(slices, count, seed):
    data = cohort(slices)
    pairs = folds(data, count, seed=seed)
    assert len(pairs) == count
    assert Counter(id(s) for _, test in pairs for s in test) == Counter(id(s) for s in data)
    for train, test in pairs:
        assert train
        assert test
        assert len(train) + len(test) == len(data)
        assert not {s.patient for s in train} & {s.patient for s in test}
    assert folds(data, count, seed=seed) == pairs


def test_folds_are_stratified():
    data = balanced(50, 2)
    for _, test in folds(data, 5):
        assert Counter(s.class_name for s in test) == {"a": 10, "b": 10}


@pytest.mark.parametrize("count", [1, 0, -3])
def test_fewer_than_two_folds_are_refused(count):
    with pytest.raises(ValueError, match=f"at least 2 folds, got {count}"):
        folds(balanced(10, 1), count)


# Duplicates and leakage


@pytest.fixture
def copies(tmp_path) -> list[Sample]:
    """Make twelve files, the first six pairwise identical."""
    data = []
    for i in range(12):
        path = tmp_path / f"{i}.png"
        path.write_bytes(bytes([i // 2 if i < 6 else i]) * 10)
        data.append(Sample(path, class_name="ab"[i % 2]))
    return data


def test_copies_stay_together(copies):
    for seed in range(10):
        parts = split(copies, (0.5, 0.5), group="duplicate", seed=seed)
        assert leakage(*parts).duplicates == ()
        assert all(
            {copies[i], copies[i + 1]} <= set(parts[0]) or {copies[i], copies[i + 1]} <= set(parts[1])
            for i in (0, 2, 4)
        )


def test_leakage_names_what_is_shared(copies):
    first = Sample(copies[0].path, patient="P1")
    found = leakage([first, copies[6]], [copies[1], Sample(copies[8].path, patient="P1"), copies[7]])
    assert found.duplicates == ((str(copies[0].path), str(copies[1].path)),)
    assert found.patients == ("P1",)
    assert not found.clean
    assert str(found) == "1 shared patients (P1), 1 pairs of identical files"


def test_leakage_sees_the_same_sample_and_the_same_file(copies):
    same = str(copies[6].path)
    assert leakage([copies[6], copies[7]], [copies[6]]).duplicates == ((same, same),)
    assert leakage([copies[6]], [Sample(copies[6].path)]).duplicates == ((same, same),)


def test_clean_sets_are_called_clean(copies):
    found = leakage(copies[:6], copies[6:])
    assert found.clean
    assert str(found) == "no shared patient, no shared file"
    assert leakage([], copies).clean
    nobody = [Sample(Path("gone_a.png"))], [Sample(Path("gone_b.png"))]
    assert leakage(*nobody).clean  # unknown patients are not one and the same


@pytest.mark.shared_data
def test_the_copies_among_the_brain_slices_stay_on_one_side(shared):
    data = read_image_folder(shared / "data/brain_mri_253", {"no": "no", "yes": "yes"})
    content = {s.path: s.path.read_bytes() for s in data}
    assert len(set(content.values())) == 253 - 25
    pairs = folds(data, 5, group="duplicate", seed=0)
    for train, test in pairs:
        assert not {content[s.path] for s in train} & {content[s.path] for s in test}
        assert sum(s.class_name == "yes" for s in test) / len(test) == pytest.approx(155 / 253, abs=0.03)
        assert len(test) == pytest.approx(253 / 5, abs=2)
    torn = folds(data, 5, group="none", seed=0)
    assert any(not leakage(*pair).clean for pair in torn)
