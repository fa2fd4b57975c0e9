import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hccvision.contracts import Sample
from hccvision.curation.leakage import Leakage, leakage

KINDS = ("patients", "series", "files", "duplicates", "near_duplicates", "siblings")


def only(found: Leakage, *kinds: str) -> bool:
    """Whether these kinds of leak are found, and no other."""
    return {kind for kind in KINDS if getattr(found, kind)} == set(kinds)


@pytest.fixture
def copies(tmp_path) -> list[Sample]:
    """Make twelve files, the first six pairwise identical; none is an image."""
    data = []
    for i in range(12):
        path = tmp_path / f"{i}.png"
        path.write_bytes(bytes([i // 2 if i < 6 else i]) * 10)
        data.append(Sample(path, class_name="ab"[i % 2]))
    return data


def picture(path: Path, seed: int, *, light: int = 0, turn: int = 0, mirror: bool = False) -> Path:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 200, (6, 6), dtype=np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)
    pixels = np.asarray(coarse).astype(int) + rng.integers(0, 40, (96, 96)) + light
    pixels = np.rot90(pixels, turn)
    Image.fromarray((pixels[:, ::-1] if mirror else pixels).clip(0, 255).astype(np.uint8)).save(path)
    return path


def test_identical_files_and_patients_are_named(copies):
    first = Sample(copies[0].path, patient="P1")
    found = leakage([first, copies[6]], [copies[1], Sample(copies[8].path, patient="P1"), copies[7]])
    assert only(found, "patients", "duplicates")
    assert found.duplicates == ((str(copies[0].path), str(copies[1].path)),)
    assert found.patients == ("P1",)
    assert (found.touched, found.images) == (2, 3)
    assert not found.clean
    assert str(found).splitlines() == [
        "2 of 3 images of the second set share something with the first:",
        "  shared patients: 1 (P1)",
        f"  identical files: 1 images ({copies[0].path} and {copies[1].path})",
    ]


def test_the_same_sample_and_the_same_file(copies):
    same = str(copies[6].path)
    for found in (leakage([copies[6], copies[7]], [copies[6]]), leakage([copies[6]], [Sample(copies[6].path)])):
        assert found.duplicates == found.files == ((same, same),)
    gone = leakage([Sample(Path("gone.png"))], [Sample(Path("gone.png"))])
    assert gone.files == (("gone.png", "gone.png"),)


def test_one_name_in_two_formats_in_one_folder():
    assert only(leakage([Sample(Path("d/a.png"))], [Sample(Path("d/a.jpg"))]), "files")
    assert leakage([Sample(Path("d/1.png"))], [Sample(Path("e/1.png"))]).clean
    assert leakage([Sample(Path("d/slice.001"))], [Sample(Path("d/slice.002"))]).clean


def test_clean_sets_are_called_clean(copies):
    found = leakage(copies[:6], copies[6:])
    assert found.clean
    assert found.touched == 0
    assert str(found) == "no shared patient, series or source, no duplicate, no augmented sibling"
    assert leakage([], copies).clean
    assert leakage(copies, []).clean
    assert leakage([], []).clean
    nobody = [Sample(Path("gone_a.png"))], [Sample(Path("gone_b.png"))]
    assert leakage(*nobody).clean  # unknown patients, and unreadable files, are not one and the same


def test_shared_series():
    found = leakage([Sample(Path("a.png"), series="T1")], [Sample(Path("b.png"), series="T1"), Sample(Path("c.png"))])
    assert only(found, "series")
    assert (found.series, found.touched) == (("T1",), 1)


@pytest.mark.parametrize("change", [{"light": 12}, {"mirror": True}, {"turn": 1}, {"turn": 2, "mirror": True}])
def test_near_duplicates_also_turned_and_mirrored(tmp_path, change):
    train = [Sample(picture(tmp_path / f"a{i}.png", i)) for i in range(4)]
    test = [Sample(picture(tmp_path / "b.png", 2, **change)), Sample(picture(tmp_path / "c.png", 9))]
    found = leakage(train, test)
    assert only(found, "near_duplicates")
    assert found.near_duplicates == ((str(train[2].path), str(test[0].path)),)


def test_an_identical_file_is_not_counted_as_a_near_duplicate(tmp_path):
    data = [Sample(picture(tmp_path / f"{name}.png", 0)) for name in "ab"]
    assert only(leakage(data[:1], data[1:]), "duplicates")


def test_siblings_by_source():
    found = leakage([Sample(Path("more/x.png"), source_id="yes/1")], [Sample(Path("more/y.png"), source_id="yes/1")])
    assert only(found, "siblings")
    found = leakage([Sample(Path("liver/yes/1.jpg"))], [Sample(Path("more/y.png"), source_id="yes/1")])
    assert found.siblings == (("liver/yes/1.jpg", "more/y.png"),)
    assert leakage([Sample(Path("liver/no/1.jpg"))], [Sample(Path("more/y.png"), source_id="yes/1")]).clean


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("img", "aug_1_img"),
        ("aug_2_img", "aug_1_img"),
        ("img_aug3", "img"),
        ("img_jpg.rf.0123456789abcdef", "img_jpg.rf.fedcba9876543210"),
        ("P1_03__aug001", "P1_03__aug002"),
    ],
)
def test_siblings_by_name(one, other):
    assert only(leakage([Sample(Path(f"a/{one}.png"))], [Sample(Path(f"b/{other}.png"))]), "siblings")


def test_names_alone_say_nothing_across_classes_or_without_an_augmented_one():
    assert leakage([Sample(Path("a/1.png"), class_name="no")], [Sample(Path("b/aug_0_1.png"), class_name="yes")]).clean
    assert leakage([Sample(Path("a/img_01.png"))], [Sample(Path("b/img_01.png")), Sample(Path("b/img_02.png"))]).clean


def test_one_pair_for_each_image_of_the_second_set():
    train = [Sample(Path(f"a/img{i}_aug{n}.png")) for i in range(3) for n in range(5)]
    test = [Sample(Path(f"b/img{i}_aug{n}.png")) for i in range(4) for n in range(2)]
    found = leakage(train, test)
    assert Counter(b for _, b in found.siblings) == Counter(str(s.path) for s in test[:6])
    assert (found.touched, found.images) == (6, 8)


def test_as_plain_values():
    found = leakage([Sample(Path("a.png"), "P1")], [Sample(Path("b.png"), "P1"), Sample(Path("aug_1_a.png"))])
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain == {
        "clean": False, "images": 2, "touched": 2, "patients": ["P1"], "series": [], "files": [], "duplicates": [],
        "near_duplicates": [], "siblings": [["a.png", "aug_1_a.png"]],
    }  # fmt: skip


def test_only_the_first_examples_are_printed():
    train = [Sample(Path(f"a{i}.png"), f"P{i}") for i in range(9)]
    test = [replace(s, path=Path(f"aug_1_a{i}.png")) for i, s in enumerate(train)]
    lines = str(leakage(train, test)).splitlines()
    assert lines[1] == "  shared patients: 9 (P0, P1, P2, P3, P4 …)"
    assert lines[2] == "  augmented siblings: 9 images (a0.png and aug_1_a0.png, a1.png and aug_1_a1.png …)"


def test_the_papers_way_leaves_hardly_a_test_image_without_a_sibling():
    """334 images, 2000 after augmentation, then 80 to 20 by chance: 99.96 % have a sibling in training."""
    data = [Sample(Path(f"{i}__aug{n:03d}.png"), source_id=str(i)) for i in range(334) for n in range(6)][:2000]
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(3):
        order = rng.permutation(len(data))
        found = leakage([data[i] for i in order[:1600]], [data[i] for i in order[1600:]])
        shares.append(len(found.siblings) / found.images)
    assert np.mean(shares) > 0.998
