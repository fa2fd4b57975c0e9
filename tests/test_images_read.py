"""Reading files of any format: what is an image, which file is at fault."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from image_files import COLOUR, DEEP, FRAMES, GEOMETRY, GREY, RNG, dicom, nifti, save
from PIL import Image

from hccvision import images
from hccvision.registry import IMAGE_FORMATS


@pytest.fixture
def a_format():
    """Register formats for one test."""
    registered = []

    def register(name, **tags):
        registered.append(name)
        return IMAGE_FORMATS.register(name, **tags)

    yield register
    for name in registered:
        del IMAGE_FORMATS._builders[name], IMAGE_FORMATS._tags[name]


def test_known_suffixes_in_any_case():
    for suffix in images.suffixes():
        assert images.is_image(f"liver/P007_03{suffix}")
        assert images.is_image(Path(f"liver/P007_03{suffix.upper()}"))
    for name in ("a.xml", "a.txt", "png", "a.png.txt", ".png", "._a.png", "a.gz", "none"):
        assert not images.is_image(f"liver/{name}")


def test_dicom_is_known_by_its_first_bytes(tmp_path):
    dicom = bytes(128) + b"DICM"
    for name, content, expected in (
        ("IM0001", dicom, True),
        ("1.2.840.55", dicom, True),
        ("IM0002", bytes(132), False),
        ("IM0003", b"", False),
        ("DICOMDIR", dicom, False),
    ):
        (tmp_path / name).write_bytes(content)
        assert images.is_image(tmp_path / name) is expected
    assert not images.is_image(tmp_path)


def test_several_pages_need_a_frame(tmp_path):
    pages = [Image.fromarray(GREY), Image.fromarray(255 - GREY), Image.fromarray(GREY // 2)]
    path = save(tmp_path, pages[0], "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=r"a\.tif: holds 3 frames.*frame=0 to frame=2"):
        images.read_image(path)
    for i, page in enumerate(pages):
        np.testing.assert_array_equal(images.read_image(path, frame=i, channels=1)[..., 0], np.asarray(page))
    for wrong in (3, -1):
        with pytest.raises(ValueError, match=r"a\.tif: expected a frame from 0 to 2"):
            images.read_image(path, frame=wrong)


def test_frame_zero_of_a_single_image(tmp_path):
    path = save(tmp_path, Image.fromarray(GREY))
    np.testing.assert_array_equal(images.read_image(path, frame=0), images.read_image(path))


def test_other_channels_are_refused(tmp_path):
    for wrong in (2, 4, 5):
        with pytest.raises(ValueError, match=rf"a\.png: expected {wrong} channels, the image has 3"):
            images.read_image(save(tmp_path, Image.fromarray(COLOUR)), channels=wrong)


@pytest.mark.parametrize("call", [images.read_image, images.image_size])
def test_a_missing_file_is_named(tmp_path, call):
    for path in (tmp_path / "gone.png", tmp_path):
        with pytest.raises(FileNotFoundError, match=rf"{path.name}: .*check the path"):
            call(path)


@pytest.mark.parametrize("call", [images.read_image, images.image_size])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.dcm", "a.nii", "a.nii.gz", "IM0001"])
@pytest.mark.parametrize("content", [b"", b"no image at all", bytes(128) + b"DICM", bytes(400)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_no_image_is_named(tmp_path, call, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: .*(remove it|leave it out)"):
        call(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.gif"])
def test_truncated_files_are_named(tmp_path, name):
    path = save(tmp_path, Image.fromarray(RNG.integers(0, 256, (64, 64), dtype=np.uint8)), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"{name}: can't be read as an image .*remove it"):
        images.read_image(path)


def test_running_out_of_memory_is_not_blamed_on_the_file(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    path = save(tmp_path, Image.fromarray(GREY))
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(MemoryError):
        images.read_image(path)


@pytest.mark.parametrize("name", ["a.dcm", "a.nii"])
@pytest.mark.parametrize("call", [images.read_image, images.image_size])
def test_an_absent_extra_names_the_installation(tmp_path, monkeypatch, name, call):
    (tmp_path / name).write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ImportError, match=rf'{name}: .*pip install "hccvision\[medical\]"'):
        call(tmp_path / name)


def test_frames_are_counted(tmp_path):
    pages = [Image.fromarray(GREY)] * 3
    several = save(tmp_path, pages[0], "a.tif", save_all=True, append_images=pages[1:])
    assert images.frame_count(several) == 3
    assert images.frame_count(save(tmp_path, pages[0])) == 1
    mpo = save(tmp_path, Image.fromarray(COLOUR), "a.mpo", save_all=True, append_images=[Image.fromarray(COLOUR)])
    assert images.frame_count(mpo) == 1
    assert images.frame_count(dicom(FRAMES, tmp_path / "a.dcm")) == 3
    assert images.frame_count(dicom(DEEP, tmp_path / "b.dcm")) == 1
    assert images.frame_count(nifti(np.zeros((6, 4, 3), np.uint8), tmp_path / "a.nii")) == 3


def test_values_are_those_of_the_file(tmp_path):
    labels = (GREY % 5).astype(np.int16)
    np.testing.assert_array_equal(images.read_values(nifti(labels[..., None], tmp_path / "a.nii")), labels.T)
    for array in (GREY, COLOUR, DEEP):
        np.testing.assert_array_equal(images.read_values(save(tmp_path, Image.fromarray(array))), array)
    with pytest.raises(ValueError, match=r"c\.nii: expected pixels of real numbers"):
        images.read_values(nifti(np.zeros((3, 3, 1), np.complex64), tmp_path / "c.nii"))


def test_a_format_that_is_registered_later_is_an_image(a_format):
    @a_format("mine")
    class Mine(images.ImageFormat):
        suffixes = (".mine",)

    assert ".mine" in images.suffixes()
    assert ".mine" in images.SUFFIXES
    assert images.is_image("liver/a.MINE")
    assert not images.is_image("liver/mine")


def test_the_longest_suffix_then_the_first_name_decides(tmp_path, a_format):
    for name, endings, level in (("b", (".mine",), 2), ("a", (".mine",), 1), ("c", (".x.mine", ".png"), 3)):

        @a_format(name)
        class Mine(images.ImageFormat):
            suffixes, grey = endings, level

            def read(self, file, frame, axis):
                return images.Slice(np.full((2, 3), self.grey, np.uint8))

    for name, expected in (("p.mine", 1), ("p.x.mine", 3), ("p.X.MINE", 3), ("p.png", 3)):
        path = tmp_path / name
        path.write_bytes(b"")
        assert (images.read_image(path) == expected).all()
        assert images.image_size(path) == (2, 3)
        assert images.frame_count(path) == 1
        assert images.read_provenance(path) == images.Provenance()
        with pytest.raises(ValueError, match="axis='axial' is for volumes"):
            images.read_image(path, axis="axial")


def test_what_a_format_raises_is_an_error_that_names_the_file(tmp_path, a_format):
    @a_format("mine")
    class Mine(images.ImageFormat):
        suffixes = (".mine",)

        def read(self, file, frame, axis):
            images.choose_frame(file.path, frame, 2)
            raise KeyError("header")

    path = tmp_path / "a.mine"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.mine: can't be read as an image \(KeyError: 'header'\): export it again"):
        images.image_size(path)
    with pytest.raises(ValueError, match=r"a\.mine: holds 2 frames: choose one, from frame=0 to frame=1"):
        images.read_values(path)
    with pytest.raises(ValueError, match=r"a\.mine: expected a frame from 0 to 1, got 2"):
        images.read_image(path, frame=2)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.dcm", "IM0001", "a.nii", "a.nii.gz", "b.nii"])
def test_an_open_file_is_read_as_its_path_is(tmp_path, name):
    path, several = tmp_path / name, np.stack([DEEP, DEEP[::-1]])
    if name == "b.nii":
        nibabel = pytest.importorskip("nibabel")
        nibabel.Nifti2Image(several, np.diag([1, 2, 3, 1])).to_filename(path)
    elif ".nii" in name:
        nifti(several, path)
    elif "png" in name or "tif" in name:
        pages = [Image.fromarray(page) for page in several[: 1 if "png" in name else 2]]
        pages[0].save(path, save_all=True, append_images=pages[1:])
    else:
        dicom(several, path, **GEOMETRY)
    with path.open("rb") as source:
        opened = io.BytesIO(source.read())
    elsewhere = tmp_path / "no such folder" / name  # so that it can't be read by its path
    frame = images.frame_count(path) - 1
    for _ in range(2):  # it stays open
        for call, options in (
            (images.read_image, {"frame": frame}), (images.read_values, {"frame": frame}), (images.image_size, {}),
            (images.frame_count, {}), (images.read_provenance, {"frame": frame}),
        ):  # fmt: skip
            np.testing.assert_equal(call(elsewhere, source=opened, **options), call(path, **options))
    with path.open("rb") as source:
        np.testing.assert_array_equal(
            images.read_image(path, frame=frame, source=source), images.read_image(path, frame=frame)
        )
        assert not source.closed
