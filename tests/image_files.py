"""Image files made for the tests, and arrays to fill them with."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hccvision import images

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (7, 5), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (7, 5, 3), dtype=np.uint8)
DEEP = (RNG.integers(0, 1200, (7, 5)) * 17).astype(np.uint16)


def save(folder: Path, image: Image.Image, name: str = "a.png", **options) -> Path:
    image.save(folder / name, **options)
    return folder / name


def windowed(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.round(np.interp(values.astype(float), (low, high), (0, 255))).astype(np.uint8)


def grey_of(path: Path) -> np.ndarray:
    return images.read_image(path, channels=1)[..., 0]


def dicom(pixels: np.ndarray, path: Path, photometric: str = "MONOCHROME2", **fields) -> Path:
    pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = MRImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "MRN4711"
    colour = photometric in ("RGB", "YBR_FULL")
    frames = pixels.ndim - 2 - colour
    dataset.Rows, dataset.Columns = pixels.shape[frames : frames + 2]
    if frames:
        dataset.NumberOfFrames = len(pixels)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (3 if colour else 1), photometric
    if colour:
        dataset.PlanarConfiguration = 0
    bits = 8 * pixels.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
    for key, value in fields.items():
        setattr(dataset, key, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def item(**fields):
    dataset = pytest.importorskip("pydicom").Dataset()
    for key, value in fields.items():
        setattr(dataset, key, value)
    return dataset


def groups(voi=None, rescale=None, **fields):
    if voi:
        fields["FrameVOILUTSequence"] = [
            item(**dict(zip(("WindowCenter", "WindowWidth", "VOILUTFunction"), voi, strict=False)))
        ]
    if rescale:
        slope, intercept = rescale
        fields["PixelValueTransformationSequence"] = [
            item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US")
        ]
    return item(**fields)


FRAMES = np.stack([DEEP, DEEP[::-1], DEEP // 2])


def nifti(values: np.ndarray, path: Path, axes: str = "LPS") -> Path:
    nibabel = pytest.importorskip("nibabel")

    affine = np.zeros((4, 4))
    for stored, (world, sign) in enumerate(nibabel.orientations.axcodes2ornt(axes)):
        affine[int(world), stored] = 2 * sign
    affine[3, 3] = 1
    image = nibabel.Nifti1Image(values, affine)
    assert "".join(nibabel.aff2axcodes(image.affine)) == axes
    image.to_filename(path)
    return path


ORIENTATIONS = ["LPS", "RAS", "LAS", "RPI", "ALS", "PRI", "SAL", "IPR", "RSA", "ASR"]
GEOMETRY = {
    "PixelSpacing": [0.7, 0.8],
    "SliceThickness": 5,
    "ImagePositionPatient": [-10, 20, 31.5],
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
}
SECRETS = {
    "PatientName": "Doe^Jane",
    "PatientID": "MRN4711",
    "PatientBirthDate": "19610203",
    "PatientAddress": "7 Ash Lane",
    "StudyDate": "20230405",
    "AccessionNumber": "ACC9917",
    "InstitutionName": "St Elsewhere",
    "ReferringPhysicianName": "House^Gregory",
    "StudyInstanceUID": "1.2.826.77001",
    "SeriesInstanceUID": "1.2.826.77002",
    "SOPInstanceUID": "1.2.826.77003",
}
