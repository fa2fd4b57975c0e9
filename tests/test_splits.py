import re
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hccvision.annotations.image_folder import read_image_folder
from hccvision.annotations.names import copied_from
from hccvision.contracts import Annotation, Problem, Sample
from hccvision.curation.copies import family_names
from hccvision.curation.leakage import leakage
from hccvision.data.splits import folds, nested_folds, split
from hccvision.grouping import together

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
    with pytest.raises(ValueError, match="2 groups can't fill 3 parts without being divided"):
        split(cohort([30, 30]), PARTS)
    with pytest.raises(ValueError, match="4 groups can't fill 5 parts"):
        folds(cohort([9] * 4), 5)


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="unknown group 'slice'; known: 'patient', 'duplicate', 'none', or a regular"):
        split(balanced(10, 1), PARTS, group="slice")
    with pytest.raises(ValueError, match="unknown group ''"):
        split(balanced(10, 1), PARTS, group="")
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


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 8), min_size=8, max_size=20), st.integers(2, 4), st.integers(2, 4), st.integers(0, 99))
def test_inner_folds_lie_inside_the_training_part_and_tear_no_patient(slices, outer, inner, seed):
    data = cohort(slices)
    found = nested_folds(data, outer, inner, seed=seed)
    assert [(fold.train, fold.test) for fold in found] == folds(data, outer, seed=seed)
    for fold in found:
        assert len(fold.inner) == inner
        assert Counter(id(s) for _, val in fold.inner for s in val) == Counter(id(s) for s in fold.train)
        for train, val in fold.inner:
            assert len(train) + len(val) == len(fold.train)
            assert not {s.patient for s in train} & {s.patient for s in val}


def test_nested_folds_refuse_too_few_folds_and_groups():
    with pytest.raises(ValueError, match="at least 2 folds, got 1"):
        nested_folds(balanced(10, 1), 5, 1)
    with pytest.raises(ValueError, match="at least 2 folds, got 0"):
        nested_folds(balanced(10, 1), 0, 2)
    with pytest.raises(ValueError, match="4 groups can't fill 5 parts"):
        nested_folds(balanced(6, 1), 3, 5)


# What certainly belongs together


@st.composite
def tables(draw):
    """Draw samples of any patients, sources and series, some without any, whatever their names and classes."""
    some = st.sampled_from([None, None, "1", "2", "3", "4", "5", "6"])
    rows = draw(st.lists(st.tuples(some, some, some, st.sampled_from("ab")), min_size=6, max_size=40))
    return [
        Sample(Path(f"{i}.png"), patient, name, source_id=source and f"s{source}", series=series)
        for i, (patient, source, series, name) in enumerate(rows)
    ]


@settings(deadline=None, max_examples=150)
@given(
    tables(),
    st.lists(st.integers(1, 10), min_size=2, max_size=4).map(shares_of),
    st.integers(0, 99),
    st.sampled_from(["patient", "duplicate", "none", r"\d$|\d(?=\.)", lambda path: path.stem[-1]]),
)
def test_no_split_tears_a_patient_a_source_or_a_series(data, shares, seed, group):
    """Whatever the table, the shares, the seed and the group: the API has no way to such a split."""

    def made():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield split(data, shares, group=group, seed=seed)
            yield from folds(data, len(shares), group=group, seed=seed)
            for fold in nested_folds(data, 2, len(shares), group=group, seed=seed):
                yield fold.train, fold.test
                yield from fold.inner

    try:
        for parts in made():
            for field in ("patient", "source_id", "series"):
                seen = Counter(v for part in parts for v in {getattr(s, field) for s in part} - {None})
                assert not [v for v, count in seen.items() if count > 1]
    except ValueError as error:
        assert re.search("groups can't fill", str(error))  # noqa: PT017


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8)), min_size=12, max_size=30), st.integers(0, 99))
def test_no_split_tears_files_of_one_content(tmp_path_factory, rows, seed):
    folder = tmp_path_factory.mktemp("content")
    data = []
    for i, (patient, content) in enumerate(rows):
        path = folder / f"{i}.png"
        path.write_bytes(bytes([content]))
        data.append(Sample(path, f"P{patient}", "ab"[i % 2]))
    for group in ("patient", "none"):
        try:
            parts = split(data, (0.5, 0.5), group=group, seed=seed)
        except ValueError as error:
            assert "1 groups can't fill 2 parts" in str(error)  # noqa: PT017
            continue
        contents = [{s.path.read_bytes() for s in part} for part in parts]
        assert not contents[0] & contents[1]
        assert not {s.patient for s in parts[0]} & {s.patient for s in parts[1]}


def test_a_copy_stays_with_its_source_and_with_the_other_copies():
    plain = [Sample(Path(f"liver/yes/{i}.png"), class_name="a") for i in range(8)]
    copies = [
        Sample(Path(f"more/{i}_{n}.png"), class_name="a", source_id=(f"yes/{i}", f"{i}.png", f"liver/yes/{i}")[n])
        for i in range(8)
        for n in range(3)
    ]
    for seed in range(5):
        for part in split([*plain, *copies], (0.5, 0.5), group="none", seed=seed):
            assert len(part) == 16
            numbers = Counter(re.match(r"\d+", s.path.stem)[0] for s in part)
            assert set(numbers.values()) == {4}


def test_copies_by_the_habits_of_other_tools_stay_together_too():
    names = [name for i in "abcdef" for name in (f"img{i}", f"aug_1_img{i}", f"img{i}_aug2", f"img{i}-flipped")]
    for seed in range(5):
        for part in split(
            [Sample(Path(f"{n}.png"), class_name="x") for n in names], (0.5, 0.5), group="none", seed=seed
        ):
            letters = Counter(re.search(r"img(\w)", s.path.stem)[1] for s in part)
            assert set(letters.values()) == {4}


def test_one_picture_in_two_formats_stays_together():
    data = [Sample(Path(f"d/{i}.{suffix}"), class_name="x") for i in range(6) for suffix in ("png", "jpg")]
    for part in split(data, (0.5, 0.5), group="none"):
        assert set(Counter(s.path.stem for s in part).values()) == {2}
    slices = [Sample(Path(f"d/slice.{i:03d}"), class_name="x") for i in range(8)]  # DICOM without a suffix
    assert [len(part) for part in split(slices, (0.5, 0.5), group="none")] == [4, 4]


@pytest.mark.parametrize("group", [r"^(P\d+)", re.compile(r"P\d+"), lambda path: path.name.split("_")[0]])
def test_a_rule_groups_like_the_patients_it_finds(group):
    data = cohort([3, 5, 2, 4, 6, 1, 2, 2])
    nameless = [replace(s, patient=None) for s in data]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = split(nameless, PARTS, group=group, seed=3)
    assert [[s.path for s in p] for p in found] == [[s.path for s in p] for p in split(data, PARTS, seed=3)]


def test_a_rule_that_finds_nothing_names_the_file():
    for group in (r"^(Q\d+)", lambda path: None, lambda path: ""):
        with pytest.raises(ValueError, match=r"P0_0.png: the rule given as group finds no group for this file"):
            split(balanced(10, 1), PARTS, group=group)


def test_lesion_counts_are_shared_out():
    data = [boxed(f"{i}.png", *["hcc"] * (1 if i % 4 else 5)) for i in range(80)]
    for seed in range(5):
        for part, share in zip(split(data, PARTS, group="none", seed=seed), PARTS, strict=True):
            assert sum(len(s.names) == 5 for s in part) == pytest.approx(20 * share, abs=1)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("P007_03__aug002", "P007_03"),
        ("P007_03__aug002__aug001", "P007_03"),
        ("P007_03", None),
        ("__aug001", None),
        ("P007__augmented", None),
    ],
)
def test_our_copies_are_known_by_their_names(name, source):
    assert copied_from(Path("a", name + ".png")) == source


@pytest.mark.parametrize(
    "name",
    [
        "aug_1_img", "aug1_img", "AUG-img", "augmented_img", "img_aug3", "img-aug-3", "img_augmented", "img.aug.12",
        "img_jpg.rf.0a1b2c3d4e5f60718293a4b5c6d7e8f9", "aug_img_0_4711", "img_flip", "img_hflip", "img_flipped",
        "img_rot90", "img_rotated_15", "img_noise", "img_blur2", "img - Copy", "img - Copie", "Copy of img",
        "img__aug001", "aug_2_img_flipped",
    ],
)  # fmt: skip
def test_augmented_names_are_traced_back(name):
    assert "img" in family_names(name)


@pytest.mark.parametrize("name", ["P001_01", "BloodImage_00338", "Y92", "1 no", "august_3", "image (1)", "a.rf", "rot"])
def test_ordinary_names_are_left_alone(name):
    assert family_names(name) == [name]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 12), max_size=3), max_size=20))
def test_grouping_is_the_connected_components(keys):
    groups = together(keys)
    assert sorted(i for g in groups for i in g) == list(range(len(keys)))
    assert [g[0] for g in groups] == sorted(g[0] for g in groups)
    found = [{k for i in g for k in keys[i]} for g in groups]
    assert sum(map(len, found)) == len(set().union(*found))  # no key in two groups
    for g in groups:  # and no group that falls apart
        reached, grown = set(keys[g[0]]), True
        while grown:
            grown = False
            for i in g:
                if reached & set(keys[i]) and not set(keys[i]) <= reached:
                    reached |= set(keys[i])
                    grown = True
        assert len(g) == 1 or reached == {k for i in g for k in keys[i]}


# Without patients


def picture(path: Path, seed: int, light: int = 0) -> Path:
    """Draw a grainy blob: no two seeds look alike."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 200, (6, 6), dtype=np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)
    grain = rng.integers(0, 40, (96, 96)) + light
    Image.fromarray((np.asarray(coarse).astype(int) + grain).clip(0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def twins(tmp_path) -> list[Sample]:
    """Make ten pictures, each once more a little brighter, none with a patient."""
    return [
        Sample(picture(tmp_path / f"{i}{'ab'[light > 0]}.png", i, light), class_name="xy"[i % 2])
        for i in range(10)
        for light in (0, 12)
    ]


def test_without_patients_near_duplicates_stay_together_and_it_is_said(twins):
    for seed in range(3):
        with pytest.warns(
            UserWarning, match=r"20 of 20 samples have no patient, first .*0a.png: they are grouped by near"
        ):
            parts = split(twins, (0.5, 0.5), seed=seed)
        for part in parts:
            assert set(Counter(s.path.stem[0] for s in part).values()) == {2}
        assert leakage(*parts).clean
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        silent = split(twins, (0.5, 0.5), group="duplicate", seed=seed)
    assert silent == parts


def test_the_warning_points_at_the_caller(twins):
    for call in (split, folds, nested_folds):
        with pytest.warns(UserWarning, match="have no patient") as caught:
            call(twins, **({} if call is split else {"outer": 2, "inner": 2} if call is nested_folds else {"count": 2}))
        assert {Path(w.filename).name for w in caught} == {Path(__file__).name}
        assert sum("have no patient" in str(w.message) for w in caught) == 1


def test_one_sample_without_patient_joins_the_patient_it_looks_like(twins):
    data = [replace(s, patient=f"P{i // 2}") for i, s in enumerate(twins)]
    data[5] = replace(data[5], patient=None)
    for seed in range(3):
        with pytest.warns(UserWarning, match="1 of 20 samples have no patient"):
            parts = split(data, (0.5, 0.5), seed=seed)
        assert len([part for part in parts if {data[4], data[5]} & set(part)]) == 1


def test_images_are_not_even_opened_where_all_patients_are_known(twins):
    data = [replace(s, patient=f"P{i}") for i, s in enumerate(twins)]  # as if twins were of two patients each
    parts = split(data, (0.5, 0.5), seed=1)
    assert leakage(*parts).near_duplicates  # patients decide; the audit tells


def test_none_keeps_together_only_what_is_certain(twins):
    assert any(leakage(*split(twins, (0.5, 0.5), group="none", seed=seed)).near_duplicates for seed in range(3))


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
    for pair in pairs:
        assert not leakage(*pair).duplicates
        assert not leakage(*pair).files  # Y92.jpg and Y92.png


# Parts without a class


def told(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught if "classes are missing" in str(w.message)]


def slice_of(number, *names):
    annotation = Annotation(np.tile(np.array([[1, 1, 5, 5]], np.float32), (len(names), 1)), names, size=(9, 9))
    return Sample(Path(f"{number}.png"), patient=f"P{number}", annotation=annotation)


def test_parts_without_a_class_are_named():
    data = [slice_of(0, "cyst"), *(slice_of(i, "hcc") for i in range(1, 10))]
    (message,) = told(lambda: split(data, (0.7, 0.1, 0.2)))
    assert message.count("no 'cyst'") == 2
    (message,) = told(lambda: folds(data, 5))
    assert message.count("test (2 images): no 'cyst'") == 4
    assert message.count("training (8 images): no 'cyst'") == 1
    (message,) = told(lambda: nested_folds(data, 3, 2))
    assert "inner fold" in message
    assert re.search(r"; and \d+ more\. Without", message)


def test_a_part_without_any_lesion_is_named():
    data = [slice_of(0, "hcc"), *(slice_of(i) for i in range(1, 10))]
    (message,) = told(lambda: split(data, (0.5, 0.5)))
    assert re.search(r"part [12] \(5 images\): no lesion at all", message)
    classes = [Sample(Path(f"{i}.png"), patient=str(i), class_name="normal" if i else "cancer") for i in range(9)]
    (message,) = told(lambda: split(classes, (0.5, 0.5)))
    assert "no 'cancer'" in message


def test_complete_parts_give_no_warning():
    data = [slice_of(i, "hcc", "cyst") for i in range(20)]
    assert told(lambda: [split(data), folds(data), nested_folds(data), split([slice_of(i) for i in range(9)])]) == []
