import warnings

import pytest
import torch
import torchvision.ops as reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hccvision.boxes import (
    area,
    batched_nms,
    ciou,
    clip,
    cxcywh_to_xyxy,
    diou,
    giou,
    iou,
    nms,
    soft_nms,
    suppression_kernels,
    xywh_to_xyxy,
    xyxy_to_cxcywh,
    xyxy_to_xywh,
)

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
    assert torch.equal(xywh_to_xyxy(xyxy_to_xywh(xyxy)), xyxy)
    assert torch.equal(xyxy_to_xywh(xywh_to_xyxy(xyxy)), xyxy)


def test_conversions_equal_torchvisions():
    boxes = random_boxes(50)
    assert torch.equal(xyxy_to_cxcywh(boxes), reference.box_convert(boxes, "xyxy", "cxcywh"))
    assert torch.equal(cxcywh_to_xyxy(boxes), reference.box_convert(boxes, "cxcywh", "xyxy"))
    assert torch.equal(xyxy_to_xywh(boxes), reference.box_convert(boxes, "xyxy", "xywh"))
    assert torch.equal(xywh_to_xyxy(boxes), reference.box_convert(boxes, "xywh", "xyxy"))


@pytest.mark.parametrize("convert", [xyxy_to_cxcywh, cxcywh_to_xyxy, xyxy_to_xywh, xywh_to_xyxy])
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


# the kin of IoU

KIN = {
    iou: reference.box_iou,
    giou: reference.generalized_box_iou,
    diou: reference.distance_box_iou,
    ciou: reference.complete_box_iou,
}
every_overlap = pytest.mark.parametrize("overlap", KIN)


@every_overlap
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-7)])
def test_overlaps_and_their_gradients_equal_torchvisions(overlap, dtype, tolerance):
    found, expected = [], []
    for function, answers in ((overlap, found), (KIN[overlap], expected)):
        boxes, others = (random_boxes(n, n, dtype=dtype).requires_grad_() for n in (30, 20))
        values = function(boxes, others)
        slopes = torch.autograd.grad(
            (values * torch.linspace(-1, 1, 600, dtype=dtype).view(30, 20)).sum(), (boxes, others)
        )
        answers += [values, *slopes]
    for value, reference_value in zip(found, expected, strict=True):
        torch.testing.assert_close(value, reference_value, rtol=1e-4, atol=tolerance)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=tolerance)


@every_overlap
def test_elementwise_overlaps_are_the_diagonal(overlap):
    boxes, others = random_boxes(24, 1).reshape(2, 3, 4, 4), random_boxes(24, 2).reshape(2, 3, 4, 4)
    every = overlap(boxes, others)
    assert every.shape == (2, 3, 4, 4)
    assert torch.equal(overlap(boxes, others, pairwise=False), every.diagonal(dim1=-2, dim2=-1))
    one = overlap(boxes, others[0, 0, 0], pairwise=False)
    assert torch.equal(one, overlap(boxes, others[0, 0, :1])[..., 0])
    assert overlap(boxes[0, 0, 0], others[0, 0, 0], pairwise=False).shape == ()


@every_overlap
@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_overlaps_with_nothing(overlap, n, m):
    assert overlap(torch.zeros(n, 4), torch.zeros(m, 4)).shape == (n, m)
    assert overlap(torch.zeros(2, n, 4), torch.zeros(m, 4)).shape == (2, n, m)
    assert overlap(torch.zeros(0, 4), torch.zeros(0, 4), pairwise=False).shape == (0,)


@every_overlap
@pytest.mark.parametrize("pairwise", [True, False])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
@quick
@given(pairs=st.lists(st.tuples(corner_pairs, corner_pairs), min_size=1, max_size=6))
def test_overlaps_and_their_gradients_are_finite_for_any_box(overlap, pairwise, scale, pairs):
    boxes, others = ((tensor(side) * scale).requires_grad_() for side in zip(*pairs, strict=True))
    values = overlap(boxes, others, pairwise=pairwise)
    values.sum().backward()
    for value in (values, boxes.grad, others.grad):
        assert torch.isfinite(value).all()


@every_overlap
@quick
@given(boxes=ordered_boxes.filter(len), others=ordered_boxes.filter(len))
def test_overlaps_are_symmetric_and_within_bounds(overlap, boxes, others):
    a, b = tensor(boxes), tensor(others)
    values = overlap(a, b)
    torch.testing.assert_close(values, overlap(b, a).T)
    assert (values <= 1).all()
    assert (values <= iou(a, b) + 1e-6).all()
    assert (values >= (-2 if overlap is ciou else -1) - 1e-6).all()
    torch.testing.assert_close(overlap(a, a).diagonal(), (area(a) > 0).float())


@every_overlap
def test_far_boxes_and_boxes_without_area_have_the_values_of_their_formulas(overlap):
    box, far, point = tensor([[0, 0, 10, 10]]), tensor([[990, 0, 1000, 10]]), tensor([[5, 5, 5, 5]])
    expected = {
        iou: (0, 0),
        giou: (-0.98, 0),  # 9800 of 10 000 are filled by neither
        diou: (-(990**2) / (1000**2 + 10**2), 0),  # the point is the centre
        ciou: (-(990**2) / (1000**2 + 10**2), -((1 / 4) ** 2) / (1 + 1 / 4)),  # 45° against 0: 4/π² · (π/4)² = 1/4
    }[overlap]
    assert overlap(box, far).item() == pytest.approx(expected[0])
    assert overlap(box, point).item() == pytest.approx(expected[1])
    assert overlap(point, point).item() == 0


@every_overlap
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_overlaps_of_half_precision_come_in_float32(overlap, dtype):
    boxes = torch.tensor([[0, 0, 512, 512], [0, 0, 512, 256]], dtype=dtype)
    assert overlap(boxes, boxes).dtype == torch.float32
    assert torch.equal(overlap(boxes, boxes), overlap(boxes.float(), boxes.float()))
    assert overlap(boxes.double(), boxes.double()).dtype == torch.float64


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


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("labels", [None, torch.arange(40) % 4])
def test_max_candidates_lets_the_best_in(compiled, labels):
    boxes, scores = random_boxes(40), random_scores(40)
    order = scores.argsort(descending=True)
    for count in (0, 1, 9, 1000):
        best = order[:count]
        expected = best[nms(boxes[best], scores[best], labels=None if labels is None else labels[best])]
        kept = nms(boxes, scores, labels=labels, max_candidates=count, compiled=compiled)
        assert kept.tolist() == expected.tolist()
    assert nms(boxes, scores, max_candidates=9, max_output=2).tolist() == nms(boxes, scores)[:2].tolist()


@pytest.mark.parametrize("size", [suppression_kernels._FEW, suppression_kernels._FEW + 1])
@pytest.mark.parametrize("classes", [1, 3, 20])
def test_classes_are_suppressed_alone_however_many_boxes_there_are(size, classes):
    boxes, scores = random_boxes(size), random_scores(size)
    labels = torch.arange(size) % classes
    kept = nms(boxes, scores, labels=labels)
    alone = [own[nms(boxes[own], scores[own])] for own in ((labels == k).nonzero().squeeze(1) for k in range(classes))]
    together = torch.cat(alone)
    assert kept.tolist() == together[scores[together].argsort(descending=True)].tolist()


@pytest.mark.parametrize("labels", [[-1, -1, 5], [2**40, 2**40, 7], [-(2**40), -(2**40), 2**40]])
def test_labels_may_be_any_whole_numbers(labels):
    boxes = tensor([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10]])
    assert nms(boxes, torch.tensor([0.7, 0.9, 0.8]), labels=torch.tensor(labels)).tolist() == [1, 2]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("bad", [torch.inf, torch.nan, 1e30])
def test_one_broken_box_does_not_spoil_the_others(bad, compiled):
    boxes = tensor([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, bad, 10], [50, 50, 60, 60]])
    scores, labels = torch.tensor([0.7, 0.9, 0.1, 0.8]), torch.tensor([0, 0, 1, 1])
    kept = nms(boxes, scores, labels=labels, compiled=compiled).tolist()
    assert [i for i in kept if i != 2] == [1, 3]


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 0])])
def test_scores_finer_than_the_boxes_are_told_apart(labels):
    boxes = torch.tensor([[0, 0, 10, 10]] * 2, dtype=torch.float16)
    scores = torch.tensor([0.5, 0.5 + 1e-12], dtype=torch.float64)
    for compiled in (True, False):
        assert nms(boxes, scores, labels=labels, compiled=compiled).tolist() == [1]


@pytest.mark.parametrize("labels", [None, torch.arange(20) % 2])
def test_suppression_takes_the_output_of_a_model_in_training(labels):
    boxes, scores = random_boxes(20).requires_grad_(), random_scores(20).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = nms(boxes.detach(), scores.detach(), labels=labels).tolist()
        assert nms(boxes, scores, labels=labels).tolist() == expected
        assert nms(boxes, scores, labels=labels, compiled=False).tolist() == expected
        assert not soft_nms(boxes, scores, labels=labels)[1].requires_grad


# soft suppression


def plain_soft_nms(boxes, scores, method, threshold, sigma, floor, labels=None):
    """Bodla et al. 2017, figure 2, one box at a time."""
    left = {i: float(s) for i, s in enumerate(scores) if s > floor}
    overlaps = reference.box_iou(boxes.double(), boxes.double()).nan_to_num(0).tolist()
    taken = []
    while left:
        best = max(left, key=left.get)
        taken.append((best, left.pop(best)))
        for i in left:
            if labels is not None and labels[i] != labels[best]:
                continue
            overlap = overlaps[best][i]
            if method == "gaussian":
                left[i] *= 2.718281828459045 ** (-(overlap**2) / sigma)
            elif overlap > threshold:
                left[i] *= 1 - overlap
        left = {i: s for i, s in left.items() if s > floor}
    return [i for i, _ in taken], [s for _, s in taken]


soft_methods = pytest.mark.parametrize("method", ["linear", "gaussian"])


@soft_methods
@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize(("threshold", "sigma", "floor"), [(0.45, 0.5, 0.001), (0.2, 0.1, 0.05), (0.0, 2.0, 0.0)])
def test_soft_nms_is_the_papers(method, classes, threshold, sigma, floor):
    boxes, scores = random_boxes(80, side=40, dtype=torch.float64), random_scores(80).double()
    labels = None if classes is None else torch.arange(80) % classes
    options = {"iou_threshold": threshold, "sigma": sigma, "score_threshold": floor, "labels": labels}
    kept, lowered = soft_nms(boxes, scores, method=method, **options)
    expected = plain_soft_nms(boxes, scores, method, threshold, sigma, floor, labels)
    assert kept.tolist() == expected[0]
    assert lowered.tolist() == pytest.approx(expected[1], rel=1e-9)
    assert (lowered < scores[kept]).any()


@soft_methods
@quick
@given(case=nms_cases())
def test_soft_scores_fall_in_order_and_never_rise(method, case):
    boxes, scores, threshold, labels = case
    kept, lowered = soft_nms(boxes, scores, method=method, iou_threshold=threshold, labels=labels)
    assert len(set(kept.tolist())) == len(kept)
    assert (lowered <= scores[kept]).all()
    assert (lowered > 0.001).all()
    assert lowered.diff().le(0).all()
    if len(boxes):
        assert scores[kept[0]] == lowered[0] == scores.max()


@soft_methods
@quick
@given(case=nms_cases(), random=st.randoms(use_true_random=False))
def test_soft_nms_does_not_depend_on_the_order_of_the_boxes(method, case, random):
    boxes, _, threshold, labels = case
    assume(len(boxes) > 1)
    scores = random_scores(len(boxes))
    order = list(range(len(boxes)))
    random.shuffle(order)
    options = {"method": method, "iou_threshold": threshold}
    kept, lowered = soft_nms(boxes, scores, labels=labels, **options)
    shuffled = soft_nms(boxes[order], scores[order], labels=None if labels is None else labels[order], **options)
    assert [order[i] for i in shuffled[0]] == kept.tolist()
    assert torch.equal(shuffled[1], lowered)


@quick
@given(st.lists(st.integers(0, 5), min_size=1))
def test_hard_nms_is_soft_nms_of_boxes_that_overlap_wholly_or_not_at_all(places):
    boxes = tensor([[20 * p, 0, 20 * p + 10, 10] for p in places])
    scores = random_scores(len(places))
    for kept, lowered in (
        soft_nms(boxes, scores, method="linear", score_threshold=0.0),
        soft_nms(boxes, scores, sigma=1e-6, score_threshold=0.0),
    ):
        assert kept.tolist() == nms(boxes, scores).tolist()
        assert torch.equal(lowered, scores[kept])


@soft_methods
def test_limits_of_soft_nms(method):
    boxes, scores = random_boxes(40, side=30), random_scores(40)
    every, lowered = soft_nms(boxes, scores, method=method)
    for count in (0, 1, 5, 1000):
        kept, some = soft_nms(boxes, scores, method=method, max_output=count)
        assert kept.tolist() == every[:count].tolist()
        assert torch.equal(some, lowered[:count])
        best = scores.argsort(descending=True)[:count]
        inner, inner_scores = soft_nms(boxes[best], scores[best], method=method)
        kept, some = soft_nms(boxes, scores, method=method, max_candidates=count)
        assert kept.tolist() == best[inner].tolist()
        assert torch.equal(some, inner_scores)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_soft_nms_of_nothing_is_nothing(dtype):
    for scores in (torch.zeros(0, dtype=dtype), torch.full((3,), 0.001, dtype=dtype) / 2):
        kept, lowered = soft_nms(torch.zeros(len(scores), 4, dtype=dtype), scores)
        assert (tuple(kept.shape), kept.dtype, tuple(lowered.shape)) == ((0,), torch.int64, (0,))
        assert lowered.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "hard"}, "unknown method of soft suppression 'hard'; known: 'linear', 'gaussian'"),
        ({"sigma": 0.0}, "sigma is above 0 and score_threshold at least 0, got 0.0 and 0.001"),
        ({"score_threshold": -0.1}, "sigma is above 0 and score_threshold at least 0, got 0.5 and -0.1"),
    ],
)
def test_soft_nms_refuses_what_has_no_meaning(options, message):
    with pytest.raises(ValueError, match=message):
        soft_nms(random_boxes(3), random_scores(3), **options)
    if "method" not in options:
        with pytest.raises(ValueError, match=message):
            batched_nms(random_boxes(3)[None], random_scores(3)[None], method="gaussian", **options)
    with pytest.raises(ValueError, match="unknown method of soft suppression 'softer'"):
        batched_nms(random_boxes(3)[None], random_scores(3)[None], method="softer")


# batches


@pytest.mark.parametrize("method", ["hard", "linear", "gaussian"])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("limits", [{}, {"max_candidates": 17, "max_output": 6}, {"max_output": 0}])
@pytest.mark.parametrize("size", [30, 300])  # few boxes and many, in all
def test_a_batch_is_its_images(method, labelled, limits, size):
    generator = torch.Generator().manual_seed(0)
    boxes, scores = random_boxes(4 * size, side=60).view(4, size, 4), random_scores(4 * size).view(4, size)
    labels = torch.randint(-1, 3, (4, size), generator=generator) if labelled else None
    valid = torch.rand(4, size, generator=generator) > 0.3
    valid[2] = False
    valid[3, 1:] = False
    before = boxes.clone(), scores.clone(), valid.clone()
    indices, lowered = batched_nms(boxes, scores, 0.4, labels=labels, valid=valid, method=method, **limits)
    lengths = []
    for i in range(4):
        own = valid[i].nonzero().squeeze(1)
        options = {"labels": None if labels is None else labels[i, own], **limits}
        if method == "hard":
            kept = nms(boxes[i, own], scores[i, own], 0.4, **options)
            expected = scores[i, own[kept]]
        else:
            kept, expected = soft_nms(boxes[i, own], scores[i, own], method=method, iou_threshold=0.4, **options)
        lengths.append(len(kept))
        assert indices[i, : len(kept)].tolist() == own[kept].tolist()
        torch.testing.assert_close(lowered[i, : len(kept)], expected)
        assert (indices[i, len(kept) :] == -1).all()
        assert not lowered[i, len(kept) :].any()
    assert indices.shape == lowered.shape == (4, max(lengths))
    assert all(torch.equal(a, b) for a, b in zip((boxes, scores, valid), before, strict=True))


@pytest.mark.parametrize("method", ["hard", "linear", "gaussian"])
@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 0)])
@pytest.mark.parametrize("labelled", [False, True])
def test_a_batch_of_nothing(method, shape, labelled):
    labels = torch.zeros(shape, dtype=torch.int64) if labelled else None
    indices, lowered = batched_nms(torch.zeros(*shape, 4), torch.zeros(shape), labels=labels, method=method)
    assert (tuple(indices.shape), indices.dtype, tuple(lowered.shape)) == ((shape[0], 0), torch.int64, (shape[0], 0))


def test_without_a_mask_every_box_of_a_batch_takes_part():
    boxes, scores = random_boxes(40).view(2, 20, 4), random_scores(40).view(2, 20) - 0.5  # some below 0
    indices, lowered = batched_nms(boxes, scores)
    for i in range(2):
        expected = nms(boxes[i], scores[i]).tolist()
        assert [k for k in indices[i].tolist() if k >= 0] == expected
        assert torch.equal(lowered[i, : len(expected)], scores[i, expected])
