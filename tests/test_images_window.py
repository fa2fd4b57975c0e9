"""Grey levels to 8 bits."""

import json
import re
import warnings
from dataclasses import FrozenInstanceError, asdict

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np
from image_files import COLOUR, DEEP, GREY, RNG, dicom, grey_of, nifti, save, windowed
from PIL import Image

from hccvision import images

calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy


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
