import pytest
import torch
import torchvision.ops as reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hccvision.boxes import area, clip, cxcywh_to_xyxy, iou, nms, xyxy_to_cxcywh

quick = settings(deadline=None, max_examples=50)


def random_boxes(n, seed=0, side=100.0, dtype=torch.float32):
    corners = torch.rand(n, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * side
    return torch.cat((corners.amin(1), corners.amax(1)), -1).to(dtype)


def random_scores(n, seed=0):
    """All different, so that the order is beyond doubt."""
    return (torch.randperm(n, generator=torch.Generator().manual_seed(seed)) + 1) / (n + 1)


# Small whole numbers meet every border case: shared edges, boxes in boxes, no area, and IoUs of just the threshold.
grid = st.integers(0, 12)
corner_pairs = st.tuples(grid, grid, grid, grid)
ordered_boxes = st.lists(
    corner_pairs.map(lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3])))
)
any_boxes = st.lists(corner_pairs)  # inside out, too


def tensor(boxes, dtype=torch.float32):
    return torch.tensor(boxes, dtype=dtype).reshape(-1, 4)


# formats


@quick
@given(any_boxes)
def test_conversions_undo_each_other(boxes):
    xyxy = tensor(boxes, torch.float64)
    assert torch.equal(cxcywh_to_xyxy(xyxy_to_cxcywh(xyxy)), xyxy)
    assert torch.equal(xyxy_to_cxcywh(cxcywh_to_xyxy(xyxy)), xyxy)


def test_conversions_equal_torchvisions():
    boxes = random_boxes(50)
    assert torch.equal(xyxy_to_cxcywh(boxes), reference.box_convert(boxes, "xyxy", "cxcywh"))
    assert torch.equal(cxcywh_to_xyxy(boxes), reference.box_convert(boxes, "cxcywh", "xyxy"))


@pytest.mark.parametrize("convert", [xyxy_to_cxcywh, cxcywh_to_xyxy])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(4,), (0, 4), (3, 4), (2, 0, 4), (2, 3, 5, 4)])
def test_conversions_keep_shape_and_dtype(convert, dtype, shape):
    converted = convert(torch.ones(shape, dtype=dtype))
    assert converted.shape == shape
    assert converted.dtype == dtype


# area and overlap


def test_area_equals_torchvisions():
    boxes = random_boxes(50)
    assert torch.equal(area(boxes), reference.box_area(boxes))


def test_boxes_inside_out_have_neither_area_nor_overlap():
    whole = tensor([[0, 0, 10, 10]])
    inside_out = tensor([[8, 2, 2, 8], [2, 8, 8, 2], [8, 8, 2, 2], [5, 5, 5, 5]])
    assert area(inside_out).tolist() == [0.0] * 4
    assert iou(whole, inside_out).tolist() == [[0.0] * 4]
    assert iou(inside_out, inside_out).eq(0).all()


def test_iou_equals_torchvisions():
    boxes, others = random_boxes(60, 1), random_boxes(40, 2)
    torch.testing.assert_close(iou(boxes, others), reference.box_iou(boxes, others), rtol=0, atol=1e-6)
    boxes, others = boxes.double(), others.double()
    torch.testing.assert_close(iou(boxes, others), reference.box_iou(boxes, others), rtol=0, atol=1e-12)


@quick
@given(any_boxes, any_boxes)
def test_iou_is_symmetric_and_within_bounds(boxes, others):
    a, b = tensor(boxes), tensor(others)
    overlap = iou(a, b)
    assert overlap.shape == (len(boxes), len(others))
    assert torch.equal(overlap, iou(b, a).T)
    assert ((overlap >= 0) & (overlap <= 1)).all()


@quick
@given(st.lists(st.tuples(*[st.floats(-1e4, 1e4, width=32)] * 4), min_size=1, max_size=8))
def test_iou_stays_within_bounds_for_any_finite_box(boxes):
    overlap = iou(tensor(boxes), tensor(boxes))
    assert torch.isfinite(overlap).all()
    assert ((overlap >= 0) & (overlap <= 1)).all()


@quick
@given(ordered_boxes)
def test_a_box_with_area_is_wholly_itself(boxes):
    b = tensor(boxes)
    assert torch.equal(iou(b, b).diagonal(), (area(b) > 0).float())


@quick
@given(corner_pairs, corner_pairs)
def test_iou_counts_pixels(box, other):
    cells = [{(x, y) for x in range(b[0], b[2]) for y in range(b[1], b[3])} for b in (box, other)]
    union = len(cells[0] | cells[1])
    expected = len(cells[0] & cells[1]) / union if union else 0.0
    assert iou(tensor([box]), tensor([other])).item() == pytest.approx(expected, abs=1e-7)


def test_iou_takes_leading_axes_that_broadcast():
    boxes = random_boxes(24, 3).reshape(2, 3, 4, 4)
    others = random_boxes(5, 4)
    overlap = iou(boxes, others)
    assert overlap.shape == (2, 3, 4, 5)
    for i in range(2):
        for j in range(3):
            assert torch.equal(overlap[i, j], iou(boxes[i, j], others))
    assert torch.equal(iou(boxes[:, :1], boxes[:1]), iou(boxes[:, :1].expand(2, 3, 4, 4), boxes[:1].expand(2, 3, 4, 4)))


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_iou_with_nothing(n, m):
    assert iou(torch.zeros(n, 4), torch.zeros(m, 4)).shape == (n, m)
    assert iou(torch.zeros(2, n, 4), torch.zeros(m, 4)).shape == (2, n, m)
    assert area(torch.zeros(2, 0, 4)).shape == (2, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    boxes = torch.tensor([[0, 0, 512, 512], [0, 0, 512, 256]], dtype=dtype)
    assert area(boxes).tolist() == [512.0 * 512, 512.0 * 256]
    assert iou(boxes, boxes).tolist() == [[1.0, 0.5], [0.5, 1.0]]


def test_iou_keeps_double_precision():
    boxes = random_boxes(6, dtype=torch.float64)
    assert area(boxes).dtype == torch.float64
    assert iou(boxes, boxes).dtype == torch.float64


@quick
@given(any_boxes.filter(len), any_boxes.filter(len))
def test_gradients_of_iou_are_finite(boxes, others):
    a, b = tensor(boxes).requires_grad_(), tensor(others).requires_grad_()
    iou(a, b).sum().backward()
    assert torch.isfinite(a.grad).all()
    assert torch.isfinite(b.grad).all()


def test_the_gradient_of_iou_is_its_slope():
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]], dtype=torch.float64, requires_grad=True)
    others = torch.tensor([[1.0, 1.0, 6.0, 5.0], [2.0, 0.5, 3.0, 3.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(iou, (boxes, others))


# clipping


@quick
@given(any_boxes, st.integers(1, 12), st.integers(1, 12))
def test_clip_equals_torchvisions(boxes, height, width):
    b = tensor(boxes) - 3
    clipped = clip(b, (height, width))
    assert torch.equal(clipped, reference.clip_boxes_to_image(b, (height, width)))
    assert torch.equal(clip(clipped, (height, width)), clipped)


def test_a_box_wholly_outside_is_left_without_area():
    outside = tensor([[-9, 2, -1, 5], [30, 2, 40, 5], [2, -9, 5, -1], [2, 30, 5, 40]])
    assert area(clip(outside, (10, 20))).tolist() == [0.0] * 4


def test_clip_takes_any_leading_axes_and_leaves_its_argument_alone():
    boxes = random_boxes(6).reshape(2, 3, 4)
    before = boxes.clone()
    assert clip(boxes, (20, 50)).shape == (2, 3, 4)
    assert clip(torch.zeros(0, 4), (20, 50)).shape == (0, 4)
    assert torch.equal(boxes, before)


# non-maximum suppression


def plain_nms(boxes, scores, threshold, labels=None):
    """The rule as the SSD paper says it, one box at a time."""
    left = sorted(range(len(boxes)), key=lambda i: -scores[i])
    kept = []
    while left:
        best, *left = left
        kept.append(best)
        overlaps = reference.box_iou(boxes[best : best + 1].double(), boxes.double())[0].nan_to_num(0)
        left = [i for i in left if overlaps[i] <= threshold or (labels is not None and labels[i] != labels[best])]
    return kept


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.45, 0.7, 1.0])
def test_nms_equals_torchvisions_and_the_plain_rule(compiled, threshold):
    boxes, scores = random_boxes(150), random_scores(150)
    labels = torch.arange(150) % 3
    kept = nms(boxes, scores, threshold, compiled=compiled)
    assert kept.tolist() == reference.nms(boxes, scores, threshold).tolist()
    assert kept.tolist() == plain_nms(boxes, scores, threshold)
    kept = nms(boxes, scores, threshold, labels=labels, compiled=compiled)
    assert kept.tolist() == reference.batched_nms(boxes, scores, labels, threshold).tolist()
    assert kept.tolist() == plain_nms(boxes, scores, threshold, labels)


@st.composite
def nms_cases(draw):
    boxes = tensor(draw(any_boxes), draw(st.sampled_from([torch.float16, torch.float32, torch.float64])))
    n = len(boxes)
    scores = torch.tensor(draw(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.9]), min_size=n, max_size=n)))
    labels = torch.tensor(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), dtype=torch.int64)
    threshold = draw(st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.3, 1 / 3, 0.45, 0.5, 0.6, 0.7, 1.0]))
    return boxes, scores, threshold, draw(st.sampled_from([None, labels]))


@quick
@given(nms_cases())
def test_pure_and_compiled_nms_are_the_same(case):
    boxes, scores, threshold, labels = case
    pure = nms(boxes, scores, threshold, labels=labels, compiled=False)
    assert pure.tolist() == nms(boxes, scores, threshold, labels=labels).tolist()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tenths", range(1, 10))
def test_an_overlap_of_just_the_threshold_is_kept(compiled, dtype, tenths):
    boxes = tensor([[0, 0, 10, 10], [0, 0, 10, tenths]], dtype)  # IoU tenths / 10
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, tenths / 10, compiled=compiled).tolist() == [0, 1]
    assert nms(boxes, scores, tenths / 10 - 0.001, compiled=compiled).tolist() == [0]


@quick
@given(nms_cases())
def test_nms_of_what_nms_kept_keeps_all_of_it(case):
    boxes, scores, threshold, labels = case
    kept = nms(boxes, scores, threshold, labels=labels)
    again = nms(boxes[kept], scores[kept], threshold, labels=None if labels is None else labels[kept])
    assert again.tolist() == list(range(len(kept)))
    assert scores[kept].diff().le(0).all()
    assert len(kept) or not len(boxes)


@quick
@given(nms_cases(), st.randoms(use_true_random=False))
def test_nms_does_not_depend_on_the_order_of_different_scores(case, random):
    boxes, _, threshold, labels = case
    assume(len(boxes) > 1)
    scores = random_scores(len(boxes))
    order = list(range(len(boxes)))
    random.shuffle(order)
    kept = nms(boxes, scores, threshold, labels=labels)
    shuffled = nms(boxes[order], scores[order], threshold, labels=None if labels is None else labels[order])
    assert [order[i] for i in shuffled] == kept.tolist()


@pytest.mark.parametrize("compiled", [True, False])
def test_the_first_of_equal_scores_is_kept(compiled):
    boxes = tensor([[0, 0, 10, 10]] * 3 + [[50, 50, 60, 60]])
    assert nms(boxes, torch.full((4,), 0.5), compiled=compiled).tolist() == [0, 3]


@pytest.mark.parametrize("compiled", [True, False])
def test_a_chain_of_overlaps_is_cut_link_by_link(compiled):
    boxes = tensor([[4 * i, 0, 4 * i + 10, 10] for i in range(9)])  # each overlaps its neighbours by 6 of 14
    scores = torch.linspace(0.9, 0.1, 9)
    assert nms(boxes, scores, 0.4, compiled=compiled).tolist() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("labels", [None, torch.zeros(0, dtype=torch.int64)])
def test_nms_of_nothing_is_nothing(compiled, dtype, labels):
    kept = nms(torch.zeros(0, 4, dtype=dtype), torch.zeros(0, dtype=dtype), labels=labels, compiled=compiled)
    assert kept.shape == (0,)
    assert kept.dtype == torch.int64


@pytest.mark.parametrize("compiled", [True, False])
def test_max_output_keeps_the_best_over_all_labels(compiled):
    boxes, scores, labels = random_boxes(40), random_scores(40), torch.arange(40) % 4
    everything = nms(boxes, scores, labels=labels, compiled=compiled)
    for count in (0, 1, 5, 1000):
        kept = nms(boxes, scores, labels=labels, max_output=count, compiled=compiled)
        assert kept.tolist() == everything[:count].tolist()


def test_nms_leaves_its_arguments_alone():
    boxes, scores, labels = random_boxes(20), random_scores(20), torch.arange(20) % 2
    before = boxes.clone(), scores.clone(), labels.clone()
    nms(boxes, scores, labels=labels)
    nms(boxes, scores, labels=labels, compiled=False)
    assert all(torch.equal(a, b) for a, b in zip((boxes, scores, labels), before, strict=True))
