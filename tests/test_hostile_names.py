"""File names of any bytes, and names of classes that no terminal should see, from reading to proposing."""

import os
import sys

import numpy as np
import pytest
from PIL import Image

import hccvision as hv
from hccvision.annotations import voc

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
