import csv
import io
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import COLOUR
from image_files import dicom as dicom_file
from PIL import Image

import hccvision as hv
from hccvision import images, phantom
from hccvision.annotations import voc
from hccvision.annotations.image_folder import read_image_folder
from hccvision.annotations.voc_folder import read_voc_folder
from hccvision.contracts import Annotation, Problem, Sample
from hccvision.curation.expansion import expand_dataset
from hccvision.curation.leakage import leakage
from hccvision.data.splits import folds, split

PATIENT = r"^(P\d+)_"


def mirror(pixels, targets, generator):
    """Mirror left and right, and no more."""
    from hccvision.augment import move_boxes, move_images

    width = pixels.shape[-1]
    matrix = torch.tensor([[[-1.0, 0.0, width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    return move_images(pixels, matrix), move_boxes(targets, matrix, pixels.shape[-2:])


@pytest.fixture(scope="module")
def liver(tmp_path_factory) -> list[Sample]:
    root = tmp_path_factory.mktemp("expansion") / "liver"
    phantom.write_dataset(root, patients=4, slices=2, cancer_share=0.5, level="mild", seed=1)
    return read_voc_folder(root, patient=PATIENT)


@pytest.fixture(scope="module")
def expanded(liver, tmp_path_factory) -> tuple[Path, list[Sample]]:
    folder = tmp_path_factory.mktemp("expansion") / "more"
    return folder, expand_dataset(liver, folder, to=20, seed=5)


def boxes(sample: Sample) -> list | None:
    return None if sample.annotation is None else sample.annotation.boxes.tolist()


def facts(data: list[Sample]) -> list[tuple]:
    return sorted((s.path.name, s.source_id, s.patient, s.class_name, boxes(s), s.problems) for s in data)


def test_as_many_as_asked_dealt_out_evenly_with_their_sources(liver, expanded):
    folder, data = expanded
    assert (
        len(data) == len(list((folder / "JPEGImages").iterdir())) == len(list((folder / "Annotations").iterdir())) == 20
    )
    copies = Counter(s.source_id for s in data if s.source_id)
    assert set(copies) == {s.path.stem for s in liver}
    assert set(copies.values()) == {1, 2}
    assert all(s.patient == s.path.name[:4] for s in data)
    assert any(len(s.annotation) == 0 for s in data if s.source_id)  # slices without lesions are copied too


def test_reading_the_folder_again_gives_the_same(expanded):
    folder, data = expanded
    assert facts(read_voc_folder(folder, patient=PATIENT)) == facts(data)
    assert facts(read_voc_folder(folder, patient=folder / "expanded.csv")) == facts(data)
    with (folder / "expanded.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["image"].split("/")[1], r["source_id"] or None, r["patient"]) for r in rows] == [
        (s.path.name, s.source_id, s.patient) for s in data
    ]


def test_originals_are_kept_as_they_are_and_copies_are_not(liver, expanded):
    _, data = expanded
    originals = {s.path.name: s for s in data if s.source_id is None}
    for before in liver:
        after = originals[before.path.name]
        assert after.path.read_bytes() == before.path.read_bytes()
        assert after.annotation.boxes.tolist() == before.annotation.boxes.tolist()
    for copy in (s for s in data if s.source_id):
        first, second = images.read_image(copy.path), images.read_image(originals[f"{copy.source_id}.png"].path)
        assert first.shape == second.shape
        assert not np.array_equal(first, second)
        assert Image.open(copy.path).mode == "L"


def test_equal_seeds_give_equal_files_and_others_do_not(liver, expanded, tmp_path):
    folder, _ = expanded

    def content(root: Path) -> dict[str, bytes]:
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}

    torch.manual_seed(99)
    expand_dataset(liver, tmp_path / "same", to=20, seed=5)
    assert content(tmp_path / "same") == content(folder)
    expand_dataset(liver[:2], tmp_path / "part", to=4, seed=5)  # a copy doesn't depend on the others
    part = content(tmp_path / "part")
    assert all(content(folder)[name] == part[name] for name in part if name.endswith("png"))
    expand_dataset(liver, tmp_path / "other", to=20, seed=6)
    other = content(tmp_path / "other")
    assert all(other[n] != content(folder)[n] for n in other if n.endswith("png") and "__aug" in n)


def test_boxes_move_with_their_image_and_keep_their_flags(tmp_path):
    pixels = np.zeros((40, 60), np.uint8)
    pixels[10:20, 5:15] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    annotation = Annotation(
        [[5, 10, 15, 20], [30, 5, 50, 35]], ("hcc", "cyst"), size=(40, 60), difficult=(False, True),
        truncated=(True, False), poses=("Left", "Right"), verified=True,
    )  # fmt: skip
    original, copy = expand_dataset(
        [Sample(tmp_path / "a.png", "P1", annotation=annotation)], tmp_path / "more", to=2, augmentation=mirror
    )
    assert original.annotation.boxes.tolist() == annotation.boxes.tolist()
    assert original.annotation.verified
    assert copy.annotation.boxes.tolist() == [[45, 10, 55, 20], [10, 5, 30, 35]]
    assert (copy.annotation.names, copy.annotation.difficult) == (("hcc", "cyst"), (False, True))
    assert (copy.annotation.truncated, copy.annotation.poses) == ((True, False), ("Left", "Right"))
    assert not copy.annotation.verified
    assert copy.annotation.size == (40, 60)
    assert (images.read_image(copy.path)[10:20, 45:55] == 200).all()
    assert voc.read(tmp_path / "more" / "Annotations" / "a__aug001.xml").filename == "a__aug001.png"


def test_a_box_that_leaves_the_image_is_left_out_and_the_others_keep_their_names(tmp_path):
    Image.new("L", (60, 40), 80).save(tmp_path / "a.png")
    annotation = Annotation([[0, 0, 10, 10], [30, 5, 50, 35]], ("hcc", "cyst"), size=(40, 60))

    def shift(pixels, targets, generator):
        from hccvision.augment import move_boxes, move_images

        matrix = torch.tensor([[[1.0, 0.0, -9.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
        return move_images(pixels, matrix), move_boxes(targets, matrix, pixels.shape[-2:])

    sample = Sample(tmp_path / "a.png", annotation=annotation)
    _, copy = expand_dataset([sample], tmp_path / "more", to=2, augmentation=shift)
    assert copy.annotation.names == ("cyst",)
    assert copy.annotation.boxes.tolist() == [[21, 5, 41, 35]]


def test_what_reaches_outside_is_cut_off(tmp_path):
    Image.new("L", (60, 40), 80).save(tmp_path / "a.png")
    problem = Problem("box_outside", "a.xml", "reaches outside")
    annotation = Annotation([[50, 30, 70, 44], [70, 50, 80, 60]], ("hcc", "hcc"), size=(40, 60), problems=(problem,))
    sample = Sample(tmp_path / "a.png", annotation=annotation, problems=(problem,))
    with pytest.raises(ValueError, match="reaches outside"):
        expand_dataset([sample], tmp_path / "more", to=2)
    assert not (tmp_path / "more").exists()
    found = expand_dataset([sample], tmp_path / "more", to=2, augmentation="none", on_problem="skip")
    assert [s.annotation.boxes.tolist() for s in found] == [[[50, 30, 60, 40]]] * 2
    assert [s.problems for s in read_voc_folder(tmp_path / "more")] == [(), ()]


@pytest.fixture
def slices(tmp_path) -> list[Sample]:
    rng = np.random.default_rng(0)
    for name in ("no", "yes"):
        (tmp_path / "slices" / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 255, (24, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "slices" / name / f"{i}.{'jpg' if i else 'png'}")
    return read_image_folder(tmp_path / "slices")


def test_class_folders(slices, tmp_path):
    data = expand_dataset(slices, tmp_path / "more", to=20)
    assert facts(read_image_folder(tmp_path / "more")) == facts(data)
    assert Counter(s.class_name for s in data)["no"] in (10, 11, 12)
    assert {s.source_id for s in data} == {None, *(f"{n}/{i}" for n in ("no", "yes") for i in range(4))}
    assert images.read_image(data[1].path).shape == (24, 30, 3)
    assert Image.open(next(s.path for s in data if s.source_id)).mode == "RGB"


def test_no_split_tears_the_copies_of_a_source(slices, expanded, tmp_path):
    more = expand_dataset(slices, tmp_path / "more", to=24)
    again = read_image_folder(tmp_path / "more")
    for data in (more, again, [*slices, *again], expanded[1]):
        for seed in range(3):
            for group in ("none", "duplicate"):
                assert not leakage(*split(data, (0.5, 0.5), group=group, seed=seed)).siblings
        assert all(leakage(*pair).clean for pair in folds(data, 2, group="duplicate"))


def test_expanding_what_is_expanded_keeps_the_first_source(slices, tmp_path):
    once = expand_dataset(slices[:2], tmp_path / "once", to=4)
    twice = expand_dataset(once, tmp_path / "twice", to=8)
    assert {s.source_id for s in twice if "__aug" in s.path.name} == {"no/0", "no/1"}
    assert facts(read_image_folder(tmp_path / "twice")) == facts(twice)
    assert {s.path.name for s in twice if s.path.name.startswith("0")} == {
        "0.png", "0__aug001.png", "0__aug002.png", "0__aug001__aug001.png",
    }  # fmt: skip


def test_names_that_differ_by_their_suffix_alone_stay_apart(tmp_path):
    for suffix in ("jpg", "png"):
        Image.new("L", (8, 8), 90 if suffix == "jpg" else 10).save(tmp_path / f"Y92.{suffix}")
    data = [Sample(tmp_path / f"Y92.{suffix}", class_name="yes") for suffix in ("jpg", "png")]
    found = expand_dataset(data, tmp_path / "more", to=4)
    assert [s.path.name for s in found] == ["Y92_jpg.jpg", "Y92_jpg__aug001.png", "Y92_png.png", "Y92_png__aug001.png"]
    other = tmp_path / "other"
    other.mkdir()
    Image.new("L", (8, 8)).save(other / "Y92.jpg")
    with pytest.raises(ValueError, match="several images would be"):
        expand_dataset([data[0], Sample(other / "Y92.jpg", class_name="yes")], tmp_path / "clash", to=4)


@pytest.mark.parametrize("name", ["a.dcm", "a.png", "a"])
def test_a_medical_file_leaves_its_header_behind(tmp_path, name):
    dicom = tmp_path / name
    shutil.copyfile(pytest.importorskip("pydicom").examples.get_path("ct"), dicom)
    data = [Sample(dicom, class_name="normal")]
    found = expand_dataset(data, tmp_path / "more", to=2)
    assert {p.suffix for p in (tmp_path / "more" / "normal").iterdir()} == {".png"}
    assert np.array_equal(images.read_image(found[0].path), images.read_image(dicom))
    assert b"DICM" not in found[0].path.read_bytes()


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg"])
@pytest.mark.parametrize("preamble", ["none", "tiff"])
def test_what_is_dicom_by_its_content_leaves_its_header_behind(tmp_path, name, preamble):
    """A file of two faces is TIFF by its first bytes and DICOM by those at 128; its name says a third thing."""
    source = dicom_file(COLOUR[..., 0], tmp_path / "source.dcm", SpecificCharacterSet="ISO_IR 100").read_bytes()
    if preamble == "tiff":
        stream = io.BytesIO()
        Image.fromarray(COLOUR[..., 0]).save(stream, "TIFF")
        tail = stream.getvalue()
        first = int.from_bytes(tail[4:8], "little")
        source = b"II*\0" + (len(source) + first).to_bytes(4, "little") + source[8:] + tail
    else:
        source = source[132:][12 + int.from_bytes(source[140:144], "little") :]
    (tmp_path / name).write_bytes(source)
    assert b"Doe^Jane" in source
    (found,) = expand_dataset([Sample(tmp_path / name, class_name="normal")], tmp_path / "more", to=1)
    assert found.path.name == "a.png"
    assert b"Doe^Jane" not in found.path.read_bytes()
    np.testing.assert_array_equal(images.read_image(found.path)[..., 0], COLOUR[..., 0])


@pytest.mark.parametrize("name", ["a.tif", "a.TIFF", "a.jpg", "a.webp"])
def test_plain_pictures_are_copied_byte_for_byte(tmp_path, name):
    Image.fromarray(COLOUR).save(tmp_path / name)
    (found,) = expand_dataset([Sample(tmp_path / name, class_name="normal")], tmp_path / "more", to=1)
    assert found.path.read_bytes() == (tmp_path / name).read_bytes()


def test_an_existing_folder_is_left_alone(liver, tmp_path):
    (tmp_path / "thesis.txt").write_text("ten years")
    for folder in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(FileExistsError, match="expected a new or empty folder"):
            expand_dataset(liver, folder, to=20)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_errors(liver, slices, tmp_path):
    with pytest.raises(ValueError, match="8 images can't be expanded to 7"):
        expand_dataset(liver, tmp_path / "more", to=7)
    with pytest.raises(ValueError, match=r"all annotated, or all with class names alone; .*P001_01.png is otherwise"):
        expand_dataset([*slices, *liver], tmp_path / "more", to=20)
    for name in ("..", "a/b", "", "a\\b"):
        with pytest.raises(ValueError, match="can't be the name of a folder"):
            expand_dataset([Sample(slices[0].path, class_name=name)], tmp_path / "more", to=2)
    with pytest.raises(KeyError, match="unknown augmentation 'papers'"):
        expand_dataset(liver, tmp_path / "more", to=20, augmentation="papers")
    assert not (tmp_path / "more").exists()
    assert len(expand_dataset(liver, tmp_path / "more", to=8)) == 8


@pytest.mark.parametrize("format", ["coco", "yolo"])
def test_other_annotation_formats_hold_the_same(liver, expanded, tmp_path, format):
    _, data = expanded
    found = expand_dataset(liver, tmp_path / "more", to=20, seed=5, format=format)
    source = {"coco": ("annotations.json", "images"), "yolo": (".",)}[format]
    again = getattr(hv, {"coco": "read_coco", "yolo": "read_yolo_folder"}[format])(
        *(tmp_path / "more" / name for name in source), patient=tmp_path / "more" / "expanded.csv"
    )
    read = {s.path.name: s for s in again}
    for ours, theirs in zip(found, data, strict=True):
        assert (ours.path.name, ours.source_id, ours.patient) == (theirs.path.name, theirs.source_id, theirs.patient)
        assert ours.path.read_bytes() == theirs.path.read_bytes()
        assert ours.names == theirs.names == read[ours.path.name].names
        assert np.abs(ours.annotation.boxes - theirs.annotation.boxes).max(initial=0) <= 1  # of copies, not rounded
        assert boxes(ours) == boxes(read[ours.path.name])
        assert ours.annotation.path.is_relative_to(tmp_path / "more")
        assert ours.annotation.path.exists()
    assert {p.name for p in (tmp_path / "more").iterdir()} >= {"images", "expanded.csv"}


def test_an_expansion_that_fails_leaves_nothing(liver, tmp_path):
    def broken(pixels, targets, generator):
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        expand_dataset(liver, tmp_path / "more", to=20, augmentation=broken)
    assert list(tmp_path.iterdir()) == []
