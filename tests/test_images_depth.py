"""Depth survives until the window: more than 8 bits in any colour mode and any format; and all doors agree."""

import io

import numpy as np
import pytest
import torch
from image_files import dicom, save
from PIL import Image, ImageFilter

import hccvision as hv
from hccvision import images
from hccvision.images import Window

tifffile, imagecodecs = pytest.importorskip("tifffile"), pytest.importorskip("imagecodecs")

RNG = np.random.default_rng(0)
DIM = (1000 + RNG.integers(0, 255, (37, 29, 3))).astype(np.uint16)  # 255 levels, of which the upper bytes tell 2
GREY = DIM[..., 0]
SIGNED = GREY.astype(np.int32) - 1200
OPAQUE, HALF = np.full((37, 29, 1), 65535, np.uint16), np.full((37, 29, 1), 32768, np.uint16)


def with_alpha(pixels, alpha):
    return np.concatenate([pixels.reshape(37, 29, -1), alpha], -1)


CMYK = with_alpha(DIM * 40, GREY[..., None] * 10)
TIFFS = {
    "planes": (np.moveaxis(DIM, -1, 0).copy(), {"photometric": "rgb", "planarconfig": "separate"}, DIM),
    "tiles": (DIM, {"photometric": "rgb", "tile": (16, 16)}, DIM),
    "big": (DIM, {"photometric": "rgb", "bigtiff": True}, DIM),
    "deflate": (DIM, {"photometric": "rgb", "compression": "deflate", "predictor": True}, DIM),
    "jpeg 2000": (DIM, {"photometric": "rgb", "compression": "jpeg2000"}, DIM),
    "12 bits": (GREY, {"bitspersample": 12}, GREY),
    "14 bits": (DIM, {"bitspersample": 14, "photometric": "rgb"}, DIM),
    "float colours": (DIM.astype(np.float32) / 7, {"photometric": "rgb"}, DIM.astype(np.float32) / 7),
    "half float colours": (DIM.astype(np.float16), {"photometric": "rgb"}, DIM.astype(np.float16)),
    "signed colours": (DIM.astype(np.int16) - 1200, {"photometric": "rgb"}, DIM.astype(np.int16) - 1200),
    "float64": (GREY / 7, {}, GREY / 7),
    "float32": (GREY.astype(np.float32) / 7, {}, GREY.astype(np.float32) / 7),
    "int8": (SIGNED.astype(np.int8), {}, SIGNED.astype(np.int8)),
    "int16": (SIGNED.astype(np.int16), {}, SIGNED),
    "int16, big-endian": (SIGNED.astype(np.int16), {"byteorder": ">"}, SIGNED),
    "int32": (SIGNED, {}, SIGNED),
    "uint32": (GREY.astype(np.uint32) * 3_000_000, {}, GREY.astype(np.uint32) * 3_000_000),
    "opaque": (with_alpha(DIM, OPAQUE), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, DIM),
    "alpha": (with_alpha(DIM, HALF), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, DIM * (32768 / 65535)),
    "alpha multiplied already": (with_alpha(DIM, HALF), {"photometric": "rgb", "extrasamples": ["assocalpha"]}, DIM),
    "a fourth channel": (with_alpha(DIM, HALF), {"photometric": "rgb", "extrasamples": ["unspecified"]}, DIM),
    "grey with alpha": (
        with_alpha(GREY, OPAQUE),
        {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]},
        GREY,
    ),
    "cmyk": (CMYK, {"photometric": "separated"}, 65535 * (1 - CMYK[..., :3] / 65535) * (1 - CMYK[..., 3:] / 65535)),
}


@pytest.mark.parametrize("name", TIFFS)
@pytest.mark.filterwarnings("ignore:<tifffile")
def test_tiff(tmp_path, name):
    pixels, options, expected = TIFFS[name]
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    values = images.read_values(tmp_path / "a.tif")
    np.testing.assert_allclose(values, expected, atol=0.51 if "alpha" in name or name == "cmyk" else 0)
    assert images.image_size(tmp_path / "a.tif") == (37, 29)
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.tif"), images.from_array(values))
    assert len(np.unique(images.read_image(tmp_path / "a.tif", window=Window("percentile", 0, 100)))) > 120
    assert images.frame_count(tmp_path / "a.tif") == 1


@pytest.mark.parametrize("pixels", [DIM, DIM / 7], ids=["of 16 bits", "of floats"])
def test_a_tiff_of_deep_colours_that_is_cut_short_is_not_filled_with_zeros(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"a\.tif: .*truncated: its pixels end at byte \d+, the file at \d+"):
        images.read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("photometric", ["cielab", "ycbcr"])
def test_tiff_of_other_colours_is_refused_with_the_reason(tmp_path, photometric):
    tifffile.imwrite(tmp_path / "a.tif", DIM, photometric=photometric)
    with pytest.raises(ValueError, match=r"a\.tif: .*3 channels of 16 bits .*save it as grey or RGB"):
        images.read_image(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="save it as grey or RGB"):
        hv.images.read.verify_image(tmp_path / "a.tif")


def pnm(magic, pixels, most):
    data = pixels.astype(">u2" if most > 255 else np.uint8).tobytes()
    plain = " ".join(map(str, pixels.ravel().tolist())).encode() + b" # end"
    return b"%b\n29 37\n%d\n" % (magic, most) + (plain if magic in (b"P2", b"P3") else data)


@pytest.mark.parametrize("most", [4095, 65535])
@pytest.mark.parametrize(("magic", "pixels"), [(b"P5", GREY), (b"P6", DIM), (b"P2", GREY), (b"P3", DIM)])
def test_pgm_and_ppm(tmp_path, magic, pixels, most):
    (tmp_path / "a.ppm").write_bytes(pnm(magic, pixels, most))
    np.testing.assert_array_equal(images.read_values(tmp_path / "a.ppm"), pixels)
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.ppm"), images.from_array(pixels))


@pytest.mark.parametrize("magic", [b"P5", b"P2"])
def test_labels_of_a_pgm_are_not_scaled(tmp_path, magic):
    labels = GREY % 6
    (tmp_path / "a.pgm").write_bytes(pnm(magic, labels, 5))
    np.testing.assert_array_equal(images.read_labels(tmp_path / "a.pgm"), labels)
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.pgm", channels=1)[..., 0], labels * 51)


@pytest.mark.parametrize(
    ("pixels", "options"), [(DIM, {}), (GREY, {}), (GREY, {"bitspersample": 12}), (SIGNED.astype(np.int16), {})]
)
def test_jpeg_2000(tmp_path, pixels, options):
    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, **options))
    np.testing.assert_array_equal(images.read_values(tmp_path / "a.jp2"), pixels)


def test_a_format_that_can_not_be_read_in_full_depth_is_refused(tmp_path):
    header = bytes.fromhex("01da 00 02 0003") + np.array([29, 37, 3], ">u2").tobytes()
    planes = np.moveaxis(DIM[::-1], -1, 0).astype(">u2").tobytes()
    (tmp_path / "a.sgi").write_bytes(header.ljust(512, b"\0") + planes)
    with pytest.raises(ValueError, match=r"a\.sgi: .*16 bits per channel .*save it as PNG or TIFF"):
        images.read_image(tmp_path / "a.sgi")


def test_a_picture_can_still_be_loaded_by_pillow_afterwards(tmp_path):
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(DIM))
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(images.to_image(image), images.read_image(tmp_path / "a.png"))
        np.testing.assert_array_equal(np.asarray(image), DIM >> 8)


def test_colours_of_16_bits_in_dicom_keep_their_depth_for_a_window(tmp_path):
    path = dicom(DIM, tmp_path / "a.dcm", "RGB")
    window = Window("percentile", 1, 99)
    np.testing.assert_array_equal(images.read_values(path), DIM)
    np.testing.assert_array_equal(images.read_image(path, window=window), window.apply(DIM))
    np.testing.assert_array_equal(images.read_image(path), np.rint(DIM / 65535 * 255).astype(np.uint8))


# Padding


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("rescale", [(1, -1024), (2, 0), (0.5, 100)])
@pytest.mark.parametrize(
    ("padding", "header"),
    [
        (-2000, {"PixelPaddingValue": -2000}),
        (-32768, {"PixelPaddingValue": -32768}),
        (-1995, {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1990}),
        (-1995, {"PixelPaddingValue": -1990, "PixelPaddingRangeLimit": -2000}),
        (2096, {"PixelPaddingValue": 0xF830, "BitsStored": 12, "HighBit": 11}),  # its lower 12 bits
    ],
)
@pytest.mark.parametrize(
    "window", [Window(), Window("zscore"), Window("percentile", 1, 99), Window("fixed", -500, 3000)]
)
def test_padding_is_black_and_changes_nothing_else(tmp_path, photometric, rescale, padding, header, window):
    circle = np.hypot(*(np.mgrid[:64, :64] - 32)) < 30
    dtype = np.uint16 if padding > 0 else np.int16
    body = np.where(circle, RNG.integers(900, 1400, (64, 64)), padding).astype(dtype)
    options = {"RescaleSlope": rescale[0], "RescaleIntercept": rescale[1]}
    got = images.read_image(dicom(body, tmp_path / "a.dcm", photometric, **options, **header), window=window)
    inside = (body[circle].astype(np.int32) * rescale[0] + rescale[1])[None]
    expected = images.from_array(inside, channels=1, window=window)[0, :, 0]
    expected = 255 - expected if photometric == "MONOCHROME1" else expected
    assert (got[~circle] == 0).all()
    np.testing.assert_array_equal(got[circle][:, 0], expected)


@pytest.mark.parametrize("header", [{}, {"PixelPaddingValue": 0}])
def test_a_window_off_the_data_is_named_by_check(tmp_path, header):
    body = RNG.integers(1, 1400, (64, 64)).astype(np.uint16)
    body[:9] = 0
    path = dicom(body, tmp_path / "a.dcm", WindowCenter=-50000, WindowWidth=100, **header)
    with pytest.warns(UserWarning, match=r"a\.dcm: its window \(VOI\) makes one grey of all its values"):
        report = hv.check([hv.Sample(path)])
    (finding,) = [f for f in report.findings if f.kind == "blank_image"]
    assert "nothing but the grey" in finding.message


def test_what_is_not_finite_is_unreadable_and_not_truncated(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.where(GREY > 1200, np.nan, GREY).astype(np.float32))
    (finding,) = [f for f in hv.check([hv.Sample(tmp_path / "a.tif")]).findings if f.level == "error"]
    assert finding.kind == "unreadable_image"
    assert "NaN" in finding.message


# One picture by three doors

PICTURE = Image.fromarray(RNG.integers(0, 256, (40, 30, 3), np.uint8)).filter(ImageFilter.GaussianBlur(2))
EXIF = Image.Exif()
EXIF[0x0112] = 6
DOORS = [
    *((mode, "a.png") for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16")),
    *((mode, "a.tif") for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F")),
    *((mode, "a.jpg") for mode in ("L", "RGB", "CMYK", "YCbCr")),
    *((mode, "a.webp") for mode in ("RGB", "RGBA")),
    ("P", "a.gif"),
]


def converted(mode):
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.applyTransform(PICTURE, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    if mode in ("I;16", "I", "F"):
        return Image.fromarray(np.asarray(PICTURE.convert("L")).astype({"I;16": "u2", "I": "i4", "F": "f4"}[mode]) * 7)
    picture = PICTURE.convert(mode)
    if mode in ("LA", "RGBA"):
        picture.putalpha(PICTURE.getchannel("R"))
    return picture


@pytest.mark.parametrize("exif", [None, EXIF])
@pytest.mark.parametrize(("mode", "name"), DOORS)
def test_a_file_its_picture_and_its_array_are_one_image(tmp_path, mode, name, exif):
    options = {"exif": exif} if exif is not None and name != "a.gif" else {}
    path = save(tmp_path, converted(mode), name, **options)
    expected = images.read_image(path)
    assert expected.shape[:2] == images.image_size(path) == ((30, 40) if options else (40, 30))
    with Image.open(path) as image:
        np.testing.assert_array_equal(images.to_image(image), expected)
        image.load()  # after which Pillow has forgotten what it did not keep
        np.testing.assert_array_equal(images.to_image(image), expected)
        assert image.mode == mode or (mode, image.mode) in (("YCbCr", "RGB"), ("YCbCr", "YCbCr"))
    np.testing.assert_array_equal(images.to_image(images.read_image(path)), expected)
    copy = io.BytesIO(path.read_bytes())
    np.testing.assert_array_equal(images.read_image("elsewhere" + path.suffix, source=copy), expected)


def test_predictions_of_a_file_its_picture_and_its_array_are_equal(tmp_path):
    small = {"image_size": 64, "backbone_options": {"width": 0.1}}
    model = hv.build_model("mobilenet_v1", "linear", classes=["normal", "cancer"], **small)
    for number, (mode, name) in enumerate(DOORS):
        (tmp_path / str(number)).mkdir()
        path = save(tmp_path / str(number), converted(mode), name, **({} if name == "a.gif" else {"exif": EXIF}))
        with Image.open(path) as image:
            found = hv.predict(model, [path, image, images.read_image(path)], device="cpu", batch=1)
        assert all(torch.equal(p.probabilities, found[0].probabilities) for p in found), (mode, name)
