import dataclasses
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hccvision.contracts import FeatureSpec, Targets
from hccvision.default_boxes import DefaultBoxSpec, MapSpec
from hccvision.heads.linear import LinearHead
from hccvision.heads.ssd import SSDHead
from hccvision.images import DEFAULT_WINDOW, Window
from hccvision.model.build import build_model, load_model
from hccvision.model.features import features_of
from hccvision.model.file import read_settings
from hccvision.model.model import Model
from hccvision.model.seeding import seeded
from hccvision.recipes import Recipe
from hccvision.registry import BACKBONES, HEADS, NECKS
from hccvision.training.optimisers import parameter_table

NARROW = {"width": 0.25}


class Tiny(nn.Module):
    """Two maps in two convolutions: a backbone of the user's own."""

    def __init__(self, channels=(4, 8), strides=(16, 32), given=2, in_channels=3):
        super().__init__()
        self.channels, self.strides, self.given, self.in_channels = channels, strides, given, in_channels
        self.first = nn.Conv2d(in_channels, 4, 16, stride=16)
        self.second = nn.Conv2d(4, 8, 2, stride=2)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        fine = self.first(images)
        return (fine, self.second(fine))[: self.given]


@pytest.fixture
def registered(monkeypatch):
    """Register `Tiny` for one test."""
    monkeypatch.setitem(BACKBONES._builders, "tiny", Tiny)
    monkeypatch.setitem(BACKBONES._tags, "tiny", {})
    return "tiny"


def detector(**options) -> Model:
    options = {"classes": ["tumor"], "image_size": 64, "backbone_options": NARROW, **options}
    return build_model("mobilenet_v1", "ssd", **options)


def classifier(**options) -> Model:
    options = {"classes": ["normal", "cancer"], "image_size": 32, "backbone_options": NARROW, **options}
    return build_model("mobilenet_v1", "linear", **{"head_options": {"hidden": (), "pool": "avg"}, **options})


# forward, loss, decode


def test_forward_is_normalise_backbone_head():
    model = classifier().eval()
    model.mean.copy_(torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1))
    model.std.copy_(torch.tensor([0.5, 0.6, 0.7]).view(1, 3, 1, 1))
    images = torch.rand(2, 3, 32, 32)
    by_hand = images.clone()
    for channel, (mean, std) in enumerate(((0.1, 0.5), (0.2, 0.6), (0.3, 0.7))):
        by_hand[:, channel] = (by_hand[:, channel] - mean) / std
    before = images.clone()
    with torch.no_grad():
        torch.testing.assert_close(model(images), model.head(model.backbone(by_hand)))
    assert torch.equal(images, before)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 32, 33), (1, 3, 224, 224), (1, 32, 32, 3)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected images \(B, 3, 32, 32\), got \(.*hv.predict resizes"):
        classifier()(torch.zeros(shape))


def test_output_is_the_same_in_training_and_evaluation():
    model = detector()
    images = torch.rand(2, 3, 64, 64)
    assert type(model.train()(images)) is type(model.eval()(images))


def test_loss_and_decode_are_the_heads():
    model = classifier()
    logits = torch.tensor([[1.0, 3.0]])
    targets = Targets(torch.zeros(1, 0, 4), torch.zeros(1, 0).long(), torch.tensor([0]))
    assert model.loss(logits, targets) == model.head.loss(logits, targets)
    assert model.loss(logits, targets, name="focal") == model.head.loss(logits, targets, name="focal")
    assert torch.equal(model.decode(logits), logits.softmax(-1))
    ssd = detector().eval()
    with torch.no_grad():
        raw = ssd(torch.rand(1, 3, 64, 64))
    assert len(ssd.decode(raw, score_threshold=0.0, max_detections=7)[0]) == 7


# build_model


@pytest.mark.parametrize(
    ("classes", "positive", "message"),
    [
        ([], None, "different, non-empty names, got \\[\\]"),
        (["a", "a"], None, "different, non-empty names, got \\['a', 'a'\\]"),
        (["a", ""], None, "different, non-empty names"),
        (["a", 1], None, "different, non-empty names"),
        ("cancer", None, "list of names, got the string 'cancer'; write \\['cancer'\\]"),
        (["normal", "cancer"], "tumor", "positive class 'tumor' is not among the classes normal, cancer"),
        (["cancer"], None, "at least 2 classes, got 1"),
    ],
)
def test_class_names_are_checked(classes, positive, message):
    with pytest.raises(ValueError, match=message):
        classifier(classes=classes, positive=positive)


def test_the_positive_class_is_the_last_unless_said():
    assert classifier().positive == "cancer"
    assert classifier(positive="normal").positive == "normal"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"resize": "crop"}, ValueError, "unknown resize policy 'crop'; known: stretch, letterbox"),
        ({"image_size": 0}, ValueError, r"can't take images of \(0, 0\) pixels"),
        ({"backbone_options": {"width": 0}}, ValueError, "width is a multiplier above 0"),
        ({"head_options": {"pool": "sum"}}, ValueError, "unknown pool 'sum'"),
    ],
)
def test_settings_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        classifier(**options)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(
        KeyError, match=r"unknown backbone 'mobilenet_v2'; did you mean 'mobilenet_v1'\? Known: .*vgg16"
    ):
        build_model("mobilenet_v2", "ssd", classes=["a"])
    with pytest.raises(KeyError, match=r"unknown head 'sdd'; did you mean 'ssd'"):
        build_model("mobilenet_v1", "sdd", classes=["a"])


def test_too_small_an_image_is_named():
    with pytest.raises(ValueError, match=r"this backbone can't take images of \(16, 16\) pixels"):
        build_model("vgg16", "linear", classes=["a", "b"], image_size=16)


def test_image_size_is_the_heads_own_unless_said():
    assert build_model(Tiny(), "linear", classes=["a", "b"]).image_size == (224, 224)
    assert build_model(Tiny(), "ssd", classes=["a"]).image_size == (300, 300)
    assert build_model(Tiny(), "ssd", classes=["a"], image_size=[96, 128]).image_size == (96, 128)


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    models = [classifier(seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    first, again, other = (torch.cat([p.flatten() for p in m.parameters()]) for m in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_backbone_of_ones_own_meets_every_head():
    for head in HEADS.names():
        model = build_model(Tiny(), head, classes=["a", "b"], image_size=(64, 96))
        targets = Targets(torch.tensor([[[5.0, 5, 40, 40]]]), torch.tensor([[1]]), torch.tensor([1]))
        loss = model.loss(model(torch.rand(1, 3, 64, 96)), targets)["loss"]
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
    assert (model.mean.flatten().tolist(), model.std.flatten().tolist()) == ([0.5], [0.5])


def test_building_leaves_the_backbone_as_it_was():
    backbone = Tiny()
    backbone.norm = nn.BatchNorm2d(4)
    build_model(backbone, "linear", classes=["a", "b"], image_size=32)
    assert backbone.training
    assert backbone.norm.num_batches_tracked == 0
    build_model(backbone.eval(), "linear", classes=["a", "b"], image_size=32)
    assert not backbone.training


@pytest.mark.parametrize(
    "wrong",
    [
        {"given": 1},  # one map fewer than stated
        {"channels": (4, 9)},
        {"channels": (4,)},
        {"strides": (16,)},
    ],
)
def test_a_backbone_that_misstates_its_maps_is_refused(wrong):
    with pytest.raises(ValueError, match=r"Tiny states maps of \(4.* and returns maps of \(4"):
        build_model(Tiny(**wrong), "ssd", classes=["a"], image_size=64)


def test_a_backbone_without_a_statement_is_refused():
    with pytest.raises(TypeError, match="a backbone states its channels and strides; Conv2d doesn't"):
        build_model(nn.Conv2d(3, 8, 3), "linear", classes=["a", "b"])


@pytest.mark.parametrize("in_channels", [1, 3, 5])
def test_mean_and_std_fit_the_channels(in_channels):
    model = classifier(backbone_options={**NARROW, "in_channels": in_channels})
    assert model.in_channels == in_channels
    assert model.eval()(torch.rand(1, in_channels, 32, 32)).shape == (1, 2)
    assert len(model.mean.flatten()) in (1, in_channels)


# save and load


OWN_BOXES = DefaultBoxSpec(
    (MapSpec(((0.3, 0.3), (0.5, 0.2)), 4, step=0.2), MapSpec(((0.6, 0.6),), 2, centres=2)), strides=(16, 32), clip=True
)


@pytest.mark.parametrize(
    ("head", "options"),
    [
        (
            "ssd",
            {
                "classes": ["hcc", "Zyste", "囊肿"],
                "positive": "hcc",
                "image_size": (64, 96),
                "resize": "letterbox",
                "backbone_options": {"width": 0.3, "in_channels": 1, "activation": "leaky_relu"},
                "head_options": {"default_boxes": OWN_BOXES, "iou_threshold": 0.4, "min_negatives": 7},
            },
        ),
        ("ssd", {"classes": ["tumor"], "image_size": 64, "head_options": {"default_boxes": "lesion"}}),
        (
            "linear",
            {
                "classes": ["normal", "cancer"],
                "image_size": 64,
                "head_options": {"hidden": (7, 5), "pool": "max", "dropout": 0.25},
            },
        ),
    ],
)
def test_a_saved_model_comes_back_whole(tmp_path, head, options):
    model = build_model("mobilenet_v1", head, **{"backbone_options": NARROW, **options})
    with torch.no_grad():
        model(torch.rand(4, model.in_channels, *model.image_size))  # moves the batch norms' statistics
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    model.mean.fill_(0.3)
    model.std.fill_(0.2)
    path = model.save(tmp_path / "deep" / "model.safetensors")
    assert path == tmp_path / "deep" / "model.safetensors"
    again = load_model(path)
    assert not again.training
    for name in ("classes", "positive", "image_size", "resize", "in_channels", "task"):
        assert getattr(again, name) == getattr(model, name)
    assert (again.mean.flatten().unique().item(), again.std.flatten().unique().item()) == pytest.approx((0.3, 0.2))
    assert again.backbone.built_from == model.backbone.built_from
    images = torch.rand(2, model.in_channels, *model.image_size)
    with torch.no_grad():
        given, expected = again(images), model.eval()(images)
    if head == "linear":
        assert torch.equal(given, expected)
        assert [m.p for m in again.modules() if isinstance(m, nn.Dropout)] == [0.25, 0.25]
    else:
        assert torch.equal(given.logits, expected.logits)
        assert torch.equal(given.offsets, expected.offsets)
        assert torch.equal(again.head.default_boxes, model.head.default_boxes)
        for name in ("matcher", "negatives"):
            assert getattr(again.head, name) == getattr(model.head, name)
    assert again.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_loading_leaves_the_global_generator_alone(tmp_path):
    path = classifier().save(tmp_path / "a.safetensors")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model(path)
    assert torch.equal(torch.rand(3), expected)


def test_a_model_file_may_have_any_name(tmp_path):
    path = classifier().save(str(tmp_path / "tumor.model"))
    assert load_model(str(path)).classes == ("normal", "cancer")


def test_the_file_is_plain_safetensors_with_its_settings(tmp_path):
    path = classifier().save(tmp_path / "a.safetensors")
    with safe_open(path, "pt") as file:
        settings = json.loads(file.metadata()["hccvision"])
    assert settings == read_settings(path)
    assert settings["classes"] == ["normal", "cancer"]
    assert settings["backbone"] == ["mobilenet_v1", {"width": 0.25}]


def test_a_registered_backbone_is_saved_by_name(tmp_path, registered):
    model = build_model(registered, "linear", classes=["a", "b"], image_size=64, backbone_options={"in_channels": 2})
    again = load_model(model.save(tmp_path / "a.safetensors"))
    assert type(again.backbone) is Tiny
    assert again.in_channels == 2


def test_a_file_that_names_an_unknown_part_says_which(tmp_path, registered, monkeypatch):
    path = build_model(registered, "linear", classes=["a", "b"], image_size=64).save(tmp_path / "a.safetensors")
    monkeypatch.delitem(BACKBONES._builders, registered)
    monkeypatch.delitem(BACKBONES._tags, registered)
    with pytest.raises(KeyError, match="unknown backbone 'tiny'"):
        load_model(path)


def test_a_file_says_which_parts_were_given_as_objects_and_loading_asks_for_them(tmp_path):
    model = build_model(Tiny(), "linear", classes=["a", "b"], image_size=64, seed=3).eval()
    path = model.save(tmp_path / "a.safetensors")
    assert read_settings(path)["backbone"] == {"object": f"{Tiny.__module__}.Tiny"}
    with pytest.raises(ValueError, match=r"its backbone was given as an object of .*Tiny.*load_model\(.*backbone=…\)"):
        load_model(path)
    again = load_model(path, backbone=Tiny())
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(again(images), model(images))

    body = BACKBONES.build("mobilenet_v1", width=0.25)
    head = LinearHead(features_of(body, 32), 2)
    model = build_model(body, head, classes=["a", "b"], image_size=32).eval()
    path = model.save(tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"its head was given as an object of hccvision\.heads\.linear\.LinearHead"):
        load_model(path)
    again = load_model(path, head=LinearHead(features_of(body, 32), 2))
    assert torch.equal(again(images[..., :32, :32]), model(images[..., :32, :32]))
    with pytest.raises(ValueError, match="its tensors don't fit the parts"):
        load_model(path, head=LinearHead(features_of(body, 32), 2, hidden=()))


def test_parts_are_names_or_objects_and_objects_take_no_options():
    model = build_model(Tiny(), "linear", classes=["a", "b"], image_size=64)
    assert isinstance(model.backbone, Tiny)
    with pytest.raises(TypeError, match=r"options \(width\) are for a backbone given by name, and this one is a Tiny"):
        build_model(Tiny(), "linear", classes=["a", "b"], image_size=64, backbone_options={"width": 0.5})
    with pytest.raises(TypeError, match="nonsense"):
        build_model("mobilenet_v1", "linear", classes=["a", "b"], nonsense=1)
    with pytest.raises(TypeError, match=r"a head has a task, a loss and a decode; Identity lacks task, loss, decode"):
        build_model(Tiny(), nn.Identity(), classes=["a", "b"], image_size=64)
    with pytest.raises(TypeError, match=r"a neck states its channels and strides; Identity doesn't"):
        build_model(Tiny(), "linear", neck=nn.Identity(), classes=["a", "b"], image_size=64)


def test_the_features_of_a_backbone_are_those_of_a_dry_forward():
    body = Tiny()
    assert features_of(body, 64) == FeatureSpec((4, 8), (16, 32), ((4, 4), (2, 2)), (64, 64))
    assert features_of(body, (64, 96)).sizes == ((4, 6), (2, 3))
    assert body.training
    with pytest.raises(TypeError, match="a backbone states its channels and strides; Linear doesn't"):
        features_of(nn.Linear(2, 2), 64)


class Smooth(nn.Module):
    """A neck that halves the channels of every map."""

    def __init__(self, features, *, share=2):
        super().__init__()
        self.channels, self.strides = tuple(c // share for c in features.channels), features.strides
        self.layers = nn.ModuleList(nn.Conv2d(c, c // share, 1) for c in features.channels)

    def forward(self, maps):
        return tuple(layer(m) for layer, m in zip(self.layers, maps, strict=True))


def test_a_neck_is_one_definition_between_any_backbone_and_any_head(tmp_path, monkeypatch):
    monkeypatch.setitem(NECKS._builders, "smooth", Smooth)
    monkeypatch.setitem(NECKS._tags, "smooth", {})
    for head, options in (("linear", {"pool": "avg"}), ("ssd", {})):
        model = build_model(
            "mobilenet_v1", head, neck="smooth", classes=["a", "b"], image_size=64, backbone_options=NARROW,
            neck_options={"share": 4}, head_options=options,
        ).eval()  # fmt: skip
        assert [m.shape[1] for m in model.maps(torch.zeros(1, 3, 64, 64))] == [c // 4 for c in model.backbone.channels]
        again = load_model(model.save(tmp_path / f"{head}.safetensors"))
        assert again.settings()["neck"] == ["smooth", {"share": 4}]
        images = torch.rand(1, 3, 64, 64)
        for a, b in zip(
            torch.utils._pytree.tree_leaves(model(images)), torch.utils._pytree.tree_leaves(again(images)), strict=True
        ):
            assert torch.equal(a, b)
        rows = parameter_table(model, Recipe(learning_rate=1e-4, head_learning_rate=1e-2))
        assert {r.learning_rate for r in rows if r.name.startswith("neck")} == {1e-2}
    model = build_model(Tiny(), "linear", neck=Smooth(features_of(Tiny(), 64)), classes=["a", "b"], image_size=64)
    path = model.save(tmp_path / "objects.safetensors")
    with pytest.raises(ValueError, match=r"its backbone was given as an object"):
        load_model(path)
    with pytest.raises(ValueError, match=r"its neck was given as an object of .*Smooth"):
        load_model(path, backbone=Tiny())
    load_model(path, backbone=Tiny(), neck=Smooth(features_of(Tiny(), 64)))


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = classifier(seed=0).save(tmp_path / "a.safetensors")
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        classifier(seed=1).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_saving_replaces_an_older_file(tmp_path):
    path = classifier(seed=0).save(tmp_path / "a.safetensors")
    before = path.read_bytes()
    classifier(seed=1).save(path)
    assert path.read_bytes() != before
    assert list(tmp_path.iterdir()) == [path]


def rewrite(path, **changes):
    """Change settings inside a model file."""
    settings = {**read_settings(path), **changes}
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {"hccvision": json.dumps(settings)})


@pytest.mark.parametrize(
    "window", [Window(), Window("percentile", 1, 99), Window("zscore"), Window("fixed", -9, 1.5e3)]
)
def test_the_window_is_saved_with_the_model(tmp_path, window):
    path = classifier(window=window).save(tmp_path / "a.safetensors")
    assert load_model(path).window == window
    assert read_settings(path) == json.loads(json.dumps(load_model(path).settings()))
    assert classifier(weights=path).window == window  # it belongs to the weights, as mean and std do
    assert classifier(weights=path, window=Window("percentile")).window == Window("percentile")


def test_a_file_from_before_windows_has_the_default(tmp_path):
    path = classifier().save(tmp_path / "a.safetensors")
    settings = {key: value for key, value in read_settings(path).items() if key != "window"}
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {"hccvision": json.dumps(settings)})
    assert load_model(path).window == classifier(weights=path).window == classifier().window == DEFAULT_WINDOW
    assert read_settings(path) == json.loads(json.dumps(classifier().settings()))  # so its run can be resumed


def test_a_window_that_is_none_is_refused():
    with pytest.raises(TypeError, match=r"window is an images\.Window, got 'zscore': write hv\.images\.Window\(kind"):
        classifier(window="zscore")


def test_what_is_no_model_file_is_called_that(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothere.safetensors: no such model file"):
        load_model(tmp_path / "nothere.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    torch.save({"a": torch.zeros(2)}, tmp_path / "foreign.pth")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("hello hello hello")
    for file in list(tmp_path.iterdir()):
        with pytest.raises(
            ValueError, match=rf"{file.name}: not a model file of hccvision; .*build_model\(…, weights="
        ):
            load_model(file)


def test_a_file_of_the_future_is_called_that(tmp_path):
    path = classifier().save(tmp_path / "a.safetensors")
    rewrite(path, format=2)
    for load in (load_model, lambda p: classifier(weights=p)):
        with pytest.raises(ValueError, match=r"a.safetensors: a model file of format 2, .* reads 1: update hccvision"):
            load(path)


def test_tensors_that_do_not_fit_are_named_with_the_file(tmp_path):
    path = classifier().save(tmp_path / "a.safetensors")
    rewrite(path, backbone=["mobilenet_v1", {"width": 0.5}])
    with pytest.raises(ValueError, match=r"a.safetensors: its tensors don't fit the parts that it names"):
        load_model(path)


def test_default_boxes_given_as_data_survive_json():
    model = detector(head_options={"default_boxes": OWN_BOXES})
    text = json.dumps(model.settings(), default=dataclasses.asdict)
    options = json.loads(text)["head"][1]
    features = FeatureSpec((64, 64), (16, 32), ((4, 4), (2, 2)), (64, 64))
    assert torch.equal(SSDHead(features, 1, **options).default_boxes, model.head.default_boxes)


# threads

THREADS = """
import sys, threading
import torch
from hccvision.model.build import build_model, load_model

found, start = {}, threading.Barrier(4)

def work(number):
    start.wait()
    if len(sys.argv) > 1:
        found[number] = load_model(sys.argv[1])
    else:
        found[number] = build_model("mobilenet_v1", "ssd", classes=["hcc"], image_size=64,
                                    backbone_options={"width": 0.1}, seed=0)

threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(found) == 4
one = found[0].state_dict()
assert all(torch.equal(value, m.state_dict()[name]) for m in found.values() for name, value in one.items())
print(float(sum(p.double().sum() for p in found[0].parameters())))
"""


def test_four_threads_build_and_load_their_first_models_at_once(tmp_path):
    model = build_model("mobilenet_v1", "ssd", classes=["hcc"], image_size=64, backbone_options={"width": 0.1}, seed=0)
    path = model.save(tmp_path / "a.safetensors")
    for arguments in ([], [str(path)]):
        command = [sys.executable, "-c", THREADS, *arguments]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr
        assert float(run.stdout) == float(sum(p.double().sum() for p in model.parameters()))


def test_threads_build_the_weights_of_their_seeds_and_leave_the_callers_generator_alone():
    def weights(seed):
        return torch.cat([p.detach().flatten() for p in classifier(seed=seed).parameters()])

    alone = [weights(seed) for seed in range(4)]
    torch.manual_seed(5)
    expected = [torch.rand(3) for _ in range(2000)]
    with ThreadPoolExecutor(4) as pool:
        torch.manual_seed(5)
        futures = [pool.submit(weights, i % 4) for i in range(12)]
        drawn = [torch.rand(3) for _ in range(2000)]  # by the caller, meanwhile
        built = [future.result() for future in futures]
    assert all(torch.equal(built[i], alone[i % 4]) for i in range(12))
    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))


def test_a_seed_gives_the_values_of_the_global_generator_with_it():
    def draw():
        ones, empty = torch.ones(40), torch.empty
        return [
            torch.rand(3), torch.randn(2, 2), torch.randint(10, (4,)), torch.randint(3, 10, (4,)), torch.randperm(9),
            torch.normal(0.0, 1.0, (3,)), torch.normal(ones, ones), torch.rand_like(ones), torch.randn_like(ones),
            torch.randint_like(ones, 9), torch.bernoulli(ones / 2), torch.multinomial(ones, 3), torch.poisson(ones),
            empty(5).uniform_(), empty(5).normal_(), empty(5).bernoulli_(0.5), empty(5).exponential_(),
            nn.functional.dropout(ones, 0.5), nn.functional.rrelu(-ones, training=True), nn.Conv2d(3, 4, 3).weight,
            nn.init.trunc_normal_(empty(9)), nn.init.orthogonal_(empty(4, 4)), nn.LSTM(4, 4).weight_hh_l0,
        ]  # fmt: skip

    torch.manual_seed(7)
    expected = draw()
    before = torch.get_rng_state()
    with seeded(7):
        assert all(torch.equal(a, b) for a, b in zip(draw(), expected, strict=True))
        own = torch.Generator().manual_seed(1)
        assert torch.equal(torch.rand(2, generator=own), torch.rand(2, generator=own.manual_seed(1)))
    assert torch.equal(torch.get_rng_state(), before)
