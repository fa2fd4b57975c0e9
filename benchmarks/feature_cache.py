"""What the feature cache saves: the paper's VGG-16 recipe on two cores, and accuracy with and without it.

python benchmarks/feature_cache.py                        # wall time of the recipe, batch 8 and 32: about 20 minutes
python benchmarks/feature_cache.py slices/ --weights mobilenet_v1.safetensors   # accuracy, five folds
python benchmarks/feature_cache.py --quick                # smoke test

Wall time: 267 phantom slices for training, in six augmented views each (1602; the paper has 1600), and 400 for
validation; 100 epochs of Adam on the 512-512 head with frozen convolutions. Weights are random: time hardly depends on
them, and the accuracy means nothing. The time includes reading, augmentation, features, epochs and validation.

bf16 (--precision) halves the time of the convolutions on a CPU that supports it, see docs/training.rst.

Accuracy: folders of images, no and yes, in folds grouped by near-duplicate pictures; a frozen MobileNetV1 with the
given weights, and the paper's head and recipe with fixed views; and the same without cache, with augmentation drawn
anew in each epoch.
"""

import argparse
import json
import re
import statistics
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from low_end import describe, write

import hccvision as hv
from hccvision.training.memory import tune_allocator

CLASSES = ["normal", "cancer"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="of folders no/ and yes/, for the accuracy")
    parser.add_argument("--weights", help="file of MobileNetV1 weights")
    parser.add_argument("--pool", choices=["none", "avg", "max"], default="none", help="of the head; none: the paper's")
    parser.add_argument("--hidden", type=int, nargs="*", default=[512, 512])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--views", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--group", default="duplicate", help="of the folds")
    parser.add_argument("--uncached-epochs", type=int, default=0, help="of the run without cache; 0: none")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of the network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tune", action="store_true", help="the allocator, see hccvision.training.memory")
    parser.add_argument("--out", type=Path, help="folder for the results (default: benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="smoke test; writes nothing unless --out is given")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.tune:
        tune_allocator()
    out = args.out or (None if args.quick else Path(__file__).parent / "results")
    rows = accuracy(args) if args.folder else wall_time(args)
    if out is not None:
        machine = {k: v for k, v in describe().items() if k not in ("card", "card_gb")} | {"threads used": args.threads}
        name = re.sub(r"[^a-z0-9]+", "-", machine["cpu"].lower()).strip("-")
        path = out / f"feature_cache-{name}.json"
        results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        day = f"{date.today()}{' (quick: no result)' * args.quick}"
        results |= {key: {"date": day, "machine": machine} | row for key, row in rows.items()}
        write(path, json.dumps(results, indent=2) + "\n")
        print(f"written: {write(out / 'feature_cache.md', page(out))}")


def wall_time(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Train the paper's VGG-16 head on the features of phantom slices."""
    train, val = (6, 4) if args.quick else (267, 400)
    root = Path(tempfile.mkdtemp()) / "liver"
    hv.phantom.write_dataset(root, patients=-(-(train + val) // 4), slices=4, seed=0)
    data = [
        hv.Sample(s.path, s.patient, "cancer" if s.names else "normal", s.annotation) for s in hv.read_voc_folder(root)
    ]
    rows = {}
    for batch in [4] if args.quick else args.batches:
        model = hv.build_model("vgg16", "linear", classes=CLASSES, seed=0, image_size=64 if args.quick else None)
        epochs = 2 if args.quick else args.epochs
        recipe = replace(
            hv.recipes.paper_vgg16(), batch=batch, views=args.views, epochs=epochs, precision=args.precision
        )
        start = time.perf_counter()
        hv.fit(model, data[:train], data[train : train + val], recipe=recipe, feature_cache=True, device="cpu")
        minutes = (time.perf_counter() - start) / 60
        how = f"{', bf16' * (args.precision == 'bf16')}{', allocator tuned' * args.tune}"
        rows[f"VGG-16, random weights, batch {batch}{how}"] = {
            "minutes": minutes, "images": train * args.views, "epochs": epochs
        }  # fmt: skip
        print(f"batch {batch}: {minutes:.1f} min")
    return rows


def accuracy(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Cross-validate a frozen MobileNetV1 with the paper's head, with the feature cache and without it."""
    data = hv.read_image_folder(args.folder, {"normal": "no", "cancer": "yes"})
    folds = list(hv.folds(data, args.folds, group=args.group, seed=args.seed, on_problem="skip"))
    pool = None if args.pool == "none" else args.pool
    ways = [("cached", args.epochs)] + [("uncached", args.uncached_epochs)] * (args.uncached_epochs > 0)
    rows = {}
    for way, epochs in ways:
        scores, areas, start = [], [], time.perf_counter()
        for number, (train, test) in enumerate(folds):
            model = hv.build_model(
                "mobilenet_v1", "linear", classes=CLASSES, weights=args.weights, seed=args.seed + number,
                head_options={"hidden": tuple(args.hidden), "pool": pool},
            )  # fmt: skip
            recipe = replace(
                hv.recipes.paper_vgg16(), batch=args.batches[0], epochs=epochs, seed=args.seed + number,
                precision=args.precision,
            )  # fmt: skip
            if way == "cached":
                hv.fit(model, train, recipe=replace(recipe, views=args.views), feature_cache=True, device="cpu")
            else:
                hv.fit(model, train, recipe=recipe, device="cpu")
            report = hv.evaluate(model, test, ["balanced_accuracy", "roc_auc"], device="cpu")
            scores.append(report["balanced_accuracy"])
            areas.append(report["roc_auc"])
            print(f"{way}, fold {number + 1}: {scores[-1]:.4f}, AUC {areas[-1]:.4f}", flush=True)
        key = f"{args.folder.name}, {way}, {args.group}, pool {args.pool}, hidden {args.hidden}, batch {recipe.batch}"
        key += ", bf16" * (args.precision == "bf16")
        rows[key] = {
            "balanced accuracy": statistics.mean(scores),
            "folds": scores,
            "AUC": statistics.mean(areas),
            "minutes": (time.perf_counter() - start) / 60,
            "epochs": epochs,
            "weights": Path(args.weights).name if args.weights else "random",
        }
        print(f"{key}: {statistics.mean(scores):.4f}, AUC {statistics.mean(areas):.4f}")
    return rows


def page(folder: Path) -> str:
    """Return all results in a folder as one Markdown page."""
    folds = "Folds: `duplicate` keeps near-duplicate pictures on one side, `none` only byte-identical ones."
    parts = ["# The feature cache", "Made by `benchmarks/feature_cache.py`.", folds]
    table = [["what", "epochs", "minutes", "balanced accuracy", "AUC", "machine"], ["---"] * 6]
    for path in sorted(folder.glob("feature_cache-*.json")):
        for key, row in json.loads(path.read_text(encoding="utf-8")).items():
            machine = row["machine"]
            figures = [f"{row[name]:.3f}" if name in row else "–" for name in ("balanced accuracy", "AUC")]
            where = f"{machine['cpu']}, {machine['threads used']} threads, torch {machine['torch']}, {row['date']}"
            table.append([key, str(row["epochs"]), f"{row['minutes']:.1f}", *figures, where])
    return "\n\n".join([*parts, "\n".join(f"| {' | '.join(row)} |" for row in table)]) + "\n"


if __name__ == "__main__":
    main()
