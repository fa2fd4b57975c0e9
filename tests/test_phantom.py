"""The phantom: repeatable, with tight boxes, no shortcut from scanner to class, and complete folders or none."""

from __future__ import annotations

import csv
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hccvision import phantom
from hccvision.annotations import voc
from hccvision.contracts import Annotation
from hccvision.phantom.lesions import blend_lesion
from hccvision.phantom.scanners import acquire

PATIENTS, SLICES = 8, 3


def digest(folder: Path) -> dict[str, str]:
    """Hash every file below a folder, by its relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "patients.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantom.write_dataset(tmp_path_factory.mktemp("phantom") / "liver", patients=PATIENTS, slices=SLICES, seed=3)


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, str]]:
    return rows_of(folder)


# Repeatability


def test_equal_seeds_give_equal_bytes_in_another_process(tmp_path: Path) -> None:
    options = "patients=2, slices=1, seed=5"
    script = f"from hccvision import phantom; phantom.write_dataset({str(tmp_path / 'other')!r}, {options})"
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    here = phantom.write_dataset(tmp_path / "here", patients=2, slices=1, seed=5)
    assert len(digest(here)) == 5
    assert digest(here) == digest(tmp_path / "other")


def test_another_seed_gives_other_patients(tmp_path: Path) -> None:
    folders = [phantom.write_dataset(tmp_path / str(seed), patients=2, slices=1, seed=seed) for seed in (0, 1)]
    first, second = (digest(folder) for folder in folders)
    assert first.keys() == second.keys()
    assert all(first[name] != second[name] for name in first if name.endswith(".png"))


def test_drawing_and_rendering_are_pure() -> None:
    first, again = (phantom.draw_patient([3, 1], cancer=True, scanner="B", slices=2) for _ in range(2))
    state = first.grey.copy(), first.balls.copy()
    images = [phantom.render(patient, patient.heights[0]).image for patient in (first, again, first)]
    assert first.lesions == again.lesions
    assert all(np.array_equal(images[0], image) for image in images[1:])
    assert np.array_equal(first.grey, state[0])
    assert np.array_equal(first.balls, state[1])


# Content of the folder


def test_every_row_has_its_image_and_annotation(folder: Path, rows: list[dict[str, str]]) -> None:
    assert len(rows) == PATIENTS * SLICES
    assert sorted(path.name for path in (folder / "JPEGImages").iterdir()) == [row["image"] for row in rows]
    assert len(list((folder / "Annotations").iterdir())) == len(rows)
    for row in rows:
        annotation = voc.read(folder / "Annotations" / row["image"].replace(".png", ".xml"))
        with Image.open(folder / "JPEGImages" / row["image"]) as image:
            assert image.mode == "L"
            assert (image.height, image.width) == annotation.size == phantom.SCANNERS[row["scanner"]].size
        assert annotation.problems == ()
        assert annotation.filename == row["image"]
        assert not annotation.verified
        assert len(annotation) == int(row["lesions"])
        assert row["class"] == ("cancer" if len(annotation) else "normal")
        assert set(annotation.names) <= {"hcc"}
        assert row["patient"] == row["image"].split("_")[0]


def test_sizes_and_spacings_are_as_documented() -> None:
    assert {name: scanner.size for name, scanner in phantom.SCANNERS.items()} == {"A": (520, 520), "B": (260, 320)}
    assert phantom.SCANNERS["A"].spacing != phantom.SCANNERS["B"].spacing


def test_both_classes_come_equally_from_both_scanners(rows: list[dict[str, str]]) -> None:
    scanner = {row["patient"]: row["scanner"] for row in rows}
    ill = {row["patient"] for row in rows if row["class"] == "cancer"}
    assert len(ill) == PATIENTS // 2
    for group in (ill, scanner.keys() - ill):
        assert sorted(scanner[patient] for patient in group) == ["A", "A", "B", "B"]
    assert {row["class"] for row in rows} == {"normal", "cancer"}


def test_a_patient_has_one_scanner_and_one_phase(rows: list[dict[str, str]]) -> None:
    for column in ("scanner", "phase", "spacing_mm"):
        assert len({(row["patient"], row[column]) for row in rows}) == PATIENTS


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 2), (0.5, 1)])
def test_the_share_of_cancer_counts_patients(tmp_path: Path, share: float, expected: int) -> None:
    folder = phantom.write_dataset(tmp_path / "liver", patients=2, slices=1, cancer_share=share)
    assert sum(row["class"] == "cancer" for row in rows_of(folder)) == expected


# Lesions


@pytest.mark.parametrize("seed", range(12))
def test_lesions_and_boxes_agree(seed: int) -> None:
    slices = 1 + seed % 4
    patient = phantom.draw_patient(seed, cancer=True, scanner="B", slices=slices)
    malignant = [lesion for lesion in patient.lesions if lesion.kind == "hcc"]
    assert 1 <= len(malignant) <= 5
    assert all(4.999 <= lesion.diameter <= 60.001 for lesion in malignant)
    spacing, (height, width) = phantom.SCANNERS["B"].spacing, phantom.SCANNERS["B"].size
    shown = 0
    for z in patient.heights:
        _, annotation, diameters, _ = phantom.render(patient, z)
        shown += len(annotation)
        x1, y1, x2, y2 = annotation.boxes.T
        assert np.all((x1 >= 0) & (y1 >= 0) & (x2 <= width) & (y2 <= height))
        assert np.array_equal(annotation.boxes, np.rint(annotation.boxes))
        area = np.pi / 4 * (np.array(diameters) / spacing) ** 2
        assert np.all((x2 - x1) * (y2 - y1) >= area - 1e-3)  # the box holds the section
        assert np.all(np.maximum(x2 - x1, y2 - y1) >= phantom.SMALLEST_MM / spacing * 0.88)
        assert all(phantom.SMALLEST_MM <= d <= 80 for d in diameters)
    assert shown >= 1  # at least one slice shows a lesion


def test_most_lesions_are_of_10_to_35_mm() -> None:
    patients = [phantom.draw_patient(seed, cancer=True, slices=1) for seed in range(15)]
    diameters = np.array([lesion.diameter for p in patients for lesion in p.lesions if lesion.kind == "hcc"])
    assert np.mean((diameters >= 10) & (diameters <= 35)) > 0.6


@pytest.mark.parametrize("scanner", ["A", "B"])
def test_cancer_changes_the_image_where_the_boxes_are_and_hardly_elsewhere(scanner: str) -> None:
    healthy, ill = (phantom.draw_patient(21, cancer=cancer, scanner=scanner) for cancer in (False, True))
    assert ill.lesions[: len(healthy.lesions)] == healthy.lesions
    inside, outside = [], []
    for z in ill.heights:
        without, with_cancer = phantom.render(healthy, z), phantom.render(ill, z)
        assert len(without.annotation) == 0
        assert with_cancer.look_alikes == without.look_alikes
        change = np.abs(with_cancer.image.astype(int) - without.image)
        near = np.zeros(change.shape, bool)
        for x1, y1, x2, y2 in with_cancer.annotation.boxes.astype(int):
            near[max(y1 - 6, 0) : y2 + 6, max(x1 - 6, 0) : x2 + 6] = True
            inside.append(change[y1:y2, x1:x2].mean())
        outside.append(change[~near].mean())
    assert len(inside) >= 1
    assert min(inside) > 1.5
    assert max(outside) < 0.3  # Gibbs ringing and the ghost change a little


def test_the_box_is_tight_around_a_lesion_that_stands_out() -> None:
    lesion = phantom.Lesion("hcc", (0.0, 10.0, 0.0), (20.0, 12.0, 15.0), 0.0, (), 9.0, 9.0, 1.0, 0.0, 0.0, 1)
    spacing, size = 1.25, (100, 120)
    for z in (0.0, 9.0):
        signal = np.ones(size, np.float32)
        seen = blend_lesion(signal, lesion, z, np.ones(size, bool), 1.0, spacing)
        assert seen is not None
        box, diameter = seen
        section = np.sqrt(1 - (z / 15) ** 2)
        half = np.array([20, 12]) * section / spacing
        middle = np.array([60, 50 + 10 / spacing])
        np.testing.assert_allclose(box, [*(middle - half), *(middle + half)], atol=1)
        np.testing.assert_allclose(diameter, 2 * np.sqrt(20 * 12) * section, rtol=0.02)
        bright = np.argwhere(signal > 5)
        np.testing.assert_allclose(box, [*bright.min(0)[::-1], *(bright.max(0) + 1)[::-1]], atol=1)
    assert blend_lesion(np.ones(size, np.float32), lesion, 14.9, np.ones(size, bool), 1.0, spacing) is None
    assert blend_lesion(np.ones(size, np.float32), lesion, 0.0, np.zeros(size, bool), 1.0, spacing) is None


def test_the_level_sets_contrast_and_size_of_hcc_and_nothing_else() -> None:
    sizes: dict[str, list[float]] = {"mild": [], "hard": []}
    contrasts: dict[str, list[float]] = {"mild": [], "hard": []}
    for seed in range(30):
        patients = {level: phantom.draw_patient(seed, cancer=True, level=level) for level in sizes}
        benign = [[x for x in p.lesions if x.kind != "hcc"] for p in patients.values()]
        assert benign[0] == benign[1]
        for level, patient in patients.items():
            malignant = [x for x in patient.lesions if x.kind == "hcc"]
            sizes[level] += [x.diameter for x in malignant]
            contrasts[level] += [abs(x.core - 1) for x in malignant]
    assert len(sizes["mild"]) == len(sizes["hard"])
    assert np.median(sizes["mild"]) / np.median(sizes["hard"]) == pytest.approx(36 / 16, rel=0.1)
    assert np.median(contrasts["mild"]) > 2 * np.median(contrasts["hard"])


def test_look_alikes_are_in_normal_patients_too() -> None:
    kinds = {lesion.kind for seed in range(12) for lesion in phantom.draw_patient(seed, cancer=False, slices=1).lesions}
    assert kinds == {"cyst", "haemangioma", "nodule"}


# Anatomy and acquisition


def test_slices_of_a_patient_resemble_each_other_more_than_those_of_others() -> None:
    patients = [phantom.draw_patient(seed, cancer=False, scanner="B", slices=2) for seed in range(5)]
    images = [[phantom.render(p, z).image.ravel().astype(float) for z in p.heights] for p in patients]
    similar = np.corrcoef([image for pair in images for image in pair])
    own = np.kron(np.eye(5, dtype=bool), np.ones((2, 2), bool))
    assert similar[own].min() > similar[~own].max()


def test_the_noise_is_rician() -> None:
    scanner = phantom.SCANNERS["B"]
    rng = np.random.default_rng(0)
    air = acquire(rng, np.zeros(scanner.size, np.float32), scanner)
    np.testing.assert_allclose(air.mean() / air.std(), np.sqrt(np.pi / (4 - np.pi)), rtol=0.03)  # Rayleigh in air
    sigma = air.mean() / np.sqrt(np.pi / 2)
    bright = acquire(rng, np.full(scanner.size, 1.0, np.float32), scanner)
    np.testing.assert_allclose(bright.mean(), 1 + sigma**2 / 2, rtol=0.002)  # the weighing keeps the mean
    np.testing.assert_allclose(bright.std(), sigma, rtol=0.05)


def test_the_body_stands_on_air_and_fits_the_field_of_view() -> None:
    for seed, scanner in ((0, "A"), (1, "B"), (2, "A"), (3, "B")):
        patient = phantom.draw_patient(seed, cancer=False, scanner=scanner, slices=2)
        image = phantom.render(patient, patient.heights[0]).image
        border = np.concatenate([image[:3].ravel(), image[-3:].ravel(), image[:, :3].ravel(), image[:, -3:].ravel()])
        assert border.mean() < 15
        assert 25 < image[image.shape[0] // 4 : -image.shape[0] // 4].mean() < 160
        assert image.max() > 140


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patients": 0}, "at least 1 patient"),
        ({"slices": 0}, "slices=0"),
        ({"cancer_share": 1.1}, "cancer_share=1.1"),
        ({"cancer_share": float("nan")}, "cancer_share=nan"),
        ({"seed": -1}, "seed=-1"),
        ({"level": "easy"}, "mild, medium, hard"),
    ],
)
def test_bad_options_are_named_and_leave_nothing(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        phantom.write_dataset(tmp_path / "liver", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_patient_needs_a_known_scanner_and_a_slice() -> None:
    with pytest.raises(ValueError, match="unknown scanner 'C': expected one of A, B"):
        phantom.draw_patient(0, cancer=False, scanner="C")
    with pytest.raises(ValueError, match="at least 1 slice"):
        phantom.draw_patient(0, cancer=False, slices=0)


@pytest.mark.parametrize("z", [-76.0, 63.0, float("nan")])
def test_a_height_beyond_the_liver_is_refused(z: float) -> None:
    with pytest.raises(ValueError, match="-75 to 62"):
        phantom.render(phantom.draw_patient(0, cancer=False, slices=1), z)


def test_a_folder_that_holds_anything_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(FileExistsError, match="choose another"):
            phantom.write_dataset(path, patients=1, slices=1)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_empty_folder_and_a_missing_parent_are_fine(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "a/b/new"):
        assert phantom.write_dataset(tmp_path / name, patients=1, slices=1) == tmp_path / name
        assert (tmp_path / name / "patients.csv").is_file()


def test_a_failure_while_writing_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    write = voc.write

    def fail_on_second(path: Path, annotation: Annotation, **options: Any) -> Path:
        calls.append(path)
        if len(calls) == 2:
            raise OSError("the disk is full")
        return write(path, annotation, **options)

    monkeypatch.setattr(voc, "write", fail_on_second)
    with pytest.raises(OSError, match="disk is full"):
        phantom.write_dataset(tmp_path / "liver", patients=2, slices=1)
    assert len(calls) == 2
    assert list(tmp_path.iterdir()) == []
