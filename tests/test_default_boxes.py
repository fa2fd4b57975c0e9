import json
import math
from dataclasses import asdict, replace
from fractions import Fraction

import numpy as np
import pytest
import torch
import torchvision.ops as reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from hccvision.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from hccvision.default_boxes import (
    PRESETS,
    DefaultBoxSpec,
    MapSpec,
    coverage,
    decode,
    encode,
    generate,
    match,
    matched_targets,
    preset,
    reachable,
    ssd_shapes,
    suggest,
)

quick = settings(deadline=None, max_examples=50)

# As the two programs print them: (map size, step, smallest side, next side, aspect ratios), in pixels of 300
MOBILENET = [
    (19, 16, 60, 105, (2, 3)),
    (10, 32, 105, 150, (2, 3)),
    (5, 64, 150, 195, (2, 3)),
    (3, 100, 195, 240, (2, 3)),
    (2, 150, 240, 285, (2, 3)),
    (1, 300, 285, 330, (2, 3)),
]
VGG = [
    (38, 8, 30, 60, (2,)),
    (19, 16, 60, 111, (2, 3)),
    (10, 32, 111, 162, (2, 3)),
    (5, 64, 162, 213, (2, 3)),
    (3, 100, 213, 264, (2,)),
    (1, 300, 264, 315, (2,)),
]


def plain_default_boxes(table, clamp):
    """pytorch-ssd's order and arithmetic, box by box."""
    boxes = []
    for size, step, smallest, largest, ratios in table:
        for row in range(size):
            for column in range(size):
                cx, cy = (column + 0.5) * step / 300, (row + 0.5) * step / 300
                side, larger = smallest / 300, math.sqrt(smallest * largest) / 300
                boxes += [(cx, cy, side, side), (cx, cy, larger, larger)]
                for ratio in ratios:
                    long, short = side * math.sqrt(ratio), side / math.sqrt(ratio)
                    boxes += [(cx, cy, long, short), (cx, cy, short, long)]
    return np.clip(boxes, 0, 1) if clamp else np.array(boxes)


def squares(side, count, seed=0):
    """Random squares inside the image, sides as shares of it."""
    corner = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * (1 - side)
    return torch.cat((corner, corner + side), -1)


# the sets


@pytest.mark.parametrize(
    ("spec", "count", "sums"),
    [
        (PRESETS["ssd300_mobilenet"], 3000, (1538.6400, 1538.6400, 862.7490, 862.7490)),
        (replace(PRESETS["ssd300_mobilenet"], clip=False), 3000, (1539.4400, 1539.4400, 866.9607, 866.9607)),
        (PRESETS["ssd300_caffe"], 1917, (958.5, 958.5, 604.6628, 604.6628)),
        (PRESETS["ssd300_vgg"], 8732, None),
        (PRESETS["ssd300_torchvision"], 8732, None),
        (PRESETS["ssd512"], 24564, None),
    ],
)
def test_counts_and_sums(spec, count, sums):
    boxes = generate(spec)
    assert boxes.shape == (count, 4)
    assert boxes.dtype == torch.float32
    assert sum(m.per_cell * m.size**2 for m in spec.maps) == count
    if sums is not None:
        assert boxes.double().sum(0).tolist() == pytest.approx(sums, abs=6e-5)


def test_the_first_cell_of_the_papers_set():
    centre = 8 / 300
    sizes = [(0.2, 0.2), (0.2645751, 0.2645751), (0.2828427, 0.1414214), (0.1414214, 0.2828427)]
    sizes += [(0.3464102, 0.1154701), (0.1154701, 0.3464102)]
    expected = torch.tensor([(centre, centre, w, h) for w, h in sizes])
    torch.testing.assert_close(generate("ssd300_mobilenet")[:6], expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("name", "table"), [("ssd300_mobilenet", MOBILENET), ("ssd300_vgg", VGG)])
@pytest.mark.parametrize("clip", [True, False])
def test_the_order_is_pytorch_ssds(name, table, clip):
    boxes = generate(replace(PRESETS[name], clip=clip))
    np.testing.assert_allclose(boxes.numpy(), plain_default_boxes(table, clip), rtol=0, atol=1e-7)


def test_caffes_set_has_three_boxes_in_its_first_cells_and_even_centres():
    boxes = generate("ssd300_caffe")
    first, second = boxes[: 361 * 3].reshape(19, 19, 3, 4), boxes[361 * 3 :][:600].reshape(10, 10, 6, 4)
    centres = (torch.arange(19) + 0.5) / 19
    torch.testing.assert_close(first[..., 0], centres[None, :, None].expand(19, 19, 3))
    torch.testing.assert_close(first[..., 1], centres[:, None, None].expand(19, 19, 3))
    root = math.sqrt(2)
    shapes = torch.tensor([[60, 60], [60 * root, 60 / root], [60 / root, 60 * root]]) / 300
    torch.testing.assert_close(first[7, 4, :, 2:], shapes)
    assert second[0, 0, 1, 2].item() == pytest.approx(math.sqrt(105 * 150) / 300)
    assert boxes[-1, :2].tolist() == [0.5, 0.5]
    assert boxes[-5, 2].item() == pytest.approx(math.sqrt(285 * 300) / 300)  # the last map's larger square


def test_torchvisions_set_is_torchvisions():
    ratios = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
    scales = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
    generator = DefaultBoxGenerator(ratios, scales=scales, steps=[8, 16, 32, 64, 100, 300])
    maps = [torch.zeros(1, 1, size, size) for size in (38, 19, 10, 5, 3, 1)]
    (expected,) = generator(ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)]), maps)
    torch.testing.assert_close(cxcywh_to_xyxy(generate("ssd300_torchvision")), expected / 300, rtol=0, atol=1e-6)


def test_ssd512_has_the_sides_of_its_caffe_code():
    """In ssd_pascal_512.py: 7 % of the side, then 15 % to 90 % in steps of 15 %, each up to the next."""
    sides = [0.07, *(0.15 * i for i in range(1, 8))]
    for cells, low, high in zip(PRESETS["ssd512"].maps, sides, sides[1:], strict=False):
        assert cells.shapes[0] == pytest.approx((low, low))
        assert cells.shapes[1] == pytest.approx((math.sqrt(low * high),) * 2)
    assert [m.per_cell for m in PRESETS["ssd512"].maps] == [4, 6, 6, 6, 6, 4, 4]


@pytest.mark.parametrize("name", PRESETS)
def test_the_maps_of_a_preset_follow_from_those_of_its_backbone(name):
    spec = PRESETS[name]
    own = [(m.size, m.size) for m in spec.maps]
    assert spec.map_sizes(own[: len(spec.strides)]) == own


def test_a_set_without_sizes_of_its_own_takes_one_cell_per_stride():
    spec = DefaultBoxSpec((MapSpec(((0.2, 0.2),)), MapSpec(((0.4, 0.4),)), MapSpec(((0.8, 0.8),))), strides=(16, 32))
    assert len(generate(spec, (100, 200))) == 7 * 13 + 4 * 7 + 2 * 4
    assert len(generate(spec, (100, 200), [(2, 2), (1, 1), (1, 1)])) == 6


def test_maps_too_small_to_lose_two_cells_are_halved():
    assert PRESETS["ssd300_vgg"].map_sizes([(8, 8), (4, 4)]) == [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1), (1, 1)]
    assert PRESETS["ssd300_vgg"].map_sizes([(26, 42), (13, 21)])[2:] == [(7, 11), (4, 6), (2, 4), (1, 2)]


def test_several_centres_of_a_cell_lie_row_by_row_too():
    spec = DefaultBoxSpec((MapSpec(((0.2, 0.2), (0.4, 0.4)), size=2, centres=2),), strides=(16,))
    expected = [
        ((column + u) / 2, (row + v) / 2, side, side)
        for row in (0, 1)
        for column in (0, 1)
        for v in (0.25, 0.75)
        for u in (0.25, 0.75)
        for side in (0.2, 0.4)
    ]
    torch.testing.assert_close(generate(spec), torch.tensor(expected))
    assert spec.maps[0].per_cell == 8


@pytest.mark.parametrize("image_size", [(300, 484), (484, 300), (96, 512)])
def test_a_square_stays_square_in_pixels_on_an_image_that_is_not(image_size):
    height, width = image_size
    boxes = generate(replace(PRESETS["ssd300_mobilenet"], clip=False), image_size)
    pixels = boxes.double() * torch.tensor([width, height, width, height])
    own = generate(replace(PRESETS["ssd300_mobilenet"], clip=False)).double() * min(image_size)
    torch.testing.assert_close(pixels[:, 2:], own[:, 2:], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", PRESETS)
def test_on_maps_of_other_sizes_the_cells_lie_evenly(name):
    spec = replace(PRESETS[name], clip=False)
    sizes = [(7 + i, 4 + 2 * i) for i in range(len(spec.maps))]
    boxes = generate(spec, (300, 484), sizes)
    start = 0
    for cells, (rows, columns) in zip(spec.maps, sizes, strict=True):
        part = boxes[start : start + rows * columns * cells.per_cell]
        start += len(part)
        centres = [1 / cells.centres * (0.5 + i) for i in range(cells.centres)]
        across = sorted((c + u) / columns for c in range(columns) for u in centres)
        down = sorted((r + v) / rows for r in range(rows) for v in centres)
        assert part[:, 0].unique().tolist() == pytest.approx(across)
        assert part[:, 1].unique().tolist() == pytest.approx(down)
        assert part[:, :2].mean(0).tolist() == pytest.approx([0.5, 0.5], abs=1e-6)
    assert start == len(boxes)


@pytest.mark.parametrize("count", [1, 5, 7])
def test_as_many_map_sizes_as_maps(count):
    with pytest.raises(ValueError, match=rf"for 6 feature maps .* got {count}"):
        generate("ssd300_mobilenet", map_sizes=[(19, 19)] * count)


def test_an_unknown_set_lists_the_known_ones():
    with pytest.raises(KeyError, match="'ssd1024'; known: ssd300_mobilenet, ssd300_caffe, ssd300_vgg, ssd300_torch"):
        generate("ssd1024")


@pytest.mark.parametrize("name", PRESETS)
def test_a_set_survives_a_model_file(name):
    as_data = json.loads(json.dumps(asdict(PRESETS[name])))
    assert preset(as_data) == preset(asdict(PRESETS[name])) == preset(PRESETS[name]) == preset(name)
    assert torch.equal(generate(preset(as_data)), generate(name))


def test_shapes_of_a_ratio_have_the_area_of_the_first_square():
    square, larger, *others = ssd_shapes(60, 105, (2, 3, 1.5))
    assert square == pytest.approx((0.2, 0.2))
    assert larger[0] == pytest.approx(math.sqrt(60 * 105) / 300)
    assert [w * h for w, h in others] == pytest.approx([0.04] * 6)
    assert [w / h for w, h in others] == pytest.approx([2, 1 / 2, 3, 1 / 3, 1.5, 1 / 1.5])
    assert len(ssd_shapes(60, None, (2,))) == 3


# what they reach


def test_the_papers_set_never_reaches_a_lesion_of_42_pixels_and_always_one_of_43():
    boxes = generate("ssd300_mobilenet")
    assert not reachable(boxes, squares(42 / 300, 300)).any()
    assert reachable(boxes, squares(43 / 300, 300)).all()
    centred = boxes[(boxes[:, 2] == boxes[:, 3]) & (boxes[:, 2] < 0.21)]
    limit = math.sqrt(0.5) * 0.2  # 14.14 % of the side
    for side, reached in ((limit - 1e-4, False), (limit + 1e-4, True)):
        lesions = cxcywh_to_xyxy(torch.cat((centred[:, :2], torch.full((len(centred), 2), side)), -1))
        assert len(lesions) == 361
        assert reachable(boxes, lesions).eq(reached).all()


def test_reachable_is_the_best_overlap():
    boxes = generate("ssd300_caffe")
    lesions = cxcywh_to_xyxy(torch.rand(600, 4, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.05)
    overlaps = reference.box_iou(lesions, reference.box_convert(boxes, "cxcywh", "xyxy")).max(1).values
    for threshold in (0.3, 0.5, 0.7):
        found = reachable(boxes, lesions, iou_threshold=threshold)
        assert torch.equal(found, overlaps >= threshold)
        assert 0 < found.sum() < 600
    assert reachable(boxes, torch.zeros(0, 4)).shape == (0,)
    assert reachable(boxes, torch.zeros(0, 4)).dtype == torch.bool


@pytest.mark.parametrize(("side", "stride"), [(12, 8), (15, 8), (20, 8), (12, 4)])
def test_small_squares_on_a_dense_grid_are_reached_as_often_as_geometry_says(side, stride):
    """Squares of any side on cells ``stride`` pixels wide, held against the share of all offsets that they reach."""
    sides = np.arange(side - 4, side + 10.0)
    cells = math.ceil(300 / stride)
    boxes = MapSpec(tuple((s / 300, s / 300) for s in sides), cells, stride / 300)
    found = reachable(generate(DefaultBoxSpec((boxes,), strides=(stride,))), squares(side / 300, 400))
    offset = (np.arange(200) + 0.5) / 200 * stride - stride / 2
    dx, dy, s = offset[:, None, None], offset[None, :, None], sides
    shared = np.ones((200, 200, len(sides)))
    for d in (dx, dy):
        shared = shared * np.clip(np.minimum(side / 2, d + s / 2) - np.maximum(-side / 2, d - s / 2), 0, None)
    expected = (shared / (side**2 + s**2 - shared) >= 0.5).any(-1).mean()
    assert found.float().mean().item() == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 400) * (expected < 1))


def test_the_lesion_set_reaches_small_squares_with_few_boxes():
    boxes = generate("lesion")
    assert len(boxes) <= 20_000
    for side in (0.04, 0.05, 0.07, 0.1, 0.15, 0.25, 0.4):
        assert reachable(boxes, squares(side, 200)).float().mean().item() >= 0.95, side


def test_coverage_counts_what_is_reachable_by_size():
    boxes = generate("ssd300_mobilenet")
    lesions = torch.cat([squares(side, 40) for side in (0.04, 0.1, 0.14, 0.2, 0.3)])
    found = coverage(boxes, lesions, edges=(0.1, 0.25))
    reached = reachable(boxes, lesions)
    assert (found.reached, found.count) == (int(reached.sum()), 200)
    assert found.share == pytest.approx(reached.double().mean().item())
    assert [b[:2] for b in found.bins] == [(0.0, 0.1), (0.1, 0.25), (0.25, 1.0)]
    assert sum(b[2] for b in found.bins) == found.reached
    assert sum(b[3] for b in found.bins) == found.count
    assert found.bins[0][2] == 0
    assert found.bins[2][2:] == (40, 40)


def test_coverage_of_nothing_is_none_and_of_a_whole_image_counts():
    nothing = coverage(generate("lesion"), torch.zeros(0, 4))
    assert (nothing.reached, nothing.count, nothing.bins) == (0, 0, ())
    assert math.isnan(nothing.share)
    assert "none of 0 truths" in str(nothing)
    whole = coverage(generate("lesion"), torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    assert whole.bins == ((0.5, 1.0, 1, 1),)


@pytest.mark.parametrize("edges", [(0.2, 0.1), (0.0, 0.5), (0.5, 1.0), (0.1, 0.1)])
def test_edges_out_of_order_or_range_are_an_error(edges):
    with pytest.raises(ValueError, match="edges ascend within"):
        coverage(generate("lesion"), torch.zeros(0, 4), edges=edges)


# fitted to a data set


@pytest.mark.parametrize("image_size", [(300, 300), (224, 224), (300, 480), (512, 512)])
@pytest.mark.parametrize("shapes", [1, 6, 12])
def test_a_suggestion_covers_more_within_its_number_of_boxes(image_size, shapes):
    generator = torch.Generator().manual_seed(shapes)
    size = torch.rand(80, 2, generator=generator) * 0.12 + 0.04
    corner = torch.rand(80, 2, generator=generator) * (1 - size)
    lesions = torch.cat((corner, corner + size), -1)
    found = suggest(lesions, shapes=shapes, image_size=image_size)
    boxes = generate(found.spec, image_size)
    assert len(boxes) <= 20_000
    assert found.after == coverage(boxes, lesions)
    assert found.before == coverage(generate("ssd300_mobilenet", image_size), lesions)
    assert found.after.reached > found.before.reached
    assert found.after.share >= {1: 0.3, 6: 0.9, 12: 0.92}[shapes]
    backbone = [(-(-image_size[0] // stride), -(-image_size[1] // stride)) for stride in found.spec.strides]
    assert found.spec.map_sizes(backbone)[-1] == (1, 1)


def test_lesions_of_one_shape_get_just_that_shape():
    lesions = squares(0.2, 50) * torch.tensor([1.0, 0.5, 1.0, 0.5])
    spec = suggest(lesions, shapes=5, image_size=(300, 300)).spec
    fitted = [s for m in spec.maps for s in m.shapes if s[0] == pytest.approx(2 * s[1], rel=1e-4)]
    assert (0.2, 0.1) in [(round(w, 4), round(h, 4)) for w, h in fitted]


def test_a_suggestion_does_not_depend_on_the_order_of_the_truths():
    lesions = torch.cat([squares(side, 9) for side in (0.05, 0.1, 0.2, 0.4)])
    order = torch.randperm(len(lesions), generator=torch.Generator().manual_seed(0))
    assert suggest(lesions) == suggest(lesions[order])


def test_a_suggestion_needs_truths_and_room():
    with pytest.raises(ValueError, match="fitted to one truth or more, all with an area, got 0"):
        suggest(torch.zeros(0, 4))
    with pytest.raises(ValueError, match="all with an area, got 1"):
        suggest(torch.tensor([[0.1, 0.1, 0.1, 0.3]]))
    with pytest.raises(ValueError, match="3 default boxes are too few for images of 300×300"):
        suggest(squares(0.1, 5), max_boxes=3)


# encoding


def test_the_offsets_of_a_known_box():
    offsets = encode(torch.tensor([0.52, 0.48, 0.3, 0.1]), torch.tensor([0.5, 0.5, 0.2, 0.2]))
    torch.testing.assert_close(offsets, torch.tensor([1.0, -1.0, 2.027325, -3.465736]), rtol=0, atol=2e-6)


def test_encoding_equals_torchvisions_coder():
    generator = torch.Generator().manual_seed(0)
    boxes, grid = torch.rand(2, 50, 4, generator=generator, dtype=torch.float64) * 0.9 + 0.05
    coder = BoxCoder(weights=(10, 10, 5, 5), bbox_xform_clip=math.inf)
    expected = coder.encode_single(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(grid))
    torch.testing.assert_close(encode(boxes, grid), expected)
    decoded = coder.decode_single(expected, cxcywh_to_xyxy(grid))
    torch.testing.assert_close(cxcywh_to_xyxy(decode(expected, grid)), decoded)


place, extent = st.floats(-1, 2), st.floats(1e-3, 2)
cxcywh = st.tuples(place, place, extent, extent)


@quick
@given(st.lists(st.tuples(cxcywh, cxcywh), min_size=1, max_size=5), st.sampled_from([(0.1, 0.2), (1.0, 1.0)]))
def test_encoding_and_decoding_undo_each_other(pairs, variances):
    boxes, grid = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    offsets = encode(boxes, grid, variances)
    torch.testing.assert_close(decode(offsets, grid, variances), boxes, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(encode(decode(offsets, grid, variances), grid, variances), offsets, rtol=1e-6, atol=1e-6)


def test_encoding_takes_batches_and_nothing():
    grid = generate("ssd300_caffe")[:5]
    boxes = torch.rand(2, 3, 5, 4) + 0.1
    assert torch.equal(encode(boxes, grid)[1, 2], encode(boxes[1, 2], grid))
    assert torch.equal(decode(boxes, grid)[1, 2], decode(boxes[1, 2], grid))
    assert encode(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)
    assert decode(torch.zeros(2, 0, 4), torch.zeros(0, 4)).shape == (2, 0, 4)


# matching


def greedy_pairs(overlaps):
    """The pairs one by one: the best overlap left, then the first truth, then the first default box."""
    pairs = sorted((-o, t, b) for t, row in enumerate(overlaps) for b, o in enumerate(row))
    box_of, taken = {}, set()
    for _, t, b in pairs:
        if t not in box_of and b not in taken:
            box_of[t] = b
            taken.add(b)
    return box_of


def plain_match(overlaps, boxes, threshold=0.5):
    """For each default box the truth it stands for: the best one from the threshold up, then the pairs."""
    truth = []
    for b in range(boxes):
        column = [row[b] for row in overlaps]
        best = max(column, default=0)
        truth.append(column.index(best) if column and best >= threshold else -1)
    for t, b in greedy_pairs(overlaps).items():
        truth[b] = t
    return truth


def exact_iou(a, b):
    """Of boxes with whole corners, as a fraction, so that ties are ties."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return Fraction(shared, sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - shared)


whole = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 4), st.integers(1, 4)).map(
    lambda c: (c[0], c[1], c[0] + c[2], c[1] + c[3])
)


@st.composite
def crowds(draw, images=1):
    """Default boxes, and in each image up to as many truths, alike or the same ones as often as not."""
    grid = draw(st.lists(whole, min_size=1, max_size=7))
    truths = [draw(st.lists(whole, max_size=len(grid))) for _ in range(images)]
    return grid, truths


def as_batch(truths):
    n = max(map(len, truths))
    padded = [[*rows, *[(0, 0, 9, 9)] * (n - len(rows))] for rows in truths]  # padding that would fit well
    valid = [[True] * len(rows) + [False] * (n - len(rows)) for rows in truths]
    return torch.tensor(padded, dtype=torch.float32).reshape(len(truths), n, 4), torch.tensor(
        valid, dtype=torch.bool
    ).reshape(len(truths), n)


def as_grid(boxes):
    return xyxy_to_cxcywh(torch.tensor(boxes, dtype=torch.float32))


@settings(deadline=None, max_examples=200)
@given(crowds())
def test_every_truth_has_a_default_box_and_all_is_as_the_greedy_rule_says(crowd):
    grid, truths = crowd
    found = match(as_grid(grid), *as_batch(truths))
    overlaps = [[exact_iou(t, b) for b in grid] for t in truths[0]]
    assert found.truth[0].tolist() == plain_match(overlaps, len(grid))
    assert set(range(len(truths[0]))) <= set(found.truth[0].tolist())
    for b, (t, overlap) in enumerate(zip(found.truth[0].tolist(), found.iou[0].tolist(), strict=True)):
        expected = overlaps[t][b] if t >= 0 else max((row[b] for row in overlaps), default=0)
        assert overlap == pytest.approx(float(expected), abs=1e-6)


@quick
@given(crowds(images=3))
def test_a_batch_is_matched_as_its_images_are(crowd):
    grid, truths = crowd
    together = match(as_grid(grid), *as_batch(truths))
    for i, rows in enumerate(truths):
        alone = match(as_grid(grid), *as_batch([rows]))
        assert torch.equal(together.truth[i], alone.truth[0])
        assert torch.equal(together.iou[i], alone.iou[0])


@pytest.mark.parametrize("seed", range(5))
def test_matching_a_crowded_image_is_the_greedy_rule(seed):
    grid = generate("ssd300_mobilenet")[2166:]
    truths = torch.rand(40, 2, generator=torch.Generator().manual_seed(seed)) * 0.1 + 0.3  # all near one another
    truths = torch.cat((truths, truths + 0.3), -1)
    overlaps = reference.box_iou(truths, reference.box_convert(grid, "cxcywh", "xyxy"))
    expected = plain_match(overlaps.tolist(), len(grid))
    assert match(grid, truths[None], torch.ones(1, 40, dtype=torch.bool)).truth[0].tolist() == expected
    assert set(range(40)) <= set(expected)


def test_a_truth_turned_down_takes_the_best_box_left_before_a_worse_suitor():
    """Three truths in a row: the first takes the box of the second, which then takes the box of the third."""
    grid = [(0, 0, 10, 10), (6, 0, 16, 10), (30, 0, 40, 10)]
    truths = [(0, 0, 10, 10), (1, 0, 11, 10), (12, 0, 20, 10)]
    overlaps = [[exact_iou(t, b) for b in grid] for t in truths]
    assert max(overlaps[1]) == overlaps[1][0] < overlaps[0][0]
    assert max(overlaps[2]) == overlaps[2][1] < overlaps[1][1]
    found = match(as_grid(grid), *as_batch([truths]))
    assert found.truth.tolist() == [[0, 1, 2]]


def test_identical_truths_and_truths_that_share_their_best_box_each_keep_one():
    grid = generate("ssd300_mobilenet")
    same = cxcywh_to_xyxy(torch.tensor([0.5, 0.5, 0.1, 0.1])).expand(1, 6, 4)  # too small for IoU 0.5
    found = match(grid, same, torch.ones(1, 6, dtype=torch.bool))
    positive = found.truth[0][found.truth[0] >= 0]
    assert sorted(positive.tolist()) == [0, 1, 2, 3, 4, 5]
    near = cxcywh_to_xyxy(torch.tensor([[[152.0, 152.0, 42.0, 42.0], [152.0, 152.0, 41.0, 41.0]]]) / 300)
    overlaps = reference.box_iou(near[0], reference.box_convert(grid, "cxcywh", "xyxy"))
    assert overlaps[0].argmax() == overlaps[1].argmax()
    found = match(grid, near, torch.ones(1, 2, dtype=torch.bool))
    assert sorted(found.truth[found.truth >= 0].tolist()) == [0, 1]
    assert found.truth[0, overlaps[0].argmax()] == 0


@quick
@given(st.floats(0.25, 0.75), st.floats(0.25, 0.75), st.floats(0.15, 0.154), st.floats(0.001, 0.005))
def test_torchvision_loses_a_truth_where_two_share_their_best_box_and_we_do_not(cx, cy, side, smaller):
    """Two lesions around one centre, too small for IoU 0.6 with any default box: each has one forced box, or none."""
    grid = generate("ssd300_mobilenet")
    near = cxcywh_to_xyxy(torch.tensor([[[cx, cy, side, side], [cx, cy, side - smaller, side - smaller]]]))
    overlaps = reference.box_iou(near[0], reference.box_convert(grid, "cxcywh", "xyxy"))
    assume(overlaps[0].argmax() == overlaps[1].argmax())
    theirs = SSDMatcher(0.6)(overlaps)
    assert theirs[theirs >= 0].tolist() == [1]  # the last one overwrites the first
    ours = match(grid, near, torch.ones(1, 2, dtype=torch.bool), iou_threshold=0.6).truth[0]
    assert sorted(ours[ours >= 0].tolist()) == [0, 1]


@pytest.mark.parametrize("iou_threshold", [0.0, 0.5])
def test_images_are_matched_in_pieces_as_at_once(iou_threshold):
    grid, generator = generate("ssd300_mobilenet"), torch.Generator().manual_seed(0)
    corner, size = torch.rand(2, 12, 30, 2, generator=generator) * 0.5  # more than a piece of the overlaps
    boxes, valid = torch.cat((corner, corner + size), -1), torch.rand(12, 30, generator=generator) < 0.7
    valid[3] = False
    together = match(grid, boxes, valid, iou_threshold=iou_threshold)
    for i in range(12):
        alone = match(grid, boxes[i : i + 1, valid[i]], valid[i : i + 1, valid[i]], iou_threshold=iou_threshold)
        number = torch.cat((valid[i].nonzero().squeeze(1), torch.tensor([-1])))  # index −1 stays −1
        assert torch.equal(together.truth[i], number[alone.truth[0]])
        assert torch.equal(together.iou[i], alone.iou[0])


def test_padding_is_not_matched():
    grid = generate("ssd300_caffe")
    boxes = torch.tensor([[[0.2, 0.2, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]]]).expand(2, 2, 4)
    valid = torch.tensor([[True, False], [False, False]])
    found = match(grid, boxes, valid)
    assert set(found.truth[0].tolist()) == {-1, 0}
    assert torch.equal(found.truth[0], match(grid, boxes[:1, :1], valid[:1, :1]).truth[0])
    assert found.truth[1].eq(-1).all()
    assert found.iou[1].eq(0).all()


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_images_without_truths_are_all_background(batch):
    found = match(generate("ssd300_caffe"), torch.zeros(batch, 0, 4), torch.zeros(batch, 0, dtype=torch.bool))
    assert found.truth.shape == found.iou.shape == (batch, 1917)
    assert found.truth.dtype == torch.int64
    assert found.truth.eq(-1).all()
    assert found.iou.eq(0).all()


def test_more_truths_than_default_boxes_is_an_error():
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0]] * 3])
    grid = generate("ssd300_caffe")[:2]
    with pytest.raises(ValueError, match="3 truths, but there are only 2 default boxes"):
        match(grid, boxes, torch.ones(1, 3, dtype=torch.bool))
    assert sorted(match(grid, boxes, torch.tensor([[True, False, True]])).truth[0].tolist()) == [0, 2]


def test_the_threshold_itself_is_positive():
    grid = as_grid([(0, 0, 4, 4), (0, 0, 4, 4)])
    truths, valid = as_batch([[(0, 0, 4, 2)]])  # IoU exactly 0.5 with both
    assert match(grid, truths, valid).truth.tolist() == [[0, 0]]
    assert match(grid, truths, valid, iou_threshold=0.51).truth.tolist() == [[0, -1]]


# targets of the loss


def test_matched_targets_are_classes_from_1_and_offsets_that_decode_to_the_truths():
    grid = generate("ssd300_mobilenet")
    boxes = torch.tensor([[[0.2, 0.2, 0.5, 0.6], [0.6, 0.55, 0.61, 0.56]], [[0.1, 0.1, 0.9, 0.9], [0, 0, 0, 0]]])
    labels = torch.tensor([[0, 2], [1, -1]])
    truth = match(grid, boxes, labels >= 0).truth
    classes, offsets = matched_targets(grid, boxes, labels, truth)
    assert (classes.shape, classes.dtype, offsets.shape) == ((2, 3000), torch.int64, (2, 3000, 4))
    assert torch.equal(classes == 0, truth < 0)
    assert classes[0].unique().tolist() == [0, 1, 3]
    assert classes[1].unique().tolist() == [0, 2]
    assert offsets[truth < 0].eq(0).all()
    decoded = cxcywh_to_xyxy(decode(offsets, grid))
    for image, box in (truth >= 0).nonzero().tolist():
        torch.testing.assert_close(decoded[image, box], boxes[image, truth[image, box]], rtol=0, atol=1e-5)


def test_targets_of_a_batch_without_lesions():
    grid = generate("ssd300_caffe")
    truth = torch.full((2, len(grid)), -1)
    classes, offsets = matched_targets(grid, torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), truth)
    assert classes.eq(0).all()
    assert offsets.eq(0).all()


@pytest.mark.parametrize("degenerate", [[0.5, 0.5, 0.5, 0.9], [0.5, 0.9, 0.6, 0.5], [math.nan, 0.5, 0.6, 0.9]])
def test_a_truth_without_area_is_an_error_and_never_a_nan(degenerate):
    grid = generate("ssd300_caffe")
    boxes = torch.tensor([[degenerate]])
    truth = match(grid, boxes, torch.ones(1, 1, dtype=torch.bool)).truth
    with pytest.raises(ValueError, match="without area"):
        matched_targets(grid, boxes, torch.zeros(1, 1, dtype=torch.int64), truth)


def test_a_lesion_of_one_pixel_has_finite_offsets():
    grid = generate("ssd300_mobilenet")
    boxes = torch.tensor([[[150.0, 150.0, 151.0, 151.0]]]) / 300
    truth = match(grid, boxes, torch.ones(1, 1, dtype=torch.bool)).truth
    classes, offsets = matched_targets(grid, boxes, torch.zeros(1, 1, dtype=torch.int64), truth)
    assert classes.sum() == 1
    assert torch.isfinite(offsets).all()
