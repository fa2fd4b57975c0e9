"""hv.evaluate and hv.score: their figures are those of independent libraries, with intervals and reasons."""

import json
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import sklearn.metrics
import torch
from PIL import Image
from scipy.stats import binomtest
from torchmetrics.detection import MeanAveragePrecision

import hccvision as hv
from hccvision.contracts import Annotation, Detections, Problem, Sample
from hccvision.inference import predict
from hccvision.metrics import comparison
from hccvision.metrics.intervals import bootstrap
from hccvision.metrics.metric import Metric, find_metrics
from hccvision.model.build import build_model
from hccvision.registry import METRICS
from hccvision.scoring import evaluate, score
from hccvision.tasks.task import task_of

SIZE = (40, 60)
SMALL = {"image_size": 64, "backbone_options": {"width": 0.1}}


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i:02}.png" for i in range(10)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, SIZE, np.uint8)).save(path)
    return paths


def classifier(answers, classes=("normal", "cancer"), **options):
    """A classifier that returns these probabilities, image by image, repeatedly."""
    model = build_model("mobilenet_v1", "linear", classes=classes, head_options={"pool": "avg"}, **SMALL, **options)
    endless = cycle(torch.as_tensor(answers, dtype=torch.float32))
    model.decode = lambda output: torch.stack([next(endless) for _ in range(len(output))])
    return model


def detector(answers, classes=("hcc", "cyst")):
    """A detector that returns these detections, in pixels of the original image, image by image, repeatedly."""
    model = build_model("mobilenet_v1", "ssd", classes=classes, **SMALL)
    scale = torch.tensor([64 / SIZE[1], 64 / SIZE[0]] * 2)
    endless = cycle([Detections(boxes * scale, scores, labels) for boxes, scores, labels in answers])
    model.decode = lambda output, **options: [next(endless) for _ in range(len(output.logits))]
    return model


@pytest.fixture
def lesions(paths):
    """Samples of no, one or two lesions of two classes, and detections: jittered truths and inventions."""
    rng = np.random.default_rng(1)
    names = ("hcc", "cyst")
    samples, answers = [], []
    for i, path in enumerate(paths):
        corner = rng.uniform(0, 20, (i % 3, 2))
        boxes = np.concatenate((corner, corner + rng.uniform(8, 20, (i % 3, 2))), 1).astype(np.float32)
        labels = rng.integers(0, 2, i % 3)
        samples.append(Sample(path, annotation=Annotation(boxes, tuple(names[k] for k in labels), size=SIZE)))
        invented = np.array([[30, 5, 50, 25], [5, 5, 15, 35]], np.float32)
        found = np.concatenate((boxes + rng.uniform(-2, 2, boxes.shape).astype(np.float32), invented)).clip(0, 40)
        scores = np.sort(rng.uniform(0.1, 1, len(found)).astype(np.float32))[::-1].copy()
        kinds = np.concatenate((labels, rng.integers(0, 2, 2)))
        answers.append(tuple(map(torch.from_numpy, (found, scores, kinds))))
    return samples, detector(answers)


# classification


@pytest.mark.parametrize("positive", ["normal", "cancer"])
def test_a_classifiers_figures_are_scikit_learns(positive, paths):
    rng = np.random.default_rng(2)
    p = rng.uniform(0, 1, len(paths)).round(2)
    names = ("normal", "cancer")
    model = classifier(np.stack((1 - p, p), 1), positive=positive)
    truths = rng.integers(0, 2, len(paths))
    report = evaluate(
        model, [Sample(path, class_name=names[t]) for path, t in zip(paths, truths, strict=True)], batch=3
    )

    probabilities = torch.stack([a.probabilities for a in predict(model, paths, device="cpu")]).numpy()
    calls = probabilities.argmax(1)
    k = names.index(positive)
    matrix = sklearn.metrics.confusion_matrix(truths, calls, labels=[0, 1])
    tp, fn, fp, tn = matrix[k, k], matrix[k, 1 - k], matrix[1 - k, k], matrix[1 - k, 1 - k]
    assert min(tp, fn, fp, tn) > 0
    expected = {
        "tp": tp,
        "fn": fn,
        "fp": fp,
        "tn": tn,
        "accuracy": sklearn.metrics.accuracy_score(truths, calls),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(truths, calls),
        "sensitivity": sklearn.metrics.recall_score(truths, calls, pos_label=k),
        "specificity": sklearn.metrics.recall_score(truths, calls, pos_label=1 - k),
        "precision": sklearn.metrics.precision_score(truths, calls, pos_label=k),
        "npv": sklearn.metrics.precision_score(truths, calls, pos_label=1 - k),
        "f1": sklearn.metrics.f1_score(truths, calls, pos_label=k),
        "macro_f1": sklearn.metrics.f1_score(truths, calls, average="macro"),
        "kappa": sklearn.metrics.cohen_kappa_score(truths, calls),
        "mcc": sklearn.metrics.matthews_corrcoef(truths, calls),
        "roc_auc": sklearn.metrics.roc_auc_score(truths == k, probabilities[:, k]),
    }
    assert report.figures == pytest.approx(expected, abs=1e-9)
    assert report.matrix.tolist() == matrix.tolist()
    assert (report.positive, report.classes) == (positive, names)
    counts = {
        "accuracy": (tp + tn, len(paths)),
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "precision": (tp, tp + fp),
        "npv": (tn, tn + fn),
    }
    assert report.intervals.keys() == counts.keys()
    for name, (successes, total) in counts.items():
        low, high = binomtest(int(successes), int(total)).proportion_ci(0.95, method="wilson")
        assert report.intervals[name] == pytest.approx((low, high), abs=1e-9)


def test_the_confusion_matrix_is_in_the_order_of_the_models_classes(paths):
    classes = ("zoster", "benign", "malignant")  # not alphabetical
    p = np.eye(3)[[1, 1, 2, 0, 2, 2]]
    truths = ["zoster", "benign", "malignant", "zoster", "benign", "malignant"]
    samples = [Sample(path, class_name=t) for path, t in zip(paths, truths, strict=False)]
    report = evaluate(classifier(p, classes), samples, device="cpu")
    assert report.matrix.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 2]]
    assert report.positive == "malignant"
    assert (report["sensitivity"], report["specificity"], report["precision"]) == (1.0, 0.75, pytest.approx(2 / 3))


def test_a_test_set_of_one_class_has_undefined_figures_with_their_reasons(paths, tmp_path):
    samples = [Sample(path, class_name="normal") for path in paths[:3]]
    report = evaluate(classifier([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]]), samples, device="cpu")
    undefined = {
        "sensitivity": "no case is cancer",
        "mcc": "all cases are of one class, or were called one class",
        "roc_auc": "no case is cancer",
    }
    assert {name: f.reason for name, f in report.figures.items() if not f.defined} == undefined
    assert all(np.isnan(report[name]) for name in undefined)
    counts = {"tp": 0, "fn": 0, "fp": 1, "tn": 2}
    shares = {"accuracy": 2 / 3, "balanced_accuracy": 2 / 3, "specificity": 2 / 3, "precision": 0, "npv": 1}
    others = {"f1": 0, "macro_f1": 0.4, "kappa": 0}
    finite = {name: f for name, f in report.figures.items() if f.defined}
    assert finite == pytest.approx(counts | shares | others)
    assert report.intervals.keys() == {"accuracy", "specificity", "precision", "npv"}

    lines = {line.split()[0]: line for line in str(report).splitlines()}
    for name, reason in undefined.items():
        assert lines[name].split(maxsplit=2)[1:] == ["–", f"({reason})"]
    saved = strict(report.save(tmp_path / "report") / "report.json")
    assert {name: value for name, value in saved["figures"].items() if value is None} == dict.fromkeys(undefined)
    assert saved["undefined"] == undefined
    assert saved == report.to_dict()


def strict(path):
    """Load JSON as other languages do, where NaN and Infinity are errors."""

    def refuse(constant):
        raise AssertionError(f"{path} holds {constant}, which is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


# several labels


def multilabel(answers, classes=("hcc", "cyst")):
    model = build_model(
        "mobilenet_v1", "linear", classes=classes, head_options={"pool": "avg", "output": "multilabel"}, **SMALL
    )
    endless = cycle(torch.as_tensor(answers, dtype=torch.float32))
    model.decode = lambda output: torch.stack([next(endless) for _ in range(len(output))])
    return model


def test_figures_of_several_labels_are_scikit_learns(lesions):
    samples, _ = lesions
    probabilities = np.random.default_rng(4).uniform(0, 1, (len(samples), 2)).astype(np.float32)
    probabilities[0], probabilities[1] = 0.1, 0.5  # of no lesion; just seen
    shown = np.array([[int(name in s.names) for name in ("hcc", "cyst")] for s in samples])
    assert {tuple(row) for row in shown.tolist()} >= {(0, 0), (1, 0), (0, 1)}
    model = multilabel(probabilities)
    report = evaluate(model, samples, batch=3, device="cpu")
    calls = (probabilities >= 0.5).astype(int)
    areas = sklearn.metrics.roc_auc_score(shown, probabilities, average=None)
    f1s = sklearn.metrics.f1_score(shown, calls, average=None)
    assert report.figures == pytest.approx(
        {
            "multilabel_auc": sklearn.metrics.roc_auc_score(shown, probabilities, average="macro"),
            "multilabel_auc/hcc": areas[0],
            "multilabel_auc/cyst": areas[1],
            "multilabel_f1": sklearn.metrics.f1_score(shown, calls, average="macro"),
            "multilabel_f1/hcc": f1s[0],
            "multilabel_f1/cyst": f1s[1],
            "exact_match": sklearn.metrics.accuracy_score(shown, calls),
        },
        abs=1e-9,
    )
    assert 0 < report["exact_match"] < 1
    right = int((calls == shown).all(1).sum())
    low, high = binomtest(right, len(samples)).proportion_ci(0.95, method="wilson")
    assert report.intervals == {"exact_match": pytest.approx((low, high), abs=1e-9)}
    assert (report.task, report.matrix) == ("multilabel", None)
    assert [task_of(model).truth(sample) for sample in samples] == shown.tolist()


def test_the_report_of_several_labels_is_written(lesions, tmp_path):
    samples, _ = lesions
    report = evaluate(multilabel([[0.9, 0.5], [0.2, 0.1]]), samples[:2], device="cpu")
    folder = report.save(tmp_path / "report")
    assert {"report.json", "report.txt", "predictions.csv", "index.html"} <= {path.name for path in folder.iterdir()}
    assert str(report).splitlines()[0] == "multilabel, 2 images"
    rows = (folder / "predictions.csv").read_text().splitlines()
    assert rows[0] == "path,truth,predicted,p(hcc),p(cyst)"
    assert rows[1] == f"{samples[0].path},,hcc;cyst,0.900000,0.500000"
    assert rows[2] == f"{samples[1].path},{samples[1].names[0]},,0.200000,0.100000"


def test_metrics_of_one_label_and_of_several_are_not_mixed_up(lesions):
    samples, _ = lesions
    with pytest.raises(ValueError, match=r"'f1' is for classification, and this model does multilabel; .*exact_match"):
        evaluate(multilabel([[0.5, 0.5]]), samples, ["f1"], device="cpu")
    with pytest.raises(ValueError, match=r"'exact_match' is for multilabel, and this model does classification"):
        evaluate(classifier([[0.5, 0.5]]), samples, ["exact_match"], device="cpu")
    with pytest.raises(
        ValueError, match=r"the ground truth of multi-label classification is an annotation, and this sample has none"
    ):
        evaluate(multilabel([[0.5, 0.5]]), [Sample(samples[0].path, class_name="hcc")], device="cpu")


# detection


def test_a_detectors_figures_are_those_of_torchmetrics(lesions):
    samples, model = lesions
    report = evaluate(model, samples, ["coco_map"], batch=4, device="cpu")
    # its own thresholds are float32, in which 0.5 of the truths fall short of a recall of 0.5
    reference = MeanAveragePrecision(
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(), rec_thresholds=np.linspace(0, 1, 101).tolist()
    )
    answers = predict(model, [s.path for s in samples], device="cpu")
    ids = {"hcc": 0, "cyst": 1}
    reference.update(
        [a.detections.as_dict() for a in answers],
        [
            {"boxes": torch.from_numpy(s.annotation.boxes), "labels": torch.tensor([ids[n] for n in s.names]).long()}
            for s in samples
        ],
    )
    expected = reference.compute()
    assert 0 < report["map"] < 1
    for name in ("map", "map_50", "map_75"):
        assert report[name] == pytest.approx(float(expected[name]), abs=1e-6)
    assert report.matrix is None


def test_counts_and_their_intervals_are_those_counted_by_hand(paths):
    truth = Annotation(np.array([[10, 10, 30, 30]]), ("hcc",), size=SIZE)
    samples = [Sample(path, annotation=truth) for path in paths[:3]] + [Sample(paths[3], annotation=empty())]
    hit, miss, weak = [10, 10, 30, 28], [40, 10, 55, 30], [10, 10, 30, 30]
    answers = [  # found; found and one false alarm; only seen faintly; false alarm
        (torch.tensor([hit]).float(), torch.tensor([0.9]), torch.tensor([0])),
        (torch.tensor([hit, miss]).float(), torch.tensor([0.8, 0.7]), torch.tensor([0, 0])),
        (torch.tensor([weak]).float(), torch.tensor([0.3]), torch.tensor([0])),
        (torch.tensor([miss]).float(), torch.tensor([0.6]), torch.tensor([0])),
    ]
    report = evaluate(detector(answers), samples, device="cpu")
    assert (report["tp"], report["fp"], report["fn"]) == (2, 2, 1)
    for name, successes, total in (("sensitivity", 2, 3), ("precision", 2, 4)):
        assert report[name] == pytest.approx(successes / total)
        interval = binomtest(successes, total).proportion_ci(0.95, method="wilson")
        assert report.intervals[name] == pytest.approx((interval.low, interval.high), abs=1e-9)
    # by score: hit, hit, false, false, hit; precision at the third hit is 3/5
    assert report["voc_map"] == pytest.approx((1 + 1 + 3 / 5) / 3)
    assert report["voc_map/hcc"] == report["voc_map"]
    assert "voc_map/cyst" not in report.figures


def empty():
    return Annotation(np.zeros((0, 4)), (), size=SIZE)


def test_difficult_truths_cost_nothing_in_the_voc_figures(paths):
    boxes = np.array([[10, 10, 30, 30], [35, 5, 55, 25]])
    found = [(torch.tensor([[10.0, 10, 30, 30]]), torch.tensor([0.9]), torch.tensor([0]))]
    figures = {}
    for difficult in (False, True):
        truth = Annotation(boxes, ("hcc", "hcc"), size=SIZE, difficult=(False, difficult))
        report = evaluate(detector(found), [Sample(paths[0], annotation=truth)], device="cpu")
        figures[difficult] = report["voc_map"], report["fn"]
    assert figures == {False: (0.5, 1), True: (1.0, 0)}


def test_a_set_without_any_lesion_has_undefined_figures_with_their_reason(paths, tmp_path):
    answers = [(torch.tensor([[10.0, 10, 30, 30]]), torch.tensor([0.9]), torch.tensor([0]))]
    report = evaluate(detector(answers), [Sample(p, annotation=empty()) for p in paths[:4]], device="cpu")
    assert (report["tp"], report["fp"], report["fn"]) == (0, 4, 0)
    finite = {name for name, f in report.figures.items() if f.defined}
    assert finite == {"tp", "fp", "fn", "precision", "f1"}
    assert (report["precision"], report["f1"]) == (0, 0)
    undefined = {name: f.reason for name, f in report.figures.items() if not f.defined}
    assert set(undefined.values()) == {"no image has a lesion to find"}
    assert {"voc_map", "voc07_map", "map", "map_50", "map_75", "sensitivity", "froc", "froc/0.125"} <= undefined.keys()
    assert "sensitivity      –  (no image has a lesion to find)" in str(report).splitlines()
    assert report.intervals.keys() == {"precision"}
    saved = strict(report.save(tmp_path / "report") / "report.json")
    assert saved["undefined"] == undefined
    assert all(saved["figures"][name] is None for name in undefined)


# metrics by name


def test_only_the_metrics_named_are_computed(lesions):
    samples, model = lesions
    figures = evaluate(model, samples, metrics=["voc_map"], device="cpu").figures
    assert {name.split("/")[0] for name in figures} == {"voc_map"}
    model = classifier([[0.2, 0.8]])
    report = evaluate(model, [Sample(samples[0].path, class_name="cancer")], metrics=["f1"], device="cpu")
    assert report.figures == {"f1": 1.0}
    assert report.intervals == {}


def test_a_metric_of_ones_own_is_used_by_its_name(lesions):
    def lesion_count(comparison):
        assert comparison.classes == ("hcc", "cyst")
        assert len(comparison.predictions) == len(comparison.truths) == len(comparison) == 10
        lesions = sum(len(truth["boxes"]) for truth in comparison.truths)
        return {"lesions": float(lesions), "found": float(len(comparison.predictions[1]["scores"]))}

    METRICS.register("lesion_count")(lesion_count)
    try:
        samples, model = lesions
        assert evaluate(model, samples, ["lesion_count"], device="cpu").figures == {"lesions": 9.0, "found": 3.0}
    finally:
        METRICS.remove("lesion_count")


def test_metrics_are_names_objects_functions_or_a_mapping_to_their_options(lesions):
    samples, model = lesions

    def lesions_per_image(comparison, *, difficult=True):
        kept = [truth["boxes"][difficult | ~truth["difficult"]] for truth in comparison.truths]
        return sum(map(len, kept)) / len(comparison)

    def figures(metrics):
        return evaluate(model, samples, metrics, device="cpu", resamples=0).figures

    expected = figures(["froc"])["froc"]
    assert figures("froc")["froc"] == expected
    assert figures(lesions_per_image) == {"lesions_per_image": 0.9}
    assert figures(["froc", lesions_per_image]).keys() == {*figures("froc"), "lesions_per_image"}
    own = Metric("own", lesions_per_image, task="detection", higher_is_better=True)
    assert figures([own]) == {"own": 0.9}
    assert figures([own.with_options(difficult=False)]) == {"own": 0.9}
    harder = figures({"froc": {"iou_threshold": 0.9}, own: {"difficult": True}, lesions_per_image: None})
    assert (harder["own"], harder["lesions_per_image"]) == (0.9, 0.9)
    assert harder["froc"] < expected
    assert harder["froc"] == figures([Metric("froc", METRICS.get("froc"), options={"iou_threshold": 0.9})])["froc"]
    with pytest.raises(TypeError, match=r"the metric 'froc': .*'iou'.*its options are: iou_threshold, rates"):
        figures({"froc": {"iou": 0.9}})
    with pytest.raises(ValueError, match="'own' is for detection, and this model does classification"):
        evaluate(classifier([[0.5, 0.5]]), [Sample(samples[0].path, class_name="normal")], [own], device="cpu")
    with pytest.raises(TypeError, match="the metric 'text' returned str for 'text': expected a number, a Figure"):
        figures([Metric("text", lambda comparison: "good")])


def test_unknown_metrics_are_refused_before_anything_is_predicted(lesions):
    class Untouched:
        classes, task = ("hcc", "cyst"), "detection"

        def predict(self, inputs):
            raise AssertionError("nothing should be predicted")

    samples, _ = lesions
    with pytest.raises(KeyError, match="unknown metric 'voc_mao'"):
        evaluate(Untouched(), samples, ["voc_mao"])
    with pytest.raises(ValueError, match="the ground truth of detection is an annotation"):
        evaluate(Untouched(), [*samples, Sample(samples[0].path)])


def test_a_default_evaluation_of_a_detector_matches_once_for_each_rule(lesions, monkeypatch):
    """Five metrics read from two matchings, VOC's and COCO's, and so do all resamples."""
    rules = []
    match = comparison.match_rows

    def counted(*arguments):
        rules.append((arguments[-1].rule, len(arguments[-1].iou_thresholds)))
        return match(*arguments)

    monkeypatch.setattr(comparison, "match_rows", counted)
    samples, model = lesions
    report = evaluate(model, samples, device="cpu")
    assert {"voc_map", "voc07_map", "map", "tp", "froc"} <= report.figures.keys()
    assert sorted(rules) == [("coco", 10), ("voc", 1)]
    rules.clear()
    by_patient = [replace(s, patient=f"P{i // 2}") for i, s in enumerate(samples)]
    report = evaluate(model, by_patient, device="cpu", resamples=20)
    assert report["map"].method == "bootstrap by patient"
    assert sorted(rules) == [("coco", 10), ("voc", 1)]
    rules.clear()
    evaluate(
        model, samples, {"voc_map": {"iou_threshold": 0.3}, "detection_counts": {}, "froc": {"iou_threshold": 0.1}}
    )
    assert rules == [("voc", 3)]


# hv.score


@pytest.mark.parametrize("patients", [False, True])
def test_score_is_evaluate_figure_by_figure(lesions, paths, patients):
    samples, model = lesions
    if patients:
        samples = [replace(s, patient=f"P{i // 2}") for i, s in enumerate(samples)]
    slices = [replace(s, annotation=None, class_name="cancer" if s.names else "normal") for s in samples]
    table = np.random.default_rng(5).uniform(0, 1, len(paths))
    for made, data in (
        (model, samples),
        (classifier(np.stack((1 - table, table), 1), positive="normal"), slices),
        (multilabel(np.stack((1 - table, table), 1)), samples),
    ):
        expected = evaluate(made, data, device="cpu", batch=10, resamples=50)
        found = predict(made, data, device="cpu", batch=10)
        options = {"classes": made.classes, "task": made.task, "positive": made.positive, "resamples": 50}
        for predictions in (found, found[::-1], (p for p in found)):
            report = score(predictions, data, **options)
            assert report.to_dict() == expected.to_dict()
            assert list(report.figures) == list(expected.figures)
            for name, figure in report.figures.items():
                assert repr(figure) == repr(expected[name]), name  # with count, interval, method and reason
            assert str(report) == str(expected)
            assert report.samples == expected.samples
            assert [p.path for p in report.predictions] == [p.path for p in expected.predictions]


def test_a_sample_given_twice_is_scored_twice(lesions):
    samples, model = lesions
    twice = [*samples, *samples]
    expected = evaluate(model, twice, device="cpu")
    found = predict(model, twice, device="cpu")
    options = {"classes": model.classes, "task": model.task}
    assert score(found, twice, **options).to_dict() == expected.to_dict()
    assert expected["tp"] == 2 * evaluate(model, samples, device="cpu")["tp"]
    with pytest.raises(ValueError, match="there are two predictions for this image: keep one"):
        score(found[::-1], samples, **options)


# intervals


def test_intervals_are_by_patient_where_all_patients_are_known(paths, tmp_path):
    p = np.random.default_rng(6).uniform(0, 1, 10).round(2)
    samples = [
        Sample(path, patient=f"P{i // 2}", class_name=("normal", "cancer")[i % 2]) for i, path in enumerate(paths)
    ]
    model = classifier(np.stack((1 - p, p), 1))
    report = evaluate(model, samples, device="cpu", batch=10)
    counts = {"tp", "fn", "fp", "tn"}
    assert report.intervals.keys() == report.figures.keys() - counts
    assert {f.method for name, f in report.figures.items() if name not in counts} == {"bootstrap by patient"}

    right = ((p >= 0.5).astype(int) == np.arange(10) % 2).astype(float)
    expected = bootstrap(np.mean, right, groups=[s.patient for s in samples])
    assert report.intervals["accuracy"] == pytest.approx(expected)
    assert "95 % intervals: bootstrap by patient" in str(report).splitlines()
    saved = strict(report.save(tmp_path / "report") / "report.json")
    assert saved["intervals"]["accuracy"] == pytest.approx(list(expected))
    assert saved["interval_methods"] == dict.fromkeys(report.intervals, "bootstrap by patient")
    assert evaluate(model, samples, device="cpu", batch=10).intervals == report.intervals  # one seed


@pytest.mark.parametrize(
    ("patients", "note"),
    [
        ([None] * 10, ""),
        (["P1"] * 10, "all images are of one patient"),
        (["P1", None] * 5, "patients are known for only some images"),
    ],
)
def test_intervals_are_wilsons_where_patients_are_not_all_known(patients, note, paths):
    p = np.random.default_rng(6).uniform(0, 1, 10).round(2)
    samples = [
        Sample(path, patient=patient, class_name=("normal", "cancer")[i % 2])
        for i, (path, patient) in enumerate(zip(paths, patients, strict=True))
    ]
    report = evaluate(classifier(np.stack((1 - p, p), 1)), samples, device="cpu", batch=10)
    wilson = f"Wilson ({note})" if note else "Wilson"
    none = f"no interval: {note or 'patients are not known'}"
    assert report.intervals.keys() == {"accuracy", "sensitivity", "specificity", "precision", "npv"}
    right = int(((p >= 0.5).astype(int) == np.arange(10) % 2).sum())
    low, high = binomtest(right, 10).proportion_ci(0.95, method="wilson")
    assert report.intervals["accuracy"] == pytest.approx((low, high), abs=1e-9)
    assert {report[name].method for name in report.intervals} == {wilson}
    assert {report[name].method for name in ("f1", "kappa", "roc_auc")} == {none}
    lines = str(report).splitlines()
    assert f"95 % intervals: {wilson}" in lines
    assert none in lines
    methods = report.to_dict()["interval_methods"]
    assert (methods["accuracy"], methods["roc_auc"]) == (wilson, none)


def test_without_resamples_there_are_no_intervals(lesions):
    samples, model = lesions
    for data in (samples, [replace(s, patient=f"P{i}") for i, s in enumerate(samples)]):
        report = evaluate(model, data, device="cpu", resamples=0)
        assert report.intervals == {}
        assert report.to_dict()["interval_methods"] == {}
        assert "95 %" not in str(report)
    with pytest.raises(ValueError, match="expected at least one resample, got resamples=-1"):
        evaluate(model, samples, device="cpu", resamples=-1)


def test_a_figure_of_a_report_is_a_number(lesions):
    samples, model = lesions
    report = evaluate(model, samples, device="cpu")
    assert isinstance(report["map"], float)
    assert f"{report['map']:.2f}" == f"{float(report['map']):.2f}"
    assert report["map"] == report.figures["map"]
    assert report.intervals["sensitivity"] == report["sensitivity"].interval
    assert (report["tp"].is_count, str(report["tp"])) == (True, str(int(report["tp"])))
    assert report["sensitivity"].count == 9
    with pytest.raises(KeyError, match=r"no figure 'mAP' in this report; it has: voc_map, .*froc"):
        report["mAP"]


def test_an_unknown_metric_or_one_of_the_other_task_is_refused(lesions):
    samples, model = lesions
    with pytest.raises(KeyError, match=r"unknown metric 'voc_mao'; did you mean 'voc_map'.*coco_map"):
        evaluate(model, samples, ["voc_map", "voc_mao"], device="cpu")
    with pytest.raises(ValueError, match=r"'roc_auc' is for classification, and this model does detection.*coco_map"):
        evaluate(model, samples, ["roc_auc"], device="cpu")
    with pytest.raises(ValueError, match=r"'froc' is for detection, and this model does classification.*roc_auc"):
        find_metrics(["froc"], "classification")


# samples


def test_samples_without_truth_are_refused_with_the_file(paths):
    bare = Sample(paths[1])
    with pytest.raises(ValueError, match=f"{paths[1]}: the ground truth of classification is a class_name, .*label it"):
        evaluate(classifier([[1.0, 0.0]]), [Sample(paths[0], class_name="normal"), bare], device="cpu")
    with pytest.raises(ValueError, match=f"{paths[1]}: the ground truth of detection is an annotation, .*annotate it"):
        evaluate(detector([]), [Sample(paths[0], annotation=empty()), bare], device="cpu")


def test_a_class_that_the_model_does_not_know_is_refused_with_the_file(paths):
    with pytest.raises(ValueError, match=rf"{paths[0]}: the class 'benign' is not among .* \(normal, cancer\)"):
        evaluate(classifier([[1.0, 0.0]]), [Sample(paths[0], class_name="benign")], device="cpu")
    truth = Annotation(np.array([[1, 1, 9, 9]]), ("scar",), size=SIZE)
    with pytest.raises(ValueError, match=rf"{paths[0]}: the class 'scar' is not among .* \(hcc, cyst\)"):
        evaluate(detector([]), [Sample(paths[0], annotation=truth)], device="cpu")


def test_a_sample_may_bear_a_class_of_its_own_besides_its_boxes(paths):
    truth = Annotation(np.array([[1, 1, 9, 9]]), ("hcc",), size=SIZE)
    samples = [Sample(paths[0], class_name="cancer", annotation=truth), Sample(paths[1], None, "normal", empty())]
    none = (torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
    model = detector([none])
    assert evaluate(model, samples, device="cpu")["fn"] == 1
    assert [task_of(model).truth(sample)["labels"].tolist() for sample in samples] == [[0], []]
    assert evaluate(classifier([[0.0, 1.0], [1.0, 0.0]]), samples, device="cpu")["accuracy"] == 1.0


def test_an_image_that_cannot_be_read_is_refused_with_its_path_or_left_out(paths, capsys):
    paths[2].write_bytes(b"not a picture")
    samples = [Sample(p, class_name="normal") for p in paths]
    with pytest.raises(ValueError, match=f"1 of 10 images could not be predicted, first {paths[2]}: "):
        evaluate(classifier([[1.0, 0.0]]), samples, device="cpu")
    report = evaluate(classifier([[1.0, 0.0]]), samples, device="cpu", on_problem="skip")
    assert report["tn"] == len(report.samples) == 9
    assert capsys.readouterr().out.startswith(f"skipped: {paths[2]}: can't be read as an image")
    with pytest.raises(ValueError, match=f"1 of 1 images could not be predicted, first {paths[2]}: "):
        evaluate(classifier([[1.0, 0.0]]), samples[2:3], device="cpu", on_problem="skip")


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_no_images_is_refused(batch, paths):
    with pytest.raises(ValueError, match=f"expected a batch of at least 1 image, got batch={batch}"):
        evaluate(classifier([[1.0, 0.0]]), [Sample(paths[0], class_name="normal")], batch=batch, device="cpu")


def test_a_problem_that_costs_only_a_box_leaves_the_sample_in(paths, capsys):
    problem = Problem("degenerate_box", str(paths[0]), "redraw it")
    samples = [Sample(paths[0], annotation=empty(), problems=(problem,)), Sample(paths[1], annotation=empty())]
    none = (torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
    report = evaluate(detector([none]), samples, device="cpu", on_problem="skip")
    assert len(report.samples) == 2
    assert capsys.readouterr().out == f"skipped: {paths[0]}: redraw it\n"  # once
    found = predict(detector([none]), samples, device="cpu")
    options = {"classes": ["hcc", "cyst"], "task": "detection"}
    assert len(score(found, samples, on_problem="skip", **options).samples) == 2
    with pytest.raises(ValueError, match="1 problems in 2 samples"):
        score(found, samples, **options)


def test_samples_with_problems_are_refused_or_left_out(paths, capsys):
    good = Sample(paths[0], class_name="normal")
    bad = Sample(paths[1], class_name="normal", problems=(Problem("bad", str(paths[1]), "is bad: mend it", False),))
    model = classifier([[1.0, 0.0]])
    with pytest.raises(ValueError, match=f"{paths[1]}: is bad: mend it"):
        evaluate(model, [good, bad], device="cpu")
    report = evaluate(model, [good, bad], device="cpu", on_problem="skip")
    assert [s.path for s in report.samples] == [paths[0]]
    assert [p.path for p in report.predictions] == [str(paths[0])]
    assert f"skipped: {paths[1]}: is bad" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no usable sample"):
        evaluate(model, [], device="cpu")


@pytest.mark.shared_data
def test_the_blood_cells_are_read_split_and_evaluated_with_one_skip(shared, capsys):
    data = hv.read_voc_folder(shared / "data/bccd")
    parts = hv.split(data, (0.95, 0.05), group="none", seed=0, on_problem="skip")
    said = capsys.readouterr().out
    assert [line.split(":")[0] for line in said.splitlines()] == ["skipped", "skipped"]  # its two degenerate boxes
    small = {"image_size": 96, "backbone_options": {"width": 0.25}}
    model = hv.build_model("mobilenet_v1", "ssd", classes=["RBC", "WBC", "Platelets"], seed=0, **small)
    with_problems = [s for s in parts[0] if s.problems]
    assert len(with_problems) == 2
    chosen = [*with_problems, *parts[1][:2]]
    hv.evaluate(model, chosen, ["detection_counts"], device="cpu", resamples=0)
    hv.fit(model, chosen, recipe=hv.Recipe(epochs=1, batch=4), device="cpu")
    assert "skipped" not in capsys.readouterr().out
    assert {f.kind for f in hv.check(chosen).findings} >= {"degenerate_box"}  # still told to who asks


def test_samples_kept_by_choice_are_trained_on_and_scored(tmp_path, capsys):
    picture = tmp_path / "a.png"
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(picture)
    problem = hv.Problem("unread_object", "a.json", "a brush mask; left out", False)
    lesion = hv.Annotation(np.array([[5, 5, 20, 20]]), ("hcc",), size=(40, 40))
    samples = [hv.Sample(picture, annotation=lesion, problems=(problem,)), hv.Sample(picture, annotation=lesion)]
    kept = hv.usable(samples, "keep")
    assert len(kept) == 2
    assert "kept with their readable boxes: 1 of 2" in capsys.readouterr().out
    small = {"image_size": 64, "backbone_options": {"width": 0.25}}
    model = hv.build_model("mobilenet_v1", "ssd", classes=["hcc"], seed=0, **small)
    hv.fit(model, samples, recipe=hv.Recipe(epochs=1, batch=2), device="cpu", on_problem="keep")
    hv.fit(model, kept, recipe=hv.Recipe(epochs=1, batch=2), device="cpu")
    found = hv.Detections(torch.tensor([[5.0, 5, 20, 20]]), torch.tensor([0.9]), torch.tensor([0]))
    recorded = [hv.Prediction(f"array {i}", detections=found) for i in range(2)]
    options = {"classes": ["hcc"], "task": "detection", "resamples": 0, "metrics": ["detection_counts"]}
    assert hv.score(recorded, samples, on_problem="keep", **options)["tp"] == 2
    assert hv.score(recorded, samples, on_problem="skip", **options)["tp"] == 1
