import io
import json
import logging
import os
import re
import subprocess
import sys
import traceback
import warnings
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np
from PIL import Image, ImageOps

from hccvision import images

calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
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


# is_image


def test_known_suffixes_in_any_case():
    for suffix in images.SUFFIXES:
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


# read_image: pictures


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".gif", ".webp"])
def test_grey_and_colour_files(tmp_path, suffix):
    lossless = {"lossless": True} if suffix == ".webp" else {}
    path = save(tmp_path, Image.fromarray(GREY), f"grey{suffix}", **lossless)
    np.testing.assert_array_equal(images.read_image(path), np.repeat(GREY[..., None], 3, axis=2))
    np.testing.assert_array_equal(images.read_image(path, channels=1), GREY[..., None])
    if suffix != ".gif":
        path = save(tmp_path, Image.fromarray(COLOUR), f"colour{suffix}", **lossless)
        np.testing.assert_array_equal(images.read_image(path), COLOUR)
        luminance = np.asarray(Image.fromarray(COLOUR).convert("L"))
        np.testing.assert_array_equal(images.read_image(path, channels=1)[..., 0], luminance)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_is_what_pillow_decodes(tmp_path, mode):
    path = save(tmp_path, Image.fromarray(COLOUR).convert(mode), "a.jpg")
    with Image.open(path) as file:
        assert file.mode == mode
        np.testing.assert_array_equal(images.read_image(path), np.asarray(file.convert("RGB")))


def test_one_bit(tmp_path):
    path = save(tmp_path, Image.fromarray(GREY > 99))
    np.testing.assert_array_equal(grey_of(path), np.where(GREY > 99, 255, 0))


def test_palette(tmp_path):
    path = save(tmp_path, Image.fromarray(COLOUR).quantize(8))
    with Image.open(path) as file:
        assert file.mode == "P"
        np.testing.assert_array_equal(images.read_image(path), np.asarray(file.convert("RGB")))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_goes_over_black(tmp_path, mode):
    image = Image.fromarray(COLOUR).convert(mode)
    image.putalpha(Image.fromarray(GREY))
    path = save(tmp_path, image)
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    expected = np.asarray(Image.alpha_composite(black, image.convert("RGBA")))[..., :3].astype(int)
    got = images.read_image(path)
    assert np.abs(got - expected).max() <= 1
    np.testing.assert_array_equal(got, np.rint(np.asarray(image.convert("RGB")) * (GREY[..., None] / 255)))
    assert np.abs(images.read_image(path, channels=1) - expected @ [[0.299], [0.587], [0.114]]).max() <= 2
    np.testing.assert_array_equal(images.read_image(path, channels=len(mode)), np.asarray(image))


def test_transparent_colours_are_black(tmp_path):
    palette = Image.fromarray(GREY % 4).convert("P")
    palette.putpalette([9, 9, 9, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    clear = (GREY % 4 == 1)[..., None]
    shown = np.where(clear, 0, np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(images.read_image(save(tmp_path, palette, transparency=1)), shown)
    grey = Image.fromarray(GREY % 4)
    np.testing.assert_array_equal(grey_of(save(tmp_path, grey, transparency=1)), np.where(clear[..., 0], 0, GREY % 4))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_go_through_the_percentile_window(tmp_path, name):
    path = save(tmp_path, Image.fromarray(DEEP), name)
    np.testing.assert_array_equal(grey_of(path), windowed(DEEP, *np.percentile(DEEP, [0.5, 99.5])))


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4", "<f4"])
def test_deep_tiffs(tmp_path, dtype):
    values = DEEP.astype(dtype) if dtype.endswith("u2") else DEEP.astype(dtype) - 9000
    path = save(tmp_path, Image.fromarray(values), "a.tif")
    with Image.open(path) as file:
        assert file.mode in ("I;16", "I;16B", "I", "F")
    np.testing.assert_array_equal(grey_of(path), images.to_uint8(values))


def test_a_deep_tiff_whose_zero_is_white_is_inverted(tmp_path):
    upright = save(tmp_path, Image.fromarray(DEEP), "upright.tif")
    inverted = save(tmp_path, Image.fromarray(DEEP), "inverted.tif", tiffinfo={262: 0})
    with Image.open(inverted) as file:
        assert (file.mode, file.tag_v2[262]) == ("I;16", 0)
    np.testing.assert_array_equal(grey_of(inverted), 255 - grey_of(upright))


def test_a_deep_tiff_of_nan_is_refused(tmp_path):
    path = save(tmp_path, Image.fromarray(np.full((3, 4), np.nan, np.float32)), "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif: .*NaN"):
        images.read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("name", "source"), [("a.png", COLOUR), ("a.jpg", GREY), ("a.tif", COLOUR), ("b.png", DEEP)])
def test_exif_orientation_is_applied(tmp_path, name, source, orientation):
    upright = images.read_image(save(tmp_path, Image.fromarray(source), f"upright_{name}"))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, Image.fromarray(source), name, exif=exif)
    turn = {  # EXIF 2.32, 4.6.4: where the stored row 0 and column 0 belong
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: np.rot90,
    }[orientation]
    np.testing.assert_array_equal(images.read_image(path), turn(upright))
    assert images.image_size(path) == ((5, 7) if orientation > 4 else (7, 5))


def test_one_pixel(tmp_path):
    for source in (GREY, COLOUR, DEEP):
        path = save(tmp_path, Image.fromarray(source[:1, :1]))
        assert images.read_image(path).shape == (1, 1, 3)
        assert images.image_size(path) == (1, 1)


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


def test_a_camera_picture_with_a_preview_is_one_image(tmp_path):
    path = save(tmp_path, Image.fromarray(COLOUR), "a.mpo", save_all=True, append_images=[Image.fromarray(COLOUR[:3])])
    assert images.read_image(path).shape == (7, 5, 3)


def test_other_channels_are_refused(tmp_path):
    for wrong in (2, 4, 5):
        with pytest.raises(ValueError, match=rf"a\.png: the image has 3 channels, {wrong} are asked for"):
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


@pytest.mark.shared_data
def test_brain_slices_of_all_modes(shared):
    files = sorted((shared / "data/brain_mri_253").glob("*/*"))
    seen = set()
    for path in files:
        with Image.open(path) as file:
            seen.add(file.mode)
            if file.mode in ("RGBA", "P") or path.name.startswith("Y1"):
                rgba = ImageOps.exif_transpose(file).convert("RGBA")
                black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
                expected = np.asarray(Image.alpha_composite(black, rgba))[..., :3].astype(int)
                assert np.abs(images.read_image(path) - expected).max() <= 1
                assert images.image_size(path) == expected.shape[:2]
    assert len(files) == 253
    assert seen == {"RGB", "L", "RGBA", "P"}


# DICOM

pydicom = pytest.importorskip("pydicom")


def dicom(pixels: np.ndarray, path: Path, photometric: str = "MONOCHROME2", **fields) -> Path:
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


def test_dicom_without_a_window_takes_the_percentiles(tmp_path):
    path = dicom(DEEP, tmp_path / "a.dcm")
    np.testing.assert_array_equal(grey_of(path), images.to_uint8(DEEP))
    path = dicom(DEEP.astype(np.int16) - 1000, tmp_path / "b.dcm", RescaleSlope=2, RescaleIntercept=-5)
    np.testing.assert_array_equal(grey_of(path), images.to_uint8(DEEP))


@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": 1, "RescaleIntercept": 0}])
def test_eight_bit_dicom_stays_as_it_is(tmp_path, rescale):
    np.testing.assert_array_equal(grey_of(dicom(GREY, tmp_path / "a.dcm", **rescale)), GREY)


def test_one_bit_dicom_is_black_and_white(tmp_path):
    bits = GREY[:4, :4] > 99
    packed = np.packbits(bits.ravel(), bitorder="little")
    path = dicom(packed[None], tmp_path / "a.dcm", Rows=4, Columns=4, BitsAllocated=1, BitsStored=1, HighBit=0)
    np.testing.assert_array_equal(grey_of(path), np.where(bits, 255, 0))


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": 1.5, "RescaleIntercept": -1024}])
def test_the_voi_window_is_pydicoms(tmp_path, function, rescale):
    from pydicom.pixels import apply_rescale, apply_windowing

    window = {"WindowCenter": [9000, 1], "WindowWidth": [8000, 1]} | ({"VOILUTFunction": function} if function else {})
    path = dicom(DEEP, tmp_path / "a.dcm", **window, **rescale)
    dataset = pydicom.dcmread(path)
    low, high = (np.array([0, 65535]) * rescale.get("RescaleSlope", 1)) + rescale.get("RescaleIntercept", 0)
    shown = apply_windowing(apply_rescale(dataset.pixel_array, dataset), dataset)
    np.testing.assert_allclose(grey_of(path), (shown - low) / (high - low) * 255, atol=0.5 + 1e-6)
    assert len(np.unique(grey_of(path))) > 5


def test_a_window_around_zero_is_used(tmp_path):
    path = dicom(DEEP.astype(np.int16) - 9000, tmp_path / "a.dcm", WindowCenter=0, WindowWidth=20000)
    values = DEEP.astype(float) - 9000
    np.testing.assert_array_equal(grey_of(path), windowed(values, -0.5 - 19999 / 2, -0.5 + 19999 / 2))


def test_the_narrowest_window_is_a_threshold(tmp_path):
    path = dicom(DEEP, tmp_path / "a.dcm", WindowCenter=9000, WindowWidth=1)
    np.testing.assert_array_equal(grey_of(path), np.where(DEEP >= 9000, 255, 0))


@pytest.mark.parametrize("window", [("", ""), (100, 0), (100, -5), (None, 100), ([], []), (100, 0.5)])
def test_an_unusable_window_gives_way_to_the_percentiles(tmp_path, window):
    path = dicom(DEEP, tmp_path / "a.dcm", WindowCenter=window[0], WindowWidth=window[1])
    np.testing.assert_array_equal(grey_of(path), images.to_uint8(DEEP))


def test_a_voi_lookup_table_is_applied(tmp_path):
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTData = [4, 10, 16], [0, 65535, 13107, 26214]
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    stored = np.array([[9, 10, 11], [12, 13, 99]], np.uint16)
    path = dicom(stored, tmp_path / "a.dcm", VOILUTSequence=[item], WindowCenter=1, WindowWidth=2)
    np.testing.assert_array_equal(grey_of(path), [[0, 0, 255], [51, 102, 102]])


def test_a_modality_lookup_table_is_applied(tmp_path):
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTData, item.ModalityLUTType = [3, 0, 16], [0, 1000, 500], "US"
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    path = dicom(np.array([[0, 1], [2, 2]], np.uint16), tmp_path / "a.dcm", ModalityLUTSequence=[item])
    np.testing.assert_array_equal(grey_of(path), images.to_uint8(np.array([[0, 1000], [500, 500]])))


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 9000, "WindowWidth": 8000}])
def test_monochrome1_is_inverted(tmp_path, window):
    upright = grey_of(dicom(DEEP, tmp_path / "a.dcm", **window))
    inverted = grey_of(dicom(DEEP, tmp_path / "b.dcm", "MONOCHROME1", **window))
    np.testing.assert_array_equal(inverted, 255 - upright)


def test_dicom_colour(tmp_path):
    np.testing.assert_array_equal(images.read_image(dicom(COLOUR, tmp_path / "a.dcm", "RGB")), COLOUR)
    deep = COLOUR.astype(np.uint16) * 257
    np.testing.assert_array_equal(images.read_image(dicom(deep, tmp_path / "b.dcm", "RGB")), COLOUR)
    ybr = np.asarray(Image.fromarray(COLOUR).convert("YCbCr"))
    expected = np.asarray(Image.fromarray(ybr, mode="YCbCr").convert("RGB")).astype(int)
    assert np.abs(images.read_image(dicom(ybr, tmp_path / "c.dcm", "YBR_FULL")) - expected).max() <= 2


def test_dicom_palette(tmp_path):
    colours = RNG.integers(0, 256, (4, 3)).astype(np.uint16)
    fields = {}
    for name, column in zip(("Red", "Green", "Blue"), colours.T, strict=True):
        fields[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        fields[f"{name}PaletteColorLookupTableData"] = (column * 257).tobytes()
    path = dicom(GREY % 4, tmp_path / "a.dcm", "PALETTE COLOR", **fields)
    np.testing.assert_array_equal(images.read_image(path), colours[GREY % 4])


def test_dicom_frames(tmp_path):
    path = dicom(np.stack([DEEP, DEEP[::-1]]), tmp_path / "a.dcm")
    with pytest.raises(ValueError, match=r"a\.dcm: holds 2 frames: say which"):
        images.read_image(path)
    np.testing.assert_array_equal(images.read_image(path, frame=1), images.read_image(path, frame=0)[::-1])
    assert images.image_size(path) == (7, 5)


def test_dicom_without_a_suffix_or_a_preamble(tmp_path):
    path = dicom(DEEP, tmp_path / "IM0001")
    np.testing.assert_array_equal(grey_of(path), images.to_uint8(DEEP))
    dataset = pydicom.dcmread(path)
    dataset.preamble, dataset.file_meta = None, pydicom.dataset.FileMetaDataset()
    dataset.save_as(tmp_path / "a.dcm", implicit_vr=True, little_endian=True)
    assert (tmp_path / "a.dcm").read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(grey_of(tmp_path / "a.dcm"), images.to_uint8(DEEP))
    assert images.image_size(tmp_path / "a.dcm") == (7, 5)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_dicom_is_named_without_the_patient(tmp_path):
    whole = dicom(DEEP, tmp_path / "whole.dcm")
    for name, change in {
        "no_pixels": lambda d: d.__delattr__("PixelData"),
        "short": lambda d: setattr(d, "PixelData", d.PixelData[:8]),
        "no_rows": lambda d: d.__delattr__("Rows"),
        "frames": lambda d: setattr(d, "NumberOfFrames", 3),
        "photometric": lambda d: d.__delattr__("PhotometricInterpretation"),
    }.items():
        dataset = pydicom.dcmread(whole)
        change(dataset)
        path = tmp_path / f"{name}.dcm"
        dataset.save_as(path)
        with pytest.raises(ValueError, match=rf"{name}\.dcm: ") as caught:
            images.read_image(path)
        assert "Doe" not in str(caught.value)
        assert "4711" not in str(caught.value)
    with pytest.raises(ValueError, match=r"no_rows\.dcm: states no image size"):
        images.image_size(tmp_path / "no_rows.dcm")


@pytest.mark.parametrize("call", [images.read_image, images.image_size])
def test_what_the_dicom_parser_quotes_is_kept_back(tmp_path, monkeypatch, call):
    def fail(*_, **__):
        raise TypeError("bad value Doe^Jane")

    path = dicom(DEEP, tmp_path / "a.dcm")
    monkeypatch.setattr(pydicom, "dcmread", fail)
    with pytest.raises(ValueError, match=r"a\.dcm: can't be read as DICOM \(TypeError\)") as caught:
        call(path)
    assert "Doe" not in "".join(traceback.format_exception(caught.value))


def test_running_out_of_memory_is_not_blamed_on_the_file(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    path = save(tmp_path, Image.fromarray(GREY))
    monkeypatch.setattr(images.Image, "open", fail)
    with pytest.raises(MemoryError):
        images.read_image(path)


def test_a_jpeg_2000_header_that_breaks_off_is_refused_and_does_not_hang(tmp_path):
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless

    stream = io.BytesIO()
    Image.fromarray(GREY).save(stream, "JPEG2000", irreversible=False)
    header = stream.getvalue()
    assert header[16:20] == b"ftyp"
    for name, frame in (("whole", header), ("broken", header[:12] + bytes(4) + header[16:])):
        path = dicom(GREY, tmp_path / f"{name}.dcm")
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path)
    np.testing.assert_array_equal(grey_of(tmp_path / "whole.dcm"), GREY)
    with pytest.raises(ValueError, match=r"broken.dcm: can't be read .*a JPEG 2000 header breaks off at byte 12"):
        images.read_image(tmp_path / "broken.dcm")


def test_dicom_of_nan_is_refused(tmp_path):
    values = np.full((2, 2), np.nan, np.float32)
    window = {"WindowCenter": 1, "WindowWidth": 2}
    path = dicom(np.zeros((2, 2), np.uint32), tmp_path / "a.dcm", **window)
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.FloatPixelData = values.tobytes()
    dataset.save_as(path)
    with pytest.raises(ValueError, match=r"a\.dcm: .*NaN"):
        images.read_image(path)


@pytest.mark.parametrize("name", ["a.dcm", "a.nii"])
@pytest.mark.parametrize("call", [images.read_image, images.image_size])
def test_an_absent_extra_names_the_installation(tmp_path, monkeypatch, name, call):
    (tmp_path / name).write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ImportError, match=rf'{name}: .*pip install "hccvision\[medical\]"'):
        call(tmp_path / name)


def pydicoms(path: Path, frame: int) -> np.ndarray:
    """A frame by pydicom's own pipeline, its output range taken to 0-255."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

    dataset = pydicom.dcmread(path, force=True)
    stored = pixel_array(dataset, index=frame)
    if stored.ndim == 3:
        return np.round(stored / (2.0**dataset.BitsStored - 1) * 255)
    values = apply_modality_lut(stored, dataset)
    if "WindowWidth" not in dataset:
        return values if values.dtype == np.uint8 else windowed(values, *np.percentile(values, [0.5, 99.5]))
    signed = dataset.PixelRepresentation
    low, high = -signed * 2 ** (dataset.BitsStored - 1), 2 ** (dataset.BitsStored - signed) - 1
    slope, intercept = dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0)
    low, high = low * slope + intercept, high * slope + intercept
    return (apply_voi_lut(values, dataset) - low) / (high - low) * 255


@pytest.mark.shared_data
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_dicom_sample_is_read_as_pydicom_does_or_named(shared):
    files = sorted((shared / "data/dicom_samples").glob("*.dcm"))
    refused = {}
    for path in files:
        count = images.frame_count(path)
        assert count == (2 if path.stem.endswith("2frame") else 1)
        for frame in range(count):
            try:
                image = images.read_image(path, frame=frame)
            except ValueError as error:
                refused[path.stem] = str(error).removeprefix(str(path))
                continue
            expected = pydicoms(path, frame)
            expected = expected if expected.ndim == 3 else np.stack([expected] * 3, axis=2)
            assert image.dtype == np.uint8
            assert image.shape == expected.shape == (*images.image_size(path), 3)
            np.testing.assert_allclose(image, expected, atol=0.5 + 1e-6, err_msg=path.name)
            assert len(np.unique(image)) > 1
    assert len(files) == 36
    # one is cut short; the others are read where their decoder is installed
    assert re.match(r": can't be read as an image .*remove it", refused.pop("MR_truncated"))
    assert refused.keys() <= {"MR_small_jpeg_ls_lossless", "SC_rgb_jpeg_gdcm"}
    for message in refused.values():
        assert re.match(r": its pixels are compressed as JPEG.* install python-gdcm>=.* pylibjpeg-libjpeg", message)
    small = [images.read_image(shared / f"data/dicom_samples/MR_small{s}.dcm") for s in ("", "_RLE", "_bigendian")]
    np.testing.assert_array_equal(small[0], small[1])
    np.testing.assert_array_equal(small[0], small[2])


@pytest.mark.shared_data
def test_no_dicom_sample_ends_the_process(shared):
    code = (
        "import faulthandler, pathlib, sys; from hccvision import images; faulthandler.enable(); count = 0\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).glob('*.dcm')):\n"
        "    for window in images.WINDOWS[:3]:\n"
        "        try: images.read_image(path, frame=0, window=images.Window(window))\n"
        "        except ValueError as error: assert path.name in str(error)\n"
        "        count += 1\n"
        "print(count)"
    )
    call = [sys.executable, "-c", code, str(shared / "data/dicom_samples")]
    path = os.pathsep.join([str(Path(images.__file__).parents[1]), *filter(None, sys.path)])
    done = subprocess.run(call, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "108\n", "")


def test_a_missing_decoder_is_named_with_what_to_install(tmp_path):
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder
    from pydicom.uid import HTJ2K

    path = dicom(DEEP, tmp_path / "a.dcm")
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = HTJ2K
    dataset.PixelData = encapsulate([b"\0" * 20])
    dataset.save_as(path)
    expected = "can't be read as an image"
    if not get_decoder(HTJ2K).is_available:
        expected = r"compressed as High-Throughput JPEG 2000.* install pylibjpeg>=2\.0 and pylibjpeg-openjpeg>=2\.\d"
    with pytest.raises(ValueError, match=rf"a\.dcm: .*{expected}"):
        images.read_image(path)


def test_numbers_beyond_a_voi_lookup_table_take_its_ends(tmp_path):
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTData = [4, 10, 8], [0, 255, 51, 102]
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    stored = np.array([[0, 10, 11], [12, 13, 265], [266, 300, 65535]], np.uint16)
    path = dicom(stored, tmp_path / "a.dcm", VOILUTSequence=[item])
    np.testing.assert_array_equal(grey_of(path), [[0, 0, 255], [51, 102, 102], [102, 102, 102]])


def test_a_slice_of_absurd_size_is_refused_at_once(tmp_path):
    path = dicom(DEEP, tmp_path / "a.dcm", Rows=65535, Columns=65535)
    for call in (images.read_image, images.image_size):
        with pytest.raises(ValueError, match=r"a\.dcm: states a slice of 65535×65535 pixels"):
            call(path)


# enhanced multi-frame DICOM


def item(**fields):
    dataset = pydicom.Dataset()
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


def test_enhanced_frames_are_shown_through_their_own_window(tmp_path):
    own = [
        groups((9000, 8001), (2, -100)),
        groups((4000, 4000, "LINEAR_EXACT"), (0.5, 7)),
        groups(None, (3, 0)),
    ]
    shared = groups((20000, 30000, "LINEAR_EXACT"), (1, 5))
    path = dicom(
        FRAMES, tmp_path / "a.dcm", SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=own,
        WindowCenter=1, WindowWidth=2, RescaleSlope=9, RescaleIntercept=9,
    )  # fmt: skip
    values = [FRAMES[0] * 2.0 - 100, FRAMES[1] * 0.5 + 7, FRAMES[2] * 3.0]
    bounds = [(8999.5 - 4000, 8999.5 + 4000), (2000, 6000), (5000, 35000)]
    for frame in range(3):
        np.testing.assert_array_equal(images.read_values(path, frame=frame), values[frame])
        got = images.read_image(path, frame=frame, channels=1)[..., 0]
        np.testing.assert_array_equal(got, windowed(values[frame], *bounds[frame]))


def test_enhanced_frames_share_what_they_have_not_themselves(tmp_path):
    shared = groups((9000, 8000, "LINEAR_EXACT"), (2, -100))
    path = dicom(FRAMES, tmp_path / "a.dcm", "MONOCHROME1", SharedFunctionalGroupsSequence=[shared])
    for frame in range(3):
        got = images.read_image(path, frame=frame, channels=1)[..., 0]
        np.testing.assert_array_equal(got, 255 - windowed(FRAMES[frame] * 2.0 - 100, 5000, 13000))
    path = dicom(FRAMES, tmp_path / "b.dcm", PerFrameFunctionalGroupsSequence=[groups()], WindowCenter=9000,
                 WindowWidth=8001)  # fmt: skip
    for frame in range(3):
        got = images.read_image(path, frame=frame, channels=1)[..., 0]
        np.testing.assert_array_equal(got, windowed(FRAMES[frame], 8999.5 - 4000, 8999.5 + 4000))


@pytest.mark.shared_data
def test_the_real_liver_slice_shows_its_lesion(shared):
    path = shared / "data/liver_mr/examples_overlay.dcm"
    image = grey_of(path).astype(float)
    assert image.shape == images.image_size(path) == (300, 484)
    stored = pydicom.dcmread(path).pixel_array
    np.testing.assert_array_equal(image, windowed(stored, 449.5 - 789 / 2, 449.5 + 789 / 2))
    assert image[100:130, 70:110].mean() > image[125:150, 130:150].mean() + 40  # liver against lesion


# NIfTI

nibabel = pytest.importorskip("nibabel")


def nifti(values: np.ndarray, path: Path, axes: str = "LPS") -> Path:
    affine = np.zeros((4, 4))
    for stored, (world, sign) in enumerate(nibabel.orientations.axcodes2ornt(axes)):
        affine[int(world), stored] = 2 * sign
    affine[3, 3] = 1
    image = nibabel.Nifti1Image(values, affine)
    assert "".join(nibabel.aff2axcodes(image.affine)) == axes
    image.to_filename(path)
    return path


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


ORIENTATIONS = ["LPS", "RAS", "LAS", "RPI", "ALS", "PRI", "SAL", "IPR", "RSA", "ASR"]


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
        with pytest.raises(ValueError, match=r"a\.png: axis='axial' is for NIfTI volumes"):
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


# Provenance and frames


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


GEOMETRY = {
    "PixelSpacing": [0.7, 0.8],
    "SliceThickness": 5,
    "ImagePositionPatient": [-10, 20, 31.5],
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
}


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


# nothing of the patient

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
WORDS = ["Doe", "Jane", "4711", "19610203", "Ash Lane", "20230405", "9917", "Elsewhere", "House", "Gregory", "1.2.826"]


def quoted(text: str | bytes) -> list[str]:
    text = text.encode("utf-8") if isinstance(text, str) else text
    return [word for word in WORDS if word.encode() in text]


def breakages(whole: bytes) -> dict[str, bytes]:
    """Copies of a DICOM file that are broken where a parser quotes what it stumbles over."""
    return {
        "cut": whole[:-20],
        "window": whole.replace(b"123456789012", b"Doe^Jane4711"),
        "slope": whole.replace(b"123456789.25", b"House^Gregor"),
        "uid": whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.826.77003Doe^Jan"),
        "charset": whole.replace(b"ISO_IR 100", b"Doe^Jane  "),
        "rows": whole.replace(b"(\0\x10\0US\x02\0", b"(\0\x10\0DA\x02\0"),
        "name": whole.replace(b"PN\x08\0Doe^Jane", b"US\x08\0Doe^Jane"),
        "length": whole.replace(b"PN\x08\0Doe^Jane", b"PN\xf0\x7fDoe^Jane"),
    }


@pytest.fixture
def identified(tmp_path):
    """A folder of annotated DICOM slices that say whose they are."""
    from hccvision.annotations import voc
    from hccvision.contracts import Annotation

    folder = tmp_path / "slices"
    folder.mkdir()
    for i in range(4):
        pixels = RNG.integers(0, 900, (48, 64)).astype(np.uint16)
        pixels[10:30, 20:40] += 2000
        path = dicom(pixels, folder / f"a{i}.dcm", **SECRETS, **GEOMETRY, Manufacturer="SIEMENS", Modality="MR")
        voc.write(path.with_suffix(".xml"), Annotation([[20, 10, 40, 30]], ("hcc",), size=(48, 64)), image_path=path)
    return folder


def test_the_reader_and_its_errors_quote_nothing_of_the_patient(tmp_path, capfd, caplog, recwarn):
    caplog.set_level(logging.DEBUG)
    path = dicom(
        DEEP, tmp_path / "a.dcm", **SECRETS, SpecificCharacterSet="ISO_IR 100", WindowCenter="123456789012",
        WindowWidth=900, RescaleSlope="123456789.25", RescaleIntercept=0,
    )  # fmt: skip
    said, refused = [], []
    (tmp_path / "broken").mkdir()
    copies = breakages(path.read_bytes())
    for name, content in copies.items():
        assert content != path.read_bytes(), name
        (tmp_path / "broken" / f"{name}.dcm").write_bytes(content)
    for file in (path, *sorted((tmp_path / "broken").iterdir())):
        for call in (
            images.read_image, images.read_values, images.image_size, images.frame_count, images.read_provenance,
            lambda f: images.read_image(f, window=images.Window("fixed", 0, 1)),
        ):  # fmt: skip
            try:
                said.append(repr(call(file)))
            except (ValueError, OSError) as error:
                refused.append((str(error), str(file)))
                said += [str(error), *traceback.format_exception(error)]
    assert len(refused) > len(copies)
    assert all(message.startswith(f"{file}: ") for message, file in refused)
    said += [str(w.message) for w in recwarn] + [r.getMessage() for r in caplog.records] + [*capfd.readouterr()]
    assert [(words, text) for text in said if (words := quoted(text))] == []
    assert not logging.getLogger("pydicom").disabled
    assert quoted(path.read_bytes()) == WORDS  # so there was something to quote


@pytest.mark.filterwarnings("ignore:.*")
def test_no_output_of_the_library_says_whose_slice_it_is(tmp_path, identified, capfd, caplog):
    import hccvision as hv

    caplog.set_level(logging.DEBUG)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "b.dcm").write_bytes((identified / "a0.dcm").read_bytes())
    (tmp_path / "new" / "cut.dcm").write_bytes((identified / "a0.dcm").read_bytes()[:-500])
    data = hv.read_voc_folder(identified)
    report = hv.check(data)
    model = hv.build_model("mobilenet_v1", "ssd", classes=["hcc"], image_size=64, backbone_options={"width": 0.1})
    hv.evaluate(model, data, device="cpu").save(tmp_path / "report")
    found = hv.predict(model, tmp_path / "new", device="cpu")
    proposed = hv.propose(model, tmp_path / "new", score_threshold=0.1, device="cpu")
    assert [p.error is None for p in found] == [p.written for p in proposed] == [True, False]
    model.save(tmp_path / "model.safetensors")
    said = [repr(x) for x in (data, report, str(report), json.dumps(report.to_dict()), found, proposed)]
    said += [r.getMessage() for r in caplog.records] + [*capfd.readouterr()]
    files = [f for f in tmp_path.rglob("*") if f.is_file() and f.suffix != ".dcm"]
    assert len(files) > 6
    said += [f.read_bytes() for f in files]
    assert [(words, text[:200]) for text in said if (words := quoted(text))] == []


# broken bytes

FUZZ = int(os.environ.get("HCCVISION_FUZZ", "60"))  # examples


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Small files of all kinds of DICOM: plain, run-length encoded, deflated, coloured, enhanced."""
    from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

    folder = tmp_path_factory.mktemp("samples")
    window = {"WindowCenter": 9000, "WindowWidth": 8000, "RescaleSlope": 2, "RescaleIntercept": -9}
    plain = dicom(DEEP, folder / "plain.dcm", **SECRETS, **GEOMETRY, **window)
    dataset = pydicom.dcmread(plain)
    dataset.compress(RLELossless)
    dataset.save_as(folder / "rle.dcm")
    dataset = pydicom.dcmread(plain)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(folder / "deflated.dcm")
    dicom(COLOUR, folder / "colour.dcm", "YBR_FULL", **SECRETS)
    lut = item(LUTDescriptor=[4, 10, 16], LUTData=[0, 65535, 13107, 26214])
    lut["LUTDescriptor"].VR = lut["LUTData"].VR = "US"
    dicom(GREY, folder / "lut.dcm", VOILUTSequence=[lut], **SECRETS)
    own = [groups((9000, 8001), (2, -100)), groups((4000, 4000, "SIGMOID")), groups(None, (3, 0))]
    dicom(FRAMES, folder / "enhanced.dcm", PerFrameFunctionalGroupsSequence=own, **SECRETS)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


damage = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.floats(0, 1), st.binary(min_size=1, max_size=4)),
        st.tuples(st.just("insert"), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("drop"), st.floats(0, 1), st.integers(1, 60)),
        st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
    ),
    min_size=1,
    max_size=6,
)


def damaged(content: bytes, changes: list) -> bytes:
    for kind, where, what in changes:
        at = int(where * len(content))
        if kind == "set":
            content = content[:at] + what + content[at + len(what) :]
        elif kind == "insert":
            content = content[:at] + what + content[at:]
        else:
            content = content[:at] + (content[at + what :] if kind == "drop" else b"")
    return content


@settings(max_examples=FUZZ, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_broken_dicom_is_an_array_or_an_error_that_names_the_file(samples, tmp_path_factory, data):
    content = damaged(data.draw(st.sampled_from(samples)), data.draw(damage))
    path = tmp_path_factory.getbasetemp() / "broken.dcm"
    path.write_bytes(content)
    for call, kind in (
        (lambda: images.read_image(path, frame=0), np.ndarray),
        (lambda: images.read_image(path, frame=0, window=images.Window("zscore")), np.ndarray),
        (lambda: images.read_values(path, frame=0), np.ndarray),
        (lambda: images.image_size(path), tuple),
        (lambda: images.frame_count(path), int),
        (lambda: images.read_provenance(path), images.Provenance),
    ):
        try:
            result = call()
        except (ValueError, OSError) as error:
            result = str(error)
        if isinstance(result, str):
            assert result.startswith(f"{path}: ")
            assert not quoted(result)
        else:
            assert isinstance(result, kind)
            assert not isinstance(result, np.ndarray) or result.size > 0


# Window

WINDOWS = [
    images.Window(),
    images.Window("percentile"),
    images.Window("percentile", 2, 90),
    images.Window("zscore"),
    images.Window("zscore", -1, 2.5),
    images.Window("fixed", 2000, 15000),
]


def bounds(window: images.Window, values: np.ndarray) -> tuple[float, float]:
    values = values.astype(float)
    if window.kind == "zscore":
        return values.mean() + window.low * values.std(), values.mean() + window.high * values.std()
    if window.kind == "fixed":
        return window.low, window.high
    return tuple(np.percentile(values, [window.low or 0.5, window.high or 99.5]))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("dtype", ["u2", ">u2", "i4", "f4", "f8"])
def test_a_window_takes_its_bounds_to_0_and_255(window, dtype):
    values = DEEP.astype(dtype)
    np.testing.assert_array_equal(window.apply(values), windowed(values, *bounds(window, values)))


@pytest.mark.parametrize("window", WINDOWS[1:-1], ids=str)
def test_a_named_window_stretches_8_bits_too(window):
    narrow = GREY // 4 + 9
    np.testing.assert_array_equal(window.apply(narrow), windowed(narrow, *bounds(window, narrow)))
    np.testing.assert_array_equal(images.Window().apply(narrow), narrow)


def test_windows_are_plain_data():
    for window in WINDOWS:
        assert images.Window(**json.loads(json.dumps(asdict(window)))) == window
        assert hash(window) == hash(images.Window(**asdict(window)))
    assert images.Window() == images.DEFAULT_WINDOW == images.Window("file")
    assert {window.kind for window in WINDOWS} == set(images.WINDOWS)
    with pytest.raises(FrozenInstanceError):
        WINDOWS[0].kind = "fixed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gamma",), r"'gamma': use one of 'file', 'percentile', 'zscore', 'fixed'"),
        (("file", 0, 1), "no bounds, got 0 and 1"),
        (("fixed",), "low < high, got None and None"),
        (("fixed", 0), "low < high, got 0 and None"),
        (("fixed", 5, 5), "low < high, got 5 and 5"),
        (("fixed", 9, 5), "low < high"),
        (("fixed", 0, np.inf), "low < high, got 0 and inf"),
        (("zscore", np.nan), "low < high, got nan"),
        (("percentile", -1), "percentiles 0 <= low < high <= 100, got -1 and 99.5"),
        (("percentile", 1, 101), "percentiles 0 <= low < high <= 100"),
    ],
)
def test_windows_that_are_none_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        images.Window(*arguments)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (RNG.random((20, 20)), "grey levels from 0.* to 0.99.* do not fit the fixed window from 0 to 1500"),
        (RNG.integers(8000, 9000, (20, 20)), "from 8.* to 8.* the fixed window from 0 to 1500, 0 % of the pixels"),
        (-RNG.integers(1, 9000, (20, 20)), "from -.* window from 0 to 1500, 0 % of the pixels"),
        (np.full((4, 4), 700), "from 700 to 700 .* fill less than 1 % of it"),
        (np.zeros((4, 4), np.uint16), "from 0 to 0 .* leave out empty slices"),
        (GREY, "8-bit grey levels from .* to .* fixed window from 0 to 1500: .* a window already"),
    ],
)
def test_what_can_not_be_of_a_fixed_window_is_refused_with_both_ranges(tmp_path, values, message):
    window = images.Window("fixed", 0, 1500)
    for call in (window.apply, lambda v: images.from_array(v, window=window)):
        with pytest.raises(ValueError, match=message):
            call(values)
    if values.dtype in (np.uint8, np.uint16):
        with pytest.raises(ValueError, match=rf"a\.png: .*{message}"):
            images.read_image(save(tmp_path, Image.fromarray(values)), window=window)


def test_one_percent_inside_is_enough():
    window = images.Window("fixed", 100, 200)
    values = np.full(1000, 500)
    values[:10] = np.arange(140, 150)
    assert window.apply(values)[:10].max() < 255
    values[:1] = 500
    with pytest.raises(ValueError, match=r"from 141 to 500 .* 0\.9 % of the pixels are inside"):
        window.apply(values)


def test_a_fixed_window_within_8_bits_takes_8_bits():
    np.testing.assert_array_equal(images.Window("fixed", 0, 255).apply(GREY), GREY)
    np.testing.assert_array_equal(images.Window("fixed", 10, 200).apply(GREY), windowed(GREY, 10, 200))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_windows_take_raw_values_of_every_kind_of_file(tmp_path, window):
    voi = {"WindowCenter": 9000, "WindowWidth": 8000, "RescaleSlope": 2, "RescaleIntercept": -4000}
    upright, inverted = dicom(DEEP, tmp_path / "a.dcm", **voi), dicom(DEEP, tmp_path / "b.dcm", "MONOCHROME1", **voi)
    volume = nifti(np.stack([DEEP, DEEP[::-1]], axis=2), tmp_path / "a.nii")
    picture = save(tmp_path, Image.fromarray(DEEP))
    white = save(tmp_path, Image.fromarray(DEEP), "a.tif", tiffinfo={262: 0})

    def read(path, **options):
        return images.read_image(path, channels=1, window=window, **options)[..., 0]

    rescaled = 2.0 * DEEP - 4000
    np.testing.assert_array_equal(images.read_values(upright), rescaled)
    np.testing.assert_array_equal(images.read_values(inverted), rescaled)
    if window.kind == "file":
        np.testing.assert_array_equal(read(upright), grey_of(upright))
        np.testing.assert_array_equal(read(upright), windowed(rescaled, 8999.5 - 7999 / 2, 8999.5 + 7999 / 2))
    else:
        np.testing.assert_array_equal(read(upright), windowed(rescaled, *bounds(window, rescaled)))
    np.testing.assert_array_equal(read(inverted), 255 - read(upright))
    shown = windowed(DEEP, *bounds(window, DEEP))
    np.testing.assert_array_equal(read(picture), shown)
    np.testing.assert_array_equal(read(white), 255 - shown)
    np.testing.assert_array_equal(read(volume, frame=0), shown.T)
    np.testing.assert_array_equal(images.from_array(DEEP, channels=1, window=window)[..., 0], shown)


def test_colour_goes_through_one_window_and_alpha_through_none(tmp_path):
    window = images.Window("percentile", 5, 95)
    path = save(tmp_path, Image.fromarray(COLOUR))
    expected = windowed(COLOUR, *np.percentile(COLOUR, [5, 95]))
    np.testing.assert_array_equal(images.read_image(path, window=window), expected)
    rgba = np.dstack([COLOUR, GREY])
    over_black = images.read_image(save(tmp_path, Image.fromarray(rgba), "b.png"))
    expected = windowed(over_black, *np.percentile(over_black, [5, 95]))
    np.testing.assert_array_equal(images.read_image(tmp_path / "b.png", window=window), expected)
    np.testing.assert_array_equal(images.from_array(rgba, window=window), expected)
    np.testing.assert_array_equal(images.read_values(tmp_path / "b.png"), rgba)


def test_values_are_those_of_the_file(tmp_path):
    labels = (GREY % 5).astype(np.int16)
    np.testing.assert_array_equal(images.read_values(nifti(labels[..., None], tmp_path / "a.nii")), labels.T)
    for array in (GREY, COLOUR, DEEP):
        np.testing.assert_array_equal(images.read_values(save(tmp_path, Image.fromarray(array))), array)
    with pytest.raises(ValueError, match=r"c\.nii: expected pixels of real numbers"):
        images.read_values(nifti(np.zeros((3, 3, 1), np.complex64), tmp_path / "c.nii"))


@calm
@given(
    values=st_np.arrays(st.sampled_from([np.uint8, np.int16, np.float32, np.float64]), st_np.array_shapes(max_dims=3)),
    window=st.sampled_from([*WINDOWS, images.Window("fixed", -1e300, 1e300), images.Window("zscore", -1e308, 1e308)]),
)
@example(values=np.array([2.0**1023, 0.0]), window=images.Window("zscore", -3, 3))
@example(values=np.array([7.97693135e307, 0.0]), window=images.Window("zscore", -3, 3))
@example(values=np.array([-8e307, 0.0, 8e307]), window=images.Window("fixed", -1e308, 1e308))
@example(values=np.array([5e-324, 0.0]), window=images.Window("zscore", -3, 3))
def test_windows_keep_the_order(values, window):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            levels = window.apply(values)
        except ValueError as error:
            levels = str(error)
    if isinstance(levels, str):
        assert re.search("NaN or infinity|fixed window", levels)
        return
    assert (levels.shape, levels.dtype) == (values.shape, np.uint8)
    order = np.argsort(values, axis=None, kind="stable")
    assert (np.diff(levels.ravel()[order].astype(int)) >= 0).all()


# to_uint8


def test_eight_bits_and_bool():
    np.testing.assert_array_equal(images.to_uint8(GREY), GREY)
    np.testing.assert_array_equal(images.to_uint8(np.array([True, False])), [255, 0])


@pytest.mark.parametrize("dtype", ["u2", ">u2", "i2", "u4", "i8", "f2", "f4", "f8"])
def test_the_window_is_that_of_the_percentiles(dtype):
    values = (DEEP // 2).astype(dtype)
    expected = windowed(values, *np.percentile(values.astype(float), [2, 90]))
    np.testing.assert_array_equal(images.to_uint8(values, percentiles=(2, 90)), expected)


def test_constant_and_sparse_images():
    assert not images.to_uint8(np.full((4, 4), 700, np.uint16)).any()
    sparse = np.zeros((100, 100), np.uint16)
    sparse[5, 5] = 900
    assert images.to_uint8(sparse)[5, 5] == 255


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(value):
    with pytest.raises(ValueError, match="NaN or infinity"):
        images.to_uint8(np.array([[0.0, value]]))


@pytest.mark.parametrize("array", [np.zeros((0, 4)), np.zeros(3, complex), np.array(["a"]), np.array([None])])
def test_what_is_not_pixels_is_refused(array):
    with pytest.raises(ValueError, match="expected pixels of real numbers"):
        images.to_uint8(array)


@pytest.mark.parametrize("percentiles", [(99, 1), (5, 5), (-1, 50), (0, 101), (np.nan, 50)])
def test_wrong_percentiles_are_refused(percentiles):
    with pytest.raises(ValueError, match="expected percentiles"):
        images.to_uint8(DEEP, percentiles=percentiles)


@calm
@given(
    st_np.arrays(
        st.sampled_from([np.int16, np.uint16, np.int32, np.float32, np.float64]),
        st_np.array_shapes(max_dims=3),
    )
)
def test_to_uint8_keeps_the_order(values):
    with np.errstate(all="ignore"):
        finite = np.isfinite(np.ptp(values.astype(float)))
    if not finite:
        with pytest.raises(ValueError, match="NaN or infinity"):
            images.to_uint8(values)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        levels = images.to_uint8(values)
    assert (levels.shape, levels.dtype) == (values.shape, np.uint8)
    order = np.argsort(values, axis=None)
    assert (np.diff(levels.ravel()[order].astype(int)) >= 0).all()
    if (values != values.flat[0]).any():
        assert (levels.min(), levels.max()) == (0, 255)


# from_array


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_are_what_their_files_would_be(tmp_path, channels):
    rgba = np.dstack([COLOUR, GREY])
    for array in (GREY, COLOUR, rgba, DEEP):
        expected = images.read_image(save(tmp_path, Image.fromarray(array)), channels=channels)
        np.testing.assert_array_equal(images.from_array(array, channels=channels), expected)
    np.testing.assert_array_equal(
        images.from_array(GREY[..., None], channels=channels), images.from_array(GREY, channels=channels)
    )


def test_arrays_of_the_channels_asked_for_stay():
    phases = RNG.integers(0, 256, (4, 6, 5), dtype=np.uint8)
    np.testing.assert_array_equal(images.from_array(phases, channels=5), phases)
    deep = RNG.normal(size=(4, 6, 4))
    np.testing.assert_array_equal(images.from_array(deep, channels=4), images.to_uint8(deep))
    assert images.from_array(torch.zeros(4, 6, 3, dtype=torch.uint8)).shape == (4, 6, 3)


@pytest.mark.parametrize("shape", [(4,), (4, 6, 2), (4, 6, 5), (2, 4, 6, 3), (0, 4, 3), (4, 6, 0), ()])
def test_arrays_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected an image array \(H, W\)"):
        images.from_array(np.zeros(shape, np.uint8))


def test_arrays_that_are_ambiguous_are_refused():
    with pytest.raises(ValueError, match="RGBA array must be uint8"):
        images.from_array(np.zeros((4, 6, 4), np.float32))
    with pytest.raises(ValueError, match="has 3 channels, 4 are asked for"):
        images.from_array(COLOUR, channels=4)
    with pytest.raises(ValueError, match="NaN"):
        images.from_array(np.full((4, 6), np.nan))


# resize and Placement

sides = st.integers(1, 1200)
sizes = st.tuples(sides, sides)


@pytest.mark.parametrize("target", [(30, 30), (20, 50), (64, 31), (1, 1), (90, 130)])
def test_stretch_is_torchvisions_antialiased_resize(target):
    from torchvision.transforms import functional

    smooth = np.linspace(0, 255, 45 * 65 * 3).reshape(45, 65, 3) + RNG.normal(0, 30, (45, 65, 3))
    image = smooth.clip(0, 255).astype(np.uint8)
    resized, placement = images.resize(image, target)
    expected = functional.resize(torch.from_numpy(image).permute(2, 0, 1), list(target), antialias=True)
    assert resized.dtype == np.uint8
    assert np.abs(resized.astype(int) - expected.permute(1, 2, 0).numpy()).max() <= 1
    assert placement == images.Placement(target[1] / 65, target[0] / 45, 0, 0, (45, 65), target)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("policy", images.POLICIES)
def test_channels_are_resized_one_by_one(channels, policy):
    image = RNG.integers(0, 256, (9, 21, channels), dtype=np.uint8)
    resized, placement = images.resize(image, (12, 10), policy)
    assert resized.shape == (12, 10, channels)
    for c in range(channels):
        alone, same = images.resize(image[..., c : c + 1], (12, 10), policy)
        np.testing.assert_array_equal(resized[..., c], alone[..., 0])
        assert placement == same


def test_letterbox_is_pillows_pad():
    for height, width in ((300, 484), (484, 300), (64, 64), (31, 7)):
        image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
        resized, placement = images.resize(image, (300, 300), "letterbox")
        scale = 300 / max(height, width)
        inner = (round(width * scale), round(height * scale))
        expected = Image.new("RGB", (300, 300))
        corner = ((300 - inner[0]) // 2, (300 - inner[1]) // 2)
        expected.paste(Image.fromarray(image).resize(inner, Image.Resampling.BILINEAR), corner)
        np.testing.assert_array_equal(resized, np.asarray(expected))
        assert (placement.pad_x, placement.pad_y) == corner


def test_a_resized_square_lies_where_its_box_goes():
    image = np.zeros((200, 400, 1), np.uint8)
    image[40:80, 100:300] = 255
    for policy in images.POLICIES:
        resized, placement = images.resize(image, (100, 100), policy)
        x1, y1, x2, y2 = placement.to_input(np.array([100, 40, 300, 80])).round().astype(int)
        inside = np.zeros((100, 100), bool)
        inside[y1:y2, x1:x2] = True
        np.testing.assert_array_equal(resized[..., 0] > 127, inside)


def test_the_same_size_changes_nothing():
    for policy in images.POLICIES:
        resized, placement = images.resize(COLOUR, (7, 5), policy)
        np.testing.assert_array_equal(resized, COLOUR)
        assert placement == images.Placement(1, 1, 0, 0, (7, 5), (7, 5))


def test_resize_refuses_what_is_not_an_image():
    for wrong in (GREY, COLOUR.astype(float), COLOUR[:0], COLOUR[..., :0]):
        with pytest.raises(ValueError, match=r"expected an image \(H, W, C\) uint8"):
            images.resize(wrong, (4, 4))
    for target in ((0, 4), (4, -1)):
        with pytest.raises(ValueError, match="at least 1 pixel"):
            images.resize(COLOUR, target)
    with pytest.raises(ValueError, match=r"'crop'.*'stretch', 'letterbox'"):
        images.resize(COLOUR, (4, 4), "crop")


@calm
@example(original=(1, 1000), target=(10, 10), policy="letterbox")
@given(original=sizes, target=sizes, policy=st.sampled_from(images.POLICIES))
def test_the_picture_lies_inside_and_the_letterbox_keeps_the_aspect(original, target, policy):
    p = images.place(original, target, policy)
    x1, y1, x2, y2 = p.to_input(np.array([0, 0, original[1], original[0]], np.float64))
    assert x1 >= 0
    assert y1 >= 0
    assert x2 <= target[1] + 1e-9
    assert y2 <= target[0] + 1e-9
    for low, high, side in ((x1, x2, target[1]), (y1, y2, target[0])):
        assert abs((high - low) - round(high - low)) < 1e-9
        assert high - low >= 1 - 1e-9
        assert -1e-9 <= (side - high) - low <= 1 + 1e-9
    touched = (x1 == 0 and abs(x2 - target[1]) < 1e-9, y1 == 0 and abs(y2 - target[0]) < 1e-9)
    assert all(touched) if policy == "stretch" else any(touched)
    if policy == "letterbox":
        exact = min(target[0] / original[0], target[1] / original[1])
        assert abs(p.scale_x - exact) * original[1] <= 1
        assert abs(p.scale_y - exact) * original[0] <= 1


@pytest.mark.parametrize("policy", images.POLICIES)
@calm
@given(original=sizes, target=st.tuples(st.integers(32, 640), st.integers(32, 640)), data=st.data())
def test_there_and_back(policy, original, target, data):
    p = images.place(original, target, policy)
    height, width = original
    corner = st.floats(0, 1, width=32)
    shares = np.array(data.draw(st.lists(st.tuples(corner, corner, corner, corner), max_size=5)), np.float32)
    boxes = shares.reshape(-1, 4) * np.array([width, height, width, height], np.float32)
    there = p.to_input(boxes)
    back = p.to_original(there)
    assert there.dtype == back.dtype == np.float32
    np.testing.assert_allclose(back, boxes, atol=1e-3)
    torched = p.to_original(p.to_input(torch.from_numpy(boxes)))
    assert torched.dtype == torch.float32
    np.testing.assert_allclose(torched.numpy(), boxes, atol=1e-3)


def test_boxes_are_cut_to_the_original_and_left_untouched():
    p = images.place((300, 484), (300, 300), "letterbox")
    boxes = torch.tensor([[-50.0, -50.0, 999.0, 999.0]])
    assert p.to_original(boxes).tolist() == [[0, 0, 484, 300]]
    assert boxes.tolist() == [[-50.0, -50.0, 999.0, 999.0]]


@pytest.mark.parametrize("shape", [(0, 4), (4,), (2, 3, 4)])
def test_box_shapes_and_types(shape):
    p = images.place((300, 484), (300, 300), "stretch")
    for move in (p.to_input, p.to_original):
        assert move(np.zeros(shape, int)).dtype == np.float32
        assert move(np.zeros(shape, np.float64)).dtype == np.float64
        assert move(torch.zeros(shape, dtype=torch.int64)).dtype == torch.float32
        assert move(torch.zeros(shape)).shape == torch.Size(shape)
    with pytest.raises(ValueError, match=r"expected boxes \(\.\.\., 4\), got \(2, 5\)"):
        p.to_input(np.zeros((2, 5)))
