"""Segmentation masks move with their images, and nothing else changes when there are any."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from kornia import augmentation as kornia
from torch import Generator, Tensor

from hccvision.augment import adapt, draw_affine, move_boxes, move_images, move_masks, move_targets, mri
from hccvision.contracts import Targets
from hccvision.registry import AUGMENTATIONS

SIZE = (96, 128)
NAMES = AUGMENTATIONS.names()


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def disc(x: float, y: float, radius: float) -> Tensor:
    """A disc of ones on zeros, ``(1, H, W) int64``."""
    rows, columns = torch.meshgrid(torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5, indexing="ij")
    return ((columns - x) ** 2 + (rows - y) ** 2 <= radius**2).long()[None]


def batch(images: int = 4) -> tuple[Tensor, Targets]:
    """Random images with two lesions each and masks of the class ids 0, 2 and 5 and of ignored pixels."""
    ids = torch.tensor([-1, 0, 2, 5])
    masks = ids[torch.randint(4, (images, *SIZE), generator=seeded(2))]
    boxes = torch.tensor([[10.0, 12.0, 40.0, 50.0], [60.0, 40.0, 96.0, 75.0]])
    targets = Targets.pad([boxes] * images, [torch.arange(2)] * images, masks=masks)
    return torch.rand(images, 3, *SIZE, generator=seeded(1)), targets


def overlap(mask: Tensor, other: Tensor) -> float:
    return ((mask & other).sum() / (mask | other).sum()).item()


def test_a_flipped_mask_is_exact():
    _, targets = batch()
    assert torch.equal(move_masks(targets.masks, draw_affine(4, SIZE, seeded(), flip=1.0)), targets.masks.flip(-1))


def test_an_identity_map_is_exact():
    _, targets = batch()
    assert torch.equal(move_masks(targets.masks, draw_affine(4, SIZE, seeded())), targets.masks)


def test_a_shift_by_whole_pixels_is_exact_and_the_outside_is_ignored():
    _, targets = batch(1)
    matrix = torch.tensor([[[1.0, 0, 3], [0, 1, -2], [0, 0, 1]]])
    expected = torch.full_like(targets.masks, -1)
    expected[..., :-2, 3:] = targets.masks[..., 2:, :-3]
    assert torch.equal(move_masks(targets.masks, matrix), expected)


@pytest.mark.parametrize("degrees", [-25.0, 10.0, 90.0])
def test_a_rotated_disc_overlaps_its_rotated_image(degrees):
    angle = math.radians(degrees)
    linear = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = torch.eye(3)[None].clone()
    matrix[0, :2, :2] = linear
    matrix[0, :2, 2] = torch.tensor([64.0, 48.0]) - linear @ torch.tensor([64.0, 48.0])
    mask = disc(80, 40, 14)
    image = move_images(mask[None].float(), matrix)[0]
    assert overlap(move_masks(mask, matrix) == 1, image > 0.5) > 0.97


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_moves_a_disc_with_its_image(name):
    mask = disc(60, 50, 20)
    options = {"paper": {"noise": 0, "blurred": 0}, "light": {"gain": 0, "offset": 0}}.get(name, {})
    augment = AUGMENTATIONS.build(name, **options)
    targets = Targets.pad([torch.tensor([[40.0, 30.0, 80.0, 70.0]])], [torch.zeros(1)], masks=mask)
    for seed in range(10):
        image, moved = augment(mask[None].float(), targets, seeded(seed))
        assert overlap(moved.masks == 1, image[0] > 0.5) > 0.9
        rows, columns = (moved.masks[0] == 1).nonzero(as_tuple=True)
        seen = torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)).float()
        torch.testing.assert_close(moved.boxes[0, 0], seen, rtol=0, atol=2.0)


@pytest.mark.parametrize("name", NAMES)
def test_masks_keep_type_and_shape_and_gain_no_class(name):
    images, targets = batch()
    before = targets.masks.clone()
    for seed in range(5):
        masks = AUGMENTATIONS.build(name)(images, targets, seeded(seed))[1].masks
        assert (masks.shape, masks.dtype) == (targets.masks.shape, torch.int64)
        assert set(masks.unique().tolist()) <= {-1, 0, 2, 5}
    assert torch.equal(targets.masks, before)


@pytest.mark.parametrize("name", NAMES)
def test_images_boxes_and_draws_are_the_same_with_and_without_masks(name):
    images, targets = batch()
    augment = AUGMENTATIONS.build(name)
    first, second = seeded(3), seeded(3)
    for _ in range(3):
        with_masks, moved = augment(images, targets, first)
        without, bare = augment(images, replace(targets, masks=None), second)
        assert torch.equal(with_masks, without)
        assert torch.equal(moved.boxes, bare.boxes)
        assert torch.equal(moved.labels, bare.labels)
        assert bare.masks is None
    assert torch.equal(first.get_state(), second.get_state())


def test_changes_of_intensity_leave_masks_alone():
    images, targets = batch()
    still = {"flip": 0.0, "rotation": 0.0, "translation": 0.0}
    moved = AUGMENTATIONS.build("paper", noise=1.0, blurred=1.0, **still)(images, targets, seeded())[1]
    assert torch.equal(moved.masks, targets.masks)


def test_masks_do_not_depend_on_the_type_of_the_images():
    images, targets = batch()
    masks = [mri()(images.to(dtype), targets, seeded(4))[1].masks for dtype in (torch.float32, torch.float64)]
    assert torch.equal(*masks)


def test_move_targets_is_boxes_and_masks_and_move_boxes_is_boxes_alone():
    _, targets = batch(2)
    matrix = draw_affine(2, SIZE, seeded(), rotation=20)
    moved, boxes = move_targets(targets, matrix, SIZE), move_boxes(targets, matrix, SIZE)
    assert torch.equal(moved.boxes, boxes.boxes)
    assert torch.equal(moved.masks, move_masks(targets.masks, matrix))
    assert torch.equal(boxes.masks, targets.masks)
    with pytest.raises(ValueError, match="unknown bound 'hull'"):
        move_targets(targets, matrix, SIZE, bound="hull")


@pytest.mark.parametrize("name", NAMES)
def test_masks_of_another_size_or_count_are_refused(name):
    images, targets = batch()
    for masks in (targets.masks[:, :-1], targets.masks[:3]):
        with pytest.raises(ValueError, match=r"expected one mask per image, \(4, 96, 128\), got"):
            AUGMENTATIONS.build(name)(images, replace(targets, masks=masks), seeded())


# kornia


def test_kornia_moves_masks_with_images():
    mask = disc(60, 50, 20)
    targets = Targets.pad([torch.zeros(0, 4)], [torch.zeros(0)], masks=mask)
    augment = adapt(kornia.RandomAffine(degrees=20.0, translate=(0.1, 0.1), scale=(0.8, 1.2), p=1.0))
    for seed in range(5):
        image, moved = augment(mask[None].float(), targets, seeded(seed))
        assert overlap(moved.masks == 1, image[0] > 0.5) > 0.95


@pytest.mark.parametrize(
    "module",
    [
        kornia.RandomAffine(degrees=20.0, translate=(0.2, 0.2), scale=(0.5, 1.5), p=0.7),
        kornia.RandomElasticTransform(p=1.0),
        kornia.RandomPerspective(0.5, p=1.0),
        kornia.AugmentationSequential(kornia.RandomVerticalFlip(p=0.5), kornia.RandomGaussianNoise(p=1.0)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_kornia_adds_no_class_and_draws_alike_with_and_without_masks(module):
    images, targets = batch()
    augment = adapt(module)
    for seed in range(3):
        moved_images, moved = augment(images, targets, seeded(seed))
        assert moved.masks.dtype == torch.int64
        assert moved.masks.shape == targets.masks.shape
        assert set(moved.masks.unique().tolist()) <= {-1, 0, 2, 5}
        bare_images, bare = augment(images, replace(targets, masks=None), seeded(seed))
        assert torch.equal(moved_images, bare_images)
        assert torch.equal(moved.boxes, bare.boxes)


def test_kornia_flips_masks_exactly():
    images, targets = batch()
    flipped = adapt(kornia.RandomHorizontalFlip(p=1.0))(images, targets, seeded())[1]
    assert torch.equal(flipped.masks, targets.masks.flip(-1))
