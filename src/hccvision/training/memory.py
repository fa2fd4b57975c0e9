"""Memory: activation checkpointing, recipes that fit into a memory budget, and a tuned allocator."""

from __future__ import annotations

import copy
import ctypes
import gc
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from tqdm.auto import tqdm

from hccvision.model.model import Model
from hccvision.recipes import Recipe
from hccvision.tasks.task import task_of
from hccvision.training.optimisers import Freezer, build_optimiser, parameter_table, set_learning_rates
from hccvision.training.processes import accelerator
from hccvision.training.randomness import callers_randomness

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # glibc's malloc.h
_UNITS = {"": 1, "B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}
MARGIN = 0.95  # share of the budget that is used, because a measured peak differs a little from run to run


def tune_allocator() -> bool:
    """Make the C library keep freed memory, so that large tensors don't request it from the system each time.

    On two cores a training step of MobileNetV1-SSD300 is then up to twice as fast. In return the process never releases
    memory to the system. It affects the whole process, so nothing in hccvision calls it by itself.

    Returns:
        Whether it took effect; False if the C library isn't glibc.

    Example:
        >>> tune_allocator()  # doctest: +SKIP
        True

    Source:
        mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    most = 2**31 - 1
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, most), mallopt(_MMAP_THRESHOLD, 2**25)])


def fit_memory(
    model: Model, recipe: Recipe, budget: str | int = "2GB", *, device: str = "auto", processes: int = 1
) -> Recipe:
    """Change a recipe so that its training fits into a memory budget, by measuring training steps on random images.

    The changes with the least effect on the training are tried first: the batch in 2, 4, … parts (`Recipe.accumulate`);
    activation checkpointing (`Recipe.checkpointing`), which costs a third more time; on CUDA, half precision with each
    of these; and last a smaller batch.

    Args:
        model: to be trained; it is moved to the device and otherwise left unchanged.
        recipe: to change.
        budget: number of bytes, or text such as ``"2GB"`` (1 GB = 2**30 bytes). On CUDA, of the memory that torch
            reserves; the CUDA context takes 0.3 to 0.5 GB more. On a CPU, of the memory of the whole process, with
            Python and torch.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        processes: number of processes that share a batch.

    Returns:
        The recipe, with another ``accumulate``, ``checkpointing``, ``precision`` or ``batch`` if necessary.

    Raises:
        ValueError: if the budget can't be parsed, or is less than a byte.
        MemoryError: if nothing fits; the message says how much the smallest candidate takes.

    Example:
        >>> from hccvision.model.build import build_model
        >>> model = build_model("mobilenet_v1", "ssd", classes=["hcc"], backbone_options={"width": 0.25})
        >>> fitting = fit_memory(model, Recipe(batch=2), "64GB", device="cpu")
        batch 2, fp32: ... GB of 64.00 GB
        >>> fitting.accumulate
        1
    """
    limit = _bytes(budget)
    trainer = accelerator(device)
    wanted = trainer.device
    model.to(wanted).to(memory_format=torch.channels_last)
    measured = ""
    for candidate in _candidates(model, recipe, wanted, processes):
        try:
            taken = measure(model, candidate, device=device, processes=processes)
        except torch.OutOfMemoryError:
            taken = limit + 1
        measured = f"{_describe(candidate)}: {'more than ' * (taken == limit + 1)}{taken / 2**30:.2f} GB"
        tqdm.write(f"{measured} of {limit / 2**30:.2f} GB")
        if taken <= MARGIN * limit:
            return candidate
    raise MemoryError(
        f"this model can't be trained in {limit / 2**30:.2f} GB on {wanted}: {measured} is the least. Freeze the "
        "backbone, or use a smaller image_size or another model"
    )


def measure(model: Model, recipe: Recipe, *, device: str = "auto", processes: int = 1, steps: int = 2) -> int:
    """Measure the peak memory of training steps on random images.

    Args:
        model: on its device; its weights and statistics are left unchanged.
        recipe: of the training.
        device: where to train.
        processes: number of processes that share a batch.
        steps: number of steps.

    Returns:
        Bytes: on CUDA the most that torch reserved, on a CPU the most that the whole process used.
    """
    trainer = accelerator(device, recipe.precision)
    before = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    mode, freezer = model.training, Freezer(model, recipe)

    def train() -> None:
        with freezer(), checkpointed(model, recipe.checkpointing):
            freezer.train(recipe.epochs)  # the last epoch, with all parts thawed, takes the most memory
            kept = [copy.deepcopy(model.state_dict()) for _ in range(1 + (recipe.ema is not None))]
            optimiser = trainer.prepare(build_optimiser(model, recipe))
            set_learning_rates(optimiser, 0.0)
            share = -(-recipe.batch // processes)
            for _ in range(steps):
                images = torch.rand(share, model.in_channels, *model.image_size, device=trainer.device)
                images = images.contiguous(memory_format=torch.channels_last)
                targets = task_of(model).example_targets(share, model.image_size).to(trainer.device)
                for rows in torch.arange(share, device=trainer.device).chunk(recipe.accumulate):
                    with trainer.autocast():
                        output = model(images[rows])
                    loss = model.loss(output, targets.take(rows), name=recipe.loss)
                    trainer.backward(loss["loss"])
                    del output, loss
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            del kept, optimiser

    try:
        with callers_randomness(trainer.device):
            return _peak(train, trainer.device)
    finally:
        model.zero_grad(set_to_none=True)
        model.load_state_dict(before)
        model.train(mode)


@contextmanager
def checkpointed(model: Model, on: bool) -> Iterator[None]:
    """Use activation checkpointing in a model's backbone until the end of the block.

    Args:
        model: its backbone has an attribute ``checkpointing``, as the library's own and timm's have.
        on: False changes nothing.

    Raises:
        ValueError: if the backbone doesn't support activation checkpointing.
    """
    backbone: Any = model.backbone
    if on and not hasattr(backbone, "checkpointing"):
        raise ValueError(
            f"the recipe's checkpointing needs a backbone with an attribute checkpointing, and "
            f"{type(backbone).__name__} has none: see backbones.checkpointing.run, or set checkpointing=False"
        )
    if on:
        backbone.checkpointing = True
    try:
        yield
    finally:
        if on:
            backbone.checkpointing = False


def _candidates(model: Model, recipe: Recipe, device: torch.device, processes: int) -> Iterator[Recipe]:
    """Yield recipes from the unchanged one to the one that takes the least memory."""
    share = max(1, recipe.batch // processes)
    parts = sorted({min(share, recipe.accumulate * 2**i) for i in range(12)} | {share})
    ways: list[dict[str, Any]] = [{}]
    trained = any(row.group == "backbone" for row in parameter_table(model, recipe))
    if hasattr(model.backbone, "checkpointing") and trained:
        ways.append({"checkpointing": True})
    if device.type == "cuda" and recipe.precision == "fp32":
        half = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        ways += [{**way, "precision": half} for way in list(ways)]
    for way in ways:
        for accumulate in [p for p in parts if p >= recipe.accumulate]:
            yield replace(recipe, accumulate=accumulate, **way)
    batch = recipe.batch
    while batch > processes:
        batch //= 2
        yield replace(recipe, batch=batch, accumulate=max(1, batch // processes), **ways[-1])


def _peak(work: Callable[[], None], device: torch.device) -> int:
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_reserved(device)
    import psutil  # comes with accelerate

    _release()
    process, done, seen = psutil.Process(), threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.002):
            seen[0] = max(seen[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(seen[0], process.memory_info().rss)


def _release() -> None:
    """Release free memory to the system, so that it doesn't count in the next measurement."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _bytes(budget: str | int) -> int:
    if isinstance(budget, str):
        hit = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?B?)\s*", budget, re.IGNORECASE)
        unit = hit[2].upper() if hit else "?"
        unit = f"{unit}B" if unit in ("K", "M", "G") else unit
        if hit is None or unit not in _UNITS:
            raise ValueError(f'expected a budget in bytes, or text such as "2GB" or "900 MB", got {budget!r}')
        budget = int(float(hit[1]) * _UNITS[unit])
    if budget < 1:
        raise ValueError(f"expected a budget of at least 1 byte, got {budget}")
    return budget


def _describe(recipe: Recipe) -> str:
    parts = f" in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""
    return f"batch {recipe.batch}{parts}, {recipe.precision}{', checkpointing' * recipe.checkpointing}"
