"""How much does a leaking split inflate accuracy? One classifier, three ways of splitting, beside the true figure.

python examples/leakage_study.py --phantom --weights mobilenet_v1.safetensors
python examples/leakage_study.py --folder slices/ --positive yes --weights mobilenet_v1.safetensors

a. As in the paper (Mizouri 2026): augment first, then split all images and copies at random.
b. Split the images at random; augment the training part only.
c. hv.split: slices of a patient, or else near duplicates, are on one side; augment the training part only.

Before that, whole groups are held out. Each model is also tested on them, which gives the true figure. hv.split refuses
to make (a) and (b), so they are made by hand. The classifier is a linear one on the frozen features of MobileNetV1,
which are computed once per image and copy.
"""

import argparse
import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

import hccvision as hv
from hccvision.metrics.intervals import wilson

TEST_SHARE = 0.2
WAYS = ("a. augment, then split", "b. split by image", "c. split by group")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantom", action="store_true", help="generate synthetic livers, with patients")
    parser.add_argument("--folder", type=Path, help="or a folder that contains one folder of images per class")
    parser.add_argument("--positive", help="name of the class folder that means disease")
    parser.add_argument("--patient", help="regular expression that finds the patient in a file name of --folder")
    parser.add_argument("--weights", help="file of MobileNetV1 weights; default: random features")
    parser.add_argument("--width", type=float, default=1.0, help="width multiplier of MobileNetV1")
    parser.add_argument("--seeds", type=int, default=10, help="number of splits to train on")
    parser.add_argument("--copies", type=int, default=5, help="augmented copies per image; the paper's are about 5")
    parser.add_argument("--quick", action="store_true", help="few and small images, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("leakage_study.png"))
    args = parser.parse_args()
    if args.phantom == (args.folder is not None):
        parser.error("pass either --phantom or --folder")
    args.positive = args.positive or "cancer"
    if args.quick:
        args.seeds, args.copies = min(args.seeds, 2), min(args.copies, 2)

    with tempfile.TemporaryDirectory() as scratch:
        data, group = phantom(Path(scratch), args) if args.phantom else from_folder(args, parser)
        more = hv.expand_dataset(data, Path(scratch, "more"), to=len(data) * (1 + args.copies))
        print(f"{len(data)} images, {len(more)} with their copies; grouped by {group}")
        counts = study(more, group, args)
    report(counts, args)


def study(more: Sequence[hv.Sample], group: str, args: argparse.Namespace) -> dict[str, list[int]]:
    """Count the correct and all predictions of each way of splitting, on its test part and on the held-out groups."""
    features = compute_features(more, args)
    counts = {way: [0, 0, 0, 0] for way in WAYS}
    for seed in range(args.seeds):
        originals = [s for s in more if s.source_id is None]
        rest, aside = hv.split(originals, (0.75, 0.25), group=group, seed=seed)
        for way, (train, test) in ways(rest, more, group, seed).items():
            if seed == 0:
                print(f"\n{way}: {len(train)} images to train, {len(test)} to test\n{hv.leakage(train, test)}")
            model = fit(features, train, args.positive, seed)
            for place, part in ((0, test), (2, aside)):
                counts[way][place] += sum(predict(model, features[s]) == (s.class_name == args.positive) for s in part)
                counts[way][place + 1] += len(part)
    return counts


def phantom(scratch: Path, args: argparse.Namespace) -> tuple[list[hv.Sample], str]:
    root = hv.phantom.write_dataset(scratch / "liver", patients=8 if args.quick else 60, slices=4 if args.quick else 6)
    data = hv.read_voc_folder(root, patient=r"^(P\d+)_")
    return [replace(s, class_name="cancer" if s.names else "normal") for s in data], "patient"


def from_folder(args: argparse.Namespace, parser: argparse.ArgumentParser) -> tuple[list[hv.Sample], str]:
    data = hv.read_image_folder(args.folder, patient=args.patient)
    if args.positive not in {s.class_name for s in data}:
        parser.error(f"--positive {args.positive!r} is not among the class folders of {args.folder}")
    return [s for s in data if all(p.usable for p in s.problems)], "patient" if args.patient else "duplicate"


def ways(
    rest: Sequence[hv.Sample], more: Sequence[hv.Sample], group: str, seed: int
) -> dict[str, tuple[list[hv.Sample], list[hv.Sample]]]:
    """Split what was not held out into training and test part in the three ways."""
    copies: dict[hv.Sample, list[hv.Sample]] = {}
    for sample in more:
        if sample.source_id is None:
            copies[sample] = []
        else:
            copies[next(reversed(copies))].append(sample)  # each image is followed by its copies
    everything = [s for original in rest for s in (original, *copies[original])]
    pairs = {
        WAYS[0]: shuffle_and_cut(everything, seed),
        WAYS[1]: shuffle_and_cut(rest, seed),
        WAYS[2]: hv.split(rest, (1 - TEST_SHARE, TEST_SHARE), group=group, seed=seed),
    }
    for way in WAYS[1:]:
        train, test = pairs[way]
        pairs[way] = [s for original in train for s in (original, *copies[original])], test
    return pairs


def shuffle_and_cut(data: Sequence[hv.Sample], seed: int) -> tuple[list[hv.Sample], list[hv.Sample]]:
    order = random.Random(seed).sample(list(data), len(data))
    cut = round(len(order) * (1 - TEST_SHARE))
    return order[:cut], order[cut:]


def compute_features(data: Sequence[hv.Sample], args: argparse.Namespace) -> dict[hv.Sample, torch.Tensor]:
    """Compute the mean and the maximum of each channel of MobileNetV1's last map."""
    model = hv.build_model(
        "mobilenet_v1", "linear", classes=["a", "b"], weights=args.weights, image_size=64 if args.quick else 224,
        backbone_options={"width": args.width},
    ).eval()  # fmt: skip
    features = {}
    for start in range(0, len(data), 16):
        part = data[start : start + 16]
        arrays = [hv.images.resize(hv.images.read_image(s.path), model.image_size)[0] for s in part]
        batch = torch.stack([torch.from_numpy(a.transpose(2, 0, 1).copy()) for a in arrays]).float() / 255
        with torch.inference_mode():
            last = model.backbone((batch - model.mean) / model.std)[-1]
        features |= dict(zip(part, torch.cat([last.mean((2, 3)), last.amax((2, 3))], 1).clone(), strict=True))
    return features


def fit(features: dict[hv.Sample, torch.Tensor], train: Sequence[hv.Sample], positive: str, seed: int):
    """Train a linear classifier for 300 steps of Adam, on features of mean 0 and standard deviation 1."""
    torch.manual_seed(seed)
    x = torch.stack([features[s] for s in train])
    y = torch.tensor([float(s.class_name == positive) for s in train])
    mean, std = x.mean(0), x.std(0) + 1e-3
    linear = torch.nn.Linear(x.shape[1], 1)
    optimiser = torch.optim.AdamW(linear.parameters(), 1e-2, weight_decay=1e-2)
    for _ in range(300):
        optimiser.zero_grad()
        logits = linear((x - mean) / std)[:, 0]
        torch.nn.functional.binary_cross_entropy_with_logits(logits, y).backward()
        optimiser.step()
    return linear, mean, std


def predict(model, feature: torch.Tensor) -> bool:
    linear, mean, std = model
    return bool(linear((feature - mean) / std) > 0)


def report(counts: dict[str, list[int]], args: argparse.Namespace) -> None:
    """Print the table and draw it."""
    from matplotlib.figure import Figure

    print(f"\n{'accuracy, 95 % interval':<26}{'as claimed':>26}{'on held-out groups':>26}{'inflated by':>14}")
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for row, (way, (right, n, right_aside, n_aside)) in enumerate(counts.items()):
        cells = []
        for offset, colour, label, k, of in (
            (-0.12, "#b2182b", "as claimed", right, n),
            (0.12, "#2166ac", "on held-out groups", right_aside, n_aside),
        ):
            low, high = wilson(k, of)
            cells.append(f"{k / of:.1%} ({low:.1%}–{high:.1%})")
            spread = [[100 * (k / of - low)], [100 * (high - k / of)]]
            axes.errorbar(
                100 * k / of, row + offset, xerr=spread, fmt="o", color=colour, label=label if row == 0 else None
            )
        gap = 100 * (right / n - right_aside / n_aside)
        print(f"{way:<26}{cells[0]:>26}{cells[1]:>26}{gap:>+9.1f} pts")
    print(f"Wilson intervals, pooled over {args.seeds} splits; images recur, so the intervals are slightly too narrow.")
    axes.set_yticks(range(len(counts)), list(counts))
    axes.set_ylim(len(counts) - 0.6, -0.4)
    axes.set_xlabel("accuracy (%)")
    axes.set_title("The same classifier, three ways of splitting", loc="left")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    print(f"picture: {hv.plots.save(figure, args.out)}")


if __name__ == "__main__":
    main()
