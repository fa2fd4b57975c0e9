"""Resizing, and moving boxes and label maps."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from image_files import COLOUR, GREY, RNG
from PIL import Image

from hccvision import images

calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy


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


# label maps

map_sides = st.integers(1, 40)
map_sizes = st.tuples(map_sides, map_sides)


def label_map(size: tuple[int, int]) -> np.ndarray:
    return np.arange(size[0] * size[1]).reshape(size)  # every pixel of its own


@pytest.mark.parametrize("policy", images.POLICIES)
@calm
@given(original=map_sizes, larger=st.tuples(st.integers(0, 40), st.integers(0, 40)))
def test_a_map_is_restored_exactly_from_a_finer_input(policy, original, larger):
    longest = (max(original) + larger[0], max(original) + larger[1])
    p = images.place(original, longest if policy == "letterbox" else tuple(np.add(original, larger)), policy)
    mask = label_map(original)
    placed = p.place_map(mask, fill=-1)
    assert placed.shape == p.input_size
    np.testing.assert_array_equal(p.restore_map(placed), mask)
    assert (placed == -1).sum() == np.prod(p.input_size) - np.prod(p.resized_size)


@pytest.mark.parametrize("policy", images.POLICIES)
@calm
@given(original=map_sizes, target=map_sizes)
def test_restoring_is_undone_by_placing_where_the_input_is_coarser(policy, original, target):
    p = images.place(original, target, policy)
    height, width = p.resized_size
    mask = label_map(target)
    restored = p.restore_map(mask)
    assert restored.shape == original
    inside = mask[p.pad_y : p.pad_y + height, p.pad_x : p.pad_x + width]
    assert np.isin(restored, inside).all()  # never the padding
    if height <= original[0] and width <= original[1]:
        again = p.place_map(restored, fill=-1)
        np.testing.assert_array_equal(again[p.pad_y : p.pad_y + height, p.pad_x : p.pad_x + width], inside)


@pytest.mark.parametrize("policy", images.POLICIES)
@pytest.mark.parametrize(("original", "target"), [((30, 47), (30, 30)), ((48, 31), (64, 80)), ((7, 5), (3, 9))])
def test_maps_are_resized_as_pillow_and_torch_do(policy, original, target):
    p = images.place(original, target, policy)
    mask = RNG.integers(0, 200, original, dtype=np.uint8)
    height, width = p.resized_size
    inner = p.place_map(mask)[p.pad_y : p.pad_y + height, p.pad_x : p.pad_x + width]
    np.testing.assert_array_equal(
        inner, np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    )
    scaled = torch.nn.functional.interpolate(
        torch.from_numpy(mask)[None, None], size=(height, width), mode="nearest-exact"
    )
    np.testing.assert_array_equal(inner, scaled[0, 0])


def test_a_map_lies_where_the_image_does():
    image = np.zeros((200, 400, 1), np.uint8)
    image[40:80, 100:300] = 255
    for policy in images.POLICIES:
        resized, p = images.resize(image, (100, 100), policy)
        np.testing.assert_array_equal(p.place_map(image[..., 0]), np.where(resized[..., 0] > 127, 255, 0))
        np.testing.assert_array_equal(p.restore_map(p.place_map(image[..., 0])), image[..., 0])


@pytest.mark.parametrize("policy", images.POLICIES)
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_maps_keep_their_kind_and_type(policy, dtype):
    p = images.place((30, 48), (40, 40), policy)
    masks = torch.randint(0, 2, (2, 3, 30, 48)).to(dtype)
    placed = p.place_map(masks, fill=1)
    assert (placed.dtype, placed.shape) == (dtype, (2, 3, 40, 40))
    array = p.place_map(masks.numpy(), fill=1)
    assert isinstance(array, np.ndarray)
    assert array.dtype == masks.numpy().dtype
    np.testing.assert_array_equal(placed, array)
    np.testing.assert_array_equal(p.restore_map(placed), p.restore_map(array))
    assert isinstance(p.restore_map(placed), torch.Tensor)
    np.testing.assert_array_equal(placed[1, 2], p.place_map(masks[1, 2], fill=1))
    assert p.place_map(masks[:0]).shape == (0, 3, 40, 40)


def test_maps_of_another_size_and_fills_of_another_type_are_refused():
    p = images.place((30, 48), (40, 40), "letterbox")
    for kind in (np.zeros, torch.zeros):
        for shape in ((48, 30), (40, 40), (30, 48, 1), (30,)):
            with pytest.raises(ValueError, match=r"expected a label map \(\.\.\., 30, 48\) of the original image, got"):
                p.place_map(kind(shape))
        with pytest.raises(ValueError, match=r"expected a label map \(\.\.\., 40, 40\) of the model's input, got"):
            p.restore_map(kind((30, 48)))
    for mask in (np.zeros((30, 48), np.uint8), torch.zeros((30, 48), dtype=torch.uint8)):
        for fill in (-1, 256, 0.5, np.nan):
            with pytest.raises(ValueError, match=r"can't be held by a label map of (torch\.)?uint8"):
                p.place_map(mask, fill=fill)
        assert p.place_map(mask, fill=255)[0, 0] == 255
    assert np.isnan(p.place_map(np.zeros((30, 48), np.float32), fill=np.nan)[0, 0])
