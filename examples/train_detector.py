"""Train a MobileNetV1-SSD300 on a folder of LabelImg annotations and evaluate it on slices held out for testing.

python examples/train_detector.py liver/ --patient "^(P[0-9]+)_" --weights mobilenet_v1.safetensors

The folder holds Annotations/ and JPEGImages/, or images and XML side by side. With the lists trainval and test in
ImageSets/Main/ these are used; otherwise a fifth of the patients is held out.
"""

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import hccvision as hv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", help="file of MobileNetV1 weights, or 'imagenet' to download timm's")
    parser.add_argument("--patient", help="regular expression that finds the patient in a file name")
    parser.add_argument("--width", type=float, default=1.0, help="width multiplier of MobileNetV1")
    parser.add_argument("--default-boxes", default="ssd300_mobilenet", help="ssd300_mobilenet (the paper's), lesion, …")
    parser.add_argument("--augmentation", help="light (default), paper, mri, none or your own")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="folder for checkpoints and history (default: runs/<folder>-seed<n>)")
    parser.add_argument("--resume", action="store_true", help="resume an interrupted run")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()

    lists = args.folder / "ImageSets" / "Main"
    if (lists / "trainval.txt").exists() and (lists / "test.txt").exists():
        train, test = (hv.read_voc_folder(args.folder, subset=s, patient=args.patient) for s in ("trainval", "test"))
    else:
        data = hv.read_voc_folder(args.folder, patient=args.patient)
        group = "patient" if args.patient else "duplicate"
        train, test = hv.split(data, (0.8, 0.2), group=group, seed=args.seed, on_problem="skip")
    classes = sorted({name for sample in train for name in sample.names})
    print(f"{len(train)} slices to train on, {len(test)} to test on, classes: {', '.join(classes)}")

    model = hv.build_model(
        "mobilenet_v1",
        "ssd",
        classes=classes,
        weights=args.weights,
        backbone_options={"width": args.width},
        head_options={"default_boxes": args.default_boxes},
        seed=args.seed,
    )
    print(model.weight_report or "random weights: pass --weights to transfer from ImageNet")

    recipe = replace(hv.recipes.paper_ssd(), epochs=args.epochs, seed=args.seed)
    if args.augmentation:
        recipe = replace(recipe, augmentation=args.augmentation)
    run = args.run or Path("runs") / f"{args.folder.name}-seed{args.seed}"
    start = time.perf_counter()
    history = hv.fit(model, train, recipe=recipe, run=run, resume=args.resume, device=args.device, on_problem="skip")
    seconds = time.perf_counter() - start
    if int(os.environ.get("RANK", "0")) > 0:
        return  # under torchrun or accelerate launch every process trains, and only the main process evaluates
    print(f"{len(history)} epochs in {seconds / 60:.1f} min: {len(history) * len(train) / seconds:.1f} images/s")

    report = hv.evaluate(model, test, device=args.device, on_problem="skip")
    print(report)
    report.save(run / "report", overwrite=True)
    hv.plots.save(hv.plots.training_curves(history.rows), run / "curves.png")
    print(f"model, tables and pictures: {run}")


if __name__ == "__main__":
    main()
