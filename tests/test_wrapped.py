"""Models of other libraries and recorded predictions, evaluated, reported and used in CAD like ours."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image

import hccvision as hv


@pytest.fixture(scope="module")
def lesions(tmp_path_factory) -> list[hv.Sample]:
    root = hv.phantom.write_dataset(tmp_path_factory.mktemp("w") / "liver", patients=4, slices=1, cancer_share=0.75)
    return hv.read_voc_folder(root, patient=r"^(P\d+)_")


@pytest.fixture(scope="module")
def slices(lesions) -> list[hv.Sample]:
    return [replace(s, class_name="cancer" if s.names else "normal", annotation=None) for s in lesions]


def detector(name: str) -> hv.Predictor:
    torch.manual_seed(0)
    build = getattr(torchvision.models.detection, name)
    return hv.wrap(build(weights=None, weights_backbone=None, num_classes=2), classes=["hcc"], task="detection")


def classifier() -> hv.Predictor:
    torch.manual_seed(0)
    return hv.wrap(
        timm.create_model("resnet18", pretrained=False, num_classes=2),
        classes=["normal", "cancer"],
        task="classification",
        image_size=64,
    )


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_a_torchvision_detector_is_evaluated_reported_and_used(name, lesions, tmp_path):
    model = detector(name)
    assert isinstance(model, hv.Predictor)
    report = hv.evaluate(model, lesions, device="cpu", batch=2)
    assert {"voc_map", "map", "froc", "sensitivity"} <= report.figures.keys()
    assert (report.save(tmp_path / "report") / "detections.png").exists()
    found = hv.CAD(classifier(), model).predict([s.path for s in lesions], device="cpu")
    assert all(p.error is None and p.detections is not None for p in found)


def test_a_wrapped_detector_answers_what_the_model_returns_in_original_pixels(lesions):
    model = detector("ssdlite320_mobilenet_v3_large")
    pixels = torch.from_numpy(hv.images.read_image(lesions[0].path)).permute(2, 0, 1).float() / 255
    with torch.inference_mode():
        (expected,) = model.model.eval()([pixels])
    (found,) = hv.predict(model, [lesions[0].path], device="cpu")
    assert torch.equal(found.detections.boxes, expected["boxes"])
    assert torch.equal(found.detections.scores, expected["scores"])
    assert torch.equal(found.detections.labels, expected["labels"] - 1)
    (few,) = hv.predict(model, [lesions[0].path], device="cpu", score_threshold=0.5)
    assert len(few.detections) == int((expected["scores"] >= 0.5).sum())


def test_a_timm_classifier_is_evaluated_and_reported(slices, tmp_path):
    model = classifier()
    report = hv.evaluate(model, slices, device="cpu")
    assert report.matrix.sum() == len(slices)
    assert (report.save(tmp_path / "report") / "confusion_matrix.png").exists()
    (found,) = hv.predict(model, [slices[0].path], device="cpu")
    image, _ = hv.images.resize(hv.images.read_image(slices[0].path), (64, 64))
    config = model.model.pretrained_cfg
    mean, std = (torch.tensor(config[k]).view(3, 1, 1) for k in ("mean", "std"))
    pixels = (torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 - mean) / std
    with torch.inference_mode():
        expected = model.model.eval()(pixels[None]).softmax(-1)[0]
    torch.testing.assert_close(found.probabilities, expected)


def test_a_callable_is_a_predictor_too(lesions):
    def finds_the_truth(images):
        return [
            {"boxes": torch.tensor([[0.0, 0.0, 5.0, 5.0]]), "scores": torch.tensor([0.3]), "labels": torch.tensor([0])}
            for _ in images
        ]

    model = hv.wrap(finds_the_truth, classes=["hcc"], first_label=0)
    assert float(hv.evaluate(model, lesions, ["voc_map"])["voc_map"]) == 0.0
    normal = hv.wrap(
        lambda batch: torch.tensor([[5.0, 0.0]]).expand(len(batch), 2), classes=["a", "b"], task="classification"
    )
    assert hv.predict(normal, np.zeros((30, 40), np.uint8))[0].probabilities.argmax() == 0


def test_labels_outside_the_classes_are_told(lesions):
    def coco_like(images):
        return [{"boxes": torch.ones(1, 4), "scores": torch.ones(1), "labels": torch.tensor([57])} for _ in images]

    with pytest.warns(UserWarning, match="1 detections have labels that stand for none of the classes"):
        (found,) = hv.predict(hv.wrap(coco_like, classes=["hcc"]), lesions[:1])
    assert len(found.detections) == 0


def test_outputs_of_another_form_are_refused():
    model = hv.wrap(lambda batch: torch.zeros(len(batch), 1000), classes=["a", "b"], task="classification")
    with pytest.raises(ValueError, match=r"expected logits \(B, 2\), .*got \(1, 1000\)"):
        hv.predict(model, np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"one dictionary .* per image, and entry 0 lacks boxes, scores, labels: pass"):
        hv.predict(hv.wrap(lambda images: [{"logits": 1}], classes=["a"]), np.zeros((8, 8), np.uint8))


def test_proposals_of_a_wrapped_detector_are_written(tmp_path):
    Image.new("L", (40, 30)).save(tmp_path / "a.png")

    def finds(images):
        box = torch.tensor([[2.0, 3.0, 20.0, 25.0]])
        return [{"boxes": box, "scores": torch.tensor([0.9]), "labels": torch.tensor([1])} for _ in images]

    (proposal,) = hv.propose(hv.wrap(finds, classes=["hcc"]), tmp_path)
    assert hv.voc.read(proposal.annotation).boxes.tolist() == [[2.0, 3.0, 20.0, 25.0]]


def test_recorded_predictions_score_as_the_model_does(lesions, tmp_path):
    model = hv.build_model("mobilenet_v1", "ssd", classes=["hcc"], image_size=96, backbone_options={"width": 0.1})
    report = hv.evaluate(model, lesions, device="cpu")
    folder = report.save(tmp_path / "report")
    read = hv.read_predictions(folder / "predictions.csv", lesions, classes=["hcc"])
    again = hv.score(read, lesions, classes=["hcc"], task="detection")
    for name in ("voc_map", "sensitivity", "froc"):
        assert float(again[name]) == pytest.approx(float(report[name]), abs=2e-3, nan_ok=True)
    recorded = hv.RecordedPredictions(read, classes=["hcc"], task="detection")
    assert isinstance(recorded, hv.Predictor)
    assert float(hv.evaluate(recorded, lesions)["voc_map"]) == float(again["voc_map"])
    assert hv.predict(recorded, "elsewhere.png")[0].error.startswith("elsewhere.png: there is no recorded prediction")
    with pytest.raises(ValueError, match="two predictions for this image"):
        hv.RecordedPredictions([read[0], read[0]], classes=["hcc"], task="detection")


def test_predictions_are_matched_with_samples_by_their_paths(lesions):
    model = hv.build_model("mobilenet_v1", "ssd", classes=["hcc"], image_size=96, backbone_options={"width": 0.1})
    found = hv.predict(model, [s.path for s in lesions], device="cpu")
    options = {"classes": ["hcc"], "task": "detection", "metrics": ["voc_map", "detection_counts"], "resamples": 0}
    expected = hv.score(found, lesions, **options)
    assert hv.score(found[::-1], lesions, **options).figures == pytest.approx(expected.figures, nan_ok=True)
    assert hv.score(iter(found), lesions, **options).figures == pytest.approx(expected.figures, nan_ok=True)
    with pytest.raises(ValueError, match=r"1 of 4 samples have no prediction, first .*png"):
        hv.score(found[:3], lesions, **options)
    with pytest.raises(ValueError, match="two predictions for this image"):
        hv.score([found[0], *found], lesions, **options)
    with pytest.raises(ValueError, match=r"stranger\.png: this prediction is for none of the 4 samples"):
        hv.score([*found[:3], replace(found[3], path="stranger.png")], lesions, **options)
    failed = [*found[:3], hv.Prediction(found[3].path, error=f"{found[3].path}: broken")]
    with pytest.raises(ValueError, match=r"1 of 4 images could not be predicted, first .*: broken"):
        hv.score(failed, lesions, **options)
    assert len(hv.score(failed, lesions, on_problem="skip", **options).samples) == 3
    assert expected.intervals == {}
    assert all(figure.method == "" for figure in expected.figures.values())


def test_predictions_for_arrays_are_scored_in_the_order_of_the_samples(lesions):
    model = hv.build_model("mobilenet_v1", "ssd", classes=["hcc"], image_size=96, backbone_options={"width": 0.1})
    arrays = hv.predict(model, [hv.images.read_image(s.path) for s in lesions], device="cpu")
    options = {"classes": ["hcc"], "task": "detection", "metrics": ["voc_map", "froc"], "resamples": 0}
    expected = hv.evaluate(model, lesions, ["voc_map", "froc"], device="cpu", resamples=0)
    assert hv.score(arrays, lesions, **options).figures == pytest.approx(expected.figures, nan_ok=True)
    with pytest.raises(ValueError, match="expected one prediction for each of 4 samples, got 3"):
        hv.score(arrays[:3], lesions, **options)


def test_recorded_predictions_are_for_files(lesions):
    found = [hv.Prediction(str(lesions[0].path), error="broken")]
    recorded = hv.RecordedPredictions(found, classes=["hcc"], task="detection")
    known, array, text = recorded.predict([lesions[0], np.zeros((8, 8)), "b.png"], batch=3, device="cpu")
    assert known.error == "broken"
    assert (array.path, array.error) == ("array 1", "array 1: there is no recorded prediction for this image")
    assert (text.path, text.error) == ("b.png", "b.png: there is no recorded prediction for this image")


def test_a_predictor_needs_only_classes_a_task_and_predict(lesions):
    class Always:
        classes = ("normal", "cancer")
        task = "classification"

        def predict(self, inputs):
            return [hv.Prediction(str(path), probabilities=torch.tensor([0.2, 0.8])) for path in inputs]

    class Sometimes(Always):
        def predict(self, inputs):
            return super().predict(inputs)[1:]

    samples = [replace(s, class_name="cancer") for s in lesions]
    assert isinstance(Always(), hv.Predictor)
    assert hv.evaluate(Always(), samples)["accuracy"] == 1.0
    assert hv.evaluate(Always(), [*samples, samples[0]])["tp"] == 5  # a sample given twice counts twice
    with pytest.raises(ValueError, match="expected one prediction for each of 4 samples, got 3"):
        hv.evaluate(Sometimes(), samples)


def test_a_decode_of_ones_own_gets_the_options_and_returns_one_entry_per_image():
    def network(images):
        return [image.mean() for image in images]

    def decode(output, *, scale=1.0):
        return (torch.stack([1 - mean, mean]) * scale for mean in output)  # a generator will do

    model = hv.wrap(network, classes=["dark", "bright"], task="classification", image_size=8,
                    normalisation=((0.0,), (1.0,)), decode=decode)  # fmt: skip
    pixels = [np.full((8, 8), level, np.uint8) for level in (0, 51, 255)]
    assert model.in_channels == 1
    found = [p.probabilities.tolist() for p in hv.predict(model, pixels, device="cpu", batch=2)]
    assert found == [pytest.approx(row) for row in ([1, 0], [0.8, 0.2], [0, 1])]
    found = hv.predict(model, pixels, device="cpu", scale=0.5)
    assert found[1].probabilities.tolist() == pytest.approx([0.4, 0.1])
    assert not found[0].probabilities.is_inference()
    model.decode = lambda output: [torch.ones(2)]
    with pytest.raises(ValueError, match="decoding returned 1 entries for a batch of 3 images: expected one per image"):
        hv.predict(model, pixels, device="cpu")


def test_wrap_refuses_what_it_cannot_know():
    with pytest.raises(KeyError, match="unknown task 'detecton'; did you mean 'detection'"):
        hv.wrap(print, classes=["hcc"], task="detecton")
    with pytest.raises(ValueError, match="positive class 'scar' is not among the classes hcc"):
        hv.wrap(print, classes=["hcc"], positive="scar")
    with pytest.raises(ValueError, match=r"classes is a list of names, got the string 'hcc'; write \['hcc'\]"):
        hv.wrap(print, classes="hcc")
    with pytest.raises(KeyError, match="unknown task 'detecton'; did you mean 'detection'"):
        hv.RecordedPredictions([], classes=["hcc"], task="detecton")
    with pytest.raises(ValueError, match="positive class 'scar' is not among the classes hcc"):
        hv.RecordedPredictions([], classes=["hcc"], task="detection", positive="scar")


def test_a_coco_results_file_is_scored(lesions, tmp_path):
    coco = hv.write_coco(lesions, tmp_path / "truth.json")
    ids = {e["file_name"]: e["id"] for e in json.loads(coco.read_text())["images"]}
    rows = []
    for sample in lesions:
        for x1, y1, x2, y2 in sample.annotation.boxes.tolist():
            key = next(i for name, i in ids.items() if name.endswith(sample.path.name))
            rows.append({"image_id": key, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 0.9})
    (tmp_path / "results.json").write_text(json.dumps(rows))
    read = hv.read_predictions(tmp_path / "results.json", lesions, classes=["hcc"], coco=coco)
    assert float(hv.score(read, lesions, classes=["hcc"], task="detection")["map"]) == pytest.approx(1.0)


def test_a_predictor_may_index_its_inputs_and_answer_in_any_order(lesions):
    class Backwards:
        classes, task = ("hcc",), "detection"

        def predict(self, inputs):
            found = []
            for i in reversed(range(len(inputs))):
                boxes = torch.from_numpy(next(s for s in lesions if s.path == inputs[i]).annotation.boxes)
                count = len(boxes)
                found.append(
                    hv.Prediction(
                        str(inputs[i]),
                        detections=hv.Detections(boxes, torch.ones(count), torch.zeros(count, dtype=torch.int64)),
                    )
                )
            return found

    assert float(hv.evaluate(Backwards(), lesions, ["voc_map"])["voc_map"]) == 1.0


def test_a_wrapped_detector_may_find_nothing_and_lengths_must_agree():
    empty = {"boxes": [], "scores": torch.zeros(0), "labels": torch.zeros(0)}
    (found,) = hv.predict(hv.wrap(lambda images: [empty], classes=["a"]), np.zeros((8, 8), np.uint8))
    assert found.detections.boxes.shape == (0, 4)
    odd = {"boxes": torch.zeros(2, 4), "scores": torch.zeros(1), "labels": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"expected boxes \(N, 4\), scores \(N,\) and labels \(N,\)"):
        hv.predict(hv.wrap(lambda images: [odd], classes=["a"]), np.zeros((8, 8), np.uint8))


def test_classes_of_scores_are_a_list_of_names(lesions):
    with pytest.raises(ValueError, match="classes is a list of names, got the string 'hcc'"):
        hv.score([], lesions, classes="hcc", task="detection")
    with pytest.raises(ValueError, match="non-empty names"):
        hv.score([], lesions, classes=[], task="detection")


def test_proposals_go_down_to_the_score_asked_for(tmp_path):
    Image.new("L", (40, 30)).save(tmp_path / "a.png")
    model = hv.build_model("mobilenet_v1", "ssd", classes=["hcc"], image_size=64, backbone_options={"width": 0.1})
    for conv in model.head.class_convs:
        torch.nn.init.zeros_(conv.weight)
        conv.bias.data[0::2], conv.bias.data[1::2] = 5.0, 0.0  # a score of 0.0067 everywhere
    (proposal,) = hv.propose(model, tmp_path, score_threshold=0.005, device="cpu")
    assert proposal.boxes > 0
