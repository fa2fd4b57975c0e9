"""Formats: recognised, read and written by name or object, and a new one by one definition."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hccvision as hv
from hccvision.annotations import voc
from hccvision.annotations.coco import write_coco
from hccvision.annotations.formats import dataset_writer, detect, image_writer, read_folder
from hccvision.annotations.judging import StatedBox, judge_boxes, judge_image
from hccvision.annotations.patients import find_patient, patient_rule
from hccvision.annotations.voc_folder import VOCFormat, read_voc_folder
from hccvision.annotations.writing import class_list, write_copies, write_folder
from hccvision.annotations.yolo import read_yolo_folder, write_yolo_folder
from hccvision.contracts import Annotation, Problem, Sample
from hccvision.registry import ANNOTATION_FORMATS

WRITERS = ("voc", "coco", "yolo")
NAMES = ("P1_a", "P2_b")


def picture(path: Path, grey: int = 9) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (60, 50), grey).save(path)
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def data(tmp_path) -> list[Sample]:
    annotations = [
        Annotation(np.array([[10, 20, 30.5, 45], [40, 5, 70, 25]]), ("hcc", "cyst"), size=(50, 60)),
        Annotation(np.zeros((0, 4)), (), size=(50, 60)),
    ]
    return [
        Sample(picture(tmp_path / "source" / f"{name}.png", grey), name[:2], annotation=annotation)
        for grey, (name, annotation) in enumerate(zip(NAMES, annotations, strict=True))
    ]


# Reading by detection


def test_the_library_has_these_formats():
    assert set(ANNOTATION_FORMATS.names()) >= {"voc", "coco", "yolo", "masks", "class_folders"}
    assert all(ANNOTATION_FORMATS.build(name).looks_for for name in ANNOTATION_FORMATS.names())


@pytest.mark.parametrize("name", WRITERS)
def test_what_a_format_writes_is_recognised_and_read(data, tmp_path, name):
    made = hv.write_folder(data, tmp_path / "new" / "made", format=name, classes=["cyst", "hcc"])
    assert detect(made) == name
    for format in (None, name, ANNOTATION_FORMATS.build(name)):
        samples = hv.read_folder(str(made), format, patient=r"^(P\d)_")
        assert [(s.path.stem, s.names, s.patient, s.problems) for s in samples] == [
            ("P1_a", ("hcc", "cyst"), "P1", ()),
            ("P2_b", (), "P2", ()),
        ]
        boxes = [[10, 20, 30.5, 45], [40, 5, 60, 25]]  # clipped to the image
        np.testing.assert_allclose(samples[0].annotation.boxes, boxes, atol=1e-4)
    assert (made / "patients.csv").read_text() == "image,patient\nP1_a.png,P1\nP2_b.png,P2\n"
    assert [p.name for p in made.parent.iterdir()] == ["made"]


def test_class_folders_and_masks_are_recognised(tmp_path):
    for name in ("no", "yes"):
        picture(tmp_path / "classes" / name / "a.png")
    (tmp_path / "classes" / "yes" / "notes.txt").write_text("x")
    assert detect(tmp_path / "classes") == "class_folders"
    samples = hv.read_folder(tmp_path / "classes", classes={"normal": "no", "cancer": "yes"})
    assert [s.class_name for s in samples] == ["normal", "cancer"]
    for images in ("images", "JPEGImages", ""):
        root = tmp_path / f"masks in {images}"
        picture(root / images / "a.png")
        Image.fromarray(np.full((50, 60), 3, np.uint8)).save(picture(root / "masks" / "a.png"))
        assert detect(root) == "masks"
        (sample,) = hv.read_folder(root, labels={3: "hcc"})
        assert (sample.names, sample.path) == (("hcc",), root / images / "a.png")


def test_a_coco_file_is_read_by_its_path_or_its_folder_wherever_its_images_are(data, tmp_path):
    source = data[0].path.parent
    write_coco(data, source / "liver.json")
    assert [s.names for s in hv.read_folder(source / "liver.json")] == [("hcc", "cyst"), ()]
    for file, images in (("a.json", "images"), ("annotations/a.json", "JPEGImages"), ("annotations/a.json", "")):
        root = tmp_path / file.replace("/", " ") / (images or "beside")
        (root / file).parent.mkdir(parents=True)
        (root / file).write_bytes((source / "liver.json").read_bytes())
        for sample in data:
            picture(root / images / sample.path.name)
        assert [(s.path, s.problems) for s in hv.read_folder(root)] == [(root / images / s.path.name, ()) for s in data]
    write_coco(data, source / "again.json")
    with pytest.raises(
        ValueError, match=r"expected one COCO file for each image, got again\.json, liver\.json: pass its path"
    ):
        hv.read_folder(source)
    assert hv.read_folder(root, images=source)[0].path.parent == source


def test_no_match_and_several_are_errors_that_name_the_formats(data, tmp_path):
    root = write_folder(data, tmp_path / "both")
    (root / "labels").mkdir()
    (root / "labels" / "P1_a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(ValueError, match=r"both: several .* pass format= one of 'voc', 'yolo'") as caught:
        read_folder(root)
    assert "voc: LabelImg's XML files" in str(caught.value)
    assert "coco" not in str(caught.value)
    *read, aside = read_folder(root, "voc")
    assert len(read) == 2
    assert [(p.kind, p.path) for p in aside.problems] == [("unread_annotation", str(root / "labels" / "P1_a.txt"))]
    picture(tmp_path / "bare" / "a.png")
    for path in (tmp_path / "bare", tmp_path / "bare" / "a.png"):
        with pytest.raises(ValueError, match="no annotation format matches") as caught:
            read_folder(path)
        for name in ("voc", "coco", "yolo", "masks", "class_folders"):
            assert f"\n  {name}: " in str(caught.value)
    with pytest.raises(FileNotFoundError, match="gone: no such folder or file"):
        read_folder(tmp_path / "gone")
    with pytest.raises(KeyError, match="unknown annotation format 'vco'; did you mean 'voc'"):
        read_folder(root, "vco")


def test_folders_of_other_kinds_are_not_taken_for_class_folders(data, tmp_path):
    write_folder(data, tmp_path / "sets" / "one")
    for name in ("side", "by"):
        path = picture(tmp_path / "flat" / name / "a.png")
        path.with_suffix(".xml").write_text("<annotation/>")
    assert [detect(tmp_path / name) for name in ("sets", "flat")] == ["voc", "voc"]  # folders of patients
    with pytest.raises(ValueError, match="no annotation format matches"):
        detect(tmp_path / "source")


# Writing


def test_a_file_that_states_the_same_is_copied_and_another_is_written_anew(data, tmp_path):
    first = write_folder(data, tmp_path / "first")
    xml = first / "Annotations" / "P1_a.xml"
    xml.write_text(xml.read_text().replace("\t", "  ").replace("<segmented>", "<!-- by hand --><segmented>"))
    read = read_voc_folder(first)
    second = write_folder(read, tmp_path / "second")
    assert files(second) == {k: v for k, v in files(first).items() if k != "patients.csv"}
    changes = (
        {"boxes": read[0].annotation.boxes + 1},
        {"path": None},
        {"verified": True},
        {"names": ("hcc", "hcc")},
        {"problems": (Problem("degenerate_box", "a", "left out"),)},
    )
    for number, change in enumerate(changes):
        changed = [replace(read[0], annotation=replace(read[0].annotation, **change)), read[1]]
        (tmp_path / f"{number}").mkdir()
        made = write_folder(changed, tmp_path / f"{number}")
        assert "by hand" not in (made / "Annotations" / "P1_a.xml").read_text()
        assert (made / "Annotations" / "P2_b.xml").read_bytes() == (first / "Annotations" / "P2_b.xml").read_bytes()
        again = read_voc_folder(made)[0].annotation
        assert again.names == changed[0].annotation.names
        assert again.filename == "P1_a.png"
    corner = write_folder(read, tmp_path / "corner", base="corner")
    assert "by hand" not in (corner / "Annotations" / "P1_a.xml").read_text()
    np.testing.assert_array_equal(read_voc_folder(corner, base="corner")[0].annotation.boxes, read[0].annotation.boxes)


def test_a_file_with_a_box_that_was_left_out_is_written_without_it(data, tmp_path):
    first = write_folder(data, tmp_path / "first")
    xml = first / "Annotations" / "P1_a.xml"
    flat = "<object><name>hcc</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>9</xmax><ymax>20</ymax></bndbox></object>"
    xml.write_text(xml.read_text().replace("</annotation>", f"{flat}</annotation>"))
    read = [replace(s, annotation=replace(s.annotation, problems=())) for s in read_voc_folder(first)]
    made = write_folder(read, tmp_path / "second", on_problem="skip")
    assert [s.problems for s in read_voc_folder(made)] == [(), ()]


@pytest.mark.parametrize("name", WRITERS)
def test_what_can_not_be_written_leaves_nothing(data, tmp_path, name):
    unknown = replace(data[0], annotation=None)
    outside = replace(data[0], annotation=replace(data[0].annotation, boxes=data[0].annotation.boxes + 100))
    marked = replace(data[0], problems=(Problem("k", "a", "it is wrong", False),))
    twice = Sample(picture(tmp_path / "other" / "P1_a.png"), annotation=data[1].annotation)
    for samples, options, message in (
        ([unknown], {}, "has no annotation"),
        ([outside], {}, "inside the image"),
        ([marked], {}, "it is wrong"),
        ([data[0], twice], {}, "several images are named P1_a"),
        (data, {"classes": ["hcc"]}, "contain each of"),
    ):
        with pytest.raises(ValueError, match=message):
            write_folder(samples, tmp_path / "out", format=name, **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "source"]
    with pytest.raises(FileExistsError, match="new or empty folder"):
        write_folder(data, tmp_path / "source", format=name)
    assert (
        len(
            read_folder(
                write_folder([marked, data[1]], tmp_path / "out", format=name, classes=["hcc"], on_problem="skip"), name
            )
        )
        == 1
    )


def test_a_folder_as_write_yolo_folder_writes_it(data, tmp_path):
    one = files(write_yolo_folder(data, tmp_path / "one"))
    two = files(write_folder([replace(s, patient=None) for s in data], tmp_path / "two", format="yolo"))
    assert one == two


def test_writers_take_images_that_are_there_already(data, tmp_path):
    """As for copies with pixels of their own: the caller saves the images, the format only annotates them."""
    for name in WRITERS:
        root = tmp_path / name
        writer = dataset_writer(name)
        samples = [
            replace(s, path=picture(root / writer.image_folder / f"{s.path.stem}__aug001.png"), problems=())
            for s in data
        ]
        writer.write(root, samples, classes=class_list(samples, None))
        assert [(s.path, s.names, s.problems) for s in read_folder(root)] == [(s.path, s.names, ()) for s in samples]


def test_formats_that_can_not_write_say_so():
    with pytest.raises(ValueError, match=r"format 'masks' has no writer; formats with one: 'coco', 'voc', 'yolo'"):
        dataset_writer("masks")
    for format, name in (("coco", "'coco'"), (ANNOTATION_FORMATS.build("masks"), "'masks'"), (object(), "object")):
        with pytest.raises(ValueError, match=rf"{name} does not write one file per image; .*: 'voc', 'yolo'"):
            image_writer(format)
    with pytest.raises(TypeError, match="options"):
        dataset_writer(VOCFormat(), base="corner")
    with pytest.raises(ValueError, match="unknown base 'pixel'"):
        dataset_writer("voc", base="pixel")


# One image


@pytest.mark.parametrize("name", ["voc", "yolo"])
def test_one_annotation_is_written_beside_its_image_and_never_over_another(data, tmp_path, name):
    image = picture(tmp_path / "new" / "a.png")
    writer = image_writer(name)
    assert not writer.annotation_path(image).exists()
    annotation = replace(data[0].annotation, filename="a.png")
    path = writer.write_one(image, annotation, classes=["cyst", "hcc"])
    assert path == writer.annotation_path(image)
    assert path.parent == image.parent
    (sample,) = read_folder(image.parent)
    assert (sample.names, sample.path, sample.problems) == (("hcc", "cyst"), image, ())
    before = files(image.parent)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        writer.write_one(image, annotation, classes=["cyst", "hcc"])
    assert files(image.parent) == before
    writer.write_one(image, annotation.keep([1]), classes=["cyst", "hcc"], overwrite=True)
    assert read_folder(image.parent)[0].names == ("cyst",)


def test_proposals_in_xml_are_of_whole_pixels(data, tmp_path):
    image = picture(tmp_path / "new" / "a.png")
    path = image_writer("voc").write_one(image, data[0].annotation, classes=["cyst", "hcc"])
    assert voc.read(path).boxes.tolist() == [[10, 20, 30, 45], [40, 5, 60, 25]]
    annotation = replace(data[0].annotation, boxes=np.array([[10, 20, 30.5, 45], [40, 5, 60, 25]]))
    assert path.read_bytes() == voc.write(path, annotation, image_path=image, overwrite=True).read_bytes()


def test_class_numbers_of_a_folder_are_kept(data, tmp_path):
    writer = image_writer("yolo")
    image = picture(tmp_path / "set" / "images" / "train" / "a.png")
    (tmp_path / "set" / "labels").mkdir()
    with pytest.raises(FileNotFoundError):
        writer.write_one(image, data[0].annotation, classes=["cyst", "hcc"])
    (tmp_path / "set" / "labels" / "train").mkdir()
    path = writer.write_one(image, data[0].annotation, classes=["cyst", "hcc"])
    assert path == tmp_path / "set" / "labels" / "train" / "a.txt"
    assert [s.names for s in read_yolo_folder(tmp_path / "set")] == [("hcc", "cyst")]
    other = picture(tmp_path / "set" / "images" / "train" / "b.png")
    for classes, message in ((["hcc", "cyst"], "lists other classes"), (["hcc"], "contain each of")):
        with pytest.raises(ValueError, match=message):
            writer.write_one(other, data[0].annotation, classes=classes)
    assert not writer.annotation_path(other).exists()


# Rounding


@pytest.mark.parametrize("base", ["voc", "corner"])
def test_whole_pixels_beforehand_make_the_same_file(tmp_path, base):
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 40, (200, 2)).round(1)
    boxes = np.concatenate([low, low + rng.uniform(0.1, 9, (200, 2)).round(1)], axis=1)
    annotation = Annotation(boxes, ("hcc",) * 200, size=(50, 60))
    one = voc.write(tmp_path / "a.xml", annotation, base=base)
    rounded = voc.to_whole_pixels(annotation, base=base)
    two = voc.write(tmp_path / "b.xml", replace(rounded, filename="a"), base=base, whole_pixels=False)
    assert one.read_bytes() == two.read_bytes()
    np.testing.assert_array_equal(voc.read(one, base=base).boxes, rounded.boxes)


# A format of one's own


@pytest.fixture
def lines():
    @ANNOTATION_FORMATS.register("lines_for_a_test")
    class Lines:
        looks_for = "boxes.jsonl beside the images"
        image_folder = ""

        def matches(self, path):
            return (path / "boxes.jsonl").is_file()

        def read(self, path, *, patient=None):
            rule, samples = patient_rule(patient), []
            for line in (path / "boxes.jsonl").read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                image = path / entry["image"]
                size, problems = judge_image(image)
                boxes = [StatedBox(entry["image"], name, corners, str(corners)) for name, corners in entry["boxes"]]
                annotation = judge_boxes(boxes, size, path=path / "boxes.jsonl", filename=image.name)
                owner, more = find_patient(rule, image)
                problems = (*annotation.problems, *problems, *more)
                samples.append(Sample(image, owner, annotation=annotation, problems=problems))
            return samples

        def write(self, folder, samples, *, classes):
            entries = [
                {
                    "image": s.path.relative_to(folder).as_posix(),
                    "boxes": list(zip(s.names, s.annotation.boxes.tolist(), strict=True)),
                }
                for s in samples
            ]
            (folder / "boxes.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries), encoding="utf-8")

    yield Lines
    del ANNOTATION_FORMATS._builders["lines_for_a_test"], ANNOTATION_FORMATS._tags["lines_for_a_test"]


def test_a_format_is_one_definition(lines, data, tmp_path):
    made = hv.write_folder(data, tmp_path / "made", format="lines_for_a_test")
    assert sorted(files(made)) == ["P1_a.png", "P2_b.png", "boxes.jsonl", "patients.csv"]
    samples = hv.read_folder(made, patient=made / "patients.csv")
    assert [(s.names, s.patient) for s in samples] == [(("hcc", "cyst"), "P1"), ((), "P2")]
    assert [p.kind for s in samples for p in s.problems] == ["box_outside"]  # this writer doesn't clip
    assert samples[0].annotation.boxes.tolist() == data[0].annotation.boxes.tolist()
    with pytest.raises(ValueError, match=r"formats with one: 'coco', 'lines_for_a_test', 'voc', 'yolo'"):
        dataset_writer("masks")
    with pytest.raises(ValueError, match="'lines_for_a_test' does not write one file per image"):
        image_writer("lines_for_a_test")
    voc_copy = write_folder(samples, tmp_path / "voc", on_problem="skip")
    assert [s.names for s in hv.read_folder(voc_copy)] == [("hcc", "cyst"), ()]


def test_a_format_that_is_not_registered_is_used_as_it_is(lines, data, tmp_path):
    own = lines()
    copies = write_copies(picture(tmp_path / "own" / "z.png").parent, data, own, classes=["cyst", "hcc"])
    assert [s.path.parent for s in copies] == [tmp_path / "own"] * 2
    assert len(read_folder(tmp_path / "own", own)) == 2
