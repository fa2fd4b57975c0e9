"""Manifests, recipes, run folders and states of any shape: one ValueError that names the file."""

import json
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_trainings import classifier, write_slices

from hccvision.data.manifest import load_split, save_split
from hccvision.documents import parse_document, read_document
from hccvision.recipes import Recipe
from hccvision.training.engine import fit

TEXTS = ["", "{}", "[]", "5", "null", '"a"', "NaN", "{", "[" * 100_000, '{"a":' * 100_000, "9" * 5000, "1e999", "\x00"]
RECIPE = Recipe(optimiser="sgd", learning_rate=1e-3, epochs=1, batch=4)


@pytest.fixture
def data(tmp_path):
    return write_slices(tmp_path / "data", 4)


@pytest.fixture
def run(data, tmp_path):
    fit(classifier(), data, recipe=RECIPE, run=tmp_path / "run", device="cpu")
    return tmp_path / "run"


def resume(run, data):
    return fit(classifier(), data, recipe=RECIPE, run=run, resume=True, device="cpu")


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:8] or "empty")
def test_documents(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    if text == "{}":
        assert read_document(path) == {}
        return
    with pytest.raises(ValueError, match=r"a\.json: (not a JSON document|expected a JSON object|its JSON is nested)"):
        read_document(path)


def test_undecodable_bytes_and_depth(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match=r"a\.json: not a JSON document"):
        read_document(tmp_path / "a.json")
    assert parse_document('{"a":' * 30 + "1" + "}" * 30, "a")
    with pytest.raises(ValueError, match="a: its JSON is nested deeper than 32 levels"):
        parse_document('{"a":' * 40 + "1" + "}" * 40, "a")


ODD = (None, 5, "a", [], {}, [5], [None], {"a": 5}, math.nan, True)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:8] or "empty")
def test_manifests_of_other_shapes(tmp_path, data, text):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(ValueError, match=r"split\.json: not a split saved by save_split \(.*\): split the data again"):
        load_split(tmp_path / "split.json", data)


@pytest.mark.parametrize("value", ODD, ids=str)
@pytest.mark.parametrize("where", [["format"], ["parts"], ["parts", "train"], ["parts", "train", "files"]])
def test_manifests_with_other_values(tmp_path, data, where, value):
    path = save_split([data[:2], data[2:]], tmp_path / "split.json")
    document = target = json.loads(path.read_text())
    for key in where[:-1]:
        target = target[key]
    target[where[-1]] = value
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"split\.json: "):
        load_split(path, data)


@pytest.mark.parametrize("value", ODD, ids=str)
@pytest.mark.parametrize("key", ["image", "sha256", "class_name", "patient", "annotation"])
def test_manifests_with_other_entries(tmp_path, data, key, value):
    path = save_split([data[:2], data[2:]], tmp_path / "split.json")
    document = json.loads(path.read_text())
    document["parts"]["test"]["files"][0][key] = value
    path.write_text(json.dumps(document))
    try:
        load_split(path, data)
    except ValueError as error:
        if not str(error).startswith(f"{path}: "):
            raise


@pytest.mark.parametrize("name", ["recipe.json", "run.json", "split.json"])
@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:8] or "empty")
def test_run_folders_with_other_files(run, data, name, text):
    (run / name).write_text(text)
    if (name, text) == ("recipe.json", "{}"):  # a recipe of defaults
        with pytest.raises(ValueError, match="this run has another recipe"):
            resume(run, data)
        return
    with pytest.raises(ValueError, match=rf"{name}: "):
        resume(run, data)


@pytest.mark.parametrize("value", ODD, ids=str)
@pytest.mark.parametrize("key", ["model", "optimiser", "history", "best", "step", "random"])
def test_states_of_other_shapes(run, data, key, value):
    state = torch.load(run / "state.pt", weights_only=True)
    torch.save({**state, key: value}, run / "state.pt")
    (run / "state.previous.pt").unlink(missing_ok=True)
    if (key, value) in (("best", None), ("step", 5), ("random", [5]), ("random", [None]), ("random", [])):
        return
    with pytest.raises(ValueError, match=r"state\.pt: "):
        resume(run, data)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02.", b"hello", b"\x80\x02]q\x00."])
def test_what_is_no_state(run, data, content):
    (run / "state.pt").write_bytes(content)
    (run / "state.previous.pt").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"state\.pt: can't be read"):
        resume(run, data)


def test_a_best_model_of_another_shape_is_refused_before_the_work(run, data):
    tensors = load_file(run / "best.safetensors")
    key = "head.layers.0.bias"
    for changed in ({}, {key: torch.zeros(3)}, {key: tensors[key] * torch.nan}):
        save_file({**{k: v for k, v in tensors.items() if k != key}, **changed}, run / "best.safetensors")
        with pytest.raises(ValueError, match=r"best\.safetensors: (its tensors are not|the tensor .* holds infinite)"):
            resume(run, data)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(sorted(Recipe.__dataclass_fields__)), value=VALUES)
def test_recipes_of_a_file_are_good_or_one_error(name, value):
    try:
        Recipe(**{name: value})
    except ValueError as error:
        assert len(str(error)) < 2000  # noqa: PT017
