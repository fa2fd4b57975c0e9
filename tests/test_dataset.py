import dataclasses
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from hccvision import images
from hccvision.annotations.image_folder import read_image_folder
from hccvision.annotations.voc_folder import read_voc_folder
from hccvision.contracts import Annotation, Sample, Targets
from hccvision.curation.facts import facts_of
from hccvision.data import dataset
from hccvision.data.dataset import Item, SliceDataset, collate, to_float
from hccvision.files import file_sha256
from hccvision.model.build import build_model
from hccvision.tasks.detection import Detection

CLASSES = ("hcc", "cyst")
RNG = np.random.default_rng(0)


def save(folder: Path, name: str, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def grey(height: int = 30, width: int = 40) -> np.ndarray:
    return RNG.integers(0, 256, (height, width), dtype=np.uint8)


def annotated(image: Path, /, *boxes, names: tuple[str, ...] | None = None, **options) -> Sample:
    names = ("hcc",) * len(boxes) if names is None else names
    return Sample(image, annotation=Annotation(np.array(boxes, np.float32), names, **options))


def detection(*samples: Sample, size: tuple[int, int] = (60, 60), **options) -> SliceDataset:
    return SliceDataset(samples, task="detection", classes=CLASSES, image_size=size, **options)


# Boxes and labels


def test_boxes_are_stretched_with_the_image(tmp_path):
    """A 40 x 30 slice on 60 x 60: x by 1.5 and y by 2."""
    path = save(tmp_path, "a.png", grey())
    item = detection(annotated(path, [4, 6, 20, 15], [0, 0, 40, 30], names=("cyst", "hcc")))[0]
    assert (item.image.shape, item.image.dtype) == ((3, 60, 60), torch.uint8)
    assert item.targets.boxes[0].tolist() == [[6, 12, 30, 30], [0, 0, 60, 60]]
    assert (item.targets.labels[0].tolist(), item.targets.labels.dtype, item.targets.boxes.dtype) == (
        [1, 0],
        torch.int64,
        torch.float32,
    )
    assert (len(item.targets), item.targets.image_labels, item.number) == (1, None, 0)


def test_images_come_to_8_bits_through_the_window(tmp_path):
    deep = RNG.integers(0, 9000, (60, 60)).astype(np.uint16)
    path = save(tmp_path, "a.png", deep)
    window = images.Window("fixed", 1000, 3000)
    item = detection(annotated(path), window=window)[0]
    assert (item.image[0].numpy() == window.apply(deep)).all()
    assert (detection(annotated(path))[0].image[0].numpy() == images.to_uint8(deep)).all()
    with pytest.raises(
        ValueError, match=r"a\.png: grey levels from .* do not fit the fixed window from 1e\+06 to 2e\+06"
    ):
        detection(annotated(path), window=images.Window("fixed", 1e6, 2e6))[0]


def test_boxes_are_letterboxed_with_the_image(tmp_path):
    """A 40 x 30 slice on 60 x 60: both by 1.5, with (60 - 45) // 2 = 7 black rows on top."""
    path = save(tmp_path, "a.png", np.full((30, 40), 200, np.uint8))
    item = detection(annotated(path, [4, 6, 20, 16], [0, 0, 40, 30]), resize="letterbox")[0]
    assert item.targets.boxes[0].tolist() == [[6, 16, 30, 31], [0, 7, 60, 52]]
    rows = item.image[0].float().mean(1)
    assert rows[:7].tolist() == [0] * 7
    assert rows[7:52].unique().tolist() == [200]
    assert rows[52:].tolist() == [0] * 8


@settings(deadline=None, max_examples=30)
@given(
    st.tuples(st.integers(20, 90), st.integers(20, 90)),
    st.tuples(st.integers(40, 80), st.integers(40, 80)),
    st.sampled_from(images.POLICIES),
)
def test_a_bright_lesion_stays_in_its_box(tmp_path_factory, original, size, resize):
    height, width = original
    box = [width // 4, height // 4, width // 4 + width // 2, height // 4 + height // 2]
    pixels = np.zeros(original, np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    path = save(tmp_path_factory.mktemp("lesion"), "a.png", pixels)
    item = detection(annotated(path, box), size=size, resize=resize)[0]
    rows, columns = (item.image[0] > 127).nonzero(as_tuple=True)
    seen = torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)).float()
    torch.testing.assert_close(item.targets.boxes[0, 0], seen, rtol=0, atol=1.0)


def test_no_lesion_is_an_ordinary_item(tmp_path):
    item = detection(annotated(save(tmp_path, "a.png", grey())))[0]
    assert (item.targets.boxes.shape, item.targets.labels.shape) == ((1, 0, 4), (1, 0))
    assert item.targets.labels.dtype == torch.int64


def test_a_box_of_one_pixel_survives_shrinking(tmp_path):
    path = save(tmp_path, "a.png", grey(520, 520))
    item = detection(annotated(path, [100, 200, 101, 201]), size=(26, 26))[0]
    torch.testing.assert_close(item.targets.boxes[0], torch.tensor([[5.0, 10.0, 5.05, 10.05]]))


def test_boxes_are_cut_to_the_image_and_not_to_the_letterbox(tmp_path):
    path = save(tmp_path, "a.png", grey())
    outside = annotated(path, [-8, -9, 20, 15], [50, 5, 60, 9], [30, 20, 99, 99], names=("hcc", "cyst", "hcc"))
    before = outside.annotation.boxes.copy()
    item = detection(outside, resize="letterbox")[0]
    assert item.targets.boxes[0].tolist() == [[0, 7, 30, 29.5], [45, 37, 60, 52]]
    assert item.targets.labels[0].tolist() == [0, 0]
    assert np.array_equal(outside.annotation.boxes, before)


def test_labels_follow_the_models_classes_not_the_order_of_appearance(tmp_path):
    path = save(tmp_path, "a.png", grey())
    sample = annotated(path, *[[1, 1, 9, 9]] * 3, names=("cyst", "hcc", "cyst"))
    assert detection(sample)[0].targets.labels[0].tolist() == [1, 0, 1]
    classes = ("x", "cyst", "y", "hcc")
    item = SliceDataset([sample], task="detection", classes=classes, image_size=(8, 8))[0]
    assert item.targets.labels[0].tolist() == [1, 3, 1]


def test_classification_gives_the_class_of_the_image(tmp_path):
    path = save(tmp_path, "a.png", grey())
    samples = [Sample(path, class_name=name) for name in ("cancer", "normal")]
    data = SliceDataset(samples, task="classification", classes=("normal", "cancer"), image_size=(8, 8))
    assert [item.targets.image_labels.tolist() for item in data] == [[1], [0]]
    assert data[0].targets.boxes.shape == (1, 0, 4)


def test_several_labels_are_those_of_the_boxes(tmp_path):
    path = save(tmp_path, "a.png", grey())
    box = [1, 1, 9, 9]
    samples = [
        annotated(path, box, box, box, names=("cyst", "hcc", "cyst")),
        annotated(path),
        annotated(path, box, names=("cyst",)),
        Sample(path, class_name="cancer", annotation=Annotation(np.array([box]), ("hcc",))),  # the boxes count
    ]
    options = {"task": "multilabel", "classes": CLASSES, "image_size": (8, 8)}
    data = SliceDataset(samples, **options)
    assert [item.targets.image_labels.tolist() for item in data] == [[[1, 1]], [[0, 0]], [[0, 1]], [[1, 0]]]
    targets = collate(list(data)).targets
    assert (targets.image_labels.tolist(), targets.image_labels.dtype) == (
        [[1, 1], [0, 0], [0, 1], [1, 0]],
        torch.int64,
    )
    assert targets.boxes.shape == (4, 0, 4)
    assert targets.to("cpu").image_labels.shape == (4, 2)
    assert collate([data[1]]).targets.image_labels.tolist() == [[0, 0]]
    with pytest.raises(ValueError, match=r"a.png: the ground truth of multi-label classification is an annotation"):
        SliceDataset([Sample(path, class_name="hcc")], **options)
    with pytest.raises(ValueError, match=r"a.png: the class 'scar' is not among the model's classes \(hcc, cyst\)"):
        SliceDataset([annotated(path, box, names=("scar",))], **options)


# Errors


def test_an_unknown_class_names_the_file_and_the_remedy(tmp_path):
    path = save(tmp_path, "a.png", grey())
    with pytest.raises(
        ValueError, match=r"a.xml: the class 'tumour' is not among the model's classes \(hcc, cyst\): co"
    ):
        detection(annotated(path, [1, 1, 9, 9], names=("tumour",), path=tmp_path / "a.xml"))
    with pytest.raises(ValueError, match=r"a.png: the class 'tumour' is not among"):
        detection(annotated(path, [1, 1, 9, 9], names=("tumour",)))
    with pytest.raises(ValueError, match=r"a.png: the class 'tumour' is not among"):
        SliceDataset([Sample(path, class_name="tumour")], task="classification", classes=CLASSES, image_size=(8, 8))


def test_each_task_looks_at_its_own_names(tmp_path):
    """A sample may know both; a detector doesn't mind the class of the image, nor a classifier the boxes."""
    path = save(tmp_path, "a.png", grey())
    both = Sample(path, class_name="cancer", annotation=Annotation(np.array([[1, 1, 9, 9]]), ("hcc",)))
    assert detection(both)[0].targets.labels[0].tolist() == [0]
    classes = ("normal", "cancer")
    data = SliceDataset([both], task="classification", classes=classes, image_size=(8, 8))
    assert data[0].targets.image_labels.tolist() == [1]
    wrong = Sample(path, class_name="hcc", annotation=Annotation(np.array([[1, 1, 9, 9]]), ("tumour",)))
    with pytest.raises(ValueError, match="the class 'tumour' is not among"):
        detection(wrong)


def test_a_task_is_given_by_name_with_its_classes_or_as_an_object(tmp_path):
    path = save(tmp_path, "a.png", grey())
    sample = annotated(path, [4, 6, 20, 15], names=("cyst",))
    by_name, by_object = detection(sample), SliceDataset([sample], task=Detection(CLASSES), image_size=(60, 60))
    assert torch.equal(by_name[0].targets.boxes, by_object[0].targets.boxes)
    assert by_object[0].targets.labels.tolist() == [[1]]
    with pytest.raises(ValueError, match="the task 'detection' is given by name: pass the names of its classes too"):
        SliceDataset([sample], task="detection", image_size=(60, 60))
    with pytest.raises(KeyError, match="unknown task 'detecton'; did you mean 'detection'"):
        SliceDataset([sample], task="detecton", classes=CLASSES, image_size=(60, 60))


def test_samples_without_what_the_task_needs_are_named(tmp_path):
    path = save(tmp_path, "a.png", grey())
    with pytest.raises(ValueError, match=r"a.png: the ground truth of detection is an annotation, .*: annotate it"):
        detection(Sample(path, class_name="hcc"))
    with pytest.raises(ValueError, match=r"a.png: the ground truth of classification is a class_name, .*: label it"):
        SliceDataset([annotated(path)], task="classification", classes=CLASSES, image_size=(8, 8))


def test_a_file_that_breaks_later_is_named(tmp_path):
    path = save(tmp_path, "a.png", grey())
    data = detection(annotated(path))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"a.png: has changed since it was read: it had \d+ bytes, and has 60: read"):
        data[0]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"a.png: there is no such image file"):
        data[0]


def test_a_file_of_the_same_length_with_other_content_is_refused_with_both_hashes(tmp_path):
    path = save(tmp_path, "a.bmp", grey())
    facts_of([annotated(path)], decode=False)
    data = detection(annotated(path))
    os.utime(path, (1, 1))
    assert data[0].number == 0  # other times, the same content
    data = detection(annotated(path))
    before = facts_of([annotated(path)], decode=False)[0].sha256
    data = detection(annotated(path))
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    after = file_sha256(path)
    with pytest.raises(ValueError, match=rf"a.bmp: has changed .*its SHA-256 was {before}, and is {after}: read"):
        data[0]


@pytest.mark.parametrize("cached", [False, True])
def test_an_image_of_another_size_than_its_annotation_states_is_refused(tmp_path, cached):
    path = save(tmp_path, "a.png", grey())
    sample = annotated(path, [1, 2, 9, 8])
    height, width = images.image_size(path)
    sample = dataclasses.replace(sample, annotation=dataclasses.replace(sample.annotation, size=(width, height)))
    data = detection(sample, cache=tmp_path / "cache" if cached else None)
    message = rf"a.png: is {width}×{height} pixels, and was {height}×{width} when its annotation was read: read the"
    with pytest.raises(ValueError, match=message):
        data[0]
    model = build_model("mobilenet_v1", "ssd", classes=["hcc"], backbone_options={"width": 0.1})
    (found,) = model.predict([sample], device="cpu")
    assert re.search(message, found.error)


# Images


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_colour_and_deep_images_become_what_the_model_takes(tmp_path, channels):
    ramp = np.linspace(0, 1, 40 * 30).reshape(30, 40)
    eight = (ramp * 255).round().astype(np.uint8)
    paths = [
        save(tmp_path, "grey.png", eight),
        save(tmp_path, "colour.png", np.stack([eight] * 3, 2)),
        save(tmp_path, "deep.png", (ramp * 4000).astype(np.uint16)),
    ]
    data = detection(*(annotated(p) for p in paths), size=(30, 40), channels=channels)
    for item, tolerance in zip(data, (0, 0, 3), strict=True):  # deep images are windowed at 0.5 and 99.5 %
        assert item.image.shape == (channels, 30, 40)
        assert np.abs(item.image.numpy().astype(int) - eight).max() <= tolerance


def test_colours_keep_their_order(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[..., 0], pixels[..., 2] = 200, 50
    item = detection(annotated(save(tmp_path, "a.png", pixels)), size=(8, 8))[0]
    assert item.image[:, 0, 0].tolist() == [200, 0, 50]


# The cache


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """List the files that are decoded."""
    names = []
    read = dataset.read_image

    def counted(path, **options):
        names.append(Path(path).name)
        return read(path, **options)

    monkeypatch.setattr(dataset, "read_image", counted)
    return names


def test_each_file_is_decoded_once(tmp_path, reads):
    samples = [annotated(save(tmp_path, f"{i}.png", grey()), [1, 2, 9, 9]) for i in range(3)]
    data = detection(*samples)
    first = [data[i] for i in (0, 1, 2)]
    assert reads == ["0.png", "1.png", "2.png"]
    again = [data[i] for i in (2, 1, 0)][::-1]
    assert len(reads) == 3
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.targets.boxes, b.targets.boxes)


def test_what_would_not_fit_is_decoded_each_time(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(dataset, "CACHE_LIMIT", 3 * 60 * 60)
    samples = [annotated(save(tmp_path, f"{i}.png", grey())) for i in range(2)]
    fits = detection(samples[0])
    assert torch.equal(fits[0].image, fits[0].image)
    assert reads == ["0.png"]
    large = detection(*samples)
    assert torch.equal(large[0].image, large[0].image)
    assert reads == ["0.png"] * 3


def test_the_placement_is_that_of_the_image(tmp_path):
    data = detection(annotated(save(tmp_path, "a.png", grey())), resize="letterbox")
    before = data.placement(0)
    data[0]
    assert before == data.placement(0) == images.place((30, 40), (60, 60), "letterbox")


# Batches


def test_batches_are_padded_and_the_last_may_be_small(tmp_path):
    samples = [annotated(save(tmp_path, f"{i}.png", grey()), *[[4, 3, 8, 6]] * i) for i in range(5)]
    batches = list(DataLoader(detection(*samples), batch_size=3, collate_fn=collate))
    assert [b.images.shape for b in batches] == [(3, 3, 60, 60), (2, 3, 60, 60)]
    assert [b.indices.tolist() for b in batches] == [[0, 1, 2], [3, 4]]
    assert [b.targets.boxes.shape for b in batches] == [(3, 2, 4), (2, 4, 4)]
    assert batches[0].targets.labels.tolist() == [[-1, -1], [0, -1], [0, 0]]
    assert batches[0].targets.boxes[0].tolist() == [[0] * 4] * 2
    assert batches[0].targets.boxes[1].tolist() == [[6, 6, 12, 12], [0] * 4]
    assert all(b.targets.image_labels is None for b in batches)
    assert all(b.images.dtype == torch.uint8 for b in batches)


def test_a_batch_without_any_lesion(tmp_path):
    batch = collate([detection(annotated(save(tmp_path, "a.png", grey())))[0]] * 2)
    assert (batch.targets.boxes.shape, batch.targets.labels.shape) == ((2, 0, 4), (2, 0))
    assert not batch.targets.valid.any()


def test_a_batch_of_a_classifier_has_image_labels():
    none = torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64)
    items = [
        Item(torch.zeros(1, 4, 4, dtype=torch.uint8), Targets(*none, torch.tensor([label])), label + 5)
        for label in (0, 2, 0)
    ]
    batch = collate(items)
    assert batch.targets.image_labels.tolist() == [0, 2, 0]
    assert batch.targets.image_labels.dtype == torch.int64
    assert batch.indices.tolist() == [5, 7, 5]


def test_loader_processes_give_the_same(tmp_path):
    samples = [annotated(save(tmp_path, f"{i}.png", grey()), [4, 3, 8, 6]) for i in range(4)]
    data = detection(*samples)
    here = list(DataLoader(data, batch_size=2, collate_fn=collate))
    there = list(DataLoader(data, batch_size=2, collate_fn=collate, num_workers=1))
    for a, b in zip(here, there, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.targets.boxes, b.targets.boxes)


def test_bytes_become_floats_from_0_to_1():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    floats = to_float(pixels)
    assert (floats.dtype, floats.shape) == (torch.float32, (2, 3, 16, 16))
    torch.testing.assert_close(floats[0, 0].flatten(), torch.linspace(0, 1, 256))
    assert floats.is_contiguous(memory_format=torch.channels_last)
    assert pixels.max() == 255


# Real data


@pytest.mark.shared_data
def test_real_blood_cells_load(shared):
    samples = read_voc_folder(shared / "data/bccd", subset="test")[:4]
    data = SliceDataset(samples, task="detection", classes=("RBC", "WBC", "Platelets"), image_size=(300, 300))
    for item, sample in zip(data, samples, strict=True):
        assert item.image.shape == (3, 300, 300)
        assert item.targets.valid.sum() == len(sample.annotation)
        scale = torch.tensor([300 / 640, 300 / 480] * 2)
        expected = torch.from_numpy(sample.annotation.boxes) * scale
        torch.testing.assert_close(item.targets.boxes[0], expected.clamp(0, 300))
        assert item.image.float().std() > 10


@pytest.mark.shared_data
def test_real_brain_slices_of_every_kind_load(shared):
    samples = read_image_folder(shared / "data/brain_mri_253", {"no": "no", "yes": "yes"})
    modes = {}
    for sample in samples:
        with Image.open(sample.path) as file:
            modes.setdefault(file.mode, sample)
    assert set(modes) == {"RGB", "L", "RGBA", "P"}
    data = SliceDataset(
        list(modes.values()), task="classification", classes=("no", "yes"), image_size=(64, 64), channels=1
    )
    assert all(item.image.shape == (1, 64, 64) and item.image.float().std() > 10 for item in data)
