"""A user's own task: segmentation, written in one file with the public face alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import hccvision as hv
from hccvision.images.placement import place
from hccvision.tasks.detection import Detection


def mask_of(sample: hv.Sample) -> np.ndarray:
    return np.asarray(Image.open(sample.path.with_suffix(".mask")), np.int64)


class Segmentation(hv.Task):
    """The class of every pixel; the ground truth is a file beside the image, with the suffix ``.mask``."""

    name = "test_segmentation"
    answer = "mask"
    metrics = training_metrics = ("test_dice",)

    def labels(self, sample):
        return tuple(self.classes[i] for i in np.unique(mask_of(sample)))

    def truth(self, sample):
        return mask_of(sample)

    def target(self, sample, placement):
        mask = torch.as_tensor(placement.place_map(mask_of(sample)))
        return hv.Targets(torch.zeros(1, 0, 4), torch.zeros(1, 0).long(), masks=mask[None])

    def prediction(self, path, decoded, placement):
        return hv.Prediction(path, mask=placement.restore_map(decoded.cpu()))

    def table(self, predictions, samples):
        return ["path", "pixels"], [
            [s.path, int((p.mask > 0).sum())] for p, s in zip(predictions, samples, strict=True)
        ]


class MaskHead(nn.Module):
    task = "test_segmentation"
    default_image_size = (64, 64)

    def __init__(self, features: hv.FeatureSpec, num_classes: int) -> None:
        super().__init__()
        self.size = features.image_size
        self.layers = nn.Conv2d(features.channels[0], num_classes, 3, padding=1)

    def forward(self, maps):
        return nn.functional.interpolate(self.layers(maps[0]), self.size, mode="bilinear")

    def loss(self, output, targets, *, name=None):
        entropy = nn.functional.cross_entropy(output, targets.masks, ignore_index=-1, reduction="sum")
        return hv.Loss({"segmentation": entropy}, (targets.masks >= 0).sum())

    def decode(self, output, *, score_threshold=0.0):
        return output.argmax(1)


def dice(comparison: hv.Comparison) -> float:
    """Dice coefficient of everything that is not background."""
    overlap = total = 0
    for prediction, truth in zip(comparison.predictions, comparison.truths, strict=True):
        found, real = np.asarray(prediction) > 0, np.asarray(truth) > 0
        overlap += 2 * (found & real).sum()
        total += found.sum() + real.sum()
    return hv.Figure(overlap / total if total else float("nan"), reason="" if total else "nothing to find or found")


@pytest.fixture(scope="module", autouse=True)
def _registered():
    hv.TASKS.register("test_segmentation")(Segmentation)
    hv.HEADS.register("test_mask", task="test_segmentation")(MaskHead)
    hv.METRICS.register("test_dice", task="test_segmentation", higher_is_better=True)(dice)
    yield
    hv.TASKS.remove("test_segmentation")
    hv.HEADS.remove("test_mask")
    hv.METRICS.remove("test_dice")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[hv.Sample]:
    """Bright discs on noise, on slices that are not square."""
    folder = tmp_path_factory.mktemp("discs")
    rng = np.random.default_rng(0)
    samples = []
    for i in range(12):
        y, x = np.mgrid[:48, :80]
        mask = ((x - rng.integers(20, 60)) ** 2 + (y - rng.integers(15, 33)) ** 2 < 100).astype(np.uint8)
        image = (rng.normal(60, 10, mask.shape) + 120 * mask).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{i:02}.png")
        Image.fromarray(mask).save(folder / f"{i:02}.mask", format="png")
        samples.append(hv.Sample(folder / f"{i:02}.png", patient=f"P{i // 2}"))
    return samples


def small(**options) -> hv.Model:
    return hv.build_model(
        "mobilenet_v1", "test_mask", classes=["background", "disc"], backbone_options={"width": 0.1}, **options
    )


def test_a_segmentation_trains_is_evaluated_predicts_and_reports(data, tmp_path: Path) -> None:
    recipe = replace(
        hv.recipes.quick(), epochs=30, batch=4, monitor="val_test_dice", augmentation="light", head_learning_rate=1e-2
    )
    model = small()
    history = hv.fit(model, data[:8], data[8:], recipe=recipe, run=tmp_path / "run", device="cpu")
    assert {"train_segmentation", "val_segmentation", "val_test_dice"} <= history.rows[0].keys()
    assert history.rows[history.best]["val_test_dice"] == max(history["val_test_dice"])
    assert history.rows[-1]["train_loss"] < history.rows[0]["train_loss"]

    report = hv.evaluate(model, data[8:], device="cpu")
    assert report["test_dice"] > 0.8
    assert float(report["test_dice"]) == pytest.approx(history.rows[history.best]["val_test_dice"])
    assert report["test_dice"].method.endswith("by patient")
    folder = report.save(tmp_path / "report")
    rows = (folder / "predictions.csv").read_text().splitlines()
    assert rows[0] == "path,pixels"
    assert rows[1:] == [
        f"{s.path},{int((p.mask > 0).sum())}" for s, p in zip(data[8:], report.predictions, strict=True)
    ]
    assert "test_segmentation, 4 images" in str(report)

    with pytest.raises(ValueError, match="there is no picture of this evaluation: test_segmentation draws none"):
        report.picture()
    with pytest.raises(ValueError, match="proposing boxes takes a detector, and this model does test_segmentation"):
        hv.propose(model, data[0].path.parent, device="cpu")
    with pytest.raises(ValueError, match="CAD takes a classifier and a detector, got models for test_segmentation and"):
        hv.CAD(model, model)

    again = hv.load_model(tmp_path / "run" / "best.safetensors")
    for one, other in zip(hv.predict(model, data[8:]), hv.predict(again, [s.path for s in data[8:]]), strict=True):
        assert one.mask.shape == (48, 80)
        assert torch.equal(torch.as_tensor(one.mask), torch.as_tensor(other.mask))


def test_a_segmentation_in_parts_learns_the_same(data) -> None:
    recipe = replace(hv.recipes.quick(), epochs=1, batch=4, frozen=("backbone",))
    weights = []
    for accumulate in (1, 2):
        model = small()
        hv.fit(model, data[:8], recipe=replace(recipe, accumulate=accumulate), device="cpu")
        weights.append(model.head.layers.weight.detach().clone())
    torch.testing.assert_close(*weights, rtol=0, atol=1e-6)


class Volume(hv.Task):
    """A task of the least possible code: a number per image."""

    name = "test_volume"
    answer = "probabilities"
    metrics = training_metrics = ()

    def labels(self, sample):
        return ()

    def truth(self, sample):
        return 1.0

    def target(self, sample, placement):
        return hv.Targets.pad([torch.zeros(0, 4)], [torch.zeros(0)])

    def prediction(self, path, decoded, placement):
        return hv.Prediction(path, probabilities=decoded)

    def table(self, predictions, samples):
        return ["path"], [[s.path] for s in samples]


def test_the_defaults_of_a_task_are_harmless() -> None:
    task = Volume(["liver"])
    sample = hv.Sample(Path("a.png"))
    task.check(sample)
    assert task.heading == ", positive class: liver"
    assert (task.details(None), task.detail_lines({}), task.pictures([], [], {})) == ({}, [], {})
    assert (task.annotates, task.wrapped_image_size, task.stratum(sample)) == (False, 224, ())
    targets = task.example_targets(3, (40, 80))
    assert (targets.boxes.shape, targets.labels.tolist()) == ((3, 1, 4), [[0]] * 3)
    assert targets.boxes[0, 0].tolist() == pytest.approx([24, 12, 48, 24])
    with pytest.raises(ValueError, match="no training sample shows 'liver'"):
        task.balanced_weights([sample])
    with pytest.raises(
        ValueError, match=r"models for test_volume have no standard output: pass .* wrap\(…, decode=…\)"
    ):
        task.decode(torch.zeros(1, 1))
    with pytest.raises(NotImplementedError, match="predictions of test_volume can't be written as annotations"):
        task.annotation(hv.Prediction("a.png"), (8, 8))
    with pytest.raises(ValueError, match=r"a\.png: evaluating test_volume needs predictions with probabilities"):
        task.compared(hv.Prediction("a.png"))


def test_detections_become_an_annotation_above_a_score() -> None:
    task = hv.TASKS.get("detection")(["hcc", "cyst"])
    boxes = torch.tensor([[1.0, 2, 30, 40], [5, 6, 7, 8]])
    found = hv.Prediction("a.png", detections=hv.Detections(boxes, torch.tensor([0.9, 0.3]), torch.tensor([1, 0])))
    assert task.annotates
    both, one = task.annotation(found, (50, 60)), task.annotation(found, (50, 60), score_threshold=0.5)
    assert (both.names, both.size, both.verified) == (("cyst", "hcc"), (50, 60), False)
    assert (one.names, one.boxes.tolist()) == (("cyst",), [[1, 2, 30, 40]])


def test_class_weights_are_inverse_to_frequency() -> None:
    lesion = [hv.Annotation(np.array([[1, 1, 9, 9]] * len(names)), names) for names in (("hcc", "cyst"), ("hcc",), ())]
    boxes = [hv.Sample(Path(f"{i}.png"), annotation=a) for i, a in enumerate(lesion)]
    whole = [hv.Sample(Path(f"{i}.png"), class_name=c) for i, c in enumerate(("normal", "normal", "normal", "cancer"))]
    weigh = {name: hv.TASKS.get(name) for name in ("classification", "detection", "multilabel")}
    assert weigh["classification"](["normal", "cancer"]).balanced_weights(whole) == [4 / (2 * 3), 4 / (2 * 1)]
    assert weigh["detection"](["hcc", "cyst"]).balanced_weights(boxes) == [3 / (2 * 2), 3 / (2 * 1)]
    assert weigh["multilabel"](["hcc", "cyst"]).balanced_weights(boxes) == [1 / 2, 2 / 1]
    with pytest.raises(ValueError, match="no training sample shows 'scar': balanced class weights need one of each"):
        weigh["detection"](["hcc", "scar"]).balanced_weights(boxes)


def test_every_task_states_what_the_others_ask_of_it() -> None:
    for name in hv.TASKS.names():
        task = hv.TASKS.get(name)(["normal", "cancer"])
        assert isinstance(task, hv.Task)
        assert task.name == name
        assert task.answer in {"probabilities", "detections", "mask"}
        for metric in (*task.metrics, *task.training_metrics):
            assert metric in hv.METRICS.names(task=name)
        assert task.positive == "cancer"
        assert hv.TASKS.get(name)(["normal", "cancer"], positive="normal").positive == "normal"
        with pytest.raises(ValueError, match="positive class 'scar' is not among the classes normal, cancer"):
            hv.TASKS.get(name)(["normal", "cancer"], positive="scar")


def test_training_leaves_out_what_evaluation_ignores_as_a_crowd(tmp_path):
    boxes = np.array([[5, 5, 25, 25], [0, 0, 30, 30], [10, 10, 20, 99]], np.float32)
    annotation = hv.Annotation(boxes, ("hcc",) * 3, size=(40, 30), crowd=(False, True, False))
    sample = hv.Sample(tmp_path / "a.png", annotation=annotation)
    truth = Detection(["hcc"]).truth(sample)
    target = Detection(["hcc"]).target(sample, place((40, 30), (40, 30), "stretch"))
    assert truth["crowd"].tolist() == [False, True, False]
    assert target.boxes[0].tolist() == truth["boxes"][~truth["crowd"]].tolist() == [[5, 5, 25, 25], [10, 10, 20, 40]]


def test_a_detection_set_without_one_box_is_said_before_training(recwarn):
    empty = hv.Sample(Path("a.png"), annotation=hv.Annotation(np.zeros((0, 4)), ()))
    boxed = hv.Sample(Path("b.png"), annotation=hv.Annotation(np.array([[1, 2, 3, 4]]), ("hcc",)))
    task = hv.TASKS.build("detection", ["hcc"])
    task.check_training([empty, boxed])
    assert not recwarn
    with pytest.warns(UserWarning, match="expected boxes to train a detector, got none in 1 samples, such as a.png"):
        task.check_training([empty])
