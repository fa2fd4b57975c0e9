import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hccvision as hv
from hccvision.annotations import voc
from hccvision.annotations.image_folder import read_image_folder
from hccvision.annotations.voc_folder import read_voc_folder
from hccvision.contracts import Annotation, Problem, Sample
from hccvision.curation.checks import check
from hccvision.curation.repair import repair


def add(
    root: Path, name: str, *boxes: tuple[float, ...], seed: int = 0, names=None, size=(60, 80), stated=None
) -> None:
    """An image of noise, 80 wide and 60 high, and its XML."""
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    Image.fromarray(pixels).save(root / f"{name}.png")
    array = np.array(boxes, np.float32).reshape(-1, 4)
    voc.write(root / f"{name}.xml", Annotation(array, names or ("hcc",) * len(array), size=stated or size))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    add(root, "P1_good", (10, 10, 30, 40), seed=1)
    add(root, "P1_doubled", (10, 10, 30, 40), (50, 5, 70, 25), (10, 10, 30, 41), seed=2)
    add(root, "P2_flat", (10, 10, 30, 40), seed=3)
    xml = root / "P2_flat.xml"
    flat = "<object><name>hcc</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>9</xmax><ymax>20</ymax></bndbox></object>"
    xml.write_text(xml.read_text().replace("</annotation>", f"{flat}</annotation>"))
    add(root, "P2_outside", (60, 40, 95, 70), seed=4)
    add(root, "P3_tag", (10, 10, 30, 40), seed=5, stated=(80, 60))
    add(root, "P3_other", (10, 10, 130, 40), seed=6, stated=(60, 160))
    add(root, "P4_copy", (10, 10, 30, 40), seed=1)
    add(root, "P4_one", (10, 10, 30, 40), seed=7)
    add(root, "P4_two", (40, 10, 60, 40), seed=7)
    add(root, "P5_cut", (10, 10, 30, 40), seed=8)
    (root / "P5_cut.png").write_bytes((root / "P5_cut.png").read_bytes()[:-2000])
    add(root, "P5_tumour", (10, 10, 30, 40), seed=9, names=("tumour",))
    add(root, "P6_normal", seed=10)
    (root / "P6_lost.xml").write_text((root / "P1_good.xml").read_text().replace("P1_good", "P6_lost"))
    return root


def test_what_can_be_mended_is_and_the_rest_is_left_out_and_listed(root, tmp_path):
    before = contents(root)
    data = read_voc_folder(root, patient=r"^(P\d)_")
    changes = repair(data, tmp_path / "mended", rename={"tumour": "hcc"})
    assert contents(root) == before
    assert {(c.file, c.kind, bool(c.written)) for c in changes} == {
        ("P1_doubled.xml", "duplicate_box", True),
        ("P2_flat.xml", "degenerate_box", True),
        ("P2_outside.xml", "box_outside", True),
        ("P3_tag.xml", "size_mismatch", True),
        ("P3_other.xml", "size_mismatch", False),
        ("P4_copy.png", "identical_images", False),
        ("P4_one.png", "contradicting_copies", False),
        ("P4_two.png", "contradicting_copies", False),
        ("P5_cut.png", "truncated_image", False),
        ("P5_tumour.png", "unknown_class", True),
        ("P6_lost", "missing_image", False),
    }
    folder = tmp_path / "mended"
    mended = read_voc_folder(folder, patient=folder / "patients.csv")
    kept = ("P1_doubled", "P1_good", "P2_flat", "P2_outside", "P3_tag", "P5_tumour", "P6_normal")
    assert tuple(s.path.stem for s in mended) == kept
    assert [s.patient for s in mended] == [name[:2] for name in kept]
    boxes = {s.path.stem: s.annotation.boxes.tolist() for s in mended}
    assert boxes == {
        "P1_doubled": [[10, 10, 30, 40], [50, 5, 70, 25]],
        "P1_good": [[10, 10, 30, 40]],
        "P2_flat": [[10, 10, 30, 40]],
        "P2_outside": [[60, 40, 80, 60]],
        "P3_tag": [[10, 10, 30, 40]],
        "P5_tumour": [[10, 10, 30, 40]],
        "P6_normal": [],
    }
    assert {n for s in mended for n in s.names} == {"hcc"}
    report = check(mended, classes=["hcc"])
    assert report.level("error") == report.level("warning") == ()
    for s in mended:
        assert s.path.read_bytes() == (root / s.path.name).read_bytes()
    for name in ("P1_good.xml", "P6_normal.xml"):
        assert (folder / "Annotations" / name).read_bytes() == (root / name).read_bytes()


def test_the_changes_are_written_beside(root, tmp_path):
    changes = repair(read_voc_folder(root), tmp_path / "mended")
    with (tmp_path / "mended/changes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == json.loads((tmp_path / "mended/changes.json").read_text(encoding="utf-8"))
    assert rows == [vars(c) for c in changes]
    assert not (tmp_path / "mended/patients.csv").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "mended"]


def test_repairing_twice_changes_nothing_more(root, tmp_path):
    repair(read_voc_folder(root), tmp_path / "once")
    assert repair(read_voc_folder(tmp_path / "once"), tmp_path / "twice") == []
    once, twice = ({k: v for k, v in contents(tmp_path / n).items() if "changes" not in k} for n in ("once", "twice"))
    assert once == twice


def test_class_folders_stay_class_folders(tmp_path):
    root = tmp_path / "data"
    for folder, name, grey in (("no", "a", 1), ("no", "b", 1), ("yes", "a", 2), ("yes", "c", 3), ("no", "c", 3)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), grey).save(root / folder / f"{name}.png")
    changes = repair(read_image_folder(root), tmp_path / "mended", rename={"yes": "cancer"})
    assert [(c.file, c.kind, c.written) for c in changes] == [
        ("b.png", "identical_images", ""),
        ("c.png", "contradicting_copies", ""),
        ("a.png", "unknown_class", "cancer/a.png"),
        ("c.png", "contradicting_copies", ""),
    ]
    mended = read_image_folder(tmp_path / "mended")
    assert [(s.class_name, s.path.name) for s in mended] == [("cancer", "a.png"), ("no", "a.png")]


def test_images_of_one_name_are_both_written(tmp_path):
    for place, seed in (("one", 1), ("two", 2)):
        (tmp_path / place).mkdir()
        add(tmp_path / place, "a", (10, 10, 30, 40 + seed), seed=seed)
    data = [s for place in ("one", "two") for s in read_voc_folder(tmp_path / place)]
    (change,) = repair(data, tmp_path / "mended")
    assert (change.file, change.kind, change.written) == ("a.png", "same_name", "JPEGImages/a_2.png")
    mended = read_voc_folder(tmp_path / "mended")
    assert [(s.path.name, s.problems) for s in mended] == [("a.png", ()), ("a_2.png", ())]
    assert mended[1].annotation.filename == "a_2.png"
    assert [s.annotation.boxes[0, 3] for s in mended] == [41, 42]


@pytest.mark.parametrize("base", ["voc", "corner"])
def test_boxes_are_written_as_they_were_counted(tmp_path, base):
    (tmp_path / "data").mkdir()
    add(tmp_path / "data", "a", (10, 10, 30, 40), (10, 10, 30, 40))
    (before,) = read_voc_folder(tmp_path / "data", base=base)
    assert len(repair([before], tmp_path / "mended", base=base)) == 1
    (after,) = read_voc_folder(tmp_path / "mended", base=base)
    assert after.annotation.boxes.tolist() == before.annotation.boxes[:1].tolist()


def test_nothing_is_written_where_there_is_something_or_nothing_is_left(root, tmp_path):
    data = read_voc_folder(root)
    before = contents(root)
    for target in (root, root / "P1_good.png"):
        with pytest.raises(FileExistsError, match="expected a new or empty folder"):
            repair(data, target)
    assert contents(root) == before
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no sample is left of 1: left out, neither a class nor an annotation"):
        repair([Sample(root / "P1_good.png")], tmp_path / "empty")
    with pytest.raises(ValueError, match=r"unknown base 'pixel'; known: \"voc\" .*, \"corner\""):
        repair(data, tmp_path / "empty", base="pixel")
    assert list((tmp_path / "empty").iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "empty"]
    repair(data, tmp_path / "empty")
    assert (tmp_path / "empty/changes.csv").is_file()


@pytest.mark.parametrize("format", ["coco", "yolo"])
def test_other_annotation_formats_hold_the_same(root, tmp_path, format):
    data = read_voc_folder(root, patient=r"^(P\d)_")
    voc_changes = repair(data, tmp_path / "voc", rename={"tumour": "hcc"})
    changes = repair(data, tmp_path / "other", rename={"tumour": "hcc"}, format=format)
    assert [(c.file, c.kind) for c in changes] == [(c.file, c.kind) for c in voc_changes]
    folder = tmp_path / "other"
    repaired = sorted(hv.read_folder(folder, format, patient=folder / "patients.csv"), key=lambda s: s.path.name)
    for ours, theirs in zip(repaired, read_voc_folder(tmp_path / "voc", patient=r"^(P\d)_"), strict=True):
        assert (ours.path.name, ours.patient, ours.names) == (theirs.path.name, theirs.patient, theirs.names)
        assert ours.problems == ()
        assert ours.annotation.boxes == pytest.approx(theirs.annotation.boxes, abs=1e-3)
        assert ours.path.read_bytes() == theirs.path.read_bytes()
    files = {"coco": {"annotations.json"}, "yolo": {"classes.txt", "labels"}}[format]
    assert {p.name for p in folder.iterdir()} == {"images", "patients.csv", "changes.csv", "changes.json"} | files


@pytest.mark.parametrize("format", ["coco", "yolo"])
def test_annotations_read_from_other_formats_are_not_copied_as_xml(root, tmp_path, format):
    repair(read_voc_folder(root), tmp_path / "once", rename={"tumour": "hcc"}, format=format)
    folder = tmp_path / "once"
    data = hv.read_folder(folder, format)
    assert repair(data, tmp_path / "voc") == []
    again = read_voc_folder(tmp_path / "voc")
    assert [s.problems for s in again] == [()] * len(data)
    assert [s.names for s in again] == [s.names for s in sorted(data, key=lambda s: s.path.name)]


def test_an_unknown_format_is_refused(root, tmp_path):
    with pytest.raises(KeyError, match=r"unknown annotation format 'pascal'; Known: .*coco, .*masks, .*voc, yolo"):
        repair(read_voc_folder(root), tmp_path / "repaired", format="pascal")
    assert not (tmp_path / "repaired").exists()


def test_boxes_are_dropped_by_the_kind_of_their_problem_whatever_its_words(tmp_path):
    (tmp_path / "data").mkdir()
    add(tmp_path / "data", "a", (10, 10, 30, 40))
    (sample,) = read_voc_folder(tmp_path / "data")
    kinds = (
        "degenerate_box",
        "bad_box",
        "missing_name",
        "unknown_category",
        "box_off_image",
        "box_outside",
        "no_patient",
    )
    problems = tuple(Problem(kind, "a.xml", "left out" if kind == "box_outside" else "?") for kind in kinds)
    sample = replace(sample, annotation=replace(sample.annotation, problems=problems))
    changes = repair([sample], tmp_path / "repaired")
    assert [c.kind for c in changes if c.change == "box left out"] == list(kinds[:5])


def test_a_box_beyond_the_image_is_listed_as_left_out(tmp_path):
    (tmp_path / "data").mkdir()
    add(tmp_path / "data", "a", (10, 10, 30, 40), (90, 10, 99, 40))
    (change,) = repair(read_voc_folder(tmp_path / "data"), tmp_path / "repaired")
    assert (change.file, change.kind, change.change) == ("a.xml", "box_off_image", "box left out")


@pytest.mark.parametrize("format", ["voc", "yolo"])
def test_dicom_files_whose_names_differ_after_the_dot_keep_their_annotations(tmp_path, format):
    pydicom = pytest.importorskip("pydicom")
    source = Path(str(pydicom.examples.get_path("ct")))
    (tmp_path / "data").mkdir()
    for number in (1, 2):
        path = tmp_path / "data" / f"slice.00{number}"
        path.write_bytes(source.read_bytes() + bytes(2 * number))
        annotation = Annotation(np.array([[10, 10, 30, 40 + number]], np.float32), ("hcc",), size=(128, 128))
        voc.write(tmp_path / "data" / f"{path.name}.xml", annotation, image_path=path)
    (change,) = repair(read_voc_folder(tmp_path / "data"), tmp_path / "repaired", format=format)
    assert (change.file, change.kind) == ("slice.002", "same_name")
    again = hv.read_folder(tmp_path / "repaired", format)
    assert [(s.path.name, s.problems, s.annotation.boxes[0, 3]) for s in again] == [
        ("slice.001", (), 41),
        ("slice_2.002", (), 42),
    ]
