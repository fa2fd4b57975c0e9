"""File names of any bytes, and names of classes that no terminal should see, from reading to proposing."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hccvision as hv
from hccvision.annotations import masks, voc
from hccvision.annotations.patients import patient_rule
from hccvision.annotations.writing import class_list
from hccvision.annotations.yolo_names import read_names

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="file names there are Unicode")

NAME = os.fsdecode(b"P%d_\x1b[2J\xff\n\xe2\x80\xae.png")  # an escape sequence, no UTF-8, a line end, right to left
SMALL = {"classes": ["hcc"], "image_size": 64, "backbone_options": {"width": 0.1}}
RECIPE = hv.Recipe(optimiser="sgd", learning_rate=1e-4, epochs=1, batch=2)


def name(number):
    return NAME.replace("%d", str(number))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "liver"
    for part in ("JPEGImages", "Annotations"):
        (folder / part).mkdir(parents=True)
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 60, (48, 64), dtype=np.uint8)
        boxes = [[10, 10, 30, 30]] * (number % 2)
        image = folder / "JPEGImages" / name(number)
        Image.fromarray(pixels).save(image)
        annotation = hv.Annotation(np.array(boxes).reshape(-1, 4), ("hcc",) * len(boxes), size=(48, 64))
        voc.write(folder / "Annotations" / f"{image.stem}.xml", annotation, image_path=image)
    return folder


def assert_calm(text):
    assert all(c.isprintable() or c in "\n\r" for c in text), ascii(text)
    text.encode()


def test_file_names_of_any_bytes_pass_through_the_whole_pipeline(root, tmp_path, capsys):
    data = hv.read_voc_folder(root, patient=r"^(P\d+)_")
    assert [(s.path.name, s.patient, len(s.annotation), s.problems) for s in data] == [
        (name(i), f"P{i}", i % 2, ()) for i in range(6)
    ]
    report = hv.check(data)
    print(report)
    assert {p.suffix for p in report.save(tmp_path / "check").iterdir()} == {".json", ".txt", ".html"}
    parts = hv.split(data, (0.5, 0.5), seed=0, group="patient")
    assert hv.load_split(hv.save_split(parts, tmp_path / "split.json", seed=0), data) == parts
    model = hv.build_model("mobilenet_v1", "ssd", **SMALL)
    for _ in range(2):
        hv.fit(model, *parts, recipe=RECIPE, run=tmp_path / "run", resume=True, device="cpu", cache=tmp_path / "cache")
    evaluated = hv.evaluate(model, data, device="cpu")
    print(evaluated)
    assert [p.path for p in evaluated.predictions] == [str(s.path) for s in data]
    saved = evaluated.save(tmp_path / "report")
    assert sum(r"\udcff" in line for line in (saved / "predictions.csv").read_text(encoding="utf-8").split("P")) > 5
    again = hv.read_predictions(saved / "predictions.csv", data, classes=["hcc"])
    assert [len(p.detections) for p in again] == [len(p.detections) for p in evaluated.predictions]
    listed = hv.write_folder(data, tmp_path / "listed")
    assert [s.patient for s in hv.read_folder(listed, patient=listed / "patients.csv")] == [s.patient for s in data]
    for format in ("voc", "yolo", "coco"):
        again = hv.read_folder(hv.write_folder(data, tmp_path / format, format=format))
        assert [(s.path.name, len(s.annotation), s.problems) for s in again] == [(name(i), i % 2, ()) for i in range(6)]
    hv.expand_dataset(data, tmp_path / "more", to=8, augmentation="none")
    new = tmp_path / "new"
    new.mkdir()
    for sample in data[:2]:
        (new / sample.path.name).write_bytes(sample.path.read_bytes())
    (new / name(7)).write_bytes(b"no image")
    *written, broken = hv.propose(model, new, device="cpu")
    assert [(p.written, p.error) for p in written] == [(True, None)] * 2
    assert len(list(new.glob("*.xml"))) == 2
    assert r"\x1b[2J\udcff\n" in broken.error
    assert_calm(broken.error)
    assert_calm("".join(capsys.readouterr()))


def test_what_names_a_file_names_it_calmly(root, tmp_path, capsys):
    data = hv.read_voc_folder(root)
    parts = data[:3], data[3:]
    path = hv.save_split(parts, tmp_path / "split.json")
    model = hv.build_model("mobilenet_v1", "ssd", **SMALL)
    hv.fit(model, *parts, recipe=RECIPE, run=tmp_path / "run", device="cpu")
    with pytest.raises(ValueError, match=r"this run has other data \(.*\\x1b\[2J") as other:
        hv.fit(model, *reversed(parts), recipe=RECIPE, run=tmp_path / "run", resume=True, device="cpu")
    data[0].path.write_bytes(b"changed")
    data[1].path.unlink()
    with pytest.raises(ValueError, match=r"has changed\n.*is missing") as changed:
        hv.load_split(path, data)
    with pytest.raises(ValueError, match=r"2 of 6 images could not be predicted, first .*\\udcff") as unread:
        hv.evaluate(model, data, device="cpu")
    hv.evaluate(model, data, device="cpu", on_problem="skip")
    for error in (other, changed, unread):
        assert_calm(str(error.value))
    assert_calm("".join(capsys.readouterr()))


# tables and regular expressions

PATTERNS = ["(", "[", "*", "a**", "(?<=a+)b", "\\", "(" * 5000 + ")" * 5000, "x{99999999999}", 5, b"(P)", ["x"]]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: repr(pattern)[:12])
def test_what_is_no_regular_expression_is_one_error(pattern, tmp_path):
    with pytest.raises(ValueError, match="regular expression"):
        patient_rule(pattern)
    samples = [hv.Sample(tmp_path / f"P{number}_0.png") for number in range(2)]
    for number, sample in enumerate(samples):
        Image.new("L", (8, 8), number).save(sample.path)
    if not isinstance(pattern, list):
        with pytest.raises(ValueError, match="regular expression"):
            hv.split(samples, (0.5, 0.5), group=pattern)


def test_a_compiled_expression_is_a_rule_too():
    assert patient_rule(re.compile("p([0-9]+)", re.IGNORECASE))(Path("P12_0.png")) == "12"


TABLES = [
    b"", b"\x00", b"a,b", b"image,patient", b"image,patient\na.png,P1,3", b"image,patient\n" + b"x" * 200_000 + b",P",
    b'image,patient\n"a.png,P1', b"\xff\xfe\x00", b"image,patient\na.png,P1\na.png,P2", b"h" * 1_000_000,
]  # fmt: skip


@pytest.mark.parametrize("table", TABLES, ids=range(len(TABLES)))
def test_tables_of_other_content_are_one_error_that_names_them(table, tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(table)
    with pytest.raises(ValueError, match=r"table\.csv: ") as patients:
        patient_rule(path)
    with pytest.raises(ValueError, match=r"table\.csv: ") as predictions:
        hv.read_predictions(path, [hv.Sample(Path("a.png"))], classes=["hcc"])
    assert len(str(patients.value)) + len(str(predictions.value)) < 5000


BIG = "x" * 10_000_000
ONE = {"boxes": np.array([[1, 1, 5, 5]]), "size": (9, 9)}


@pytest.mark.parametrize(
    "enter",
    [
        lambda: hv.Annotation(names=(BIG,), **ONE),
        lambda: hv.Sample(Path("a.png"), class_name=BIG),
        lambda: hv.build_model("mobilenet_v1", "linear", classes=["a", BIG]),
        lambda: hv.build_model("mobilenet_v1", "linear", classes=["a", "b"], positive=BIG),
        lambda: hv.score([], [], task="detection", classes=[BIG]),
        lambda: masks.boxes(np.ones((3, 3), np.uint8), labels={1: BIG}),
        lambda: read_names([], [BIG], Path("a")),
        lambda: class_list([hv.Sample(Path("a.png"), class_name="a")], ["a", BIG]),
    ],
)
def test_a_class_name_of_ten_megabytes_is_refused_at_every_door(enter):
    with pytest.raises(ValueError, match="class") as refused:
        enter()
    assert len(str(refused.value)) < 500
