import os
import pickle
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hccvision.backbones.mobilenet import MobileNetV1
from hccvision.backbones.vgg import VGG, vgg16, vgg16_bn
from hccvision.model import build_model
from hccvision.registry import BACKBONES
from hccvision.weights import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    first_convolution,
    hub_tensors,
    load_into,
    read_tensors,
    recognise,
)

WIDE = "weights/mobilenet_v1_1.0_224_imagenet.safetensors"
NARROW = "weights/mobilenet_v1_0.25_imagenet.pth.tar"
SMALL = {"width": 0.25}


def pytorch_ssd_file(folder: Path, name: str = "a.safetensors", **more: torch.Tensor) -> tuple[Path, MobileNetV1]:
    """Write the weights of a narrow MobileNetV1 as pytorch-ssd names them."""
    network = MobileNetV1(width=0.25)
    tensors = {key.replace("layers.", "model."): value for key, value in network.state_dict().items()}
    save_file({**tensors, **more}, folder / name)
    return folder / name, network


def classifier(weights, **backbone_options):
    return build_model(
        "mobilenet_v1",
        "linear",
        classes=["no", "yes"],
        weights=weights,
        image_size=64,
        backbone_options={**SMALL, **backbone_options},
        head_options={"pool": "avg", "hidden": ()},
    )


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


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "model", "model_state_dict", "twice", "parallel", "old"])
def test_reads_tensors_however_they_are_wrapped(tmp_path, wrap):
    tensors = {"a.weight": torch.rand(2, 3), "a.bias": torch.rand(2)}
    content = {
        "state_dict": {"epoch": 3, "state_dict": tensors},
        "model": {"model": tensors, "optimizer": {"state": {}, "lr": 0.1}},
        "model_state_dict": {"model_state_dict": tensors},
        "twice": {"state_dict": {"model": tensors}},
        "parallel": {"state_dict": {f"module.{k}": v for k, v in tensors.items()}},
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


# From the library's own files


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
    with pytest.raises(ValueError, match=r"state.pt: .*without its settings: give the file that model.save wrote"):
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
