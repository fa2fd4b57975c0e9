import inspect
import math
from dataclasses import replace

import pytest
import torch
import torchvision.transforms.v2.functional as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from kornia import augmentation as kornia
from torch import Generator, Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torchvision import tv_tensors

from hccvision.augment import (
    Crop,
    ScanEffects,
    adapt,
    add_noise,
    add_rician_noise,
    adjust_intensity,
    blur,
    draw_affine,
    draw_crop,
    ghost,
    light,
    move_boxes,
    move_images,
    mri,
    none,
    paper,
    shade,
)
from hccvision.augment import noise as noise_module
from hccvision.contracts import Targets
from hccvision.registry import AUGMENTATIONS

SIZE = (96, 128)
NAMES = AUGMENTATIONS.names()


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def lesion(box: tuple[float, ...], size: tuple[int, int] = SIZE, *, shape: str = "ellipse") -> Tensor:
    """Draw one bright lesion that fills its box on black, ``(1, 1, H, W)``; pixel centres lie at 0.5."""
    x1, y1, x2, y2 = box
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    u, v = (2 * x - x1 - x2) / (x2 - x1), (2 * y - y1 - y2) / (y2 - y1)
    inside = u**2 + v**2 <= 1 if shape == "ellipse" else torch.maximum(u.abs(), v.abs()) <= 1
    return inside.float()[None, None]


def bounds(image: Tensor) -> Tensor:
    """Return the tight box of the bright pixels."""
    rows, columns = (image[0] > 0.5).nonzero(as_tuple=True)
    return torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)).float()


def target(*boxes: tuple[float, ...]) -> Targets:
    return Targets.pad([torch.tensor(boxes).reshape(-1, 4)], [torch.arange(len(boxes))])


def move(box: tuple[float, ...], matrix: Tensor, shape: str = "ellipse") -> tuple[Tensor, Tensor]:
    """Move a drawn lesion and its box by the same map; return where the pixels are and where the box is."""
    return bounds(move_images(lesion(box, shape=shape), matrix)[0]), move_boxes(target(box), matrix, SIZE).boxes[0, 0]


# The map


def parts(matrix: Tensor) -> dict[str, Tensor]:
    linear = matrix[:, :2, :2]
    mirror = torch.linalg.det(linear).sign()
    return {
        "mirror": mirror,
        "angle": torch.rad2deg(torch.atan2(linear[:, 1, 0] * mirror, linear[:, 0, 0] * mirror)),
        "zoom": torch.linalg.det(linear).abs().sqrt(),
        "centre": (matrix @ torch.tensor([SIZE[1] / 2, SIZE[0] / 2, 1.0]))[:, :2],
    }


def test_the_map_is_drawn_within_its_limits_and_fills_them():
    drawn = parts(draw_affine(4000, SIZE, seeded(), flip=0.3, rotation=25, translation=0.1, scale=(0.8, 1.3)))
    assert (drawn["mirror"] < 0).float().mean().item() == pytest.approx(0.3, abs=0.03)
    shift = (drawn["centre"] - torch.tensor([64.0, 48.0])) / torch.tensor([128.0, 96.0])
    for values, low, high in (
        (drawn["angle"], -25, 25),
        (drawn["zoom"], 0.8, 1.3),
        (shift[:, 0], -0.1, 0.1),
        (shift[:, 1], -0.1, 0.1),
    ):
        span = high - low
        assert low - 1e-3 * span <= values.min() <= low + 0.01 * span
        assert high - 0.01 * span <= values.max() <= high + 1e-3 * span
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.03 * span)
    independent = torch.corrcoef(torch.stack((drawn["mirror"], drawn["angle"], drawn["zoom"], *shift.T)))
    assert (independent - torch.eye(5)).abs().max() < 0.06


def test_the_default_map_is_the_identity():
    matrix = draw_affine(3, SIZE, seeded())
    torch.testing.assert_close(matrix, torch.eye(3).expand(3, 3, 3))
    images = torch.rand(3, 2, *SIZE)
    torch.testing.assert_close(move_images(images, matrix), images, rtol=0, atol=1e-4)


# Images against independent references


def test_a_mirror_image_is_exact():
    images = torch.rand(2, 3, 10, 13)
    flipped = move_images(images, draw_affine(2, (10, 13), seeded(), flip=1.0))
    torch.testing.assert_close(flipped, images.flip(-1), rtol=0, atol=1e-4)


def test_a_shift_by_whole_pixels_is_exact_and_the_outside_is_black():
    images = torch.rand(1, 1, 10, 13)
    matrix = torch.tensor([[[1.0, 0, 3], [0, 1, -2], [0, 0, 1]]])
    expected = torch.zeros_like(images)
    expected[..., :-2, 3:] = images[..., 2:, :-3]
    torch.testing.assert_close(move_images(images, matrix), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("angle", [-25.0, 10.0, 90.0])
def test_a_rotation_is_torchvisions(angle):
    images = torch.rand(1, 2, 32, 48)
    radians = math.radians(angle)
    linear = torch.tensor([[math.cos(radians), -math.sin(radians)], [math.sin(radians), math.cos(radians)]])
    matrix = torch.eye(3)[None].clone()
    matrix[0, :2, :2] = linear
    matrix[0, :2, 2] = torch.tensor([24.0, 16.0]) - linear @ torch.tensor([24.0, 16.0])
    expected = reference.rotate(images, -angle, interpolation=reference.InterpolationMode.BILINEAR)
    torch.testing.assert_close(move_images(images, matrix), expected, rtol=0, atol=1e-3)


# Boxes follow what they bound

BOX = (40.0, 30.0, 76.0, 50.0)


def test_boxes_follow_a_mirror_image():
    seen, stated = move(BOX, draw_affine(1, SIZE, seeded(), flip=1.0), "rectangle")
    assert seen.tolist() == [52, 30, 88, 50]
    torch.testing.assert_close(stated, seen, rtol=0, atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.booleans())
def test_boxes_follow_shift_and_scale(seed, mirrored):
    matrix = draw_affine(1, SIZE, seeded(seed), flip=float(mirrored), translation=0.15, scale=(0.6, 1.3))
    seen, stated = move(BOX, matrix, "rectangle")
    torch.testing.assert_close(stated, seen, rtol=0, atol=1.0)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_boxes_follow_everything_at_once(seed):
    """A lesion is an ellipse in its box; rasterising it costs up to one and a half pixels."""
    matrix = draw_affine(1, SIZE, seeded(seed), flip=0.5, rotation=40, translation=0.1, scale=(0.8, 1.2))
    seen, stated = move(BOX, matrix)
    torch.testing.assert_close(stated, seen, rtol=0, atol=1.5)


def test_the_box_of_a_rotated_square_bounds_its_inscribed_disc():
    radians = math.pi / 4
    matrix = torch.eye(3)[None].clone()
    matrix[0, :2, :2] = torch.tensor([[math.cos(radians), -math.sin(radians)], [math.sin(radians), math.cos(radians)]])
    matrix[0, :2, 2] = torch.tensor([50.0, 50.0]) - matrix[0, :2, :2] @ torch.tensor([50.0, 50.0])
    moved = move_boxes(target((40.0, 40.0, 60.0, 60.0)), matrix, (100, 100)).boxes
    torch.testing.assert_close(moved[0, 0], torch.tensor([40.0, 40, 60, 60]))


def shifted(x: float, y: float = 0.0) -> Tensor:
    return torch.tensor([[[1.0, 0, x], [0, 1, y], [0, 0, 1]]])


@pytest.mark.parametrize(
    ("x", "y", "expected"), [(-10, 0, [0, 10, 15, 30]), (113, 0, [118, 10, 128, 30]), (0, -18, [5, 0, 25, 12])]
)
def test_boxes_are_cut_at_the_borders(x, y, expected):
    moved = move_boxes(target((5.0, 10.0, 25.0, 30.0)), shifted(x, y), SIZE)
    assert moved.boxes[0, 0].tolist() == expected
    assert moved.labels.tolist() == [[0]]


@pytest.mark.parametrize(
    ("shift", "label"),
    [(-4.0, 0), (-12.0, 0), (-12.5, -1), (-19.9, -1), (-20.0, -1), (-500.0, -1), (500.0, -1)],
)
def test_boxes_that_are_mostly_outside_are_dropped(shift, label):
    """Of a box of 20 columns at the border, 40 % are 8."""
    moved = move_boxes(target((0.0, 10.0, 20.0, 30.0)), shifted(shift), SIZE, visible=0.4)
    assert moved.labels.tolist() == [[label]]
    assert moved.boxes[0, 0].tolist() == ([0, 10, 20 + shift, 30] if label == 0 else [0, 0, 0, 0])


def test_visible_0_keeps_every_visible_box_and_1_only_complete_boxes():
    box = target((0.0, 10.0, 20.0, 30.0))
    assert move_boxes(box, shifted(-19.5), SIZE, visible=0).labels.tolist() == [[0]]
    assert move_boxes(box, shifted(-20), SIZE, visible=0).labels.tolist() == [[-1]]
    assert move_boxes(box, shifted(-0.5), SIZE, visible=1).labels.tolist() == [[-1]]
    assert move_boxes(box, shifted(3), SIZE, visible=1).labels.tolist() == [[0]]


def test_padding_stays_padding_and_image_labels_stay():
    boxes = torch.tensor([[[0.0, 0, 0, 0], [10, 10, 30, 30]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
    before = Targets(boxes, torch.tensor([[-1, 2], [-1, -1]]), torch.tensor([1, 0]))
    copy = boxes.clone()
    moved = move_boxes(before, shifted(4, 3).expand(2, 3, 3), SIZE)
    assert moved.labels.tolist() == [[-1, 2], [-1, -1]]
    assert moved.boxes.tolist() == [[[0, 0, 0, 0], [14, 13, 34, 33]], [[0, 0, 0, 0], [0, 0, 0, 0]]]
    assert moved.image_labels.tolist() == [1, 0]
    assert torch.equal(before.boxes, copy)
    empty = Targets(torch.zeros(2, 0, 4), torch.zeros(2, 0).long())
    assert move_boxes(empty, shifted(4).expand(2, 3, 3), SIZE).boxes.shape == (2, 0, 4)


# Noise, blur, intensity


def test_noise_has_its_share_and_strength():
    images = torch.full((200, 1, 16, 16), 0.5)
    noisy = add_noise(images, seeded(), share=0.5, std=0.03)
    touched = (noisy != images).flatten(1).any(1)
    assert touched.float().mean().item() == pytest.approx(0.5, abs=0.1)
    difference = (noisy - images)[touched]
    assert difference.std().item() == pytest.approx(0.03, rel=0.03)
    assert difference.mean().item() == pytest.approx(0, abs=5e-4)
    assert torch.equal(noisy[~touched], images[~touched])
    assert not torch.equal(difference[0], difference[1])


@pytest.mark.parametrize("change", [add_noise, blur])
def test_a_share_of_none_and_of_all(change):
    images = torch.rand(6, 3, 16, 16)
    before = images.clone()
    strength = {"std": 0.1} if change is add_noise else {"sigma": (0.5, 1.5)}
    assert torch.equal(change(images, seeded(), share=0.0, **strength), before)
    changed = change(images, seeded(), share=1.0, **strength)
    assert (changed != before).flatten(1).any(1).all()
    assert torch.equal(images, before)


def test_noise_stays_in_range():
    noisy = add_noise((torch.rand(4, 3, 32, 32) > 0.5).float(), seeded(), share=1.0, std=0.5)
    assert (noisy.min(), noisy.max()) == (0, 1)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.5])
def test_blur_is_torchvisions(sigma):
    images = torch.rand(2, 3, 24, 32)
    side = 2 * math.ceil(3 * sigma) + 1
    expected = reference.gaussian_blur(images, [side, side], [sigma, sigma])
    given_ = blur(images, seeded(), share=1.0, sigma=(sigma, sigma))
    torch.testing.assert_close(given_, expected, rtol=0, atol=1e-5)


def test_gain_offset_and_gamma_keep_to_their_ranges():
    images = torch.tensor([0.25, 0.5, 0.75]).view(1, 1, 1, 3).expand(300, 1, 1, 3)
    gained = adjust_intensity(images, seeded(), gain=0.2)[:, 0, 0]
    factor = (gained[:, 2] - gained[:, 0]) / 0.5
    assert (factor.min().item(), factor.max().item()) == pytest.approx((0.8, 1.2), abs=0.01)
    torch.testing.assert_close(gained[:, 1], torch.full((300,), 0.5))
    moved = adjust_intensity(images, seeded(), offset=0.1)[:, 0, 0] - images[:, 0, 0]
    assert (moved.min().item(), moved.max().item()) == pytest.approx((-0.1, 0.1), abs=0.005)
    torch.testing.assert_close(moved[:, 0], moved[:, 2])
    exponent = adjust_intensity(images, seeded(), gamma=0.3)[:, 0, 0].log() / images[:, 0, 0].log()
    assert (exponent.min().item(), exponent.max().item()) == pytest.approx((0.7, 1.3), abs=0.02)
    torch.testing.assert_close(exponent[:, 0], exponent[:, 2])
    assert torch.equal(adjust_intensity(images, seeded()), images)


# Everything that is registered


def batch(images: int = 4) -> tuple[Tensor, Targets]:
    pixels = torch.rand(images, 3, *SIZE, generator=seeded(1))
    some = torch.tensor([[10.0, 12.0, 40.0, 50.0], [90.0, 60.0, 126.0, 95.0]])
    boxes = [some[: i % 3] for i in range(images)]  # none, one and two lesions
    return pixels, Targets.pad(boxes, [torch.arange(len(b)) for b in boxes])


@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_contract(name):
    images, targets = batch()
    copies = images.clone(), targets.boxes.clone(), targets.labels.clone()
    for seed in range(5):
        changed, moved = AUGMENTATIONS.build(name)(images, targets, seeded(seed))
        assert (changed.shape, changed.dtype) == (images.shape, images.dtype)
        assert 0 <= changed.min() <= changed.max() <= 1
        assert (moved.boxes.shape, moved.labels.shape) == (targets.boxes.shape, targets.labels.shape)
        assert bool(((moved.labels == targets.labels) | (moved.labels == -1)).all())
        x1, y1, x2, y2 = moved.boxes[moved.valid].unbind(-1)
        assert bool(((x1 >= 0) & (x1 < x2) & (x2 <= SIZE[1]) & (y1 >= 0) & (y1 < y2) & (y2 <= SIZE[0])).all())
        assert not moved.boxes[~moved.valid].any()
    assert torch.equal(images, copies[0])
    assert torch.equal(targets.boxes, copies[1])
    assert torch.equal(targets.labels, copies[2])


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_replays_and_the_global_generator_is_left_alone(name):
    images, targets = batch()
    augment = AUGMENTATIONS.build(name)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = augment(images, targets, seeded(7))
    assert torch.equal(torch.rand(3), expected)
    again = augment(images, targets, seeded(7))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1].boxes, again[1].boxes)
    if name != "none":
        assert not torch.equal(first[0], augment(images, targets, seeded(8))[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_takes_any_number_of_channels_and_no_lesion_at_all(name, channels):
    empty = Targets(torch.zeros(2, 0, 4), torch.zeros(2, 0).long())
    changed, moved = AUGMENTATIONS.build(name)(torch.rand(2, channels, 32, 40), empty, seeded())
    assert changed.shape == (2, channels, 32, 40)
    assert moved.boxes.shape == (2, 0, 4)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_batches_are_refused(name):
    augment = AUGMENTATIONS.build(name)
    images, targets = batch()
    with pytest.raises(TypeError, match=r"images \(B, C, H, W\) float in \[0, 1\], got \(4, 3, 96, 128\) torch.uint8"):
        augment((images * 255).byte(), targets, seeded())
    with pytest.raises(TypeError, match=r"got \(3, 96, 128\) torch.float32"):
        augment(images[0], targets, seeded())
    with pytest.raises(ValueError, match=r"3 images on cpu need as many targets there, got 4 on cpu"):
        augment(images[:3], targets, seeded())
    with pytest.raises(ValueError, match=r"4 images on meta need as many targets there, got 4 on cpu"):
        augment(images.to("meta"), targets, seeded())


# The presets


def test_none_changes_nothing():
    images, targets = batch()
    assert none()(images, targets, seeded())[0] is images


def test_the_papers_preset_follows_a_lesion():
    """Without noise and blur the image shows where the lesion is."""
    augment = paper(noise=0, blurred=0)
    for seed in range(10):
        image, moved = augment(lesion(BOX), target(BOX), seeded(seed))
        torch.testing.assert_close(moved.boxes[0, 0], bounds(image[0]), rtol=0, atol=1.5)
        assert moved.labels.tolist() == [[0]]


def test_the_light_preset_follows_a_lesion():
    augment = light(gain=0, offset=0)
    for seed in range(10):
        image, moved = augment(lesion(BOX, shape="rectangle"), target(BOX), seeded(seed))
        torch.testing.assert_close(moved.boxes[0, 0], bounds(image[0]), rtol=0, atol=1.0)


def test_each_part_of_the_papers_preset_works_alone():
    images, targets = batch()
    still = {"flip": 0, "rotation": 0, "translation": 0, "noise": 0, "blurred": 0}
    torch.testing.assert_close(paper(**still)(images, targets, seeded())[0], images, rtol=0, atol=1e-4)
    flipped = paper(**{**still, "flip": 1})(images, targets, seeded())[0]
    torch.testing.assert_close(flipped, images.flip(-1), rtol=0, atol=1e-4)
    noisy = paper(**{**still, "noise": 1, "noise_std": 0.05})(torch.full_like(images, 0.5), targets, seeded())[0]
    assert noisy.std().item() == pytest.approx(0.05, rel=0.03)
    blurred = paper(**{**still, "blurred": 1})(images, targets, seeded())[0]
    assert (blurred.flatten(1).std(1) < 0.8 * images.flatten(1).std(1)).all()
    assert blurred.mean().item() == pytest.approx(images.mean().item(), abs=0.01)


# The bound of rotated boxes


def test_the_corner_bound_is_torchvisions():
    for angle in (-30.0, 10.0, 45.0):
        radians = math.radians(angle)
        matrix = torch.eye(3)[None].clone()
        matrix[0, :2, :2] = torch.tensor(
            [[math.cos(radians), -math.sin(radians)], [math.sin(radians), math.cos(radians)]]
        )
        centre = torch.tensor([SIZE[1] / 2, SIZE[0] / 2])
        matrix[0, :2, 2] = centre - matrix[0, :2, :2] @ centre
        box = tv_tensors.BoundingBoxes([BOX], format="XYXY", canvas_size=SIZE, dtype=torch.float32)
        expected = reference.rotate(box, -angle)[0].as_subclass(Tensor)
        corners = move_boxes(target(BOX), matrix, SIZE, bound="corners").boxes[0, 0]
        torch.testing.assert_close(corners, expected, rtol=0, atol=1e-3)
        ellipse = move_boxes(target(BOX), matrix, SIZE).boxes[0, 0]
        assert bool((corners[:2] <= ellipse[:2]).all())
        assert bool((corners[2:] >= ellipse[2:]).all())


def test_an_unknown_bound_is_refused():
    with pytest.raises(ValueError, match="unknown bound 'hull'; known: ellipse, corners"):
        move_boxes(target(BOX), shifted(0), SIZE, bound="hull")


@pytest.mark.parametrize("preset", [paper, light, mri])
def test_a_preset_passes_its_bound_on(preset):
    found = [preset(bound=bound)(lesion(BOX), target(BOX), seeded(3))[1].boxes for bound in ("ellipse", "corners")]
    assert torch.equal(*found) == (preset is light)  # which doesn't turn


# Variation between scanners


def test_shading_is_smooth_and_as_strong_as_asked():
    images = torch.full((200, 1, 48, 64), 0.3)
    field = (shade(images, seeded(), strength=0.1) / 0.3).log()
    assert field[:, :, 0, 0].std().item() == pytest.approx(0.1, rel=0.2)  # a corner is a knot
    assert field.diff(dim=-1).abs().max() < 0.05  # of 16 columns between two knots
    assert field.diff(dim=-2).abs().max() < 0.06
    assert torch.equal(shade(images, seeded(), strength=0.0), images)


def test_rician_noise_has_its_known_moments():
    """Dark: Rayleigh, with mean σ√(π/2). Bright: Gaussian, with mean √(A² + σ²) to third order."""
    std = 0.05
    dark = add_rician_noise(torch.zeros(50, 1, 64, 64), seeded(), share=1.0, std=std)
    assert dark.mean().item() == pytest.approx(std * math.sqrt(math.pi / 2), rel=0.01)
    assert dark.std().item() == pytest.approx(std * math.sqrt(2 - math.pi / 2), rel=0.02)
    bright = add_rician_noise(torch.full((50, 1, 64, 64), 0.5), seeded(), share=1.0, std=std)
    assert bright.mean().item() == pytest.approx(math.hypot(0.5, std), rel=2e-3)
    assert bright.std().item() == pytest.approx(std, rel=0.02)
    images = torch.rand(100, 1, 8, 8)
    changed = (add_rician_noise(images, seeded(), share=0.3, std=std) != images).flatten(1).any(1)
    assert changed.float().mean().item() == pytest.approx(0.3, abs=0.12)


def test_ghosts_are_faint_copies_a_fraction_of_the_image_away():
    image = lesion((60, 44, 68, 52), shape="rectangle").expand(40, -1, -1, -1)
    ghosted = ghost(image, seeded(), share=1.0, strength=(0.4, 0.4), copies=(2, 2))
    assert (ghosted.mean(dim=(1, 2, 3)) / image.mean()).tolist() == pytest.approx([1.0] * 40, rel=0.5)
    down = ghosted[:, 0, 0, 64] - ghosted[:, 0, 24, 64]  # half the image above and below: rows 96 / 2 away
    across = ghosted[:, 0, 48, 0] - ghosted[:, 0, 48, 32]
    assert bool(((down > 0.1) ^ (across > 0.1)).all())
    assert (down > 0.1).any()
    assert (across > 0.1).any()
    assert bool((ghosted[:, 0, 48, 64] < 1).all())  # the lesion itself is weaker
    assert torch.equal(ghost(image, seeded(), share=0.0, strength=(0.4, 0.4)), image)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.floats(1.0, 3.0))
def test_a_crop_keeps_one_of_the_lesions_whole(seed, zoom):
    random = seeded(seed)
    corners = torch.rand(6, 3, 2, generator=random) * torch.tensor([SIZE[1] - 24, SIZE[0] - 24])
    boxes = torch.cat((corners, corners + 4 + 20 * torch.rand(6, 3, 2, generator=random)), -1)
    labels = torch.arange(3).repeat(6, 1)
    labels[0] = -1  # an image without a lesion
    labels[1, 1:] = -1
    matrix = draw_crop(Targets(boxes, labels), SIZE, random, share=1.0, zoom=(zoom, zoom))
    torch.testing.assert_close(matrix[:, 0, 0], torch.full((6,), zoom))
    corner, size = -matrix[:, :2, 2] / zoom, torch.tensor([SIZE[1], SIZE[0]]) / zoom
    assert bool((corner >= -1e-3).all())
    assert bool((corner + size <= torch.tensor([SIZE[1], SIZE[0]]) + 1e-3).all())
    moved = move_boxes(Targets(boxes, labels), matrix, SIZE, visible=0.9999)
    assert bool((moved.valid.any(1) == (labels >= 0).any(1)).all())


def test_a_lesion_larger_than_the_crop_and_no_lesions_at_all_are_cropped_anywhere():
    large = target((0.0, 0.0, 128.0, 96.0))
    for targets in (large, Targets(torch.zeros(1, 0, 4), torch.zeros(1, 0).long())):
        corners = [-draw_crop(targets, SIZE, seeded(s), share=1.0, zoom=(2.0, 2.0))[0, :2, 2] / 2 for s in range(200)]
        spread = torch.stack(corners)
        assert bool((spread.min(0).values < torch.tensor([8.0, 6.0])).all())
        assert bool((spread.max(0).values > torch.tensor([56.0, 42.0])).all())
    assert torch.equal(draw_crop(large, SIZE, seeded(), share=0.0, zoom=(2.0, 2.0)), torch.eye(3)[None])


@pytest.mark.parametrize("zoom", [(0.5, 2.0), (2.0, 1.5)])
def test_a_crop_larger_than_the_image_is_refused(zoom):
    with pytest.raises(ValueError, match="expected zoom factors of at least 1, the smaller one first, got"):
        draw_crop(target(BOX), SIZE, seeded(), share=1.0, zoom=zoom)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_ghosts_keep_the_type(dtype):
    image = lesion(BOX)
    ghosted = ghost(image.to(dtype), seeded(), share=1.0, strength=(0.3, 0.3))
    assert ghosted.dtype == dtype
    expected = ghost(image, seeded(), share=1.0, strength=(0.3, 0.3))
    torch.testing.assert_close(ghosted.float(), expected, rtol=0, atol=1e-2)


def test_the_mri_preset_follows_a_lesion_and_leaves_the_liver_on_its_side():
    augment = mri(scan=ScanEffects(bias=0, gain=0, offset=0, gamma=0, noise=0, ghosting=0))
    for seed in range(20):
        image, moved = augment(lesion(BOX), target(BOX), seeded(seed))
        torch.testing.assert_close(moved.boxes[0, 0], bounds(image[0]), rtol=0, atol=2.0)
    left = lesion((10, 40, 30, 60))
    for seed in range(50):
        image, _ = augment(left, Targets(torch.zeros(1, 0, 4), torch.zeros(1, 0).long()), seeded(seed))
        flipped, _ = mri(flip=1.0, crop=Crop(share=0.0))(left, target(), seeded(seed))
        columns = (image[0, 0] > 0.5).nonzero()[:, 1].float()
        assert not len(columns) or columns.mean() < 80
        assert (flipped[0, 0] > 0.5).nonzero()[:, 1].float().mean() > 64


# Adapted transforms


def test_a_kornia_module_moves_images_and_boxes_alike():
    augment = adapt(kornia.RandomAffine(degrees=0.0, translate=(0.1, 0.1), scale=(0.8, 1.2), p=1.0))
    for seed in range(10):
        image, moved = augment(lesion(BOX, shape="rectangle"), target(BOX), seeded(seed))
        torch.testing.assert_close(moved.boxes[0, 0], bounds(image[0]), rtol=0, atol=1.0)
    several = adapt(kornia.AugmentationSequential(kornia.RandomHorizontalFlip(p=1.0), kornia.RandomVerticalFlip(p=1.0)))
    image, moved = several(lesion(BOX, shape="rectangle"), target(BOX), seeded())
    torch.testing.assert_close(moved.boxes[0, 0], bounds(image[0]))
    shift = adapt(kornia.RandomAffine(0.0, translate=(0.999, 0.0), p=1.0))
    gone = [shift(lesion(BOX), target(BOX), seeded(s))[1].labels.item() for s in range(40)]
    assert set(gone) == {0, -1}  # boxes that leave the image are dropped


def test_an_adapted_callable_is_replayed_by_its_generator():
    def speckle(images, targets):
        return images * (1 + 0.1 * torch.randn_like(images)), targets

    augment = adapt(speckle)
    images, targets = batch()
    torch.manual_seed(1)
    first, same = augment(images, targets, seeded(4))
    torch.manual_seed(2)
    again, _ = augment(images, targets, seeded(4))
    other, _ = augment(images, targets, seeded(5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert same is targets
    assert 0 <= first.min() <= first.max() <= 1


@pytest.mark.parametrize("wrong", [3, lambda images: images, "kornia"])
def test_anything_but_a_transform_is_refused(wrong):
    with pytest.raises(TypeError, match="expected a kornia module, or a callable on"):
        adapt(wrong)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("factor", "message"), [(255.0, "0 to 255"), (-1.0, "-1 to"), (math.nan, "nan")])
def test_images_out_of_range_are_refused(name, factor, message):
    images, targets = batch()
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 0.0, 1.0
    with pytest.raises(ValueError, match=rf"images in \[0, 1\], got .*{message}|got nan"):
        AUGMENTATIONS.build(name)(images * factor, targets, seeded())


class FakeCuda(TorchFunctionMode):
    """Compute shapes and devices of CUDA tensors without CUDA: mixed devices and reading values back are errors."""

    fake = FakeTensorMode()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        leaves = tree_leaves((args, kwargs))
        if not any(isinstance(x, FakeTensor) or (isinstance(x, torch.device) and x.type == "cuda") for x in leaves):
            return func(*args, **kwargs or {})

        def there(x):
            return self.fake.from_tensor(x) if isinstance(x, Tensor) and not isinstance(x, FakeTensor) else x

        args, kwargs = tree_map(there, (args, kwargs or {}))
        with self.fake:
            return func(*args, **kwargs)


EVERYTHING = {
    "noise": 1.0,
    "blurred": 1.0,
    "crop": Crop(share=1.0),
    "scan": ScanEffects(noise=1.0, ghosting=1.0),
}


@pytest.mark.parametrize("shares", [{}, EVERYTHING])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_read_back_from_the_device(name, shares):
    images, targets = batch()
    targets = replace(targets, masks=torch.zeros(len(images), *SIZE, dtype=torch.int64))
    cuda = torch.device("cuda:0")
    known = inspect.signature(AUGMENTATIONS.get(name)).parameters
    augment = AUGMENTATIONS.build(name, **{key: value for key, value in shares.items() if key in known})
    with FakeCuda():
        try:
            moved, boxes = augment(images.to(cuda), targets.to(cuda), seeded())
        except RuntimeError as error:
            if "CUDA driver" in str(error):
                pytest.skip("this torch asks for a driver even of tensors that only say they are on CUDA")
            raise
        finally:
            noise_module._pool.cache_clear()  # it holds fake tensors now
    assert moved.shape == images.shape
    parts = (moved, boxes.boxes, boxes.labels, boxes.masks)
    assert {part.device.type for part in parts} == {"cuda"}


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_on_cuda_nothing_waits_for_the_device(name):
    images, targets = batch()
    targets = replace(targets, masks=torch.zeros(len(images), *SIZE, dtype=torch.int64))
    augment, images, targets = AUGMENTATIONS.build(name), images.cuda(), targets.to("cuda")
    augment(images, targets, seeded())
    torch.cuda.set_sync_debug_mode("error")
    try:
        moved, _ = augment(images, targets, seeded(1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert moved.is_cuda
