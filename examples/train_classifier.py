"""Does transfer learning help? Cross-validate a classifier from pretrained weights and from scratch.

python examples/train_classifier.py slices/ --positive yes --backbone mobilenet_v1 --weights mobilenet_v1.safetensors

The folder contains one folder of images per class. All slices of a patient (--patient), or else all copies of an image,
are on one side of each fold. Both results are printed side by side: transfer learning is the thesis of Mizouri 2026.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import hccvision as hv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--positive", required=True, help="name of the class folder that means disease")
    parser.add_argument("--backbone", default="vgg16", help=f"one of {', '.join(hv.BACKBONES.names())}")
    parser.add_argument("--weights", help="file of pretrained weights, or 'imagenet' to download timm's")
    parser.add_argument("--patient", help="regular expression that finds the patient in a file name")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()

    folders = sorted(d.name for d in args.folder.iterdir() if d.is_dir())
    if args.positive not in folders:
        parser.error(f"--positive {args.positive!r} is not among the class folders: {', '.join(folders)}")
    classes = [name for name in folders if name != args.positive] + [args.positive]
    data = hv.read_image_folder(args.folder, {name: name for name in classes}, patient=args.patient)
    group = "patient" if args.patient else "duplicate"
    folds = hv.folds(data, args.folds, group=group, seed=args.seed, on_problem="skip")
    print(f"{len(data)} slices, {args.folds} folds by {group}, positive class: {args.positive}")

    contenders = {"from scratch": None} if args.weights is None else {"pretrained": args.weights, "from scratch": None}
    results = {name: cross_validate(folds, classes, weights, args) for name, weights in contenders.items()}

    print(f"\n{'mean over folds (± standard deviation)':<42}" + "".join(f"{name:>20}" for name in results))
    for figure in ("balanced_accuracy", "sensitivity", "specificity", "f1", "roc_auc"):
        cells = []
        for reports in results.values():
            values = [report[figure] for report in reports]
            cells.append(f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}")
        print(f"{figure:<42}" + "".join(f"{cell:>20}" for cell in cells))
    if args.weights is None:
        print("pass --weights to see what transfer learning adds")


def cross_validate(
    folds: Sequence[tuple[list[hv.Sample], list[hv.Sample]]],
    classes: Sequence[str],
    weights: str | None,
    args: argparse.Namespace,
) -> list[hv.Report]:
    """Train on each fold's training part and evaluate the last epoch on its test part."""
    reports = []
    for number, (train, test) in enumerate(folds):
        model = hv.build_model(
            args.backbone,
            "linear",
            classes=classes,
            weights=weights,
            head_options={"hidden": (), "pool": "avg", "dropout": 0.2},
            seed=args.seed + number,
        )
        recipe = replace(
            hv.recipes.quick(),
            epochs=args.epochs,
            batch=16,
            learning_rate=2e-4 if weights else 1e-3,
            augmentation="paper",
            frozen=lower_blocks(model) if weights else (),
            seed=args.seed + number,
        )
        start = time.perf_counter()
        hv.fit(model, train, recipe=recipe, device=args.device, on_problem="skip")
        report = hv.evaluate(model, test, device=args.device, on_problem="skip")
        reports.append(report)
        how = model.weight_report.source if model.weight_report else "random weights"
        print(
            f"fold {number + 1}, {how}: balanced accuracy {report['balanced_accuracy']:.4f}, "
            f"AUC {report['roc_auc']:.4f}, {time.perf_counter() - start:.0f} s"
        )
    return reports


def lower_blocks(model: hv.Model) -> tuple[str, ...]:
    """Return the names of the lower 45 % of the backbone's blocks, whose edges and textures suit any kind of image."""
    blocks = [".".join(name.split(".")[:2]) for name, _ in model.backbone.named_parameters()]
    blocks = list(dict.fromkeys(blocks))
    return tuple(f"backbone.{block}" for block in blocks[: int(0.45 * len(blocks))])


if __name__ == "__main__":
    main()
