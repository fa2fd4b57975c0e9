"""hv.CAD, which locates in what it called cancer, and hv.propose, which writes annotations for a human to correct."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hccvision.annotations import voc
from hccvision.annotations.voc_folder import VOCFormat
from hccvision.contracts import Annotation, Detections, Prediction
from hccvision.images import Window
from hccvision.model.build import build_model
from hccvision.model.wrapped import RecordedPredictions
from hccvision.pipeline import CAD, propose

SMALL = {"image_size": 64, "backbone_options": {"width": 0.1}}
SIZE = (40, 80)  # in the input of 64×64 pixels: x shrinks by 0.8, y grows by 1.6


def classifier(probabilities=(), classes=("normal", "cancer"), **options):
    """A classifier that gives these probabilities of cancer, one image after the other."""
    model = build_model("mobilenet_v1", "linear", classes=classes, head_options={"pool": "avg"}, **SMALL, **options)
    answers = iter(probabilities)

    def decode(output):
        cancer = [next(answers) for _ in range(len(output))]
        return torch.tensor([[p if name == "cancer" else 1 - p for name in classes] for p in cancer])

    model.decode = decode
    return model


def detector(boxes=((8, 16, 32, 48),), classes=("hcc", "cyst")):
    """A detector that finds these boxes, in pixels of its input, and notes how it was asked."""
    model = build_model("mobilenet_v1", "ssd", classes=classes, **SMALL)
    model.asked = []

    def decode(output, **options):
        model.asked.append((len(output.logits), options))
        boxes_, scores = torch.tensor(boxes, dtype=torch.float32), torch.linspace(0.9, 0.6, len(boxes))
        return [Detections(boxes_, scores, torch.arange(len(boxes)) % 2)] * len(output.logits)

    model.decode = decode
    return model


def sure_detector(score):
    """A real head that gives one box a known score: the first of the last map's six, as "cyst"."""
    model = build_model("mobilenet_v1", "ssd", classes=["hcc", "cyst"], **SMALL)
    for conv in (*model.head.class_convs, *model.head.box_convs):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    model.head.class_convs[-1].bias.data[2] = float(np.log(2 * score / (1 - score)))
    return model


def write_slice(path, size=SIZE):
    Image.fromarray(np.random.default_rng(0).integers(0, 200, size, np.uint8)).save(path)
    return path


# classify, then locate


def test_only_what_was_called_cancer_is_looked_into():
    locate = detector()
    cad = CAD(classifier([0.1, 0.9, 0.49, 0.5, 0.7]), locate)
    found = cad.predict([np.zeros(SIZE, np.uint8)] * 5, batch=2, device="cpu")
    assert [len(p.detections) for p in found] == [0, 1, 0, 1, 1]  # the threshold itself is cancer
    assert sum(count for count, _ in locate.asked) == 3
    assert [options for _, options in locate.asked] == [{}, {}]  # any predictor will do, also one without thresholds
    assert [p.path for p in found] == [f"array {i}" for i in range(5)]
    assert [p.probabilities[1].item() for p in found] == pytest.approx([0.1, 0.9, 0.49, 0.5, 0.7])
    assert found[1].detections.boxes.tolist() == [[10, 10, 40, 30]]
    assert found[0].detections.boxes.shape == (0, 4)


@pytest.mark.parametrize(("score_threshold", "kept"), [(0.25, 4), (0.75, 2), (0.95, 0)])
def test_the_thresholds_are_the_users(score_threshold, kept):
    locate = detector([(8, 16, 32, 48)] * 4)  # scores 0.9, 0.8, 0.7 and 0.6
    cad = CAD(classifier([0.85, 0.95]), locate, threshold=0.9, score_threshold=score_threshold)
    found = cad.predict([np.zeros(SIZE, np.uint8)] * 2, device="cpu")
    assert [len(p.detections) for p in found] == [0, kept]
    assert (found[1].detections.scores >= score_threshold).all()
    assert locate.asked == [(1, {})]


@pytest.mark.parametrize("score_threshold", [0.3, 0.5, 0.79, 0.81])
def test_a_score_threshold_after_decoding_is_one_in_decoding(score_threshold):
    """Suppression goes by score: boxes below the threshold never suppress one above it."""
    image, locate = np.zeros(SIZE, np.uint8), sure_detector(0.8)
    (found,) = CAD(classifier([0.9]), locate, score_threshold=score_threshold).predict(image, device="cpu")
    (expected,) = locate.predict(image, device="cpu", score_threshold=score_threshold)
    assert torch.equal(found.detections.boxes, expected.detections.boxes)
    assert torch.equal(found.detections.scores, expected.detections.scores)
    assert (len(found.detections) > 0) == (score_threshold < 0.8)


def test_where_nothing_is_called_cancer_the_detector_is_not_asked():
    locate = detector()
    found = CAD(classifier([0.1, 0.2]), locate).predict([np.zeros(SIZE, np.uint8)] * 2, device="cpu")
    assert [len(p.detections) for p in found] == [0, 0]
    assert locate.asked == []
    assert CAD(classifier(), locate).predict([], device="cpu") == []


def test_disease_is_the_positive_class_wherever_it_stands():
    model = classifier([0.9, 0.1], classes=("cancer", "normal"), positive="cancer")
    found = CAD(model, detector()).predict([np.zeros(SIZE, np.uint8)] * 2, device="cpu")
    assert [len(p.detections) for p in found] == [1, 0]


def test_unreadable_files_keep_their_place(tmp_path):
    paths = [write_slice(tmp_path / "0.png"), tmp_path / "1.png", tmp_path / "2.png", write_slice(tmp_path / "3.png")]
    paths[1].write_bytes(b"not a picture")
    found = CAD(classifier([0.2, 0.9]), detector()).predict(paths, device="cpu")
    assert [p.path for p in found] == [str(path) for path in paths]
    assert [p.error is None for p in found] == [True, False, False, True]
    for i in (1, 2):
        assert found[i].error.startswith(f"{paths[i]}: ")
        assert found[i].detections is None
        assert found[i].probabilities is None
    assert [len(found[i].detections) for i in (0, 3)] == [0, 1]


def test_a_folder_or_a_single_image_will_do(tmp_path):
    write_slice(tmp_path / "b.png")
    write_slice(tmp_path / "a.png")
    found = CAD(classifier([0.9, 0.1]), detector()).predict(tmp_path, device="cpu")
    assert [(p.path, len(p.detections)) for p in found] == [
        (str(tmp_path / "a.png"), 1),
        (str(tmp_path / "b.png"), 0),
    ]
    (alone,) = CAD(classifier([0.9]), detector()).predict(tmp_path / "b.png", device="cpu")
    assert len(alone.detections) == 1


def test_a_multilabel_classifier_will_do():
    """Each class has its own probability; the positive class decides."""
    head = {"pool": "avg", "output": "multilabel"}
    model = build_model("mobilenet_v1", "linear", classes=["cyst", "hcc"], head_options=head, **SMALL)
    answers = iter([[0.9, 0.2], [0.1, 0.6], [0.9, 0.5]])
    model.decode = lambda output: torch.tensor([next(answers) for _ in range(len(output))])
    found = CAD(model, detector()).predict([np.zeros(SIZE, np.uint8)] * 3, device="cpu")
    assert model.task == "multilabel"
    assert [len(p.detections) for p in found] == [0, 1, 1]
    assert [p.probabilities.tolist() for p in found] == [
        pytest.approx(row) for row in ([0.9, 0.2], [0.1, 0.6], [0.9, 0.5])
    ]


def test_a_generator_of_arrays_and_recorded_predictions_will_do(tmp_path):
    found = CAD(classifier([0.1, 0.9]), detector()).predict((np.zeros(SIZE, np.uint8) for _ in "ab"), device="cpu")
    assert [(p.path, len(p.detections)) for p in found] == [("array 0", 0), ("array 1", 1)]
    paths = [write_slice(tmp_path / f"{i}.png") for i in range(3)]
    boxes = Detections(torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]), torch.tensor([0.9, 0.4]), torch.tensor([0, 0]))
    classified = RecordedPredictions(
        [Prediction(str(path), torch.tensor([1 - p, p])) for path, p in zip(paths, (0.8, 0.3, 0.7), strict=True)],
        classes=["normal", "cancer"],
        task="classification",
    )
    located = RecordedPredictions([Prediction(str(paths[0]), detections=boxes)], classes=["hcc"], task="detection")
    found = CAD(classified, located).predict(paths)
    assert found[0].detections.boxes.tolist() == [[1, 2, 3, 4]]
    assert len(found[1].detections) == 0
    assert found[2].error == f"{paths[2]}: there is no recorded prediction for this image"
    assert found[2].detections is None
    assert found[2].probabilities.tolist() == pytest.approx([0.3, 0.7])


def test_an_array_that_only_the_detector_refuses_keeps_its_number():
    locate = detector()
    locate.window = Window("fixed", 0, 1500)
    deep = np.random.default_rng(0).integers(0, 1500, SIZE).astype(np.uint16)
    inputs = [deep, deep, deep + 20_000, deep]
    found = CAD(classifier([0.1, 0.9, 0.9, 0.9]), locate).predict(inputs, device="cpu")
    assert found[2].error.startswith("array 2: grey levels from ")
    assert (found[2].detections, found[2].probabilities[1].item()) == (None, pytest.approx(0.9))
    assert [p.error for i, p in enumerate(found) if i != 2] == [None] * 3
    assert [len(found[i].detections) for i in (0, 1, 3)] == [0, 1, 1]


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_no_images_is_refused(batch, tmp_path):
    write_slice(tmp_path / "a.png")
    for action in (
        lambda: CAD(classifier([0.9]), detector()).predict(tmp_path, batch=batch, device="cpu"),
        lambda: propose(detector(), tmp_path, batch=batch, device="cpu"),
    ):
        with pytest.raises(ValueError, match=f"expected a batch of at least 1 image, got batch={batch}"):
            action()
    assert not (tmp_path / "a.xml").exists()


def test_a_cad_takes_a_classifier_and_a_detector_in_this_order():
    for first, second in ((detector(), classifier()), (classifier(), classifier()), (detector(), detector())):
        with pytest.raises(ValueError, match="takes a classifier and a detector, got models for"):
            CAD(first, second)


# propose


def test_proposals_are_labelimg_files_in_pixels_of_the_original(tmp_path):
    write_slice(tmp_path / "a.png")
    write_slice(tmp_path / "b.png", (80, 80))
    proposals = propose(detector([(8, 16, 32, 48), (40.2, 8, 56, 24)]), tmp_path, device="cpu")
    assert [(p.image, p.annotation, p.boxes, p.written, p.error) for p in proposals] == [
        (tmp_path / f"{name}.png", tmp_path / f"{name}.xml", 2, True, None) for name in "ab"
    ]
    annotation = voc.read(tmp_path / "a.xml")
    assert annotation.boxes.tolist() == [[10, 10, 40, 30], [50, 5, 70, 15]]  # whole pixels
    assert annotation.names == ("hcc", "cyst")
    assert annotation.size == SIZE
    assert annotation.filename == "a.png"
    assert not annotation.verified
    assert 'verified="no"' in (tmp_path / "a.xml").read_text()
    assert voc.read(tmp_path / "b.xml").boxes[0].tolist() == [10, 20, 40, 60]
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.xml", "b.png", "b.xml"}


def test_labelimg_itself_reads_a_proposal(tmp_path):
    labelimg = pytest.importorskip("libs.pascal_voc_io")
    write_slice(tmp_path / "a.png")
    propose(detector(), tmp_path, device="cpu")
    reader = labelimg.PascalVocReader(str(tmp_path / "a.xml"))
    (shape,) = reader.get_shapes()
    # its corners count from 1, as the file's do
    assert shape[:2] == ("hcc", [(11, 11), (40, 11), (40, 30), (11, 30)])
    assert not reader.verified


def test_an_annotation_that_is_there_is_never_touched(tmp_path):
    write_slice(tmp_path / "a.png")
    write_slice(tmp_path / "b.png")
    write_slice(tmp_path / "c.png")
    corrected = Annotation(np.array([[1, 2, 3, 4]]), ("hcc",), size=SIZE, verified=True)
    voc.write(tmp_path / "a.xml", corrected, image_path=tmp_path / "a.png")
    (tmp_path / "b.xml").write_bytes(b"not even XML")
    before = {name: (tmp_path / name).read_bytes() for name in ("a.xml", "b.xml")}
    locate = detector()
    proposals = propose(locate, tmp_path, device="cpu")
    assert [(p.boxes, p.written, p.error) for p in proposals] == [(0, False, None), (0, False, None), (1, True, None)]
    assert sum(count for count, _ in locate.asked) == 1
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    # nor is what the first call wrote
    assert [p.written for p in propose(locate, tmp_path, device="cpu")] == [False, False, False]


def test_of_two_images_that_share_a_name_the_first_gets_the_annotation(tmp_path):
    write_slice(tmp_path / "a.bmp")
    write_slice(tmp_path / "a.png", (80, 80))
    write_slice(tmp_path / "b.png")
    proposals = propose(detector(), tmp_path, device="cpu")
    assert [(p.image.name, p.written) for p in proposals] == [("a.bmp", True), ("a.png", False), ("b.png", True)]
    assert voc.read(tmp_path / "a.xml").filename == "a.bmp"


def test_an_unreadable_image_is_reported_and_the_others_go_on(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not a picture")
    write_slice(tmp_path / "b.png")
    unread, written = propose(detector(), tmp_path, device="cpu")
    assert (unread.written, unread.boxes) == (False, 0)
    assert unread.error.startswith(f"{tmp_path / 'a.png'}: ")
    assert not (tmp_path / "a.xml").exists()
    assert (written.written, written.boxes) == (True, 1)


def test_a_box_wholly_outside_the_image_is_not_proposed(tmp_path):
    model = detector([(8, 26, 32, 38), (8, 2, 32, 10)])
    model.resize = "letterbox"  # 32 rows of picture between two bars of 16
    write_slice(tmp_path / "a.png")
    (proposal,) = propose(model, tmp_path, device="cpu")
    assert (proposal.boxes, proposal.written) == (1, True)
    assert len(voc.read(tmp_path / "a.xml")) == 1


def test_a_box_of_less_than_a_pixel_is_proposed_as_the_least_that_the_file_can_say(tmp_path):
    write_slice(tmp_path / "a.png")
    propose(detector([(8.0, 16.0, 8.2, 16.2)]), tmp_path, device="cpu")
    annotation = voc.read(tmp_path / "a.xml")
    assert annotation.problems == ()
    assert len(annotation) == 1


@pytest.mark.parametrize(("score_threshold", "boxes"), [(0.75, 1), (0.85, 0)])
def test_the_score_threshold_is_honoured(score_threshold, boxes, tmp_path):
    write_slice(tmp_path / "a.png")
    (proposal,) = propose(sure_detector(0.8), tmp_path, score_threshold=score_threshold, device="cpu")
    assert (proposal.boxes, proposal.written) == (boxes, True)
    annotation = voc.read(tmp_path / "a.xml")  # without a box it says: looked at, nothing found
    assert annotation.names == ("cyst",) * boxes


def test_by_default_boxes_from_one_half_are_proposed(tmp_path):
    for score, boxes in ((0.51, 1), (0.49, 0)):
        (tmp_path / "a.xml").unlink(missing_ok=True)
        write_slice(tmp_path / "a.png")
        assert propose(sure_detector(score), tmp_path, device="cpu")[0].boxes == boxes


def test_proposals_are_written_in_the_format_named(tmp_path):
    write_slice(tmp_path / "a.png")
    (proposal,) = propose(detector(), tmp_path, format="yolo", device="cpu")
    assert (proposal.annotation, proposal.boxes, proposal.written) == (tmp_path / "a.txt", 1, True)
    assert (tmp_path / "a.txt").read_text().split() == ["0", "0.3125", "0.5", "0.375", "0.5"]
    assert not (tmp_path / "a.xml").exists()
    with pytest.raises(ValueError, match="'coco' does not write one file per image; formats that do: 'voc', 'yolo'"):
        propose(detector(), tmp_path, format="coco", device="cpu")
    with pytest.raises(KeyError, match="unknown annotation format 'vok'; did you mean 'voc'"):
        propose(detector(), tmp_path, format="vok", device="cpu")


def test_proposing_takes_a_detector_and_a_folder_of_images(tmp_path):
    with pytest.raises(ValueError, match="proposing boxes takes a detector, and this model does classification"):
        propose(classifier(), tmp_path, device="cpu")
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: no images"):
        propose(detector(), tmp_path, device="cpu")
    with pytest.raises(FileNotFoundError, match=f"{tmp_path / 'nowhere'}: no such folder"):
        propose(detector(), tmp_path / "nowhere", device="cpu")


def test_a_humans_xml_that_appears_while_the_model_looks_is_left_alone(tmp_path):
    for name in "abc":
        write_slice(tmp_path / f"{name}.png")
    locate = detector()
    decode = locate.decode

    def saved_meanwhile(output, **options):
        (tmp_path / "b.xml").write_text("a human's")
        return decode(output, **options)

    locate.decode = saved_meanwhile
    proposals = propose(locate, tmp_path, device="cpu")
    assert [(p.written, p.error) for p in proposals] == [(True, None), (False, None), (True, None)]
    assert (tmp_path / "b.xml").read_text() == "a human's"


def test_a_humans_xml_that_appears_while_the_proposal_is_written_is_left_alone(tmp_path, monkeypatch):
    write_slice(tmp_path / "a.png")
    flush = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: ((tmp_path / "a.xml").write_text("a human's"), flush(handle)))
    (proposal,) = propose(detector(), tmp_path, device="cpu")
    assert (proposal.written, proposal.boxes, proposal.error) == (False, 0, None)
    assert (tmp_path / "a.xml").read_text() == "a human's"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("a box that is none")])
def test_a_write_that_fails_is_an_error_of_its_image(error, tmp_path):
    class Writer(VOCFormat):
        def write_one(self, image_path, annotation, **options):
            if image_path.name == "b.png":
                raise error
            return super().write_one(image_path, annotation, **options)

    for name in "abc":
        write_slice(tmp_path / f"{name}.png")
    proposals = propose(detector(), tmp_path, format=Writer(), device="cpu")
    assert [p.written for p in proposals] == [True, False, True]
    assert proposals[1].error == f"{tmp_path / 'b.xml'}: {error}"
    assert {path.name for path in tmp_path.glob("*.xml")} == {"a.xml", "c.xml"}


def test_proposals_are_written_as_they_are_found(tmp_path):
    for number in range(5):
        write_slice(tmp_path / f"{number}.png")
    locate = detector()
    decode = locate.decode

    def out_of_order(output, **options):
        if len(list(tmp_path.glob("*.xml"))) == 4:
            raise RuntimeError("out of order")
        return decode(output, **options)

    locate.decode = out_of_order
    with pytest.raises(RuntimeError, match="out of order"):
        propose(locate, tmp_path, batch=2, device="cpu")
    assert [len(voc.read(tmp_path / f"{number}.xml")) for number in range(4)] == [1] * 4
