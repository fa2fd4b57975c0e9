"""hv.evaluate: its figures are those that independent libraries compute from what hv.predict answers."""

from itertools import cycle

import numpy as np
import pytest
import sklearn.metrics
import torch
from PIL import Image
from scipy.stats import binomtest
from torchmetrics.detection import MeanAveragePrecision

from hccvision.contracts import Annotation, Detections, Problem, Sample
from hccvision.inference import predict
from hccvision.metrics.metric import find_metrics
from hccvision.model.build import build_model
from hccvision.registry import METRICS
from hccvision.scoring import evaluate

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
    """A classifier that gives these probabilities, image by image, again and again."""
    model = build_model("mobilenet_v1", "linear", classes=classes, head_options={"pool": "avg"}, **SMALL, **options)
    endless = cycle(torch.as_tensor(answers, dtype=torch.float32))
    model.decode = lambda output: torch.stack([next(endless) for _ in range(len(output))])
    return model


def detector(answers, classes=("hcc", "cyst")):
    """A detector that gives these detections, in pixels of the original image, image by image, again and again."""
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


def test_a_test_set_of_one_class_gives_numbers_and_no_nan(paths):
    samples = [Sample(path, class_name="normal") for path in paths[:3]]
    report = evaluate(classifier([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]]), samples, device="cpu")
    assert all(np.isfinite(list(report.figures.values())))
    assert report["sensitivity"] == 0.0
    assert report.intervals["sensitivity"] == (0.0, 1.0)  # of nobody, nothing is known


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
    assert ground_truth(samples, model) == shown.tolist()


def test_the_report_of_several_labels_is_written(lesions, tmp_path):
    samples, _ = lesions
    report = evaluate(multilabel([[0.9, 0.5], [0.2, 0.1]]), samples[:2], device="cpu")
    folder = report.save(tmp_path / "report")
    assert {path.name for path in folder.iterdir()} == {"report.json", "report.txt", "predictions.csv"}
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
        ValueError, match=r"the truth of a multi-label classification is its annotation, and this sample has none"
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


def test_a_set_without_any_lesion_gives_numbers_and_no_nan(paths):
    answers = [(torch.tensor([[10.0, 10, 30, 30]]), torch.tensor([0.9]), torch.tensor([0]))]
    report = evaluate(detector(answers), [Sample(p, annotation=empty()) for p in paths[:4]], device="cpu")
    assert all(np.isfinite(list(report.figures.values())))
    assert (report["tp"], report["fp"], report["fn"]) == (0, 4, 0)


# metrics by name


def test_only_the_metrics_named_are_computed(lesions):
    samples, model = lesions
    figures = evaluate(model, samples, metrics=["voc_map"], device="cpu").figures
    assert {name.split("/")[0] for name in figures} == {"voc_map"}
    model = classifier([[0.2, 0.8]])
    report = evaluate(model, [Sample(samples[0].path, class_name="cancer")], metrics=["f1"], device="cpu")
    assert report.figures == {"f1": 1.0}
    assert report.intervals == {}


def test_a_metric_of_ones_own_is_used_by_its_name(lesions, monkeypatch):
    def lesion_count(predictions, truths, *, classes, **options):
        assert classes == ("hcc", "cyst")
        assert len(predictions) == len(truths) == 10
        return {"lesions": float(sum(len(t["boxes"]) for t in truths)), "found": float(len(predictions[1]["scores"]))}

    monkeypatch.setitem(METRICS._builders, "lesion_count", lesion_count)
    monkeypatch.setitem(METRICS._tags, "lesion_count", {})
    samples, model = lesions
    assert evaluate(model, samples, ["lesion_count"], device="cpu").figures == {"lesions": 9.0, "found": 3.0}


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
    with pytest.raises(ValueError, match=f"{paths[1]}: the truth of a classification is its class_name, .*label it"):
        evaluate(classifier([[1.0, 0.0]]), [Sample(paths[0], class_name="normal"), bare], device="cpu")
    with pytest.raises(ValueError, match=f"{paths[1]}: the truth of a detection is its annotation, .*label it"):
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
    assert [t["labels"].tolist() for t in ground_truth(samples, model)] == [[0], []]
    assert evaluate(classifier([[0.0, 1.0], [1.0, 0.0]]), samples, device="cpu")["accuracy"] == 1.0


def test_an_image_that_cannot_be_read_is_refused_with_its_path(paths):
    paths[2].write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=f"1 of 10 images could not be predicted, first {paths[2]}: "):
        evaluate(classifier([[1.0, 0.0]]), [Sample(p, class_name="normal") for p in paths], device="cpu")


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
