import re
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.vgg import cfgs, make_layers

from hccvision.backbones.mobilenet import MobileNetV1
from hccvision.backbones.timm_adapter import TimmBackbone
from hccvision.backbones.vgg import VGGSSD, vgg16, vgg16_bn
from hccvision.contracts import Backbone, Targets
from hccvision.model.build import build_model
from hccvision.registry import BACKBONES, HEADS
from hccvision.weights import load_into, recognise

SIZES = {"linear": ((64, 64), (64, 96)), "ssd": ((128, 128), (96, 160))}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def shuffled(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every tensor values of its own, also those that are 0 or 1 when fresh, and put it in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if name.endswith(("bias", "running_mean")):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
            elif name.endswith("running_var") or (value.dim() == 1 and value.is_floating_point()):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return module.eval()


def transfer(source: nn.Module, backbone: nn.Module, expected_left_over: tuple[str, ...]) -> None:
    """Load one network's weights into a backbone by its own remapping; nothing but the classifier may be left."""
    tensors = source.state_dict()
    report = load_into(backbone, tensors, recognise(tensors, backbone.formats, "test"), "test")
    assert report.missing == ()
    left_over = {key for key in report.left_over if not key.endswith("num_batches_tracked")}
    assert {key.split(".")[0] for key in left_over} == set(expected_left_over)


def same(given: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.std() > 1e-3
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)


# Everything that is registered


@pytest.mark.parametrize("name", BACKBONES.names())
def test_states_what_it_gives(name):
    backbone = BACKBONES.build(name)
    assert isinstance(backbone, Backbone)
    assert len(backbone.channels) == len(backbone.strides)
    assert list(backbone.strides) == sorted(backbone.strides)
    for size in ((32, 32), (64, 96)):
        with torch.no_grad():
            maps = backbone.eval()(torch.rand(2, 3, *size))
        assert isinstance(maps, tuple)
        expected = [
            (2, c, size[0] // s, size[1] // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)
        ]
        assert [tuple(m.shape) for m in maps] == expected


@pytest.mark.parametrize("name", BACKBONES.names())
def test_one_image_gives_what_it_gives_in_a_batch(name):
    backbone = shuffled(BACKBONES.build(name))
    images = torch.rand(2, 3, 32, 64)
    with torch.no_grad():
        both, second = backbone(images), backbone(images[1:])
    for together, alone in zip(both, second, strict=True):
        torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("in_channels", [1, 5])
@pytest.mark.parametrize("name", BACKBONES.names())
def test_takes_any_number_of_channels(name, in_channels):
    backbone = BACKBONES.build(name, in_channels=in_channels)
    assert backbone.in_channels == in_channels
    with torch.no_grad():
        maps = backbone.eval()(torch.rand(1, in_channels, 32, 32))
    assert tuple(m.shape[1] for m in maps) == backbone.channels
    with pytest.raises(RuntimeError):
        backbone(torch.rand(1, in_channels + 1, 64, 64))


@pytest.mark.parametrize("second", [False, True], ids=["square", "non_square"])
@pytest.mark.parametrize("head", HEADS.names())
@pytest.mark.parametrize("backbone", BACKBONES.names())
def test_every_backbone_trains_with_every_head(backbone, head, second):
    size = SIZES.get(head, SIZES["ssd"])[second]
    model = build_model(backbone, head, classes=["normal", "cancer"], image_size=size)
    assert model.image_size == size
    output = model.train()(torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)))
    if model.task == "classification":
        assert output.shape == (2, 2)
        loss = nn.functional.cross_entropy(output, torch.tensor([1, 0]))
    else:
        boxes = len(model.head.default_boxes)
        assert (output.logits.shape, output.offsets.shape) == ((2, boxes, 3), (2, boxes, 4))
        loss = output.logits.square().mean() + output.offsets.square().mean()
    assert torch.isfinite(loss)
    loss.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    unused = ["backbone.norm.scale"] if (backbone, head) == ("vgg16_ssd", "linear") else []  # of conv4_3, for detectors
    assert without == unused
    assert next(model.backbone.parameters()).grad.any()


@pytest.mark.parametrize(
    ("model_name", "options", "default_boxes"),
    [
        ("resnet50", {}, "ssd300_mobilenet"),
        ("efficientnet_b0", {}, "ssd300_vgg"),
        ("convnext_atto", {}, "lesion"),
        ("vit_tiny_patch16_224", {"image_size": (96, 128)}, "ssd300_mobilenet"),  # all of its maps are at stride 16
    ],
)
def test_ssd_stands_on_any_timm_model(model_name, options, default_boxes):
    model = build_model(
        "timm",
        "ssd",
        classes=["hcc"],
        image_size=(96, 128),
        backbone_options={"model_name": model_name, **options},
        head_options={"default_boxes": default_boxes},
    )
    targets = Targets.pad(
        [torch.tensor([[20.0, 20.0, 60.0, 60.0]]), torch.zeros(0, 4)], [torch.zeros(1), torch.zeros(0)]
    )
    parts = model.train().loss(model(torch.rand(2, 3, 96, 128)), targets)
    parts["loss"].backward()
    assert torch.isfinite(parts["loss"])
    assert torch.isfinite(next(model.backbone.parameters()).grad).all()
    with torch.no_grad():
        output = model.eval()(torch.rand(1, 3, 96, 128))
    assert output.logits.shape == (1, len(model.head.default_boxes), 2)
    assert len(model.decode(output)) == 1


@pytest.mark.parametrize(("backbone", "head", "side"), [("vgg16", "linear", 224), ("mobilenet_v1", "ssd", 300)])
def test_the_papers_models_run_at_their_own_size(backbone, head, side):
    model = build_model(backbone, head, classes=["normal", "cancer"]).eval()
    assert model.image_size == (side, side)
    with torch.no_grad():
        output = model(torch.rand(1, 3, side, side))
    assert tuple(output.shape if head == "linear" else output.logits.shape) == (
        (1, 2) if head == "linear" else (1, 3000, 3)
    )


# VGG-16


def test_vgg16_has_the_papers_parameters():
    classifier = (512 * 7 * 7 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000
    assert count(vgg16()) == 14_714_688
    assert count(vgg16()) + classifier == 138_357_544
    assert count(vgg16_bn()) == 14_723_136
    assert count(vgg16_bn()) + classifier == 138_365_992


@pytest.mark.parametrize(
    ("name", "ends"), [("vgg16", (16, 23, 30, 31)), ("vgg16_bn", (23, 33, 43, 44))]
)  # torchvision's layers up to conv3_3, conv4_3, conv5_3 and pool5
@pytest.mark.parametrize("training", [False, True])
def test_vgg16_computes_what_torchvision_computes(name, ends, training):
    reference = nn.Module()
    reference.features = make_layers(cfgs["D"], batch_norm=name == "vgg16_bn")
    reference.classifier = nn.Linear(512, 2)
    backbone = BACKBONES.build(name).train(training)
    transfer(shuffled(reference), backbone, ("classifier",))
    reference.train(training)
    images = torch.rand(2, 3, 32, 64)
    with torch.no_grad():
        for given, end in zip(backbone(images), ends, strict=True):
            same(given, reference.features[:end](images))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
def test_vgg16_computes_what_timm_computes(name, training):
    reference = shuffled(timm.create_model(name, pretrained=False, num_classes=2)).train(training)
    backbone = BACKBONES.build(name).train(training)
    transfer(reference, backbone, ("pre_logits", "head"))
    images = torch.rand(2, 3, 32, 64)
    with torch.no_grad():
        same(backbone(images)[-1], reference.features(images))


@pytest.mark.parametrize("norm", ["l2", "batch"])
@pytest.mark.parametrize("training", [False, True])
def test_vgg16_ssd_computes_what_torchvision_computes(norm, training):
    reference = shuffled(ssd300_vgg16(weights=None, weights_backbone=None).backbone).train(training)
    backbone = VGGSSD(norm=norm).train(training)
    tensors = {f"backbone.{k}": v for k, v in reference.state_dict().items()}
    fmt = next(f for f in backbone.formats if f.name == "torchvision detector")
    report = load_into(backbone, tensors, fmt, "test")
    assert [k for k in report.missing if not k.startswith("norm.")] == []
    head = {k for k in tensors if re.match(r"backbone\.extra\.[1-4]\.", k)}
    assert set(report.left_over) == head | ({"backbone.scale_weight"} if norm == "batch" else set())
    images = torch.rand(1, 3, 300, 268)
    with torch.no_grad():
        fine, coarse = backbone(images)
        expected = reference(images)
        same(coarse, expected["1"])
        if norm == "l2":
            same(fine, expected["0"])
        else:
            plain = reference.features(images)
            same(fine, nn.functional.batch_norm(plain, torch.zeros(512), torch.ones(512), training=training))


def test_vgg16_ssd_gives_the_papers_maps():
    backbone = VGGSSD()
    assert backbone.norm.scale.unique().tolist() == [20.0]
    # conv1_1 to conv5_3 as in VGG-16, fc6, fc7, and one scale per channel
    assert count(backbone) == 14_714_688 + (512 * 9 + 1) * 1024 + (1024 + 1) * 1024 + 512
    with torch.no_grad():
        maps = backbone.eval()(torch.rand(1, 3, 300, 300))
    assert [tuple(m.shape[1:]) for m in maps] == [(512, 38, 38), (1024, 19, 19)]
    torch.testing.assert_close(maps[0].norm(dim=1), torch.full((1, 38, 38), 20.0))


def test_vgg16_ssd_refuses_an_unknown_norm():
    with pytest.raises(ValueError, match="unknown norm 'layer'; known: l2, batch"):
        VGGSSD(norm="layer")


def test_vgg16_ssd_starts_from_the_classifiers_weights():
    reference = shuffled(timm.create_model("vgg16", pretrained=False, num_classes=2))
    backbone = VGGSSD()
    tensors = reference.state_dict()
    report = load_into(backbone, tensors, recognise(tensors, backbone.formats, "test"), "test")
    fc6_fc7 = {f"features.{n}.{part}" for n in (31, 33) for part in ("weight", "bias")}
    assert set(report.missing) == {*fc6_fc7, "norm.scale"}
    assert torch.equal(backbone.features[28].weight, reference.features[28].weight)


def test_vgg16_does_not_change_the_images_it_is_given():
    images = torch.rand(1, 3, 32, 32) - 0.5
    before = images.clone()
    vgg16()(images)
    assert torch.equal(images, before)


# MobileNetV1


@pytest.mark.parametrize(
    ("width", "body", "total"),
    [
        (1.0, 3_206_976, 4_231_976),
        (0.75, 1_816_560, 2_585_560),
        (0.5, 818_592, 1_331_592),
        (0.25, 213_072, 470_072),
    ],
)
def test_mobilenet_has_the_papers_parameters(width, body, total):
    backbone = MobileNetV1(width=width)
    assert count(backbone) == body
    assert count(backbone) + (backbone.channels[-1] + 1) * 1000 == total


@pytest.mark.parametrize(("size", "mmacs"), [(224, 568.74), (192, 418.12), (160, 290.68), (128, 186.40)])
def test_mobilenet_has_the_papers_multiplications(size, mmacs):
    macs = 0

    def add(module, _, output):
        nonlocal macs
        macs += output[0].numel() * module.weight[0].numel()

    backbone = MobileNetV1().eval()
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    with torch.no_grad():
        backbone(torch.zeros(1, 3, size, size))
    assert (macs + 1024 * 1000) / 1e6 == pytest.approx(mmacs, abs=0.005)


@pytest.mark.parametrize(
    ("width", "channels"),
    [(0.6, (76, 153, 307, 614)), (0.1, (12, 25, 51, 102)), (0.01, (8, 8, 8, 10)), (1.4, (179, 358, 716, 1433))],
)
def test_mobilenet_takes_any_width(width, channels):
    backbone = MobileNetV1(width=width)
    assert backbone.channels == channels
    with torch.no_grad():
        maps = backbone.eval()(torch.rand(1, 3, 50, 70))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, *size) for c, size in zip(channels, ((13, 18), (7, 9), (4, 5), (2, 3)), strict=True)
    ]


def test_mobilenet_gives_the_maps_of_ssd300():
    with torch.no_grad():
        maps = MobileNetV1(width=0.25).eval()(torch.zeros(1, 3, 300, 300))
    assert [tuple(m.shape[2:]) for m in maps[2:]] == [(19, 19), (10, 10)]


@pytest.mark.parametrize("width", [0, -1, float("nan")])
def test_mobilenet_refuses_a_width_that_is_none(width):
    with pytest.raises(ValueError, match="width is a multiplier above 0"):
        MobileNetV1(width=width)


@pytest.mark.parametrize(
    ("activation", "kind"), [(None, nn.ReLU6), ("relu6", nn.ReLU6), ("relu", nn.ReLU), ("leaky_relu", nn.LeakyReLU)]
)
def test_mobilenet_activations(activation, kind):
    backbone = MobileNetV1(width=0.25, activation=activation)
    used = [m for m in backbone.modules() if type(m) in (nn.ReLU6, nn.ReLU, nn.LeakyReLU)]
    assert len(used) == 27
    assert {type(m) for m in used} == {kind}
    if kind is nn.LeakyReLU:
        assert {m.negative_slope for m in used} == {0.1}


def test_mobilenet_refuses_an_unknown_activation():
    with pytest.raises(ValueError, match="unknown activation 'gelu'; known: relu6, relu, leaky_relu"):
        MobileNetV1(activation="gelu")


def reference_mobilenet() -> nn.Module:
    """MobileNetV1 written again from table 1 of the paper, with the keys of qfgaohao/pytorch-ssd."""

    def conv_bn(i, o, s):
        return nn.Sequential(nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU6())

    def conv_dw(i, o, s):
        depthwise = [nn.Conv2d(i, i, 3, s, 1, groups=i, bias=False), nn.BatchNorm2d(i), nn.ReLU6()]
        return nn.Sequential(*depthwise, nn.Conv2d(i, o, 1, 1, 0, bias=False), nn.BatchNorm2d(o), nn.ReLU6())

    network = nn.Module()
    network.model = nn.Sequential(
        conv_bn(3, 32, 2),
        conv_dw(32, 64, 1),
        conv_dw(64, 128, 2),
        conv_dw(128, 128, 1),
        conv_dw(128, 256, 2),
        conv_dw(256, 256, 1),
        conv_dw(256, 512, 2),
        *(conv_dw(512, 512, 1) for _ in range(5)),
        conv_dw(512, 1024, 2),
        conv_dw(1024, 1024, 1),
    )
    network.fc = nn.Linear(1024, 1000)
    return network


@pytest.mark.parametrize("training", [False, True])
def test_mobilenet_computes_what_pytorch_ssd_computes(training):
    reference = shuffled(reference_mobilenet()).train(training)
    backbone = MobileNetV1().train(training)
    transfer(reference, backbone, ("fc",))
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        for given, end in zip(backbone(images), (4, 6, 12, 14), strict=True):
            same(given, reference.model[:end](images))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("name", "width", "rest"),
    [
        ("mobilenetv1_100", 1.0, ("classifier",)),
        ("mobilenetv1_125", 1.25, ("classifier",)),
        ("mobilenetv1_100h", 1.0, ("classifier", "conv_head", "bn2")),  # one more convolution, after the maps
    ],
)
def test_mobilenet_computes_what_timm_computes(name, width, rest, training):
    reference = shuffled(timm.create_model(name, pretrained=False)).train(training)
    backbone = MobileNetV1(width=width).train(training)
    transfer(reference, backbone, rest)
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        expected = reference.blocks(reference.bn1(reference.conv_stem(images)))
        same(backbone(images)[-1], expected)
    if training:
        torch.testing.assert_close(backbone.layers[13][4].running_var, reference.blocks[4][1].bn2.running_var)


# timm


@pytest.mark.parametrize(
    ("model_name", "options"),
    [
        ("resnet18", {}),
        ("resnet50", {}),
        ("efficientnet_b0", {}),
        ("convnext_atto", {}),  # its names are joined: stages.0 to stages_0
        ("mambaout_femto", {}),  # its maps are channels last
        ("vit_tiny_patch16_224", {"image_size": (64, 96)}),  # built for one size, and wrapped whole
    ],
)
def test_timm_models_give_what_timm_gives_with_the_same_weights(model_name, options):
    backbone = TimmBackbone(model_name=model_name, **options).eval()
    size = {"img_size": options["image_size"]} if options else {}
    reference = shuffled(timm.create_model(model_name, **size))
    images = torch.rand(1, 3, 64, 96)
    tensors = reference.state_dict()
    report = load_into(backbone, tensors, recognise(tensors, backbone.formats, "test"), "test")
    assert report.missing == ()
    after = {"fc", "head", "norm", "fc_norm", "conv_head", "bn2", "classifier"}
    assert {key.split(".")[0] for key in report.left_over} <= after
    with torch.no_grad():
        maps = backbone(images)
        expected = reference.forward_intermediates(images, intermediates_only=True)
    assert tuple(m.shape[1] for m in maps) == backbone.channels
    torch.testing.assert_close(maps[-1], expected[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_name", ["resnet50", "convnext_tiny", "vit_tiny_patch16_224"])
def test_timm_models_of_one_channel_take_weights_of_three(model_name):
    """Inside, where the padding doesn't reach: a timm model's preprocessing may differ per channel."""
    options = {"image_size": (64, 64)} if "vit" in model_name else {}
    colour, grey = (TimmBackbone(model_name=model_name, in_channels=c, **options).eval() for c in (3, 1))
    shuffled(colour)
    own = {f"backbone.{k}": v for k, v in colour.state_dict().items()}
    fmt = replace(recognise(own, (), "test"), mean=colour.mean, std=colour.std)
    assert load_into(grey, own, fmt, "test").missing == ()
    image = torch.rand(1, 1, 64, 64)
    mean, std = (torch.tensor(v)[:, None, None] for v in (colour.mean, colour.std))
    with torch.no_grad():
        given = grey((image - mean.mean()) / std.mean())
        expected = colour((image - mean) / std)
    if model_name in ("convnext_tiny", "vit_tiny_patch16_224"):  # their first convolution pads nothing
        for a, b in zip(given, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    else:
        inside = (..., slice(2, -2), slice(2, -2))
        torch.testing.assert_close(given[0][inside], expected[0][inside], rtol=1e-4, atol=1e-4)


def test_timm_maps_can_be_chosen():
    backbone = TimmBackbone(model_name="resnet18", maps=(3, 4))
    assert (backbone.channels, backbone.strides) == ((256, 512), (16, 32))


def test_timm_refuses_an_unknown_name_and_proposes_similar_ones():
    with pytest.raises(ValueError, match=r"model_name='resnet19' .*similar names: .*resnet"):
        TimmBackbone(model_name="resnet19")
    with pytest.raises(ValueError, match=r"see timm.list_models"):
        TimmBackbone(model_name="nosuchthing")


def test_timm_preprocessing_is_the_models_own():
    assert TimmBackbone(model_name="mobilenetv1_100").mean == (0.5, 0.5, 0.5)
    assert TimmBackbone(model_name="resnet18").mean == (0.485, 0.456, 0.406)
