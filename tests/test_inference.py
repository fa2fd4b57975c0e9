"""hv.predict: one prediction per input, prepared as in training, boxes in pixels of the original image."""

import shutil
import warnings
from itertools import count, islice, pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hccvision.contracts import Detections, Sample
from hccvision.images import Window, from_array, place, read_image, resize
from hccvision.inference import choose_device, predict, run
from hccvision.model.build import build_model, load_model
from hccvision.tasks.detection import to_original

SMALL = {"image_size": 64, "backbone_options": {"width": 0.1}}


def detector(**options):
    return awake(build_model("mobilenet_v1", "ssd", classes=["hcc", "cyst"], **{**SMALL, **options}))


def classifier(**options):
    head = {"hidden": (), "pool": "avg", "dropout": 0.0}
    return awake(
        build_model("mobilenet_v1", "linear", classes=["normal", "cancer"], head_options=head, **{**SMALL, **options})
    )


def awake(model):
    """Let the batch norms see some noise: without, an untrained network gives the same answer to every image."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    noise = torch.rand(4, model.in_channels, *model.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.train()(noise)
    return model


def finds(model, boxes, scores=None):
    """Let a detector find these boxes, in pixels of its input, in every image."""
    boxes = torch.tensor(boxes, dtype=torch.float32)
    scores = torch.linspace(0.9, 0.5, len(boxes)) if scores is None else torch.tensor(scores)
    found = Detections(boxes, scores, torch.arange(len(boxes)) % 2)
    model.decode = lambda output, **options: [found] * len(output.logits)
    return model


def picture(seed=0, size=(40, 50, 3), dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, size, dtype)


def rows(predictions):
    return torch.stack([p.probabilities for p in predictions])


# boxes


@pytest.mark.parametrize(
    ("resize", "image_size", "original", "inside", "expected"),
    [
        # wide image, square input: x shrinks by 64/128, y grows by 64/32
        ("stretch", (64, 64), (32, 128), [8, 16, 32, 48], [16, 8, 64, 24]),
        # scale 64/128 both ways; 16 rows of picture between two bars of 24
        ("letterbox", (64, 64), (32, 128), [8, 26, 32, 38], [16, 4, 64, 28]),
        # tall image: 16 columns of picture between two bars of 24
        ("letterbox", (64, 64), (128, 32), [26, 8, 38, 32], [4, 16, 28, 64]),
        # input that is not square
        ("stretch", (64, 96), (32, 48), [24, 16, 48, 32], [12, 8, 24, 16]),
        ("letterbox", (64, 96), (64, 64), [26, 10, 46, 30], [10, 10, 30, 30]),
        # reaching into a bar: cut off at the edge of the image
        ("letterbox", (64, 64), (32, 128), [8, 0, 32, 38], [16, 0, 64, 28]),
    ],
)
def test_boxes_are_in_pixels_of_the_original_image(resize, image_size, original, inside, expected):
    model = finds(detector(image_size=image_size, resize=resize), [inside])
    (answer,) = predict(model, [np.zeros(original, np.uint8)], device="cpu")
    assert answer.detections.boxes.tolist() == [pytest.approx(expected, abs=1e-4)]
    assert answer.probabilities is None
    assert answer.error is None


@pytest.mark.parametrize(("height", "width"), [(300, 484), (97, 31)])
def test_a_box_is_decoded_against_its_default_box_and_the_original_sides(height, width):
    model = detector()
    for conv in (*model.head.class_convs, *model.head.box_convs):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    # the last map is one cell of six boxes: let the first of them be a cyst, a little aside and of another shape
    model.head.class_convs[-1].bias.data[2] = 3.0
    model.head.box_convs[-1].bias.data[:4] = torch.tensor([-1.0, 1.0, -4.0, -3.0])
    cx, cy, w, h = model.head.default_boxes[-6].tolist()
    cx, cy, w, h = cx - 0.1 * w, cy + 0.1 * h, w * np.exp(-0.8), h * np.exp(-0.6)
    expected = [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
    assert min(expected) > 0
    (answer,) = predict(model, np.zeros((height, width), np.uint8), device="cpu", score_threshold=0.5)
    assert answer.detections.boxes.tolist() == [pytest.approx(expected, rel=1e-4)]
    assert answer.detections.scores.tolist() == [pytest.approx(np.exp(3) / (np.exp(3) + 2), rel=1e-5)]
    assert answer.detections.labels.tolist() == [1]


def test_boxes_wholly_outside_the_original_image_are_left_out():
    model = finds(detector(resize="letterbox"), [[8, 2, 32, 20], [8, 26, 32, 38], [5, 45, 60, 64]], [0.9, 0.8, 0.7])
    (answer,) = predict(model, [np.zeros((32, 128), np.uint8)], device="cpu")
    assert answer.detections.boxes.tolist() == [[16, 4, 64, 28]]
    assert answer.detections.scores.tolist() == [pytest.approx(0.8)]
    assert answer.detections.labels.tolist() == [1]


def test_no_detection_is_an_ordinary_answer():
    found = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    kept = to_original(found, place((32, 128), (64, 64), "letterbox"))
    assert kept.boxes.shape == (0, 4)
    assert (len(kept.scores), len(kept.labels)) == (0, 0)
    (answer,) = predict(detector(), [picture()], device="cpu", score_threshold=1.0)
    assert len(answer.detections) == 0
    assert answer.error is None


def test_detections_come_best_first_inside_the_image_and_above_the_threshold():
    answers = predict(detector(), [picture(i, (45, 33, 3)) for i in range(3)], device="cpu", score_threshold=0.2)
    for answer in answers:
        found = answer.detections
        assert len(found) > 1
        assert all(a >= b for a, b in pairwise(found.scores.tolist()))
        assert found.scores.min() > 0.2
        assert (found.boxes >= 0).all()
        assert (found.boxes <= torch.tensor([33, 45, 33, 45])).all()
        assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
        assert set(found.labels.tolist()) <= {0, 1}


def test_answers_are_ordinary_tensors():
    answers = [predict(model, picture(), device="cpu")[0] for model in (detector(), classifier())]
    found = answers[0].detections
    for tensor in (found.boxes, found.scores, found.labels, answers[1].probabilities):
        assert not tensor.is_inference()
        assert not tensor.requires_grad


# inputs


def test_there_is_one_answer_per_input_in_order_also_for_unreadable_files(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for i in (0, 2, 4):
        Image.fromarray(picture(i)).save(paths[i])
    paths[1].write_bytes(b"not a picture")  # and paths[3] is not there at all
    model = classifier()
    answers = predict(model, paths, batch=2, device="cpu")
    assert [a.path for a in answers] == [str(path) for path in paths]
    for i in (1, 3):
        assert answers[i].error.startswith(f"{paths[i]}: ")
        assert answers[i].probabilities is None
    alone = [predict(model, picture(i), device="cpu")[0] for i in (0, 2, 4)]
    assert all(answers[i].error is None for i in (0, 2, 4))
    torch.testing.assert_close(rows([answers[i] for i in (0, 2, 4)]), rows(alone))


@pytest.mark.parametrize(
    ("size", "dtype"), [((40, 50), np.uint8), ((40, 50, 3), np.uint8), ((40, 50, 4), np.uint8), ((40, 50), np.uint16)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_array_gives_what_its_file_gives(size, dtype, channels, tmp_path):
    array = picture(3, size, dtype)
    Image.fromarray(array).save(tmp_path / "a.png")
    model = classifier(backbone_options={"width": 0.1, "in_channels": channels})
    file, same, tensor = predict(model, [tmp_path / "a.png", array, torch.from_numpy(array)], device="cpu", batch=1)
    assert torch.equal(file.probabilities, same.probabilities)
    assert torch.equal(file.probabilities, tensor.probabilities)
    assert (file.path, same.path, tensor.path) == (str(tmp_path / "a.png"), "array 1", "array 2")


def test_an_array_that_is_no_image_is_answered_by_an_error():
    good = picture()
    answers = predict(classifier(), [good, np.zeros((3, 40, 50)), np.full((4, 4), np.nan), good], device="cpu", batch=1)
    assert [a.error is None for a in answers] == [True, False, False, True]
    assert answers[1].error.startswith("array 1: expected an image array")
    assert answers[2].error.startswith("array 2: ")
    assert torch.equal(answers[0].probabilities, answers[3].probabilities)


def test_the_batch_size_makes_no_difference():
    images = [picture(i, (40 + i, 50 - i, 3)) for i in range(5)]
    model = classifier()
    expected = rows(predict(model, images, batch=1, device="cpu"))
    assert len({round(p, 4) for p in expected[:, 0].tolist()}) == 5
    for batch in (2, 5, 8):
        torch.testing.assert_close(rows(predict(model, images, batch=batch, device="cpu")), expected, rtol=0, atol=1e-5)
    model = detector()
    one, all_at_once = (predict(model, images, batch=batch, device="cpu", score_threshold=0.4) for batch in (1, 5))
    for a, b in zip(one, all_at_once, strict=True):
        assert len(a.detections) > 0
        torch.testing.assert_close(a.detections.scores, b.detections.scores, rtol=0, atol=1e-5)
        torch.testing.assert_close(a.detections.boxes, b.detections.boxes, rtol=0, atol=1e-2)


def test_a_single_input_a_folder_and_nothing_at_all_will_do(tmp_path):
    for i, name in enumerate(("b.png", "a.png", "c.jpg")):
        Image.fromarray(picture(i)).save(tmp_path / name)
    (tmp_path / "a.xml").write_text("<annotation/>")
    (tmp_path / "more.png").mkdir()
    model = classifier()
    for single in (tmp_path / "a.png", str(tmp_path / "a.png"), picture(1)):
        (answer,) = predict(model, single, device="cpu")
        torch.testing.assert_close(answer.probabilities, predict(model, [picture(1)], device="cpu")[0].probabilities)
    names = ["a.png", "b.png", "c.jpg"]
    assert [a.path for a in predict(model, tmp_path, device="cpu")] == [str(tmp_path / name) for name in names]
    stack = np.stack([picture(0), picture(1)])
    assert torch.equal(rows(predict(model, stack, device="cpu")), rows(predict(model, list(stack), device="cpu")))
    assert predict(model, [], device="cpu") == []


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def pil_images():
    """Pillow images by mode, with what to save them by."""
    grey, colour = picture(1, (40, 50)), picture(2, (40, 50, 3))
    palette = Image.fromarray(colour).quantize(16)
    palette.info["transparency"] = 3
    return {
        "L": (Image.fromarray(grey), {}),
        "RGB": (Image.fromarray(colour), {}),
        "RGBA": (Image.fromarray(picture(3, (40, 50, 4))), {}),
        "P with transparency": (palette, {"transparency": 3}),
        "I;16": (Image.fromarray(picture(4, (40, 50), np.uint16)), {}),
        "1": (Image.fromarray(grey > 127), {}),
        "LA": (Image.fromarray(picture(5, (40, 50, 4))).convert("LA"), {}),
        "F": (Image.fromarray((grey / 255).astype(np.float32)), {}),
        "turned": (Image.fromarray(colour), {"exif": orientation(6)}),
    }


@pytest.mark.parametrize("kind", pil_images())
@pytest.mark.parametrize("channels", [1, 3])
def test_a_pillow_image_gives_what_its_file_gives(kind, channels, tmp_path):
    image, options = pil_images()[kind]
    path = tmp_path / ("a.tif" if kind == "F" else "a.png")
    image.save(path, **options)
    model = classifier(backbone_options={"width": 0.1, "in_channels": channels})
    with Image.open(path) as opened:  # nothing is decoded yet
        file, same = predict(model, [path, opened], device="cpu", batch=1)
    assert file.error is None
    assert same.error is None
    assert torch.equal(file.probabilities, same.probabilities)
    assert same.path == "array 1"
    if kind != "turned":  # the image in memory knows nothing of the EXIF tag that it was saved with
        assert torch.equal(predict(model, image, device="cpu")[0].probabilities, file.probabilities)


def test_exif_orientation_turns_boxes_with_the_image(tmp_path):
    """Orientation 6: the stored rows are the columns of the image, from the right."""
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((32, 128), np.uint8)).save(path, exif=orientation(6))
    model = finds(detector(), [[0, 32, 32, 64]])
    with Image.open(path) as opened:
        found = predict(model, [path, opened], device="cpu")
    assert [p.detections.boxes.tolist() for p in found] == [[[0, 64, 16, 128]]] * 2  # width 32, height 128


def test_any_iterable_of_any_mixture_of_inputs_will_do(tmp_path):
    pixels = picture(1)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    mixture = [
        path,
        str(path),
        pixels,
        torch.from_numpy(pixels),
        torch.from_numpy(pixels).permute(2, 0, 1),
        Image.fromarray(pixels),
        Sample(path, patient="P1", class_name="cancer"),
    ]
    model = classifier()
    (expected,) = predict(model, path, device="cpu")
    names = [str(path), str(path), "array 2", "array 3", "array 4", "array 5", str(path)]
    for inputs in (
        mixture,
        tuple(mixture),
        iter(mixture),
        (item for item in mixture),
        dict(enumerate(mixture)).values(),
    ):
        found = predict(model, inputs, batch=3, device="cpu")
        assert [p.path for p in found] == names
        assert [p.error for p in found] == [None] * len(mixture)
        torch.testing.assert_close(rows(found), expected.probabilities.expand(len(mixture), -1))
    for single in mixture:
        assert torch.equal(rows(predict(model, single, device="cpu")), expected.probabilities[None])


def test_a_tensor_that_requires_grad_is_an_image_too():
    values = torch.from_numpy(picture(1, (40, 50))).float()
    model = classifier()
    plain, learned = predict(model, [values, values.clone().requires_grad_()], device="cpu", batch=1)
    assert torch.equal(plain.probabilities, learned.probabilities)
    assert not learned.probabilities.requires_grad
    stack = torch.stack([values, values])[..., None].requires_grad_()
    assert torch.equal(predict(model, stack, device="cpu", batch=1)[1].probabilities, plain.probabilities)


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_a_generator_is_read_no_further_ahead_than_one_batch(batch):
    given = []

    def slices():
        for i in range(10):
            given.append(i)
            yield picture(i)

    model = classifier()
    predictions = run(model, slices(), batch=batch, device="cpu")
    assert given == []
    for number, prediction in enumerate(predictions):
        assert prediction.path == f"array {number}"
        assert len(given) == min(10, (number // batch + 1) * batch)
    assert number == 9


def test_no_list_is_made_of_an_endless_generator():
    endless = (picture(i % 3) for i in count())
    found = list(islice(run(classifier(), endless, batch=2, device="cpu"), 5))
    assert [p.path for p in found] == [f"array {i}" for i in range(5)]


def test_a_lazy_iterable_with_a_length_is_read_as_it_is_needed():
    """So that a progress bar around the inputs shows the progress of the predictions."""

    class Slices:
        read = 0

        def __len__(self):
            return 4

        def __iter__(self):
            for i in range(4):
                self.read += 1
                yield picture(i)

    slices = Slices()
    assert [slices.read for _ in run(classifier(), slices, batch=2, device="cpu")] == [2, 2, 4, 4]


@pytest.mark.parametrize("wrong", [None, 7, {"image": 1}, object(), [["a.png"]], b"a.png"])
def test_an_object_of_a_wrong_type_is_answered_by_an_error_and_the_others_are_unaffected(wrong, tmp_path):
    good = [picture(i) for i in range(4)]
    model = classifier()
    expected = rows(predict(model, good, device="cpu"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    for batch in (1, 2, 8):
        found = predict(model, [good[0], good[1], wrong, broken, good[2], good[3]], batch=batch, device="cpu")
        assert len(found) == 6
        assert found[2].path == "array 2"
        kind = type(wrong).__name__
        assert found[2].error == (f"array 2: expected a path, an array, a tensor, a PIL image or a Sample, got {kind}")
        assert found[3].error.startswith(f"{broken}: can't be read as an image")
        assert found[2].probabilities is None
        assert found[3].probabilities is None
        torch.testing.assert_close(rows([found[i] for i in (0, 1, 4, 5)]), expected)


def test_an_item_that_raises_when_it_is_converted_is_answered_by_its_error():
    class Broken:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("the scanner is off")

    first, broken, last = predict(classifier(), [picture(), Broken(), picture()], device="cpu")
    assert broken.error == "array 1: the scanner is off"
    assert torch.equal(first.probabilities, last.probabilities)


def test_a_pillow_image_that_is_cut_off_is_answered_by_its_error(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(picture(1, (300, 300))).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with Image.open(path) as opened:
        broken, good = predict(classifier(), [opened, picture()], device="cpu")
    assert broken.error.startswith("array 0: ")
    assert good.error is None


def test_inputs_that_are_no_image_and_not_iterable_are_refused():
    message = "expected a path, an array, a tensor, a PIL image or a Sample, or an iterable of these, got int"
    with pytest.raises(TypeError, match=message):
        predict(classifier(), 7, device="cpu")


@pytest.mark.parametrize("batch", [0, -1])
@pytest.mark.parametrize("inputs", [[], [np.zeros((8, 8), np.uint8)], iter(())])
def test_a_batch_of_no_images_is_refused(batch, inputs):
    with pytest.raises(ValueError, match=f"expected a batch of at least 1 image, got batch={batch}"):
        predict(classifier(), inputs, batch=batch, device="cpu")
    with pytest.raises(ValueError, match=f"expected a batch of at least 1 image, got batch={batch}"):
        run(classifier(), inputs, batch=batch, device="cpu")  # at once, not at the first prediction


def test_a_decoder_that_returns_too_little_is_found_out():
    model = classifier()
    model.decode = lambda output: torch.ones(1, 2)
    with pytest.raises(ValueError, match="decoding returned 1 entries for a batch of 2 images: expected one per image"):
        predict(model, [picture(), picture()], device="cpu")


def test_a_folder_without_images_is_an_error_and_a_missing_path_an_answer(tmp_path):
    (tmp_path / "notes.txt").write_text("no images")
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: no images"):
        predict(classifier(), tmp_path, device="cpu")
    (answer,) = predict(classifier(), tmp_path / "nowhere.png", device="cpu")
    assert answer.error.startswith(str(tmp_path / "nowhere.png"))


# preparation


def test_probabilities_are_those_of_the_prepared_image():
    model = classifier(image_size=(48, 64))
    image = picture(1, (48, 64, 3))  # of the model's size, so that nothing is resized
    model.eval()
    with torch.no_grad():
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        expected = model(pixels).softmax(-1)[0]
    model.train()
    (answer,) = predict(model, image, device="cpu")
    assert not model.training
    torch.testing.assert_close(answer.probabilities, expected)
    assert answer.probabilities.sum() == pytest.approx(1.0)
    assert answer.detections is None


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_a_saved_model_predicts_as_it_did(resize, tmp_path):
    images = [picture(1, (30, 90, 3)), picture(2, (90, 30), np.uint16)]
    for model in (classifier(resize=resize), detector(resize=resize)):
        before = predict(model, images, device="cpu")
        loaded = load_model(model.save(tmp_path / f"{model.task}.safetensors"))
        assert loaded.resize == resize
        for a, b in zip(before, predict(loaded, images, device="cpu"), strict=True):
            if model.task == "classification":
                assert torch.equal(a.probabilities, b.probabilities)
            else:
                assert torch.equal(a.detections.boxes, b.detections.boxes)
                assert torch.equal(a.detections.scores, b.detections.scores)


def test_the_resize_policy_matters():
    wide = picture(1, (30, 90, 3))
    stretched, letterboxed = (predict(classifier(resize=r), wide, device="cpu")[0] for r in ("stretch", "letterbox"))
    assert not torch.allclose(stretched.probabilities, letterboxed.probabilities)


# DICOM


def dicom(path, *, pixels):
    """A DICOM file of a named patient, 8×8 pixels of 16 bits."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.PatientName, ds.PatientID, ds.Modality = "Secretova^Jana", "ID-4711", "MR"
    ds.Rows = ds.Columns = 8
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelData = pixels
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("fault", ["short", "no size", "garbled", "cut off", "unknown encoding"])
def test_an_error_about_a_dicom_file_does_not_name_the_patient(fault, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    path = dicom(tmp_path / "a.dcm", pixels=b"\1\2" * (60 if fault == "short" else 64))
    if fault == "no size":
        ds = pydicom.dcmread(path)
        del ds.Rows
        ds.save_as(path)
    content = path.read_bytes()
    if fault == "garbled":  # the name under a type of value that it can't be, and lengths that are none
        path.write_bytes(content.replace(b"PN\x0e\x00", b"DS\x0f\x00").replace(b"US\x02\x00", b"DS\x02\x00"))
    if fault == "cut off":
        path.write_bytes(content[: content.index(b"Secretova") + 6])
    if fault == "unknown encoding":  # JPEG 2000, but what follows is none
        path.write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4."))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (answer,) = predict(classifier(), path, device="cpu")
    assert answer.error is not None
    assert answer.error.startswith(f"{path}: ")
    for secret in ("Secretova", "Jana", "4711"):
        assert secret not in answer.error


def test_a_dicom_file_is_predicted_like_its_pixels(tmp_path):
    pytest.importorskip("pydicom")
    pixels = picture(5, (8, 8), np.uint16)
    path = dicom(tmp_path / "a.dcm", pixels=pixels.tobytes())
    shutil.copy(path, tmp_path / "without_suffix")
    model = classifier()
    file, copy, array = predict(model, [path, tmp_path / "without_suffix", pixels], batch=1, device="cpu")
    assert torch.equal(file.probabilities, array.probabilities)
    assert torch.equal(copy.probabilities, array.probabilities)


# devices


def test_devices_are_chosen_by_name():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="unknown device 'gpu'; known: 'auto', 'cpu', 'cuda'"):
        predict(classifier(), [], device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match='no CUDA device here; use "auto" or "cpu"'):
        predict(classifier(), [picture()], device="cuda")


@pytest.mark.gpu
def test_cuda_answers_lie_on_the_cpu_and_agree():
    model = classifier()
    here = rows(predict(model, [picture(i) for i in range(3)], device="cpu"))
    there = rows(predict(model, [picture(i) for i in range(3)], device="cuda"))
    assert there.device.type == "cpu"
    torch.testing.assert_close(here, there, rtol=0, atol=1e-2)
    assert predict(detector(), picture(), device="cuda")[0].detections.boxes.device.type == "cpu"


# windows


@pytest.mark.parametrize("window", [Window("percentile", 10, 60), Window("zscore", -1, 1), Window("fixed", 500, 9000)])
def test_files_and_arrays_come_to_8_bits_through_the_models_window(tmp_path, window):
    model = load_model(classifier(window=window).save(tmp_path / "a.safetensors"))
    deep = np.random.default_rng(0).integers(0, 12_000, (64, 64)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    shown, _ = resize(from_array(window.apply(deep)), (64, 64))
    assert (shown == read_image(tmp_path / "a.png", window=window)).all()
    default = load_model(tmp_path / "a.safetensors")
    default.window = Window()
    expected = rows(predict(default, [shown], device="cpu"))
    for given in (tmp_path / "a.png", deep, deep.astype(np.float32)):
        assert torch.equal(rows(predict(model, [given], device="cpu")), expected)
    assert not torch.equal(rows(predict(default, [deep], device="cpu")), expected)


def test_what_does_not_fit_a_fixed_window_is_answered_with_both_ranges(tmp_path):
    model = classifier(window=Window("fixed", 0, 1500))
    good = np.random.default_rng(0).integers(0, 1500, (20, 20)).astype(np.int16)
    Image.fromarray(picture()).save(tmp_path / "eight.png")
    inputs = [good, good / 1500, good + 20_000, good * 0, picture(), tmp_path / "eight.png"]
    found = predict(model, inputs, device="cpu")
    assert [p.error is None for p in found] == [True] + [False] * 5
    for number, answer in enumerate(found[1:], 1):
        name = str(tmp_path / "eight.png") if number == 5 else f"array {number}"
        assert answer.error.startswith(f"{name}: ")
        assert "the fixed window from 0 to 1500" in answer.error
        assert "grey levels from " in answer.error
    assert f"from {good.min() + 20_000} to {good.max() + 20_000} do not fit" in found[2].error
