import dataclasses
import hashlib
import os
import pickle
import socket
import zipfile
from argparse import Namespace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models.detection import ssd300_vgg16

from hccvision.backbones.mobilenet import MobileNetV1
from hccvision.backbones.vgg import VGG, VGGSSD, vgg16, vgg16_bn
from hccvision.default_boxes import PRESETS
from hccvision.model.build import build_model, load_model
from hccvision.registry import BACKBONES
from hccvision.weights import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    WeightFormat,
    fingerprint,
    first_convolution,
    hub_tensors,
    load_into,
    prefix,
    read_tensors,
    recognise,
)

WIDE = "weights/mobilenet_v1_1.0_224_imagenet.safetensors"
NARROW = "weights/mobilenet_v1_0.25_imagenet.pth.tar"
SMALL = {"width": 0.25}


def pytorch_ssd_file(folder: Path, name: str = "a.safetensors", **more: torch.Tensor) -> tuple[Path, MobileNetV1]:
    """Write the weights of a narrow MobileNetV1 under pytorch-ssd's names."""
    network = MobileNetV1(width=0.25)
    tensors = {key.replace("layers.", "model."): value for key, value in network.state_dict().items()}
    save_file({**tensors, **more}, folder / name)
    return folder / name, network


def small_model(weights, backbone_options=SMALL, **more):
    return build_model(
        "mobilenet_v1",
        "linear",
        classes=["no", "yes"],
        weights=weights,
        image_size=64,
        backbone_options={**SMALL, **backbone_options},
        head_options={"pool": "avg", "hidden": ()},
        **more,
    )


def classifier(weights, **backbone_options):
    return small_model(weights, backbone_options)


# The real files


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("file", "options", "activation"), [(WIDE, {}, torch.nn.ReLU6), (NARROW, SMALL, torch.nn.LeakyReLU)]
)
def test_the_real_files_load_whole(shared, file, options, activation):
    model = build_model("mobilenet_v1", "ssd", classes=["tumor"], weights=shared / file, backbone_options=options)
    report = model.weight_report
    assert sum(not k.endswith("num_batches_tracked") for k in report.matched) == 27 + 27 * 4  # convolutions, norms
    assert report.missing == ()
    left_over = {k.removeprefix("module.") for k in report.left_over if not k.endswith("num_batches_tracked")}
    assert left_over == {"fc.weight", "fc.bias"}
    assert str(shared / file) in str(report)
    assert "0 missing, 2 left over (fc." in str(report)
    used = {type(m) for m in model.backbone.modules() if "ReLU" in type(m).__name__}
    assert used == {activation}  # it comes with the file
    stored = read_tensors(shared / file)
    first = next(v for k, v in stored.items() if v.dim() == 4 and v.shape[1] == 3)
    assert torch.equal(model.backbone.state_dict()["layers.0.0.weight"], first)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("picture", "label", "probability"),
    [("parrot.jpg", "macaw", 0.997), ("grace_hopper.bmp", "military uniform", 0.67)],
)
def test_the_backbone_recognises_real_pictures(shared, picture, label, probability):
    model = build_model("mobilenet_v1", "linear", classes=["a", "b"], weights=shared / WIDE).eval()
    tensors = load_file(shared / WIDE)
    labels = (shared / "weights/imagenet_labels.txt").read_text().splitlines()
    image = Image.open(shared / "weights" / picture).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        last = model.backbone((pixels - model.mean) / model.std)[-1]
        found = (last.mean((2, 3)) @ tensors["fc.weight"].T + tensors["fc.bias"]).softmax(1)[0]
    assert labels[found.argmax()] == label
    assert found.max().item() == pytest.approx(probability, abs=0.005)


@pytest.mark.shared_data
def test_the_real_files_refuse_another_network(shared):
    with pytest.raises(ValueError, match=r"imagenet.safetensors: .*another network.*width") as error:
        build_model("mobilenet_v1", "ssd", classes=["a"], weights=shared / WIDE, backbone_options=SMALL)
    assert "layers.0.0.weight: (32, 3, 3, 3) in the file, (8, 3, 3, 3) here" in str(error.value)
    with pytest.raises(ValueError, match=r"imagenet.pth.tar: .*another network.*width"):
        build_model("mobilenet_v1", "ssd", classes=["a"], weights=shared / NARROW)
    with pytest.raises(
        ValueError, match=r"imagenet.safetensors: these are the weights of another network: none of its"
    ):
        build_model("timm", "linear", classes=["a", "b"], weights=shared / WIDE)


# Reading


@pytest.mark.parametrize(
    "wrap", ["plain", "state_dict", "model", "model_state_dict", "twice", "parallel", "compiled", "old"]
)
def test_reads_tensors_however_they_are_wrapped(tmp_path, wrap):
    tensors = {"a.weight": torch.rand(2, 3), "a.bias": torch.rand(2)}
    content = {
        "state_dict": {"epoch": 3, "state_dict": tensors},
        "model": {"model": tensors, "optimizer": {"state": {}, "lr": 0.1}},
        "model_state_dict": {"model_state_dict": tensors},
        "twice": {"state_dict": {"model": tensors}},
        "parallel": {"state_dict": {f"module.{k}": v for k, v in tensors.items()}},
        "compiled": {"model": {f"_orig_mod.module.{k}": v for k, v in tensors.items()}},
    }.get(wrap, tensors)
    path = tmp_path / "a.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=wrap != "old")
    read = read_tensors(path)
    assert set(read) == set(tensors)
    assert all(torch.equal(read[k], tensors[k]) for k in tensors)


def test_a_file_is_read_by_its_content_not_its_name(tmp_path):
    tensors = {"a": torch.rand(2)}
    save_file(tensors, tmp_path / "really_safe.pth")
    torch.save(tensors, tmp_path / "really_torch.safetensors")
    for name in ("really_safe.pth", "really_torch.safetensors"):
        assert torch.equal(read_tensors(str(tmp_path / name))["a"], tensors["a"])


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("old", [False, True])
def test_code_in_a_file_is_not_run(tmp_path, old):
    harm = tmp_path / "harm"
    path = tmp_path / "a.pth"
    torch.save({"a": torch.rand(2), "b": Malicious(harm)}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError, match=r"a.pth: not loaded: .*could run code.*save its state_dict as .safetensors"):
        read_tensors(path)
    assert not harm.exists()
    path.write_bytes(pickle.dumps({"a": Malicious(harm)}))
    with pytest.raises(ValueError, match=r"a.pth: not loaded"):
        read_tensors(path)
    assert not harm.exists()
    pickle.loads(path.read_bytes())  # which shows that it would do harm
    assert harm.exists()


def test_objects_beside_the_tensors_are_refused_with_the_remedy(tmp_path):
    torch.save({"state_dict": {"a": torch.rand(2)}, "args": Namespace(width=1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"more than plain tensors.*save its state_dict as .safetensors"):
        read_tensors(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a"])
@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"\x89PNG\r\n\x1a\n0000", b"PK\x03\x04no zip", b"{}"])
def test_what_is_no_weights_file_is_called_that(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: not a readable weights file .*expected .safetensors, or a PyTorch"):
        read_tensors(tmp_path / name)


def test_a_file_cut_short_is_called_that(tmp_path):
    torch.save({"a": torch.rand(100)}, tmp_path / "a.pth")
    save_file({"a": torch.rand(100)}, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=rf"{name}: not a readable weights file"):
            read_tensors(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [({}, "no tensor in it"), ({"epoch": 3}, "no tensor in it"), ([torch.rand(2)], "expected a dictionary .* a list")],
)
def test_a_file_without_named_tensors_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=rf"a.pth: .*{message}"):
        read_tensors(tmp_path / "a.pth")


def test_a_missing_file_is_named_with_the_other_ways(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothere.pth: no such weights file; .*or None"):
        classifier(tmp_path / "nothere.pth")
    with pytest.raises(FileNotFoundError, match="no such weights file"):
        read_tensors(tmp_path)


# Loading


def test_weights_end_in_the_right_places(tmp_path):
    path, network = pytorch_ssd_file(tmp_path, **{"fc.weight": torch.zeros(2, 2)})
    model = classifier(path)
    assert model.weight_report.format == "pytorch-ssd"
    assert model.weight_report.left_over == ("fc.weight",)
    for key, value in network.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[key], value)
    assert (model.mean.flatten().tolist(), model.std.flatten().tolist()) == ([0.5] * 3, [0.5] * 3)


def test_dataparallel_and_half_precision_weights_load(tmp_path):
    network = MobileNetV1(width=0.25)
    half = {f"module.model.{k.removeprefix('layers.')}": v.half() for k, v in network.state_dict().items()}
    torch.save({"state_dict": half}, tmp_path / "a.pth")
    weight = classifier(tmp_path / "a.pth").backbone.state_dict()["layers.3.3.weight"]
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, network.state_dict()["layers.3.3.weight"], rtol=1e-3, atol=1e-3)


def test_missing_tensors_are_reported_and_keep_their_fresh_values(tmp_path):
    path, _ = pytorch_ssd_file(tmp_path)
    tensors = load_file(path)
    del tensors["model.13.3.weight"]
    save_file(tensors, path)
    model = classifier(path)
    assert model.weight_report.missing == ("layers.13.3.weight",)
    fresh = classifier(None).backbone.state_dict()["layers.13.3.weight"]
    assert torch.equal(model.backbone.state_dict()["layers.13.3.weight"], fresh)


def test_a_backbone_option_given_goes_before_that_of_the_file(tmp_path):
    path, _ = pytorch_ssd_file(tmp_path)
    kinds = {type(m).__name__ for m in classifier(path, activation="relu").backbone.modules()}
    assert "ReLU" in kinds
    assert "ReLU6" not in kinds


def test_weights_of_another_network_are_refused(tmp_path):
    save_file({f"features.{k}": v for k, v in VGG().features.state_dict().items()}, tmp_path / "vgg.safetensors")
    with pytest.raises(ValueError, match=r"vgg.safetensors: these are the weights of another network: none of its 26"):
        classifier(tmp_path / "vgg.safetensors")
    with pytest.raises(ValueError, match=r"vgg.safetensors: these are the weights of another network: .*another shape"):
        build_model("vgg16_bn", "linear", classes=["a", "b"], weights=tmp_path / "vgg.safetensors")
    path, _ = pytorch_ssd_file(tmp_path)
    with pytest.raises(ValueError, match=r"a.safetensors: these are the weights of another network: none of its"):
        build_model("vgg16", "linear", classes=["a", "b"], weights=path)
    with pytest.raises(ValueError, match=r"a.safetensors: these are .*another network.* \(8, 3, 3, 3\) in the file"):
        classifier(path, width=0.5)


def test_no_match_is_an_error_even_where_the_names_look_right():
    with pytest.raises(ValueError, match=r"x.pth: these are the weights of another network: no tensor matched"):
        load_into(MobileNetV1(width=0.25), {"model.99.weight": torch.rand(2)}, MobileNetV1.formats[0], "x.pth")
    with pytest.raises(ValueError, match=r"x.pth: these are the weights of another network"):
        recognise({"fc.weight": torch.rand(2)}, MobileNetV1.formats, "x.pth")


# The first convolution


def test_one_channel_gives_what_the_grey_image_gave(tmp_path):
    path, _ = pytorch_ssd_file(tmp_path)
    colour, grey = classifier(path).eval(), classifier(path, in_channels=1).eval()
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        expected = colour.backbone((image.expand(-1, 3, -1, -1) - colour.mean) / colour.std)
        given = grey.backbone((image - grey.mean) / grey.std)
    for a, b in zip(given, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert grey.mean.flatten().tolist() == [0.5]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 9])
def test_other_channel_counts_keep_the_size_of_the_response(channels):
    weight = torch.rand(8, 3, 3, 3)
    fitted = first_convolution(weight, channels)
    assert fitted.shape == (8, channels, 3, 3)
    torch.testing.assert_close(fitted.sum(1), weight.sum(1))
    if channels == 3:
        assert torch.equal(fitted, weight)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_the_mean_rule_gives_every_channel_the_mean(channels):
    weight = torch.rand(8, 3, 3, 3)
    fitted = first_convolution(weight, channels, "mean")
    torch.testing.assert_close(fitted, weight.mean(1, keepdim=True).expand(-1, channels, -1, -1))


def test_the_channel_rule_is_given_by_argument(tmp_path):
    path, network = pytorch_ssd_file(tmp_path)
    weight = network.state_dict()["layers.0.0.weight"]
    for options, expected in (({}, weight.sum(1)), ({"channel_rule": "mean"}, weight.mean(1))):
        model = small_model(path, {"in_channels": 1}, weight_options=options)
        torch.testing.assert_close(model.backbone.state_dict()["layers.0.0.weight"][:, 0], expected)
    with pytest.raises(ValueError, match="unknown channel_rule 'median'; known: 'sum'"):
        small_model(path, weight_options={"channel_rule": "median"})
    with pytest.raises(ValueError, match=r"weight_options are channel_rule and channel_order.*'rule'"):
        small_model(path, weight_options={"rule": "mean"})
    with pytest.raises(ValueError, match="weights=None"):
        small_model(None, weight_options={"channel_rule": "mean"})


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_unequal_means_and_stds_are_folded_into_the_first_convolution(channels, batch_norm):
    """Where the padding doesn't reach: there the network sees its mean, which differs per channel only in RGB."""
    colour, grey = (VGG(in_channels=c, batch_norm=batch_norm).eval() for c in (3, channels))
    for bias in (m.bias for m in colour.modules() if isinstance(m, nn.Conv2d)):
        nn.init.normal_(bias)
    load_into(grey, colour.state_dict(), VGG.formats[0], "test")
    end = 3 if batch_norm else 2
    image = torch.rand(2, 1, 12, 16)
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        expected = colour.features[:end]((image - mean) / std)
        given = grey.features[:end]((image.expand(-1, channels, -1, -1) - mean.mean()) / std.mean())
    assert expected.std() > 0.1
    torch.testing.assert_close(given[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], rtol=1e-5, atol=1e-5)


def test_unequal_means_are_folded_into_the_batch_norm_behind_a_convolution_without_bias():
    colour, grey = (MobileNetV1(width=0.25, in_channels=c).eval() for c in (3, 1))
    fmt = WeightFormat("own", prefix("", ""), IMAGENET_MEAN, IMAGENET_STD)
    load_into(grey, colour.state_dict(), fmt, "test")
    image = torch.rand(2, 1, 32, 32)
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        expected = colour.layers[0]((image - mean) / std)
        given = grey.layers[0]((image - mean.mean()) / std.mean())
    torch.testing.assert_close(given[..., 1:, 1:], expected[..., 1:, 1:], rtol=1e-5, atol=1e-5)


def test_a_grey_vgg_gives_nearly_what_the_colour_one_gives_on_a_repeated_image(tmp_path):
    save_file({f"features.{k}": v for k, v in VGG().features.state_dict().items()}, tmp_path / "vgg.safetensors")
    colour, grey = (
        build_model(
            "vgg16", "linear", classes=["a", "b"], image_size=64, weights=tmp_path / "vgg.safetensors",
            backbone_options={"in_channels": c}, head_options={"pool": "avg"},
        ).eval()
        for c in (3, 1)
    )  # fmt: skip
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        expected = colour.backbone((image.expand(-1, 3, -1, -1) - colour.mean) / colour.std)[0]
        given = grey.backbone((image - grey.mean) / grey.std)[0]
    inside = (..., slice(6, -6), slice(6, -6))  # conv3_3 sees less than 24 pixels to each side
    torch.testing.assert_close(given[inside], expected[inside], rtol=1e-5, atol=1e-5)
    assert (given - expected).norm() < 0.02 * expected.norm()  # at the border, the padding has another value


def test_one_channel_weights_spread_over_colours(tmp_path):
    path = small_model(None, {"in_channels": 1}).save(tmp_path / "grey.safetensors")
    grey = load_model(path)
    colour = small_model(path, {"in_channels": 3}).eval()
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(colour(image.expand(-1, 3, -1, -1)), grey(image))


def test_weights_trained_in_bgr_take_rgb(tmp_path):
    """Liu's Caffe file, as ssd.pytorch publishes it: bare layer numbers, fc6 and fc7 included."""
    caffe = VGGSSD().eval()
    torch.save(caffe.features.state_dict(), tmp_path / "vgg16_reducedfc.pth")
    images = torch.rand(1, 3, 64, 64)

    def maps(**options):
        model = build_model(
            "vgg16_ssd", "linear", classes=["a", "b"], image_size=64, weights=tmp_path / "vgg16_reducedfc.pth",
            head_options={"pool": "avg"}, **options,
        ).eval()  # fmt: skip
        assert model.weight_report.format == "ssd.pytorch base net"
        assert model.weight_report.missing == ("norm.scale",)
        return model.backbone((images - model.mean) / model.std)

    bgr = 255 * images.flip(1) - torch.tensor([104.0, 117, 123])[:, None, None]
    with torch.no_grad():
        for given, expected in zip(maps(), caffe(bgr), strict=True):
            torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-4)
        for given, expected in zip(maps(weight_options={"channel_order": "rgb"}), caffe(bgr.flip(1)), strict=True):
            torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-4)
    with pytest.raises(ValueError, match="unknown channel_order 'gbr'; known: 'rgb', 'bgr'"):
        maps(weight_options={"channel_order": "gbr"})


# Whole detectors


class PytorchSSD(nn.Module):
    """SSD300 as pytorch-ssd composes it, with its published keys, written from their names and shapes."""

    def __init__(self, kind: str, classes: int) -> None:
        super().__init__()
        pad = 1 if kind == "mb1" else 0
        per_cell = [6] * 6 if kind == "mb1" else [4, 6, 6, 6, 4, 4]
        self.base_net = self.mobilenet() if kind == "mb1" else self.vgg()
        self.ends = [12, 14] if kind == "mb1" else [23, 35]
        self.source_layer_add_ons = nn.ModuleList([] if kind == "mb1" else [nn.BatchNorm2d(512)])
        shapes = [(1024, 256, 512, 2, 1), (512, 128, 256, 2, 1)] + [(256, 128, 256, 1 + pad, pad)] * 2
        self.extras = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, m, 1), nn.ReLU(), nn.Conv2d(m, o, 3, stride, padding), nn.ReLU())
            for i, m, o, stride, padding in shapes
        )
        both = list(zip([512, 1024, 512, 256, 256, 256], per_cell, strict=True))
        self.regression_headers = nn.ModuleList(nn.Conv2d(c, n * 4, 3, padding=1) for c, n in both)
        self.classification_headers = nn.ModuleList(nn.Conv2d(c, n * classes, 3, padding=1) for c, n in both)
        self.classes = classes

    @staticmethod
    def mobilenet() -> nn.Sequential:
        def layer(i, o, stride, groups=1, kernel=3):
            return [
                nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False),
                nn.BatchNorm2d(o),
                nn.ReLU(),
            ]

        wide = [32, 64, 128, 128, 256, 256] + [512] * 6 + [1024] * 2
        layers = [nn.Sequential(*layer(3, 32, 2))]
        for i, (a, b) in enumerate(pairwise(wide)):
            layers.append(nn.Sequential(*layer(a, a, 2 if i in (1, 3, 5, 11) else 1, a), *layer(a, b, 1, kernel=1)))
        return nn.Sequential(*layers)

    @staticmethod
    def vgg() -> nn.Sequential:
        layers, channels = [], 3
        for out in (64, 64, "M", 128, 128, "M", 256, 256, 256, "C", 512, 512, 512, "M", 512, 512, 512):
            if isinstance(out, str):
                layers.append(nn.MaxPool2d(2, ceil_mode=out == "C"))
                continue
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU()]
            channels = out
        fc6 = nn.Conv2d(512, 1024, 3, padding=6, dilation=6)
        return nn.Sequential(*layers, nn.MaxPool2d(3, 1, 1), fc6, nn.ReLU(), nn.Conv2d(1024, 1024, 1), nn.ReLU())

    def forward(self, x):
        maps, start = [], 0
        for i, end in enumerate(self.ends):
            x = self.base_net[start:end](x)
            maps.append(self.source_layer_add_ons[i](x) if i < len(self.source_layer_add_ons) else x)
            start = end
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return tuple(
            torch.cat(
                [head(m).permute(0, 2, 3, 1).reshape(len(x), -1, n) for head, m in zip(heads, maps, strict=True)], 1
            )
            for heads, n in ((self.classification_headers, self.classes), (self.regression_headers, 4))
        )


def stirred(module: nn.Module) -> nn.Module:
    """Give values of their own also to tensors that are 0 or 1 when fresh."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if name.endswith(("bias", "running_mean")):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
            elif name.endswith("running_var") or (value.dim() == 1 and value.is_floating_point()):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return module


@pytest.mark.parametrize(
    ("kind", "backbone", "boxes", "count", "mean", "std"),
    [
        ("mb1", "mobilenet_v1", "ssd300_mobilenet", 3000, [127, 127, 127], [128, 128, 128]),
        ("vgg", "vgg16_ssd", "ssd300_vgg", 8732, [123, 117, 104], [1, 1, 1]),
    ],
)
def test_a_whole_pytorch_ssd_detector_loads_and_computes_the_same(tmp_path, kind, backbone, boxes, count, mean, std):
    reference = stirred(PytorchSSD(kind, 3))
    torch.save(reference.state_dict(), tmp_path / "ssd.pth")
    options = {"head_options": {"default_boxes": boxes}}
    model = build_model(backbone, "ssd", classes=["a", "b"], weights=tmp_path / "ssd.pth", **options)
    report = model.weight_report
    assert report.format == "pytorch-ssd detector"
    assert (report.missing, report.left_over, report.left_out) == ((), (), ())
    assert len(report.matched) == len(reference.state_dict())
    torch.testing.assert_close(model.mean.flatten() * 255, torch.tensor(mean, dtype=torch.float32))
    torch.testing.assert_close(model.std.flatten() * 255, torch.tensor(std, dtype=torch.float32))
    images = torch.rand(2, 3, 300, 300)
    for training in (False, True):
        reference.train(training)
        model.train(training)
        with torch.no_grad():
            logits, offsets = reference((images - model.mean) / model.std)
            given = model(images)
        assert logits.std() > 1e-2
        torch.testing.assert_close(given.logits, logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(given.offsets, offsets, rtol=1e-5, atol=1e-5)


def test_scores_of_another_class_count_are_left_out_and_the_rest_of_the_head_loads(tmp_path):
    reference = PytorchSSD("mb1", 21)
    torch.save(reference.state_dict(), tmp_path / "mb1-ssd.pth")
    model = build_model("mobilenet_v1", "ssd", classes=["tumor"], weights=tmp_path / "mb1-ssd.pth")
    fresh = build_model("mobilenet_v1", "ssd", classes=["tumor"]).head.state_dict()
    report = model.weight_report
    assert [k.split(":")[0] for k in report.left_out] == [
        f"head.class_convs.{i}.{part}" for i in range(6) for part in ("weight", "bias")
    ]
    assert "12 left out for their shape (head.class_convs.0.weight: (126, 512, 3, 3) in the file" in str(report)
    assert (report.missing, report.left_over) == ((), ())
    own, theirs = model.head.state_dict(), reference.state_dict()
    for i in range(6):
        assert torch.equal(own[f"class_convs.{i}.weight"], fresh[f"class_convs.{i}.weight"])
        assert torch.equal(own[f"box_convs.{i}.weight"], theirs[f"regression_headers.{i}.weight"])
    for i in range(4):
        for part in (0, 2):
            assert torch.equal(own[f"extras.{i}.{part}.bias"], theirs[f"extras.{i}.{part}.bias"])
    assert {type(m) for m in model.backbone.modules() if "ReLU" in type(m).__name__} == {nn.ReLU}


def test_a_detectors_file_gives_a_classifier_its_backbone(tmp_path):
    reference = PytorchSSD("mb1", 21)
    torch.save({"state_dict": {f"module.{k}": v for k, v in reference.state_dict().items()}}, tmp_path / "a.pth.tar")
    model = build_model(
        "mobilenet_v1", "linear", classes=["a", "b"], weights=tmp_path / "a.pth.tar", head_options={"pool": "avg"}
    )
    assert model.weight_report.missing == ()
    assert {k.split(".")[0] for k in model.weight_report.left_over} == {
        "extras", "classification_headers", "regression_headers",
    }  # fmt: skip
    assert torch.equal(model.backbone.layers[13][3].weight, reference.base_net[13][3].weight)


def test_the_base_net_of_pytorch_ssd_loads(tmp_path):
    """Its ``mobilenet_v1_with_relu_69_5.pth`` names the layers by bare numbers."""
    reference = PytorchSSD("mb1", 2).base_net
    torch.save(reference.state_dict(), tmp_path / "base.pth")
    model = build_model("mobilenet_v1", "ssd", classes=["a"], weights=tmp_path / "base.pth")
    assert model.weight_report.format == "pytorch-ssd base net"
    assert (model.weight_report.missing, model.weight_report.left_over) == ((), ())
    assert torch.equal(model.backbone.layers[5][0].weight, reference[5][0].weight)


def test_a_whole_torchvision_ssd300_loads_and_computes_the_same(tmp_path):
    reference = stirred(ssd300_vgg16(weights=None, weights_backbone=None, num_classes=3)).eval()
    torch.save(reference.state_dict(), tmp_path / "ssd300.pth")
    model = build_model(
        "vgg16_ssd",
        "ssd",
        classes=["a", "b"],
        weights=tmp_path / "ssd300.pth",
        head_options={"default_boxes": "ssd300_vgg"},
    ).eval()
    report = model.weight_report
    assert report.format == "torchvision detector"
    assert (report.missing, report.left_over, report.left_out) == ((), (), ())
    assert tuple(model.mean.flatten().tolist()) == pytest.approx(reference.transform.image_mean)
    assert tuple(model.std.flatten().tolist()) == pytest.approx(reference.transform.image_std)
    images = torch.rand(1, 3, 300, 300)
    with torch.no_grad():
        features = reference.backbone((images - model.mean) / model.std)
        expected = reference.head(list(features.values()))
        given = model(images)
        maps = model.backbone((images - model.mean) / model.std)
    for own, theirs in zip(maps, (features["0"], features["1"]), strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-5)
    for own, theirs in ((given.logits, expected["cls_logits"]), (given.offsets, expected["bbox_regression"])):
        torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-5)


def test_a_whole_ssd_pytorch_detector_loads_into_the_right_places(tmp_path):
    reference = PytorchSSD("vgg", 21).state_dict()
    new = {"base_net": "vgg", "classification_headers": "conf", "regression_headers": "loc"}
    tensors = {
        f"{new[k.split('.')[0]]}.{k.split('.', 1)[1]}": v for k, v in reference.items() if k.split(".")[0] in new
    }
    for n in range(8):  # extras as one flat list
        for part in ("weight", "bias"):
            tensors[f"extras.{n}.{part}"] = reference[f"extras.{n // 2}.{n % 2 * 2}.{part}"]
    tensors["L2Norm.weight"] = torch.rand(512)
    torch.save(tensors, tmp_path / "ssd300.pth")
    model = build_model(
        "vgg16_ssd", "ssd", classes=[str(i) for i in range(20)], weights=tmp_path / "ssd300.pth",
        head_options={"default_boxes": "ssd300_vgg"},
    )  # fmt: skip
    report = model.weight_report
    assert report.format == "ssd.pytorch detector"
    assert (report.missing, report.left_over, report.left_out) == ((), (), ())
    assert torch.equal(model.backbone.norm.scale, tensors["L2Norm.weight"])
    assert torch.equal(model.head.extras[2][2].weight, tensors["extras.5.weight"])
    assert torch.equal(model.head.class_convs[4].weight, tensors["conf.4.weight"])
    assert torch.equal(model.head.box_convs[1].bias, tensors["loc.1.bias"])


def test_the_norm_that_is_asked_for_goes_before_that_of_the_file(tmp_path):
    torch.save(PytorchSSD("vgg", 2).state_dict(), tmp_path / "vgg.pth")
    model = build_model(
        "vgg16_ssd", "linear", classes=["a", "b"], image_size=64, weights=tmp_path / "vgg.pth",
        backbone_options={"norm": "l2"}, head_options={"pool": "avg"},
    )  # fmt: skip
    assert model.weight_report.missing == ("norm.scale",)
    assert "source_layer_add_ons.0.weight" in model.weight_report.left_over
    assert model.backbone.norm.scale.unique().tolist() == [20.0]


# From the library's own files


def test_a_model_gives_its_head_too_but_never_its_default_boxes(tmp_path):
    def detector(classes, boxes="ssd300_mobilenet", weights=None, seed=0):
        return build_model(
            "mobilenet_v1", "ssd", classes=classes, image_size=128, weights=weights, seed=seed, backbone_options=SMALL,
            head_options={"default_boxes": boxes},
        )  # fmt: skip

    first = detector(["tumor"], seed=1)
    path = first.save(tmp_path / "a.safetensors")
    moved = dataclasses.replace(PRESETS["ssd300_mobilenet"], clip=False)
    second = detector(["hcc"], moved, path)
    assert torch.equal(second.head.class_convs[2].weight, first.head.class_convs[2].weight)
    assert torch.equal(second.head.default_boxes, detector(["hcc"], moved).head.default_boxes)
    assert not torch.equal(second.head.default_boxes, first.head.default_boxes)
    assert second.weight_report.left_over == ("head.default_boxes",)
    assert second.weight_report.missing == ()
    third = detector(["hcc", "cyst"], weights=path)
    assert len(third.weight_report.left_out) == 12
    assert torch.equal(third.head.box_convs[2].weight, first.head.box_convs[2].weight)


def test_a_detector_gives_its_backbone_to_a_classifier(tmp_path):
    options = {"width": 0.25, "activation": "leaky_relu", "in_channels": 1}
    detector = build_model("mobilenet_v1", "ssd", classes=["tumor"], image_size=128, backbone_options=options, seed=3)
    detector.mean.fill_(0.3)
    detector.std.fill_(0.2)
    path = detector.save(tmp_path / "detector.safetensors")
    model = build_model(
        "mobilenet_v1", "linear", classes=["no", "yes"], weights=path, image_size=64, head_options={"pool": "avg"}
    )
    assert model.weight_report.format == "hccvision"
    assert model.weight_report.missing == ()
    assert all(key.startswith("head.") for key in model.weight_report.left_over)
    images = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        expected = detector.eval().backbone((images - 0.3) / 0.2)[-1]
        given = model.eval().backbone((images - model.mean) / model.std)[-1]
    torch.testing.assert_close(given, expected)


def test_a_model_file_of_another_backbone_is_refused(tmp_path):
    path = classifier(None).save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model.safetensors: these are the weights of another network"):
        build_model("vgg16", "linear", classes=["a", "b"], weights=path)


def test_tensors_of_a_model_without_its_settings_are_refused(tmp_path):
    torch.save({"model": classifier(None).state_dict()}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"state.pt: .*without its settings: pass the file that model.save wrote"):
        classifier(tmp_path / "state.pt")


# The hub


def test_without_a_network_the_hub_gives_the_reason_and_the_other_ways(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"could not be downloaded: .+") as error:
        build_model("mobilenet_v1", "ssd", classes=["a"], weights="imagenet")
    message = str(error.value)
    assert MobileNetV1.hub in message
    assert "weights=<path" in message
    assert "weights=None" in message


@pytest.mark.parametrize(
    ("backbone", "mean", "std"),
    [("mobilenet_v1", (0.5,) * 3, (0.5,) * 3), ("timm", IMAGENET_MEAN, IMAGENET_STD)],
)
def test_hub_weights_load_whole_with_their_preprocessing(backbone, mean, std, monkeypatch):
    """The hub is played by timm's own network with random weights."""
    create = timm.create_model

    def offline(name, *, pretrained=False, **options):
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    model = build_model(backbone, "ssd", classes=["a"], image_size=128, weights="imagenet")
    report = model.weight_report
    assert report.source == model.backbone.hub
    assert report.missing == ()
    assert {key.split(".")[0] for key in report.left_over} == {"fc" if backbone == "timm" else "classifier"}
    torch.testing.assert_close(model.mean.flatten(), torch.tensor(mean))
    torch.testing.assert_close(model.std.flatten(), torch.tensor(std))
    assert set(hub_tensors(model.backbone.hub)) >= set(report.left_over)


@pytest.mark.parametrize("build", [vgg16, vgg16_bn, MobileNetV1])
def test_hub_tags_exist_with_the_preprocessing_stated(build):
    backbone = build()
    assert backbone.hub in timm.list_pretrained(backbone.hub)
    config = timm.get_pretrained_cfg(backbone.hub)
    assert (tuple(config.mean), tuple(config.std)) == (tuple(backbone.mean), tuple(backbone.std))


def test_imagenet_preprocessing_comes_with_vgg_weights(tmp_path):
    save_file({f"features.{k}": v for k, v in VGG().features.state_dict().items()}, tmp_path / "vgg.safetensors")
    model = build_model("vgg16", "linear", classes=["a", "b"], image_size=32, weights=tmp_path / "vgg.safetensors")
    torch.testing.assert_close(model.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(model.std.flatten(), torch.tensor([0.229, 0.224, 0.225]))
    assert len(model.weight_report.matched) == 26
    assert BACKBONES.build("vgg16").mean == IMAGENET_MEAN


# Where they came from


def test_the_report_and_the_model_file_say_where_the_weights_came_from(tmp_path):
    path, _ = pytorch_ssd_file(tmp_path)
    model = classifier(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.weight_report.sha256 == digest
    assert model.weights == {"source": "a.safetensors", "format": "pytorch-ssd", "sha256": digest}
    again = load_model(model.save(tmp_path / "model.safetensors"))
    assert again.weights == model.weights
    assert load_model(again.save(tmp_path / "again.safetensors")).weights == model.weights
    assert load_model(classifier(None).save(tmp_path / "random.safetensors")).weights is None


@pytest.mark.parametrize("change", ["value", "key", "shape", "dtype"])
def test_a_fingerprint_changes_with_every_part(change):
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros((), dtype=torch.int64)}
    other = {
        "value": {**tensors, "a": torch.zeros(2, 3).index_fill(0, torch.tensor([1]), 1.0)},
        "key": {"c": tensors["a"], "b": tensors["b"]},
        "shape": {**tensors, "a": torch.zeros(3, 2)},
        "dtype": {**tensors, "a": torch.zeros(2, 3, dtype=torch.int32)},
    }[change]
    assert fingerprint(tensors) == fingerprint({k: v.clone() for k, v in reversed(tensors.items())})
    assert fingerprint(tensors) != fingerprint(other)
    assert fingerprint({"a": torch.zeros(2, 3, dtype=torch.bfloat16).T})


def test_a_timm_tag_gives_weights_with_its_own_preprocessing(monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, *, pretrained=False, **options: create(name, **options))
    tag = "mobilenetv1_125.ra4_e3600_r224_in1k"
    model = build_model("mobilenet_v1", "ssd", classes=["a"], weights=f"timm:{tag}", backbone_options={"width": 1.25})
    assert (model.weight_report.source, model.weight_report.missing) == (tag, ())
    assert len(model.weight_report.sha256) == 64
    assert model.backbone.hub == tag
    tag = "resnet18.fb_swsl_ig1b_ft_in1k"
    model = build_model("timm", "linear", classes=["a", "b"], image_size=64, weights=f"timm:{tag}")
    assert model.weights["source"] == tag
    tag = "vit_tiny_patch16_224.augreg_in21k"
    options = {"model_name": "vit_tiny_patch16_224", "image_size": (64, 64)}
    model = build_model(
        "timm", "linear", classes=["a", "b"], image_size=64, weights=f"timm:{tag}", backbone_options=options
    )
    assert model.mean.flatten().tolist() == [0.5] * 3  # not ImageNet's, as the model's other tags have
    assert model.weight_report.missing == ()
    with pytest.raises(ValueError, match="these are the weights of another network"):
        build_model("vgg16", "linear", classes=["a", "b"], weights=f"timm:{tag}")
    with pytest.raises(ValueError, match="build the backbone with the file's width"):
        build_model("mobilenet_v1", "ssd", classes=["a"], weights="timm:mobilenetv1_125")


def test_an_unknown_timm_tag_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no weights 'vgg16.nosuch'; those of vgg16: vgg16.tv_in1k"):
        hub_tensors("vgg16.nosuch")
    with pytest.raises(ValueError, match=r"no weights 'mobilenetv1_99'; similar models: .*mobilenetv1_100h"):
        build_model("mobilenet_v1", "ssd", classes=["a"], weights="timm:mobilenetv1_99")
    with pytest.raises(ValueError, match=r"see timm\.list_pretrained"):
        hub_tensors("qqqq")


def test_a_backbone_without_a_hub_tag_has_no_imagenet_weights():
    backbone = MobileNetV1(width=0.25)
    backbone.hub = None
    with pytest.raises(ValueError, match=r"MobileNetV1 states no hub tag.*'timm:<model>.<tag>', a path, or None"):
        build_model(backbone, "linear", classes=["a", "b"], weights="imagenet")


def test_nothing_is_downloaded_unless_asked_for(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    for name in BACKBONES.names():
        build_model(name, "linear", classes=["a", "b"], image_size=64, head_options={"pool": "avg"})


def test_an_archive_that_unpacks_to_far_more_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    torch.save({"a": torch.zeros(2**22)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as stored,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in stored.infolist():
            packed.writestr(entry.filename, stored.read(entry))
    assert read_tensors(tmp_path / "a.pth")["a"].shape == (2**22,)
    monkeypatch.setattr(torch, "load", lambda *args, **options: pytest.fail("unpacked"))
    with pytest.raises(ValueError, match=r"b\.pth: .*its \d+ bytes unpack to 16\d+"):
        read_tensors(tmp_path / "b.pth")


def test_a_tensor_that_repeats_one_value_without_end_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(2**40)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: the tensor a states 1099511627776 values, and the file holds 1"):
        read_tensors(tmp_path / "a.pth")
