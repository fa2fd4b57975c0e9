"""Pictures that Pillow reads."""

import struct
import zlib

import numpy as np
import pytest
from image_files import COLOUR, DEEP, GREY, grey_of, save, windowed
from PIL import Image, ImageOps

from hccvision import images


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


def test_a_camera_picture_with_a_preview_is_one_image(tmp_path):
    path = save(tmp_path, Image.fromarray(COLOUR), "a.mpo", save_all=True, append_images=[Image.fromarray(COLOUR[:3])])
    assert images.read_image(path).shape == (7, 5, 3)


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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_uncompressed_tiff_is_turned_as_its_exif_says(tmp_path, orientation):
    """Pillow maps such a file into memory, with width and height swapped for orientations 5 to 8."""
    pixels = np.random.default_rng(0).integers(0, 256, (17, 23), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "t.tif", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "t.png", exif=exif)
    assert np.array_equal(images.read_image(tmp_path / "t.tif"), images.read_image(tmp_path / "t.png"))
    with (tmp_path / "t.tif").open("rb") as file:
        assert np.array_equal(images.read_image(tmp_path / "t.tif", source=file), images.read_image(tmp_path / "t.png"))


# Colours of 16 bits

COLOURS = np.random.default_rng(0).integers(0, 2**16, (7, 5, 3)).astype(np.uint16)


def deep_png(path, pixels):
    """Write 16-bit colours as PNG: grey with alpha, RGB or RGBA."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def deep_tiff(path, pages, *, order="<", orientation=1, deflate=False, planes=1):
    """Write 16-bit RGB as TIFF, one strip a page; deflated with the horizontal predictor."""
    content = bytearray(b"II*\0" if order == "<" else b"MM\0*")
    content += struct.pack(order + "I", 8)
    for number, pixels in enumerate(pages):
        values = np.diff(pixels, axis=1, prepend=np.uint16(0)) if deflate else pixels
        data = values.astype(order + "u2").tobytes()
        data = zlib.compress(data) if deflate else data
        data += b"\0" * (len(data) % 2)
        tags = {256: pixels.shape[1], 257: pixels.shape[0], 259: 8 if deflate else 1, 262: 2, 274: orientation}
        tags |= {277: 3, 278: pixels.shape[0], 279: len(data), 284: planes, **({317: 2} if deflate else {})}
        end = len(content) + 2 + 12 * (len(tags) + 2) + 4
        entries = {tag: struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags.items()}
        entries[258] = struct.pack(order + "HHII", 258, 3, 3, end)
        entries[273] = struct.pack(order + "HHII", 273, 4, 1, end + 6)
        following = 0 if number == len(pages) - 1 else end + 6 + len(data)
        content += struct.pack(order + "H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries))
        content += struct.pack(order + "I3H", following, 16, 16, 16) + data
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
def test_colours_of_16_bits_are_read_in_full_from_tiff(tmp_path, order, deflate):
    path = deep_tiff(tmp_path / "a.tif", [COLOURS, COLOURS[::-1]], order=order, deflate=deflate)
    for frame, expected in enumerate((COLOURS, COLOURS[::-1])):
        values = images.read_values(path, frame=frame)
        assert values.dtype == np.uint16
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_colours_of_16_bits_stand_upright(tmp_path, orientation):
    path = deep_tiff(tmp_path / "a.tif", [COLOURS], orientation=orientation)
    flat = Image.fromarray((COLOURS[..., 0] >> 8).astype(np.uint8))
    flat.getexif()[274] = orientation
    upright = np.asarray(ImageOps.exif_transpose(flat))
    np.testing.assert_array_equal(images.read_values(path)[..., 0] >> 8, upright)
    assert images.image_size(path) == upright.shape


def test_colours_of_16_bits_are_read_in_full_from_png(tmp_path):
    path = deep_png(tmp_path / "a.png", COLOURS)
    np.testing.assert_array_equal(images.read_values(path), COLOURS)
    np.testing.assert_array_equal(images.read_image(path), images.to_uint8(COLOURS))
    with Image.open(path) as image:
        np.testing.assert_array_equal(images.to_image(image), images.to_uint8(COLOURS))
    dim = deep_png(path, 1000 + COLOURS // 256)  # 256 levels that share 5 upper bytes
    assert len(np.unique(images.read_image(dim))) > 80


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_of_16_bits_is_composited_over_black(tmp_path, channels):
    pixels = np.random.default_rng(1).integers(0, 2**16, (7, 5, channels)).astype(np.uint16)
    values = images.read_values(deep_png(tmp_path / "a.png", pixels))
    expected = pixels[..., :-1] * (pixels[..., -1:] / 65535)
    np.testing.assert_allclose(values.reshape(expected.shape), expected, atol=0.51)


def test_a_broken_file_of_16_bits_is_named(tmp_path):
    path = deep_png(tmp_path / "a.png", COLOURS)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ValueError, match=r"a\.png: can't be read as an image"):
        images.read_image(path)


@pytest.mark.parametrize(("limit", "most"), [("MAX_PIXELS", 5 * 7 - 1), ("MAX_BYTES", 60)])
def test_a_picture_beyond_the_limits_is_refused_before_it_is_decoded(tmp_path, monkeypatch, limit, most):
    monkeypatch.setattr(f"hccvision.images.formats.checks.{limit}", most)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    path = deep_png(tmp_path / "a.png", COLOURS)
    for read in (images.read_image, images.image_size, images.read_labels):
        with pytest.raises(ValueError, match=rf"a\.png: .*more than the {most} that can be read"):
            read(path)
