import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import ops as reference
from torchvision.ops import sigmoid_focal_loss

from hccvision.boxes import cxcywh_to_xyxy
from hccvision.contracts import Loss, SSDOutput
from hccvision.default_boxes import decode, generate, match, matched_targets
from hccvision.losses import (
    BoxTargets,
    HardNegatives,
    binary_cross_entropy,
    binary_cross_entropy_sums,
    binary_focal,
    box_focal,
    cross_entropy,
    cross_entropy_sums,
    focal,
    focal_sums,
    hard_negatives,
    multibox,
)
from hccvision.registry import LOSSES

CLASSIFICATION_LOSSES, BINARY_LOSSES, DETECTION_LOSSES = (
    LOSSES.names(task=task) for task in ("classification", "multilabel", "detection")
)
quick = settings(deadline=None, max_examples=50)


def random_batch(seed, images=3, boxes=60, classes=3, positives=(4, 1, 9)):
    """Logits, offsets, classes and encoded targets; image ``i`` has ``positives[i]`` default boxes with a lesion."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, boxes, classes + 1, generator=generator) * 3
    offsets, targets = torch.randn(2, images, boxes, 4, generator=generator) * 2
    labels = torch.zeros(images, boxes, dtype=torch.int64)
    for row, count in zip(labels, positives, strict=True):
        chosen = torch.randperm(boxes, generator=generator)[:count]
        row[chosen] = torch.randint(1, classes + 1, (count,), generator=generator)
    return logits, offsets, labels, targets


def pytorch_ssds_loss(logits, offsets, classes, targets, ratio=3):
    """qfgaohao/pytorch-ssd's multibox loss, image by image: ranks by sorting, both sums over the positives."""
    regression, classification = 0.0, 0.0
    for image in range(len(logits)):
        positive = classes[image] > 0
        background = -logits[image].double().log_softmax(-1)[:, 0]
        ranked = sorted((i for i in range(len(positive)) if not positive[i]), key=lambda i: -background[i])
        counted = positive.nonzero()[:, 0].tolist() + ranked[: ratio * int(positive.sum())]
        shares = logits[image].double().softmax(-1)
        classification += sum(-math.log(shares[i, classes[image, i]]) for i in counted)
        difference = (offsets[image][positive] - targets[image][positive]).double().abs()
        regression += torch.where(difference < 1, difference**2 / 2, difference - 0.5).sum().item()
    count = int((classes > 0).sum())
    return regression / count, classification / count


# hard negatives


def test_the_mask_of_the_known_losses():
    loss = torch.tensor([[0.1, 0.9, 0.3, 0.8, 0.5, 0.2, 0.7, 0.6]])
    positive = torch.tensor([[False, True, False, False, False, False, False, False]])
    assert hard_negatives(loss, positive).long().tolist() == [[0, 1, 0, 1, 0, 0, 1, 1]]


@quick
@given(st.data(), st.sampled_from([0.0, 1.0, 2.5, 3.0]), st.integers(0, 4))
def test_all_positives_and_the_worst_negatives_of_each_image(data, ratio, minimum):
    boxes = data.draw(st.integers(1, 12))
    row = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=boxes, max_size=boxes)
    images = data.draw(st.lists(row, min_size=1, max_size=3))
    loss = torch.tensor([[float(value) for value, _ in image] for image in images])
    positive = torch.tensor([[flag for _, flag in image] for image in images])
    before = loss.clone()
    chosen = hard_negatives(loss, positive, ratio=ratio, minimum=minimum)
    assert torch.equal(loss, before)
    for values, positives, mask in zip(loss, positive, chosen, strict=True):
        assert mask[positives].all()
        taken, left = values[mask & ~positives], values[~mask]
        wanted = max(math.ceil(ratio * int(positives.sum())), minimum)
        assert len(taken) == min(wanted, int((~positives).sum()))
        assert not len(taken) or not len(left) or taken.min() >= left.max()


def test_an_image_of_positives_only_has_no_negatives_to_add():
    assert hard_negatives(torch.rand(2, 5), torch.ones(2, 5, dtype=torch.bool)).all()


# the multibox loss


@pytest.mark.parametrize("seed", range(5))
def test_multibox_equals_pytorch_ssds_where_every_image_has_positives(seed):
    batch = random_batch(seed)
    found = multibox(*batch)
    regression, classification = pytorch_ssds_loss(*batch)
    assert found["regression"].item() == pytest.approx(regression, rel=1e-6)
    assert found["classification"].item() == pytest.approx(classification, rel=1e-6)


@pytest.mark.parametrize("ratio", [1, 2, 5])
def test_another_ratio_of_negatives(ratio):
    batch = random_batch(0)
    found = multibox(*batch, negatives=HardNegatives(ratio, 0))
    assert found["classification"].item() == pytest.approx(pytorch_ssds_loss(*batch, ratio=ratio)[1], rel=1e-6)


@pytest.mark.parametrize("positives", [(4, 1, 9), (0, 2, 0), (0, 0, 0)])
def test_the_loss_is_the_sum_of_its_parts(positives):
    found = multibox(*random_batch(1, positives=positives))
    assert set(found) == {"loss", "regression", "classification"}
    assert found["loss"].item() == pytest.approx(found["regression"].item() + found["classification"].item())
    assert all(v.shape == () and v.dtype == torch.float32 and torch.isfinite(v) for v in found.values())


def test_a_batch_without_a_lesion_still_teaches():
    logits, offsets, classes, targets = random_batch(2, positives=(0, 0, 0))
    logits.requires_grad_()
    offsets.requires_grad_()
    found = multibox(logits, offsets, classes, targets, negatives=HardNegatives(minimum=3))
    found["loss"].backward()
    worst = (-logits.detach().log_softmax(-1)[..., 0]).sort(1, descending=True).values[:, :3]
    assert found["loss"].item() == pytest.approx(worst.sum().item(), rel=1e-6)
    assert found["regression"] == 0
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad.abs().sum(-1) > 0).sum(1).tolist() == [3, 3, 3]
    assert offsets.grad is None or offsets.grad.eq(0).all()


def test_an_image_without_a_lesion_teaches_beside_one_with_lesions():
    logits, offsets, classes, targets = random_batch(3, positives=(4, 0, 2))
    logits.requires_grad_()
    multibox(logits, offsets, classes, targets, negatives=HardNegatives(minimum=3))["loss"].backward()
    assert (logits.grad.abs().sum(-1) > 0).sum(1).tolist() == [4 + 12, 3, 2 + 6]
    assert logits.grad[1, :, 0].le(0).all()  # a step down raises the background


def test_no_default_box_but_the_positives_is_regressed():
    logits, offsets, classes, targets = random_batch(4)
    offsets.requires_grad_()
    multibox(logits, offsets, classes, targets)["loss"].backward()
    assert torch.equal(offsets.grad.abs().sum(-1) > 0, classes > 0)


def test_the_loss_falls_to_nothing_at_the_truth():
    logits, _, classes, targets = random_batch(5)
    perfect = F.one_hot(classes, logits.shape[-1]) * 100.0
    assert multibox(perfect, targets, classes, targets)["loss"].item() == 0
    assert multibox(-perfect, targets, classes, targets)["loss"].item() > 100


# the other detection losses


@pytest.mark.parametrize("name", ["giou", "focal_giou"])
def test_giou_scores_the_decoded_boxes_as_torchvision_does(name):
    logits, offsets, classes, targets = random_batch(7)
    grid = generate("ssd300_mobilenet")[: classes.shape[1]]
    found = multibox(logits, offsets, classes, targets, grid, name=name)["regression"]
    positive = classes > 0
    own = grid.expand(len(classes), -1, -1)[positive]
    pairs = [cxcywh_to_xyxy(decode(o[positive], own)) for o in (offsets, targets)]
    expected = reference.generalized_box_iou_loss(*pairs, reduction="sum") / positive.sum()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["focal", "focal_giou"])
def test_focal_scores_every_default_box_by_its_formula(name):
    logits, offsets, classes, targets = random_batch(8)
    grid = generate("ssd300_mobilenet")[: classes.shape[1]]
    found = multibox(logits, offsets, classes, targets, grid, name=name)["classification"]
    p = logits.double().softmax(-1).gather(-1, classes[..., None])[..., 0]
    alpha = torch.where(classes > 0, 0.25, 0.75)
    expected = (-alpha * (1 - p) ** 2 * p.log()).sum() / (classes > 0).sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_focal_of_two_classes_is_torchvisions_on_the_difference_of_the_logits():
    logits, _, classes, _ = random_batch(9, classes=1)
    difference = logits[..., 1] - logits[..., 0]
    expected = reference.sigmoid_focal_loss(difference, (classes > 0).float(), alpha=0.25, gamma=2, reduction="sum")
    torch.testing.assert_close(box_focal(logits, classes), expected, rtol=1e-5, atol=1e-6)
    weighted = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), torch.tensor([0.75, 0.25]), reduction="none")
    torch.testing.assert_close(box_focal(logits, classes, gamma=0), weighted.sum(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DETECTION_LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("positives", [(4, 1, 9), (0, 0, 0)])
def test_every_detection_loss_and_its_gradient_are_finite(name, dtype, positives):
    logits, offsets, classes, targets = random_batch(10, positives=positives)
    grid = generate("ssd300_mobilenet")[: classes.shape[1]]
    for scale in (0, 1, 1000):
        raw = [(scale * t).to(dtype).requires_grad_() for t in (logits, offsets)]
        found = multibox(*raw, classes, targets, grid, name=name)
        assert set(found) == {"loss", "regression", "classification"}
        assert found["loss"].item() == pytest.approx(found["regression"].item() + found["classification"].item())
        found["loss"].backward()
        assert torch.isfinite(found["loss"])
        assert torch.isfinite(raw[0].grad).all()
        assert raw[1].grad is None or torch.isfinite(raw[1].grad).all()


@pytest.mark.parametrize("name", DETECTION_LOSSES)
def test_every_detection_loss_is_nothing_at_the_truth(name):
    logits, _, classes, targets = random_batch(11)
    grid = generate("ssd300_mobilenet")[: classes.shape[1]]
    perfect = F.one_hot(classes, logits.shape[-1]) * 100.0
    assert multibox(perfect, targets, classes, targets, grid, name=name)["loss"].item() == pytest.approx(0, abs=1e-5)


def test_an_unknown_detection_loss_and_giou_without_default_boxes_are_errors():
    batch = random_batch(0)
    with pytest.raises(KeyError, match="unknown loss 'l2' for detection; Known: focal, focal_giou, giou, multibox"):
        multibox(*batch, name="l2")
    with pytest.raises(ValueError, match="a GIoU loss decodes the offsets: pass BoxTargets with default_boxes"):
        multibox(*batch, name="giou")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("positives", [(4, 1, 9), (0, 0, 0)])
def test_half_precision_is_summed_in_float32(dtype, positives):
    logits, offsets, classes, targets = random_batch(6, boxes=3000, positives=positives)
    logits, offsets = (20 * logits).to(dtype), (100 * offsets).to(dtype)
    logits.requires_grad_()
    found = multibox(logits, offsets, classes, targets)
    expected = multibox(logits.float(), offsets.float(), classes, targets)
    found["loss"].backward()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert torch.isfinite(found["loss"])
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("side", [1, 300])
def test_lesions_of_one_pixel_and_of_the_whole_image_are_finite(side):
    grid = generate("ssd300_mobilenet")
    lesion = cxcywh_to_xyxy(torch.tensor([[[150.0, 150.0, side, side]]]) / 300)
    labels = torch.zeros(1, 1, dtype=torch.int64)
    classes, targets = matched_targets(grid, lesion, labels, match(grid, lesion, labels >= 0).truth)
    offsets = torch.zeros(1, 3000, 4, requires_grad=True)
    found = multibox(torch.zeros(1, 3000, 2), offsets, classes, targets)
    found["loss"].backward()
    assert torch.isfinite(found["loss"])
    assert found["regression"] > 0
    assert torch.isfinite(offsets.grad).all()


def test_a_batch_of_twice_the_same_images_has_the_same_loss():
    once = random_batch(7)
    twice = [torch.cat((part, part)) for part in once]
    for name, value in multibox(*once).items():
        assert multibox(*twice)[name].item() == pytest.approx(value.item(), rel=1e-6)


# classification losses


def logits_and_labels(seed=0, images=20, classes=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, classes, generator=generator) * 4, torch.arange(images) % classes


def test_cross_entropy_is_torchs():
    logits, labels = logits_and_labels()
    assert torch.equal(cross_entropy(logits, labels), F.cross_entropy(logits, labels))


def test_focal_without_gamma_is_the_cross_entropy():
    logits, labels = logits_and_labels()
    torch.testing.assert_close(focal(logits, labels, gamma=0.0), F.cross_entropy(logits, labels))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_is_its_formula_and_below_the_cross_entropy(gamma):
    logits, labels = logits_and_labels()
    p = logits.double().softmax(-1)[torch.arange(len(labels)), labels]
    expected = (-((1 - p) ** gamma) * p.log()).mean()
    assert focal(logits, labels, gamma=gamma).item() == pytest.approx(expected.item(), rel=1e-5)
    assert focal(logits, labels, gamma=gamma) < cross_entropy(logits, labels)


def test_two_class_focal_equals_torchvisions():
    logit = torch.randn(30, generator=torch.Generator().manual_seed(0)) * 3
    labels = torch.arange(30) % 2
    expected = sigmoid_focal_loss(logit, labels.float(), alpha=-1, gamma=2, reduction="mean")
    torch.testing.assert_close(focal(torch.stack((torch.zeros(30), logit), 1), labels), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("confidence", [0.0, 1e-4, 20.0, 1e4])
def test_focal_and_its_gradient_are_finite_however_sure_the_model(gamma, confidence):
    logits = torch.tensor([[confidence, 0.0], [0.0, confidence]], requires_grad=True)
    for labels in (torch.tensor([0, 1]), torch.tensor([1, 0])):
        (slope,) = torch.autograd.grad(focal(logits, labels, gamma=gamma), logits)
        assert torch.isfinite(focal(logits, labels, gamma=gamma))
        assert torch.isfinite(slope).all()


@pytest.mark.parametrize("gamma", [-0.1, float("nan")])
@pytest.mark.parametrize("loss", [focal, binary_focal])
def test_a_gamma_below_0_is_an_error(loss, gamma):
    logits, labels = logits_and_labels()
    with pytest.raises(ValueError, match="gamma is at least 0"):
        loss(logits, labels if loss is focal else answers(logits, labels), gamma=gamma)


@pytest.mark.parametrize("task", ["classification", "multilabel"])
@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_classification_loss_is_a_finite_float32(task, name, dtype):
    logits, labels = logits_and_labels()
    labels = answers(logits, labels) if task == "multilabel" else labels
    logits = (logits * 1000).to(dtype).requires_grad_()
    loss = LOSSES.get(name, task=task)(logits, labels)["loss"]
    loss.backward()
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert loss >= 0
    assert torch.isfinite(logits.grad).all()


def answers(logits, labels):
    """Yes for the class of each image and for the one before it; for every third image, no to all."""
    yes = F.one_hot(labels, logits.shape[1])
    return (yes | yes.roll(-1, 1)) * (torch.arange(len(labels)) % 3 > 0)[:, None]


def test_binary_losses_are_known_by_the_same_names():
    assert BINARY_LOSSES == CLASSIFICATION_LOSSES == ["cross_entropy", "focal"]


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_binary_losses_are_torchs_and_torchvisions(dtype):
    logits, labels = logits_and_labels()
    yes = answers(logits, labels).to(dtype)
    expected = F.binary_cross_entropy_with_logits(logits, yes.float())
    torch.testing.assert_close(binary_cross_entropy(logits, yes), expected)
    torch.testing.assert_close(binary_focal(logits, yes, gamma=0.0), expected)
    for gamma in (0.5, 1.0, 2.0, 5.0):
        expected = sigmoid_focal_loss(logits, yes.float(), alpha=-1, gamma=gamma, reduction="mean")
        torch.testing.assert_close(binary_focal(logits, yes, gamma=gamma), expected)


@pytest.mark.parametrize(("loss", "binary"), [(cross_entropy, binary_cross_entropy), (focal, binary_focal)])
def test_a_sigmoid_is_a_softmax_over_a_logit_of_zero(loss, binary):
    logit = (torch.randn(30, generator=torch.Generator().manual_seed(0)) * 3).requires_grad_()
    labels = torch.arange(30) % 2
    values = loss(torch.stack((torch.zeros(30), logit), 1), labels), binary(logit, labels)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value, logit)[0] for value in values))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("confidence", [0.0, 1e-4, 20.0, 1e4])
def test_binary_focal_and_its_gradient_are_finite_however_sure_the_model(gamma, confidence):
    logits = torch.tensor([[confidence, -confidence]], requires_grad=True)
    for labels in (torch.tensor([[1, 0]]), torch.tensor([[0, 1]])):
        loss = binary_focal(logits, labels, gamma=gamma)
        assert torch.isfinite(loss)
        assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()


# smoothed labels, weighted classes, and batches in parts

WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_smoothing_and_weights_are_torchs(smoothing, weights):
    logits, labels = logits_and_labels()
    expected = F.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
    options = {"label_smoothing": smoothing, "class_weights": weights}
    torch.testing.assert_close(cross_entropy(logits, labels, **options), expected)
    if smoothing == 0.0 or weights is None:  # torch weighs each class's share of a smoothed label by itself
        torch.testing.assert_close(focal(logits, labels, gamma=0.0, **options), expected)


def test_smoothed_and_weighted_binary_losses_are_torchs():
    logits, labels = logits_and_labels()
    yes = answers(logits, labels).float()
    weights = torch.where(yes > 0, WEIGHTS, 1.0)
    expected = F.binary_cross_entropy_with_logits(logits, 0.9 * yes + 0.05, weights, reduction="sum") / weights.sum()
    for loss in (binary_cross_entropy, lambda *args, **options: binary_focal(*args, gamma=0.0, **options)):
        torch.testing.assert_close(loss(logits, yes, label_smoothing=0.1, weights=weights), expected)


def test_weighted_focal_is_its_formula():
    logits, labels = logits_and_labels()
    p = logits.double().softmax(-1)[torch.arange(len(labels)), labels]
    own = WEIGHTS.double()[labels]
    expected = (own * -((1 - p) ** 2) * p.log()).sum() / own.sum()
    assert focal(logits, labels, class_weights=WEIGHTS).item() == pytest.approx(expected.item(), rel=1e-5)


def test_smoothing_and_weights_in_the_detection_loss_are_torchs():
    logits, offsets, classes, targets = random_batch(0)
    plain = multibox(logits, offsets, classes, targets)
    chosen = hard_negatives(-logits.log_softmax(-1)[..., 0], classes > 0)
    for options in ({"label_smoothing": 0.1}, {"class_weights": WEIGHTS}):
        found = multibox(logits, offsets, classes, targets, **options)
        torch_options = {"weight": options.get("class_weights"), "label_smoothing": options.get("label_smoothing", 0)}
        expected = F.cross_entropy(logits[chosen], classes[chosen], reduction="sum", **torch_options) / 14
        torch.testing.assert_close(found["classification"], expected)
        assert found["regression"] == plain["regression"]
        assert found["classification"] != plain["classification"]
    focus = multibox(logits, offsets, classes, targets, name="focal", class_weights=WEIGHTS)["classification"]
    p = logits.double().softmax(-1).gather(-1, classes[..., None])[..., 0]
    alpha = torch.where(classes > 0, 0.25, 0.75) * WEIGHTS[classes]
    assert focus.item() == pytest.approx(((-alpha * (1 - p) ** 2 * p.log()).sum() / 14).item(), rel=1e-5)


EVERY = [(task, name) for task in ("classification", "multilabel", "detection") for name in LOSSES.names(task=task)]
EVERY_OPTION = {
    "classification": {"label_smoothing": 0.1, "class_weights": WEIGHTS},
    "multilabel": {"label_smoothing": 0.1},
    "detection": {"label_smoothing": 0.1, "class_weights": WEIGHTS},
}


def inputs(task, *, images=6, dtype=torch.float64, weighted=False):
    """Raw output and targets of a batch, as tensors whose first axis is that of the images, and a call of the loss."""
    if task == "detection":
        positives = [(i * 5) % 7 for i in range(images)]  # also none
        logits, offsets, classes, targets = random_batch(3, images, positives=positives)
        weights = torch.rand(classes.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
        grid = generate("ssd300_mobilenet")[: classes.shape[1]]

        def call(loss, logits, offsets, classes, targets, weights, **options):
            targets = BoxTargets(classes, targets, grid, weights if weighted else None)
            return loss(SSDOutput(logits, offsets), targets, **options)

        return [logits.to(dtype), offsets.to(dtype), classes, targets.to(dtype), weights], call
    logits, labels = logits_and_labels(images=images)
    if task == "classification":
        return [logits.to(dtype), labels], lambda loss, *args, **options: loss(*args, **options)
    weights = torch.rand(logits.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)

    def call(loss, logits, labels, weights, **options):
        return loss(logits, labels, **options, **({"weights": weights} if weighted else {}))

    return [logits.to(dtype), answers(logits, labels), weights], call


@pytest.mark.parametrize(("task", "name"), EVERY)
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_and_counts_of_any_partition_of_a_batch_add_up_to_those_of_the_whole(task, name, weighted):
    loss, options = LOSSES.get(name, task=task), EVERY_OPTION[task]
    batch, call = inputs(task, weighted=weighted)
    batch[0].requires_grad_()
    whole = call(loss, *batch, **options)
    (slope,) = torch.autograd.grad(whole["loss"], batch[0])
    assert whole.count > 0
    for cuts in ([1, 2, 3], [1] * 6, [0, 6], [2, 0, 4], [5, 1]):
        pieces = [call(loss, *rows, **options) for rows in zip(*(part.split(cuts) for part in batch), strict=True)]
        torch.testing.assert_close(sum(piece.count for piece in pieces), whole.count, rtol=0, atol=1e-9)
        for key, value in whole.sums.items():
            torch.testing.assert_close(sum(piece.sums[key] for piece in pieces), value, rtol=0, atol=1e-9)
        total = sum(sum(piece.sums.values()) for piece in pieces) / whole.divisor
        torch.testing.assert_close(torch.autograd.grad(total, batch[0])[0], slope, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("task", "name"), EVERY)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_registered_loss_keeps_the_contract(task, name, weighted, dtype):
    batch, call = inputs(task, dtype=dtype, weighted=weighted)
    batch[0].requires_grad_()
    before = [part.detach().clone() for part in batch]
    for options in ({}, EVERY_OPTION[task]):
        found = call(LOSSES.get(name, task=task), *batch, **options)
        assert isinstance(found, Loss)
        assert found.count.shape == ()
        assert all(part.shape == () and part.dtype == torch.float32 and part >= 0 for part in found.sums.values())
        found.backward()
        assert torch.isfinite(found["loss"])
        assert torch.isfinite(batch[0].grad).all()
        assert batch[0].grad.any()
    assert all(torch.equal(a, b.detach()) for a, b in zip(before, batch, strict=True))


@pytest.mark.parametrize(("task", "name"), EVERY)
def test_every_registered_loss_of_an_empty_batch_is_0(task, name):
    batch, call = inputs(task)
    empty = [part[:0] for part in batch]
    empty[0].requires_grad_()
    for options in ({}, EVERY_OPTION[task]):
        found = call(LOSSES.get(name, task=task), *empty, **options)
        assert found["loss"] == 0
        assert found.count == 0
        found.backward()


@pytest.mark.parametrize(("task", "name"), EVERY)
def test_a_batch_of_one_weight_is_one_without(task, name):
    """Weights of 1 change nothing, and weights of 2 double sums and count."""
    batch, call = inputs(task, weighted=True)
    loss = LOSSES.get(name, task=task)
    if task == "classification":
        plain, ones, twos = (
            loss(*batch, class_weights=w)
            for w in (None, torch.ones(4, dtype=torch.float64), torch.full((4,), 2.0, dtype=torch.float64))
        )
    else:
        plain = inputs(task)[1](loss, *batch)
        ones, twos = (call(loss, *batch[:-1], torch.full_like(batch[-1], w)) for w in (1.0, 2.0))
    torch.testing.assert_close(ones.count, plain.count.to(ones.count))
    torch.testing.assert_close(twos.count, 2 * ones.count)
    for key, value in plain.sums.items():
        torch.testing.assert_close(ones.sums[key], value)
        if (task, key) != ("detection", "classification"):  # the background has no weight
            torch.testing.assert_close(twos.sums[key], 2 * value)


@pytest.mark.parametrize("seed", range(30))
def test_the_normalised_loss_has_the_bits_of_torchs_mean(seed):
    generator = torch.Generator().manual_seed(seed)
    images, classes = int(torch.randint(1, 60, (), generator=generator)), 2 + seed % 4
    logits = (torch.randn(images, classes, generator=generator) * 3).requires_grad_()
    labels = torch.randint(0, classes, (images,), generator=generator)
    for weights in (None, torch.rand(classes, generator=generator) + 0.1):
        found = cross_entropy(logits, labels, class_weights=weights)
        expected = F.cross_entropy(logits, labels, weights)
        assert torch.equal(found, expected)
        assert torch.equal(*(torch.autograd.grad(value, logits)[0] for value in (found, expected)))
    yes = F.one_hot(labels, classes).float()
    assert torch.equal(binary_cross_entropy(logits, yes), F.binary_cross_entropy_with_logits(logits, yes))


def test_the_registered_losses_are_the_sums_behind_the_means():
    assert LOSSES.get("cross_entropy", task="classification") is cross_entropy_sums
    assert LOSSES.get("focal", task="classification") is focal_sums
    assert LOSSES.get("cross_entropy", task="multilabel") is binary_cross_entropy_sums


def test_the_name_of_a_detection_loss_may_be_a_loss_itself():
    batch = random_batch(0)
    own = multibox(*batch, name=LOSSES.get("focal", task="detection"))
    assert own == multibox(*batch, name="focal")


def test_negatives_that_are_equal_but_for_rounding_are_chosen_by_their_place():
    losses = torch.full((1, 3000), 0.7)
    noise = 1e-7 * torch.randn(1, 3000, generator=torch.Generator().manual_seed(0))
    positive = torch.arange(3000)[None] == 1234
    chosen = hard_negatives(losses, positive)
    assert chosen[0].nonzero()[:, 0].tolist() == [0, 1, 2, 1234]
    assert torch.equal(hard_negatives(losses + noise, positive), chosen)


def test_a_box_of_no_finite_loss_is_chosen_so_that_it_is_noticed():
    losses = torch.tensor([[0.1, torch.nan, 0.3, torch.inf, 0.2]])
    chosen = hard_negatives(losses, torch.zeros(1, 5, dtype=torch.bool), minimum=2)
    assert chosen.tolist() == [[False, True, False, True, False]]
