"""How fast is a training step of MobileNetV1-SSD300? Ours beside pytorch-ssd's network, matcher and loss.

python benchmarks/training.py --pytorch-ssd ../pytorch-ssd    # a few minutes on two idle cores
python benchmarks/training.py --quick                         # smoke test

A step takes images and boxes from memory: matching, forward, loss, backward, and SGD with the paper's rates. Each
contender is a process of its own; they take turns, so that other load on the machine affects all of them, and each
waits while another runs. Both are measured as they are, and with the C library's allocator tuned by
`hccvision.training.memory.tune_allocator`, which helps the peer as much as us. Weights are random.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from low_end import describe, write

OURS, PEER = "hccvision", "pytorch-ssd"
TUNED = ", allocator tuned"
SIDE, LESIONS = 300, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pytorch-ssd", type=Path, metavar="PATH", help="a checkout of qfgaohao/pytorch-ssd")
    parser.add_argument("--batches", type=int, nargs="+", default=[5, 24])
    parser.add_argument("--classes", type=int, default=1, help="of lesions, besides the background")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each contender, each of several steps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder for the results (default: benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="smoke test; writes nothing unless --out is given")
    parser.add_argument("--child", nargs=3, metavar=("CONTENDER", "BATCH", "CLASSES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        contender, batch, classes = args.child
        serve(contender, int(batch), int(classes), args.pytorch_ssd)
        return

    contenders = [OURS, OURS + TUNED] + [PEER, PEER + TUNED] * (args.pytorch_ssd is not None)
    if args.pytorch_ssd is None:
        print("pytorch-ssd was not given (--pytorch-ssd PATH): only hccvision is measured")
    rows = []
    for batch in [2] if args.quick else args.batches:
        speeds = race(contenders, batch, args)
        rows += [{"batch": batch, "contender": name, "images_per_second": speeds[name]} for name in contenders]
        print(f"batch {batch}: " + ", ".join(f"{name} {speed:.1f} images/s" for name, speed in speeds.items()))
    out = args.out or (None if args.quick else Path(__file__).parent / "results")
    if out is not None:
        machine = {k: v for k, v in describe().items() if k not in ("card", "card_gb")} | {"threads used": args.threads}
        name = re.sub(r"[^a-z0-9]+", "-", machine["cpu"].lower()).strip("-")
        day = f"{date.today()}{' (quick: no result)' * args.quick}"
        result = {"date": day, "machine": machine, "classes": args.classes, "rows": rows}
        write(out / f"training-{name}.json", json.dumps(result, indent=2) + "\n")
        print(f"written: {write(out / 'training.md', page(out))}")


def race(contenders: list[str], batch: int, args: argparse.Namespace) -> dict[str, float]:
    """Start a process for each contender and let them run in turns; return the median speed of each."""
    env = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(args.threads))
    more = [] if args.pytorch_ssd is None else ["--pytorch-ssd", str(args.pytorch_ssd)]
    running = {}
    for name in contenders:
        command = [sys.executable, __file__, *more, "--child", name, str(batch), str(args.classes)]
        running[name] = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(2 if args.quick else args.rounds + 1):
        for name, process in running.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{1 if args.quick or turn == 0 else max(2, 40 // batch)}\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                raise SystemExit(f"{name} at batch {batch} ended with code {process.wait()}")
            if turn:  # the first turn is a warm-up
                speeds[name].append(float(answer))
    for process in running.values():
        process.communicate()
    return {name: round(statistics.median(values), 2) for name, values in speeds.items()}


def serve(contender: str, batch: int, classes: int, checkout: Path | None) -> None:
    """Make the number of steps that each line of the input states, and print the images per second."""
    import torch

    from hccvision.training.memory import tune_allocator

    if contender.endswith(TUNED) and not tune_allocator():
        raise SystemExit("the allocator can only be tuned on Linux with glibc")
    torch.manual_seed(0)
    step = peer(batch, classes, checkout) if contender.startswith(PEER) else ours(batch, classes)
    for line in sys.stdin:
        steps = int(line)
        start = time.perf_counter()
        for _ in range(steps):
            step()
        print(steps * batch / (time.perf_counter() - start), flush=True)


def scene(batch: int, classes: int) -> tuple[Any, Any, Any]:
    """Return images (B, 3, 300, 300) in [0, 1], boxes (B, 4, 4) in fractions of the sides, and labels from 0."""
    import torch

    corners = torch.rand(batch, LESIONS, 2) * 0.6
    boxes = torch.cat((corners, corners + 0.1 + 0.3 * torch.rand(batch, LESIONS, 2)), -1)
    return torch.rand(batch, 3, SIDE, SIDE), boxes, torch.randint(classes, (batch, LESIONS))


def ours(batch: int, classes: int) -> Callable[[], None]:
    """Return a training step of hccvision."""
    import torch

    import hccvision as hv
    from hccvision.training.optimisers import build_optimiser

    names = [f"class {i}" for i in range(classes)]
    options = {"activation": "relu"}  # as the peer's
    model = hv.build_model("mobilenet_v1", "ssd", classes=names, backbone_options=options).train()
    model.to(memory_format=torch.channels_last)
    optimiser = build_optimiser(model, hv.recipes.paper_ssd())
    images, boxes, labels = scene(batch, classes)
    images = images.contiguous(memory_format=torch.channels_last)
    targets = hv.Targets(boxes * SIDE, labels)

    def step() -> None:
        model.loss(model(images), targets)["loss"].backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def peer(batch: int, classes: int, checkout: Path | None) -> Callable[[], None]:
    """Return a training step as in the checkout's train_ssd.py, with its own matcher."""
    if checkout is None or not (checkout / "vision" / "ssd" / "mobilenetv1_ssd.py").is_file():
        raise SystemExit(f"{checkout} is no checkout of github.com/qfgaohao/pytorch-ssd: it has no vision/ssd")
    sys.path.insert(0, str(checkout.resolve()))
    sys.modules.setdefault("cv2", types.ModuleType("cv2"))  # only needed for reading images, which isn't measured
    import torch
    from vision.nn.multibox_loss import MultiboxLoss
    from vision.ssd.config import mobilenetv1_ssd_config as config
    from vision.ssd.mobilenetv1_ssd import create_mobilenetv1_ssd
    from vision.ssd.ssd import MatchPrior

    network = create_mobilenetv1_ssd(classes + 1)
    network.init()
    network.train()
    criterion = MultiboxLoss(config.priors, iou_threshold=0.5, neg_pos_ratio=3, center_variance=0.1, size_variance=0.2,
                             device=torch.device("cpu"))  # fmt: skip
    match = MatchPrior(config.priors, config.center_variance, config.size_variance, 0.5)
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    images, boxes, labels = scene(batch, classes)

    def step() -> None:
        matched = [match(b, label + 1) for b, label in zip(boxes, labels, strict=True)]
        locations, kinds = (torch.stack(parts) for parts in zip(*matched, strict=True))
        optimiser.zero_grad()
        confidence, found = network(images)
        regression, classification = criterion(confidence, found, kinds, locations)
        (regression + classification).backward()
        optimiser.step()

    return step


def page(folder: Path) -> str:
    """Return all results in a folder as one Markdown page."""
    parts = ["# A training step of MobileNetV1-SSD300", "Made by `benchmarks/training.py`; images per second."]
    for path in sorted(folder.glob("training-*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        machine = result["machine"]
        parts.append(
            f"## {machine['cpu']}, {machine['threads used']} threads, torch {machine['torch']}, {result['date']}\n\n"
            f"Classes of lesions: {result['classes']}."
        )
        names = list(dict.fromkeys(row["contender"] for row in result["rows"]))
        table = [["batch", *names, "ours, tuned, over the peer", "over the peer tuned"], ["---"] * (len(names) + 3)]
        for batch in dict.fromkeys(row["batch"] for row in result["rows"]):
            speed = {r["contender"]: r["images_per_second"] for r in result["rows"] if r["batch"] == batch}
            best = speed[OURS + TUNED]
            ratios = [f"{best / speed[name]:.2f} ×" if name in speed else "–" for name in (PEER, PEER + TUNED)]
            table.append([str(batch), *(f"{speed[name]:.1f}" for name in names), *ratios])
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in table))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
