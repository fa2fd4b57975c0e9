import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou, sigmoid_focal_loss

from hccvision.boxes import ciou, cxcywh_to_xyxy, soft_nms
from hccvision.contracts import FeatureSpec, Head, Loss, SSDOutput, Targets
from hccvision.default_boxes import PRESETS, DefaultBoxSpec, MapSpec, decode, encode
from hccvision.heads.linear import LinearHead
from hccvision.heads.ssd import SSDHead
from hccvision.losses import mined_cross_entropy
from hccvision.matchers import BipartiteMatcher, Match, match
from hccvision.model.build import build_model, load_model
from hccvision.registry import BACKBONES, HEADS, LOSSES, MATCHERS

VGG = FeatureSpec((256, 512, 512, 512), (4, 8, 16, 32), ((56, 56), (28, 28), (14, 14), (7, 7)), (224, 224))
SMALL = FeatureSpec((4, 6), (16, 32), ((2, 3), (1, 2)), (32, 48))
# One square of half the short side per cell: 6 + 2 default boxes on a 32 x 48 image.
BOXES = DefaultBoxSpec((MapSpec(((0.5, 0.5),), 2), MapSpec(((0.5, 0.5),), 1)))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def maps_of(features: FeatureSpec, batch: int = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.rand(batch, c, *size, generator=generator)
        for c, size in zip(features.channels, features.sizes, strict=True)
    )


def raw(head: SSDHead, scores: list[list[float]], boxes: list[list[float]]) -> SSDOutput:
    """Return the raw output of one image that has these class scores and boxes (xyxy pixels), one per default box."""
    classes = torch.tensor(scores)
    logits = torch.cat((1 - classes.sum(-1, keepdim=True), classes), -1).log()
    height, width = head.image_size
    x1, y1, x2, y2 = (torch.tensor(boxes) / torch.tensor([width, height, width, height])).unbind(-1)
    offsets = encode(torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), -1), head.default_boxes)
    return SSDOutput(logits[None], offsets[None])


# Everything that is registered


@pytest.mark.parametrize("name", HEADS.names())
def test_keeps_the_contract(name):
    features = FeatureSpec((8, 8, 16, 32), (4, 8, 16, 32), ((48, 64), (24, 32), (12, 16), (6, 8)), (192, 256))
    head = HEADS.build(name, features, 3)
    assert isinstance(head, Head)
    assert isinstance(head, nn.Module)
    assert head.task == HEADS.tags(name)["task"]
    targets = Targets.pad(
        [torch.tensor([[20.0, 30.0, 90.0, 80.0]]), torch.zeros(0, 4)], [torch.tensor([2]), torch.zeros(0)]
    )
    if head.task == "classification":
        targets = Targets(targets.boxes[:, :0], targets.labels[:, :0], torch.tensor([0, 2]))
    output = head(maps_of(features))
    parts = head.loss(output, targets)
    assert isinstance(parts, Loss)
    assert parts["loss"].shape == ()
    assert torch.isfinite(parts["loss"])
    torch.testing.assert_close(parts["loss"], sum(value for key, value in parts.items() if key != "loss"))
    parts["loss"].backward()
    assert all(p.grad is not None for p in head.parameters())
    with pytest.raises(KeyError, match=rf"unknown loss 'nosuch' for {head.task}; Known: "):
        head.loss(output, targets, name="nosuch")
    assert len(head.eval().decode(output)) == 2
    assert len(head.decode(output, score_threshold=0.9)) == 2


# The linear head


def test_linear_head_has_the_papers_parameters():
    body = count(BACKBONES.build("vgg16"))
    assert count(LinearHead(VGG, 2)) == 25088 * 512 + 512 + 512 * 512 + 512 + 512 * 2 + 2 == 13_109_250
    assert body + count(LinearHead(VGG, 2)) == 27_823_938
    assert body + count(LinearHead(VGG, 2, pool="avg")) == 15_241_026


def test_a_single_linear_layer_on_the_mean_of_the_map():
    head = LinearHead(SMALL, 3, hidden=(), pool="avg", dropout=0)
    maps = maps_of(SMALL)
    layers = [m for m in head.modules() if isinstance(m, nn.Linear)]
    assert len(layers) == 1
    expected = maps[-1].mean((2, 3)) @ layers[0].weight.T + layers[0].bias
    torch.testing.assert_close(head(maps), expected)


@pytest.mark.parametrize(
    ("pool", "flat"),
    [(None, lambda m: m.reshape(2, -1)), ("avg", lambda m: m.mean((2, 3))), ("max", lambda m: m.amax((2, 3)))],
)
def test_hidden_layers_on_every_pooling(pool, flat):
    head = LinearHead(SMALL, 2, hidden=(5,), pool=pool).eval()
    maps = maps_of(SMALL)
    first, last = (m for m in head.modules() if isinstance(m, nn.Linear))
    torch.testing.assert_close(head(maps), last(first(flat(maps[-1])).relu()))


@pytest.mark.parametrize("hidden", [(), (64,), (64, 64)])
def test_dropout_acts_in_training_only(hidden):
    head = LinearHead(SMALL, 2, hidden=hidden, dropout=0.5)
    maps = maps_of(SMALL)
    assert not torch.equal(head(maps), head(maps))
    head.eval()
    assert torch.equal(head(maps), head(maps))
    dropouts = [m.p for m in head.modules() if isinstance(m, nn.Dropout)]
    assert dropouts == [0.5] * max(1, len(hidden))
    without = LinearHead(SMALL, 2, hidden=hidden, dropout=0)
    assert torch.equal(without(maps), without(maps))


def test_linear_head_refuses_what_it_cannot_be():
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        LinearHead(SMALL, 1)
    with pytest.raises(ValueError, match=r"unknown pool 'mean'; known: None .*'avg', 'max'"):
        LinearHead(SMALL, 2, pool="mean")
    with pytest.raises(ValueError, match="dropout"):
        LinearHead(SMALL, 2, dropout=1.5)


def test_probabilities_are_in_the_order_of_the_classes():
    head = LinearHead(SMALL, 3, hidden=())
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)) * 30
    probabilities = head.decode(logits)
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4))
    torch.testing.assert_close(probabilities[:, 1], logits[:, 1].exp() / logits.exp().sum(1))
    assert head.decode(torch.tensor([[0.0, 9.0, 0.0]]).half()).argmax().item() == 1
    last = next(m for m in head.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        last.bias[:] = torch.tensor([0.0, 0.0, 50.0])
    assert head.decode(head(maps_of(SMALL))).argmax(1).tolist() == [2, 2]


def test_classification_losses():
    head = LinearHead(SMALL, 2)
    logits = torch.tensor([[1.0, -1.0], [0.5, 2.0], [0.0, 0.0]])
    labels = torch.tensor([1, 1, 0])
    targets = Targets(torch.zeros(3, 0, 4), torch.zeros(3, 0).long(), labels)
    torch.testing.assert_close(head.loss(logits, targets)["loss"], F.cross_entropy(logits, labels))
    # With two classes the softmax is the sigmoid of the difference, so torchvision's focal loss is a reference.
    difference = logits[:, 1] - logits[:, 0]
    expected = sigmoid_focal_loss(difference, labels.float(), alpha=-1, gamma=2, reduction="mean")
    torch.testing.assert_close(head.loss(logits, targets, name="focal")["loss"], expected)


def test_linear_head_needs_image_labels():
    with pytest.raises(ValueError, match=r"learns from image labels.*class_name"):
        LinearHead(SMALL, 2).loss(torch.zeros(1, 2), Targets(torch.zeros(1, 0, 4), torch.zeros(1, 0).long()))


def image_targets(labels):
    return Targets(torch.zeros(len(labels), 0, 4), torch.zeros(len(labels), 0).long(), torch.tensor(labels))


@pytest.mark.parametrize("name", [None, "cross_entropy", "focal"])
def test_one_sigmoid_is_a_softmax_of_two(name):
    """The single logit is that of the last class; the softmax then sees (0, z)."""
    one, two = (LinearHead(SMALL, 2, hidden=(), output=output) for output in ("sigmoid", "softmax"))
    z = torch.randn(6, 1, generator=torch.Generator().manual_seed(0)) * 4
    both = torch.cat((torch.zeros(6, 1), z), 1)
    targets = image_targets([0, 1, 1, 0, 1, 0])
    torch.testing.assert_close(one.decode(z), two.decode(both))
    torch.testing.assert_close(one.loss(z, targets, name=name), two.loss(both, targets, name=name))
    last = one.layers[-1]
    assert tuple(last.weight.shape) == (1, 12)
    assert one(maps_of(SMALL)).shape == (2, 1)
    with torch.no_grad():
        two.layers[-1].weight.copy_(torch.cat((torch.zeros(1, 12), last.weight)))
        two.layers[-1].bias.copy_(torch.cat((torch.zeros(1), last.bias)))
    one.eval(), two.eval()
    torch.testing.assert_close(one.decode(one(maps_of(SMALL))), two.decode(two(maps_of(SMALL))))


def test_a_sure_sigmoid_rounds_neither_probability():
    decoded = LinearHead(SMALL, 2, output="sigmoid").decode(torch.tensor([[30.0], [-30.0]]).half())
    torch.testing.assert_close(decoded[:, 0], torch.tensor([-30.0, 30.0]).sigmoid(), rtol=1e-6, atol=0)
    torch.testing.assert_close(decoded[:, 1], torch.tensor([30.0, -30.0]).sigmoid(), rtol=1e-6, atol=0)
    assert decoded.dtype == torch.float32


@pytest.mark.parametrize("classes", [1, 3])
def test_multilabel_asks_for_each_class_by_itself(classes):
    head = LinearHead(SMALL, classes, output="multilabel").eval()
    assert head.task == "multilabel"
    assert {LinearHead(SMALL, 2, output=output).task for output in ("softmax", "sigmoid")} == {"classification"}
    assert not hasattr(head, "multilabel")
    logits = head(maps_of(SMALL, 4))
    assert logits.shape == (4, classes)
    torch.testing.assert_close(head.decode(logits), logits.sigmoid())
    labels = torch.tensor([[1] * classes, [0] * classes, [1] + [0] * (classes - 1), [0] * (classes - 1) + [1]])
    loss = F.binary_cross_entropy_with_logits(logits, labels.float())
    torch.testing.assert_close(head.loss(logits, image_targets(labels.tolist()))["loss"], loss)
    loss = sigmoid_focal_loss(logits, labels.float(), alpha=-1, gamma=2, reduction="mean")
    torch.testing.assert_close(head.loss(logits, image_targets(labels.tolist()), name="focal")["loss"], loss)


def test_outputs_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="unknown output 'tanh'; known: 'softmax', 'sigmoid', 'multilabel'"):
        LinearHead(SMALL, 2, output="tanh")
    with pytest.raises(ValueError, match=r'a single sigmoid separates 2 classes, got 3: use output="softmax"'):
        LinearHead(SMALL, 3, output="sigmoid")
    with pytest.raises(ValueError, match=r'at least 2 classes, got 1; .*output="multilabel"'):
        LinearHead(SMALL, 1, output="sigmoid")
    several, one = LinearHead(SMALL, 3, output="multilabel"), LinearHead(SMALL, 3)
    with pytest.raises(ValueError, match=r"output='multilabel' .* image labels \(2, 3\), got \(2,\)"):
        several.loss(torch.zeros(2, 3), image_targets([0, 1]))
    with pytest.raises(ValueError, match=r"output='softmax' .* image labels \(2,\), got \(2, 3\)"):
        one.loss(torch.zeros(2, 3), image_targets([[0, 1, 0], [1, 1, 0]]))
    with pytest.raises(ValueError, match="these targets have none: train on samples with annotations"):
        several.loss(torch.zeros(1, 3), Targets(torch.zeros(1, 0, 4), torch.zeros(1, 0).long()))
    with pytest.raises(KeyError, match="unknown loss 'dice' for multilabel; Known: cross_entropy, focal"):
        several.loss(torch.zeros(1, 3), image_targets([[0, 1, 0]]), name="dice")


@pytest.mark.parametrize(("output", "classes"), [("sigmoid", 2), ("multilabel", 1)])
def test_the_output_is_saved_with_the_model(output, classes, tmp_path):
    names = ["normal", "cancer"][-classes:]
    options = {"pool": "avg", "output": output, "hidden": ()}
    small = {"backbone_options": {"width": 0.1}, "image_size": 64}
    model = build_model("mobilenet_v1", "linear", classes=names, head_options=options, **small).eval()
    loaded = load_model(model.save(tmp_path / "model.safetensors"))
    image = torch.rand(1, 3, 64, 64)
    assert loaded.head.output == output
    assert torch.equal(loaded.decode(loaded(image)), model.decode(model(image)))


# The SSD head: its parts


@pytest.mark.parametrize(
    ("classes", "total"), [(1, 3_206_976 + 2_459_520 + 608_400 + 304_200), (20, 9_468_996)], ids=["paper", "voc"]
)
def test_ssd_has_the_papers_parameters(classes, total):
    model = build_model("mobilenet_v1", "ssd", classes=[str(i) for i in range(classes)])
    assert count(model) == total
    assert count(model.head.extras) == 2_459_520
    assert count(model.head.box_convs) == 608_400
    assert model.head.default_boxes.shape == (3000, 4)


def test_ssd_has_the_papers_eight_extra_convolutions():
    features = FeatureSpec((512, 1024), (16, 32), ((19, 19), (10, 10)), (300, 300))
    convolutions = [m for m in SSDHead(features, 1).extras.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, *c.kernel_size, *c.stride) for c in convolutions] == [
        (1024, 256, 1, 1, 1, 1),
        (256, 512, 3, 3, 2, 2),
        (512, 128, 1, 1, 1, 1),
        (128, 256, 3, 3, 2, 2),
        (256, 128, 1, 1, 1, 1),
        (128, 256, 3, 3, 2, 2),
        (256, 128, 1, 1, 1, 1),
        (128, 256, 3, 3, 2, 2),
    ]


def test_ssd_keeps_outputs_in_the_order_of_the_default_boxes():
    """The cell in row 1, column 0 of a 2 x 3 map is number 3; each of its two boxes has its own channels."""
    spec = DefaultBoxSpec((MapSpec(((0.5, 0.5), (0.9, 0.3)), 2),), strides=(16,))
    features = FeatureSpec((1,), (16,), ((2, 3),), (32, 48))
    head = SSDHead(features, 2, default_boxes=spec)
    with torch.no_grad():
        for conv in (*head.class_convs, *head.box_convs):
            conv.weight.zero_()
            conv.weight[:, :, 1, 1] = torch.arange(1, conv.out_channels + 1)[:, None]
    cell = torch.zeros(1, 1, 2, 3)
    cell[0, 0, 1, 0] = 1
    output = head((cell,))
    assert output.logits.shape == (1, 12, 3)
    assert output.logits[0, 6:8].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert output.offsets[0, 6:8].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert int(output.logits.any(-1).sum()) == 2
    centre = torch.tensor([0.5 / 3, 1.5 / 2])
    torch.testing.assert_close(head.default_boxes[6:8, :2], centre.expand(2, 2))


def test_ssd_stands_on_the_maps_whose_strides_the_default_boxes_name():
    features = FeatureSpec((8, 16, 32, 64), (4, 8, 16, 32), ((75, 75), (38, 38), (19, 19), (10, 10)), (300, 300))
    assert SSDHead(features, 1).sources == [2, 3]
    vgg = SSDHead(features, 1, default_boxes="ssd300_vgg")
    assert vgg.sources == [1, 2]
    assert len(vgg.default_boxes) == 8732
    elsewhere = FeatureSpec((8, 16, 32), (7, 14, 28), ((43, 43), (21, 21), (11, 11)), (300, 300))
    assert SSDHead(elsewhere, 1).sources == [1, 2]  # no such strides: the last maps
    transformer = FeatureSpec((8, 8, 8), (16, 16, 16), ((14, 14),) * 3, (224, 224))
    assert SSDHead(transformer, 1).sources == [1, 2]


def test_ssd_can_stand_on_one_map_twice():
    features = FeatureSpec((8, 16), (8, 16), ((38, 38), (19, 19)), (300, 300))
    square = ((0.1, 0.1),)
    spec = DefaultBoxSpec((MapSpec(square, centres=2), MapSpec(square), MapSpec(square)), strides=(8, 8, 16))
    head = SSDHead(features, 1, default_boxes=spec)
    assert head.sources == [0, 0, 1]
    assert len(head.default_boxes) == 38 * 38 * 5 + 19 * 19
    elsewhere = FeatureSpec((8, 8, 16), (5, 7, 14), ((60, 60), (43, 43), (22, 22)), (300, 300))
    assert SSDHead(elsewhere, 1, default_boxes=spec).sources == [1, 1, 2]


def test_the_last_extra_convolutions_of_vggs_set_are_not_padded():
    features = FeatureSpec((512, 1024), (8, 16), ((38, 38), (19, 19)), (300, 300))
    head = SSDHead(features, 1, default_boxes="ssd300_vgg")
    assert [(e[2].stride, e[2].padding) for e in head.extras] == [((2, 2), (1, 1))] * 2 + [((1, 1), (0, 0))] * 2
    maps = torch.zeros(1, 512, 38, 38), torch.zeros(1, 1024, 19, 19)
    assert head(maps).logits.shape == (1, 8732, 2)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("image_size", [(300, 300), (208, 336)])
def test_every_preset_meets_a_backbone_of_all_its_strides(name, depthwise, image_size):
    sizes = tuple((math.ceil(image_size[0] / s), math.ceil(image_size[1] / s)) for s in (4, 8, 16, 32))
    features = FeatureSpec((8, 8, 8, 8), (4, 8, 16, 32), sizes, image_size)
    head = SSDHead(features, 2, default_boxes=name, depthwise=depthwise).train()
    output = head(tuple(torch.rand(1, 8, *size) for size in sizes))  # one image: a last batch may be so small
    assert output.logits.shape == (1, len(head.default_boxes), 3)
    assert output.offsets.shape == (1, len(head.default_boxes), 4)


def test_separable_convolutions_are_a_small_part():
    features = FeatureSpec((512, 1024), (16, 32), ((19, 19), (10, 10)), (300, 300))
    whole, light = (count(SSDHead(features, 1, depthwise=d)) for d in (False, True))
    assert light < whole / 4
    first = SSDHead(features, 1, depthwise=True).class_convs[0]
    assert first[0].groups == first[0].in_channels == 512
    assert first[3].kernel_size == (1, 1)


def test_ssd_refuses_a_backbone_with_too_few_maps():
    features = FeatureSpec((16,), (16,), ((19, 19),), (300, 300))
    with pytest.raises(ValueError, match=r"need 2 maps .*strides \(8, 16\).*has 1 \(strides \(16,\)"):
        SSDHead(features, 1, default_boxes="ssd300_vgg")
    with pytest.raises(KeyError, match="unknown set of default boxes 'ssd1024'; known: ssd300_mobilenet"):
        SSDHead(features, 1, default_boxes="ssd1024")


def test_a_prior_makes_a_fresh_head_expect_few_lesions():
    for depthwise in (False, True):
        head = SSDHead(SMALL, 2, default_boxes=BOXES, prior=0.01, depthwise=depthwise)
        output = head(tuple(torch.zeros(1, c, *size) for c, size in zip(SMALL.channels, SMALL.sizes, strict=True)))
        shares = output.logits.softmax(-1)
        torch.testing.assert_close(shares[..., 0], torch.full((1, 8), 0.99))
        torch.testing.assert_close(shares[..., 1], shares[..., 2])
    with pytest.raises(ValueError, match=r"prior is a probability in \(0, 1\), got 1"):
        SSDHead(SMALL, 2, default_boxes=BOXES, prior=1)


# The SSD head: the loss


def test_ssd_loss_by_hand():
    """The truth is default box 0 moved by a pixel; one positive, so three negatives count."""
    head = SSDHead(SMALL, 2, default_boxes=BOXES)
    corner = torch.tensor([8.0 - 8, 8 - 8, 8 + 8, 8 + 8])  # cell (0, 0) of 2 x 3 on 32 x 48, side 16
    targets = Targets.pad([(corner + torch.tensor([1.0, 0, 1, 0]))[None]], [torch.tensor([1])])
    logits = torch.randn(1, 8, 3, generator=torch.Generator().manual_seed(0))
    parts = head.loss(SSDOutput(logits, torch.zeros(1, 8, 4)), targets)
    centre_offset = (1 / 16) / 0.1
    torch.testing.assert_close(parts["regression"], F.smooth_l1_loss(torch.tensor(centre_offset), torch.tensor(0.0)))
    background = F.cross_entropy(logits[0], torch.zeros(8).long(), reduction="none")[1:]
    expected = F.cross_entropy(logits[0, :1], torch.tensor([2])) + background.topk(3).values.sum()
    torch.testing.assert_close(parts["classification"], expected)
    torch.testing.assert_close(parts["loss"], parts["regression"] + parts["classification"])


@pytest.mark.parametrize("padding", [0, 2])
def test_an_image_without_lesions_teaches_background(padding):
    head = SSDHead(SMALL, 2, default_boxes=BOXES)
    targets = Targets(torch.zeros(2, padding, 4), torch.full((2, padding), -1))
    logits = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    offsets = torch.randn(2, 8, 4, requires_grad=True)
    parts = head.loss(SSDOutput(logits, offsets), targets)
    background = F.cross_entropy(logits.flatten(0, 1), torch.zeros(16).long(), reduction="none").view(2, 8)
    torch.testing.assert_close(parts["loss"], background.topk(3, dim=1).values.sum())
    assert parts["regression"] == 0
    parts["loss"].backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad.abs().sum(-1) > 0).sum(1).tolist() == [3, 3]
    assert not offsets.grad.any()


def test_ssd_loss_does_not_depend_on_padding():
    head = SSDHead(SMALL, 1, default_boxes=BOXES)
    lesion = torch.tensor([[2.0, 3.0, 19.0, 20.0]])
    generator = torch.Generator().manual_seed(0)
    output = SSDOutput(torch.randn(1, 8, 2, generator=generator), torch.randn(1, 8, 4, generator=generator))
    alone = Targets.pad([lesion], [torch.tensor([0])])
    padded = Targets(
        torch.cat((torch.zeros(1, 2, 4), lesion[None], torch.zeros(1, 1, 4)), 1), torch.tensor([[-1, -1, 0, -1]])
    )
    assert head.loss(output, alone) == head.loss(output, padded)


@pytest.mark.parametrize("name", HEADS.names())
def test_the_loss_of_a_head_may_be_a_callable(name):
    head = HEADS.build(name, SMALL, 2, **({"default_boxes": BOXES} if HEADS.tags(name)["task"] == "detection" else {}))
    targets = Targets.pad([torch.tensor([[2.0, 3.0, 19.0, 20.0]])] * 2, [torch.zeros(1)] * 2, torch.tensor([0, 1]))
    output, seen = head(maps_of(SMALL)), []

    def own(output, targets, **options):
        seen.append(options)
        return Loss({"own": sum(part.sum() for part in output) * 2}, torch.tensor(4))

    found = head.loss(output, targets, name=own)
    assert set(found) == {"loss", "own"}
    torch.testing.assert_close(found["loss"], sum(part.sum() for part in output) / 2)
    head.loss(output, targets, name=own, label_smoothing=0.1, class_weights=torch.ones(2))
    assert [sorted(options) for options in seen] == [[], ["class_weights", "label_smoothing"]]


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_the_loss_of_a_linear_head_has_the_bits_of_torchs_mean(output):
    head = LinearHead(SMALL, 2, output=output)
    labels = torch.arange(7) % 2
    logits = torch.randn(7, 1 if output == "sigmoid" else 2, generator=torch.Generator().manual_seed(0))
    expected = (
        F.cross_entropy(logits, labels)
        if output == "softmax"
        else F.binary_cross_entropy_with_logits(logits, labels[:, None].float())
    )
    assert torch.equal(head.loss(logits, image_targets(labels.tolist()))["loss"], expected)


def batch_of(head, images):
    """Random raw output, and lesions in all images but the second."""
    generator = torch.Generator().manual_seed(0)
    output = SSDOutput(
        torch.randn(images, 8, 3, generator=generator, dtype=torch.float64),
        torch.randn(images, 8, 4, generator=generator, dtype=torch.float64),
    )
    corner = torch.rand(images, 2, 2, generator=generator) * 10
    boxes = torch.cat((corner, corner + 15), -1)
    rows = [boxes[i, : 0 if i == 1 else 1 + i % 2] for i in range(images)]
    return output, Targets.pad(rows, [torch.ones(len(row)) for row in rows])


@pytest.mark.parametrize("name", [None, "giou", "focal", "focal_giou"])
def test_losses_of_the_parts_of_a_batch_add_up(name):
    head = SSDHead(SMALL, 2, default_boxes=BOXES)
    output, targets = batch_of(head, 5)
    options = {"name": name, "label_smoothing": 0.1, "class_weights": torch.tensor([0.3, 2.0])}
    whole = head.loss(output, targets, **options)
    parts = [
        head.loss(SSDOutput(output.logits[rows], output.offsets[rows]), targets.take(rows), **options)
        for rows in (torch.tensor([0]), torch.tensor([1]), torch.tensor([2, 3, 4]))
    ]
    assert sum(part.count for part in parts) == whole.count > 0
    for key, value in whole.sums.items():
        torch.testing.assert_close(sum(part.sums[key] for part in parts), value, rtol=0, atol=1e-9)


def test_one_loss_matches_once(monkeypatch):
    calls = []
    monkeypatch.setattr("hccvision.matchers.bipartite.match", lambda *args, **k: calls.append(k) or match(*args, **k))
    head = SSDHead(SMALL, 2, default_boxes=BOXES, iou_threshold=0.4)
    head.loss(*batch_of(head, 2))
    assert calls == [{"iou_threshold": 0.4}]


# The SSD head: matchers


def test_the_matcher_is_a_name_with_options_or_an_object():
    assert SSDHead(SMALL, 2, default_boxes=BOXES).matcher == BipartiteMatcher(0.5)
    assert SSDHead(SMALL, 2, default_boxes=BOXES, iou_threshold=0.4).matcher == BipartiteMatcher(0.4)
    own = BipartiteMatcher(0.3)
    assert SSDHead(SMALL, 2, default_boxes=BOXES, matcher=own).matcher is own
    with pytest.raises(KeyError, match="unknown matcher 'bipartit'; did you mean 'bipartite'"):
        SSDHead(SMALL, 2, default_boxes=BOXES, matcher="bipartit")
    with pytest.raises(TypeError, match=r"options \(iou_threshold\) are for a matcher given by name"):
        SSDHead(SMALL, 2, default_boxes=BOXES, matcher=own, iou_threshold=0.4)
    with pytest.raises(TypeError, match="topk"):
        SSDHead(SMALL, 2, default_boxes=BOXES, topk=9)


def test_a_matcher_sees_the_output_the_labels_and_the_levels_and_may_weigh_its_positives():
    head = SSDHead(SMALL, 2, default_boxes=BOXES)
    output, targets = batch_of(head, 3)
    output.logits.requires_grad_()
    seen = []

    def weighing(default_boxes, truths, labels, valid, *, output=None, levels=None):
        seen.append((default_boxes, truths, labels, valid, output, levels))
        found = match(default_boxes, truths, valid)
        return found._replace(weights=torch.full_like(found.iou, 0.25))

    weighed = SSDHead(SMALL, 2, default_boxes=BOXES, matcher=weighing)
    one, quarter = head.loss(output, targets), weighed.loss(output, targets)
    ((default_boxes, truths, labels, valid, raw, levels),) = seen
    assert torch.equal(default_boxes, head.default_boxes)
    assert torch.equal(truths, targets.boxes / torch.tensor([48, 32, 48, 32]))
    assert torch.equal(labels, targets.labels)
    assert torch.equal(valid, targets.valid)
    assert torch.equal(raw.logits, output.logits)
    assert not raw.logits.requires_grad
    assert levels == (6, 2)
    assert quarter.count == one.count / 4
    torch.testing.assert_close(quarter.sums["regression"], one.sums["regression"] / 4)
    assert quarter.sums["classification"] < one.sums["classification"]


@pytest.mark.parametrize("name", MATCHERS.names())
def test_every_matcher_keeps_the_contract(name):
    head = SSDHead(SMALL, 2, default_boxes=BOXES)
    output, targets = batch_of(head, 4)
    matcher = MATCHERS.build(name)
    found = matcher(
        head.default_boxes, targets.boxes / head.scale, targets.labels, targets.valid, output=output,
        levels=head.levels,
    )  # fmt: skip
    assert isinstance(found, Match)
    assert (found.truth.shape, found.truth.dtype, found.iou.shape) == ((4, 8), torch.int64, (4, 8))
    image, box = (found.truth >= 0).nonzero(as_tuple=True)
    assert targets.valid[image, found.truth[image, box]].all()
    assert (found.truth[1] == -1).all()  # no lesion
    assert found.weights is None or (found.weights.shape == (4, 8) and (found.weights >= 0).all())
    nothing = Targets(torch.zeros(2, 0, 4), torch.zeros(2, 0).long())
    assert (matcher(head.default_boxes, nothing.boxes, nothing.labels, nothing.valid).truth == -1).all()


def test_a_loss_and_a_matcher_are_added_by_one_definition_each(monkeypatch):
    for registry in (LOSSES, MATCHERS):
        registry.names()
        for entries in ("_builders", "_tags"):
            monkeypatch.setattr(registry, entries, dict(getattr(registry, entries)))

    @LOSSES.register("ciou", task="detection")
    def ciou_loss(output, targets, **options):
        corners = [
            cxcywh_to_xyxy(decode(offsets, targets.default_boxes))[targets.positive]
            for offsets in (output.offsets, targets.offsets)
        ]
        regression = (1 - ciou(*corners, pairwise=False)).sum()
        classification = mined_cross_entropy(output.logits, targets.classes, **options)
        return Loss({"regression": regression, "classification": classification}, targets.positives)

    @MATCHERS.register("nearest")
    class Nearest:
        """The default box of the nearest centre, as ATSS begins."""

        def __init__(self, *, count=1):
            self.count = count

        def __call__(self, default_boxes, truths, labels, valid, *, output=None, levels=None):
            centres = (truths[..., :2] + truths[..., 2:]) / 2
            nearest = torch.cdist(centres, default_boxes[:, :2].expand(len(truths), -1, -1)).topk(
                self.count, largest=False
            )
            truth = torch.full((len(truths), len(default_boxes)), -1)
            for image, number in valid.nonzero().tolist():
                truth[image, nearest.indices[image, number]] = number
            return Match(truth, torch.zeros(truth.shape))

    head = SSDHead(SMALL, 2, default_boxes=BOXES, matcher="nearest", count=2)
    output, targets = batch_of(head, 1)
    output.offsets.requires_grad_()
    loss = head.loss(output, targets, name="ciou", label_smoothing=0.1)
    loss.backward()
    assert loss.count == 2
    assert int((output.offsets.grad != 0).any(-1).sum()) == 2


# The SSD head: decoding


def test_decode_gives_back_what_was_encoded():
    head = SSDHead(SMALL, 2, default_boxes=BOXES)
    scores = [[0.0] * 2 for _ in range(8)]
    boxes = [[1.0, 1.0, 9.0, 9.0] for _ in range(8)]
    scores[3], boxes[3] = [0.1, 0.7], [20.0, 4.0, 41.0, 17.0]
    scores[6], boxes[6] = [0.9, 0.05], [3.0, 2.0, 12.0, 30.0]
    found = head.decode(raw(head, scores, boxes), score_threshold=0.3)[0]
    torch.testing.assert_close(found.boxes, torch.tensor([boxes[6], boxes[3]]), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.7]))
    assert found.labels.tolist() == [0, 1]  # there is no background among them
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (torch.float32, torch.float32, torch.int64)


def test_decode_suppresses_duplicates_class_by_class():
    head = SSDHead(SMALL, 2, default_boxes=BOXES)
    place = [4.0, 4.0, 20.0, 20.0]
    near, far = [5.0, 4.0, 21.0, 20.0], [12.0, 4.0, 28.0, 20.0]
    assert (
        box_iou(torch.tensor([place]), torch.tensor([near]))
        > 0.45
        > box_iou(torch.tensor([place]), torch.tensor([far]))
    )
    scores = [[0.6, 0.3], [0.5, 0.0], [0.4, 0.0], *[[0.0, 0.0]] * 5]
    boxes = [place, near, far, *[place] * 5]
    found = head.decode(raw(head, scores, boxes))[0]
    assert found.labels.tolist() == [0, 0, 1]
    torch.testing.assert_close(found.scores, torch.tensor([0.6, 0.4, 0.3]))
    kept = head.decode(raw(head, scores, boxes), iou_threshold=1.0)[0]
    torch.testing.assert_close(kept.scores, torch.tensor([0.6, 0.5, 0.4, 0.3]))


DUPLICATES = {"scores": [[0.9, 0.0], [0.8, 0.0], [0.0, 0.7]], "boxes": [[2, 2, 20, 20], [3, 2, 20, 20], [2, 2, 20, 21]]}


@pytest.mark.parametrize("suppression", ["linear", "gaussian"])
def test_soft_suppression_lowers_the_scores_of_duplicates(suppression):
    grid = DefaultBoxSpec((MapSpec(((0.5, 0.5),) * 3, 1),), strides=(16,))
    head = SSDHead(FeatureSpec((1,), (16,), ((1, 1),), (32, 48)), 2, default_boxes=grid)
    output = raw(head, DUPLICATES["scores"], DUPLICATES["boxes"])
    (hard,) = head.decode(output)
    assert sorted(zip(hard.labels.tolist(), hard.scores.tolist(), strict=True)) == [
        (0, pytest.approx(0.9)), (1, pytest.approx(0.7)),
    ]  # fmt: skip
    (soft,) = head.decode(output, suppression=suppression)
    boxes, scores = torch.tensor(DUPLICATES["boxes"], dtype=torch.float32), torch.tensor([0.9, 0.8, 0.7])
    best, lowered = soft_nms(boxes, scores, method=suppression, score_threshold=0.01, labels=torch.tensor([0, 0, 1]))
    torch.testing.assert_close(soft.scores, lowered)
    torch.testing.assert_close(soft.boxes, boxes[best], rtol=0, atol=1e-4)
    assert (soft.scores.diff() <= 0).all()


def test_class_agnostic_suppression_removes_duplicates_of_other_classes():
    grid = DefaultBoxSpec((MapSpec(((0.5, 0.5),) * 3, 1),), strides=(16,))
    head = SSDHead(FeatureSpec((1,), (16,), ((1, 1),), (32, 48)), 2, default_boxes=grid)
    (found,) = head.decode(raw(head, DUPLICATES["scores"], DUPLICATES["boxes"]), class_agnostic=True)
    assert found.labels.tolist() == [0]


def test_decode_threshold_is_exceeded_not_met():
    head = SSDHead(SMALL, 1, default_boxes=BOXES)
    output = SSDOutput(torch.zeros(1, 8, 2), torch.zeros(1, 8, 4))  # every score is exactly 0.5
    assert len(head.decode(output, score_threshold=0.5)[0]) == 0
    assert len(head.decode(output, score_threshold=0.499, iou_threshold=1.0)[0]) == 8


def test_decode_takes_so_many_candidates_of_each_class():
    head = SSDHead(SMALL, 2, default_boxes=BOXES)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 8, 3, generator=generator)
    output = SSDOutput(logits, torch.zeros(1, 8, 4))
    found = head.decode(output, score_threshold=0, iou_threshold=1.0, candidates=3)[0]
    probabilities = logits[0].softmax(-1)[:, 1:]
    for label in (0, 1):
        torch.testing.assert_close(found.scores[found.labels == label], probabilities[:, label].topk(3).values)
    equal = SSDOutput(torch.zeros(1, 8, 3), torch.zeros(1, 8, 4))  # ties don't make more of them
    assert len(head.decode(equal, iou_threshold=1.0, candidates=3)[0]) == 6


def test_decode_gives_so_many_detections_at_most_and_the_best():
    head = SSDHead(SMALL, 2, default_boxes=BOXES)
    logits = torch.randn(1, 8, 3, generator=torch.Generator().manual_seed(0))
    output = SSDOutput(logits, torch.zeros(1, 8, 4))
    found = head.decode(output, score_threshold=0, iou_threshold=1.0, max_detections=5)[0]
    expected = logits[0].softmax(-1)[:, 1:].flatten().topk(5).values
    torch.testing.assert_close(found.scores, expected)


def test_decode_finds_nothing_in_the_right_shapes():
    head = SSDHead(SMALL, 2, default_boxes=BOXES)
    logits = torch.zeros(3, 8, 3)
    logits[..., 0] = 20
    found = head.decode(SSDOutput(logits, torch.zeros(3, 8, 4)))
    assert len(found) == 3
    for image in found:
        assert (tuple(image.boxes.shape), tuple(image.scores.shape), tuple(image.labels.shape)) == ((0, 4), (0,), (0,))
        assert image.labels.dtype == torch.int64


def test_boxes_are_cut_to_the_image_and_those_outside_left_out():
    head = SSDHead(SMALL, 1, default_boxes=BOXES)
    boxes = [[-9.0, -4.0, 60.0, 40.0], [50.0, 3.0, 70.0, 9.0], *[[2.0, 2.0, 5.0, 5.0]] * 6]
    found = head.decode(raw(head, [[0.6], [0.9], *[[0.0]] * 6], boxes))[0]
    torch.testing.assert_close(found.boxes, torch.tensor([[0.0, 0.0, 48.0, 32.0]]))
    torch.testing.assert_close(found.scores, torch.tensor([0.6]))


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_decode_of_anything_is_well_formed(scale):
    head = SSDHead(SMALL, 3, default_boxes=BOXES)
    generator = torch.Generator().manual_seed(0)
    output = SSDOutput(
        torch.randn(20, 8, 4, generator=generator) * scale, torch.randn(20, 8, 4, generator=generator) * scale
    )
    for found in head.decode(output):
        x1, y1, x2, y2 = found.boxes.unbind(-1)
        assert bool(((x1 >= 0) & (x1 < x2) & (x2 <= 48) & (y1 >= 0) & (y1 < y2) & (y2 <= 32)).all())
        assert bool((found.scores[:-1] >= found.scores[1:]).all())
        assert set(found.labels.tolist()) <= {0, 1, 2}


def test_decode_of_a_batch_is_that_of_its_images():
    head = SSDHead(SMALL, 3, default_boxes=BOXES)
    generator = torch.Generator().manual_seed(0)
    output = SSDOutput(torch.randn(3, 8, 4, generator=generator), torch.randn(3, 8, 4, generator=generator))
    for i, together in enumerate(head.decode(output)):
        alone = head.decode(SSDOutput(output.logits[i : i + 1], output.offsets[i : i + 1]))[0]
        for a, b in zip(vars(together).values(), vars(alone).values(), strict=True):
            assert torch.equal(a, b)
