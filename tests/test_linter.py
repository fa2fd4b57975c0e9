import json
from pathlib import Path

import numpy as np
import pytest

from hccvision.contracts import Annotation, Problem, Sample
from hccvision.data.folders import read_image_folder, read_voc_folder
from hccvision.data.linter import check, same_content, usable


def file(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def boxes(*names: str) -> Annotation:
    return Annotation(np.tile(np.array([[1, 2, 9, 8]], np.float32), (len(names), 1)), names, size=(10, 10))


def problem(name: str, *, spoils: bool = True, kind: str = "unreadable_image") -> Problem:
    return Problem(kind, name, "not an image", usable=not spoils)


@pytest.fixture
def data(tmp_path) -> list[Sample]:
    return [
        Sample(file(tmp_path, "a.png", b"one"), annotation=boxes("hcc", "cyst", "hcc")),
        Sample(file(tmp_path, "b.png", b"two"), annotation=boxes()),
        Sample(file(tmp_path, "c.png", b"one"), annotation=boxes("hcc"), problems=(problem("c.xml", spoils=False),)),
        Sample(tmp_path / "gone.png", problems=(problem("d.xml"), problem("d.png", kind="missing_image"))),
        Sample(tmp_path / "gone.png"),
    ]


def test_check_counts_what_is_there(data):
    report = check(data)
    assert (report.images, report.without_objects) == (5, 1)
    assert list(report.objects.items()) == [("cyst", 1), ("hcc", 3)]
    assert [p.path for p in report.problems] == ["c.xml", "d.xml", "d.png"]
    assert report.duplicates == ((str(data[0].path), str(data[2].path)),)


def test_check_counts_class_names(tmp_path):
    report = check([Sample(tmp_path / f"{i}.png", class_name="yes" if i else "no") for i in range(3)])
    assert (report.objects, report.without_objects, report.duplicates) == ({"no": 1, "yes": 2}, 0, ())


def test_check_can_be_printed_and_stored(data):
    report = check(data)
    lines = str(report).splitlines()
    assert lines[:4] == [
        "5 images, 1 of them without objects",
        "classes: cyst 1, hcc 3",
        "identical files: 1 surplus copies in 1 groups",
        "problems: unreadable_image 2, missing_image 1",
    ]
    assert lines[4:] == ["  c.xml: not an image", "  d.xml: not an image", "  d.png: not an image"]
    stored = json.loads(json.dumps(report.to_dict()))
    assert stored["problems"][0] == {
        "kind": "unreadable_image",
        "path": "c.xml",
        "message": "not an image",
        "usable": True,
    }
    assert stored["duplicates"] == [[str(data[0].path), str(data[2].path)]]
    assert (stored["images"], stored["objects"], stored["without_objects"]) == (5, {"cyst": 1, "hcc": 3}, 1)


def test_check_never_raises(tmp_path):
    (tmp_path / "folder.png").mkdir()
    report = check([Sample(tmp_path / "folder.png"), Sample(Path("")), Sample(tmp_path / "gone.png")])
    assert (report.images, report.duplicates) == (3, ())


def test_same_content_groups_bytes_in_order(data):
    assert same_content(data) == [[data[0], data[2]], [data[1]], [data[3]], [data[4]]]


def test_usable_lets_good_data_through(data, capsys):
    good = [data[0], data[1]]
    for on_problem in ("raise", "skip"):
        assert usable(good, on_problem) == good
    assert capsys.readouterr().out == ""


def test_usable_names_all_files_it_stops_for(data):
    with pytest.raises(ValueError, match=r'^3 problems in 5 samples; mend them, .*on_problem="skip"') as error:
        usable(data)
    assert str(error.value).splitlines()[1:] == [
        "  c.xml: not an image",
        "  d.xml: not an image",
        "  d.png: not an image",
    ]


def test_usable_shows_ten_problems_and_counts_the_rest():
    many = [Sample(Path(f"{i}.png"), problems=(problem(f"{i}.png"),)) for i in range(13)]
    with pytest.raises(ValueError, match=r"13 problems in 13 samples") as error:
        usable(many)
    lines = str(error.value).splitlines()
    assert lines[10] == "  9.png: not an image"
    assert lines[11:] == ["  … and 3 more: hv.check(data) shows them all"]


def test_usable_prints_what_it_skips_and_keeps_what_it_can(data, capsys):
    assert usable(data, "skip") == [data[0], data[1], data[2], data[4]]
    assert capsys.readouterr().out.splitlines() == [
        "skipped: c.xml: not an image",
        "skipped: d.xml: not an image",
        "skipped: d.png: not an image",
    ]


def test_usable_refuses_to_give_nothing():
    with pytest.raises(ValueError, match=r"no usable sample: 1 given, all left out"):
        usable([Sample(Path("a.png"), problems=(problem("a.png"),))], "skip")
    with pytest.raises(ValueError, match=r"no usable sample: 0 given"):
        usable([])
    with pytest.raises(ValueError, match=r"unknown on_problem='ignore'; known: 'raise', 'skip'"):
        usable([], "ignore")


@pytest.mark.shared_data
def test_the_copies_among_the_brain_slices(shared):
    data = read_image_folder(shared / "data/brain_mri_253", {"no": "no", "yes": "yes"})
    report = check(data)
    assert report.objects == {"no": 98, "yes": 155}
    assert report.problems == ()
    assert len(report.duplicates) == 22
    assert sum(len(group) - 1 for group in report.duplicates) == 25
    class_of = {str(s.path): s.class_name for s in data}
    for group in report.duplicates:
        assert len({Path(path).read_bytes() for path in group}) == 1
        assert len({class_of[path] for path in group}) == 1


@pytest.mark.shared_data
def test_the_degenerate_boxes_among_the_blood_cells(shared, capsys):
    data = read_voc_folder(shared / "data/bccd")
    with pytest.raises(ValueError, match=r"problems in 364 samples") as error:
        usable(data)
    assert "BloodImage_00338.xml" in str(error.value) or "more: hv.check" in str(error.value)
    assert len(usable(data, "skip")) == 364
    printed = capsys.readouterr().out
    for name in ("BloodImage_00338.xml", "BloodImage_00343.xml"):
        assert sum(name in line and "needs xmax > xmin" in line for line in printed.splitlines()) == 1
