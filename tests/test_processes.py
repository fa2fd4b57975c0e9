"""Distributed training: one script in one process and, under torchrun, in two gives the same curves and weights."""

import json
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from hccvision import phantom
from hccvision.training.processes import accelerator

PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from torch import nn
torch.set_num_threads(1)
import hccvision as hv

folder, runs = Path(sys.argv[1]), Path(sys.argv[2])
data = [
    hv.Sample(s.path, s.patient, "cancer" if s.names else "normal", s.annotation) for s in hv.read_voc_folder(folder)
]
for kind in ("detector", "classifier"):
    if kind == "detector":
        head, classes, options = "ssd", ["hcc"], {}
    else:
        head, classes, options = "linear", ["normal", "cancer"], {"hidden": (8,), "pool": "avg", "dropout": 0.0}
    model = hv.build_model(
        "mobilenet_v1", head, classes=classes, image_size=64, backbone_options={"width": 0.25}, seed=0,
        head_options=options,
    )
    norms = tuple(name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d))
    recipe = hv.Recipe(
        optimiser="sgd", learning_rate=1e-3, epochs=2, batch=5, augmentation="paper", frozen=norms, clip_norm=1.0,
        accumulate=2, ema=0.9, class_weights="balanced",
    )
    metrics = ["voc_map", "detection_counts"] if kind == "detector" else ["accuracy", "confusion"]
    history = hv.fit(model, data, data, recipe=recipe, run=runs / kind, device="cpu", metrics=metrics)
    print(f"{kind} rows {len(history)}")  # one write: torchrun's processes share an unbuffered pipe
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of two runs, by one process and by two, with what the processes printed."""
    folder = tmp_path_factory.mktemp("processes")
    phantom.write_dataset(folder / "liver", patients=4, slices=3, seed=0)
    (folder / "train.py").write_text(PROGRAM)

    def start(processes):
        launch = [] if processes == 1 else ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        runs = folder / str(processes)
        command = [sys.executable, *launch, str(folder / "train.py"), str(folder / "liver"), str(runs)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if "terminate called without an active exception" in done.stderr:  # torch's threads, once in many runs, at exit
            shutil.rmtree(runs)
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return runs, done.stdout

    return start(1), start(2)


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun with gloo is for POSIX systems here")
@pytest.mark.parametrize("kind", ["detector", "classifier"])
def test_two_processes_give_the_curve_and_the_weights_of_one(kind, runs):
    one, two = (folder / kind for folder, _ in runs)
    rows = [json.loads((run / "history.json").read_text())["epochs"] for run in (one, two)]
    assert len(rows[0]) == 2
    for mine, theirs in zip(*rows, strict=True):
        assert {k for k in mine if mine[k] is None} == {k for k in theirs if theirs[k] is None}  # undefined in both
        defined = [{k: v for k, v in row.items() if v is not None} for row in (mine, theirs)]
        assert defined[1] == pytest.approx(defined[0], rel=1e-5)
    for name in ("best.safetensors", "last.safetensors"):
        mine, theirs = load_file(one / name), load_file(two / name)
        assert max((mine[key] - theirs[key]).abs().max().item() for key in mine) < 1e-5
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun with gloo is for POSIX systems here")
def test_every_image_is_counted_once_and_only_the_first_process_writes_and_prints(runs):
    folder, said = runs[1]
    row = json.loads((folder / "classifier" / "history.json").read_text())["epochs"][-1]
    assert sum(row[f"val_{key}"] for key in ("tp", "fp", "fn", "tn")) == 12
    for kind in ("detector", "classifier"):
        assert said.count(f"{kind} rows 2") == 2
    assert said.count("epoch 1 ") == said.count("written to") == 2  # one for each kind


def test_one_card_for_several_processes_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="device='cuda:1' is one card, and each process needs its own"):
        accelerator("cuda:1")
