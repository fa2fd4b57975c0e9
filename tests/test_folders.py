from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hccvision.annotations.image_folder import read_image_folder
from hccvision.annotations.problems import usable
from hccvision.annotations.voc_folder import read_voc_folder
from hccvision.contracts import Sample
from hccvision.curation.checks import check


def picture(folder: Path, name: str, size: tuple[int, int] = (40, 30)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, 99).save(folder / name)
    return folder / name


def xml(folder: Path, stem: str, *boxes, filename: str | None = None, size: tuple[int, int] | None = (40, 30)) -> Path:
    """Write an annotation; boxes are (name, xmin, ymin, xmax, ymax) as the file counts."""
    folder.mkdir(parents=True, exist_ok=True)
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for name, x1, y1, x2, y2 in boxes
    )
    stated = "" if size is None else f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    path = folder / f"{stem}.xml"
    name = f"{stem}.png" if filename is None else filename
    path.write_text(f"<annotation><filename>{name}</filename>{stated}{objects}</annotation>", encoding="utf-8")
    return path


def write_list(root: Path, text: str | bytes, name: str = "train") -> Path:
    folder = root / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_bytes(text.encode() if isinstance(text, str) else text)
    return folder / f"{name}.txt"


def kinds(samples: list[Sample]) -> list[list[str]]:
    return [[p.kind for p in s.problems] for s in samples]


TUMOR = ("tumor", 11, 6, 20, 15)

# Layouts


@pytest.mark.parametrize(
    ("annotations", "pictures"),
    [("", ""), ("Annotations", "JPEGImages"), ("Annotations", "images"), ("Annotations", "")],
)
def test_reads_every_layout(tmp_path, annotations, pictures):
    for stem in ("b", "a"):
        picture(tmp_path / pictures, f"{stem}.png")
        xml(tmp_path / annotations, stem, TUMOR)
    samples = read_voc_folder(str(tmp_path))
    assert [s.path for s in samples] == [tmp_path / pictures / f"{stem}.png" for stem in "ab"]
    assert [s.annotation.path.name for s in samples] == ["a.xml", "b.xml"]
    for sample in samples:
        assert sample.annotation.boxes.tolist() == [[10, 5, 20, 15]]
        assert (sample.annotation.names, sample.patient, sample.class_name) == (("tumor",), None, None)
        assert sample.problems == ()


def test_how_files_count_pixels_is_passed_on(tmp_path):
    picture(tmp_path, "a.png")
    xml(tmp_path, "a", TUMOR)
    assert read_voc_folder(tmp_path, base="corner")[0].annotation.boxes.tolist() == [[11, 6, 20, 15]]
    with pytest.raises(ValueError, match="unknown base 'pixel'"):
        read_voc_folder(tmp_path, base="pixel")


@pytest.mark.parametrize("name", ["Läsion 3.png", "肝癌_01.png", "a.b.c.png", "a.PNG", "a b.jpeg"])
def test_any_file_name_will_do(tmp_path, name):
    picture(tmp_path, name)
    xml(tmp_path, name.rpartition(".")[0], TUMOR, filename=name)
    write_list(tmp_path, name.rpartition(".")[0])
    for subset in (None, "train"):
        (sample,) = read_voc_folder(tmp_path, subset=subset)
        assert sample.path == tmp_path / name
        assert sample.problems == ()


def test_an_image_is_found_by_the_name_of_its_xml_or_by_what_the_xml_says(tmp_path):
    picture(tmp_path, "renamed.png")
    xml(tmp_path, "renamed", TUMOR, filename="before.jpg")
    picture(tmp_path, "slice7.png")
    xml(tmp_path, "label_7", TUMOR, filename=r"C:\liver\slice7.png")
    samples = read_voc_folder(tmp_path)
    assert [(s.annotation.path.stem, s.path.name, s.problems) for s in samples] == [
        ("label_7", "slice7.png", ()),
        ("renamed", "renamed.png", ()),
    ]


def test_images_of_one_stem_are_told_apart_by_the_xml_or_are_a_problem(tmp_path):
    for name in ("a.png", "a.jpg", "b.png", "b.jpg", "c.png", "d.png"):
        picture(tmp_path, name)
    xml(tmp_path, "a", TUMOR, filename="a.jpg")
    xml(tmp_path, "b", TUMOR, filename="")
    xml(tmp_path, "c", TUMOR, filename="d.png")
    samples = read_voc_folder(tmp_path, unannotated="skip")
    assert kinds(samples) == [[], ["ambiguous_image"], ["ambiguous_image"]]
    assert samples[0].path.name == "a.jpg"
    assert "b.jpg, b.png" in str(samples[1].problems[0])
    assert str(samples[2].problems[0]).startswith(f"{tmp_path / 'c.xml'}: its image may be any of c.png, d.png")
    assert not any(p.usable for s in samples for p in s.problems)


def test_dicom_slices_are_read_without_their_suffix(tmp_path):
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "notes").write_bytes(b"nothing")
    (sample,) = read_voc_folder(tmp_path)
    assert sample.path.name == "IM0001"
    assert [p.kind for p in sample.problems] == ["unreadable_image", "missing_annotation"]


def test_what_a_mac_leaves_behind_is_not_read(tmp_path):
    picture(tmp_path, "a.png")
    xml(tmp_path, "a", TUMOR)
    (tmp_path / "._a.png").write_bytes(b"\0\5\26\7")
    (tmp_path / "._a.xml").write_bytes(b"\0\5\26\7")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    assert [s.path.name for s in read_voc_folder(tmp_path)] == ["a.png"]


# Images without annotation


def test_an_image_without_xml_is_what_is_said(tmp_path):
    picture(tmp_path, "a.png")
    picture(tmp_path, "b.png", (50, 20))
    xml(tmp_path, "a", TUMOR)
    samples = read_voc_folder(tmp_path)
    assert kinds(samples) == [[], ["missing_annotation"]]
    assert samples[1].annotation is None
    assert str(samples[1].problems[0]).startswith(str(tmp_path / "b.png"))
    assert 'unannotated="normal"' in samples[1].problems[0].message
    _, normal = read_voc_folder(tmp_path, unannotated="normal")
    assert (len(normal.annotation), normal.annotation.size, normal.problems) == (0, (20, 50), ())
    assert [s.path.name for s in read_voc_folder(tmp_path, unannotated="skip")] == ["a.png"]
    with pytest.raises(ValueError, match="unknown unannotated='ignore'; known: 'problem', 'normal', 'skip'"):
        read_voc_folder(tmp_path, unannotated="ignore")


def test_an_image_annotated_under_another_name_is_not_taken_for_normal(tmp_path):
    picture(tmp_path, "slice7.png")
    xml(tmp_path, "label_7", TUMOR, filename="slice7.png")
    (sample,) = read_voc_folder(tmp_path, unannotated="normal")
    assert len(sample.annotation) == 1


def test_no_image_with_several_formats_is_dropped(tmp_path):
    for name in ("a.png", "a.jpg"):
        picture(tmp_path, name)
    assert [s.path.name for s in read_voc_folder(tmp_path)] == ["a.jpg", "a.png"]


def test_an_xml_without_objects_is_an_image_without_lesions(tmp_path):
    picture(tmp_path, "a.png")
    xml(tmp_path, "a")
    (sample,) = read_voc_folder(tmp_path)
    assert (sample.annotation.boxes.shape, sample.problems) == ((0, 4), ())


# Bad input: kept as problems that name the file


def bad_folder(root: Path) -> None:
    picture(root, "broken.png")
    (root / "broken.xml").write_text("this is not XML")
    picture(root, "degenerate.png")
    xml(root, "degenerate", ("tumor", 5, 5, 5, 9), TUMOR)
    xml(root, "lost", TUMOR)
    picture(root, "outside.png")
    xml(root, "outside", ("tumor", 30, 20, 90, 25))
    picture(root, "resized.png", (80, 60))
    xml(root, "resized", TUMOR)
    (root / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    xml(root, "torn", TUMOR)


def test_every_problem_is_kept_with_its_file(tmp_path):
    bad_folder(tmp_path)
    found = {s.path.stem: s.problems for s in read_voc_folder(tmp_path)}
    expected = {
        "broken": ("unreadable_annotation", "broken.xml", False, "not a readable XML file"),
        "degenerate": ("degenerate_box", "degenerate.xml", True, "needs xmax > xmin"),
        "lost": ("missing_image", "lost.xml", False, "'lost.png' is not in"),
        "outside": ("box_outside", "outside.xml", True, "extends beyond the image"),
        "resized": ("size_mismatch", "resized.xml", False, "says the image is 40×30 pixels, but resized.png is 80×60"),
        "torn": ("unreadable_image", "torn.png", False, "can't be read as an image"),
    }
    assert set(found) == set(expected)
    for stem, (kind, file, is_usable, text) in expected.items():
        (problem,) = found[stem]
        assert (problem.kind, Path(problem.path).name, problem.usable) == (kind, file, is_usable)
        assert text in problem.message
        assert str(problem).startswith(f"{tmp_path / file}: ")
        assert not problem.message.startswith(str(tmp_path))


def test_problems_stop_who_uses_the_samples_or_cost_only_what_they_spoil(tmp_path, capsys):
    bad_folder(tmp_path)
    samples = read_voc_folder(tmp_path)
    with pytest.raises(ValueError, match=r'6 problems in 6 samples; .*on_problem="skip"') as error:
        usable(samples)
    for file in ("broken.xml", "degenerate.xml", "lost.xml", "outside.xml", "resized.xml", "torn.png"):
        assert str(tmp_path / file) in str(error.value)
    kept = usable(samples, on_problem="skip")
    assert [s.path.stem for s in kept] == ["degenerate", "outside"]
    assert kept[0].annotation.boxes.tolist() == [[10, 5, 20, 15]]  # the degenerate box has cost only itself
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 7
    assert all(line.startswith("skipped: ") for line in printed)


def test_a_size_that_is_not_stated_is_no_mismatch(tmp_path):
    picture(tmp_path, "a.png")
    xml(tmp_path, "a", TUMOR, size=None)
    assert read_voc_folder(tmp_path)[0].problems == ()


def test_folders_that_hold_nothing_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder"):
        read_voc_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=rf"{tmp_path}: no annotations and no images found; expected LabelImg's XML"):
        read_voc_folder(tmp_path)
    (tmp_path / "Annotations").mkdir()
    with pytest.raises(ValueError, match="no annotations and no images found"):
        read_voc_folder(tmp_path)


# Image lists


def test_a_list_chooses_and_orders(tmp_path):
    for stem in ("a", "b", "c"):
        picture(tmp_path / "JPEGImages", f"{stem}.png")
        xml(tmp_path / "Annotations", stem, TUMOR)
    write_list(tmp_path, "c\n\n  a \n")
    assert [s.path.stem for s in read_voc_folder(tmp_path, subset="train")] == ["c", "a"]
    write_list(tmp_path, "b  1\na -1\r\nc 0\nb 1\n", "tumor_train")
    assert [s.path.stem for s in read_voc_folder(tmp_path, subset="tumor_train")] == ["b", "a", "c"]
    write_list(tmp_path, "a\n".encode("utf-8-sig"))  # as Windows writes it
    assert [s.path.stem for s in read_voc_folder(tmp_path, subset="train")] == ["a"]


def test_a_list_that_names_what_is_not_there_is_a_problem(tmp_path):
    picture(tmp_path, "a.png")
    xml(tmp_path, "a", TUMOR)
    write_list(tmp_path, "a\ngone\n")
    samples = read_voc_folder(tmp_path, subset="train")
    assert kinds(samples) == [[], ["missing_image"]]
    assert not samples[1].problems[0].usable
    assert "gone: the list 'train' names it" in str(samples[1].problems[0])


def test_missing_and_unreadable_lists(tmp_path):
    picture(tmp_path, "a.png")
    with pytest.raises(FileNotFoundError, match=r"Main/test.txt: no such image list; lists there: none"):
        read_voc_folder(tmp_path, subset="test")
    write_list(tmp_path, "a")
    with pytest.raises(FileNotFoundError, match=r"test.txt: no such image list; lists there: train"):
        read_voc_folder(tmp_path, subset="test")
    write_list(tmp_path, "\n \n")
    with pytest.raises(ValueError, match=r"train.txt: the image list is empty"):
        read_voc_folder(tmp_path, subset="train")
    write_list(tmp_path, "Läsion\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"train.txt: not UTF-8 text"):
        read_voc_folder(tmp_path, subset="train")


# Patients


def patients(root: Path, rule) -> list[str | None]:
    return [s.patient for s in read_voc_folder(root, patient=rule, unannotated="normal")]


@pytest.fixture
def two_patients(tmp_path) -> Path:
    for name in ("P01_1.png", "P01_2.png", "P02_1.png"):
        picture(tmp_path, name)
    return tmp_path


def test_patients_by_regular_expression(two_patients):
    assert patients(two_patients, r"^(P\d+)_") == ["P01", "P01", "P02"]
    assert patients(two_patients, r"P\d+") == ["P01", "P01", "P02"]  # without a group, all that matches


def test_patients_by_callable_and_dictionary(two_patients):
    assert patients(two_patients, lambda path: path.stem[-1]) == ["1", "2", "1"]
    table = {"P01_1.png": "x", "P01_2": "y", "P02_1.png": 3}  # with and without the suffix
    assert patients(two_patients, table) == ["x", "y", "3"]


@pytest.mark.parametrize("as_path", [True, False])
@pytest.mark.parametrize("column", ["image", "file", "path"])
def test_patients_by_table(two_patients, column, as_path):
    table = two_patients / "patients.csv"
    rows = [f"scanner,{column},patient", "A,P01_1.png,Müller", "B,slices/P01_2.png,Müller", "A,P02_1,007"]
    table.write_text("\n".join(rows), encoding="utf-8-sig")
    assert patients(two_patients, table if as_path else str(table)) == ["Müller", "Müller", "007"]


def test_a_patient_nobody_knows_is_a_problem(two_patients):
    table = two_patients / "patients.csv"
    table.write_text("image,patient\nP01_1.png,P01\nP01_2.png,\n")
    for rule in (r"^(P01_1)", lambda path: "P" if path.stem == "P01_1" else None, {"P01_1.png": "P"}, table):
        samples = read_voc_folder(two_patients, patient=rule, unannotated="normal")
        assert kinds(samples) == [[], ["no_patient"], ["no_patient"]]
        assert [s.patient for s in samples[1:]] == [None, None]
        assert str(samples[1].problems[0]).startswith(str(two_patients / "P01_2.png"))
    assert patients(two_patients, r"(x)?P") == [None] * 3  # a group that took no part


def test_tables_that_do_not_say_whose_an_image_is(two_patients):
    table = two_patients / "patients.csv"
    with pytest.raises(FileNotFoundError, match=r"patients.csv: no such patient table"):
        patients(two_patients, table)
    for text, columns in (("name;patient\n1;2\n", "name;patient"), ("image,who\na,b\n", "image, who"), ("", "no rows")):
        table.write_text(text)
        with pytest.raises(
            ValueError, match=rf"patients.csv: a patient table needs a column .*this one has: {columns}"
        ):
            patients(two_patients, table)
    table.write_text("image,patient\nyes/1.png,A\nno/1.png,B\n")
    with pytest.raises(ValueError, match=r"patients.csv: two files are named '1.png', of the patients 'A' and 'B'"):
        patients(two_patients, table)
    table.write_bytes("image,patient\nP01_1.png,Müller\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"patients.csv: not UTF-8 text"):
        patients(two_patients, table)


# Folders of class images


def test_class_folders_in_the_order_given(tmp_path):
    for folder in ("yes", "no", ".hidden"):
        picture(tmp_path / folder, "P2_b.png")
        picture(tmp_path / folder, "P1_a.jpg")
        (tmp_path / folder / "notes.txt").write_text("x")
    samples = read_image_folder(tmp_path, {"normal": "no", "cancer": "yes"}, patient=r"P\d")
    assert [(s.class_name, s.path.relative_to(tmp_path).as_posix(), s.patient) for s in samples] == [
        ("normal", "no/P1_a.jpg", "P1"),
        ("normal", "no/P2_b.png", "P2"),
        ("cancer", "yes/P1_a.jpg", "P1"),
        ("cancer", "yes/P2_b.png", "P2"),
    ]
    assert [s.class_name for s in read_image_folder(tmp_path, {"b": "yes", "a": "no"})] == ["b", "b", "a", "a"]
    assert [s.class_name for s in read_image_folder(str(tmp_path))] == ["no", "no", "yes", "yes"]
    assert all(s.annotation is None and s.problems == () for s in samples)


def test_class_folders_that_lack_something(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder"):
        read_image_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no class folders in it; expected one folder of images per class"):
        read_image_folder(tmp_path)
    picture(tmp_path / "no", "a.png")
    with pytest.raises(
        FileNotFoundError, match=r"yes: no such folder for the class 'cancer'; the folders in .* are: no"
    ):
        read_image_folder(tmp_path, {"normal": "no", "cancer": "yes"})
    (tmp_path / "yes").mkdir()
    with pytest.raises(ValueError, match=r"yes: no images in the folder of the class 'cancer'"):
        read_image_folder(tmp_path, {"normal": "no", "cancer": "yes"})


def test_a_broken_image_in_a_class_folder_is_a_problem(tmp_path):
    picture(tmp_path / "no", "a.png")
    (tmp_path / "no" / "b.png").write_text("not an image")
    samples = read_image_folder(tmp_path)
    assert kinds(samples) == [[], ["unreadable_image"]]
    assert samples[1].class_name == "no"


# Real data


@pytest.mark.shared_data
def test_the_blood_cells(shared):
    root = shared / "data/bccd"
    samples = read_voc_folder(root)
    report = check(samples)
    assert len(samples) == 364
    assert sum(report.objects.values()) == 4888 - 2
    assert set(report.objects) == {"RBC", "WBC", "Platelets"}
    assert [(p.kind, Path(p.path).stem, p.usable) for p in report.problems if p.kind == "degenerate_box"] == [
        ("degenerate_box", "BloodImage_00338", True),
        ("degenerate_box", "BloodImage_00343", True),
    ]
    assert all(p.usable for p in report.problems)
    lists = {n: [s.path.stem for s in read_voc_folder(root, subset=n)] for n in ("train", "val", "trainval", "test")}
    assert not set(lists["trainval"]) & set(lists["test"])
    assert set(lists["train"]) | set(lists["val"]) == set(lists["trainval"])
    for name, stems in lists.items():
        assert stems == (root / "ImageSets/Main" / f"{name}.txt").read_text().split()


@pytest.mark.shared_data
def test_the_brain_slices(shared):
    samples = read_image_folder(shared / "data/brain_mri_253", {"no": "no", "yes": "yes"})
    assert [s.class_name for s in samples] == ["no"] * 98 + ["yes"] * 155
    assert all(s.problems == () for s in samples)
    boxed = read_voc_folder(shared / "data/brain_mri_boxes")
    assert (len(boxed), sum(len(s.annotation) for s in boxed)) == (46, 49)
    assert {name for s in boxed for name in s.names} == {"tumor"}
    assert all(np.isfinite(s.annotation.boxes).all() and s.problems == () for s in boxed)


# File names made to do harm


@pytest.mark.parametrize("name", ["../a.png", "x/../../a.png", r"..\a.png", "../../../../etc/passwd"])
def test_an_xml_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    picture(tmp_path, "a.png")
    xml(tmp_path / "liver", "b", TUMOR, filename=name)
    (sample,) = read_voc_folder(tmp_path / "liver")
    (problem,) = sample.problems
    assert (problem.kind, problem.usable) == ("unsafe_path", False)
    assert problem.path == str(tmp_path / "liver" / "b.xml")
    assert repr(name) in problem.message
    assert sample.path.parent == tmp_path / "liver"


def test_an_absolute_path_counts_by_its_last_part_only(tmp_path):
    outside = picture(tmp_path, "a.png")
    xml(tmp_path / "liver", "b", TUMOR, filename=str(outside))
    (sample,) = read_voc_folder(tmp_path / "liver")
    assert kinds([sample]) == [["missing_image"]]
    picture(tmp_path / "liver", "a.png")
    (sample,) = read_voc_folder(tmp_path / "liver")
    assert (sample.path, sample.problems) == (tmp_path / "liver" / "a.png", ())
