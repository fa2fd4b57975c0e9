"""Class activation maps against torchcam, and what they show of a model whose evidence is known."""

import numpy as np
import pytest
import torch
from torch import nn
from torchcam import methods as torchcam

import hccvision as hv
from hccvision import explain

SMALL = {"width": 0.25}


@pytest.fixture(scope="module")
def classifier():
    return hv.build_model(
        "mobilenet_v1", "linear", classes=["normal", "cancer"], image_size=96, backbone_options=SMALL, seed=0
    ).eval()


@pytest.fixture(scope="module")
def detector():
    return hv.build_model("mobilenet_v1", "ssd", classes=["hcc"], image_size=128, backbone_options=SMALL, seed=0).eval()


def picture(seed=0, size=(70, 90)):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


@pytest.mark.parametrize(
    ("method", "theirs"),
    [("grad_cam", torchcam.GradCAM), ("grad_cam++", torchcam.GradCAMpp), ("layer_cam", torchcam.LayerCAM)],
)
def test_maps_equal_those_of_torchcam(classifier, method, theirs):
    convolutions = [name for name, module in classifier.named_modules() if isinstance(module, nn.BatchNorm2d)]
    pixels = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    for name in (convolutions[4], convolutions[-1]):
        with theirs(classifier, target_layer=name) as extractor:
            output = classifier(pixels.clone().requires_grad_())
            expected = extractor(1, output, normalized=False)[0][0]
        with torch.enable_grad(), explain._outputs(classifier, [name]) as found:
            evidence = classifier.head.evidence(classifier(pixels.clone().requires_grad_()), 1)
            (gradient,) = torch.autograd.grad(evidence.sum(), found)
        ours = explain.METHODS[method](found[0], gradient)[0]
        assert ours.detach().numpy() == pytest.approx(expected.relu().numpy(), rel=1e-3, abs=1e-6)


class Bright(nn.Module):
    """Maps that are the image itself, at two scales."""

    channels, strides, in_channels = (1, 1), (1, 4), 1

    def forward(self, images):
        return images, nn.functional.avg_pool2d(images, 4)


class Middle(nn.Module):
    """Speaks for class 1 by the brightness of the left half of both maps."""

    task = "classification"

    def forward(self, maps):
        score = sum(m[..., : m.shape[3] // 2].mean((1, 2, 3)) for m in maps)
        return torch.stack([-score, score], 1)

    def decode(self, output, **_):
        return output.softmax(1)

    def evidence(self, output, label, box=None):
        return output[:, label]


@pytest.fixture
def known():
    return hv.Model(
        Bright(), Middle(), classes=["normal", "cancer"], image_size=(32, 48), mean=[0.0], std=[1.0], resize="letterbox"
    )


@pytest.mark.parametrize("method", explain.METHODS)
@pytest.mark.parametrize("size", [(32, 48), (100, 60)])
def test_heat_lies_where_the_evidence_is_in_pixels_of_the_original(known, method, size):
    image = np.zeros(size, np.uint8)
    height, width = size
    spot = (slice(height // 3, height // 3 + 8), slice(width // 8, width // 8 + 8))
    image[spot] = 255
    image[spot[0], -10:] = 255  # as bright, but on the right it speaks for nothing
    found = explain.explain(known, image, "cancer", method=method, device="cpu")
    assert found.heat.shape == size
    assert found.heat.max() <= 1
    left = [[width // 8, height // 3, width // 8 + 8, height // 3 + 8]]
    if method == "layer_cam":  # the others weigh whole channels
        assert explain.points_at(found, left)
        assert explain.share_inside(found, [[0, 0, width // 2, height]]) > 0.9
    against = explain.explain(known, image, "normal", method="layer_cam", device="cpu")
    assert not against.heat.any()
    assert explain.share_inside(against, left).reason == "the map shows no heat"
    assert not explain.points_at(against, left)


def test_hiding_the_evidence_shows_the_same_place(known):
    image = np.zeros((32, 48), np.uint8)
    image[10:18, 6:14] = 255
    found = explain.occlude(known, image, "cancer", patch=0.2, device="cpu")
    assert explain.points_at(found, [[4, 8, 16, 20]])
    assert found.heat[:, 30:].max() < 0.2


def test_a_detection_is_explained_near_its_box(detector):
    image = picture(size=(128, 128))
    found = hv.predict(detector, [image], device="cpu", score_threshold=0.0)[0].detections
    small = min(range(len(found.boxes)), key=lambda i: float((found.boxes[i, 2:] - found.boxes[i, :2]).prod()))
    box = found.boxes[small].numpy()
    heat = explain.explain(detector, image, "hcc", box=box, device="cpu")
    assert heat.method == "layer_cam"
    x, y = (box[:2] + box[2:]) / 2
    around = np.clip([x - 40, y - 40, x + 40, y + 40], 0, 128)
    share_of_area = float((around[2:] - around[:2]).prod()) / 128**2
    assert explain.share_inside(heat, [around]) > 2 * share_of_area
    odds = detector.head.evidence(detector(torch.rand(2, 3, 128, 128)), 0)
    assert odds.shape == (2,)


def test_weights_decide_what_the_map_shows(classifier):
    same = explain.sanity_check(classifier, picture(), seed=1, method="layer_cam", device="cpu")
    assert not same.defined or abs(same) < 0.98
    before = [p.clone() for p in classifier.parameters()]
    state = torch.get_rng_state()
    explain.sanity_check(classifier, picture(), device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(before, classifier.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())


def test_maps_leave_no_trace(classifier):
    assert all(p.grad is None for p in classifier.parameters())
    explain.explain(classifier, picture(), layers=["backbone"], device="cpu")
    assert all(p.grad is None for p in classifier.parameters())
    assert all(not m._forward_hooks for m in classifier.modules())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "score_cam"}, ValueError, "grad_cam, grad_cam\\+\\+, layer_cam"),
        ({"layers": ["backbone.x"]}, ValueError, "unknown layer 'backbone.x'"),
        ({"layers": ["head"]}, ValueError, "none of the layers head is a feature map"),
        ({"label": "cyst"}, ValueError, "normal, cancer"),
        ({"box": [1, 2, 3]}, ValueError, "four numbers"),
    ],
)
def test_what_cannot_be_explained_is_refused(classifier, options, error, message):
    with pytest.raises(error, match=message):
        explain.explain(classifier, picture(), device="cpu", **options)


def test_missing_files_and_heads_without_evidence_are_named(classifier, tmp_path):
    with pytest.raises(ValueError, match=r"none\.png"):
        explain.explain(classifier, tmp_path / "none.png", device="cpu")
    with pytest.raises(TypeError, match="evidence"):
        explain.explain(hv.wrap(lambda x: x, classes=["hcc"]), picture(), device="cpu")
    with pytest.raises(ValueError, match="patch"):
        explain.occlude(classifier, picture(), patch=0, device="cpu")
