"""Which default boxes and which augmentation find small lesions? Cross-validated, by lesion size, with intervals.

python benchmarks/lesion_sizes.py slices/ --weights mobilenet_v1.safetensors       # a folder of LabelImg annotations
python benchmarks/lesion_sizes.py --phantom --weights mobilenet_v1.safetensors     # synthetic liver MR
python benchmarks/lesion_sizes.py slices/ more/ --phantom --coverage               # no training: what boxes can reach

MobileNetV1-SSD300 is trained with the paper's recipe once per fold and contender; a contender is a set of default boxes
with an augmentation. Folds are grouped by patient (--patient), or else by identical file; predictions of all folds are
pooled, so each lesion counts once. Finished folds are kept in --work and not trained again.
"""

import argparse
import itertools
import json
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from low_end import describe, write

import hccvision as hv
from hccvision.annotations.problems import usable
from hccvision.tasks.task import task_of

FIGURES = ("mAP@0.5", "COCO mAP")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="of LabelImg annotations, each with all its images")
    parser.add_argument("--phantom", action="store_true", help="also use a synthetic data set")
    parser.add_argument("--patients", type=int, default=40, help="of the phantom")
    parser.add_argument("--level", default="mild", help="of the phantom's difficulty: mild, medium or hard")
    parser.add_argument("--patient", help="regular expression that finds the patient in a file name")
    parser.add_argument("--weights", help="file of MobileNetV1 weights")
    parser.add_argument("--default-boxes", nargs="+", default=["ssd300_mobilenet", "lesion"])
    parser.add_argument("--augmentation", nargs="+", default=["light"])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="of torch; one each lets two of these run side by side")
    parser.add_argument("--coverage", action="store_true", help="only compute which lesions each set can reach")
    parser.add_argument("--rounds", type=int, default=15, help="of the timing done with --coverage")
    parser.add_argument(
        "--work", type=Path, default=Path("runs") / "lesion_sizes", help="where finished folds are kept"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    args = parser.parse_args()
    if not args.folders and not args.phantom:
        parser.error("give folders of annotations, or --phantom, or both")
    if args.threads:
        torch.set_num_threads(args.threads)

    if args.coverage:
        record(args.out / "default_box_coverage.json", "cost", cost(args))
    for name, data in sets(args):
        if args.coverage:
            record(args.out / "default_box_coverage.json", name, coverage(data))
            continue
        for boxes, augmentation in itertools.product(args.default_boxes, args.augmentation):
            result = cross_validate(name, data, boxes, augmentation, args)
            record(args.out / "lesion_sizes.json", f"{name}, {boxes}, {augmentation}", result)
    for kind in ("default_box_coverage", "lesion_sizes"):
        if (args.out / f"{kind}.json").exists():
            print(f"\n{write(args.out / f'{kind}.md', page(args.out / f'{kind}.json')).read_text(encoding='utf-8')}")


def sets(args: argparse.Namespace) -> list[tuple[str, list[hv.Sample]]]:
    """Read the folders and create the phantom."""
    found = []
    for folder in args.folders:
        found.append((folder.name, usable(hv.read_voc_folder(folder, patient=args.patient), "skip")))
    if args.phantom:
        root = Path(tempfile.mkdtemp()) / "liver"
        hv.phantom.write_dataset(root, patients=args.patients, seed=args.seed, cancer_share=0.7, level=args.level)
        found.append((f"phantom ({args.level})", hv.read_voc_folder(root, patient=root / "patients.csv")))
    return found


def truth_boxes(data: Sequence[hv.Sample]) -> torch.Tensor:
    """Return all boxes, (N, 4) xyxy in fractions of the image sides."""
    shares = [torch.zeros(0, 4)]
    for sample in data:
        if sample.annotation is not None and len(sample.annotation):
            height, width = sample.annotation.size or hv.images.image_size(sample.path)
            shares.append(torch.from_numpy(sample.annotation.boxes) / torch.tensor([width, height, width, height]))
    return torch.cat(shares)


def coverage(data: Sequence[hv.Sample]) -> dict[str, Any]:
    """Count the lesions that reach IoU 0.5 with a default box, for every preset and for a set fitted to the data."""
    truths = truth_boxes(data)
    rows = {}
    for name in hv.default_boxes.PRESETS:
        side = 512 if name == "ssd512" else 300
        boxes = hv.default_boxes.generate(name, (side, side))
        rows[name] = (len(boxes), hv.default_boxes.coverage(boxes, truths))
    suggestion = hv.default_boxes.suggest(truths)
    rows["suggest"] = (len(hv.default_boxes.generate(suggestion.spec)), suggestion.after)
    return {
        name: {"boxes": count, "reached": c.reached, "lesions": c.count, "bins": c.bins}
        for name, (count, c) in rows.items()
    }


def cost(args: argparse.Namespace) -> dict[str, Any]:
    """Time MobileNetV1-SSD with every preset, in turns: prediction of one image, and a training step of five."""
    models, rows = {}, {}
    for name in hv.default_boxes.PRESETS:
        options = {"default_boxes": name, "prior": 0.001}  # like a trained head, it calls most boxes background
        side = 512 if name == "ssd512" else 300
        model = hv.build_model(
            "mobilenet_v1", "ssd", classes=["hcc"], image_size=side, head_options=options,
            backbone_options={"width": args.width},
        )  # fmt: skip
        models[name] = model.to(memory_format=torch.channels_last)
        rows[name] = {"boxes": len(model.head.default_boxes), "predict": [], "train": []}
    lesion = torch.tensor([[100.0, 100.0, 160.0, 150.0]])
    targets = hv.Targets.pad([lesion] * 5, [torch.zeros(1)] * 5)
    for _ in range(args.rounds + 1):
        for name, model in models.items():
            images = torch.rand(5, 3, *model.image_size).contiguous(memory_format=torch.channels_last)
            start = time.perf_counter()
            with torch.inference_mode():
                model.eval().decode(model(images[:1]))
            middle = time.perf_counter()
            model.train().loss(model(images), targets)["loss"].backward()
            rows[name]["predict"].append(1e3 * (middle - start))
            rows[name]["train"].append(1e3 * (time.perf_counter() - middle) / 5)
    return {
        name: {
            "boxes": row["boxes"],
            "predict_ms": statistics.median(row["predict"][1:]),  # the first one is a warm-up
            "train_ms": statistics.median(row["train"][1:]),
            "threads": torch.get_num_threads(),
        }
        for name, row in rows.items()
    }


def cross_validate(
    name: str, data: list[hv.Sample], boxes: str, augmentation: str, args: argparse.Namespace
) -> dict[str, Any]:
    """Train on every fold, and score the pooled predictions of the held-out parts."""
    patients = all(s.patient is not None for s in data)
    folds = hv.folds(data, args.folds, group="patient" if patients else "duplicate", seed=args.seed)
    classes = sorted({n for s in data for n in s.names})
    predictions: list[dict[str, Any]] = []
    truths: list[dict[str, Any]] = []
    seconds = 0.0
    for number, (train, test) in enumerate(folds):
        key = f"{name}-{boxes}-{augmentation}-{args.epochs}-{args.width:g}-{args.seed}-{number}of{args.folds}"
        kept = args.work / f"{key}.pt"
        model = hv.build_model(
            "mobilenet_v1", "ssd", classes=classes, weights=args.weights, seed=args.seed,
            backbone_options={"width": args.width}, head_options={"default_boxes": boxes},
        )  # fmt: skip
        if not kept.exists():
            start = time.perf_counter()
            recipe = replace(hv.recipes.paper_ssd(), epochs=args.epochs, augmentation=augmentation, seed=args.seed)
            hv.fit(model, train, recipe=recipe)
            found = [p.detections.as_dict() for p in hv.predict(model, [s.path for s in test])]
            kept.parent.mkdir(parents=True, exist_ok=True)
            unfinished = kept.with_suffix(".tmp")
            torch.save({"found": found, "seconds": time.perf_counter() - start}, unfinished)
            unfinished.replace(kept)
        saved = torch.load(kept, weights_only=True)
        predictions += saved["found"]
        truths += [task_of(model).truth(sample) for sample in test]
        seconds += saved["seconds"]
        print(f"{key}: {hv.metrics.detection.voc_map(predictions, truths, classes=classes)}", flush=True)
    voc = hv.metrics.detection.voc_map(predictions, truths, classes=classes)
    coco = hv.metrics.detection.coco_map(predictions, truths, classes=classes)
    by_size = hv.metrics.detection.sensitivity_by_size(predictions, truths, classes=classes)
    return {
        "mAP@0.5": voc["voc_map"],
        "COCO mAP": coco["map"],
        "by size": {name: figure for name, figure in by_size.items() if not math.isnan(figure)},
        "minutes": seconds / 60,
        "epochs": args.epochs,
        "weights": Path(args.weights).name if args.weights else "random",
        "width": args.width,
        "threads": torch.get_num_threads(),
    }


def record(path: Path, key: str, result: dict[str, Any]) -> None:
    """Add a result to those in a file."""
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    results[key] = {"date": str(date.today()), "machine": describe(), "result": result}
    write(path, json.dumps(results, indent=2) + "\n")


def page(path: Path) -> str:
    """Return all results in a file as one Markdown page."""
    results = json.loads(path.read_text(encoding="utf-8"))
    covered = path.stem == "default_box_coverage"
    title = "Which lesions default boxes can reach" if covered else "Sensitivity by lesion size"
    parts = [f"# {title}", "Made by `benchmarks/lesion_sizes.py`. Sizes are the square root of the share of the area."]
    if covered:
        costs = results["cost"]["result"]
        table = [["default boxes", "number", "predict, ms", "train, ms"], ["---"] * 4]
        for name, row in costs.items():
            table.append([name, str(row["boxes"]), f"{row['predict_ms']:.1f}", f"{row['train_ms']:.1f}"])
        parts += [
            "Milliseconds an image of MobileNetV1-SSD at 300 pixels (`ssd512`: 512): prediction of one, and forward, "
            f"loss and backward of five, on {costs['lesion']['threads']} threads, all sets in turns.",
            lines(table),
        ]
        for key, entry in results.items():
            if key == "cost":
                continue
            rows = entry["result"]
            bins = [f"{100 * a:g}-{100 * b:g} %" for a, b, _, _ in next(iter(rows.values()))["bins"]]
            table = [["default boxes", "number", "all", *bins], ["---"] * (3 + len(bins))]
            for name, row in rows.items():
                cells = [f"{reached} / {count}" for _, _, reached, count in row["bins"]]
                share = f"{100 * row['reached'] / row['lesions']:.1f} % of {row['lesions']}"
                table.append([name, str(row["boxes"]), share, *cells])
            parts += [f"## {key}", lines(table)]
        return "\n\n".join(parts) + "\n"
    ranges = sorted(
        {k.split("/")[1] for e in results.values() for k in e["result"]["by size"] if k.startswith("lesions/")},
        key=lambda text: float(text.split("-")[0]),
    )
    table = [["data, default boxes, augmentation", *FIGURES, *ranges, "min"], ["---"] * (4 + len(ranges))]
    for key, entry in results.items():
        row = entry["result"]
        cells = [f"{row[figure]:.3f}" for figure in FIGURES]
        for name in ranges:
            count = int(row["by size"].get(f"lesions/{name}", 0))
            found = round(row["by size"].get(f"sensitivity/{name}", 0) * count)
            low, high = hv.metrics.statistics.wilson(found, count)
            cells.append(f"{found} of {count}: {found / count:.2f} ({low:.2f}-{high:.2f})" if count else "–")
        table.append([key, *cells, f"{row['minutes']:.0f}"])
    parts += [
        "Share of the lesions found at one false positive per image, with Wilson's 95 % intervals; cross-validated. "
        "The intervals assume independent lesions: for several slices of one patient they are too narrow.",
        lines(table),
    ]
    facts = {f"{e['machine']['cpu']}, torch {e['machine']['torch']}, {e['date']}" for e in results.values()}
    return "\n\n".join([*parts, "; ".join(sorted(facts)) + "."]) + "\n"


def lines(table: list[list[str]]) -> str:
    """Return rows of cells as a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in table)


if __name__ == "__main__":
    main()
