"""A new format in one definition: NRRD, read everywhere without a change to the library."""

import numpy as np
import pytest
import torch

import hccvision as hv
from hccvision import images
from hccvision.registry import IMAGE_FORMATS

nrrd = pytest.importorskip("nrrd")


@pytest.fixture
def _nrrd_is_registered():
    # what a plug-in file would hold

    @IMAGE_FORMATS.register("nrrd")
    class NRRDFormat(images.ImageFormat):
        suffixes = (".nrrd", ".nhdr")

        def matches(self, path, first_bytes):
            return super().matches(path, first_bytes) or first_bytes.startswith(b"NRRD000")

        def read(self, file, frame, axis):
            volume, _ = nrrd.read(str(file.path), index_order="C")
            volume = volume.reshape(-1, *volume.shape[-2:])
            return images.Slice(volume[images.choose_frame(file.path, frame, len(volume))])

        def frames(self, file, axis):
            sizes = nrrd.read_header(str(file.path))["sizes"]
            return int(np.prod(sizes[2:]))

        def provenance(self, file, frame, axis):
            spacing = nrrd.read_header(str(file.path)).get("spacings")
            return images.Provenance(spacing=None if spacing is None else (float(spacing[1]), float(spacing[0])))

    yield
    del IMAGE_FORMATS._builders["nrrd"], IMAGE_FORMATS._tags["nrrd"]


VALUES = (np.random.default_rng(0).integers(0, 1200, (40, 30)) * 17).astype(np.uint16)


@pytest.fixture
def slice_path(tmp_path):
    path = tmp_path / "P001_01.nrrd"
    nrrd.write(str(path), VALUES, {"spacings": [0.8, 0.7]}, index_order="C")
    return path


def test_without_the_format_it_is_no_image(slice_path):
    assert not images.is_image(slice_path)
    with pytest.raises(ValueError, match=r"P001_01\.nrrd: can't be read as an image"):
        images.read_image(slice_path)


@pytest.mark.usefixtures("_nrrd_is_registered")
def test_the_functions_of_images_read_it(slice_path, tmp_path):
    assert images.is_image(slice_path)
    np.testing.assert_array_equal(images.read_values(slice_path), VALUES)
    np.testing.assert_array_equal(images.read_image(slice_path, channels=1)[..., 0], images.to_uint8(VALUES))
    window = images.Window("fixed", 0, 20000)
    np.testing.assert_array_equal(
        images.read_image(slice_path, window=window), np.repeat(window.apply(VALUES)[..., None], 3, axis=2)
    )
    assert images.image_size(slice_path) == (40, 30)
    assert images.read_provenance(slice_path).spacing == (0.7, 0.8)
    unnamed = slice_path.rename(tmp_path / "IM0001")  # known by its first bytes
    assert images.is_image(unnamed)
    np.testing.assert_array_equal(images.read_values(unnamed), VALUES)


@pytest.mark.usefixtures("_nrrd_is_registered")
def test_frames_and_broken_files(tmp_path):
    volume = np.stack([VALUES, VALUES[::-1]])
    path = tmp_path / "a.nrrd"
    nrrd.write(str(path), volume, index_order="C")
    assert images.frame_count(path) == 2
    assert images.image_size(path) == (40, 30)
    np.testing.assert_array_equal(images.read_values(path, frame=1), VALUES[::-1])
    with pytest.raises(ValueError, match=r"a\.nrrd: holds 2 frames"):
        images.read_image(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"a\.nrrd: can't be read as an image .*remove it"):
        images.read_image(path, frame=0)


@pytest.mark.usefixtures("_nrrd_is_registered")
def test_readers_and_prediction_use_it(slice_path, tmp_path):
    root = tmp_path / "data"
    for name, number in (("no", 1), ("yes", 2)):
        (root / name).mkdir(parents=True)
        (root / name / f"P00{number}_01__aug001.nrrd").write_bytes(slice_path.read_bytes())
    data = hv.read_image_folder(root, {"normal": "no", "cancer": "yes"})
    assert [(s.class_name, s.problems) for s in data] == [("normal", ()), ("cancer", ())]
    assert [s.source_id for s in data] == ["no/P001_01", "yes/P002_01"]  # the suffix is known to the names of copies
    small = {"image_size": 64, "backbone_options": {"width": 0.1}}
    model = hv.build_model("mobilenet_v1", "linear", classes=["normal", "cancer"], **small)
    (found,) = hv.predict(model, slice_path, device="cpu")
    (expected,) = hv.predict(model, VALUES, device="cpu")
    assert found.error is None
    assert torch.equal(found.probabilities, expected.probabilities)
    assert [p.error for p in hv.predict(model, root / "yes", device="cpu")] == [None]
