"""Speed of the detection metrics beside pycocotools and faster-coco-eval, and of a bootstrap of mAP.

python benchmarks/metrics.py            # about three minutes on two cores; needs pycocotools and faster-coco-eval
python benchmarks/metrics.py --quick    # smoke test; its numbers mean nothing

All get the same detections and must agree on the figure before they are timed, in turns. Each time is from boxes in
memory to the figure: pycocotools and faster-coco-eval start from their own dictionaries, built beforehand.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from low_end import describe, write

import hccvision as hv
from hccvision.metrics.coco import compute_coco_map
from hccvision.metrics.intervals import add_intervals
from hccvision.metrics.metric import compute_metrics, find_metrics
from hccvision.metrics.voc import compute_voc_map

CLASSES = ("hcc", "cyst", "haemangioma")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=20, help="per image")
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    if args.quick:
        args.images, args.resamples, args.repeats = 60, 20, 1
    predictions, truths, patients = cases(args.images, args.detections)
    rows = compare(predictions, truths, args)
    count = min(500, args.images)
    seconds = bootstrap(predictions[:count], truths[:count], patients[:count], args.resamples)
    rows.append({"task": f"{args.resamples} resamples of VOC mAP, {count} images", "seconds": {"hccvision": seconds}})
    result = {
        "machine": describe(), "date": date.today().isoformat(), "images": args.images, "detections": args.detections,
        "rows": rows,
    }  # fmt: skip
    name = "-".join("".join(c if c.isalnum() else " " for c in result["machine"]["cpu"].lower()).split()[:2])
    write(args.out / f"metrics-{name}.json", json.dumps(result, indent=1) + "\n")
    text = page(args.out)
    write(args.out / "metrics.md", text)
    print(text)


def cases(images: int, detections: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Return detections around some of the truths, and others at random."""
    rng = np.random.default_rng(0)
    predictions, truths = [], []
    for _ in range(images):
        n = int(rng.integers(0, 6))
        corner = rng.uniform(0, 400, (n, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(10, 120, (n, 2))], 1)
        labels = rng.integers(0, len(CLASSES), n)
        near = rng.integers(0, n, detections // 2) if n else np.zeros(0, int)
        rest = rng.uniform(0, 400, (detections - len(near), 2))
        found = np.concatenate([boxes[near] + rng.normal(0, 6, (len(near), 4)), np.concatenate([rest, rest + 40], 1)])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        classes = np.concatenate([labels[near], rng.integers(0, len(CLASSES), len(rest))])
        predictions.append({"boxes": found, "scores": rng.random(len(found)), "labels": classes})
        truths.append({"boxes": boxes, "labels": labels, "size": (520, 520)})
    return predictions, truths, [f"P{i // 5}" for i in range(images)]


def compare(predictions: list[Any], truths: list[Any], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time COCO's mAP of all, and VOC's beside it."""
    ground, results = coco_documents(predictions, truths)
    calls: dict[str, Callable[[], float]] = {
        "hccvision": lambda: float(compute_coco_map(hv.Comparison(predictions, truths, classes=CLASSES))["map"])
    }
    for name, module, classes in (
        ("pycocotools", "pycocotools", ("coco.COCO", "cocoeval.COCOeval")),
        ("faster-coco-eval", "faster_coco_eval", ("COCO", "COCOeval_faster")),
    ):
        if importlib.util.find_spec(module) is None:
            print(f"not measured: {name} is not installed")
            continue
        calls[name] = peer(module, classes, ground, results)
    values = {name: call() for name, call in calls.items()}
    if max(values.values()) - min(values.values()) > 1e-9:
        sys.exit(f"the figures differ: {values}")
    voc = {"hccvision": lambda: float(compute_voc_map(hv.Comparison(predictions, truths, classes=CLASSES))["voc_map"])}
    if "pycocotools" in calls:
        voc["pycocotools (COCO mAP)"] = calls["pycocotools"]
    return [
        {"task": "COCO mAP", "value": values["hccvision"], "seconds": timed(calls, args.repeats)},
        {"task": "VOC mAP", "value": voc["hccvision"](), "seconds": timed(voc, args.repeats)},
    ]


def peer(module: str, classes: tuple[str, str], ground: dict[str, Any], results: list[Any]) -> Callable[[], float]:
    """Return COCO's mAP by another program."""
    found = []
    for name in classes:
        *package, attribute = name.split(".")
        found.append(getattr(importlib.import_module(".".join([module, *package])), attribute))
    dataset, evaluator = found

    def call() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = dataset()
            truth.dataset = json.loads(json.dumps(ground))
            truth.createIndex()
            evaluation = evaluator(truth, truth.loadRes([dict(r) for r in results]), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return float(evaluation.stats[0])

    return call


def coco_documents(predictions: list[Any], truths: list[Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    annotations, results = [], []
    for image, (prediction, truth) in enumerate(zip(predictions, truths, strict=True), start=1):
        for box, label in zip(truth["boxes"], truth["labels"], strict=True):
            x1, y1, x2, y2 = map(float, box)
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image, "category_id": int(label) + 1, "iscrowd": 0,
                    "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
                }
            )  # fmt: skip
        for box, score, label in zip(*(prediction[k] for k in ("boxes", "scores", "labels")), strict=True):
            x1, y1, x2, y2 = map(float, box)
            results.append(
                {
                    "image_id": image,
                    "category_id": int(label) + 1,
                    "score": float(score),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                }
            )
    images = [{"id": i + 1, "width": 520, "height": 520} for i in range(len(truths))]
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}, results


def timed(calls: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def bootstrap(predictions: list[Any], truths: list[Any], patients: list[str], resamples: int) -> float:
    """Return the seconds that an interval of VOC's mAP takes, matching included."""
    start = time.perf_counter()
    comparison = hv.Comparison(predictions, truths, classes=CLASSES, patients=patients)
    metrics = find_metrics(["voc_map"], "detection")
    add_intervals(metrics, comparison, compute_metrics(metrics, comparison), resamples=resamples)
    return time.perf_counter() - start


def page(folder: Path) -> str:
    """Return all results in a folder as one Markdown page."""
    parts = [
        "# Detection metrics beside their peers",
        "Made by `benchmarks/metrics.py`. Median seconds; in brackets the time divided by ours. All agree on the "
        "figure.",
    ]
    for path in sorted(folder.glob("metrics-*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        machine = result["machine"]
        facts = ", ".join(f"{k.removesuffix('_gb')} {v}{' GB' * k.endswith('_gb')}" for k, v in machine.items())
        parts += [
            f"## {machine['cpu']}, {result['date']}",
            f"{facts}; {result['images']} images with {result['detections']} detections each.",
        ]
        for row in result["rows"]:
            ours = row["seconds"]["hccvision"]
            others = "".join(
                f"; {name} {s:.2f} s ({s / ours:.1f}×)" for name, s in row["seconds"].items() if name != "hccvision"
            )
            parts.append(f"- {row['task']}: hccvision {ours:.2f} s{others}")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
