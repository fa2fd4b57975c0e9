import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hccvision.contracts import (
    Annotation,
    Backbone,
    Detections,
    FeatureSpec,
    Head,
    Prediction,
    Problem,
    Sample,
    SSDOutput,
    Targets,
)

BOX = [1.0, 2.0, 3.0, 4.0]


# annotations and samples


def test_an_annotation_without_boxes_is_ordinary():
    for nothing in ([], np.zeros((0, 4)), np.zeros(0)):
        empty = Annotation(nothing, ())
        assert len(empty) == 0
        assert empty.boxes.shape == (0, 4)
        assert empty.boxes.dtype == np.float32
        assert (empty.difficult, empty.truncated, empty.poses) == ((), (), ())


def test_what_an_annotation_does_not_say_is_filled_in():
    annotation = Annotation(np.array([BOX, BOX], np.float64), ["tumor", "cyst"])
    assert annotation.boxes.dtype == np.float32
    assert annotation.names == ("tumor", "cyst")
    assert annotation.difficult == (False, False)
    assert annotation.truncated == (False, False)
    assert annotation.poses == ("Unspecified", "Unspecified")
    assert (annotation.size, annotation.path, annotation.verified) == (None, None, False)


@pytest.mark.parametrize("field", ["names", "difficult", "truncated", "poses"])
@pytest.mark.parametrize("count", [1, 3])
def test_an_annotation_has_one_of_everything_per_box(field, count):
    with pytest.raises(ValueError, match=f"2 boxes needs 2 {field}, got {count}"):
        Annotation(np.array([BOX, BOX]), **{"names": ("a", "b"), field: ("x",) * count})


def test_a_samples_names_are_its_class_or_those_of_its_boxes():
    annotation = Annotation([BOX, BOX], ("tumor", "cyst"))
    assert Sample(Path("a.png")).names == ()
    assert Sample(Path("a.png"), class_name="cancer").names == ("cancer",)
    assert Sample(Path("a.png"), annotation=annotation).names == ("tumor", "cyst")
    assert Sample(Path("a.png"), annotation=Annotation([], ())).names == ()
    assert Sample("a.png").path == Path("a.png")


def test_a_problem_prints_its_file_first():
    assert str(Problem("empty_file", "b.xml", "no bytes: write it again")) == "b.xml: no bytes: write it again"


# targets


def test_targets_of_no_images_and_of_no_lesions():
    none = Targets.pad([], [])
    assert (none.boxes.shape, none.labels.shape, len(none)) == ((0, 0, 4), (0, 0), 0)
    healthy = Targets.pad([torch.zeros(0, 4)] * 3, [torch.zeros(0)] * 3)
    assert (healthy.boxes.shape, healthy.labels.shape, len(healthy)) == ((3, 0, 4), (3, 0), 3)
    assert healthy.valid.shape == (3, 0)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_padding_keeps_every_box_and_marks_the_rest(counts):
    boxes = [torch.arange(4.0 * n).reshape(n, 4) + i for i, n in enumerate(counts)]
    labels = [torch.arange(n) for n in counts]
    targets = Targets.pad(boxes, labels)
    assert targets.boxes.shape == (len(counts), max(counts), 4)
    assert targets.boxes.dtype == torch.float32
    assert targets.labels.dtype == torch.int64
    assert targets.valid.sum(1).tolist() == counts
    for i, n in enumerate(counts):
        assert torch.equal(targets.boxes[i, :n], boxes[i])
        assert targets.labels[i].tolist() == [*range(n), *[-1] * (max(counts) - n)]


def test_an_image_needs_as_many_labels_as_boxes():
    with pytest.raises(ValueError, match=r"got \[0, 1\] labels for \[0, 2\] boxes"):
        Targets.pad([torch.zeros(0, 4), torch.zeros(2, 4)], [torch.zeros(0), torch.zeros(1)])
    with pytest.raises(ValueError, match=r"got \[\] labels for \[0\] boxes"):
        Targets.pad([torch.zeros(0, 4)], [])


def test_moving_targets_leaves_the_old_ones_alone():
    old = Targets.pad([torch.tensor([BOX])], [torch.tensor([0])], torch.tensor([1]))
    new = old.to("meta")
    assert (new.boxes.device.type, new.labels.device.type) == ("meta", "meta")
    assert new.image_labels is not None
    assert new.image_labels.device.type == "meta"
    assert old.boxes.device.type == "cpu"
    assert Targets.pad([torch.tensor([BOX])], [torch.tensor([0])]).to("meta").image_labels is None


# detections and predictions


def detections(*scores):
    n = len(scores)
    return Detections(torch.arange(4.0 * n).reshape(n, 4), torch.tensor(scores), torch.arange(n))


def test_above_keeps_the_score_itself_and_the_order():
    found = detections(0.75, 0.5, 0.25)
    assert found.above(0.5).scores.tolist() == [0.75, 0.5]
    assert found.above(0.5).labels.tolist() == [0, 1]
    assert torch.equal(found.above(0.5).boxes, found.boxes[:2])
    assert len(found.above(0.0)) == 3
    none = found.above(1.0)
    assert (none.boxes.shape, none.scores.shape, none.labels.shape) == ((0, 4), (0,), (0,))
    assert len(found) == 3


def test_as_dict_counts_classes_from_where_asked():
    found = detections(0.75, 0.5)
    assert set(found.as_dict()) == {"boxes", "scores", "labels"}
    assert found.as_dict()["labels"].tolist() == [0, 1]
    assert found.as_dict(first_label=1)["labels"].tolist() == [1, 2]
    assert found.labels.tolist() == [0, 1]
    assert torch.equal(found.as_dict()["boxes"], found.boxes)


def test_what_holds_tensors_compares_as_an_object_and_does_not_raise():
    for make in (lambda: detections(0.5, 0.4), lambda: Targets.pad([torch.tensor([BOX])], [torch.zeros(1)])):
        thing = make()
        assert thing == thing
        assert thing != make()
    assert Prediction("a", probabilities=torch.ones(2)) != Prediction("a", probabilities=torch.ones(2))
    assert Annotation([BOX], ("a",)) != Annotation([BOX], ("a",))


def test_contracts_are_frozen():
    things = [
        Annotation([], ()),
        Sample(Path("a.png")),
        Targets.pad([], []),
        detections(0.5),
        Prediction("a.png"),
        Problem("k", "a", "m"),
    ]
    for thing in things:
        field = dataclasses.fields(thing)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, field, None)


def test_a_prediction_has_nothing_it_was_not_given():
    assert Prediction("a.png").error is None
    assert Prediction("a.png").probabilities is None
    assert Prediction("a.png").detections is None


# what backbones and heads must have


def test_a_backbone_states_channels_and_strides():
    class Mine(nn.Module):
        channels, strides = (8,), (16,)

    assert isinstance(Mine(), Backbone)
    assert not isinstance(nn.Identity(), Backbone)


def test_a_head_has_a_task_a_loss_and_a_decode():
    class Mine(nn.Module):
        task = "detection"

        def loss(self, output, targets, *, name=None):
            return {}

        def decode(self, output):
            return output

    assert isinstance(Mine(), Head)
    del Mine.decode
    assert not isinstance(Mine(), Head)


def test_raw_output_and_features_are_plain_tuples():
    output = SSDOutput(logits=torch.zeros(1, 2, 3), offsets=torch.zeros(1, 2, 4))
    logits, offsets = output
    assert logits is output.logits
    assert offsets is output.offsets
    assert FeatureSpec((512,), (16,), ((19, 19),), (300, 300))._fields == ("channels", "strides", "sizes", "image_size")
