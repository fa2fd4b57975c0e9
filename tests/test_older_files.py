"""Files made by hccvision before its parts became pluggable still load: models, a run folder, a split."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import hccvision as hv

OLD = Path(__file__).parent / "fixtures" / "v0_1"


@pytest.fixture(scope="module")
def data() -> list[hv.Sample]:
    return hv.read_voc_folder(OLD / "data", patient=r"^(P\d+)_")


@pytest.fixture
def one_thread():
    """Train on one thread, as the fixtures were made: sums over more round differently, and training amplifies that."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["detector", "classifier", "multilabel"])
def test_a_model_file_loads_and_predicts_as_it_did(name, data):
    expected = json.loads((OLD / "expected_predictions.json").read_text())[name]
    (found,) = hv.predict(hv.load_model(OLD / f"{name}.safetensors"), [data[0].path], device="cpu")
    if found.detections is None:
        torch.testing.assert_close(found.probabilities, torch.tensor(expected), rtol=0, atol=1e-6)
    else:
        for key, value in found.detections.as_dict().items():
            torch.testing.assert_close(value, torch.tensor(expected[key]).to(value.dtype), rtol=1e-5, atol=1e-4)


def test_a_split_loads(data):
    parts = hv.load_split(OLD / "split.json", data)
    assert [len(part) for part in parts] == [4, 2, 2]
    assert parts == hv.split(data, (0.5, 0.25, 0.25), seed=0)


def test_a_run_stopped_in_the_middle_of_an_epoch_resumes_to_the_same_weights(data, tmp_path, one_thread):
    """On the CPU that made the fixtures the weights are equal bit by bit; other CPUs round differently.

    The tolerance is seven times what two threads instead of one change, and a fifth of what a resume without momentum,
    average, random numbers or the step changes.
    """
    shutil.copytree(OLD / "run", tmp_path / "run")
    train, val, _ = hv.load_split(OLD / "split.json", data)
    settings = json.loads((OLD / "run" / "run.json").read_text())["model"]
    model = hv.build_model(
        "mobilenet_v1",
        "ssd",
        classes=["hcc"],
        image_size=96,
        seed=1,
        backbone_options=settings["backbone"][1],
        head_options=settings["head"][1],
    )
    recipe = replace(hv.recipes.paper_ssd(), epochs=4, batch=2, ema=0.9)
    history = hv.fit(model, train, val, recipe=recipe, run=tmp_path / "run", resume=True, device="cpu")
    before = json.loads((OLD / "expected_history.json").read_text())
    assert (len(history), history.best) == (len(before["epochs"]), before["best"])
    for row, old in zip(history, before["epochs"], strict=True):
        assert row == pytest.approx(old, rel=5e-3, nan_ok=True)
    last, expected = load_file(tmp_path / "run" / "last.safetensors"), load_file(OLD / "expected_last.safetensors")
    assert last.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(last[name], tensor, rtol=0, atol=4e-3)
