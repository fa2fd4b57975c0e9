"""Masks in any layout: beside the images, by patients, and split by what they show; in every image format."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hccvision as hv
from hccvision.annotations.masks import unnamed_values

TUMOR, SECOND, LIVER = (20, 10, 28, 18), (40, 30, 50, 45), (5, 5, 60, 45)


def mask(*boxes, value: int = 255) -> np.ndarray:
    values = np.zeros((50, 64), np.uint8)
    for x1, y1, x2, y2 in boxes:
        values[y1:y2, x1:x2] = value
    return values


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def save_dicom(path: Path, pixels: np.ndarray, *, preamble: bool) -> Path:
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.PixelData = pixels.astype("<u2").tobytes()
    file = io.BytesIO()
    pydicom.dcmwrite(file, data, enforce_file_format=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue() if preamble else file.getvalue()[132:])
    return path


def stated(samples):
    return {
        s.path.name: list(zip(s.annotation.names, s.annotation.boxes.astype(int).tolist(), strict=True))
        for s in samples
        if s.annotation is not None
    }


def kinds(samples):
    return sorted((p.kind, Path(p.path).name) for s in samples for p in s.problems)


@pytest.mark.parametrize("preamble", [True, False])
def test_dicom_masks_of_several_structures_without_suffixes_as_in_3d_ircadb(tmp_path, preamble):
    images, masks = tmp_path / "PATIENT_DICOM", tmp_path / "MASKS_DICOM"
    shapes = {"liver": LIVER, "livertumor01": TUMOR, "livertumor02": SECOND}
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 2000, (50, 64))
        save_dicom(images / f"image_{number}", pixels, preamble=preamble)
        for name, box in shapes.items():
            drawn = mask(box) if number == 0 or name == "liver" else mask()
            save_dicom(masks / name / f"image_{number}", drawn, preamble=preamble)
    one = hv.read_mask_folder(images, masks / "livertumor01", labels={255: "tumor"})
    assert (stated(one), kinds(one)) == ({"image_0": [("tumor", [*TUMOR])], "image_1": []}, [])
    labels = {"livertumor01": "tumor", "livertumor02": "tumor", "liver": None}
    joined = hv.read_mask_folder(images, masks, labels=labels)
    assert stated(joined) == {"image_0": [("tumor", [*TUMOR]), ("tumor", [*SECOND])], "image_1": []}
    assert kinds(joined) == []
    found = hv.read_folder(tmp_path)
    assert stated(found)["image_1"] == [("liver", [*LIVER])]
    unnamed = hv.read_mask_folder(images, masks, labels={"livertumor01": "tumor", "liver": None})
    assert kinds(unnamed) == [("unnamed_value", "image_0")]  # of livertumor02; it is empty in the other image
    values_alone = hv.read_mask_folder(images, masks, labels={255: "tumor"})  # would make a tumor of the liver
    assert stated(values_alone) == {}
    assert {kind for kind, _ in kinds(values_alone)} == {"missing_annotation", "missing_image"}


@pytest.mark.parametrize(
    ("image", "drawn"),
    [
        ("images/a.png", "masks/a.png"),
        ("Images/P1/a.PNG", "MASKS/P1/a.png"),
        ("P1/images/a.jpg", "P1/Mask/a.tif"),
        ("P1/a.png", "P1/a_mask.png"),
        ("P1/a.png", "P1/masks/a_seg.png"),
        ("P1/a.png", "P1/masks/A.png"),
    ],
)
def test_masks_are_found_in_usual_layouts(tmp_path, image, drawn):
    save(tmp_path / image, np.zeros((50, 64), np.uint8))
    save(tmp_path / drawn, mask(TUMOR))
    (sample,) = hv.read_folder(tmp_path, labels={255: "tumor"})
    assert (sample.path, sample.annotation.path) == (tmp_path / image, tmp_path / drawn)
    assert (stated([sample]), kinds([sample])) == ({Path(image).name: [("tumor", [*TUMOR])]}, [])


def test_several_masks_of_one_image_are_joined(tmp_path):
    save(tmp_path / "a.png", mask())
    save(tmp_path / "a_mask.png", mask(TUMOR))
    save(tmp_path / "a_mask_1.png", mask(SECOND))
    assert stated(hv.read_folder(tmp_path, labels={255: "tumor"})) == {
        "a.png": [("tumor", [*TUMOR]), ("tumor", [*SECOND])]
    }
    save(tmp_path / "a_mask_1.tif", mask(SECOND))
    assert kinds(hv.read_folder(tmp_path)) == [("ambiguous_image", "a.png")]


def test_a_mask_is_not_given_to_the_image_of_another_patient(tmp_path):
    save(tmp_path / "images" / "P1" / "a.png", mask())
    save(tmp_path / "masks" / "P2" / "a.png", mask(TUMOR))
    samples = hv.read_folder(tmp_path, labels={255: "tumor"})
    assert kinds(samples) == [("missing_annotation", "a.png"), ("missing_image", "a.png")]


def test_other_readers_name_masks_and_never_take_them_for_images(tmp_path, capsys):
    for name in ("yes", "no"):
        save(tmp_path / name / "a.png", mask())
    save(tmp_path / "yes" / "a_mask.png", mask(TUMOR))
    samples = hv.read_image_folder(tmp_path)
    assert [s.class_name for s in samples if not s.problems] == ["no", "yes"]
    assert kinds(samples) == [("unread_annotation", "a_mask.png")]
    samples = hv.read_voc_folder(tmp_path, unannotated="normal")
    assert [s.path.name for s in samples if not s.problems] == ["a.png", "a.png"]
    assert kinds(samples) == [("unread_annotation", "a_mask.png")]


def test_masks_are_not_predicted(tmp_path, capsys):
    from hccvision.inference import list_inputs

    image = save(tmp_path / "P1" / "images" / "a.png", mask())
    drawn = save(tmp_path / "P1" / "masks" / "a.png", mask(TUMOR))
    assert list(list_inputs(tmp_path)) == [image]
    assert f"left out: 1 masks of other images: {drawn}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "labels", "is_told"),
    [
        ([1, 2], None, False),
        ([255], None, False),
        ([1, 255], None, True),
        ([*range(1, 300)], None, False),
        ([*range(10, 255, 10)], None, True),
        ([1, 7], {1: "hcc"}, True),
        ([1, 7], {1: "hcc", 7: None}, False),
    ],
)
def test_values_without_a_stated_meaning_are_told(values, labels, is_told):
    assert bool(unnamed_values(np.array([[0, *values]]), labels)) == is_told


@pytest.mark.parametrize("pixels", ["alpha", "colours", "jpeg"])
def test_masks_without_label_values_are_problems(tmp_path, pixels):
    save(tmp_path / "images" / "a.png", mask())
    content = {
        "alpha": np.dstack([mask(), mask(TUMOR)]),
        "colours": np.dstack([mask(TUMOR), mask(SECOND), mask()]),
        "jpeg": mask(TUMOR),
    }[pixels]
    save(tmp_path / "masks" / ("a.jpg" if pixels == "jpeg" else "a.png"), content)
    assert [kind for kind, _ in kinds(hv.read_folder(tmp_path, labels={255: "tumor"}))] == ["unreadable_annotation"]


def test_a_mask_of_bits_and_one_of_another_size(tmp_path):
    save(tmp_path / "images" / "a.png", mask())
    save(tmp_path / "masks" / "a.png", mask(TUMOR) > 0)
    (sample,) = hv.read_folder(tmp_path, labels={1: "tumor"})
    assert stated([sample]) == {"a.png": [("tumor", [*TUMOR])]}
    save(tmp_path / "masks" / "a.png", mask(TUMOR)[::2])
    assert kinds(hv.read_folder(tmp_path, labels={255: "tumor"})) == [("size_mismatch", "a.png")]
