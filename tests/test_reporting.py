"""Reports: the table, the files and the choice of pictures."""

import csv
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from hccvision import reporting
from hccvision.contracts import Annotation, Detections, Prediction, Sample
from hccvision.metrics.figure import Figure
from hccvision.reporting import Report
from hccvision.tasks import detection as task


def write_slice(path):
    Image.fromarray(np.full((20, 30), 90, np.uint8)).save(path)
    return path


TEXTS = {"SHA256SUMS", "cases.json", "figures.csv", "index.html", "predictions.csv", "report.json", "report.txt"}


@pytest.fixture
def classified(tmp_path):
    paths = [write_slice(tmp_path / name) for name in ("a.png", "b, c.png")]
    return Report(
        task="classification",
        classes=("normal", "cancer"),
        positive="cancer",
        figures={
            **{name: Figure.number(count) for name, count in {"tp": 1, "fn": 0, "fp": 1, "tn": 0}.items()},
            "sensitivity": Figure(1.0, interval=(0.2065, 1.0), method="Wilson"),
            "specificity": Figure(0.0),
        },
        details={"confusion_matrix": [[0, 1], [0, 1]]},
        samples=[Sample(paths[0], class_name="normal"), Sample(paths[1], class_name="cancer")],
        predictions=[
            Prediction(str(paths[0]), torch.tensor([0.25, 0.75])),
            Prediction(str(paths[1]), torch.tensor([0.125, 0.875])),
        ],
    )


def located(folder, lesions, normals):
    """A detection report of slices with and without a lesion, alternating, a normal one first."""
    order = [False, True] * min(lesions, normals) + [True] * (lesions - normals) + [False] * (normals - lesions)
    samples, predictions = [], []
    for i, ill in enumerate(order):
        path = write_slice(folder / f"{i:02}_{'lesion' if ill else 'normal'}.png")
        boxes = np.array([[4, 5, 14, 12]] * ill)
        samples.append(Sample(path, annotation=Annotation(boxes, ("hcc",) * ill, size=(20, 30))))
        found = Detections(torch.tensor([[4.0, 5.5, 14.0, 12.0]]), torch.tensor([0.75]), torch.tensor([0]))
        predictions.append(Prediction(str(path), detections=found))
    figures = {"voc_map": Figure(0.5), "tp": Figure.number(2)}
    return Report("detection", ("hcc", "cyst"), "hcc", figures, {}, samples, predictions)


# the table


def test_the_table_names_the_positive_class_and_every_figure(classified):
    lines = str(classified).splitlines()
    assert lines[0] == "classification, 2 images, positive class: cancer"
    table = {line.split()[0]: line.split()[1:] for line in lines[1:7]}
    assert table["tp"] == ["1"]
    assert table["specificity"] == ["0.0000"]
    assert table["sensitivity"] == ["1.0000", "(95", "%:", "0.2065", "to", "1.0000)"]
    assert lines[7] == "95 % intervals: Wilson"
    assert "rows truth, columns prediction" in lines[8]
    assert [line.split() for line in lines[9:]] == [["normal", "cancer"], ["normal", "0", "1"], ["cancer", "0", "1"]]


def test_long_names_keep_the_columns_of_the_table(classified):
    classes = ("no lesion at all", "hepatocellular carcinoma")
    details = {"confusion_matrix": [[123456789, 2], [3, 4]]}
    report = Report("classification", classes, classes[1], {"f1": Figure(0.5)}, details)
    lines = str(report).splitlines()
    assert len({len(line) for line in lines[-3:]}) == 1


def test_a_figure_is_had_by_its_name(classified):
    assert classified["sensitivity"] == 1.0
    assert classified.intervals == {"sensitivity": (0.2065, 1.0)}
    assert classified.matrix.tolist() == [[0, 1], [0, 1]]
    with pytest.raises(
        KeyError, match="no figure 'map' in this report; it has: tp, fn, fp, tn, sensitivity, specificity"
    ):
        classified["map"]


def test_the_plain_values_survive_json(classified, tmp_path):
    assert json.loads(json.dumps(classified.to_dict())) == {
        "task": "classification",
        "classes": ["normal", "cancer"],
        "positive": "cancer",
        "images": 2,
        "figures": classified.figures,
        "intervals": {"sensitivity": [0.2065, 1.0]},
        "interval_methods": {"sensitivity": "Wilson"},
        "undefined": {},
        "confusion_matrix": [[0, 1], [0, 1]],
    }
    assert located(tmp_path, 1, 0).to_dict()["confusion_matrix"] is None
    assert located(tmp_path, 1, 0).matrix is None


def test_undefined_figures_are_a_dash_with_their_reason_and_null_in_json(tmp_path):
    figures = {
        "precision": Figure.undefined("no case was called cancer"),
        "ratio": Figure(float("inf"), interval=(1.5, float("inf")), method="bootstrap by patient"),
        "kappa": Figure(0.25, method="no interval: patients are not known"),
    }
    report = Report("detection", ("hcc",), "hcc", figures)
    lines = str(report).splitlines()
    assert lines[1] == "precision        –  (no case was called cancer)"
    assert lines[3:] == [
        "kappa            0.2500",
        "95 % intervals: bootstrap by patient",
        "no interval: patients are not known",
    ]

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (report.save(tmp_path / "report") / "report.json").read_text()
    saved = json.loads(text, parse_constant=refuse)
    assert saved["figures"] == {"precision": None, "ratio": None, "kappa": 0.25}
    assert saved["undefined"] == {"precision": "no case was called cancer"}
    assert saved["intervals"] == {"ratio": [1.5, None]}
    assert saved["interval_methods"] == {
        "ratio": "bootstrap by patient",
        "kappa": "no interval: patients are not known",
    }


def test_details_that_json_cannot_hold_are_refused_before_anything_is_written(tmp_path):
    report = Report("detection", ("hcc",), "hcc", {}, {"share": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        report.save(tmp_path / "report")
    assert not (tmp_path / "report").exists()


# the files


def test_a_classification_is_saved_as_json_text_table_and_picture(classified, tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "new" / "report"
    assert classified.save(folder) == folder
    names = {*TEXTS, "confusion_matrix.png"} | {
        f"{name}.{form}"
        for name in ("roc", "precision_recall", "calibration", "decision_curve")
        for form in ("png", "svg")
    }
    assert {path.name for path in folder.iterdir()} == names
    assert json.loads((folder / "report.json").read_text()) == classified.to_dict()
    assert (folder / "report.txt").read_text() == f"{classified}\n"
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(s.path) for s in classified.samples]
    assert [(row["truth"], row["predicted"]) for row in rows] == [("normal", "cancer"), ("cancer", "cancer")]
    assert [float(row["p(cancer)"]) for row in rows] == [0.75, 0.875]
    with Image.open(folder / "confusion_matrix.png") as picture:
        assert min(picture.size) > 100


def test_detections_are_saved_one_a_row_with_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    report = located(tmp_path, 2, 1)
    folder = report.save(tmp_path / "report", pictures=2)
    curves = ("froc", "precision_recall", "calibration", "error_kinds")
    names = {f"{name}.{form}" for name in curves for form in ("png", "svg")}
    assert {path.name for path in folder.iterdir()} == {*TEXTS, "detections.png"} | names
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(s.path) for s in report.samples]
    assert rows[0] == {
        "path": str(report.samples[0].path), "class": "hcc", "score": "0.750000",
        "x1": "4.00", "y1": "5.50", "x2": "14.00", "y2": "12.00",
    }  # fmt: skip
    with Image.open(folder / "detections.png") as picture:
        assert min(picture.size) > 100


def test_an_older_report_is_only_replaced_when_asked(classified, tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "report"
    located(tmp_path, 1, 0).save(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FileExistsError, match=f"{folder}: there is a report here already.*overwrite=True"):
        classified.save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    classified.save(folder, overwrite=True)
    assert json.loads((folder / "report.json").read_text())["task"] == "classification"


def test_without_matplotlib_the_figures_are_saved_all_the_same(classified, tmp_path, monkeypatch):
    for name in [m for m in sys.modules if m.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "hccvision\[plots\]"'):
        classified.save(tmp_path / "report")
    assert {path.name for path in (tmp_path / "report").iterdir()} == TEXTS


# the pictures


@pytest.mark.parametrize(
    ("lesions", "normals", "count", "expected"),
    [
        (10, 10, 8, (6, 2)),  # a quarter is kept for normal slices
        (3, 2, 12, (3, 2)),  # fewer than asked for: all of them, once
        (3, 12, 8, (3, 5)),
        (12, 1, 8, (7, 1)),
        (4, 0, 12, (4, 0)),
        (0, 4, 12, (0, 4)),
        (0, 9, 4, (0, 4)),
        (3, 3, 1, (1, 0)),
    ],
)
def test_lesions_are_shown_first_and_some_normal_slices_too(lesions, normals, count, expected, tmp_path, monkeypatch):
    report = located(tmp_path, lesions, normals)
    shown = {}

    def draw(images, found, truths, *, classes, score_threshold, titles):
        shown.update(images=images, found=found, truths=truths, titles=titles)
        assert classes == ("hcc", "cyst")
        assert score_threshold == 0.2

    monkeypatch.setattr(task, "detections", draw)
    report.picture(count, score_threshold=0.2)
    names = [title.removesuffix(".png").split("_")[1] for title in shown["titles"]]
    assert names == ["lesion"] * expected[0] + ["normal"] * expected[1]
    assert len(set(shown["titles"])) == len(names)
    assert [len(truth) for truth in shown["truths"]] == [1] * expected[0] + [0] * expected[1]
    assert len(shown["found"]) == len(names)
    assert {image.shape for image in shown["images"]} == {(20, 30, 3)}


def test_a_slice_with_a_class_name_but_no_box_is_shown_as_normal(tmp_path, monkeypatch):
    report = located(tmp_path, 1, 1)
    report.samples[0] = Sample(report.samples[0].path, class_name="normal", annotation=report.samples[0].annotation)
    titles = []
    monkeypatch.setattr(task, "detections", lambda *_, **options: titles.extend(options["titles"]))
    report.picture(1)
    assert titles == ["01_lesion.png"]


def test_a_report_without_pictures_says_so():
    report = Report("multilabel", ("hcc", "cyst"), "cyst", {})
    with pytest.raises(ValueError, match="there is no picture of this evaluation: multilabel draws none"):
        report.picture()


def test_a_report_that_can_not_be_written_leaves_the_older_one(tmp_path, monkeypatch):
    folder = located(tmp_path, 1, 0).save(tmp_path / "report")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reporting, "save", full)  # the last files of a report are its pictures
    with pytest.raises(OSError, match="No space left"):
        located(tmp_path, 0, 1).save(folder, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
