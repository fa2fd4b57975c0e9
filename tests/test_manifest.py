import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from hccvision import phantom
from hccvision.annotations.image_folder import read_image_folder
from hccvision.annotations.voc_folder import read_voc_folder
from hccvision.contracts import Problem, Sample
from hccvision.data.manifest import load_split, save_split
from hccvision.data.splits import folds, split
from hccvision.files import file_sha256

PATIENT = r"^(P\d+)_"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("manifest") / "liver"
    return phantom.write_dataset(folder, patients=6, slices=2, cancer_share=0.5, level="mild")


@pytest.fixture
def liver(drawn, tmp_path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "liver"))


def read(folder: Path) -> list[Sample]:
    return read_voc_folder(folder, patient=PATIENT)


def test_a_split_comes_back_as_it_was(liver, tmp_path):
    data = read(liver)
    parts = split(data, (0.5, 0.25, 0.25), seed=3)
    path = save_split(parts, tmp_path / "split.json", seed=3, group="patient")
    again = read(liver)
    loaded = load_split(path, again[::-1])
    assert [[s.path for s in part] for part in loaded] == [[s.path for s in part] for part in parts]
    assert all(any(s is t for t in again) for part in loaded for s in part)


def test_what_is_written(liver, tmp_path):
    parts = split(read(liver), (0.5, 0.25, 0.25), seed=3)
    document = json.loads(save_split(parts, tmp_path / "s.json", seed=3, group="patient").read_text())
    assert (document["seed"], document["group"]) == (3, "patient")
    assert list(document["parts"]) == ["train", "val", "test"]
    for part, written in zip(parts, document["parts"].values(), strict=True):
        assert written["images"] == len(part) == len(written["files"])
        assert written["patients"] == len({s.patient for s in part})
        assert sum(written["lesions"].values()) == sum(len(s.annotation) for s in part)
        for sample, entry in zip(part, written["files"], strict=True):
            assert entry == {
                "image": f"JPEGImages/{sample.path.name}",
                "sha256": file_sha256(sample.path),
                "annotation": f"Annotations/{sample.path.stem}.xml",
                "annotation_sha256": file_sha256(sample.annotation.path),
                "patient": sample.patient,
            }
    assert str(tmp_path) not in (tmp_path / "s.json").read_text()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_the_data_set_may_move(liver, tmp_path):
    parts = split(read(liver), (0.5, 0.5))
    path = save_split(parts, liver / "split.json")
    moved = liver.rename(tmp_path / "elsewhere")
    loaded = load_split(moved / "split.json", read(moved))
    assert [[s.path.name for s in part] for part in loaded] == [[s.path.name for s in part] for part in parts]
    assert not path.exists()


def test_class_folders_folds_and_names(tmp_path):
    for i, name in enumerate(["no", "no", "yes", "yes"]):
        (tmp_path / "d" / name).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 40 * i).save(tmp_path / "d" / name / f"{i % 2}.png")
    data = read_image_folder(tmp_path / "d")
    pair = folds(data, 2, group="none")[1]
    path = save_split(pair, tmp_path / "fold.json")
    document = json.loads(path.read_text())
    assert list(document["parts"]) == ["train", "test"]
    assert document["parts"]["test"]["classes"] == {"no": 1, "yes": 1}
    assert {e["image"] for p in document["parts"].values() for e in p["files"]} == {
        "no/0.png", "no/1.png", "yes/0.png", "yes/1.png",
    }  # fmt: skip
    assert load_split(path, read_image_folder(tmp_path / "d")) != list(pair)  # equal files, new samples
    assert [[s.path for s in p] for p in load_split(path, data)] == [[s.path for s in p] for p in pair]
    assert list(json.loads(save_split(pair, path, names=["a", "b"]).read_text())["parts"]) == ["a", "b"]
    quarters = split(data, (0.25,) * 4, group="none")
    assert list(json.loads(save_split(quarters, path).read_text())["parts"]) == [f"part {i}" for i in (1, 2, 3, 4)]


def damage_image(liver: Path) -> str:
    path = liver / "JPEGImages" / "P002_01.png"
    path.write_bytes(path.read_bytes() + b"\0")
    return r"P002_01\.png: has changed"


def damage_annotation(liver: Path) -> str:
    path = liver / "Annotations" / "P003_02.xml"
    path.write_text(path.read_text().replace("Unspecified", "Left").replace("<segmented>0", "<segmented>1"))
    return r"P003_02\.xml: has changed"


def delete_both(liver: Path) -> str:
    (liver / "JPEGImages" / "P002_01.png").unlink()
    (liver / "Annotations" / "P002_01.xml").unlink()
    return r"JPEGImages/P002_01\.png: no sample is this image any more"


def add_one(liver: Path) -> str:
    Image.new("L", (9, 9)).save(liver / "JPEGImages" / "P007_01.png")
    return r"P007_01\.png: is not in the split: leave it out"


@pytest.mark.parametrize("change", [damage_image, damage_annotation, delete_both, add_one])
def test_a_change_is_refused_by_name(liver, tmp_path, change):
    path = save_split(split(read(liver), (0.5, 0.5)), tmp_path / "split.json")
    message = change(liver)
    data = read_voc_folder(liver, patient=PATIENT, unannotated="normal")
    with pytest.raises(ValueError, match=rf"no longer what was split(.|\n)*{message}"):
        load_split(path, data)


def test_files_gone_since_they_were_read_are_named(liver, tmp_path):
    data = read(liver)
    path = save_split(split(data, (0.5, 0.5)), tmp_path / "split.json")
    for file in (data[0].path, data[1].annotation.path):
        file.unlink()
    with pytest.raises(ValueError, match=r"(?s)P001_01\.png: is missing.*P001_02\.xml: is missing"):
        load_split(path, data)
    with pytest.raises(FileNotFoundError, match=re.escape(data[0].path.name)):
        save_split(split(data, (0.5, 0.5)), tmp_path / "again.json")


def test_another_reading_of_the_same_files_is_refused(liver, tmp_path):
    data = read(liver)
    path = save_split(split(data, (0.5, 0.5)), tmp_path / "split.json")
    with pytest.raises(ValueError, match=r"its patient was 'P001', and is read as None now"):
        load_split(path, read_voc_folder(liver))
    with pytest.raises(ValueError, match=r"its class_name was None, and is read as 'cancer' now"):
        load_split(path, [replace(s, class_name="cancer") for s in data])
    with pytest.raises(ValueError, match=r"its annotation is missing"):
        load_split(path, [replace(s, annotation=None) for s in data])
    with pytest.raises(ValueError, match=r"several samples are this image"):
        load_split(path, [*data, replace(data[0])])


def test_samples_left_out_for_their_problems_are_no_news(liver, tmp_path):
    bad = Sample(liver / "bad.png", problems=(Problem("unreadable_image", "bad.png", "torn", False),))
    data = [*read(liver), bad]
    path = save_split(split(data, (0.5, 0.5), on_problem="skip"), tmp_path / "split.json")
    assert sum(map(len, load_split(path, data))) == 12


def test_a_torn_patient_can_be_neither_saved_nor_loaded(liver, tmp_path):
    data = read(liver)
    with pytest.raises(
        ValueError, match=r"P001_01.png in 'train' and .*P001_02.png in 'test' must be .*patient 'P001'"
    ):
        save_split([data[:1], data[1:]], tmp_path / "split.json")
    assert not (tmp_path / "split.json").exists()
    path = save_split(split(data, (0.5, 0.5)), tmp_path / "split.json")
    document = json.loads(path.read_text())
    document["parts"]["test"]["files"].append(document["parts"]["train"]["files"].pop())
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="must be in one part: the same patient"):
        load_split(path, data)


def test_copies_in_two_parts_are_refused_too(tmp_path):
    for name in "ab":
        Image.new("L", (8, 8), 90).save(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match=r"must be in one part: the same content; hv\.split keeps them together"):
        save_split([[Sample(tmp_path / "a.png")], [Sample(tmp_path / "b.png")]], tmp_path / "s.json")


def test_an_older_manifest_stands_until_the_new_one_is_whole(liver, tmp_path, monkeypatch):
    parts = split(read(liver), (0.5, 0.5))
    path = save_split(parts, tmp_path / "split.json")
    before = path.read_bytes()

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        save_split(parts[::-1], path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []


@pytest.mark.parametrize("content", [b"", b"patients,notes\n", b'{"format": "other"}', b'{"seed": 1}', b"\xff\xd8\xff"])
def test_a_file_that_is_no_manifest_is_never_replaced(liver, tmp_path, content):
    parts, path = split(read(liver), (0.5, 0.5)), tmp_path / "notes.json"
    path.write_bytes(content)
    with pytest.raises(FileExistsError, match=r"notes.json: expected no file or a split saved by save_split"):
        save_split(parts, path)
    assert path.read_bytes() == content
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(FileExistsError, match="expected no file or a split"):
        save_split(parts, tmp_path / "folder.json")


def test_file_names_of_any_bytes_come_back(liver, tmp_path):
    try:
        for number, path in enumerate(sorted(liver.rglob("P001*.*"))):
            path.rename(path.with_name(os.fsdecode(b"P001_\xff%d" % (number // 2) + os.fsencode(path.suffix))))
    except OSError:
        pytest.skip("this file system takes no such names")
    data = [Sample(path, path.name[:4]) for path in sorted((liver / "JPEGImages").iterdir())]
    assert any("\udcff" in str(s.path) for s in data)
    parts = split(data, (0.5, 0.5), seed=0)
    path = save_split(parts, tmp_path / "split.json", seed=0)
    path.read_bytes().decode()
    assert load_split(path, data) == parts


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"parts": {}}', '{"format": "x", "parts": {}}', '{"parts": 3}'])
def test_another_file_is_no_manifest(tmp_path, text):
    path = tmp_path / "split.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"split\.json: not a split saved by save_split"):
        load_split(path, [])


def test_parts_and_names_must_fit(tmp_path):
    one = [Sample(Path("a.png"))]
    for parts, names in (([], None), ([one, []], ["a"]), ([one, []], ["a", "a"])):
        with pytest.raises(ValueError, match="expected parts, and a name of its own for each"):
            save_split(parts, tmp_path / "s.json", names=names)
    with pytest.raises(ValueError, match="no sample in any part"):
        save_split([[], []], tmp_path / "s.json")
    with pytest.raises(FileNotFoundError):
        load_split(tmp_path / "s.json", one)
