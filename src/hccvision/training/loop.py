"""The training loop: what a step, an epoch and a validation consist of."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hccvision.augment.batch import Augmentation
from hccvision.contracts.batches import Loss, Targets
from hccvision.contracts.outputs import Prediction
from hccvision.contracts.samples import Sample
from hccvision.data.dataset import Batch, SliceDataset, collate, to_float
from hccvision.data.samplers import build_sampler
from hccvision.inference import place_back
from hccvision.metrics.metric import Metric, compute_metrics
from hccvision.model.model import Model
from hccvision.recipes import Recipe
from hccvision.tasks.task import Task
from hccvision.training.checkpoints import Run
from hccvision.training.feature_cache import FeatureCache, Views, augment_views
from hccvision.training.history import History, RunningMean
from hccvision.training.hooks import Hooks
from hccvision.training.interrupts import interruptible
from hccvision.training.monitoring import Monitor
from hccvision.training.optimisers import Freezer, build_optimiser, set_learning_rates
from hccvision.training.processes import add_up, average_batch_norms, broadcast, gather, share, sum_gradients
from hccvision.training.randomness import Randomness, callers_randomness
from hccvision.training.schedules import rate_factor
from hccvision.weights.reading import read_tensors


@dataclass
class Setup:
    """What a training is made of.

    Args:
        model: to be trained.
        task: of the model.
        recipe: how to train.
        augment: built from the recipe.
        metrics: computed after each epoch.
        datasets: ``"train"``, and ``"val"`` if there is one.
        freezer: of the model.
        processes: of `processes.accelerator`.
        hooks: of the user.
        save_every: save the state after every ``save_every`` steps, besides after each epoch; None: after epochs only.
    """

    model: Model
    task: Task
    recipe: Recipe
    augment: Augmentation
    metrics: Sequence[Metric]
    datasets: dict[str, SliceDataset]
    freezer: Freezer
    processes: Any
    hooks: Hooks
    save_every: int | None


class Training:
    """A training in progress.

    Args:
        setup: what it is made of.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.model, self.recipe, self.processes = setup.model, setup.recipe, setup.processes
        self.datasets = setup.datasets
        self.optimiser = self.processes.prepare(build_optimiser(self.model, self.recipe))
        self.average = None
        if self.recipe.ema is not None:
            self.average = AveragedModel(
                self.model, multi_avg_fn=get_ema_multi_avg_fn(self.recipe.ema), use_buffers=True
            )
        self.random = Randomness()
        self.views = {name: Views(dataset) for name, dataset in self.datasets.items()}
        if self.recipe.views is not None:
            self.views["train"] = Views(self.datasets["train"], self.recipe.views)
        self.features: dict[str, FeatureCache] = {}
        samples = self.views["train"].samples
        self.sampler = build_sampler(
            samples,
            strata=[setup.task.stratum(s) for s in samples] if self.recipe.balanced else None,
            per_patient=self.recipe.per_patient,
            generator=self.random.shuffle,
        )
        self.loss_options = loss_options(setup)
        self.monitor = Monitor(self.recipe.monitor, setup.metrics)
        self.history = History()
        self.best = copy.deepcopy(self.model.state_dict())
        self.step = 0  # steps done of the current epoch, whose losses so far are in totals
        self.totals = RunningMean()
        self.folder: Run | None = None
        self.interrupted = False

    @property
    def epoch(self) -> int:
        """Number of whole epochs done."""
        return len(self.history)

    @property
    def judged(self) -> Model:
        """The model that is validated and kept: the averaged one, if there is one."""
        return self.model if self.average is None else cast(Model, self.average.module)

    @property
    def draws_alike(self) -> bool:
        """Whether every process augments the whole batch, so that the result doesn't depend on their number."""
        drawn = self.setup.recipe.augmentation != "none" and self.recipe.views is None
        return self.processes.num_processes > 1 and drawn

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return bool(self.processes.is_main_process)

    # the run

    def keep_features(self, folder: str | os.PathLike[str] | None) -> None:
        """Compute the frozen backbone's features of all views and of the validation images."""
        self.setup.freezer.train(0)
        with callers_randomness(self.processes.device):  # a resumed training has its random numbers already
            for name, views in self.views.items():
                augment = self.setup.augment if name == "train" and self.recipe.views is not None else None
                self.features[name] = FeatureCache(
                    self.model, views, augment, seed=self.recipe.seed, processes=self.processes, folder=folder,
                    batch=-(-self.recipe.batch // self.recipe.accumulate),
                )  # fmt: skip

    def run(self) -> None:
        """Train from the current state to the end."""
        hooks = self.setup.hooks if self.is_main else Hooks(())
        with interruptible(self._interrupt if self.history.run is not None else None):
            try:
                while not self._finished():
                    self._train_epoch(hooks)
                    self._close_epoch(hooks)
            except KeyboardInterrupt:
                self._say(f"stopped after {self.epoch} whole epochs" + self._how_to_resume())
                raise
            finally:
                self.optimiser.zero_grad(set_to_none=True)
                hooks.on_end(self.history, self.judged)
        if self.folder is not None:
            self.folder.finish(self.history)
            self._say(f"written to {self.folder.folder}: best.safetensors, last.safetensors, history.csv")

    def _finished(self) -> bool:
        waited = 0 if self.history.best is None else self.epoch - 1 - self.history.best
        if self.epoch < self.recipe.epochs and waited >= (self.recipe.patience or math.inf):
            self._say(f"stopped early: {self.recipe.monitor} has not improved in {waited} epochs")
            return True
        return self.epoch >= self.recipe.epochs

    def _train_epoch(self, hooks: Hooks) -> None:
        """Make the remaining steps of this epoch."""
        resumed = self.random.state() if self.step else None
        self.random.seed(self.recipe.seed, epoch=self.epoch, process=self.processes.process_index)
        self.setup.freezer.train(self.epoch)
        batches = cut(list(self.sampler), self.recipe.batch)
        loader = iter(self._loader("train", batches[self.step :], whole=self.draws_alike))
        if resumed is not None:
            self.random.restore(resumed)
        title = f"epoch {self.epoch + 1}/{self.recipe.epochs}"
        with self._bar(total=len(batches), initial=self.step, desc=title) as bar:
            for numbers, batch in zip(batches[self.step :], loader, strict=True):
                factor = rate_factor(self.recipe, self.epoch, self.step, len(batches))
                set_learning_rates(self.optimiser, factor)
                losses = self._step(batch, numbers)
                self.totals.add(losses, len(numbers))
                self.step += 1
                steps = self.epoch * len(batches) + self.step
                hooks.on_step(steps, losses, self.model)
                bar.update()
                bar.set_postfix({k: f"{v:.3f}" for k, v in self.totals.means().items()})
                self._pause(steps, in_epoch=self.step < len(batches))

    def _close_epoch(self, hooks: Hooks) -> None:
        """Validate, choose the best epoch and save."""
        rate = float(self.optimiser.param_groups[-1]["lr"])
        row: dict[str, float] = {"epoch": self.epoch + 1, "learning_rate": rate}
        row |= {f"train_{k}": v for k, v in self.totals.means().items()}
        if "val" in self.datasets:
            row |= {f"val_{k}": v for k, v in self._validate().items()}
            self.monitor.require(row)
        is_best = self.history.add(row, self.recipe.monitor, higher_is_better=self.monitor.higher_is_better)
        if is_best:
            self.best = copy.deepcopy(self.judged.state_dict())
        self.step, self.totals = 0, RunningMean()
        if self.folder is not None:
            self.folder.save_epoch(self.judged, self.history, is_best=is_best)
        self._save_state()
        figures = "  ".join(f"{k} {v:.4g}" if math.isfinite(v) else f"{k} –" for k, v in row.items())
        self._say(figures + "  (best)" * (is_best and "val" in self.datasets))
        hooks.on_epoch(self.history, self.judged)
        if any(gather(self.interrupted, self.processes)):
            raise KeyboardInterrupt

    # a step

    def _step(self, batch: Batch | None, numbers: Sequence[int]) -> dict[str, float]:
        """Make one step on a batch of which this process has its share; return the losses of the whole batch.

        Each piece is divided by the count of the first one; once all counts are known, the gradients are scaled to the
        count of the whole batch. So nothing is matched twice, and a batch in one piece is divided just once.
        """
        pieces = [] if batch is None else self._pieces(batch)
        sums: dict[str, float] = {}
        count, first = 0.0, None
        for piece in pieces:
            loss = self._loss(self.model, self._forward(self.model, piece.images), piece.targets)
            first = loss.divisor if first is None else first
            self.processes.backward(Loss(loss.sums, first)["loss"])
            sums = add_up([sums, {name: float(value.detach()) for name, value in loss.sums.items()}])
            count += float(loss.count)
        if not pieces and self.processes.scaler is not None:  # it has to have scaled something before it can unscale
            self.processes.scaler.scale(torch.zeros((), device=self.processes.device))
        losses, divisor = self._normalised(sums, count)
        require_finite(losses, [self.views["train"].samples[i] for i in numbers], self.epoch)
        if first is not None and float(first) != divisor:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(float(first) / divisor)
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
        """Augment a batch, then cut this process's share of it into the parts that pass the network one by one."""
        images, targets = self._input(batch), batch.targets
        augment = self.setup.augment
        if self.recipe.views is None:
            images, targets = (images, targets) if self.features else augment(images, targets, self.random.draws)
        elif not self.features:
            numbers = batch.indices.tolist()
            images, targets = augment_views(augment, images, targets, numbers, seed=self.recipe.seed)
        batch = Batch(images, targets, batch.indices)
        if self.draws_alike:
            own = torch.arange(len(targets))[self.processes.process_index :: self.processes.num_processes]
            if not len(own):
                return []
            batch = take(batch, own)
        return chunks(batch, self.recipe.accumulate)

    def _input(self, batch: Batch) -> Any:
        return batch.images if self.features else to_float(batch.images)

    def _forward(self, model: Model, images: Any) -> Any:
        with self.processes.autocast():
            return model.head(images) if self.features else model(images)

    def _loss(self, model: Model, output: Any, targets: Targets) -> Loss:
        loss = model.loss(output, targets, name=self.recipe.loss, **self.loss_options)
        if not isinstance(loss, Loss):
            raise TypeError(
                f"the loss of a head returns hv.Loss(sums, count), and that of {type(model.head).__name__} returned "
                f"{type(loss).__name__}"
            )
        return loss

    def _normalised(self, sums: dict[str, float], count: float) -> tuple[dict[str, float], float]:
        """Add the sums and counts of all processes; return the losses of the batch and their divisor."""
        everyone = gather((sums, count), self.processes)
        sums, count = add_up([s for s, _ in everyone]), sum(c for _, c in everyone)
        divisor = count if count > 0 else 1.0
        losses = {name: value / divisor for name, value in sums.items()}
        return {"loss": sum(losses.values()), **losses}, divisor

    # validation

    @torch.inference_mode()
    def _validate(self) -> dict[str, float]:
        """Compute the loss, its parts and the metrics on the validation set, as `evaluate` computes them."""
        model, dataset, task = self.judged.eval(), self.datasets["val"], self.setup.task
        totals = RunningMean()
        found: dict[int, Prediction] = {}
        batches = cut(range(len(dataset)), self.recipe.batch)
        for numbers, batch in zip(batches, self._loader("val", batches), strict=True):
            sums: dict[str, float] = {}
            count = 0.0
            for piece in [] if batch is None else chunks(batch, self.recipe.accumulate):
                output = self._forward(model, self._input(piece))
                loss = self._loss(model, output, piece.targets)
                sums = add_up([sums, {name: float(value) for name, value in loss.sums.items()}])
                count += float(loss.count)
                own = piece.indices.tolist()
                names, placements = [str(dataset.samples[i].path) for i in own], [dataset.placement(i) for i in own]
                found |= zip(own, place_back(task, model.decode(output), names, placements), strict=True)
            losses, _ = self._normalised(sums, count)
            require_finite(losses, [dataset.samples[i] for i in numbers], self.epoch)
            totals.add(losses, len(numbers))
        for others in gather(found, self.processes):
            found |= others
        comparison = task.comparison([found[i] for i in range(len(dataset))], dataset.samples)
        figures = compute_metrics(self.setup.metrics, comparison)
        return totals.means() | {name: float(figure) for name, figure in figures.items()}

    def _loader(self, name: str, batches: Sequence[Sequence[int]], *, whole: bool = False) -> Iterator[Batch | None]:
        """Load this process's share of each batch, or all of it, onto its device; None where it has no share."""
        shares = [list(numbers) if whole else share(numbers, self.processes) for numbers in batches]
        data: Any = self.features[name] if self.features else self.views[name]
        loader = DataLoader(data, batch_sampler=shares, collate_fn=join)
        device = self.processes.device
        return (b and Batch(move(b.images, device), b.targets.to(device), b.indices) for b in iter(loader))

    # states

    def open(self, run: str | os.PathLike[str] | None, resume: bool) -> None:
        """Make the run folder or resume the run in it; only the main process reads and writes there."""
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
        """Return everything that the rest of the training depends on."""
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
        self.step = state.get("step", 0)  # early versions saved whole epochs only
        if self.step:
            processes = self.processes
            if len(state["random"]) != processes.num_processes:
                raise ValueError(
                    f"{self.history.run}: {len(state['random'])} processes stopped in the middle of an epoch; resume "
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
        """After a step, save the state if it is due or if the user has pressed Ctrl-C."""
        stop = any(gather(self.interrupted, self.processes))
        due = self.setup.save_every is not None and steps % self.setup.save_every == 0
        if in_epoch and (stop or due):
            self._save_state()
            if stop:
                self._say(f"saved in epoch {self.epoch + 1} after {self.step} steps" + self._how_to_resume())
                raise KeyboardInterrupt

    def _interrupt(self) -> None:
        self.interrupted = True

    def _how_to_resume(self) -> str:
        return "" if self.history.run is None else f"; resume with run={str(self.history.run)!r}, resume=True"

    def _bar(self, **options: Any) -> Any:
        return tqdm(leave=False, disable=None if self.is_main else True, **options)

    def _say(self, text: str) -> None:
        if self.is_main:
            tqdm.write(text)


def loss_options(setup: Setup) -> dict[str, Any]:
    """Return the loss's keyword arguments that the recipe sets; not every head takes the others.

    Args:
        setup: of the training.

    Returns:
        ``label_smoothing`` and ``class_weights``, where the recipe has them.

    Raises:
        ValueError: for another number of class weights than classes, or balanced weights without a sample of each.
    """
    recipe, classes = setup.recipe, setup.model.classes
    options: dict[str, Any] = {}
    if recipe.label_smoothing:
        options["label_smoothing"] = recipe.label_smoothing
    if recipe.class_weights is not None:
        if isinstance(recipe.class_weights, str):
            weights = setup.task.balanced_weights(setup.datasets["train"].samples)
        else:
            weights = list(map(float, recipe.class_weights))
        if len(weights) != len(classes):
            raise ValueError(f"the recipe has {len(weights)} class weights, the model {len(classes)}: {classes}")
        options["class_weights"] = torch.tensor(weights, device=setup.processes.device)
    return options


def require_finite(losses: dict[str, float], samples: Sequence[Sample], epoch: int) -> None:
    """Check that the loss of a batch is finite.

    Args:
        losses: of the batch.
        samples: of the batch.
        epoch: whole epochs before.

    Raises:
        FloatingPointError: if it isn't; the message names the files.
    """
    if not math.isfinite(losses["loss"]):
        raise FloatingPointError(
            f"the loss became {losses['loss']} in epoch {epoch + 1}, on the batch of "
            f"{', '.join(str(s.path) for s in samples)}: look at these files with hv.check, or lower the learning rate"
        )


def cut(numbers: Sequence[int], batch: int) -> list[Sequence[int]]:
    """Cut a sequence into batches, the last of which may be smaller."""
    return [numbers[i : i + batch] for i in range(0, len(numbers), batch)]


def join(items: Any) -> Batch | None:
    """Return items as a batch; None where there are none."""
    if isinstance(items, Batch):
        return items if len(items.indices) else None
    return collate(items) if items else None


def move(images: Any, device: torch.device) -> Any:
    """Move a batch of images, or a tuple of feature maps, to a device."""
    return tuple(m.to(device) for m in images) if isinstance(images, tuple) else images.to(device)


def take(batch: Batch, rows: Tensor) -> Batch:
    """Return some images of a batch."""
    images = batch.images
    images = tuple(m[rows] for m in images) if isinstance(images, tuple) else images[rows]
    return Batch(images, batch.targets.take(rows), batch.indices[rows])


def chunks(batch: Batch, count: int) -> list[Batch]:
    """Cut a batch into at most ``count`` parts."""
    if count == 1:
        return [batch]
    return [take(batch, rows) for rows in torch.arange(len(batch.indices)).chunk(count)]
