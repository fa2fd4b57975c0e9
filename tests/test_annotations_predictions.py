"""Predictions read from a report's CSV and from COCO's results."""

import json
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hccvision as hv
from hccvision.annotations.predictions import read_predictions
from hccvision.contracts import Annotation, Detections, Prediction, Sample
from hccvision.reporting import Report

CLASSES = ["hcc", "cyst"]
HEADER = "path,class,score,x1,y1,x2,y2\n"


def samples(*paths: str) -> list[Sample]:
    return [Sample(Path(p)) for p in paths]


def save(folder: Path, text: str | bytes, name: str = "predictions.csv") -> Path:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder / name


# The CSV of a report


def report(folder: Path, task: str, predictions: list[Prediction], classes=CLASSES) -> Path:
    data = []
    for prediction in predictions:
        Image.new("L", (60, 50)).save(prediction.path)
        annotation = Annotation(np.zeros((0, 4)), (), size=(50, 60))
        data.append(Sample(Path(prediction.path), class_name=classes[0], annotation=annotation))
    stated = {"task": task, "classes": tuple(classes), "positive": classes[-1], "figures": {}, "samples": data}
    empty = {f.name: None for f in fields(Report) if f.default is f.default_factory is MISSING}
    made = Report(**{**empty, **stated, "predictions": predictions})
    (folder / "predictions.csv").write_text(made._table(), encoding="utf-8", newline="")
    return folder / "predictions.csv"


def test_a_detectors_report_comes_back(tmp_path):
    names = ["b, 1.png", "ä.png", "a.png"]
    found = [
        Detections(torch.tensor([[1.0, 2, 30, 40], [5, 6, 7, 8]]), torch.tensor([0.75, 0.25]), torch.tensor([1, 0])),
        Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)),
        Detections(torch.tensor([[1.25, 2, 30.5, 40]]), torch.tensor([1.0]), torch.tensor([0])),
    ]
    predictions = [Prediction(str(tmp_path / n), detections=d) for n, d in zip(names, found, strict=True)]
    path = report(tmp_path, "detection", predictions)
    order = [2, 0, 1]
    again = hv.read_predictions(path, samples(*(predictions[i].path for i in order)), classes=CLASSES)
    assert [p.path for p in again] == [predictions[i].path for i in order]
    for i, prediction in zip(order, again, strict=True):
        assert (prediction.probabilities, prediction.error) == (None, None)
        assert prediction.detections.boxes.dtype == prediction.detections.scores.dtype == torch.float32
        assert prediction.detections.boxes.tolist() == found[i].boxes.tolist()
        assert prediction.detections.boxes.shape == found[i].boxes.shape
        assert prediction.detections.scores.tolist() == found[i].scores.tolist()
        assert prediction.detections.labels.tolist() == found[i].labels.tolist()
        assert prediction.detections.labels.dtype == torch.int64


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_a_classifiers_report_comes_back(tmp_path, task):
    classes = ["no, lesion", "hcc (cancer)"]
    shares = [[0.25, 0.75], [0.875, 0.125]]
    predictions = [
        Prediction(str(tmp_path / n), torch.tensor(p)) for n, p in zip(("b.png", "a.png"), shares, strict=True)
    ]
    path = report(tmp_path, task, predictions, classes)
    data = samples(predictions[1].path, predictions[0].path)
    again = read_predictions(path, data, classes=classes)
    assert [(p.path, p.probabilities.tolist(), p.detections) for p in again] == [
        (predictions[1].path, shares[1], None),
        (predictions[0].path, shares[0], None),
    ]
    turned = read_predictions(path, data, classes=classes[::-1])  # the order of the classes is the caller's
    assert turned[0].probabilities.tolist() == shares[1][::-1]


def test_detections_are_sorted_and_an_image_without_rows_has_none(tmp_path):
    rows = "a.png,hcc,0.25,1,2,3,4\nb.png,cyst,0.5,1,2,3,4\na.png,cyst,0.75,5,6,7,6\n\n"  # the last box is flat
    a, b, c = read_predictions(save(tmp_path, HEADER + rows), samples("a.png", "b.png", "c.png"), classes=CLASSES)
    assert a.detections.scores.tolist() == [0.75, 0.25]
    assert a.detections.labels.tolist() == [1, 0]
    assert (len(b.detections), len(c.detections)) == (1, 0)
    assert c.detections.boxes.shape == (0, 4)
    assert all(len(p.detections) == 0 for p in read_predictions(save(tmp_path, HEADER), samples("a"), classes=CLASSES))


def test_paths_are_matched_by_their_longest_tail(tmp_path):
    data = samples("new/x/a.png", "new/y/a.png", "new/y/b.png")
    rows = "old/y/a.png,hcc,0.5,1,2,3,4\nC:\\data\\x\\a.png,cyst,0.5,1,2,3,4\nb.png,hcc,0.5,1,2,3,4\n"
    found = read_predictions(save(tmp_path, HEADER + rows), data, classes=CLASSES)
    assert [p.detections.labels.tolist() for p in found] == [[1], [0], [0]]
    data = samples("a.png", "x/a.png")
    rows = "a.png,hcc,0.5,1,2,3,4\nold/x/a.png,cyst,0.5,1,2,3,4\n"  # an equal path wins
    found = read_predictions(save(tmp_path, HEADER + rows), data, classes=CLASSES)
    assert [p.detections.labels.tolist() for p in found] == [[0], [1]]


GOOD = "a.png,hcc,0.5,1,2,3,4\n"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (GOOD + "gone.png,hcc,0.5,1,2,3,4\n", "row 3 is of the image 'gone.png', which is not among the 3 samples"),
        (GOOD + "b.png,hcc,0.5,1,2,3,4\n", "row 3 is of the image 'b.png', which may be any of x/b.png, y/b.png"),
        (GOOD + "a.png,HCC,0.5,1,2,3,4\n", "row 3 is of the class 'HCC', which is not one of"),
        (GOOD + "old/a.png,hcc,0.25,1,2,3,4\n", "row 3 names 'old/a.png', and another row names 'a.png'"),
        (GOOD + "a.png,hcc,0.5,1,2,3\n", "row 3: expected 7 cells, got 6"),
        (GOOD + "a.png,hcc,0.5,1,2,3,4,5\n", "row 3: expected 7 cells, got 8"),
        (GOOD + "a.png,hcc,high,1,2,3,4\n", "row 3: expected a finite number in the column 'score', got 'high'"),
        (GOOD + "a.png,hcc,0.4,1,2,nan,4\n", "row 3: expected a finite number in the column 'x2'"),
        (GOOD + "a.png,hcc,0.4,1,2,inf,4\n", "row 3: expected a finite number in the column 'x2'"),
        (GOOD + "a.png,hcc,0.4,1,2,1e39,4\n", "row 3: expected a box of finite x1 <= x2"),
        (GOOD + "a.png,hcc,0.4,3,2,1,4\n", "row 3: expected a box of finite x1 <= x2"),
        (GOOD + "a.png,hcc,1.5,1,2,3,4\n", r"row 3: expected 'score' in \[0, 1\], got 1.5"),
        (GOOD + "a.png,hcc,-0.5,1,2,3,4\n", r"row 3: expected 'score' in \[0, 1\]"),
        (GOOD + '"a.png"x,hcc,0.5,1,2,3,4\n', "not a readable CSV"),
    ],
)
def test_a_wrong_row_of_a_detector_is_named(tmp_path, rows, message):
    path = save(tmp_path, HEADER + rows)
    with pytest.raises(ValueError, match=rf"predictions\.csv: .*{message}"):
        read_predictions(path, samples("a.png", "x/b.png", "y/b.png"), classes=CLASSES)


CLASSIFIED = "path,truth,predicted,p(hcc),p(cyst)\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CLASSIFIED + "a.png,hcc,hcc,0.9,0.1\n", r"no row for 1 of 2 samples \(b\.png\)"),
        (CLASSIFIED + "a.png,,,0.9,0.1\nb.png,,,0.9,0.1\na.png,,,0.9,0.1\n", "row 4 is of the same image as row 2"),
        (CLASSIFIED + "a.png,,,0.9,0.1\nc.png,,,0.9,0.1\n", "row 3 is of the image 'c.png', which is not among"),
        (CLASSIFIED + "a.png,,,0.9,\nb.png,,,0.9,0.1\n", r"row 2: expected a finite number in the column 'p\(cyst\)'"),
        (CLASSIFIED + "a.png,,,1.9,0.1\nb.png,,,0.9,0.1\n", r"row 2: expected 'p\(hcc\)' in \[0, 1\]"),
        ("path,truth,predicted,p(hcc)\n", r"row 1 has probabilities of the classes \['hcc'\]"),
        ("path,truth,predicted,p(hcc),p(cyst),p(normal)\n", "row 1 has probabilities of the classes"),
        ("path,p(hcc),p(hcc)\n", "row 1: expected column names that are unique"),
        ("name,p(hcc),p(cyst)\n", "expected the columns path, class"),
        ("path,class,score\n", "expected the columns path, class"),
        ("", "row 1: expected column names that are unique, got none"),
        ("path\0,é".encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_wrong_table_of_a_classifier_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"predictions\.csv: .*{message}"):
        read_predictions(save(tmp_path, text), samples("a.png", "b.png"), classes=CLASSES)


def test_what_is_no_file_of_predictions_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.csv"):
        read_predictions(tmp_path / "gone.csv", [], classes=CLASSES)
    with pytest.raises(ValueError, match=r"expected predictions in a \.csv or a \.json file"):
        read_predictions(save(tmp_path, HEADER, "a.txt"), [], classes=CLASSES)
    for classes in ([], ["hcc", "hcc"]):
        with pytest.raises(ValueError, match="expected class names that are unique"):
            read_predictions(save(tmp_path, HEADER), [], classes=classes)
    with pytest.raises(ValueError, match="2 samples with 1 paths"):
        read_predictions(save(tmp_path, HEADER), samples("a.png", "a.png"), classes=CLASSES)


# COCO's results


COCO = {
    "images": [{"id": 7, "file_name": "a.png"}, {"id": "x", "file_name": "b/ä.png"}, {"id": 9, "file_name": "c.png"}],
    "annotations": [],
    "categories": [{"id": 3, "name": "cyst"}, {"id": 1, "name": "hcc"}, {"id": 5, "name": "other"}],
}
RESULT = {"image_id": 7, "category_id": 3, "bbox": [10, 20, 20.5, 25], "score": 0.25}


def results(folder: Path, *entries) -> list[Prediction]:
    save(folder, json.dumps(COCO), "coco.json")
    path = save(folder, json.dumps(list(entries)), "results.json")
    data = samples("new/b/ä.png", "new/a.png")
    return read_predictions(path, data, classes=CLASSES, coco=folder / "coco.json")


def test_coco_results_are_read(tmp_path):
    second, first = results(
        tmp_path,
        RESULT,
        RESULT | {"image_id": "7", "category_id": "1", "score": 1},  # ids as texts
        RESULT | {"image_id": "x", "bbox": [1, 2, 0, 4]},
    )
    assert first.detections.boxes.tolist() == [[10, 20, 30.5, 45]] * 2
    assert first.detections.scores.tolist() == [1, 0.25]
    assert first.detections.labels.tolist() == [0, 1]
    assert second.detections.boxes.tolist() == [[1, 2, 1, 6]]
    assert (first.path, second.path) == (str(Path("new/a.png")), str(Path("new/b/ä.png")))
    assert [len(p.detections) for p in results(tmp_path)] == [0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 8}, "its image_id is not an image of .*coco.json, got 8"),
        ({"image_id": None}, "its image_id is not an image"),
        ({"image_id": True}, "its image_id is not an image"),
        ({"image_id": 9}, "is of the image 'c.png', which is not among the 2 samples"),
        ({"category_id": 4}, "its category_id is not a category"),
        ({"category_id": 5}, "is of the class 'other', which is not one of"),
        ({"bbox": [1, 2, 3]}, "expected a score and a bbox"),
        ({"bbox": [1, 2, -3, 4]}, "expected a box of finite x1 <= x2"),
        ({"bbox": [1, 2, "3", 4]}, "expected a score and a bbox"),
        ({"bbox": [1, 2, 1e300, 4]}, "expected a box of finite x1 <= x2"),
        ({"score": "0.5"}, "expected a score and a bbox"),
        ({"score": True}, "expected a score and a bbox"),
        ({"score": float("nan")}, r"expected 'score' in \[0, 1\]"),
        ({"score": 2}, r"expected 'score' in \[0, 1\]"),
        ({}, "is the same detection as entry 1"),
    ],
)
def test_a_wrong_result_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=rf"results\.json: entry 2:? .*{message}"):
        results(tmp_path, RESULT, RESULT | change)


@pytest.mark.parametrize("entry", [None, 5, [], "x"])
def test_a_result_that_is_no_object_is_named(tmp_path, entry):
    with pytest.raises(ValueError, match=r"results\.json: entry 1: its image_id is not an image"):
        results(tmp_path, entry)


def test_files_that_are_no_results_are_refused(tmp_path):
    coco = save(tmp_path, json.dumps(COCO), "coco.json")
    for text, message in (("{}", "expected a list of results, got dict"), ("[", "not a readable JSON file")):
        with pytest.raises(ValueError, match=rf"results\.json: {message}"):
            read_predictions(save(tmp_path, text, "results.json"), [], classes=CLASSES, coco=coco)
    with pytest.raises(ValueError, match="pass coco="):
        read_predictions(save(tmp_path, "[]", "results.json"), [], classes=CLASSES)
    doubled = COCO | {"images": COCO["images"][:1] * 2}
    for bad in (doubled, COCO | {"images": [{"id": 1}]}, COCO | {"images": [None]}):
        with pytest.raises(ValueError, match="needs an id of its own and a file_name"):
            read_predictions(
                save(tmp_path, "[]", "results.json"),
                [],
                classes=CLASSES,
                coco=save(tmp_path, json.dumps(bad), "c.json"),
            )
    assert coco.exists()


def test_pycocotools_reads_the_same_results(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    entries = [RESULT, RESULT | {"category_id": 1, "score": 0.5, "bbox": [3, 4, 5, 6]}]
    _, found = results(tmp_path, *entries)
    theirs = coco.COCO(str(tmp_path / "coco.json")).loadRes(str(tmp_path / "results.json"))
    expected = sorted(theirs.loadAnns(theirs.getAnnIds([7])), key=lambda a: -a["score"])
    names = [theirs.cats[a["category_id"]]["name"] for a in expected]
    assert [CLASSES[label] for label in found.detections.labels.tolist()] == names
    boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in expected)]
    assert found.detections.boxes.tolist() == boxes


def test_detections_that_rounding_makes_equal_come_back(tmp_path):
    """A report rounds boxes to two decimals and scores to six."""
    boxes = torch.tensor([[0.0, 0, 64, 64], [0, 0, 64, 64.001]])
    found = Detections(boxes, torch.tensor([0.99999999, 0.9999998]), torch.zeros(2, dtype=torch.int64))
    path = report(tmp_path, "detection", [Prediction("a.png", detections=found)])
    (read,) = read_predictions(path, samples("a.png"), classes=CLASSES)
    assert len(read.detections) == 2
