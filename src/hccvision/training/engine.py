"""The training loop, on Accelerate."""

from __future__ import annotations

import copy
import math
import os
import signal
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, RandomSampler, Sampler, WeightedRandomSampler
from tqdm.auto import tqdm

from hccvision.augment import Augmentation
from hccvision.contracts import Sample, Targets
from hccvision.data.dataset import Batch, SliceDataset, collate, to_float
from hccvision.data.linter import usable
from hccvision.data.samplers import PatientSampler
from hccvision.evaluation import find_metrics, ground_truth, metric_task
from hccvision.model import Model
from hccvision.prediction import to_original
from hccvision.recipes import Recipe, quick
from hccvision.registry import AUGMENTATIONS
from hccvision.training.checkpoints import History, Run
from hccvision.training.feature_cache import FeatureCache, Views, augment_views
from hccvision.training.memory import checkpointed
from hccvision.training.optimisers import Freezer, build_optimiser, frozen_epochs, rate_factor, set_learning_rates
from hccvision.training.processes import (
    accelerator,
    add_up,
    average_batch_norms,
    broadcast,
    gather,
    share,
    sum_gradients,
)
from hccvision.training.randomness import Randomness, callers_randomness
from hccvision.weights import read_tensors

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
    save_every: int | None = None,
    device: str = "auto",
    metrics: Sequence[str] | None = None,
    seed: int | None = None,
    on_problem: str = "raise",
    cache: str | os.PathLike[str] | None = None,
    feature_cache: bool | str | os.PathLike[str] = False,
) -> History:
    """Train a model; afterwards it holds the weights of the best epoch.

    The same call trains in one process or, under ``torchrun`` or ``accelerate launch``, in many: each takes its share
    of every batch, all make the same step, and the first one alone writes.

    Args:
        model: is trained in place.
        train: samples to learn from.
        val: samples to watch; None: none are, and the last epoch counts as the best.
        recipe: how to train; None: `recipes.quick`.
        run: folder for recipe, history, curves, a list of the data's files, the best and last model and the state to
            go on from, see `Run`; None: nothing is written.
        resume: go on with the run in that folder, if there is one. An interrupted run goes on from its last saved step,
            to the same weights as if it had not been interrupted; Ctrl-C saves the step it is at.
        save_every: save the state after so many steps, besides after each epoch; None: after each epoch only.
        device: ``"auto"`` (CUDA if there is one), ``"cpu"``, ``"cuda"`` or, for a single process, ``"cuda:1"``.
        metrics: registered names, computed on ``val`` after each epoch; None: mAP, balanced accuracy or, for
            several labels, the mean AUC.
        seed: instead of the recipe's.
        on_problem: ``"raise"`` or ``"skip"``, see `linter.usable`.
        cache: a folder for the decoded slices, shared with other processes and later runs, see `ImageCache`; None: they
            are kept in memory as long as they fit.
        feature_cache: where the backbone is frozen, compute its features once, for all `Recipe.views`, and train the
            head from these, see `FeatureCache`: to the same weights, in a fraction of the time. A path is the folder
            for the file that takes features which outgrow the memory.

    Returns:
        The history.

    Raises:
        KeyError: for an unknown metric or augmentation; the message lists the known ones.
        ValueError: for samples with problems (unless skipped) or of classes the model doesn't know, a metric of the
            other task, a recipe or, on resuming, data that don't fit the model or the run, or a feature cache of what
            changes from epoch to epoch.
        FileExistsError: if the run folder is in use and ``resume`` is False.
        FloatingPointError: if the loss becomes infinite or NaN; the message names the batch's files.
        OSError: if the run folder can't be written to; what was there before still is.

    Example:
        >>> from hccvision import phantom
        >>> from hccvision.annotations.voc_folder import read_voc_folder
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
    _require_an_end(recipe, val, save_every, run)
    if feature_cache is not False:
        _require_still(model, recipe)
    datasets = {"train": _dataset(train, model, on_problem, cache)}
    if val is not None:
        datasets["val"] = _dataset(val, model, on_problem, cache)
    processes = accelerator(device, recipe.precision)
    freezer = Freezer(model, recipe)
    with freezer(), checkpointed(model, recipe.checkpointing), callers_randomness(processes.device):
        model.to(processes.device).to(memory_format=torch.channels_last)
        training = _Training(model, datasets, recipe, augment, scorers, freezer, processes, save_every)
        training.open(run, resume)
        if feature_cache is not False:
            training.keep_features(None if feature_cache is True else feature_cache)
        training.run()
        gather(None, processes)  # waits until the first has written all
    model.load_state_dict(training.best)
    model.eval()
    return training.history


class _Training:
    """A training under way: what a step, an epoch and a state consist of."""

    def __init__(
        self,
        model: Model,
        datasets: dict[str, SliceDataset],
        recipe: Recipe,
        augment: Augmentation,
        scorers: dict[str, Any],
        freezer: Freezer,
        processes: Any,
        save_every: int | None,
    ) -> None:
        self.model = model
        self.datasets = datasets
        self.recipe = recipe
        self.augment = augment
        self.scorers = scorers
        self.freezer = freezer
        self.processes = processes
        self.save_every = save_every
        self.optimiser = processes.prepare(build_optimiser(model, recipe))
        self.average = None
        if recipe.ema is not None:
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
        self.random = Randomness()
        self.views = {name: Views(dataset) for name, dataset in datasets.items()}
        if recipe.views is not None:
            self.views["train"] = Views(datasets["train"], recipe.views)
        self.features: dict[str, FeatureCache] = {}
        self.sampler = _sampler(self.views["train"], recipe, self.random.shuffle)
        self.loss_options = _loss_options(model, datasets["train"], recipe, processes.device)
        self.history = History()
        self.best = copy.deepcopy(model.state_dict())
        self.step = 0  # steps done of the epoch under way, whose losses so far are these
        self.totals = _Mean()
        self.folder: Run | None = None
        self.interrupted = False

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return len(self.history)

    @property
    def judged(self) -> Model:
        """The model that is validated and kept: the averaged one, if there is one."""
        return self.model if self.average is None else cast(Model, self.average.module)

    @property
    def draws_alike(self) -> bool:
        """Whether every process augments the whole batch, so that images are augmented as they would be by one."""
        drawn = self.recipe.augmentation != "none" and self.recipe.views is None
        return self.processes.num_processes > 1 and drawn

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return bool(self.processes.is_main_process)

    # the run

    def keep_features(self, folder: str | os.PathLike[str] | None) -> None:
        """Compute the frozen backbone's features of all views and of the validation images."""
        self.freezer.train(0)
        with callers_randomness(self.processes.device):  # a training that goes on has its random numbers already
            for name, views in self.views.items():
                augment = self.augment if name == "train" and self.recipe.views is not None else None
                self.features[name] = FeatureCache(
                    self.model, views, augment, seed=self.recipe.seed, processes=self.processes, folder=folder,
                    batch=-(-self.recipe.batch // self.recipe.accumulate),
                )  # fmt: skip

    def run(self) -> None:
        """Train from where the training stands to its end."""
        with _interrupts(self._interrupt if self.history.run is not None else None):
            try:
                while not self._finished():
                    self._train_epoch()
                    self._close_epoch()
            except KeyboardInterrupt:
                self._say(f"stopped after {self.epoch} whole epochs" + self._how_to_go_on())
                raise
            finally:
                self.optimiser.zero_grad(set_to_none=True)
        if self.folder is not None:
            self.folder.finish(self.history)
            self._say(f"written to {self.folder.folder}: best.safetensors, last.safetensors, history.csv")

    def _finished(self) -> bool:
        waited = 0 if self.history.best is None else self.epoch - 1 - self.history.best
        if self.epoch < self.recipe.epochs and waited >= (self.recipe.patience or math.inf):
            self._say(f"stopped early: {self.recipe.monitor} has not become better in {waited} epochs")
            return True
        return self.epoch >= self.recipe.epochs

    def _train_epoch(self) -> None:
        """Make the steps that are still to do in this epoch."""
        resumed = self.random.state() if self.step else None
        self.random.seed(self.recipe.seed, epoch=self.epoch, process=self.processes.process_index)
        self.freezer.train(self.epoch)
        batches = _cut(list(self.sampler), self.recipe.batch)
        loader = iter(self._loader("train", batches[self.step :], whole=self.draws_alike))
        if resumed is not None:
            self.random.restore(resumed)
        title = f"epoch {self.epoch + 1}/{self.recipe.epochs}"
        with self._bar(total=len(batches), initial=self.step, desc=title) as bar:
            for numbers, batch in zip(batches[self.step :], loader, strict=True):
                factor = rate_factor(self.recipe, self.epoch, self.step, len(batches))
                set_learning_rates(self.optimiser, factor)
                self.totals.add(self._step(batch, numbers), len(numbers))
                self.step += 1
                bar.update()
                bar.set_postfix({k: f"{v:.3f}" for k, v in self.totals.means().items()})
                self._pause(self.epoch * len(batches) + self.step, in_epoch=self.step < len(batches))

    def _close_epoch(self) -> None:
        """Validate, remember the epoch and write it down."""
        rate = float(self.optimiser.param_groups[-1]["lr"])
        row: dict[str, float] = {"epoch": self.epoch + 1, "learning_rate": rate}
        row |= {f"train_{k}": v for k, v in self.totals.means().items()}
        if "val" in self.datasets:
            row |= {f"val_{k}": v for k, v in self._validate().items()}
            if self.recipe.monitor not in row:
                raise ValueError(
                    f"the recipe monitors {self.recipe.monitor!r}, which is not in the history; it has: "
                    f"{', '.join(row)}"
                )
        is_best = self.history.add(row, self.recipe.monitor)
        if is_best:
            self.best = copy.deepcopy(self.judged.state_dict())
        self.step, self.totals = 0, _Mean()
        if self.folder is not None:
            self.folder.save_epoch(self.judged, self.history, is_best=is_best)
        self._save_state()
        figures = "  ".join(f"{k} {v:.4g}" for k, v in row.items())
        self._say(figures + "  (best)" * (is_best and "val" in self.datasets))
        if any(gather(self.interrupted, self.processes)):
            raise KeyboardInterrupt

    # a step

    def _step(self, batch: Batch | None, numbers: Sequence[int]) -> dict[str, float]:
        """Make one step on a batch of which this process has its share; gives the whole batch's losses."""
        pieces = [] if batch is None else self._pieces(batch)
        normaliser = self._normaliser(pieces)
        losses: dict[str, float] = {}
        for piece in pieces:
            parts = self._scored(self.model, self._forward(self.model, piece.images), piece.targets, normaliser)
            self.processes.backward(parts["loss"])
            losses = add_up([losses, {name: float(value.detach()) for name, value in parts.items()}])
        if not pieces and self.processes.scaler is not None:  # it has to have scaled something before it can unscale
            self.processes.scaler.scale(torch.zeros((), device=self.processes.device))
        losses = add_up(gather(losses, self.processes))
        _require_finite(losses, [self.views["train"].samples[i] for i in numbers], self.epoch)
        sum_gradients(self.model, self.processes)
        average_batch_norms(self.model, sum(len(piece.targets) for piece in pieces), self.processes)
        if self.recipe.clip_norm is not None:
            self.processes.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.model)
        return losses

    def _pieces(self, batch: Batch) -> list[Batch]:
        """Augment a batch, then cut this process's share of it into what goes through the network at a time."""
        images, targets = self._input(batch), batch.targets
        if self.recipe.views is None:
            images, targets = (images, targets) if self.features else self.augment(images, targets, self.random.draws)
        elif not self.features:
            numbers = batch.indices.tolist()
            images, targets = augment_views(self.augment, images, targets, numbers, seed=self.recipe.seed)
        batch = Batch(images, targets, batch.indices)
        if self.draws_alike:
            own = torch.arange(len(targets))[self.processes.process_index :: self.processes.num_processes]
            if not len(own):
                return []
            batch = _take(batch, own)
        return _chunks(batch, self.recipe.accumulate)

    def _input(self, batch: Batch) -> Any:
        return batch.images if self.features else to_float(batch.images)

    def _normaliser(self, pieces: Sequence[Batch]) -> float | None:
        """Give what the loss of a whole batch is divided by; None where one piece in one process is the whole."""
        if self.processes.num_processes == 1 and len(pieces) == 1:
            return None
        own = 0.0
        for piece in pieces:
            if hasattr(self.model.head, "normaliser"):
                weights = self.loss_options.get("class_weights")
                own += float(self.model.head.normaliser(piece.targets, class_weights=weights))
            else:
                own += len(piece.targets)
        return sum(gather(own, self.processes))

    def _forward(self, model: Model, images: Any) -> Any:
        with self.processes.autocast():
            return model.head(images) if self.features else model(images)

    def _scored(self, model: Model, output: Any, targets: Targets, normaliser: float | None) -> dict[str, Tensor]:
        """Give the losses of one piece; those of all pieces add up to the batch's."""
        if normaliser is None:
            return model.loss(output, targets, name=self.recipe.loss, **self.loss_options)
        if hasattr(model.head, "normaliser"):
            return model.loss(output, targets, name=self.recipe.loss, normaliser=normaliser, **self.loss_options)
        parts = model.loss(output, targets, name=self.recipe.loss, **self.loss_options)
        return {name: value * (len(targets) / normaliser) for name, value in parts.items()}

    # validation

    @torch.inference_mode()
    def _validate(self) -> dict[str, float]:
        """Loss, its parts and the metrics on the validation set; the metrics are those that ``hv.evaluate`` gives."""
        model, dataset = self.judged.eval(), self.datasets["val"]
        totals = _Mean()
        found: dict[int, Any] = {}
        batches = _cut(range(len(dataset)), self.recipe.batch)
        for numbers, batch in zip(batches, self._loader("val", batches), strict=True):
            pieces = [] if batch is None else _chunks(batch, self.recipe.accumulate)
            normaliser = self._normaliser(pieces)
            losses: dict[str, float] = {}
            for piece in pieces:
                output = self._forward(model, self._input(piece))
                parts = self._scored(model, output, piece.targets, normaliser)
                losses = add_up([losses, {name: float(value) for name, value in parts.items()}])
                found |= _read(model, output, piece, dataset)
            losses = add_up(gather(losses, self.processes))
            _require_finite(losses, [dataset.samples[i] for i in numbers], self.epoch)
            totals.add(losses, len(numbers))
        for others in gather(found, self.processes):
            found |= others
        predictions = [found[i] for i in range(len(dataset))]
        truths = ground_truth(dataset.samples, model)
        positive = {"positive": model.classes.index(model.positive)}
        options = positive if metric_task(model) == "classification" else {}
        figures = totals.means()
        for scorer in self.scorers.values():
            figures |= scorer(predictions, truths, classes=model.classes, **options)
        return figures

    def _loader(self, name: str, batches: Sequence[Sequence[int]], *, whole: bool = False) -> Iterator[Batch | None]:
        """Load this process's share of each batch, or all of it, onto its device; None where it has no share."""
        shares = [list(numbers) if whole else share(numbers, self.processes) for numbers in batches]
        data: Any = self.features[name] if self.features else self.views[name]
        loader = DataLoader(data, batch_sampler=shares, collate_fn=_together)
        device = self.processes.device
        return (b and Batch(_move(b.images, device), b.targets.to(device), b.indices) for b in iter(loader))

    # states

    def open(self, run: str | os.PathLike[str] | None, resume: bool) -> None:
        """Make the run folder or go on with what is in it; only the first process reads and writes there."""
        if run is None:
            return
        found: tuple[Any, Any] | None = None
        if self.is_main:
            parts = {name: dataset.samples for name, dataset in self.datasets.items()}
            known = {path: digest for dataset in self.datasets.values() for path, digest in dataset.hashes.items()}
            self.folder = Run(
                run, self.recipe, self.model, resume=resume, parts=parts, hashes=known,
                processes=self.processes.num_processes,
            )  # fmt: skip
            state = self.folder.load()
            if state is not None:
                found = state, read_tensors(self.folder.best) if state["history"] else None
        self.history.run = Path(run)
        found = broadcast(found, self.processes)
        if found is not None:
            self._load_state(*found)

    def _state(self) -> dict[str, Any]:
        """Give all that the rest of the training follows from."""
        scaler = self.processes.scaler
        return {
            "history": self.history.rows,
            "best": self.history.best,
            "step": self.step,
            "totals": {"sums": dict(self.totals.sums), "count": self.totals.count},
            "model": {k: v.cpu() for k, v in self.model.state_dict().items()},
            "optimiser": self.optimiser.state_dict(),
            "average": None if self.average is None else {k: v.cpu() for k, v in self.average.state_dict().items()},
            "scaler": None if scaler is None else scaler.state_dict(),
            "random": gather(self.random.state(), self.processes),
        }

    def _load_state(self, state: dict[str, Any], best: dict[str, Tensor] | None) -> None:
        self.history.rows, self.history.best = state["history"], state["best"]
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        if best is not None:
            self.best = best
        self.step = state.get("step", 0)  # a run of hccvision 0.1 was saved after whole epochs only
        if self.step:
            processes = self.processes
            if len(state["random"]) != processes.num_processes:
                raise ValueError(
                    f"{self.history.run}: {len(state['random'])} processes stopped in the middle of an epoch; go on "
                    f"with as many, not with {processes.num_processes}"
                )
            self.random.restore(state["random"][processes.process_index])
            self.totals.sums.update(state["totals"]["sums"])
            self.totals.count = state["totals"]["count"]
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.processes.scaler is not None and state.get("scaler"):
            self.processes.scaler.load_state_dict(state["scaler"])

    def _save_state(self) -> None:
        if self.history.run is None:
            return
        state = self._state()
        if self.folder is not None:
            self.folder.save_state(state)

    def _pause(self, steps: int, *, in_epoch: bool) -> None:
        """After a step: save the state if it is time to, or if someone has pressed Ctrl-C."""
        stop = any(gather(self.interrupted, self.processes))
        if in_epoch and (stop or (self.save_every is not None and steps % self.save_every == 0)):
            self._save_state()
            if stop:
                self._say(f"saved in epoch {self.epoch + 1} after {self.step} steps" + self._how_to_go_on())
                raise KeyboardInterrupt

    def _interrupt(self) -> None:
        self.interrupted = True

    def _how_to_go_on(self) -> str:
        return "" if self.history.run is None else f"; go on with run={str(self.history.run)!r}, resume=True"

    def _bar(self, **options: Any) -> Any:
        return tqdm(leave=False, disable=None if self.is_main else True, **options)

    def _say(self, text: str) -> None:
        if self.is_main:
            tqdm.write(text)


class _Mean:
    """Averages named scalars over images, so that a smaller last batch counts for less."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.count = 0

    def add(self, parts: dict[str, float], images: int) -> None:
        for name, value in parts.items():
            self.sums[name] += value * images
        self.count += images

    def means(self) -> dict[str, float]:
        """Give the averages; the loss must be the sum of the others."""
        means = {name: total / max(1, self.count) for name, total in self.sums.items()}
        parts = sum(value for name, value in means.items() if name != "loss")
        if not math.isclose(parts, means["loss"], rel_tol=1e-3, abs_tol=1e-6):
            raise ValueError(
                f"the head's loss is {means['loss']:g} and its parts add up to {parts:g}: a head gives its loss as "
                "their sum"
            )
        return means


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


def _sampler(dataset: SliceDataset | Views, recipe: Recipe, generator: torch.Generator) -> Sampler[int]:
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


def _require_an_end(
    recipe: Recipe, val: Sequence[Sample] | None, save_every: int | None, run: str | os.PathLike[str] | None
) -> None:
    if recipe.patience is not None and val is None and not recipe.monitor.startswith("train_"):
        raise ValueError(
            f"patience waits for a better {recipe.monitor}, and there are no validation data: give val, or monitor "
            '"train_loss"'
        )
    if save_every is not None and (run is None or save_every < 1):
        raise ValueError(f"save_every counts steps from 1 and needs a run folder, got {save_every} and run={run!r}")


def _loss_options(model: Model, dataset: SliceDataset, recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """Give the loss's keyword arguments; none that the recipe leaves alone, as not every head knows them."""
    options: dict[str, Any] = {}
    if recipe.label_smoothing:
        options["label_smoothing"] = recipe.label_smoothing
    if recipe.class_weights is not None:
        options["class_weights"] = torch.tensor(_class_weights(model, dataset, recipe), device=device)
    return options


def _class_weights(model: Model, dataset: SliceDataset, recipe: Recipe) -> list[float]:
    classes = model.classes
    if recipe.class_weights != "balanced":
        weights = list(map(float, recipe.class_weights or ()))
        if len(weights) != len(classes):
            raise ValueError(f"the recipe has {len(weights)} class weights, the model {len(classes)}: {classes}")
        return weights
    counts: Counter[str | None] = Counter()
    for sample in dataset.samples:
        names = sample.annotation.names if dataset.by_boxes and sample.annotation else (sample.class_name,)
        counts.update(set(names) if model.multilabel else names)
    missing = [name for name in classes if not counts[name]]
    if missing:
        raise ValueError(f"no training sample shows {missing[0]!r}: balanced class weights need one of each class")
    if model.multilabel:
        return [(len(dataset) - counts[name]) / counts[name] for name in classes]
    total = sum(counts[name] for name in classes)
    return [total / (len(classes) * counts[name]) for name in classes]


def _require_still(model: Model, recipe: Recipe) -> None:
    epochs = frozen_epochs(model, recipe)
    moving = [name for name, count in epochs.items() if name.startswith("backbone") and count < math.inf]
    if moving:
        raise ValueError(
            f"a feature cache needs a backbone that is never trained, and {moving[0]} is: give the recipe "
            'frozen=("backbone",), or leave the feature cache out'
        )
    if recipe.augmentation != "none" and recipe.views is None:
        raise ValueError(
            f"a feature cache needs images that stay the same, and {recipe.augmentation!r} draws anew in each epoch: "
            'give the recipe views=6, say, for six views of each image, or augmentation="none"'
        )


@contextmanager
def _interrupts(act: Callable[[], None] | None) -> Iterator[None]:
    """Let the first Ctrl-C only call a function, so that a step is finished and saved; the second one stops at once."""
    if act is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def first(*_: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(2, b"\nstopping after this step, or once validated; Ctrl-C again stops at once\n")
        act()

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _require_finite(losses: dict[str, float], samples: Sequence[Sample], epoch: int) -> None:
    if not math.isfinite(losses["loss"]):
        raise FloatingPointError(
            f"the loss became {losses['loss']} in epoch {epoch + 1}, on the batch of "
            f"{', '.join(str(s.path) for s in samples)}: look at these files with hv.check, or lower the learning rate"
        )


def _cut(numbers: Sequence[int], batch: int) -> list[Sequence[int]]:
    return [numbers[i : i + batch] for i in range(0, len(numbers), batch)]


def _together(items: Any) -> Batch | None:
    if isinstance(items, Batch):
        return items if len(items.indices) else None
    return collate(items) if items else None


def _move(images: Any, device: torch.device) -> Any:
    return tuple(m.to(device) for m in images) if isinstance(images, tuple) else images.to(device)


def _take(batch: Batch, rows: Tensor) -> Batch:
    images = batch.images
    images = tuple(m[rows] for m in images) if isinstance(images, tuple) else images[rows]
    return Batch(images, batch.targets.take(rows), batch.indices[rows])


def _chunks(batch: Batch, count: int) -> list[Batch]:
    """Cut a batch into at most so many."""
    if count == 1:
        return [batch]
    return [_take(batch, rows) for rows in torch.arange(len(batch.indices)).chunk(count)]


def _read(model: Model, output: Any, batch: Batch, dataset: SliceDataset) -> dict[int, Any]:
    """Decode a batch into what metrics take, by the samples' numbers."""
    decoded, numbers = model.decode(output), batch.indices.tolist()
    if model.task == "classification":
        return dict(zip(numbers, decoded.cpu().tolist(), strict=True))
    return {i: to_original(found, dataset.placement(i)).as_dict() for i, found in zip(numbers, decoded, strict=True)}
