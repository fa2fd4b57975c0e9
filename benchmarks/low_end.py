"""Speed and memory of the paper's two models on this machine: training and inference, on the CPU and in 2 GB of CUDA.

python benchmarks/low_end.py            # a few minutes on two cores; results go to benchmarks/results/
python benchmarks/low_end.py --quick    # smoke test with tiny images; its numbers mean nothing

VGG-16 with the paper's 512-512 head at 224 pixels, batch 8; MobileNetV1-SSD300 at 300 pixels, batch 5; float32,
channels last. A training step is forward, loss, backward and optimiser; inference is forward and decoding; neither
includes reading or augmenting images. The whole recipe is `hv.fit` with the paper's recipe on files, all included, in
float32 and in half precision. Weights are random, so the SSD decodes more candidates than a trained one. Each row is
measured in a process of its own.
"""

import argparse
import contextlib
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

GB = 2**30
CAP, SMALL_CARD = 2 * GB, 4.5 * GB  # of CUDA memory; a card of up to 4 GB is not capped, to show its own speed
MODELS = {"VGG-16": ("vgg16", "linear", ["normal", "cancer"]), "MobileNetV1-SSD300": ("mobilenet_v1", "ssd", ["hcc"])}
CASES = (  # model, work, batch
    ("VGG-16", "training, convolutions frozen", 8),
    ("VGG-16", "training, all layers", 8),
    ("VGG-16", "inference", 8),
    ("VGG-16", "inference", 1),
    ("MobileNetV1-SSD300", "training, all layers", 5),
    ("MobileNetV1-SSD300", "inference", 5),
    ("MobileNetV1-SSD300", "inference", 1),
    *(("VGG-16", f"whole recipe, {precision}", 8) for precision in ("fp32", "bf16", "fp16")),
    *(("MobileNetV1-SSD300", f"whole recipe, {precision}", 5) for precision in ("fp32", "bf16", "fp16")),
)
HEAD = ["model", "work", "batch", "on", "images/s", "ms per step", "ms, 95 %", "peak MB"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each measurement; slow steps take longer")
    parser.add_argument("--out", type=Path, help="folder for the results (default: benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="smoke test; writes nothing unless --out is given")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        row = measure(json.loads(args.child))
        print(json.dumps([describe(), row]))  # after measuring, because describing the card takes memory
        return

    seconds, cases = (0.2, [CASES[0], CASES[6], CASES[7]]) if args.quick else (args.seconds, CASES)
    out = args.out or (None if args.quick else Path(__file__).parent / "results")
    machine: dict[str, Any] = {"card": None}
    for device, counts in (("cpu", [1] if args.quick else [1, 2]), ("cuda", [2])):
        if device == "cuda" and machine["card"] is None:
            print("torch finds no CUDA device here: only the CPU was measured")
            break
        rows = []
        for threads, (model, work, batch) in itertools.product(counts, cases):
            if device == "cpu" and "fp16" in work:
                continue
            case = {"model": model, "work": work, "batch": batch, "device": device, "threads": threads}
            machine, row = in_child({**case, "seconds": seconds, "quick": args.quick})
            rows.append(case | row)
            print("  ".join(cells(rows[-1])), flush=True)
        if out is not None:
            name = re.sub(r"[^a-z0-9]+", "-", machine["cpu" if device == "cpu" else "card"].lower()).strip("-")
            day = f"{date.today()}{' (quick: no result)' * args.quick}"
            result = {"date": day, "machine": machine, "rows": rows}
            write(out / f"low_end-{device}-{name}.json", json.dumps(result, indent=2) + "\n")
            print(f"written: {write(out / 'low_end.md', page(out))}")
    cuda = [f"{row.get('images_per_second', '–')}" for row in rows if row["device"] == "cuda"]
    entry = [machine["card"] or "…", f"{machine['card_gb'] or '…'}", machine["torch"], *(cuda or ["…"] * len(CASES))]
    print(f"\nOwners of a card of 2 to 4 GB: please add this row to benchmarks/README.md.\n| {' | '.join(entry)} |")


def in_child(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Measure in a process of its own; this one never imports torch, as a child inherits its parent's peak memory."""
    env = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(task["threads"]))
    command = [sys.executable, __file__, "--child", json.dumps(task)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise SystemExit(f"{task} failed with code {done.returncode} (−9: out of memory):\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def describe() -> dict[str, Any]:
    """Describe this machine, without names and paths."""
    import psutil  # comes with accelerate
    import torch

    info = Path("/proc/cpuinfo")
    hit = re.search(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8")) if info.exists() else None
    card = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "cpu": hit[1] if hit else platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(logical=False),
        "threads": psutil.cpu_count(),
        "ram_gb": round(psutil.virtual_memory().total / GB, 1),
        "torch": torch.__version__,
        "card": card.name if card else None,
        "card_gb": round(card.total_memory / GB, 1) if card else None,
    }


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Build a model, time its steps and measure the peak memory."""
    import torch

    import hccvision as hv

    model, work, batch, device = (task[key] for key in ("model", "work", "batch", "device"))
    torch.set_num_threads(task["threads"])
    limits = cap_memory() if device == "cuda" else {"before_model_mb": peak_memory() >> 20}
    backbone, head, classes = MODELS[model]
    network = hv.build_model(backbone, head, classes=classes, image_size=64 if task["quick"] else None)
    recipe = hv.recipes.paper_vgg16() if model == "VGG-16" else hv.recipes.paper_ssd()
    if "recipe" in work:
        try:
            times = epochs(network, replace(recipe, precision=work[-4:]), device, task)
        except torch.OutOfMemoryError:
            return limits | {"fits": False}
        return limits | figures(times, batch, device)
    network.to(memory_format=torch.channels_last).to(device)

    images = torch.rand(batch, 3, *network.image_size, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last).to(device)
    lesions = torch.tensor([[0.3, 0.3, 0.5, 0.5], [0.6, 0.4, 0.9, 0.7]]) * network.image_size[0]
    counts = torch.arange(batch) % 2 * 2  # every other slice has no lesion
    targets = hv.Targets.pad([lesions[:n] for n in counts], [torch.zeros(int(n)) for n in counts], counts // 2)

    if work == "inference":
        network.eval()
        step: Callable[[], object] = torch.inference_mode()(lambda: network.decode(network(images)))
    else:
        recipe = recipe if "frozen" in work else replace(recipe, frozen=())
        step = training_step(network, images, targets.to(device), recipe)
    try:
        times = timed(step, task["seconds"], least=20 if batch == 1 and not task["quick"] else 3)
    except torch.OutOfMemoryError:
        return limits | {"fits": False}
    return limits | figures(times, batch, device)


def figures(times: list[float], batch: int, device: str) -> dict[str, Any]:
    """Compute the figures of a row from the seconds of each step, and the peak memory."""
    import torch

    median = statistics.median(times)
    return {
        "images_per_second": round(batch / median, 2),
        "ms_median": round(median * 1e3, 2),
        "ms_p95": round(statistics.quantiles(times, n=20, method="inclusive")[-1] * 1e3, 2),
        "repeats": len(times),
        "peak_mb": (peak_memory() if device == "cpu" else torch.cuda.max_memory_reserved()) >> 20,
    }


def epochs(network: Any, recipe: Any, device: str, task: dict[str, Any]) -> list[float]:
    """Train on files of the phantom; return the mean seconds for a batch over three epochs, twice."""
    import hccvision as hv

    with tempfile.TemporaryDirectory() as folder:
        hv.phantom.write_dataset(Path(folder) / "liver", patients=2 if task["quick"] else 10, slices=4, seed=0)
        data = hv.read_voc_folder(Path(folder) / "liver")
        if task["model"] == "VGG-16":
            data = [hv.Sample(s.path, s.patient, "cancer" if s.names else "normal") for s in data]

        def seconds(count: int) -> float:
            start = time.perf_counter()
            with contextlib.redirect_stdout(sys.stderr):
                hv.fit(network, data, recipe=replace(recipe, epochs=count), device=device)
            return time.perf_counter() - start

        seconds(1)  # warm-up
        epoch = max(seconds(4) - seconds(1), 1e-3) / 3
    return [epoch * recipe.batch / len(data)] * 2


def training_step(network: Any, images: Any, targets: Any, recipe: Any) -> Callable[[], object]:
    """Return a training step of a recipe: forward, loss, backward and optimiser."""
    import torch

    network.train()
    for part in recipe.frozen:
        network.get_submodule(part).requires_grad_(False).eval()
    kind: Any = partial(torch.optim.SGD, momentum=recipe.momentum) if recipe.optimiser == "sgd" else torch.optim.Adam
    optimiser = kind(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)

    def step() -> None:
        network.loss(network(images), targets)["loss"].backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def timed(step: Callable[[], object], seconds: float, *, least: int) -> list[float]:
    """Warm up, then time steps for at least `seconds` and at least `least` steps."""
    import torch

    def once() -> float:
        start = time.perf_counter()
        step()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    warm = once()
    while warm < seconds / 4:
        warm += once()
    times = [once() for _ in range(least)]
    while sum(times) < seconds:
        times.append(once())
    return times


def cap_memory() -> dict[str, Any]:
    """Limit torch to the memory that a 2 GB card would have for it: 2 GB less the CUDA context."""
    import torch

    torch.zeros(1, device="cuda")
    free, total = torch.cuda.mem_get_info()
    context = min(total - free, GB // 2)  # of CUDA; more than that belongs to other programs
    if total > SMALL_CARD:
        torch.cuda.set_per_process_memory_fraction((CAP - context) / total)
    limit = CAP if total > SMALL_CARD else total
    return {"fits": True, "capped": limit < total, "limit_gb": round(limit / GB, 1), "context_mb": context >> 20}


def peak_memory() -> int:
    """Return the peak memory of this process in bytes."""
    if platform.system() == "Windows":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row of figures as texts."""
    where = "CUDA" if row["device"] == "cuda" else f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"
    texts = [row["model"], row["work"], str(row["batch"]), where, *"––––"]
    if "images_per_second" in row:
        p95 = f"{row['ms_p95']:.1f}" if row["batch"] == 1 else "–"  # meaningless for a few steps
        texts[4:] = [f"{row['images_per_second']:.1f}", f"{row['ms_median']:.1f}", p95, str(row["peak_mb"])]
    return texts + (["yes" if row["fits"] else "no"] if "fits" in row else [])


def page(folder: Path) -> str:
    """Return all results in a folder as one Markdown page."""
    parts = ["# The paper's models on small machines", "Made by `benchmarks/low_end.py`."]
    for path in sorted(folder.glob("low_end-*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        machine, rows = result["machine"], result["rows"]
        name, fits = machine["cpu"], []
        if rows[0]["device"] == "cuda":
            name, fits = machine["card"], [f"fits in {rows[0]['limit_gb']:g} GB (speed is that of {machine['card']})"]
            note = "Memory is CUDA's." + " The cap shows what fits, not how fast a small card is." * rows[0]["capped"]
        else:
            before = max(row["before_model_mb"] for row in rows)
            note = f"Memory is the whole process's; {before} MB of it are Python and torch, without a model."
        facts = ", ".join(f"{k.removesuffix('_gb')} {v}{' GB' * k.endswith('_gb')}" for k, v in machine.items() if v)
        table = [HEAD + fits, ["---"] * len(HEAD + fits), *map(cells, rows)]
        lines = "\n".join(f"| {' | '.join(texts)} |" for texts in table)
        parts += [f"## {name}, {result['date']}", f"{facts}.", note, lines]
    return "\n\n".join(parts) + "\n"


def write(path: Path, text: str) -> Path:
    """Write a file completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    return unfinished.replace(path)


if __name__ == "__main__":
    main()
