"""Arrays, tensors and Pillow images to images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import COLOUR, DEEP, GREY, RNG, save
from PIL import Image

from hccvision import images


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
    with pytest.raises(ValueError, match="expected 4 channels, the image has 3"):
        images.from_array(COLOUR, channels=4)
    with pytest.raises(ValueError, match="NaN"):
        images.from_array(np.full((4, 6), np.nan))


# to_image: Pillow images


def of_mode(mode: str) -> Image.Image:
    """An image of any mode, with an alpha channel or values where it has them."""
    if mode == "P":
        image = Image.fromarray(COLOUR).quantize(8)
        image.info["transparency"] = 1
        return image
    if mode == "PA":
        image = Image.fromarray(COLOUR).quantize(8).convert("PA")
        image.putalpha(Image.fromarray(GREY))
        return image
    if mode == "I;16":
        return Image.fromarray(DEEP)
    if mode in ("I", "F"):
        return Image.fromarray((DEEP - 9000.0).astype(np.int32 if mode == "I" else np.float32))
    image = Image.fromarray(COLOUR).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(GREY))
    return image


MODES = {
    ".png": ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"],
    ".tif": ["1", "L", "RGB", "RGBA", "LA", "PA", "I;16", "I", "F", "CMYK", "YCbCr"],
}


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in MODES.items() for mode in modes])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_pillow_image_of_any_mode_is_what_its_file_would_be(tmp_path, suffix, mode, channels):
    image = of_mode(mode)
    assert image.mode == mode
    path = save(tmp_path, image, f"a{suffix}")
    try:
        Image.open(path).load()
    except OSError:
        pytest.skip("this Pillow can't read what it has written")  # YCbCr in TIFF, before Pillow 13
    for window in (images.Window(), images.Window("percentile", 5, 90)):
        options = {"channels": channels, "window": window}
        expected = images.read_image(path, **options)
        assert len(np.unique(expected)) > 1
        np.testing.assert_array_equal(images.to_image(image, **options), expected)
        with Image.open(path) as file:
            assert file.mode == mode
            np.testing.assert_array_equal(images.to_image(file, **options), expected)
    if mode in ("RGBA", "LA"):
        np.testing.assert_array_equal(images.to_image(image, channels=len(mode)), np.asarray(image))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr"])
def test_an_open_jpeg_is_what_its_file_is(tmp_path, mode):
    path = save(tmp_path, Image.fromarray(COLOUR).convert(mode), "a.jpg")
    with Image.open(path) as file:
        np.testing.assert_array_equal(images.to_image(file), images.read_image(path))


@pytest.mark.parametrize("mode", ["HSV", "RGBX", "RGBa", "La", "I;16B"])
def test_modes_no_lossless_file_has_are_converted(mode):
    source = {"La": "LA", "RGBa": "RGBA", "I;16B": "I;16"}.get(mode, "RGB")
    image = of_mode(source)
    other = image.convert(mode) if mode != "I;16B" else Image.frombytes(mode, image.size, DEEP.astype(">u2").tobytes())
    assert other.mode == mode
    difference = images.to_image(other).astype(int) - images.to_image(image)
    assert np.abs(difference).max() <= (8 if mode == "HSV" else 2)  # premultiplied and hue values are rounded


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("name", "source"), [("a.png", COLOUR), ("a.jpg", GREY), ("a.tif", DEEP)])
def test_the_orientation_of_a_pillow_image_is_applied(tmp_path, name, source, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, Image.fromarray(source), name, exif=exif)
    with Image.open(path) as file:
        np.testing.assert_array_equal(images.to_image(file), images.read_image(path))
    image = Image.fromarray(source)
    image.getexif()[0x0112] = orientation
    assert images.to_image(image).shape[:2] == ((5, 7) if orientation > 4 else (7, 5))


def test_a_tiff_whose_zero_is_white_and_its_pages(tmp_path):
    path = save(tmp_path, Image.fromarray(DEEP), "a.tif", tiffinfo={262: 0})
    with Image.open(path) as file:
        np.testing.assert_array_equal(images.to_image(file), images.read_image(path))
    path = save(tmp_path, Image.fromarray(GREY), "b.tif", save_all=True, append_images=[Image.fromarray(255 - GREY)])
    with Image.open(path) as file:
        for page in (0, 1):
            file.seek(page)
            np.testing.assert_array_equal(images.to_image(file), images.read_image(path, frame=page))


def test_a_pillow_image_that_breaks_off_is_an_error(tmp_path):
    path = save(tmp_path, Image.fromarray(RNG.integers(0, 256, (64, 64), dtype=np.uint8)))
    path.write_bytes(path.read_bytes()[:2000])
    with Image.open(path) as file, pytest.raises(ValueError, match="Pillow image: can't be read as an image"):
        images.to_image(file)


# to_image: tensors and arrays


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float16, torch.bfloat16, torch.float32, torch.bool])
def test_a_tensor_is_what_its_array_is(dtype):
    for array in (GREY, COLOUR, GREY[..., None]):
        tensor = torch.from_numpy(array).to(dtype)
        expected = images.from_array((tensor.float() if dtype == torch.bfloat16 else tensor).numpy())
        np.testing.assert_array_equal(images.to_image(tensor), expected)
        if array.ndim == 3:
            np.testing.assert_array_equal(images.to_image(tensor.permute(2, 0, 1)), expected)


def test_a_tensor_that_requires_grad_or_lies_in_other_memory():
    values = torch.rand(3, 7, 5, requires_grad=True)
    expected = images.from_array(values.detach().permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(images.to_image(values), expected)
    last = values.detach().to(memory_format=torch.contiguous_format).permute(1, 2, 0)
    np.testing.assert_array_equal(images.to_image(last), expected)
    assert values.requires_grad


@pytest.mark.gpu
def test_a_tensor_on_another_device():
    tensor = torch.from_numpy(COLOUR)
    np.testing.assert_array_equal(images.to_image(tensor.cuda()), COLOUR)


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_channels_first_is_for_tensors_alone(channels):
    wanted = channels if channels in (4, 5) else 3
    tensor = torch.randint(0, 256, (channels, 7, 9), dtype=torch.uint8)
    image = images.to_image(tensor, channels=wanted)
    assert image.shape == (7, 9, wanted)
    with pytest.raises(ValueError, match=r"expected an image array .* channels last"):
        images.to_image(tensor.numpy(), channels=wanted)
    with pytest.raises(ValueError, match=r"expected an image array"):
        images.from_array(tensor, channels=wanted)


@pytest.mark.parametrize("shape", [(3, 7, 3), (4, 6, 3), (1, 8, 4), (1, 1, 1)])
def test_a_tensor_whose_channels_may_be_first_or_last_is_refused(shape):
    with pytest.raises(ValueError, match=r"tensor of shape \(.*\) is ambiguous, .* channels last"):
        images.to_image(torch.zeros(shape, dtype=torch.uint8))
    assert images.to_image(np.zeros(shape, np.uint8)).shape == (*shape[:2], 3)


def test_what_is_no_image_is_refused():
    for item in ("a.png", Path("a.png")):
        with pytest.raises(TypeError, match=r"path a\.png: use read_image"):
            images.to_image(item)
    for shape in ((4,), (2, 7, 5), (2, 3, 7, 5), (0, 5), ()):
        with pytest.raises(ValueError, match="expected an image array"):
            images.to_image(torch.zeros(shape))
    with pytest.raises(ValueError, match="RGBA array must be uint8"):
        images.to_image(torch.zeros(4, 7, 9))
    with pytest.raises(ValueError, match="fixed window"):
        images.to_image(torch.rand(7, 9), window=images.Window("fixed", 0, 1500))


def test_an_array_is_converted_by_from_array():
    for array in (GREY, COLOUR, DEEP, GREY.tolist()):
        np.testing.assert_array_equal(
            images.to_image(array, channels=1), images.from_array(np.asarray(array), channels=1)
        )
