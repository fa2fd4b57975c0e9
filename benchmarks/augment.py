"""How fast is the paper's augmentation with boxes? Ours beside kornia's, torchvision's and albumentations' own.

python benchmarks/augment.py                    # about two minutes on two idle cores
python benchmarks/augment.py --device cuda      # on a card, beside kornia alone
python benchmarks/augment.py --quick            # smoke test

All libraries do the same: horizontal flip (0.3), rotation up to 25 degrees and shift up to 10 %, Gaussian noise (0.5),
blur (0.1), with four boxes per image. The others are used as their documentation shows: kornia's AugmentationSequential
on the batch; torchvision.transforms.v2 and albumentations image by image, the latter on 8-bit arrays, for which it is
made. Contenders take turns; figures are medians of one run, so compare within a row and not across machines.
albumentations is left out if it isn't installed.
"""

import argparse
import importlib.util
import json
import re
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from low_end import describe, write
from torch import Tensor

import hccvision as hv

OURS = "hccvision"
LESIONS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--seconds", type=float, default=15.0, help="for each row")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder for the results (default: benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="smoke test; writes nothing unless --out is given")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for side, batch in [(64, 2)] if args.quick else [(224, 8), (224, 32), (300, 8), (300, 32)]:
        calls = contenders(side, batch, args.device)
        times = interleaved(calls, 0.0 if args.quick else args.seconds, args.device)
        speed = {name: round(batch / statistics.median(values), 1) for name, values in times.items()}
        rows.append({"side": side, "batch": batch, "device": args.device, "images_per_second": speed})
        print(f"{side} px, batch {batch}: " + ", ".join(f"{k} {v:.0f} images/s" for k, v in speed.items()), flush=True)
    out = args.out or (None if args.quick else Path(__file__).parent / "results")
    if out is not None:
        machine = describe() | {"threads used": args.threads}
        name = re.sub(r"[^a-z0-9]+", "-", machine["cpu" if args.device == "cpu" else "card"].lower()).strip("-")
        day = f"{date.today()}{' (quick: no result)' * args.quick}"
        write(
            out / f"augment-{args.device}-{name}.json",
            json.dumps({"date": day, "machine": machine, "rows": rows}, indent=2) + "\n",
        )
        print(f"written: {write(out / 'augment.md', page(out))}")


def interleaved(calls: dict[str, Callable[[], Any]], seconds: float, device: str) -> dict[str, list[float]]:
    """Time the contenders in turns, so that other load on the machine affects all of them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    while len(times[OURS]) < 3 or sum(map(sum, times.values())) < seconds:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return times


def contenders(side: int, batch: int, device: str) -> dict[str, Callable[[], Any]]:
    """Return a function for each library that augments the same batch."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, side, side, generator=generator).to(device)
    corners = torch.rand(batch, LESIONS, 2, generator=generator) * 0.6
    boxes = torch.cat((corners, corners + 0.1 + 0.2 * torch.rand(corners.shape, generator=generator)), -1) * side
    targets = hv.Targets(boxes, torch.zeros(batch, LESIONS, dtype=torch.int64)).to(device)
    augment = hv.AUGMENTATIONS.build("paper")
    images = images.contiguous(memory_format=torch.channels_last)
    calls: dict[str, Callable[[], Any]] = {OURS: lambda: augment(images, targets, generator)}
    calls["kornia"] = kornias(images.contiguous(), targets.boxes)
    if device == "cpu":
        calls["torchvision v2"] = torchvisions(images.contiguous(), boxes, side)
        if importlib.util.find_spec("albumentations"):
            calls["albumentations"] = albumentations(images, boxes)
    return calls


def kornias(images: Tensor, boxes: Tensor) -> Callable[[], Any]:
    """Return kornia's augmentation of the batch, as its documentation shows."""
    from kornia import augmentation as k

    sequence = k.AugmentationSequential(
        k.RandomHorizontalFlip(p=0.3),
        k.RandomAffine(degrees=25.0, translate=(0.1, 0.1), p=1.0),
        k.RandomGaussianNoise(std=0.02, p=0.5),
        k.RandomGaussianBlur((11, 11), (0.5, 1.5), p=0.1),
        data_keys=["input", "bbox_xyxy"],
    )
    return lambda: sequence(images, boxes)


def torchvisions(images: Tensor, boxes: Tensor, side: int) -> Callable[[], Any]:
    """Return torchvision's augmentation image by image, as in a data set."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    sequence = v2.Compose(
        [
            v2.RandomHorizontalFlip(0.3),
            v2.RandomAffine(25, translate=(0.1, 0.1), interpolation=v2.InterpolationMode.BILINEAR),
            v2.RandomApply([v2.GaussianNoise(sigma=0.02)], 0.5),
            v2.RandomApply([v2.GaussianBlur(11, (0.5, 1.5))], 0.1),
            v2.SanitizeBoundingBoxes(labels_getter=None),
        ]
    )
    wrapped = [
        (tv_tensors.Image(image), tv_tensors.BoundingBoxes(own, format="XYXY", canvas_size=(side, side)))  # type: ignore[call-overload]
        for image, own in zip(images, boxes, strict=True)
    ]

    def call() -> Tensor:
        return torch.stack([sequence(image, own)[0] for image, own in wrapped])

    return call


def albumentations(images: Tensor, boxes: Tensor) -> Callable[[], Any]:
    """Return albumentations' augmentation image by image on 8-bit arrays, then stacked as a batch of floats."""
    import albumentations as a

    sequence = a.Compose(
        [
            a.HorizontalFlip(p=0.3),
            a.Affine(rotate=(-25, 25), translate_percent=(-0.1, 0.1), p=1.0),
            a.GaussNoise(std_range=(0.02, 0.02), p=0.5),
            a.GaussianBlur(blur_limit=(11, 11), sigma_limit=(0.5, 1.5), p=0.1),
        ],
        bbox_params=a.BboxParams(format="pascal_voc", label_fields=["labels"], min_visibility=0.4),
    )
    arrays = [(255 * image.permute(1, 2, 0)).byte().contiguous().numpy() for image in images]
    boxes_ = [own.numpy() for own in boxes]
    labels = [0] * LESIONS

    def call() -> Tensor:
        moved = [sequence(image=i, bboxes=b, labels=labels)["image"] for i, b in zip(arrays, boxes_, strict=True)]
        return torch.stack([torch.from_numpy(i) for i in moved]).permute(0, 3, 1, 2).float() / 255

    return call


def page(folder: Path) -> str:
    """Return all results in a folder as one Markdown page."""
    parts = ["# The paper's augmentation, with boxes", "Made by `benchmarks/augment.py`; images per second."]
    for path in sorted(folder.glob("augment-*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        machine, rows = result["machine"], result["rows"]
        on = machine["card"] if rows[0]["device"] == "cuda" else f"{machine['cpu']}, {machine['threads used']} threads"
        parts.append(f"## {on}, torch {machine['torch']}, {result['date']}")
        names = list(rows[0]["images_per_second"])
        others = [name for name in names if name != OURS]
        table = [["pixels", "batch", *names, *(f"ours over {name}" for name in others)]]
        table.append(["---"] * len(table[0]))
        for row in rows:
            speed = row["images_per_second"]
            ratios = [f"{speed[OURS] / speed[name]:.2f} ×" for name in others]
            table.append([str(row["side"]), str(row["batch"]), *(f"{speed[name]:.0f}" for name in names), *ratios])
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in table))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
