"""Readers of folders use or report each image and each label, in any layout."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hccvision.annotations.judging import judge_image
from hccvision.annotations.problems import usable
from hccvision.annotations.tree import scan
from hccvision.annotations.voc_folder import read_voc_folder
from hccvision.annotations.yolo import read_yolo_folder
from hccvision.images.formats.picture import PictureFormat
from hccvision.images.read import image_size, read_image

few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, 99).save(path, format=None if path.suffix.lower() in Image.registered_extensions() else "PNG")
    return path


def xml(path: Path, more: str = "", filename: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><filename>{filename}</filename><object><name>tumor</name><bndbox><xmin>11</xmin><ymin>6</ymin>"
        f"<xmax>20</xmax><ymax>15</ymax></bndbox></object>{more}</annotation>"
    )
    return path


def put(path: Path, text: str = "0 0.5 0.5 0.5 0.4\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def problems(samples):
    return sorted((p.kind, Path(p.path).name) for s in samples for p in s.problems)


# Layouts


@pytest.mark.parametrize(
    ("label", "image"),
    [
        ("P1/001.xml", "P1/001.png"),
        ("annotations/001.xml", "JPEGImages/001.PNG"),
        ("ANNOTATIONS/001.XML", "IMAGES/001.png"),
        ("xml/001.xml", "imgs/001.jpg"),
        ("Annotations/P1/001.xml", "JPEGImages/P1/001.png"),
        ("P1/Annotations/001.xml", "P1/images/001.png"),
        ("labels/001.xml", "P1/T1/001.png"),
        ("VOC2012/Annotations/001.xml", "VOC2012/JPEGImages/001.jpg"),
    ],
)
def test_an_xml_finds_its_image_in_usual_layouts(tmp_path, label, image):
    xml(tmp_path / label)
    picture(tmp_path / image)
    (sample,) = read_voc_folder(tmp_path, unannotated="normal")
    assert (sample.path, sample.annotation.path, sample.names, sample.problems) == (
        tmp_path / image,
        tmp_path / label,
        ("tumor",),
        (),
    )


def test_an_xml_is_not_given_to_an_image_of_another_patient(tmp_path):
    xml(tmp_path / "Annotations" / "P1" / "001.xml")
    picture(tmp_path / "JPEGImages" / "P2" / "001.png")
    assert problems(read_voc_folder(tmp_path)) == [("missing_annotation", "001.png"), ("missing_image", "001.xml")]
    picture(tmp_path / "JPEGImages" / "P1" / "001.png")
    assert problems(read_voc_folder(tmp_path)) == [("missing_annotation", "001.png")]


def test_one_xml_for_the_images_of_several_patients_is_ambiguous_and_none_is_normal(tmp_path):
    xml(tmp_path / "001.xml")
    for patient in ("P1", "P2"):
        picture(tmp_path / patient / "001.png")
    samples = read_voc_folder(tmp_path, unannotated="normal")
    assert problems(samples) == [("ambiguous_image", "001.xml")]
    assert not any(s.annotation is not None and not s.problems for s in samples)


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".pgm", ".ppm", ".pnm", ".jp2", ".j2k", ".tga", ".TIF", ".dib"])
def test_images_of_every_suffix_that_pillow_decodes_are_read(tmp_path, suffix):
    path = picture(tmp_path / f"a{suffix}")
    xml(tmp_path / "a.xml", filename=path.name)
    (sample,) = read_voc_folder(tmp_path)
    assert (sample.path, sample.problems) == (path, ())
    assert image_size(path) == read_image(path).shape[:2] == (30, 40)


def test_the_suffixes_are_those_that_pillow_registers_for_what_is_decoded():
    assert {".png", ".jfif", ".jpe", ".pbm", ".j2k", ".tga", ".webp"} <= set(PictureFormat.suffixes)
    assert not {".eps", ".ps", ".pdf", ".mpg", ".wmf", ".h5", ".grib", ".xml"} & set(PictureFormat.suffixes)


def test_postscript_is_not_run_whatever_its_name(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    assert [p.kind for p in judge_image(tmp_path / "a.png")[1]] == ["unreadable_image"]


def test_an_image_that_no_format_reads_is_not_said_to_be_missing(tmp_path):
    (tmp_path / "a.xcf").write_bytes(b"gimp xcf file")
    xml(tmp_path / "a.xml", filename="a.xcf")
    (sample,) = read_voc_folder(tmp_path)
    (problem,) = sample.problems
    assert "is in no image format that is read" in problem.message
    assert "is not in" not in problem.message


def test_what_is_left_aside_is_reported_whatever_unannotated_says(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.png")
    xml(tmp_path / "a.xml")
    put(tmp_path / "other" / "a.json", '{"shapes": []}')
    put(tmp_path / "boxes.json", '{"bbox": [1, 2, 3, 4]}')
    put(tmp_path / "b.txt")
    put(tmp_path / "notes.txt", "taken in June\n")
    put(tmp_path / "params.json", '{"echo_time": 3}')
    for choice, more in (("normal", []), ("skip", []), ("problem", [("missing_annotation", "b.png")])):
        expected = [("unread_annotation", name) for name in ("a.json", "b.txt", "boxes.json")]
        assert problems(read_voc_folder(tmp_path, unannotated=choice)) == sorted(expected + more)


def test_images_that_are_left_out_by_choice_are_printed(tmp_path, capsys):
    picture(tmp_path / "b.png")
    picture(tmp_path / "a.png")
    xml(tmp_path / "a.xml")
    assert len(read_voc_folder(tmp_path, unannotated="skip")) == 1
    assert "left out: 1 images without XML" in (out := capsys.readouterr().out)
    assert "b.png" in out


@pytest.mark.parametrize(
    "more",
    [
        "<Object><name>a</name><bndbox><xmin>1</xmin></bndbox></Object>",
        "<objects><object><name>a</name></object></objects>",
        "<item><name>a</name><polygon><x1>3</x1></polygon></item>",
        "<object><name>b</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
        "<object><name>c</name></object></object>",
    ],
)
def test_an_element_like_an_object_is_not_left_aside_in_silence(tmp_path, more):
    picture(tmp_path / "a.png")
    xml(tmp_path / "a.xml", more)
    (sample,) = read_voc_folder(tmp_path)
    assert [(p.kind, p.usable) for p in sample.problems] == [("unread_object", False)]


def test_two_annotations_of_one_image_are_a_problem_of_both(tmp_path):
    picture(tmp_path / "a.png")
    xml(tmp_path / "a.xml")
    xml(tmp_path / "b.xml", filename="a.png")
    samples = read_voc_folder(tmp_path)
    assert problems(samples) == [("duplicate_annotation", "a.xml"), ("duplicate_annotation", "b.xml")]


def test_a_picture_that_an_xml_of_its_name_passes_over_is_never_normal(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "a.jpg")
    xml(tmp_path / "a.xml", filename="a.jpg")
    assert problems(read_voc_folder(tmp_path, unannotated="normal")) == [("missing_annotation", "a.png")]


# Odd entries


@pytest.mark.parametrize("read", [read_voc_folder, lambda root: read_yolo_folder(root, ["tumor"])])
def test_odd_entries_are_problems_of_themselves_and_nothing_hangs(tmp_path, read, monkeypatch):
    picture(tmp_path / "good.png")
    xml(tmp_path / "good.xml") if read is read_voc_folder else put(tmp_path / "good.txt")
    suffix = ".xml" if read is read_voc_folder else ".txt"
    (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / "folder.png").mkdir()
    for ending in (suffix, ".png", ".json"):
        os.mkfifo(tmp_path / f"pipe{ending}")
        (tmp_path / f"dangling{ending}").symlink_to(tmp_path / "nowhere")
        (tmp_path / f"loop{ending}").symlink_to(tmp_path / f"loop{ending}")
        (tmp_path / f"null{ending}").symlink_to("/dev/null")
    (tmp_path / "round").symlink_to(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # names of sockets are short
        server.bind("socket.png")
    samples = read(tmp_path)
    assert [s.path.name for s in usable(samples, "skip")] == ["good.png"]
    odd = [name for kind, name in problems(samples) if kind == "odd_entry"]
    endings = (suffix, ".png", ".json")
    assert odd == sorted(
        [f"{name}{ending}" for name in ("dangling", "loop", "null", "pipe") for ending in endings]
        + [f"folder{suffix}", "folder.png", "round", "socket.png"]
    )
    assert len(problems(samples)) == len(odd)


# Headers


def animation(path: Path, **options) -> Path:
    rng = np.random.default_rng(0)
    first, *others = (Image.fromarray(rng.integers(0, 255, (30, 40), np.uint8)) for _ in range(3))
    first.save(path, save_all=True, append_images=others, **options)
    return path


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_files_of_several_frames_are_told_by_their_headers(tmp_path, name):
    size, (problem,) = judge_image(animation(tmp_path / name))
    assert (size, problem.kind, problem.usable) == ((30, 40), "several_frames", False)
    assert "3 frames" in problem.message


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".tif", ".webp", ".jp2", ".pgm", ".tga"])
@pytest.mark.parametrize("share", [0, 0.5, 0.9])
def test_truncated_and_empty_files_are_called_so_when_read(tmp_path, suffix, share):
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (60, 80), np.uint8)
    Image.fromarray(noise).save(path)
    assert judge_image(path) == ((60, 80), ())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    size, (problem,) = judge_image(path)
    kind = "unreadable_image" if size is None else "truncated_image"
    assert (problem.kind, problem.usable) == (kind, False)
    assert ("truncated" if share else "empty") in problem.message
    path.write_bytes(bytes(len(content)))
    assert "blank" in judge_image(path)[1][0].message


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.gif", "a.webp"])
def test_sizes_are_read_without_decoding(tmp_path, name, monkeypatch):
    path = picture(tmp_path / name, (400, 300))

    def decode(self, *args, **options):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    assert judge_image(path) == ((300, 400), ())


@pytest.mark.parametrize("late", [False, True])
def test_the_orientation_of_a_png_counts_wherever_it_stands(tmp_path, late):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.png"
    Image.new("L", (40, 30)).save(path, exif=exif)
    if late:
        content = path.read_bytes()
        at = content.index(b"eXIf") - 4
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        chunk, rest = content[at:end], content[:at] + content[end:]
        tail = rest.index(b"IEND") - 4
        path.write_bytes(rest[:tail] + chunk + rest[tail:])
    assert image_size(path) == read_image(path).shape[:2] == (40, 30)


# Labels that can't be read


@pytest.mark.parametrize("line", ["0 0.5 0.5 0.1", "1 0.5 0.5 0.1 0.1", "tumor 0.5 0.5 0.1 0.1", "0 1 2 3 4 5 6 7"])
def test_an_image_whose_labels_can_not_be_read_is_not_lesion_free(tmp_path, line):
    picture(tmp_path / "a.png")
    put(tmp_path / "a.txt", line)
    picture(tmp_path / "b.png")
    put(tmp_path / "b.txt")
    assert [s.path.name for s in usable(read_yolo_folder(tmp_path, ["tumor"]), "skip")] == ["b.png"]


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("0 0.25 0.2 0.75 0.2 0.5 0.6", [10, 6, 30, 18]),
        ("0 0.25 0.2 0.75 0.2 0.75 0.6 0.25 0.6", [10, 6, 30, 18]),
        ("0 0.5 0.4 0.5 0.4 0.87", [10, 6, 30, 18]),
        ("0.0 0.5 0.4 0.5 0.4", [10, 6, 30, 18]),
    ],
)
def test_yolo_dialects_become_boxes(tmp_path, line, box):
    picture(tmp_path / "a.png")
    put(tmp_path / "a.txt", line)
    (sample,) = read_yolo_folder(tmp_path, ["tumor"])
    assert sample.annotation.boxes.round(3).tolist() == [box]
    assert sample.problems == ()


def test_a_roboflow_export(tmp_path):
    for part in ("train", "valid"):
        picture(tmp_path / part / "images" / "a_jpg.rf.0f3.jpg")
        put(tmp_path / part / "labels" / "a_jpg.rf.0f3.txt")
    put(tmp_path / "data.yaml", "train: ../train/images\nnc: 1\nnames: ['tumor']\n")
    put(tmp_path / "README.roboflow.txt", "liver - v1\n==============\n")
    samples = read_yolo_folder(tmp_path)
    assert [(s.path.parts[-3], s.names, s.problems) for s in samples] == [
        ("train", ("tumor",), ()),
        ("valid", ("tumor",), ()),
    ]
    assert len(read_yolo_folder(tmp_path, subset="valid")) == 1


def test_a_cvat_export_in_yolo_format(tmp_path):
    picture(tmp_path / "obj_train_data" / "a.png")
    put(tmp_path / "obj_train_data" / "a.txt")
    put(tmp_path / "obj.names", "tumor\n")
    put(tmp_path / "obj.data", "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    put(tmp_path / "train.txt", "data/obj_train_data/a.png\n")
    for subset in (None, "train"):
        (sample,) = read_yolo_folder(tmp_path, subset=subset)
        assert (sample.names, sample.problems) == (("tumor",), ())


def test_files_that_name_other_classes_are_refused(tmp_path):
    picture(tmp_path / "a.png")
    put(tmp_path / "classes.txt", "tumor\n")
    put(tmp_path / "data.yaml", "names: {0: cyst}\n")
    with pytest.raises(ValueError, match=r"classes\.txt lists the classes \['tumor'\], data\.yaml \['cyst'\]"):
        read_yolo_folder(tmp_path)


# Any tree

FOLDERS = ("", "images", "labels", "Annotations", "JPEGImages", "P1", "P2", "P1/images", "images/P1", "train/labels")
entries = st.sets(
    st.tuples(
        st.sampled_from(FOLDERS),
        st.sampled_from(["a", "b", "A"]),
        st.sampled_from([".png", ".JPG", ".pgm", ".xml", ".XML", ".txt", ".json"]),
    ),
    min_size=1,
    max_size=9,
)


@few
@given(entries=entries, unannotated=st.sampled_from(["problem", "normal"]), yolo=st.booleans())
def test_each_image_and_label_of_any_tree_is_used_or_reported(tmp_path_factory, entries, unannotated, yolo):
    root = tmp_path_factory.mktemp("tree")
    picture(root / "one.png")
    for folder, stem, suffix in sorted(entries):
        path = root / folder / f"{stem}{suffix}"
        if suffix.lower() == ".xml":
            xml(path)
        elif suffix in (".txt", ".json"):
            put(path, "0 0.5 0.5 0.5 0.4\n" if suffix == ".txt" else '{"shapes": []}')
        else:
            picture(path)
    images = {str(p) for p in scan(root).images}
    samples = (
        read_yolo_folder(root, ["tumor"], unannotated=unannotated)
        if yolo
        else read_voc_folder(root, unannotated=unannotated)
    )
    used = [s for s in samples if not s.problems]
    said = {text for s in samples for p in s.problems for text in (p.path, str(s.path))}
    told = " ".join(p.message for s in samples for p in s.problems)
    good = [str(s.path) for s in used]
    assert len(good) == len(set(good))
    labels = [str(s.annotation.path) for s in used if s.annotation.path is not None]
    assert len(labels) == len(set(labels))
    for path in root.rglob("*.*"):
        times = (str(path) in good) if str(path) in images else (str(path) in labels)
        reported = str(path) in said or path.relative_to(root).as_posix() in told
        assert times or reported, path
        assert not (times and str(path) in said), path
