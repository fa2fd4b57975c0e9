"""The training loop, on Accelerate."""

from __future__ import annotations

import copy
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, Sampler, WeightedRandomSampler
from tqdm.auto import tqdm

from hccvision.contracts import Sample
from hccvision.data.dataset import Batch, SliceDataset, collate, to_float
from hccvision.data.linter import usable
from hccvision.data.samplers import PatientSampler
from hccvision.evaluation import find_metrics, ground_truth, metric_task
from hccvision.model import Model
from hccvision.prediction import choose_device, to_original
from hccvision.recipes import Recipe, quick
from hccvision.registry import AUGMENTATIONS
from hccvision.training.checkpoints import History, Run

DEFAULT_METRICS = {
    "classification": ("balanced_accuracy",),
    "multilabel": ("multilabel_auc",),
    "detection": ("voc_map",),
}


def fit(
    model: Model,
    train: Sequence[Sample],
    val: Sequence[Sample] | None = None,
    *,
    recipe: Recipe | None = None,
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str = "auto",
    metrics: Sequence[str] | None = None,
    seed: int | None = None,
    on_problem: str = "raise",
    cache: str | os.PathLike[str] | None = None,
) -> History:
    """Train a model; afterwards it holds the weights of the best epoch.

    Args:
        model: is trained in place.
        train: samples to learn from.
        val: samples to watch; None: none are, and the last epoch counts as the best.
        recipe: how to train; None: `recipes.quick`.
        run: folder for the history and the best and last model; None: nothing is written.
        resume: go on with the run in that folder, if there is one. An interrupted run goes on from its last whole
            epoch, to the same weights as if it had not been interrupted.
        device: ``"auto"`` (CUDA if there is one), ``"cpu"`` or ``"cuda"``.
        metrics: registered names, computed on ``val`` after each epoch; None: mAP, balanced accuracy or, for
            several labels, the mean AUC.
        seed: instead of the recipe's.
        on_problem: ``"raise"`` or ``"skip"``, see `linter.usable`.
        cache: a folder for the decoded slices, shared with other processes and later runs, see `ImageCache`; None: they
            are kept in memory as long as they fit.

    Returns:
        The history.

    Raises:
        KeyError: for an unknown metric or augmentation; the message lists the known ones.
        ValueError: for samples with problems (unless skipped) or of classes the model doesn't know, a metric of the
            other task, or a recipe that doesn't fit the model or, on resuming, the run.
        FileExistsError: if the run folder is in use and ``resume`` is False.
        FloatingPointError: if the loss becomes infinite or NaN; the message names the batch's files.

    Example:
        >>> from hccvision import phantom
        >>> from hccvision.data.folders import read_voc_folder
        >>> from hccvision.model import build_model
        >>> import tempfile
        >>> data = read_voc_folder(phantom.write_dataset(tempfile.mkdtemp() + "/liver", patients=2, slices=2, seed=0))
        >>> model = build_model("mobilenet_v1", "ssd", classes=["hcc"], backbone_options={"width": 0.25})
        >>> history = fit(model, data, recipe=Recipe(epochs=1, batch=4), device="cpu")
        epoch 1  learning_rate 0.001  train_loss ...
        >>> sorted(history.rows[0])
        ['epoch', 'learning_rate', 'train_classification', 'train_loss', 'train_regression']
    """
    recipe = recipe or quick()
    recipe = recipe if seed is None else replace(recipe, seed=seed)
    names = DEFAULT_METRICS[metric_task(model)] if metrics is None else tuple(metrics)
    scorers = find_metrics(names, metric_task(model))
    augment = AUGMENTATIONS.build(recipe.augmentation)
    datasets = {"train": _dataset(train, model, on_problem, cache)}
    if val is not None:
        datasets["val"] = _dataset(val, model, on_problem, cache)
    accelerator = _accelerator(device)
    with _frozen(model, recipe.frozen) as train_mode, torch.random.fork_rng():
        model.to(memory_format=torch.channels_last)
        optimiser = _optimiser(model, recipe)
        folder = None if run is None else Run(run, recipe, model, resume=resume)
        shuffle = torch.Generator()
        draws = torch.Generator()
        sampler = _sampler(datasets["train"], recipe, shuffle)
        loader = DataLoader(datasets["train"], recipe.batch, sampler=sampler, collate_fn=collate)
        network, optimiser, loader = accelerator.prepare(model, optimiser, loader)
        history = History(run=None if folder is None else folder.folder)
        best = copy.deepcopy(model.state_dict())
        if folder is not None and (state := folder.load()) is not None:
            history.rows, history.best = state["history"], state["best"]
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            best = _best_weights(folder)
        try:
            for epoch in range(len(history), recipe.epochs):
                # Every draw of an epoch follows from the seed and its number alone, so a resumed run repeats it.
                for generator in (shuffle, draws, torch.random):
                    generator.manual_seed(recipe.seed * 1_000_003 + epoch)
                train_mode()
                totals = _Mean()
                bar = tqdm(loader, desc=f"epoch {epoch + 1}/{recipe.epochs}", leave=False, disable=None)
                for step, batch in enumerate(bar):
                    rate = _set_learning_rate(optimiser, recipe, epoch, step, len(loader))
                    images, targets = augment(to_float(batch.images), batch.targets, draws)
                    parts = model.loss(network(images), targets, name=recipe.loss)
                    _require_finite(parts["loss"], batch, datasets["train"], epoch)
                    accelerator.backward(parts["loss"])
                    if recipe.clip_norm is not None:
                        accelerator.clip_grad_norm_(network.parameters(), recipe.clip_norm)
                    optimiser.step()
                    optimiser.zero_grad(set_to_none=True)
                    totals.add(parts, len(batch.indices))
                    bar.set_postfix({k: f"{v:.3f}" for k, v in totals.means().items()})
                row: dict[str, float] = {"epoch": epoch + 1, "learning_rate": rate}
                row |= {f"train_{k}": v for k, v in totals.means().items()}
                if "val" in datasets:
                    figures = _validate(model, datasets["val"], recipe, scorers, epoch)
                    row |= {f"val_{k}": v for k, v in figures.items()}
                    if recipe.monitor not in row:
                        raise ValueError(
                            f"the recipe monitors {recipe.monitor!r}, which is not in the history; it has: "
                            f"{', '.join(row)}"
                        )
                is_best = history.add(row, recipe.monitor)
                if is_best:
                    best = copy.deepcopy(model.state_dict())
                if folder is not None:
                    folder.save(model, history, optimiser.state_dict(), is_best=is_best)
                tqdm.write(
                    "  ".join(f"{k} {v:.4g}" for k, v in row.items())
                    + ("  (best)" if is_best and "val" in datasets else "")
                )
        except KeyboardInterrupt:
            where = f"; go on with run={str(folder.folder)!r}, resume=True" if folder is not None else ""
            tqdm.write(f"stopped after {len(history)} whole epochs{where}")
            raise
    model.load_state_dict(best)
    model.eval()
    if folder is not None:
        tqdm.write(f"written to {folder.folder}: best.safetensors, last.safetensors, history.csv")
    return history


class _Mean:
    """Averages named scalars over images, so that a smaller last batch counts for less."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.count = 0

    def add(self, parts: dict[str, Tensor], images: int) -> None:
        for name, value in parts.items():
            self.sums[name] += float(value.detach()) * images
        self.count += images

    def means(self) -> dict[str, float]:
        return {name: total / max(1, self.count) for name, total in self.sums.items()}


def _dataset(
    samples: Sequence[Sample], model: Model, on_problem: str, cache: str | os.PathLike[str] | None
) -> SliceDataset:
    return SliceDataset(
        usable(samples, on_problem),
        task=model.task,
        classes=model.classes,
        image_size=model.image_size,
        resize=model.resize,
        channels=model.in_channels,
        multilabel=model.multilabel,
        window=model.window,
        cache=cache,
    )


def _sampler(dataset: SliceDataset, recipe: Recipe, generator: torch.Generator) -> Sampler[int]:
    classes = [bool(s.annotation) if dataset.by_boxes else s.class_name for s in dataset.samples]
    if recipe.per_patient is not None:
        unknown = [str(s.path) for s in dataset.samples if s.patient is None]
        if unknown:
            raise ValueError(
                f"{unknown[0]}: the recipe's per_patient counts slices by patient, and this one's is not known: read "
                "the folder with patient=, or leave per_patient out"
            )
        return PatientSampler(
            [s.patient for s in dataset.samples],
            recipe.per_patient,
            classes=classes if recipe.balanced else None,
            generator=generator,
        )
    if not recipe.balanced:
        return RandomSampler(dataset, generator=generator)
    counts = Counter(classes)
    return WeightedRandomSampler([1 / counts[c] for c in classes], len(classes), generator=generator)


def _accelerator(device: str) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    wanted = choose_device(device)
    if PartialState._shared_state and PartialState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)  # an earlier fit may have used another device
    return Accelerator(cpu=wanted.type == "cpu")


@contextmanager
def _frozen(model: Model, parts: Sequence[str]) -> Iterator[Any]:
    """Freeze parts by the start of their names; yields what puts the rest into training mode."""

    def concerned(name: str) -> bool:
        return any(name == p or name.startswith(f"{p}.") for p in parts)

    for part in parts:
        if not any(name == part or name.startswith(f"{part}.") for name, _ in model.named_parameters()):
            raise ValueError(
                f"the recipe freezes {part!r}, and the model has no such part; parts are backbone, head, …"
            )
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    frozen = [m for name, m in model.named_modules() if concerned(name)]
    for name, p in model.named_parameters():
        p.requires_grad_(flags[name] and not concerned(name))

    def train_mode() -> None:
        model.train()
        for module in frozen:
            module.eval()

    try:
        yield train_mode
    finally:
        for name, p in model.named_parameters():
            p.requires_grad_(flags[name])


def _optimiser(model: Model, recipe: Recipe) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = []
    for part, rate in (
        (model.backbone, recipe.learning_rate),
        (model.head, recipe.head_learning_rate or recipe.learning_rate),
    ):
        parameters = [p for p in part.parameters() if p.requires_grad]
        if parameters:
            groups.append({"params": parameters, "lr": rate, "base_lr": rate})
    if not groups:
        raise ValueError("the recipe freezes every parameter: nothing is left to train")
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimiser]
    return kind(groups, weight_decay=recipe.weight_decay)


def _set_learning_rate(
    optimiser: torch.optim.Optimizer, recipe: Recipe, epoch: int, step: int = 0, steps: int = 1
) -> float:
    factor = 1.0 if recipe.schedule == "constant" else (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2
    done = epoch * steps + step + 1
    factor *= min(1.0, done / max(1.0, recipe.warmup * steps))
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor
    return float(optimiser.param_groups[-1]["lr"])


def _require_finite(loss: Tensor, batch: Batch, dataset: SliceDataset, epoch: int) -> None:
    if not math.isfinite(float(loss.detach())):
        files = ", ".join(str(dataset.samples[i].path) for i in batch.indices.tolist())
        raise FloatingPointError(
            f"the loss became {float(loss.detach())} in epoch {epoch + 1}, on the batch of {files}: look at these "
            "files with hv.check, or lower the learning rate"
        )


def _batches(dataset: SliceDataset, batch: int, device: torch.device) -> Iterable[Batch]:
    for b in DataLoader(dataset, batch, collate_fn=collate):
        yield Batch(b.images.to(device), b.targets.to(device), b.indices)


@torch.inference_mode()
def _validate(
    model: Model, dataset: SliceDataset, recipe: Recipe, scorers: dict[str, Any], epoch: int
) -> dict[str, float]:
    """Loss, its parts and the metrics on a data set; the metrics are those that ``hv.evaluate`` would give."""
    model.eval()
    totals = _Mean()
    predictions: list[Any] = []
    for batch in _batches(dataset, recipe.batch, model.device):
        output = model(to_float(batch.images))
        parts = model.loss(output, batch.targets, name=recipe.loss)
        _require_finite(parts["loss"], batch, dataset, epoch)
        totals.add(parts, len(batch.indices))
        decoded = model.decode(output)
        if model.task == "classification":
            predictions += decoded.cpu().tolist()
        else:
            placed = zip(decoded, map(dataset.placement, batch.indices.tolist()), strict=True)
            predictions += [to_original(found, placement).as_dict() for found, placement in placed]
    figures = totals.means()
    truths = ground_truth(dataset.samples, model)
    options = {"positive": model.classes.index(model.positive)} if metric_task(model) == "classification" else {}
    for scorer in scorers.values():
        figures |= scorer(predictions, truths, classes=model.classes, **options)
    return figures


def _best_weights(folder: Run) -> dict[str, Tensor]:
    from hccvision.weights import read_tensors

    return read_tensors(folder.best)
