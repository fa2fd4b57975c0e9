"""The example scripts run as a user would run them, on a small phantom."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hccvision import images, phantom
from hccvision.annotations.voc_folder import read_voc_folder
from hccvision.model.build import build_model, load_model

ROOT = Path(__file__).parents[1]


def run(script: str, *arguments: object, cwd: Path) -> str:
    command = [sys.executable, str(ROOT / "examples" / script), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=300, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def liver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantom.write_dataset(tmp_path_factory.mktemp("phantom") / "liver", patients=6, slices=2, seed=1)


def test_the_quickstart_leaves_a_page_whose_pictures_are_all_there(tmp_path):
    printed = run("quickstart.py", "--patients", 10, "--epochs", 1, "--width", 0.25, cwd=tmp_path)
    out = tmp_path / "demo_output"
    page = (out / "index.html").read_text(encoding="utf-8")
    pictures = [part.split('"')[0] for part in page.split('src="')[1:]]
    assert len(pictures) == 5
    assert all((out / picture).stat().st_size > 0 for picture in pictures)
    assert "transferred the backbone that had just been trained for detection" in page
    for figure in ("voc_map", "sensitivity", "balanced_accuracy"):
        assert figure in printed
    assert json.loads((out / "detector" / "report" / "report.json").read_text())["images"] > 0


def test_the_quickstart_leaves_a_folder_of_the_user_alone(tmp_path):
    mine = tmp_path / "demo_output" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("ten years")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "quickstart.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "move it away first" in done.stderr
    assert mine.read_text() == "ten years"


def test_train_detector_trains_evaluates_and_saves(liver, tmp_path):
    arguments = [liver, "--patient", r"^(P\d+)_", "--epochs", 1, "--width", 0.25, "--run", tmp_path / "run"]
    printed = run("train_detector.py", *arguments, cwd=tmp_path)
    assert "voc_map" in printed
    assert {"best.safetensors", "history.csv", "curves.png", "report"} <= {p.name for p in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize(
    ("script", "saved"),
    [("own_loop.py", "own_loop.safetensors"), ("lightning_loop.py", "lightning_loop.safetensors")],
)
def test_a_loop_of_ones_own_trains_validates_and_saves(script, saved, tmp_path):
    if script == "lightning_loop.py":
        pytest.importorskip("pytorch_lightning")
    root = phantom.write_dataset(tmp_path / "liver", patients=5, slices=1, cancer_share=1.0, level="mild", seed=1)
    printed = run(script, root, "--patient", r"^(P\d+)_", "--epochs", 2, cwd=tmp_path)
    figures = re.findall(r"(?:validation mAP |voc_map +)(\d\.\d{4})", printed)
    assert len(figures) == (2 if script == "own_loop.py" else 1)  # after each epoch; at the end
    assert all(0 <= float(figure) <= 1 for figure in figures)
    model = load_model(tmp_path / saved)
    assert model.classes == ("hcc",)
    fresh = build_model("mobilenet_v1", "ssd", classes=["hcc"])
    assert not model.backbone.layers[0][0].weight.equal(fresh.backbone.layers[0][0].weight)


@pytest.mark.parametrize("script", ["own_loop.py", "lightning_loop.py"])
def test_a_loop_of_ones_own_is_at_most_25_lines(script):
    """Lines of code, without the docstring, blank lines and the parsing of arguments."""
    text = (ROOT / "examples" / script).read_text(encoding="utf-8")
    code = [
        node
        for node in ast.parse(text).body
        if not re.search(r"argparse|parser\.", ast.unparse(node))
        and not isinstance(getattr(node, "value", None), ast.Constant)
    ]
    lines = {line for node in code for line in range(node.lineno, node.end_lineno + 1)}
    assert sum(bool(text.splitlines()[line - 1].strip()) for line in lines) <= 25


def test_train_classifier_prints_pretrained_and_from_scratch_side_by_side(liver, tmp_path):
    for sample in read_voc_folder(liver):
        folder = tmp_path / "slices" / ("cancer" if sample.annotation else "normal")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / sample.path.name).write_bytes(sample.path.read_bytes())
    build_model("mobilenet_v1", "linear", classes=["a", "b"]).save(tmp_path / "pretrained.safetensors")
    printed = run(
        "train_classifier.py", tmp_path / "slices", "--positive", "cancer", "--backbone", "mobilenet_v1",
        "--weights", tmp_path / "pretrained.safetensors", "--folds", 2, "--epochs", 1, cwd=tmp_path,
    )  # fmt: skip
    heading = next(line for line in printed.splitlines() if "mean over folds" in line)
    assert "pretrained" in heading
    assert "from scratch" in heading
    assert sum(line.startswith("balanced_accuracy") for line in printed.splitlines()) == 1


def test_the_leakage_study_prints_a_table_and_a_picture_and_audits_each_way(tmp_path):
    printed = run(
        "leakage_study.py", "--phantom", "--quick", "--width", 0.25, "--out", tmp_path / "s.png", cwd=tmp_path
    )
    assert images.read_image(tmp_path / "s.png").shape[1] > 500
    assert re.findall(r"^([abc])\. .*%.*%.* pts$", printed, re.MULTILINE) == ["a", "b", "c"]
    first, second, third = re.split(r"\n[abc]\. ", printed)[1:4]
    assert "augmented siblings" in first
    assert "shared patients" in second
    assert "augmented siblings" not in second
    assert "no shared patient" in third
    assert [p.name for p in tmp_path.iterdir()] == ["s.png"]


def test_the_leakage_study_takes_a_folder_without_patients(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("no", "yes"):
        (tmp_path / "slices" / name).mkdir(parents=True)
        for i in range(12):
            level = 100 if name == "yes" else 60
            picture = Image.fromarray((rng.integers(0, level, (40, 40))).astype(np.uint8))
            picture.save(tmp_path / "slices" / name / f"{i}.png")
            picture.save(tmp_path / "slices" / name / f"{i} again.png")
    arguments = ["--folder", tmp_path / "slices", "--positive", "yes", "--quick", "--width", 0.25]
    printed = run("leakage_study.py", *arguments, cwd=tmp_path)
    first, second, third = re.split(r"\n[abc]\. ", printed)[1:4]
    assert "identical files" in first
    assert "identical files" in second
    assert "no shared patient" in third


def test_the_real_slice_of_the_demo_ships_inside_pydicom():
    from pydicom import examples

    assert images.read_image(Path(str(examples.get_path("overlay")))).shape == (300, 484, 3)
