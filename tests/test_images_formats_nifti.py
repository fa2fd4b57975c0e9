"""NIfTI volumes."""

import numpy as np
import pytest
from image_files import GREY, ORIENTATIONS, RNG, grey_of, nifti, save
from PIL import Image

from hccvision import images

nibabel = pytest.importorskip("nibabel")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("axes", ["LPS", "RAS", "LAS", "RPI", "ALS", "PRI"])
def test_axial_nifti_lies_as_nibabel_reorients_it(tmp_path, name, axes):
    stored = RNG.integers(0, 999, (6, 4, 3)).astype(np.int16)
    path = nifti(stored, tmp_path / name, axes)
    image = nibabel.load(path)
    towards = nibabel.orientations.axcodes2ornt("LP" + axes[2])
    turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), towards)
    expected = np.asarray(image.as_reoriented(turn).dataobj)
    for k in range(3):
        slice_ = images.read_image(path, channels=1, frame=k)[..., 0]
        np.testing.assert_array_equal(slice_, images.to_uint8(expected[:, :, k].T))
        assert slice_.shape == images.image_size(path)


@pytest.mark.parametrize(("axes", "columns"), [("RSA", "L"), ("LIP", "L"), ("ASR", "P"), ("PIL", "P"), ("SRA", "L")])
def test_other_planes_stand_upright(tmp_path, axes, columns):
    stored = RNG.integers(0, 999, (6, 4, 1)).astype(np.int16)
    path = nifti(stored, tmp_path / "a.nii", axes)
    image = nibabel.load(path)
    towards = nibabel.orientations.axcodes2ornt(columns + "I" + axes[2])
    turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), towards)
    expected = np.asarray(image.as_reoriented(turn).dataobj)[:, :, 0].T
    np.testing.assert_array_equal(grey_of(path), images.to_uint8(expected))


def test_nifti_shapes(tmp_path):
    stored = RNG.integers(0, 999, (6, 4)).astype(np.int16)
    for shape in ((6, 4), (6, 4, 1), (6, 4, 1, 1)):
        path = nifti(stored.reshape(shape), tmp_path / "a.nii")
        np.testing.assert_array_equal(grey_of(path), images.to_uint8(stored.T))
        assert images.image_size(path) == (4, 6)
    with pytest.raises(ValueError, match=r"b\.nii: holds 3 frames"):
        images.read_image(nifti(np.zeros((6, 4, 3), np.int16), tmp_path / "b.nii"))
    for shape in ((6,), (6, 4, 3, 2)):
        with pytest.raises(ValueError, match=r"c\.nii: expected one volume of slices"):
            images.read_image(nifti(np.zeros(shape, np.int16), tmp_path / "c.nii"), frame=0)


def test_nifti_scaling_nan_and_colour(tmp_path):
    scaled = nibabel.Nifti1Image(np.array([[0, 1], [2, 4]], np.int16), np.diag([-1, -1, 1, 1]))
    scaled.header.set_slope_inter(-2, 7)
    scaled.to_filename(tmp_path / "a.nii")
    assert nibabel.load(tmp_path / "a.nii").get_fdata().tolist() == [[7, 5], [3, -1]]
    np.testing.assert_array_equal(grey_of(tmp_path / "a.nii"), images.to_uint8(-np.array([[0, 2], [1, 4]])))
    with pytest.raises(ValueError, match=r"b\.nii: .*NaN"):
        images.read_image(nifti(np.full((3, 3, 1), np.nan), tmp_path / "b.nii"))
    with pytest.raises(ValueError, match=r"c\.nii: .*real numbers"):
        images.read_image(nifti(np.zeros((3, 3, 1), np.complex64), tmp_path / "c.nii"))


def test_truncated_nifti_is_named(tmp_path):
    path = nifti(RNG.integers(0, 999, (40, 40, 5)).astype(np.int16), tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(ValueError, match=r"a\.nii\.gz: can't be read as an image"):
        images.read_image(path, frame=4)


@pytest.mark.shared_data
def test_the_liver_lies_on_the_left_of_the_picture(shared):
    folder = shared / "data/liver_mr"
    labels = images.read_image(folder / "example_seg_mr.nii.gz", channels=1, frame=10)[..., 0]
    assert labels.shape == images.image_size(folder / "example_mr_sm.nii.gz") == (91, 117)
    assert np.argwhere(labels == 5)[:, 1].mean() < 117 / 2 - 10


@pytest.mark.parametrize("axes", ORIENTATIONS)
@pytest.mark.parametrize("turned", [0, 20])
def test_slices_along_an_anatomical_axis_are_the_canonical_ones(tmp_path, axes, turned):
    path = nifti(RNG.integers(0, 99, (6, 4, 3)).astype(np.uint8), tmp_path / "a.nii", axes)
    if turned:  # an oblique volume counts by its nearest axes
        c, s = np.cos(np.radians(turned)), np.sin(np.radians(turned))
        image = nibabel.load(path)
        affine = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ image.affine
        nibabel.Nifti1Image(np.asarray(image.dataobj), affine).to_filename(path)
    right_front_up = np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)
    left_back_up = right_front_up[::-1, ::-1]
    for world, (axis, n) in enumerate(zip(("sagittal", "coronal", "axial"), left_back_up.shape, strict=True)):
        assert images.frame_count(path, axis=axis) == n
        for k in range(n):
            expected = np.take(left_back_up, k, world).T  # columns and rows along x and y, x and z, or y and z
            expected = expected if axis == "axial" else expected[::-1]  # feet below
            got = images.read_image(path, channels=1, frame=k, axis=axis)[..., 0]
            np.testing.assert_array_equal(got, expected)
            np.testing.assert_array_equal(images.read_values(path, frame=k, axis=axis), expected)
            assert images.image_size(path, axis=axis) == expected.shape
        with pytest.raises(ValueError, match=rf"a\.nii: expected a frame from 0 to {n - 1}"):
            images.read_image(path, frame=n, axis=axis)


@pytest.mark.parametrize("axis", images.AXES)
def test_volumes_stored_differently_give_the_same_slices(tmp_path, axis):
    stored = RNG.integers(0, 99, (6, 4, 3)).astype(np.int16)
    image = nibabel.Nifti1Image(stored, np.diag([-1.5, -2, 3, 1]))
    image.to_filename(tmp_path / "image.nii.gz")
    turn = nibabel.orientations.axcodes2ornt("SRA")
    turned = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), turn))
    turned.to_filename(tmp_path / "labels.nii")
    for k in range(images.frame_count(tmp_path / "image.nii.gz", axis=axis)):
        options = {"frame": k, "axis": axis}
        np.testing.assert_array_equal(
            images.read_values(tmp_path / "image.nii.gz", **options),
            images.read_values(tmp_path / "labels.nii", **options),
        )
        assert images.read_provenance(tmp_path / "image.nii.gz", **options) == images.read_provenance(
            tmp_path / "labels.nii", **options
        )


def test_one_stored_slice_has_three_axes(tmp_path):
    stored = RNG.integers(0, 99, (6, 4)).astype(np.uint8)
    path = nifti(stored, tmp_path / "a.nii")
    np.testing.assert_array_equal(images.read_image(path, axis="axial", channels=1)[..., 0], stored.T)
    np.testing.assert_array_equal(images.read_values(path, axis="coronal", frame=1), stored[:, 1][None])
    assert images.image_size(path, axis="sagittal") == (1, 4)


def test_an_axis_that_is_not_there_is_refused(tmp_path):
    picture = save(tmp_path, Image.fromarray(GREY))
    volume = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.uint8), None)
    volume.to_filename(tmp_path / "a.nii")
    for call in (images.read_image, images.read_values, images.image_size, images.frame_count, images.read_provenance):
        with pytest.raises(ValueError, match=r"a\.png: axis='axial' is for volumes \(\.nii, \.nii\.gz\)"):
            call(picture, axis="axial")
        with pytest.raises(ValueError, match=r"'oblique': use one of 'sagittal', 'coronal', 'axial'"):
            call(tmp_path / "a.nii", axis="oblique")
        with pytest.raises(ValueError, match=r"a\.nii: does not say how it lies in the patient"):
            call(tmp_path / "a.nii", axis="axial")
    assert images.frame_count(tmp_path / "a.nii") == 5


@pytest.mark.shared_data
@pytest.mark.parametrize("axis", [None, *images.AXES])
def test_the_labelled_liver_lies_on_the_liver(shared, axis):
    volume, labels = (shared / f"data/liver_mr/example_{name}.nii.gz" for name in ("mr_sm", "seg_mr"))
    assert images.image_size(volume, axis=axis) == images.image_size(labels, axis=axis)
    assert images.frame_count(volume, axis=axis) == images.frame_count(labels, axis=axis)
    liver, mirrored, columns = [], [], []
    for k in range(0, images.frame_count(labels, axis=axis), 3):
        inside = images.read_values(labels, frame=k, axis=axis) == 5
        values = images.read_values(volume, frame=k, axis=axis)
        assert values.shape == inside.shape == images.image_size(volume, axis=axis)
        liver.append(values[inside])
        mirrored.append(values[inside[::-1, ::-1]])
        columns += list(np.argwhere(inside)[:, 1])
    liver, mirrored = np.concatenate(liver), np.concatenate(mirrored)
    assert len(liver) > 3000
    assert 2 * liver.std() < mirrored.std()  # of one organ, and of a mixture
    if axis != "sagittal":
        assert np.mean(columns) < 117 / 2 - 10  # the patient's right is on the left
    else:
        assert 0 < np.mean(columns) < 91
