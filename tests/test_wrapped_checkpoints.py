"""Checkpoints as trainings write them: the network's tensors inside, wrapped in whatever way."""

import pytest
import torch
from small_trainings import classifier, detector
from torch import nn
from torch.optim.swa_utils import AveragedModel

from hccvision.backbones.mobilenet import MobileNetV1
from hccvision.backbones.vgg import VGG
from hccvision.model.build import build_model
from hccvision.weights.reading import read_tensors

NETWORK = MobileNetV1(width=0.1)
OPTIMISER = torch.optim.AdamW(NETWORK.parameters())
sum(p.sum() for p in NETWORK.parameters()).backward()
OPTIMISER.step()


def tensors(prefix=""):
    """Return the tensors as pytorch-ssd names them."""
    return {f"{prefix}{key.replace('layers.', 'model.')}": value for key, value in NETWORK.state_dict().items()}


class Averaged(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = MobileNetV1(width=0.1).layers
        self.load_state_dict(tensors())


LATER = {key: value + 1 if value.is_floating_point() else value for key, value in tensors().items()}
CRITERION = {"criterion.weight": torch.ones(2), "metric.total": torch.tensor(3)}
STATES = {"optimizer": OPTIMISER.state_dict(), "epoch": 3, "lr": 0.1, "step": torch.tensor(7)}
WRAPPED = {
    "net.": tensors("net."),
    "model.": tensors("model."),
    "module.": tensors("module."),
    "network.body.": tensors("network.body."),
    "backbone.": tensors("backbone."),
    "encoder.": tensors("encoder."),
    "lightning": {"state_dict": tensors("model."), "optimizer_states": [OPTIMISER.state_dict()], "loops": {}, **STATES},
    "lightning with a loss": {"state_dict": {**tensors("model."), **CRITERION}, "epoch": 3},
    "lightning compiled": {"state_dict": tensors("model._orig_mod."), "epoch": 3},
    "averaged": AveragedModel(Averaged()).state_dict(),
    "averaged parallel": {"n_averaged": torch.tensor(1), **tensors("module.module.")},
    "timm's ema": {"state_dict": LATER, "state_dict_ema": tensors(), **STATES},
    "deit's ema": {"model": LATER, "model_ema": tensors("module."), **STATES},
    "net": {"net": tensors(), "acc": 93.1, **STATES},
    "any name": {"our_network": tensors("module."), **STATES},
    "deep": {"checkpoint": {"weights": {"model": tensors()}}, **STATES},
    "optimiser beside": {**tensors(), "optimizer": OPTIMISER.state_dict()},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_is_unwrapped(tmp_path, name):
    torch.save(WRAPPED[name], tmp_path / "a.pth")
    model = classifier(weights=tmp_path / "a.pth")
    assert model.weight_report.format == "pytorch-ssd"
    assert not model.weight_report.missing
    for key, value in NETWORK.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[key], value)


def test_a_prefix_of_the_networks_own_is_kept(tmp_path):
    torch.save({f"features.{k}": v for k, v in VGG().features.state_dict().items()}, tmp_path / "a.pth")
    torch.save({f"net.features.{k}": v for k, v in VGG().features.state_dict().items()}, tmp_path / "b.pth")
    for file in ("a.pth", "b.pth"):
        model = build_model(
            "vgg16", "linear", classes=["a", "b"], weights=tmp_path / file, head_options={"pool": "avg"}
        )
        assert not model.weight_report.missing
    assert next(iter(read_tensors(tmp_path / "b.pth"))) == "net.features.0.weight"  # the file's own, for a user to see


def test_a_head_is_found_under_the_prefix_as_well(tmp_path):
    own = detector().state_dict()
    renames = {
        "backbone.layers.": "base_net.",
        "head.extras.": "extras.",
        "head.class_convs.": "classification_headers.",
    }
    found = {new + k.removeprefix(old): v for old, new in renames.items() for k, v in own.items() if k.startswith(old)}
    torch.save({"state_dict": {f"model.{key}": value for key, value in found.items()}}, tmp_path / "a.pth")
    report = detector(weights=tmp_path / "a.pth").weight_report
    assert report.format == "pytorch-ssd detector"
    assert "head.class_convs.0.weight" in report.matched


def test_timm_weights_under_a_prefix(tmp_path):
    import timm

    options = {"backbone_options": {"model_name": "resnet10t"}, "image_size": 64}
    whole = {f"model.{k}": v for k, v in timm.create_model("resnet10t").state_dict().items()}
    torch.save({"state_dict": whole}, tmp_path / "a.pth")
    model = build_model("timm", "linear", classes=["a", "b"], weights=tmp_path / "a.pth", **options)
    assert not model.weight_report.missing
    assert set(model.weight_report.left_over) == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("prefix", ["", "model.", "module."])
def test_a_model_of_ours_without_its_settings_is_not_taken_for_another(tmp_path, prefix):
    torch.save({f"{prefix}{key}": value for key, value in classifier().state_dict().items()}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: (it has the tensors of a model|these are the weights of another)"):
        classifier(weights=tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"generator": tensors(), "discriminator": tensors()}, "wrapped checkpoint, keys 'generator', 'discriminator'"),
        ({"optimizer": OPTIMISER.state_dict(), "epoch": 3}, "no tensor in it.*keys 'optimizer', 'epoch'"),
        ({1: torch.zeros(2)}, "no tensor in it"),
        ([torch.zeros(2)], "expected a dictionary of tensors, got a list"),
        ({"a": torch.eye(2).to_sparse()}, "the tensor a is sparse or quantised"),
    ],
)
def test_what_can_not_be_unwrapped_is_named(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=rf"a\.pth: .*{message}"):
        classifier(weights=tmp_path / "a.pth")


def test_a_dictionary_that_holds_itself_ends(tmp_path):
    content = {"epoch": 3}
    content["model"] = content
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: "):
        classifier(weights=tmp_path / "a.pth")
