"""Not a number is not a negative finding."""

import dataclasses

import numpy as np
import pytest
import torch
from small_trainings import classifier, detector, write_slices

import hccvision as hv
from hccvision.contracts.outputs import Detections, Prediction
from hccvision.finite import finite_rows, is_finite

PICTURES = [np.zeros((40, 50), np.uint8), np.full((40, 50), 200, np.uint8), np.zeros((40, 50), np.uint8)]
BAD = [torch.nan, torch.inf, -torch.inf]


def poisoned(model, value=torch.nan):
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.view(-1)[0] = value
    return model


class BrightIsNotANumber(torch.nn.Module):
    """A classifier whose output is NaN for bright images, whatever else is in the batch."""

    def forward(self, images):
        logits = torch.tensor([[2.0, -2.0]]).repeat(len(images), 1)
        logits[images.flatten(1).mean(1) > 0.2] = torch.nan
        return logits


def detect(images):
    boxes = torch.tensor([[1.0, 1.0, 9.0, 9.0]])
    scores = [torch.tensor([torch.nan if float(i.mean()) > 0.2 else 0.5]) for i in images]
    return [{"boxes": boxes, "scores": s, "labels": torch.tensor([1])} for s in scores]


def errors(predictions):
    return [prediction.error is not None for prediction in predictions]


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("build", [classifier, detector])
def test_a_model_whose_output_is_not_finite_answers_with_an_error(build, value):
    found = poisoned(build(), value).predict(PICTURES, device="cpu")
    assert errors(found) == [True] * 3
    assert "array 1: the model's output is not finite" in found[1].error
    assert all(p.detections is None and p.probabilities is None for p in found)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_the_other_images_of_a_batch_keep_their_answers(batch):
    model = classifier()
    model.forward = BrightIsNotANumber().forward
    found = model.predict(PICTURES, device="cpu", batch=batch)
    assert errors(found) == [False, True, False]
    torch.testing.assert_close(found[2].probabilities, torch.tensor([2.0, -2.0]).softmax(0))


def test_wrapped_models_as_well():
    options = {"classes": ["normal", "cancer"], "task": "classification", "normalisation": ((0.0,) * 3, (1.0,) * 3)}
    assert errors(hv.wrap(BrightIsNotANumber(), **options).predict(PICTURES, device="cpu")) == [False, True, False]
    assert errors(hv.wrap(detect, classes=["hcc"]).predict(PICTURES, device="cpu")) == [False, True, False]
    own = hv.wrap(lambda images: len(images), decode=lambda n: [torch.full((2,), torch.nan)] * n, **options)
    assert errors(own.predict(PICTURES, device="cpu")) == [True] * 3


@pytest.mark.parametrize("normalisation", [((0.5,), (0.0,)), ((torch.inf,), (1.0,)), ((0.5,), (torch.inf,)), ((), ())])
def test_what_images_can_not_be_normalised_by_is_refused(normalisation):
    with pytest.raises(ValueError, match=r"the (mean|std) of each channel|expected one mean and one std"):
        hv.wrap(len, classes=["a", "b"], task="classification", normalisation=normalisation)


def test_a_cad_does_not_call_it_normal():
    for first, second in ((poisoned(classifier()), detector()), (classifier(), poisoned(detector()))):
        found = hv.CAD(first, second, threshold=0.0).predict(PICTURES, device="cpu")
        assert errors(found) == [True] * 3
    found = hv.CAD(Foreign("classification"), detector()).predict(PICTURES[:1], device="cpu")
    assert "array 0: the model's output is not finite" in found[0].error


@dataclasses.dataclass
class Foreign:
    """A predictor of somebody else."""

    task: str
    classes: tuple[str, ...] = ("normal", "cancer")

    def predict(self, inputs, **options):
        nan = torch.tensor([torch.nan])
        found = Detections(torch.zeros(1, 4), nan, torch.tensor([0]))
        more = {"detections": found} if self.task == "detection" else {"probabilities": nan.repeat(2)}
        names = [str(item) if not isinstance(item, np.ndarray) else f"array {i}" for i, item in enumerate(inputs)]
        return [Prediction(name, **more) for name in names]


@pytest.mark.parametrize("model", [poisoned(detector()), hv.wrap(detect, classes=["hcc"]), Foreign("detection")])
def test_propose_writes_no_empty_annotation(tmp_path, model):
    write_slices(tmp_path, 2)
    for path in tmp_path.glob("*.png"):
        hv.images.read_image(path)
    if not isinstance(model, Foreign) and not hasattr(model, "head"):
        model.model = lambda images: detect([image + 1 for image in images])
    found = hv.propose(model, tmp_path, device="cpu")
    assert all(not proposal.written and "not finite" in proposal.error for proposal in found)
    assert not list(tmp_path.glob("*.xml"))


def test_evaluation_names_the_image(tmp_path):
    data = write_slices(tmp_path, 3)
    with pytest.raises(ValueError, match=r"3 of 3 images could not be predicted, first .*slice_0.png: .*not finite"):
        hv.evaluate(poisoned(classifier()), data, device="cpu")
    recorded = Foreign("classification").predict([sample.path for sample in data])
    with pytest.raises(ValueError, match="3 of 3 images could not be predicted"):
        hv.score(recorded, data, classes=("normal", "cancer"), task="classification")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (torch.tensor([[1.0], [torch.inf]]), [True, False]),
        ((torch.zeros(2, 3), torch.tensor([[torch.nan], [0.0]])), [False, True]),
        ({"a": torch.zeros(2), "b": torch.tensor(torch.nan)}, [False, False]),
        ([torch.tensor([torch.nan]), torch.zeros(3)], [False, True]),
        ([torch.zeros(2, 4), torch.tensor([[1.0], [torch.nan]])], [True, False]),
        (np.array([[1.0], [np.nan]]), [True, False]),
        (np.array(["a", "b"]), [True, True]),
        (torch.zeros(2, 0), [True, True]),
        ((), [True, True]),
        (None, [True, True]),
    ],
)
def test_rows_of_any_output(output, expected):
    assert finite_rows(output, 2) == expected
    assert is_finite(output) == all(expected)
