from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hccvision.annotations.judging import UNREAD
from hccvision.annotations.yolo import read_yolo_folder, write_yolo_folder
from hccvision.contracts import Annotation, Problem, Sample

LABELS = "1 0.5 0.5 0.5 0.4\n\n0 0.25 0.5 0.5 1\n"
NAMES = ["hcc", "cyst"]


def put(path: Path, text: str | bytes = LABELS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def picture(path: Path, size=(60, 50)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, 9).save(path)
    return path


def kinds(samples) -> list[list[str]]:
    return [[p.kind for p in s.problems] for s in samples]


@pytest.mark.parametrize(
    ("images", "labels"), [("images", "labels"), ("", ""), ("images", ""), ("images/a", "labels/a")]
)
def test_reads_every_layout(tmp_path, images, labels):
    picture(tmp_path / images / "ä b.png")
    put(tmp_path / (labels or images) / "ä b.txt")
    put(tmp_path / (labels.split("/")[0] or images) / "classes.txt", "hcc\r\ncyst\r\n\r\n")
    put(tmp_path / "README.txt", "a note")
    (sample,) = read_yolo_folder(str(tmp_path))
    assert sample.annotation.boxes.tolist() == [[15, 15, 45, 35], [0, 0, 30, 50]]
    assert (sample.annotation.names, sample.annotation.size, sample.problems) == (("cyst", "hcc"), (50, 60), ())
    assert (sample.path.name, sample.annotation.filename, sample.annotation.path.name) == (
        "ä b.png",
        "ä b.png",
        "ä b.txt",
    )


@pytest.mark.parametrize(
    ("line", "kind", "count"),
    [
        ("2 0.5 0.5 0.1 0.1", "unknown_category", 0),
        ("-1 0.5 0.5 0.1 0.1", "unknown_category", 0),
        ("hcc 0.5 0.5 0.1 0.1", "unknown_category", 0),
        ("9999999999999 0.5 0.5 0.1 0.1", "unknown_category", 0),
        ("0 0.5 0.5 0.1", "bad_box", 0),
        ("0 0.5 0.5 0.1 0.1 1.9", "bad_box", 0),
        ("0 0.5 0.5 0.1 0.1 0.3 0.3 0.2", "bad_box", 0),
        ("0 0.5 0.5 x 0.1", "bad_box", 0),
        ("0 0.5 nan 0.1 0.1", "bad_box", 0),
        ("0 0.5 1e400 0.1 0.1", "bad_box", 0),
        ("0 0.5 0.5 0 0.1", "degenerate_box", 0),
        ("0 0.5 0.5 0.1 -0.1", "degenerate_box", 0),
        ("0 0.5 0.5 1.1 0.1", "box_outside", 1),
        ("0 1.5 0.5 0.5 0.1", "box_off_image", 0),
    ],
)
def test_a_wrong_line_costs_only_itself(tmp_path, line, kind, count):
    picture(tmp_path / "a.png")
    label = put(tmp_path / "a.txt", f"1 0.5 0.5 0.5 0.4\n{line}\n")
    (sample,) = read_yolo_folder(tmp_path, NAMES)
    assert (kinds([sample]), len(sample.annotation)) == ([[kind]], 1 + count)
    (problem,) = sample.problems
    assert problem.usable == (kind not in UNREAD)  # another box remains, but one that can't be read is not "no lesion"
    assert problem.path == str(label)
    assert "line 2" in problem.message


def test_six_decimals_do_not_reach_over_the_edge(tmp_path):
    picture(tmp_path / "a.png", (3000, 50))
    put(tmp_path / "a.txt", "0 0.833334 0.5 0.333334 1.000000\n")  # a third of the image
    (sample,) = read_yolo_folder(tmp_path, NAMES)
    assert sample.problems == ()
    assert sample.annotation.boxes[0, 2] == 3000


def test_files_that_are_no_labels_and_images_that_are_none(tmp_path):
    for name in ("a", "b", "c"):
        picture(tmp_path / "images" / f"{name}.png")
    put(tmp_path / "labels" / "a.txt", b"\xff\xfe0")
    put(tmp_path / "labels" / "b.txt", b" " * (4 * 2**20 + 1))
    put(tmp_path / "labels" / "c.txt")
    put(tmp_path / "images" / "c.png", b"no picture")
    samples = read_yolo_folder(tmp_path, NAMES)
    assert kinds(samples) == [["unreadable_annotation"], ["unreadable_annotation"], ["unreadable_image"]]
    assert not any(p.usable for s in samples for p in s.problems)


def test_images_and_labels_that_lack_the_other(tmp_path):
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "b.png")
    put(tmp_path / "labels" / "b.txt", "")
    put(tmp_path / "labels" / "gone.txt")
    samples = read_yolo_folder(tmp_path, NAMES)
    assert kinds(samples) == [["missing_annotation"], [], ["missing_image"]]
    assert len(samples[1].annotation) == 0
    assert str(samples[2].problems[0]).startswith(str(tmp_path / "labels" / "gone.txt"))
    assert kinds(read_yolo_folder(tmp_path, NAMES, unannotated="normal")) == [[], [], ["missing_image"]]
    assert kinds(read_yolo_folder(tmp_path, NAMES, unannotated="skip")) == [[], ["missing_image"]]
    with pytest.raises(ValueError, match="unknown unannotated='no'"):
        read_yolo_folder(tmp_path, NAMES, unannotated="no")


def test_one_label_for_two_images_is_a_problem(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "a.jpg")
    put(tmp_path / "a.txt")
    assert kinds(read_yolo_folder(tmp_path, NAMES)) == [["ambiguous_image"]] * 2


def test_lists_and_folders_choose(tmp_path):
    for name in ("train/b", "train/a", "val/c"):
        picture(tmp_path / "images" / f"{name}.png")
        put(tmp_path / "labels" / f"{name}.txt")
    assert [s.path.stem for s in read_yolo_folder(tmp_path, NAMES, subset="train")] == ["a", "b"]
    put(tmp_path / "train.txt", "./images/val/c.png\nimages/train/b.png\n\n")
    samples = read_yolo_folder(tmp_path, NAMES, subset="train", patient=r"b|c")
    assert [(s.path.stem, s.patient, len(s.annotation)) for s in samples] == [("c", "c", 2), ("b", "b", 2)]
    with pytest.raises(FileNotFoundError, match=r"neither a list test\.txt nor a folder test"):
        read_yolo_folder(tmp_path, NAMES, subset="test")


@pytest.mark.parametrize("line", ["../a.png", "/etc/passwd", "images/../../a.png", "C:\\a.png", "..\\a.png"])
def test_a_list_that_leads_out_of_the_folder_is_refused(tmp_path, line):
    picture(tmp_path / "a.png")
    picture(tmp_path / "liver" / "images" / "b.png")
    put(tmp_path / "liver" / "train.txt", f"{line}\nimages/gone.png\n")
    samples = read_yolo_folder(tmp_path / "liver", NAMES, subset="train")
    assert kinds(samples) == [["unsafe_path"], ["missing_image"]]
    assert repr(line) in samples[0].problems[0].message
    assert not samples[0].problems[0].usable


def test_class_names_must_be_known(tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"no classes\.txt, obj\.names or data\.yaml with names: pass classes="):
        read_yolo_folder(tmp_path)
    for names in ([], ["a", "a"], ["a", ""]):
        with pytest.raises(ValueError, match="unique and not empty"):
            read_yolo_folder(tmp_path, names)
    put(tmp_path / "classes.txt", "a\n\nb\n")
    with pytest.raises(ValueError, match="unique and not empty"):
        read_yolo_folder(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="no images and no labels found"):
        read_yolo_folder(tmp_path / "none", NAMES)


def sample(path: Path, boxes=((10, 20, 30, 45),), names=("hcc",), **fields) -> Sample:
    return Sample(picture(path), annotation=Annotation(np.array(boxes), names, **fields))


def test_writes_images_labels_and_names(tmp_path):
    over = sample(tmp_path / "x" / "b.png", [[50, 40, 70, 60]], ("cyst",))
    out = write_yolo_folder([sample(tmp_path / "a.png"), over], tmp_path / "new" / "yolo", classes=["cyst", "hcc"])
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*")) == [
        "classes.txt", "images/a.png", "images/b.png", "labels/a.txt", "labels/b.txt",
    ]  # fmt: skip
    assert (out / "classes.txt").read_text() == "cyst\nhcc\n"
    assert (out / "images" / "a.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    first, second = read_yolo_folder(out)
    np.testing.assert_allclose(first.annotation.boxes, [[10, 20, 30, 45]], atol=1e-4)
    np.testing.assert_allclose(second.annotation.boxes, [[50, 40, 60, 50]], atol=1e-4)  # cut to the image
    assert (first.names, second.names, kinds([first, second])) == (("hcc",), ("cyst",), [[], []])


def test_what_can_not_be_written_is_refused_and_leaves_nothing(tmp_path):
    good = sample(tmp_path / "a.png")
    marked = Sample(tmp_path / "a.png", annotation=good.annotation, problems=(Problem("k", "a", "it is wrong", False),))
    for samples, options, message in (
        ([good, sample(tmp_path / "x" / "a.png")], {}, "several images are named a"),
        ([Sample(tmp_path / "a.png")], {}, "has no annotation"),
        ([sample(tmp_path / "b.png", [[1, 2, 1, 3]])], {}, "x1 < x2"),
        ([sample(tmp_path / "b.png", names=("a\nb",))], {}, "one line"),
        ([sample(tmp_path / "b.png", names=(" a",))], {}, "outer spaces"),
        ([good], {"classes": ["cyst"]}, "contain each of"),
        ([marked], {}, "it is wrong"),
    ):
        with pytest.raises(ValueError, match=message):
            write_yolo_folder(samples, tmp_path / "out", **options)
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]
    with pytest.raises(FileExistsError, match="new or empty folder"):
        write_yolo_folder([good], tmp_path)
    (tmp_path / "empty").mkdir()
    assert len(read_yolo_folder(write_yolo_folder([marked, good], tmp_path / "empty", on_problem="skip"))) == 1


def test_labels_are_never_taken_for_a_dicom_image(tmp_path):
    """DICOM without a suffix is known by the word DICM at byte 128, which may stand in any text."""
    picture(tmp_path / "a.png")
    put(tmp_path / "a.txt", "0 0.25 0.5 0.5 1\n".ljust(128) + "DICM\n")
    (sample,) = read_yolo_folder(tmp_path, NAMES)
    assert sample.path.name == "a.png"
    assert [p.kind for p in sample.problems] == ["unknown_category"]
    assert sample.annotation.names == ("hcc",)
