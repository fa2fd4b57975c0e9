"""Feature cache: the head learns the same as from the images, and the backbone runs once for each view."""

import copy
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from hccvision.contracts.samples import Annotation, Sample
from hccvision.model.build import build_model
from hccvision.recipes import Recipe
from hccvision.training import feed
from hccvision.training.engine import fit
from hccvision.training.feature_cache import FeatureCache

RECIPE = Recipe(
    optimiser="adam", learning_rate=1e-3, epochs=3, batch=4, augmentation="paper", views=3, frozen=("backbone",)
)


@pytest.fixture
def slices(tmp_path):
    """Five slices of noise, three of them with a bright lesion."""
    rng = np.random.default_rng(0)
    samples = []
    for i in range(5):
        pixels = rng.integers(0, 60, (48, 72), np.uint8)
        boxes = [(20, 10, 50, 34)] if i % 2 else []
        for x1, y1, x2, y2 in boxes:
            pixels[y1:y2, x1:x2] = 230
        path = tmp_path / f"slice_{i}.png"
        Image.fromarray(pixels).save(path)
        annotation = Annotation(np.array(boxes), ("hcc",) * len(boxes), size=(48, 72))
        samples.append(Sample(path, f"P{i}", "cancer" if boxes else "normal", annotation))
    return samples


def classifier(pool="avg", seed=0, **options):
    return build_model(
        "mobilenet_v1", "linear", classes=["normal", "cancer"], image_size=64, backbone_options={"width": 0.1},
        head_options={"hidden": (8,), "pool": pool, "dropout": 0.5, **options}, seed=seed,
    )  # fmt: skip


def detector(seed=0):
    options = {"classes": ["hcc"], "image_size": 64, "backbone_options": {"width": 0.1}}
    return build_model("mobilenet_v1", "ssd", **options, seed=seed)


def several(seed=0):
    return build_model(
        "mobilenet_v1", "linear", classes=["hcc", "cyst"], image_size=64, backbone_options={"width": 0.1},
        head_options={"hidden": (), "pool": "max", "output": "multilabel"}, seed=seed,
    )  # fmt: skip


def runs_of(model, monkeypatch):
    """Numbers of images that went through the backbone, by call."""
    calls = []
    forward = model.backbone.forward
    monkeypatch.setattr(model.backbone, "forward", lambda images: calls.append(len(images)) or forward(images))
    return calls


@pytest.mark.parametrize("build", [classifier, lambda: classifier(pool=None), several, detector])
@pytest.mark.parametrize("views", [None, 3])
def test_the_head_learns_the_same_as_without_the_cache(build, views, slices):
    recipe = replace(RECIPE, views=views, augmentation="paper" if views else "none", accumulate=2)
    plain, cached = build(), build()
    expected = fit(plain, slices, slices, recipe=recipe, device="cpu")
    history = fit(cached, slices, slices, recipe=recipe, device="cpu", feature_cache=True)
    for row, other in zip(history, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-5, abs=1e-6, nan_ok=True)
    before, after = build().state_dict(), cached.state_dict()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-6)
        assert name.startswith("head.") or torch.equal(after[name], before[name])
    assert any(not torch.equal(after[name], value) for name, value in before.items())


def test_the_backbone_sees_each_view_and_each_validation_image_once(slices, monkeypatch):
    model = classifier()
    calls = runs_of(model, monkeypatch)
    fit(model, slices, slices[:2], recipe=RECIPE, device="cpu", feature_cache=True)
    assert sum(calls) == 3 * 5 + 2


def test_views_are_different_and_the_same_in_every_epoch(slices, monkeypatch):
    seen = []
    augment_views = feed.augment_views

    def recorded(augment, images, targets, numbers, **options):
        found = augment_views(augment, images, targets, numbers, **options)
        seen.extend(zip(numbers, found[0], strict=True))
        return found

    monkeypatch.setattr(feed, "augment_views", recorded)
    fit(classifier(), slices, recipe=RECIPE, device="cpu")
    assert sorted(number for number, _ in seen[:15]) == list(range(15))
    assert [n for n, _ in seen[:15]] != [n for n, _ in seen[15:30]]  # in another order
    first = dict(seen[:15])
    for number, image in seen[15:]:
        assert torch.equal(image, first[number])
    assert all(not torch.equal(first[i], first[j]) for i in range(15) for j in range(i))


def test_in_bf16_too_the_head_learns_what_it_would_without_the_cache(slices):
    recipe = replace(RECIPE, precision="bf16")
    plain, cached, full = classifier(), classifier(), classifier()
    fit(plain, slices, slices, recipe=recipe, device="cpu")
    fit(cached, slices, slices, recipe=recipe, device="cpu", feature_cache=True)
    fit(full, slices, slices, recipe=RECIPE, device="cpu", feature_cache=True)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(cached.state_dict()[name], value, rtol=0, atol=1e-6)
    weights = zip(cached.head.parameters(), full.head.parameters(), strict=True)
    assert max((half - whole).abs().max() for half, whole in weights) > 5e-6  # bf16 it was


@pytest.mark.parametrize("build", [classifier, detector])
def test_what_outgrows_the_memory_goes_into_a_file_in_half_precision(build, slices, tmp_path, monkeypatch):
    folder = tmp_path / "features"
    folder.mkdir()
    kept = []
    make = FeatureCache

    def small(*args, **options):
        kept.append(make(*args, **options, limit=1000))
        return kept[-1]

    expected = fit(build(), slices, slices, recipe=RECIPE, device="cpu", metrics=[], feature_cache=True)
    monkeypatch.setattr(feed, "FeatureCache", small)
    history = fit(build(), slices, slices, recipe=RECIPE, device="cpu", metrics=[], feature_cache=folder)
    assert [cache.path.parent.parent for cache in kept] == [folder] * 2
    size = sum(m.numel() for m in kept[0].maps)
    assert kept[0].path.stat().st_size == 2 * size
    assert {m.dtype for cache in kept for m in cache.maps} == {torch.float16}
    for row, other in zip(history, expected, strict=True):
        assert row == pytest.approx(other, rel=0.1)
    kept.clear()
    assert list(folder.iterdir()) == []  # the file goes with the cache


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="not on this system")
@pytest.mark.parametrize("full", ["disk_usage", "posix_fallocate"])
def test_a_full_disk_does_not_end_a_training(full, slices, tmp_path, monkeypatch):
    def lacks_room(*_):
        raise OSError(28, "No space left on device")

    make = FeatureCache
    monkeypatch.setattr(feed, "FeatureCache", lambda *a, **o: make(*a, **o, limit=1000))
    if full == "disk_usage":
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    else:
        monkeypatch.setattr(os, "posix_fallocate", lacks_room)
    model, expected = classifier(), classifier()
    with pytest.warns(UserWarning, match=r"there is no feature cache .*: training without, more slowly"):
        fit(model, slices, recipe=RECIPE, device="cpu", feature_cache=tmp_path)
    fit(expected, slices, recipe=RECIPE, device="cpu")
    assert all(torch.equal(v, expected.state_dict()[k]) for k, v in model.state_dict().items())
    assert not list(tmp_path.glob(".*"))


def test_features_beyond_half_precision_are_an_error_not_an_infinity(slices, monkeypatch):
    model = classifier()
    forward = model.backbone.forward
    monkeypatch.setattr(model.backbone, "forward", lambda images: tuple(1e6 + m for m in forward(images)))
    make = FeatureCache
    monkeypatch.setattr(feed, "FeatureCache", lambda *a, **o: make(*a, **o, limit=1000))
    with pytest.raises(ValueError, match=r"slice_0\.png .* the features reach 1e\+06, which float16 can't hold"):
        fit(model, slices, recipe=RECIPE, device="cpu", feature_cache=True)


def test_an_interrupted_run_resumes_from_features_computed_again(slices, tmp_path, monkeypatch):
    whole = classifier()
    expected = fit(whole, slices, slices, recipe=RECIPE, device="cpu", feature_cache=True)
    step, made = torch.optim.Adam.step, []

    def killed(self, *args, **kwargs):
        made.append(step(self, *args, **kwargs))
        if len(made) == 6:
            raise RuntimeError("the power went out")

    options = {"recipe": RECIPE, "run": tmp_path / "run", "save_every": 1, "device": "cpu", "feature_cache": True}
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", killed)
        with pytest.raises(RuntimeError, match="power"):
            fit(classifier(), slices, slices, **options)
    resumed = classifier(seed=0)
    history = fit(resumed, slices, slices, resume=True, **options)
    assert history.rows == expected.rows
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frozen": ()}, r"needs a backbone that is never trained, and backbone is: set frozen=\('backbone',\)"),
        ({"frozen": ("backbone.layers.0",)}, "never trained, and backbone is"),
        ({"frozen": (), "thaw": ((1, "backbone"),)}, "never trained, and backbone is"),
        ({"views": None}, "'paper' changes them in each epoch: set views=6"),
    ],
)
def test_a_cache_of_what_changes_is_refused(changes, message, slices):
    model = classifier()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        fit(model, slices, recipe=replace(RECIPE, **changes), device="cpu", feature_cache=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
