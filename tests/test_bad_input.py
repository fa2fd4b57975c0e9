"""Bad input as a user meets it, from reading a folder to training on it: each error names the file and the remedy."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import hccvision as hv

SIZE = (48, 72)
BOX = [20, 10, 50, 34]
RECIPE = hv.Recipe(epochs=1, batch=4)
SMALL = {"image_size": 64, "backbone_options": {"width": 0.1}}


@pytest.fixture
def liver(tmp_path):
    """Six slices in LabelImg's layout, the first without a lesion."""
    root = tmp_path / "liver"
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        pixels = rng.integers(0, 60, SIZE, np.uint8)
        boxes = [BOX] * bool(i)
        for x1, y1, x2, y2 in boxes:
            pixels[y1:y2, x1:x2] = 230
        image = root / f"P{i}_1.png"
        Image.fromarray(pixels).save(image)
        annotation = hv.Annotation(np.array(boxes), ("hcc",) * len(boxes), size=SIZE)
        hv.voc.write(image.with_suffix(".xml"), annotation, image_path=image)
    return root


@pytest.fixture
def classes(tmp_path):
    """Two folders of three slices."""
    for name in ("no", "yes"):
        (tmp_path / "brains" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full(SIZE, 40 * i, np.uint8)).save(tmp_path / "brains" / name / f"{name}{i}.png")
    return tmp_path / "brains"


def read(root):
    return hv.read_voc_folder(root, patient=r"^(P\d+)_")


def detector(**options):
    return hv.build_model("mobilenet_v1", "ssd", classes=["hcc"], **{**SMALL, **options})


def edit(xml, old, new):
    text = xml.read_text()
    assert old in text
    xml.write_text(text.replace(old, new))


@cache
def used():
    """One detector for all that only goes wrong, or only has to go on."""
    return detector()


ACTIONS = {
    "fit": lambda data, **options: hv.fit(used(), data, recipe=RECIPE, device="cpu", **options),
    "val": lambda data, **options: hv.fit(used(), read_good(data)[:1], data, recipe=RECIPE, device="cpu", **options),
    "evaluate": lambda data, **options: hv.evaluate(used(), data, ["voc_map"], device="cpu", **options),
    "split": lambda data, **options: hv.split(data, (0.5, 0.5), **options),
    "folds": lambda data, **options: hv.folds(data, 2, **options),
}


def read_good(data):
    return [sample for sample in data if not sample.problems]


def assert_refused(data, file, reason, remedy):
    """Every use of the data is refused, naming the file, what is wrong and what to do."""
    for name, action in ACTIONS.items():
        with pytest.raises(ValueError, match="correct them, or leave out") as caught:
            action(data)
        message = str(caught.value)
        for expected in (str(file), reason, remedy, 'on_problem="skip"'):
            assert expected in message, f"{name}: {message}"
    assert file.name in str(hv.check(data))  # by name: folders may name people
    assert str(file) in json.dumps(hv.check(data).to_dict())


def assert_skipped(data, file, left, capsys):
    """With on_problem="skip" each use names the file and goes on with so many samples."""
    for name, action in ACTIONS.items():
        capsys.readouterr()
        result = action(data, on_problem="skip")
        assert f"skipped: {file}: " in capsys.readouterr().out, name
        if name == "split":
            assert sum(map(len, result)) == left
        if name == "folds":
            assert [len(train) + len(test) for train, test in result] == [left, left]
        if name == "evaluate":
            assert len(result.predictions) == left
        if name in ("fit", "val"):
            assert np.isfinite(result["train_loss"]).all()


def test_good_input_is_taken_as_it_is(liver):
    data = read(liver)
    assert len(data) == 6
    for action in ACTIONS.values():
        action(data)


# images


def test_a_missing_image(liver, capsys):
    (liver / "P2_1.png").unlink()
    data = read(liver)
    assert_refused(data, liver / "P2_1.xml", "its image 'P2_1.png' is not in", "put it there, or delete the XML")
    assert_skipped(data, liver / "P2_1.xml", 5, capsys)


@pytest.mark.parametrize("kept", [0, 20, 400])
def test_an_image_that_is_not_one_or_is_cut_off(kept, liver, capsys):
    (liver / "P2_1.png").write_bytes((liver / "P2_1.png").read_bytes()[:kept])
    data = read(liver)
    assert_refused(data, liver / "P2_1.png", "can't be read as an image", "export it again")
    assert_skipped(data, liver / "P2_1.png", 5, capsys)


@pytest.mark.parametrize("fault", ["cut off", "gone"])
def test_an_image_that_breaks_after_the_folder_was_read(fault, liver, capsys):
    data = read(liver)
    path = liver / "P2_1.png"
    if fault == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:400])
    error = FileNotFoundError if fault == "gone" else ValueError
    with pytest.raises(error, match=f"{path}: "):
        hv.fit(detector(), data, recipe=RECIPE, device="cpu")
    with pytest.raises(ValueError, match=f"1 of 6 images could not be predicted, first {path}: "):
        hv.evaluate(detector(), data, device="cpu")
    report = hv.evaluate(detector(), data, ["voc_map"], device="cpu", on_problem="skip")
    assert [s.path for s in report.samples] == [s.path for s in data if s.path != path]
    assert [p.path for p in report.predictions] == [str(s.path) for s in report.samples]
    assert f"skipped: {path}: " in capsys.readouterr().out


def test_where_no_image_can_be_predicted_nothing_is_scored(liver):
    data = read(liver)
    for path in liver.glob("*.png"):
        path.unlink()
    for on_problem in ("raise", "skip"):
        with pytest.raises(ValueError, match=f"6 of 6 images could not be predicted, first {data[0].path}: "):
            hv.evaluate(used(), data, device="cpu", on_problem=on_problem)


def test_an_image_without_annotation(liver, capsys):
    (liver / "P2_1.xml").unlink()
    data = read(liver)
    assert_refused(data, liver / "P2_1.png", "no XML for this image", "annotate it, or read the folder with")
    assert_skipped(data, liver / "P2_1.png", 5, capsys)
    normal = hv.read_voc_folder(liver, unannotated="normal")
    assert len(normal) == 6
    assert len(normal[2].annotation) == 0
    hv.fit(detector(), normal, recipe=RECIPE, device="cpu")


# annotations


@pytest.mark.parametrize(
    "content", [b"not XML at all", b"<annotation><object>", b"", b"<html></html>", b"\xff\xfe\x00broken"]
)
def test_an_xml_that_is_not_xml_or_no_annotation(content, liver, capsys):
    xml = liver / "P2_1.xml"
    xml.write_bytes(content)
    data = read(liver)
    assert_refused(data, xml, "ml", "save it again from LabelImg in the PascalVOC format, or delete it")
    assert_skipped(data, xml, 5, capsys)


def test_an_annotation_whose_size_disagrees_with_its_image(liver, capsys):
    xml = liver / "P2_1.xml"
    edit(xml, "<width>72</width>", "<width>484</width>")
    data = read(liver)
    assert_refused(data, xml, "says the image is 484×48 pixels, but P2_1.png is 72×48", "annotate this one")
    assert_skipped(data, xml, 5, capsys)


def test_a_class_that_is_not_in_the_list(liver):
    xml = liver / "P2_1.xml"
    edit(xml, "<name>hcc</name>", "<name>hc</name>")
    data = read(liver)  # a reader can't know the classes
    assert all(not sample.problems for sample in data)
    assert hv.check(data).objects == {"hc": 1, "hcc": 4}
    for action in (ACTIONS["fit"], lambda d: hv.fit(detector(), d[:2], d, recipe=RECIPE, device="cpu")):
        with pytest.raises(ValueError, match="the class 'hc' is not among the model's classes") as caught:
            action(data)
        for expected in (str(xml), "(hcc)", "correct the annotation, leave", "or build the model with that class"):
            assert expected in str(caught.value)
    with pytest.raises(ValueError, match=r"P2_1\.xml: the class 'hc' is not among .*\(hcc\): correct the annotation"):
        hv.evaluate(detector(), data, device="cpu")


def test_an_image_whose_only_box_is_degenerate_is_never_used_as_lesion_free(liver, capsys):
    xml = liver / "P2_1.xml"
    edit(xml, "<xmax>50</xmax>", "<xmax>21</xmax>")
    data = read(liver)
    assert_refused(data, xml, "object 1 ('hcc') needs xmax > xmin and ymax > ymin", "redraw or delete it in LabelImg")
    assert_skipped(data, xml, 5, capsys)
    assert len(data[2].annotation) == 0


def test_only_the_degenerate_one_of_two_boxes_is_skipped(liver, capsys):
    xml = liver / "P2_1.xml"
    edit(xml, "</annotation>", "<object><name>hcc</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>5</xmax>"
         "<ymax>9</ymax></bndbox></object></annotation>")  # fmt: skip
    data = read(liver)
    assert_refused(data, xml, "object 2 ('hcc') needs xmax > xmin", "redraw or delete it")
    assert_skipped(data, xml, 6, capsys)
    assert data[2].annotation.boxes.tolist() == [BOX]


@pytest.mark.parametrize(
    ("old", "new", "reason", "boxes"),
    [
        ("<xmax>50</xmax>", "<xmax>90</xmax>", "extends beyond the image (width 72, height 48)", 1),
        ("<ymin>11</ymin>", "<ymin>-5</ymin>", "extends beyond the image (width 72, height 48)", 1),
        ("<xmin>21</xmin><xmax>50</xmax>", "<xmin>80</xmin><xmax>99</xmax>", "outside the image", 0),
    ],
)
def test_a_box_outside_the_image(old, new, reason, boxes, liver, capsys):
    xml = liver / "P2_1.xml"
    for before, after in zip(old.split("><"), new.split("><"), strict=True):
        edit(xml, before.strip("<>"), after.strip("<>"))
    data = read(liver)
    assert_refused(data, xml, reason, "redraw it")
    assert_skipped(data, xml, 5 + boxes, capsys)  # without its only box the image is left out
    assert len(data[2].annotation) == boxes


def test_every_problem_is_named_at_once_and_none_hides_another(liver):
    (liver / "P1_1.png").unlink()
    (liver / "P2_1.xml").write_text("not XML")
    edit(liver / "P3_1.xml", "<xmax>50</xmax>", "<xmax>21</xmax>")
    data = read(liver)
    with pytest.raises(ValueError, match="3 problems in 6 samples") as caught:
        hv.fit(detector(), data, recipe=RECIPE, device="cpu")
    for file in ("P1_1.xml", "P2_1.xml", "P3_1.xml"):
        assert str(liver / file) in str(caught.value)
    history = hv.fit(detector(), data, recipe=RECIPE, device="cpu", on_problem="skip")
    assert np.isfinite(history["train_loss"]).all()
    with pytest.raises(ValueError, match="unknown on_problem='ignore'; known: 'raise', 'skip'"):
        hv.fit(detector(), data, recipe=RECIPE, device="cpu", on_problem="ignore")


def test_where_nothing_usable_is_left_nothing_is_trained(liver, capsys):
    for xml in liver.glob("*.xml"):
        xml.write_text("not XML")
    data = read(liver)
    for name in ("fit", "evaluate", "split", "folds"):
        with pytest.raises(ValueError, match="no usable sample: 6 given"):
            ACTIONS[name](data, on_problem="skip")


# folders


def test_an_empty_folder(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=f"{empty}: no annotations and no images found; expected LabelImg's XML"):
        hv.read_voc_folder(empty)
    with pytest.raises(ValueError, match=f"{empty}: no class folders in it; expected one folder of images per class"):
        hv.read_image_folder(empty)
    (empty / "yes").mkdir()
    with pytest.raises(ValueError, match=f"{empty / 'yes'}: no images in the folder of the class 'cancer'"):
        hv.read_image_folder(empty, {"cancer": "yes"})
    for function in (hv.predict, hv.propose):
        with pytest.raises(FileNotFoundError, match=f"{empty}: no images"):
            function(detector(), empty, device="cpu")


def test_a_folder_that_is_not_there(tmp_path, classes):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path / 'nowhere'}: no such folder"):
        hv.read_voc_folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no such folder for the class 'cancer'.*are: no, yes"):
        hv.read_image_folder(classes, {"cancer": "ja"})


def test_an_image_list_that_is_not_there_or_names_what_is_not(liver):
    with pytest.raises(FileNotFoundError, match=r"ImageSets/Main/train\.txt: no such image list; lists there: none"):
        hv.read_voc_folder(liver, subset="train")
    (liver / "ImageSets" / "Main").mkdir(parents=True)
    (liver / "ImageSets" / "Main" / "train.txt").write_text("P1_1\nP9_1\n")
    data = hv.read_voc_folder(liver, subset="train")
    with pytest.raises(ValueError, match=r"P9_1: the list 'train' names it, but .* correct the list"):
        hv.fit(detector(), data, recipe=RECIPE, device="cpu")


def test_a_broken_image_in_a_class_folder(classes, capsys):
    bad = classes / "yes" / "yes1.png"
    bad.write_bytes(b"not a picture")
    data = hv.read_image_folder(classes, {"normal": "no", "cancer": "yes"})
    model = hv.build_model(
        "mobilenet_v1", "linear", classes=["normal", "cancer"], head_options={"pool": "avg"}, **SMALL
    )
    for action in (
        lambda **options: hv.fit(model, data, recipe=RECIPE, device="cpu", **options),
        lambda **options: hv.evaluate(model, data, device="cpu", **options),
    ):
        with pytest.raises(ValueError, match=f"{bad}: can't be read as an image .*: export it again"):
            action()
        action(on_problem="skip")
        assert f"skipped: {bad}: " in capsys.readouterr().out


def test_a_file_without_patient(liver, capsys):
    data = hv.read_voc_folder(liver, patient=r"^(P[0-4])_")
    with pytest.raises(ValueError, match=f"{liver / 'P5_1.png'}: the patient rule finds no patient for this file"):
        hv.split(data, (0.5, 0.5))
    with pytest.warns(
        UserWarning, match=f"6 of 6 samples have no patient, first {liver / 'P0_1.png'}: .*read the folder"
    ):
        assert len(hv.split(hv.read_voc_folder(liver), (0.5, 0.5))) == 2


# weights


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (
            {"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.bn1.weight": torch.zeros(64)},
            "weights of another network",
        ),
        ({"model.0.0.weight": torch.zeros(32, 3, 3, 3)}, "weights of another network"),  # of a wider MobileNetV1
        ({}, "there is no tensor in it"),
    ],
)
def test_a_weights_file_of_another_network(tensors, reason, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(tensors, path)
    with pytest.raises(ValueError, match=f"{path}: .*{reason}"):
        detector(weights=path)


def test_a_saved_model_of_another_network_is_no_weights_for_this_one(tmp_path):
    path = tmp_path / "mobilenet.safetensors"
    detector().save(path)
    with pytest.raises(ValueError, match=f"{path}: these are the weights of another network"):
        hv.build_model("vgg16", "linear", classes=["normal", "cancer"], weights=path, image_size=64)
    with pytest.raises(ValueError, match=r"have another shape, first .*build the backbone with the file's width"):
        detector(weights=path, backbone_options={"width": 0.25})
    assert detector(weights=path).weight_report.missing == ()


def test_a_file_that_holds_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path / 'nowhere.pth'}: no such weights file; pass the path of"):
        detector(weights=tmp_path / "nowhere.pth")
    for name in ("a.pth", "a.safetensors"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(ValueError, match=f"{tmp_path / name}: not a readable weights file"):
            detector(weights=tmp_path / name)
    save_file({"a": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"b\.safetensors: not a model file of hccvision; to start from weights"):
        hv.load_model(tmp_path / "b.safetensors")


@pytest.mark.shared_data
def test_the_shared_weights_do_not_fit_a_network_of_another_width(shared):
    path = shared / "weights" / "mobilenet_v1_1.0_224_imagenet.safetensors"
    with pytest.raises(
        ValueError, match=r"mobilenet_v1_1\.0.*another network.*build the backbone with the file's width"
    ):
        detector(weights=path)
