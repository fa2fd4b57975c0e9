"""DICOM, classic and enhanced multi-frame."""

import io
import os
import re
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
from image_files import COLOUR, DEEP, FRAMES, GREY, RNG, dicom, grey_of, groups, windowed
from PIL import Image

from hccvision import images

pydicom = pytest.importorskip("pydicom")


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
    with pytest.raises(ValueError, match=r"a\.dcm: holds 2 frames: choose one"):
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
    path = os.pathsep.join([str(Path(images.__file__).parents[2]), *filter(None, sys.path)])
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


# Padding, and transformations that leave nothing


def scan(*, padding=-2000, stated=None, high=None, **more):
    """A round field of view with values from 0 to 200, padded outside; and where it is padded."""
    y, x = np.mgrid[:40, :40]
    outside = (y - 20) ** 2 + (x - 20) ** 2 > 300
    values = np.where(outside, padding, RNG.integers(0, 201, (40, 40))).astype(np.int16)
    values[0, :5] = padding if high is None else high
    known = {"PixelPaddingValue": padding if stated is None else stated, **more}
    return values, outside, known if high is None else {**known, "PixelPaddingRangeLimit": high}


@pytest.mark.parametrize("case", [{}, {"padding": -32768}, {"padding": 3000}, {"high": -1500}])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "window", [images.Window(), images.Window("percentile"), images.Window("zscore"), images.Window("fixed", 0, 200)]
)
def test_padding_is_black_and_takes_no_part_in_the_window(tmp_path, case, photometric, window):
    values, outside, header = scan(**case)
    path = dicom(values, tmp_path / "a.dcm", PhotometricInterpretation=photometric, **header)
    shown = images.read_image(path, channels=1, window=window)[..., 0]
    body = window.apply(values[~outside])
    expected = 255.0 - body if photometric == "MONOCHROME1" else body
    np.testing.assert_allclose(shown[~outside], expected, atol=window.kind == "zscore")  # the order of sums differs
    assert not shown[outside].any()
    assert len(np.unique(shown)) > 100


def test_padding_is_compared_with_stored_values_and_may_be_written_unsigned(tmp_path):
    values, outside, header = scan(RescaleSlope=1, RescaleIntercept=-1024)
    for stated in (-2000, 63536):
        path = dicom(values, tmp_path / "a.dcm", **header)
        dataset = pydicom.dcmread(path)
        dataset["PixelPaddingValue"] = pydicom.DataElement(0x00280120, "US" if stated > 0 else "SS", stated)
        dataset.save_as(path)
        shown = grey_of(path)
        np.testing.assert_array_equal(shown[~outside], images.to_uint8(values[~outside].astype(np.int64) - 1024))


@pytest.mark.parametrize("window", [images.Window("percentile"), images.Window()])
def test_a_slice_that_is_padding_alone_is_as_without(tmp_path, window):
    path = dicom(np.full((8, 8), 5, np.int16), tmp_path / "a.dcm", PixelPaddingValue=5)
    assert not images.read_image(path, window=window).any()


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ({"RescaleSlope": 0, "RescaleIntercept": 3}, "its rescaling"),
        ({"WindowCenter": -5000, "WindowWidth": 100}, r"its window \(VOI\)"),
        ({"WindowCenter": 5000, "WindowWidth": 100}, r"its window \(VOI\)"),
    ],
)
def test_a_transformation_that_leaves_a_blank_image_is_named(tmp_path, header, what):
    values, _, padded = scan(**header)
    path = dicom(values, tmp_path / "a.dcm", **padded)
    with pytest.warns(UserWarning, match=rf"a\.dcm: {what} makes one grey of all its values, 0 to 200"):
        images.read_image(path)
