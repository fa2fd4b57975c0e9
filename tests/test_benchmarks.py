"""Benchmarks: they run, write their results, and write nothing that identifies the machine's owner."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "low_end.py"


@pytest.fixture(scope="module")
def low_end() -> ModuleType:
    spec = importlib.util.spec_from_file_location("low_end", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_quick_run_measures_and_writes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--out", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("low_end-cpu-*.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    assert [row["work"] for row in result["rows"]] == [
        "training, convolutions frozen",
        "inference",
        "whole recipe, fp32",
    ]
    for row in result["rows"]:
        assert row["images_per_second"] == pytest.approx(row["batch"] / row["ms_median"] * 1e3, rel=0.05)
        assert row["ms_median"] <= row["ms_p95"]
        assert row["peak_mb"] > row["before_model_mb"] > 50
    assert ("no CUDA device" in done.stdout) == (result["machine"]["card"] is None)
    assert "add this row" in done.stdout
    page = (tmp_path / "low_end.md").read_text(encoding="utf-8")
    assert "MobileNetV1-SSD300 | inference | 1 | 1 thread" in page
    assert set(result["machine"]) == {"cpu", "cores", "threads", "ram_gb", "torch", "card", "card_gb"}
    assert str(SCRIPT.parents[1]) not in path.read_text(encoding="utf-8") + page


def test_cases_are_both_models_in_training_and_inference(low_end: ModuleType) -> None:
    works = {(model, work.split(",")[0]) for model, work, _ in low_end.CASES}
    kinds = ("training", "inference", "whole recipe")
    assert works == {(model, work) for model in low_end.MODELS for work in kinds}
    assert {work[-4:] for _, work, _ in low_end.CASES if "recipe" in work} == {"fp32", "bf16", "fp16"}
    assert {model: batch for model, work, batch in low_end.CASES if "all layers" in work} == {
        "VGG-16": 8,
        "MobileNetV1-SSD300": 5,
    }


def test_steps_are_timed_for_long_enough(low_end: ModuleType) -> None:
    steps: list[int] = []
    times = low_end.timed(lambda: steps.append(1), 0.0, least=4)
    assert (len(times), len(steps)) == (4, 5)  # one is a warm-up
    assert sum(low_end.timed(lambda: None, 0.01, least=1)) >= 0.01


def test_page_of_a_capped_card_names_the_card_whose_speed_it_is(low_end: ModuleType, tmp_path: Path) -> None:
    row = {"model": "VGG-16", "work": "inference", "batch": 8, "device": "cuda", "threads": 2}
    limits = {"fits": True, "capped": True, "limit_gb": 2.0, "context_mb": 300}
    figures = {"images_per_second": 900.0, "ms_median": 8.9, "ms_p95": 9.0, "repeats": 99, "peak_mb": 700}
    machine = {"cpu": "a processor", "card": "Big Card 80", "card_gb": 80.0, "torch": "2.9.0"}
    rows = [row | limits | figures, row | limits | {"fits": False}]
    result = {"date": "2026-01-01", "machine": machine, "rows": rows}
    low_end.write(tmp_path / "low_end-cuda-big-card.json", json.dumps(result))
    page = low_end.page(tmp_path)
    assert "## Big Card 80, 2026-01-01" in page
    assert "fits in 2 GB (speed is that of Big Card 80)" in page
    assert "not how fast a small card is" in page
    assert "| VGG-16 | inference | 8 | CUDA | 900.0 | 8.9 | – | 700 | yes |" in page
    assert "| VGG-16 | inference | 8 | CUDA | – | – | – | – | no |" in page


def test_failed_write_leaves_the_old_file(low_end: ModuleType, tmp_path: Path) -> None:
    path = low_end.write(tmp_path / "low_end.md", "old")
    with pytest.raises(UnicodeEncodeError):
        low_end.write(path, "\ud800")
    assert path.read_text(encoding="utf-8") == "old"


# the detection core


def test_quick_run_of_the_detection_core_agrees_with_torchvision(tmp_path: Path) -> None:
    script = SCRIPT.with_name("detection_core.py")
    command = [sys.executable, str(script), "--quick", "--threads", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pytorch-ssd was not given" in done.stdout
    (path,) = tmp_path.glob("detection_core-*.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    tasks = [row["task"] for row in result["rows"]]
    assert tasks == ["matching", "post-processing", "suppression", "loss, forward", "loss, forward and backward"]
    for row in result["rows"]:
        assert set(row["ms"]) == {"hccvision", "torchvision"}
        assert row["agreement"]["torchvision"] > 0.99
        assert row["times_as_fast"]["torchvision"] == pytest.approx(
            row["ms"]["torchvision"] / row["ms"]["hccvision"], rel=0.02, abs=0.01
        )
    page = (tmp_path / "detection_core.md").read_text(encoding="utf-8")
    assert page.count("not given |") == len(tasks)
    assert result["machine"]["threads used"] == 1
    assert str(SCRIPT.parents[1]) not in path.read_text(encoding="utf-8") + page


def test_a_wrong_checkout_of_pytorch_ssd_is_said_so(tmp_path: Path) -> None:
    script = SCRIPT.with_name("detection_core.py")
    done = subprocess.run(
        [sys.executable, str(script), "--quick", "--pytorch-ssd", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "is no checkout of github.com/qfgaohao/pytorch-ssd" in done.stderr


SIZES = SCRIPT.with_name("lesion_sizes.py")


def test_lesion_sizes_counts_what_default_boxes_reach(tmp_path: Path) -> None:
    command = [sys.executable, str(SIZES), "--phantom", "--patients", "6", "--coverage", "--out", str(tmp_path)]
    command += ["--rounds", "1", "--width", "0.1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "default_box_coverage.json").read_text("utf-8"))
    rows = results["phantom (mild)"]["result"]
    assert all(cost["predict_ms"] > 0 and cost["train_ms"] > 0 for cost in results["cost"]["result"].values())
    assert rows["ssd300_mobilenet"]["boxes"] == 3000
    assert rows["ssd300_mobilenet"]["reached"] < rows["lesion"]["reached"] <= rows["lesion"]["lesions"]
    assert rows["suggest"]["reached"] > rows["ssd300_mobilenet"]["reached"]
    page = (tmp_path / "default_box_coverage.md").read_text(encoding="utf-8")
    assert f"| lesion | {rows['lesion']['boxes']} |" in page


@pytest.mark.slow
def test_lesion_sizes_cross_validates_and_resumes_after_finished_folds(tmp_path: Path) -> None:
    command = [
        sys.executable, str(SIZES), "--phantom", "--patients", "4", "--default-boxes", "lesion", "--epochs", "1",
        "--folds", "2", "--width", "0.1", "--threads", "1", "--work", str(tmp_path / "work"), "--out", str(tmp_path),
    ]  # fmt: skip
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "epoch" not in done.stdout  # the second run found both folds finished
    assert len(list((tmp_path / "work").glob("*.pt"))) == 2
    (entry,) = json.loads((tmp_path / "lesion_sizes.json").read_text("utf-8")).values()
    sizes = entry["result"]["by size"]
    assert sum(v for k, v in sizes.items() if k.startswith("lesions/")) > 0
    assert str(SCRIPT.parents[1]) not in (tmp_path / "lesion_sizes.json").read_text("utf-8")
    assert "phantom (mild), lesion, light" in (tmp_path / "lesion_sizes.md").read_text(encoding="utf-8")


def run(script: str, *args: str) -> str:
    command = [sys.executable, str(SCRIPT.with_name(script)), *args]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_reading_of_annotations_is_measured(tmp_path: Path) -> None:
    output = run("annotations.py", "--files", "5", "--out", str(tmp_path))
    (path,) = tmp_path.glob("annotations-*.json")
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert {"xml.etree, tree only", "hv.voc.read", "hv.read_voc_folder, with image sizes"} <= {
        r["reader"] for r in rows
    }
    assert all(row["files"] == 5 and row["seconds"] > 0 for row in rows)
    assert (tmp_path / "annotations.md").read_text(encoding="utf-8") in output
    assert str(SCRIPT.parents[1]) not in path.read_text(encoding="utf-8")


ALL_READERS = ["xml", "coco", "yolo", "dicom", "picture", "nifti", "mask", "model", "weights", "manifest"]


@pytest.mark.parametrize("readers", [["xml", "picture", "model"], pytest.param(ALL_READERS, marks=pytest.mark.slow)])
def test_the_fuzzer_finds_nothing_in_a_moment(readers: list[str], tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    output = run("fuzz.py", "--seconds", "0.5", "--keep", str(tmp_path / "kept"), "--readers", *readers)
    results = [json.loads(line) for line in output.splitlines()]
    assert [result["reader"] for result in results] == readers
    for result in results:
        assert result["findings"] == {}
        assert result["executions"] == sum(result["outcomes"].values()) > 0
    assert not (tmp_path / "kept").exists()


def quick_run(name: str, folder: Path, *more: str) -> dict:
    """Run a benchmark's smoke test and return its results."""
    command = [sys.executable, str(SCRIPT.parent / f"{name}.py"), "--quick", "--out", str(folder), *more]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob(f"{name}-*.json")
    text = path.read_text(encoding="utf-8")
    assert str(SCRIPT.parents[1]) not in text + (folder / f"{name}.md").read_text(encoding="utf-8")
    return json.loads(text)


def test_a_training_step_is_timed_with_and_without_a_tuned_allocator(tmp_path: Path) -> None:
    rows = quick_run("training", tmp_path)["rows"]
    assert [row["contender"] for row in rows] == ["hccvision", "hccvision, allocator tuned"]
    assert all(row["images_per_second"] > 0 for row in rows)
    assert "| 2 |" in (tmp_path / "training.md").read_text(encoding="utf-8")


def test_augmentation_is_timed_beside_kornia_and_torchvision(tmp_path: Path) -> None:
    (row,) = quick_run("augment", tmp_path)["rows"]
    assert {"hccvision", "kornia", "torchvision v2"} <= set(row["images_per_second"])
    assert "ours over kornia" in (tmp_path / "augment.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_feature_cache_is_timed_and_cross_validated(tmp_path: Path) -> None:
    rows = quick_run("feature_cache", tmp_path)
    assert list(rows) == ["VGG-16, random weights, batch 4"]
    for number in range(8):
        for name, level in (("no", 60), ("yes", 200)):
            (tmp_path / "slices" / name).mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, level, (32, 32), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "slices" / name / f"{name}{number}.png")
    options = ["--folds", "2", "--epochs", "1", "--views", "2", "--pool", "avg", "--hidden", "8"]
    options += ["--uncached-epochs", "1", "--group", "none"]
    rows = quick_run("feature_cache", tmp_path, str(tmp_path / "slices"), *options)
    assert len(rows) == 3
    for key in list(rows)[1:]:
        assert 0 <= rows[key]["balanced accuracy"] <= 1
        assert len(rows[key]["folds"]) == 2


def test_the_metrics_agree_with_their_peers_and_are_timed(tmp_path: Path) -> None:
    script = SCRIPT.with_name("metrics.py")
    done = subprocess.run(
        [sys.executable, str(script), "--quick", "--out", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("metrics-*.json")
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert [row["task"].split(",")[0] for row in rows] == ["COCO mAP", "VOC mAP", "20 resamples of VOC mAP"]
    assert "pycocotools" in rows[0]["seconds"]
    assert "pycocotools" in (tmp_path / "metrics.md").read_text(encoding="utf-8")
