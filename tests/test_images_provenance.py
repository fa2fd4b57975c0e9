"""Acquisition details of images."""

import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from image_files import DEEP, FRAMES, GEOMETRY, ORIENTATIONS, dicom, item, nifti

from hccvision import images

pydicom = pytest.importorskip("pydicom")
nibabel = pytest.importorskip("nibabel")


def test_provenance_of_dicom(tmp_path):
    fields = GEOMETRY | {"Manufacturer": "SIEMENS ", "ManufacturerModelName": "Avanto", "Modality": "MR"}
    a = images.read_provenance(dicom(DEEP, tmp_path / "a.dcm", SeriesInstanceUID="1.2.3", **fields))
    b = images.read_provenance(dicom(DEEP, tmp_path / "b.dcm", SeriesInstanceUID="1.2.3"))
    c = images.read_provenance(dicom(DEEP, tmp_path / "c.dcm", SeriesInstanceUID="1.2.4"))
    assert re.fullmatch("[0-9a-f]{12}", a.series)
    assert a.series == b.series != c.series
    assert (a.spacing, a.thickness, a.position, a.scanner, a.modality) == ((0.7, 0.8), 5, 31.5, "SIEMENS Avanto", "MR")
    assert b == images.Provenance(series=a.series)
    assert images.read_provenance(dicom(DEEP, tmp_path / "d.dcm")) == images.Provenance()
    with pytest.raises(FrozenInstanceError):
        a.series = "1.2.3"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_measures_that_can_not_be_count_as_not_said(tmp_path):
    fields = {
        "PixelSpacing": [0, 0.8], "SliceThickness": -1, "ImagePositionPatient": [1, 2],
        "ImageOrientationPatient": [1, 0, 0, 1, 0, 0], "Modality": "mr?",
    }  # fmt: skip
    assert images.read_provenance(dicom(DEEP, tmp_path / "a.dcm", **fields)) == images.Provenance()


def test_provenance_of_enhanced_frames(tmp_path):
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[0.7, 0.8], SliceThickness=5)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])],
    )
    own = [item(PlanePositionSequence=[item(ImagePositionPatient=[0, y, 0])]) for y in (1, 2.5, 4)]
    path = dicom(
        FRAMES, tmp_path / "a.dcm", SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=own
    )
    for frame, y in zip((None, 0, 1, 2), (1, 1, 2.5, 4), strict=True):
        found = images.read_provenance(path, frame=frame)
        assert (found.spacing, found.thickness, found.position) == ((0.7, 0.8), 5, y)


@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_provenance_of_nifti_is_that_of_the_same_slice_in_dicom(tmp_path, axes):
    plain = nifti(np.zeros((6, 4, 3), np.uint8), tmp_path / "plain.nii", axes)
    affine = nibabel.load(plain).affine @ np.diag([0.35, 0.4, 1.5, 1])  # 0.7, 0.8 and 3 mm
    affine[:3, 3] = 5, -7, 11
    path = tmp_path / "a.nii"
    nibabel.Nifti1Image(np.zeros((6, 4, 3), np.uint8), affine).to_filename(path)
    sides = dict(zip((int(a) for a, _ in nibabel.io_orientation(affine)), (0.7, 0.8, 3.0), strict=True))
    shape = nibabel.as_closest_canonical(nibabel.load(path)).shape
    low = np.diag([-1, -1, 1]) @ affine[:3, 3]
    for world, axis in enumerate(images.AXES):
        across = [w for w in (2, 1, 0) if w != world]  # rows, then columns
        ends = []
        for k in range(shape[world]):
            found = images.read_provenance(path, axis=axis, frame=k)
            assert found.spacing == pytest.approx([sides[w] for w in across])
            assert found.thickness == pytest.approx(sides[world])
            ends.append(found.position)
        np.testing.assert_allclose(np.diff(ends), sides[world], atol=1e-3)
        assert min(abs(ends[0] - low[world]), abs(ends[-1] - low[world])) < 1e-3  # the first stored voxel


def test_units_of_nifti(tmp_path):
    for unit, factor in (("mm", 1), ("unknown", 1), ("meter", 1000), ("micron", 0.001)):
        image = nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.diag([2, 2, 2, 1]))
        image.header.set_xyzt_units(unit)
        image.to_filename(tmp_path / "a.nii")
        found = images.read_provenance(tmp_path / "a.nii", frame=1)
        assert found.spacing == pytest.approx((2 * factor, 2 * factor))
        assert found.thickness == pytest.approx(2 * factor)
        assert found.position == pytest.approx(2 * factor)


@pytest.mark.shared_data
def test_provenance_of_real_files(shared):
    slice_ = images.read_provenance(shared / "data/liver_mr/examples_overlay.dcm")
    assert slice_.spacing == pytest.approx((0.72314049586777, 0.72314049586777))
    assert (slice_.scanner, slice_.modality) == ("SIEMENS Avanto", "MR")
    volume = images.read_provenance(shared / "data/liver_mr/example_mr_sm.nii.gz", frame=4, axis="axial")
    assert volume.spacing == pytest.approx((3, 3))
    assert volume.position == pytest.approx(28.98964119 + 4 * 3, abs=1e-3)
    for path in sorted((shared / "data/dicom_samples").glob("*.dcm")):
        found = images.read_provenance(path)
        quoted = str(pydicom.dcmread(path, force=True).get("PatientName") or "")
        assert not quoted.strip("^") or quoted not in str(found)
