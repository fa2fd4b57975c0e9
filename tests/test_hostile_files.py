"""What a file says is data: settings, documents and states of any shape give one ValueError with the file's name."""

import json
import math
import socket
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from small_trainings import classifier, detector

from hccvision.backbones.timm_adapter import TimmBackbone
from hccvision.model.build import build_model, load_model


def contents(path):
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()["hccvision"]  # noqa: SIM118


def with_text(path, text):
    tensors, _ = contents(path)
    save_file(tensors, path, {"hccvision": text})
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = classifier().save(tmp_path_factory.mktemp("model") / "whole.safetensors")
    return contents(path)


@pytest.fixture
def file_of(saved, tmp_path):
    """Write a model file whose settings differ, or are another text altogether."""

    def write(text=None, **changes):
        own = json.loads(saved[1])
        own = {key: value for key, value in {**own, **changes}.items() if value != "left out"}
        save_file(saved[0], tmp_path / "a.safetensors", {"hccvision": json.dumps(own) if text is None else text})
        return tmp_path / "a.safetensors"

    return write


def start_from(path):
    return classifier(weights=path)


BRACKETS = "[" * 100_000
HOSTILE = [
    *({"text": text} for text in ("", "[]", "5", "null", '"a"', "NaN", "{", BRACKETS, '{"a":' * 100_000, "9" * 5000)),
    {"text": '{"format": 1}'},
    {"format": True},
    {"format": "1"},
    *({"backbone": v} for v in ("left out", None, 5, "vgg16", [], ["mobilenet_v1"], ["mobilenet_v1", {}, 3], [3, {}])),
    *({"backbone": ["mobilenet_v1", v]} for v in (None, [], 5, {"width": "a"}, {"width": -1}, {"nonsense": 1})),
    *({"backbone": ["mobilenet_v1", {"width": 0.1, "in_channels": v}]} for v in (0, -3, 10**9, 1.5, "3", None, True)),
    {"backbone": ["mobilenet_v1", {"width": [[[[1]]]] * 3}]},
    {"backbone": ["mobilenet_v1", {"width": math.nan}]},
    {"backbone": ["m" * 10_000, {}]},
    {"backbone": {"object": 5}},
    *({"head": v} for v in ("left out", None, {}, ["linear", {"hidden": "abc"}], ["linear", {"pool": "a" * 5000}])),
    *({"neck": v} for v in (5, "fpn", [], ["linear"], {"object": None})),
    *({"classes": v} for v in ("left out", "ab", [], [""], ["a", "a"], ["a", 5], {"a": 1}, ["a" * 10**7, "b"], 5)),
    {"classes": [str(i) for i in range(20_000)]},
    *({"positive": v} for v in ("left out", None, "other", 5, ["normal"])),
    *({"image_size": v} for v in ("left out", 64, [64], [64, 64, 64], [0, 64], [-1, 64], [1e9, 64], [10**9, 64], "ab")),
    *({"image_size": v} for v in ([4000, 4000], [True, 64], [None, 64], [64.5, 64], {"0": 64})),
    *({"resize": v} for v in ("left out", "crop", None, 5, ["stretch"], {})),
    *({"window": v} for v in (None, [], 5, {}, {"kind": 5}, {"kind": "odd"}, {"kind": "fixed"}, "file")),
    *({"window": {"kind": "fixed", "low": a, "high": b}} for a, b in ((1, 0), ("0", 1), (math.nan, 1), (0, math.inf))),
    *({name: v} for name in ("mean", "std") for v in ("left out", None, 5, [], ["a"], [[0.5]], {"0": 0.5}, "abc")),
    *({name: [v]} for name in ("mean", "std") for v in (math.nan, math.inf, -math.inf, 1e39, 10**200, True, None)),
    *({"std": [v]} for v in (0, 0.0, -0.5, 1e-60)),
    {"mean": [0.5] * 2, "std": [0.5] * 3},
    {"mean": [0.5] * 2, "std": [0.5] * 2},
    *({"weights": v} for v in (5, [], "a", {"source": 5}, {"source": "a" * 10**6})),
]


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: str(change)[:60])
def test_settings_of_any_shape_give_one_error_that_names_the_file(file_of, change):
    path = file_of(**change)
    with pytest.raises(ValueError, match=r"a\.safetensors: ") as caught:
        load_model(path)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("change", [{"text": BRACKETS}, {"std": [0]}, {"classes": 5}, {"window": 5}, {"backbone": 5}])
def test_settings_are_checked_as_well_where_a_file_gives_only_its_weights(file_of, change):
    with pytest.raises(ValueError, match=r"a\.safetensors: "):
        start_from(file_of(**change))


def test_unknown_keys_are_tolerated(file_of, saved):
    path = file_of(later={"deep": [1, {"a": None}]}, window={"kind": "file", "low": None, "high": None, "later": 1})
    assert load_model(path).classes == ("normal", "cancer")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_settings_load_or_give_one_error(file_of, saved, data):
    own = json.loads(saved[1])
    target, key = own, data.draw(st.sampled_from(sorted(own)))
    while isinstance(target[key], (dict, list)) and target[key] and data.draw(st.booleans()):
        target = target[key]
        key = data.draw(st.sampled_from(sorted(target) if isinstance(target, dict) else range(len(target))))
    target[key] = data.draw(JSON)
    path = file_of(json.dumps(own))
    try:
        answer = load_model(path).predict(np.zeros((8, 8), np.uint8), device="cpu")[0]
    except ValueError as error:
        if not str(error).startswith(str(path)):
            raise
    else:
        assert answer.error is not None or torch.isfinite(answer.probabilities).all()


# Nothing is fetched for a file


@pytest.mark.parametrize(
    "name", ["hf-hub:org/x", "hf_hub:org/x", " HF-HUB:org/x", "local-dir:/etc", "https://a.b/c", "../x", "a/b", "", 5]
)
def test_a_file_cannot_have_a_model_fetched_or_looked_for(file_of, monkeypatch, name):
    def no_network(*args, **options):
        raise AssertionError("a file had the network called")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    path = file_of(backbone=["timm", {"model_name": name}])
    with pytest.raises(ValueError, match=r"a\.safetensors: .*may not say where to look.*load_model\(.*backbone=…\)"):
        load_model(path)
    with pytest.raises(ValueError, match=r"a\.safetensors: .*may not say where to look"):
        build_model("timm", "linear", classes=["a", "b"], weights=path)


def test_what_its_user_names_is_not_refused(tmp_path):
    path = build_model(
        "timm", "linear", classes=["a", "b"], image_size=64, backbone_options={"model_name": "resnet10t.c3_in1k"}
    ).save(tmp_path / "a.safetensors")
    assert isinstance(load_model(path).backbone, TimmBackbone)
    with pytest.raises(ValueError, match="timm has no feature maps for model_name='local-dir:/nowhere'"):
        build_model("timm", "linear", classes=["a", "b"], backbone_options={"model_name": "local-dir:/nowhere"})


# Not a number


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(
    "name", ["backbone.layers.0.0.weight", "backbone.layers.0.1.running_var", "head.layers.0.bias"]
)
def test_a_file_with_one_weight_that_is_not_finite_is_refused(saved, tmp_path, name, value):
    tensors = {key: tensor.clone() for key, tensor in saved[0].items()}
    tensors[name].view(-1)[-1] = value
    save_file(tensors, tmp_path / "a.safetensors", {"hccvision": saved[1]})
    for load in (load_model, start_from):
        with pytest.raises(ValueError, match=rf"a\.safetensors: the tensor {name} holds infinite numbers or NaN"):
            load(tmp_path / "a.safetensors")


def test_a_weight_that_overflows_when_loaded_is_refused(saved, tmp_path):
    name = "backbone.layers.0.0.weight"
    save_file({**saved[0], name: saved[0][name].double() * 1e300}, tmp_path / "a.safetensors", {"hccvision": saved[1]})
    with pytest.raises(ValueError, match=rf"the tensor {name} holds infinite"):
        load_model(tmp_path / "a.safetensors")


def test_foreign_weights_are_refused_only_for_the_tensors_that_are_used(saved, tmp_path):
    body = {key.removeprefix("backbone.").replace("layers.", "model."): value for key, value in saved[0].items()}
    body = {key: value for key, value in body.items() if key.startswith("model.")}
    save_file({**body, "fc.weight": torch.full((2, 2), torch.nan)}, tmp_path / "a.safetensors")
    assert start_from(tmp_path / "a.safetensors").weight_report.left_over == ("fc.weight",)
    save_file({**body, "model.0.0.weight": body["model.0.0.weight"] * torch.nan}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors: the tensor model\.0\.0\.weight holds"):
        start_from(tmp_path / "a.safetensors")


def test_a_detectors_file_as_well(tmp_path):
    path = detector().save(tmp_path / "a.safetensors")
    tensors, text = contents(path)
    tensors["head.default_boxes"][0, 0] = torch.nan
    save_file(tensors, path, {"hccvision": text})
    with pytest.raises(ValueError, match=r"the tensor head\.default_boxes holds"):
        load_model(path)


LARGE = [
    {"head": ["linear", {"hidden": [200_000, 200_000]}]},
    {"head": ["linear", {"hidden": [2**40]}]},
    {"backbone": ["mobilenet_v1", {"width": 40}]},
    {"backbone": ["mobilenet_v1", {"width": 0.1, "in_channels": 1000}], "image_size": [2048, 2048]},
]


@pytest.mark.skipif(sys.platform == "win32", reason="no peak of memory is told on Windows")
@pytest.mark.parametrize("change", LARGE, ids=lambda change: str(change)[:60])
def test_settings_far_larger_than_the_tensors_take_no_memory(file_of, change):
    import resource

    path = file_of(**change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"a\.safetensors: "):
        load_model(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB
