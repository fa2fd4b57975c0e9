"""Speed of the detector's own computations on the CPU, beside torchvision's and qfgaohao/pytorch-ssd's.

python benchmarks/detection_core.py --pytorch-ssd ../pytorch-ssd    # about two minutes on two cores
python benchmarks/detection_core.py --quick                         # smoke test; its numbers mean nothing

Matching, post-processing, suppression and loss, on the paper's 3000 default boxes. Every row is one run of all
contenders: they get the same input, must first agree on the result, and then take turns; the figure is the median.
"""

import argparse
import json
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from low_end import describe, write
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.ssd import SSD
from torchvision.ops import batched_nms, box_iou
from torchvision.ops import nms as torchvision_nms

from hccvision.boxes import cxcywh_to_xyxy, nms, xyxy_to_cxcywh
from hccvision.contracts import Detections, FeatureSpec, SSDOutput
from hccvision.default_boxes import encode, generate, matched_targets
from hccvision.heads.ssd import SSDHead
from hccvision.losses import multibox
from hccvision.matchers import match

OURS, PEERS = "hccvision", ("torchvision", "pytorch-ssd")
LEAST = 0.98  # share of the results that must agree: pytorch-ssd adds 1e-5 to every union, torchvision nothing
SIDE = 300  # of the image in pixels
GRID = generate("ssd300_mobilenet")
CORNERS = cxcywh_to_xyxy(GRID)
CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))
MATCHER = SSDMatcher(0.5)
Calls = dict[str, Callable[[], Any]]
Row = tuple[str, str, Calls, dict[str, float]]  # task, size, contenders, share of the result that each peer agrees on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pytorch-ssd", type=Path, metavar="PATH", help="a checkout of qfgaohao/pytorch-ssd")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each row; slow rows take longer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder for the results (default: benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="smoke test; writes nothing unless --out is given")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    old = None if args.pytorch_ssd is None else pytorch_ssd(args.pytorch_ssd)
    if old is None:
        print("pytorch-ssd was not given (--pytorch-ssd PATH): its column stays empty")

    rows = []
    for task, size, calls, agreement in cases(old, args.quick):
        if poor := {name: share for name, share in agreement.items() if share < LEAST}:
            raise SystemExit(f"{task}, {size}: results differ, so nothing is timed; share that agrees: {poor}")
        times = interleaved(calls, 0.0 if args.quick else args.seconds, least=3 if args.quick else 15)
        ms = {name: statistics.median(values) * 1e3 for name, values in times.items()}
        rows.append(
            {
                "task": task,
                "size": size,
                "ms": {name: round(value, 4) for name, value in ms.items()},
                "times_as_fast": {name: round(ms[name] / ms[OURS], 2) for name in agreement},
                "agreement": {name: round(share, 5) for name, share in agreement.items()},
                "rounds": len(times[OURS]),
            }
        )
        print("  ".join(cells(rows[-1])), flush=True)
    out = args.out or (None if args.quick else Path(__file__).parent / "results")
    if out is not None:
        machine = {k: v for k, v in describe().items() if k not in ("card", "card_gb")} | {"threads used": args.threads}
        name = re.sub(r"[^a-z0-9]+", "-", machine["cpu"].lower()).strip("-")
        day = f"{date.today()}{' (quick: no result)' * args.quick}"
        text = json.dumps({"date": day, "machine": machine, "rows": rows}, indent=2)
        write(out / f"detection_core-{name}.json", text + "\n")
        print(f"written: {write(out / 'detection_core.md', page(out))}")


def pytorch_ssd(checkout: Path) -> Any:
    """Import the peer's boxes and loss from its checkout."""
    if not (checkout / "vision" / "utils" / "box_utils.py").is_file():
        raise SystemExit(f"{checkout} is no checkout of github.com/qfgaohao/pytorch-ssd: it has no vision/utils")
    sys.path.insert(0, str(checkout.resolve()))
    from vision.nn.multibox_loss import MultiboxLoss
    from vision.utils import box_utils

    warnings.filterwarnings("ignore", message="size_average and reduce args")
    return SimpleNamespace(boxes=box_utils, loss=MultiboxLoss(GRID, 0.5, 3, 0.1, 0.2, "cpu"))


def interleaved(calls: Calls, seconds: float, *, least: int) -> dict[str, list[float]]:
    """Time the contenders in turns, so that other load affects all; each first warms up the caches for itself."""
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    while len(times[names[0]]) < least or sum(map(sum, times.values())) < seconds:
        for name in names:
            calls[name]()
            start = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - start)
    return times


def cases(old: Any, quick: bool = False) -> Iterator[Row]:
    """Yield the rows one by one, so that each is built only when it is measured."""
    for batch, truths in [(1, 4)] if quick else [(1, 4), (24, 4), (24, 20)]:
        yield matching(old, batch, truths)
    for classes in [1] if quick else [20, 1]:
        for batch in [2] if quick else [1, 8]:
            yield post_processing(old, batch, classes)
    for count, classes in [(50, 20)] if quick else [(200, 1), (1917, 1), (3000, 1), (200, 20), (1917, 20), (3000, 20)]:
        yield suppression(old, count, classes)
    for batch in [2] if quick else [5, 24]:
        for classes in [1] if quick else [1, 20]:
            yield loss(old, batch, classes, backward=False)
            yield loss(old, batch, classes, backward=True)


def scenes(batch: int, count: int, seed: int = 0) -> Tensor:
    """Return truths (batch, count, 4); no two of an image share their best default box, as peers would lose one."""
    generator = torch.Generator().manual_seed(seed)
    images = []
    for _ in range(batch):
        size = torch.rand(40 * count, 2, generator=generator) * 0.4 + 0.1
        corner = torch.rand(40 * count, 2, generator=generator) * (1 - size)
        truths = torch.cat((corner, corner + size), 1)
        first: dict[int, int] = {}
        for number, box in enumerate(box_iou(truths, CORNERS).argmax(1).tolist()):
            first.setdefault(box, number)
        images.append(truths[list(first.values())[:count]])
    return torch.stack(images)


def matching(old: Any, batch: int, count: int) -> Row:
    truths, valid = scenes(batch, count), torch.ones(batch, count, dtype=torch.bool)
    numbers = torch.arange(1, count + 1)
    calls: Calls = {
        OURS: lambda: match(GRID, truths, valid).truth,
        "torchvision": lambda: [MATCHER(box_iou(boxes, CORNERS)) for boxes in truths],
    }
    if old:
        assign = old.boxes.assign_priors
        calls["pytorch-ssd"] = lambda: [assign(boxes, numbers, CORNERS, 0.5)[1] - 1 for boxes in truths]
    truth = calls[OURS]()
    agreement = {}
    for name in PEERS[: len(calls) - 1]:
        theirs = torch.stack(list(calls[name]()))
        either = (truth >= 0) | (theirs >= 0)
        agreement[name] = (truth == theirs)[either].double().mean().item()
    return "matching", f"{batch} × {count} truths", calls, agreement


def trained(batch: int, classes: int, seed: int = 0) -> SSDOutput:
    """Return an output like a trained head's: high scores near three lesions of an image, low ones elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    truths = scenes(batch, 3, seed)
    overlap, nearest = torch.stack([box_iou(boxes, CORNERS) for boxes in truths]).max(1)
    labels = torch.randint(classes, (batch, 3), generator=generator).gather(1, nearest) + 1
    logits = torch.randn(batch, len(GRID), classes + 1, generator=generator)
    logits[..., 0] += 9
    logits.scatter_add_(2, labels.unsqueeze(-1), 14 * overlap.unsqueeze(-1))
    offsets = encode(xyxy_to_cxcywh(truths.gather(1, nearest.unsqueeze(-1).expand(-1, -1, 4))), GRID)
    noise = torch.randn(offsets.shape, generator=generator) * 0.3
    return SSDOutput(logits, offsets * (overlap > 0.2).unsqueeze(-1) + noise)


def post_processing(old: Any, batch: int, classes: int) -> Row:
    output, anchors = trained(batch, classes), CORNERS * SIDE
    head = SSDHead(FeatureSpec((512, 1024), (16, 32), ((19, 19), (10, 10)), (SIDE, SIDE)), classes)
    settings = SimpleNamespace(
        box_coder=CODER, score_thresh=0.01, topk_candidates=200, nms_thresh=0.45, detections_per_img=100
    )

    def torchvisions() -> list[dict[str, Tensor]]:
        raw = {"bbox_regression": output.offsets, "cls_logits": output.logits}
        return SSD.postprocess_detections(settings, raw, [anchors] * batch, [(SIDE, SIDE)] * batch)

    def pytorch_ssds() -> list[dict[str, Tensor]]:
        """Softmax and decoding as its network does, then one `nms` for each class as its `Predictor` does."""
        shares = output.logits.softmax(2)
        boxes = old.boxes.convert_locations_to_boxes(output.offsets, GRID, 0.1, 0.2)
        boxes = old.boxes.center_form_to_corner_form(boxes)
        images = []
        for image_shares, image_boxes in zip(shares, boxes, strict=True):
            kept: list[Tensor] = [torch.zeros(0, 5)]
            labels: list[int] = []
            for label in range(1, classes + 1):
                chosen = image_shares[:, label] > 0.01
                if chosen.any():
                    scored = torch.cat((image_boxes[chosen], image_shares[chosen, label, None]), 1)
                    kept.append(old.boxes.nms(scored, None, 0.01, 0.45, candidate_size=200))
                    labels += [label] * len(kept[-1])
            found = torch.cat(kept)
            images.append({"boxes": found[:, :4] * SIDE, "scores": found[:, 4], "labels": torch.tensor(labels)})
        return images

    calls: Calls = {OURS: lambda: head.decode(output), "torchvision": torchvisions}
    if old:
        calls["pytorch-ssd"] = pytorch_ssds
    calls = {name: torch.inference_mode()(call) for name, call in calls.items()}
    ours = calls[OURS]()
    agreement = {name: sum(map(shared, ours, calls[name]())) / sum(map(len, ours)) for name in PEERS[: len(calls) - 1]}
    survivors = int((output.logits.softmax(-1)[..., 1:] > 0.01).sum()) // batch
    return "post-processing", f"batch {batch}, {classes + 1} classes, {survivors} scores an image", calls, agreement


def shared(ours: Detections, theirs: dict[str, Tensor]) -> int:
    """Count our detections that a peer has too; its classes start at 1, and its boxes aren't always clipped."""
    boxes, labels = theirs["boxes"].clamp(0, SIDE), theirs["labels"] - 1
    same = ((ours.boxes[:, None] - boxes).abs().amax(-1) < 0.01) & (ours.labels[:, None] == labels)
    return int((same & ((ours.scores[:, None] - theirs["scores"]).abs() < 1e-4)).any(1).sum())


def suppression(old: Any, count: int, classes: int) -> Row:
    generator = torch.Generator().manual_seed(0)
    boxes = cxcywh_to_xyxy(torch.cat((torch.rand(count, 2, generator=generator) * SIDE,
                                      torch.rand(count, 2, generator=generator) * 100 + 20), 1))  # fmt: skip
    scores = (torch.randperm(count, generator=generator) + 1) / count  # all different: they tell which box was kept
    labels = torch.randint(classes, (count,), generator=generator)
    alone = classes == 1
    calls: Calls = {
        OURS: lambda: scores[nms(boxes, scores, 0.45, labels=None if alone else labels)],
        "torchvision": lambda: scores[
            torchvision_nms(boxes, scores, 0.45) if alone else batched_nms(boxes, scores, labels, 0.45)
        ],
    }
    if old:

        def pytorch_ssds() -> Tensor:
            scored = torch.cat((boxes, scores[:, None]), 1)
            groups = [scored] if alone else [scored[labels == label] for label in range(classes)]
            suppress = partial(old.boxes.hard_nms, iou_threshold=0.45, candidate_size=count)
            return torch.cat([suppress(group)[:, 4] for group in groups if len(group)])

        calls["pytorch-ssd"] = pytorch_ssds
    kept = set(calls[OURS]().tolist())
    agreement = {}
    for name in PEERS[: len(calls) - 1]:
        theirs = set(calls[name]().tolist())
        agreement[name] = len(kept & theirs) / len(kept | theirs)
    return "suppression", f"{count} boxes{'' if alone else f' of {classes} classes'}", calls, agreement


def loss(old: Any, batch: int, classes: int, *, backward: bool) -> Row:
    """Compute the loss from a match; for pytorch-ssd the matched boxes and labels are prepared beforehand."""
    generator = torch.Generator().manual_seed(0)
    truths = scenes(batch, 4)
    labels = torch.randint(classes, (batch, 4), generator=generator)
    truth = match(GRID, truths, labels >= 0).truth
    logits = torch.randn(batch, len(GRID), classes + 1, generator=generator, requires_grad=backward)
    offsets = torch.randn(batch, len(GRID), 4, generator=generator, requires_grad=backward)
    targets = [{"boxes": b, "labels": k + 1} for b, k in zip(truths, labels, strict=True)]
    settings = SimpleNamespace(box_coder=CODER, neg_to_pos_ratio=3)
    row = torch.arange(batch)[:, None]
    assigned, assigned_labels = truths[row, truth.clamp(min=0)], torch.where(truth >= 0, labels[row, truth] + 1, 0)

    def torchvisions() -> Tensor:
        raw = {"bbox_regression": offsets, "cls_logits": logits}
        parts = SSD.compute_loss(settings, targets, raw, [CORNERS] * batch, list(truth))
        return parts["bbox_regression"] + parts["classification"]

    def pytorch_ssds() -> Tensor:
        centred = [old.boxes.corner_form_to_center_form(boxes) for boxes in assigned]
        encoded = [old.boxes.convert_boxes_to_locations(boxes, GRID, 0.1, 0.2) for boxes in centred]
        return sum(old.loss(logits, offsets, assigned_labels, torch.stack(encoded)))

    def stepped(call: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        value = call()
        return (value.detach(), *torch.autograd.grad(value, (logits, offsets))) if backward else (value,)

    losses: Calls = {
        OURS: lambda: multibox(logits, offsets, *matched_targets(GRID, truths, labels, truth))["loss"],
        "torchvision": torchvisions,
    }
    if old:
        losses["pytorch-ssd"] = pytorch_ssds
    calls: Calls = {name: partial(stepped, call) for name, call in losses.items()}
    ours = calls[OURS]()
    agreement = {
        name: 1 - max(((a - b).norm() / b.norm()).item() for a, b in zip(ours, calls[name](), strict=True))
        for name in PEERS[: len(calls) - 1]
    }
    work = "loss, forward and backward" if backward else "loss, forward"
    return work, f"batch {batch}, {classes + 1} classes", calls, agreement


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row of figures as texts."""
    texts = [row["task"], row["size"], f"{row['ms'][OURS]:.2f}"]
    for name in PEERS:
        given = name in row["ms"]
        texts.append(f"{row['ms'][name]:.2f} ({row['times_as_fast'][name]:.1f}×)" if given else "not given")
    return texts


def page(folder: Path) -> str:
    """Return all results in a folder as one Markdown page."""
    parts = [
        "# The detector's arithmetic beside its peers'",
        "Made by `benchmarks/detection_core.py`. Median milliseconds for the whole batch; in brackets the time divided "
        "by ours. All results of a row agree.",
    ]
    for path in sorted(folder.glob("detection_core-*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        machine = result["machine"]
        facts = ", ".join(f"{k.removesuffix('_gb')} {v}{' GB' * k.endswith('_gb')}" for k, v in machine.items())
        head = ["task", "size", OURS, *PEERS]
        lines = [f"| {' | '.join(texts)} |" for texts in [head, ["---"] * len(head), *map(cells, result["rows"])]]
        parts += [f"## {machine['cpu']}, {result['date']}", f"{facts}.", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
