"""`fit`: train a model, on Accelerate."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch

from hccvision.annotations.problems import usable
from hccvision.augment.batch import checked
from hccvision.contracts.samples import Sample
from hccvision.data.dataset import SliceDataset
from hccvision.data.seals import refuse_sealed
from hccvision.metrics.metric import find_metrics
from hccvision.model.model import Model
from hccvision.recipes import Recipe, quick
from hccvision.registry import AUGMENTATIONS
from hccvision.scoring import Metrics
from hccvision.tasks.task import task_of
from hccvision.training.history import History
from hccvision.training.hooks import Hooks
from hccvision.training.loop import Training
from hccvision.training.memory import checkpointed
from hccvision.training.optimisers import Freezer, frozen_epochs
from hccvision.training.processes import accelerator, gather
from hccvision.training.randomness import callers_randomness
from hccvision.training.setup import Setup


@dataclass(frozen=True)
class FitOptions:
    """Further options of `fit`.

    Args:
        on_problem: ``"raise"``, ``"skip"`` or ``"keep"``, see `usable`.
        seed: replaces the recipe's; None: the recipe's.
        hooks: objects with ``on_step``, ``on_epoch`` or ``on_end``, see `Hook`.
        save_every: save the state after every ``save_every`` steps as well as after each epoch; None: after each epoch
            only.
        cache: a folder for the decoded slices, shared with other processes and later runs, see `ImageCache`; None: they
            are kept in memory if they fit.
        feature_cache: compute the features of a frozen backbone once, for all `Recipe.views`, and train the head on
            them, see `FeatureCache`: the same weights in a fraction of the time. A path is the folder for features that
            don't fit in memory.
    """

    on_problem: str = "raise"
    seed: int | None = None
    hooks: Sequence[Any] = ()
    save_every: int | None = None
    cache: str | os.PathLike[str] | None = None
    feature_cache: bool | str | os.PathLike[str] = False


def fit(
    model: Model,
    train: Sequence[Sample],
    val: Sequence[Sample] | None = None,
    *,
    recipe: Recipe | None = None,
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str = "auto",
    metrics: Metrics | None = None,
    **options: Any,
) -> History:
    """Train a model; afterwards it holds the weights of the best epoch.

    Under ``torchrun`` or ``accelerate launch`` the same call is distributed training: each process takes its share of
    every batch, all make the same step, and only the main process writes. Of several threads that train, one trains at
    a time and the others wait, since all draw from torch's global generator; models can be built, loaded and used
    meanwhile.

    Args:
        model: is trained in place.
        train: samples to train on.
        val: samples to validate on; None: no validation, and the last epoch is the best.
        recipe: how to train; None: `recipes.quick`.
        run: folder for recipe, history, curves, the list of data files, the best and last model and the state to resume
            from, see `Run`; None: nothing is written.
        resume: resume the run in that folder, if there is one. An interrupted run resumes from its last saved step and
            ends with the same weights as an uninterrupted one; Ctrl-C and SIGTERM save the current step.
        device: ``"auto"`` (CUDA if available), ``"cpu"``, ``"cuda"`` or, for a single process, ``"cuda:1"``.
        metrics: computed on ``val`` after each epoch, as in `score`; None: mAP of a detector, balanced accuracy of a
            classifier, mean AUC of a multi-label classifier.
        options: see `FitOptions`: ``on_problem``, ``seed``, ``hooks``, ``save_every``, ``cache`` and
            ``feature_cache``.

    Returns:
        The history.

    Raises:
        KeyError: for an unknown metric, augmentation or loss; the message lists the known ones.
        ValueError: for samples with problems (unless skipped) or of classes that the model doesn't know; for a metric
            of another task, or a monitored one that doesn't state its direction; for a recipe that doesn't fit the
            model; when resuming, for another recipe, model or data; for a feature cache of a backbone that is trained.
        TypeError: for an unknown option, or an object without any method of a `Hook`.
        FileExistsError: if the run folder holds anything and ``resume`` is False, or a training is running in it.
        FloatingPointError: if the loss, a gradient or a weight becomes infinite or NaN; the message names epoch, step
            and files, and what was saved of earlier epochs remains.
        OSError: if the run folder can't be written to; the files in it remain as they were.

    Example:
        >>> from hccvision import phantom
        >>> from hccvision.annotations.voc_folder import read_voc_folder
        >>> from hccvision.model.build import build_model
        >>> import tempfile
        >>> data = read_voc_folder(phantom.write_dataset(tempfile.mkdtemp() + "/liver", patients=2, slices=2, seed=0))
        >>> model = build_model("mobilenet_v1", "ssd", classes=["hcc"], backbone_options={"width": 0.25})
        >>> history = fit(model, data, recipe=Recipe(epochs=1, batch=4), device="cpu")
        epoch 1  learning_rate 0.001  train_loss ...
        >>> sorted(history.rows[0])
        ['epoch', 'learning_rate', 'train_classification', 'train_loss', 'train_regression']
    """
    more = FitOptions(**options)
    recipe = recipe or quick()
    recipe = recipe if more.seed is None else replace(recipe, seed=more.seed)
    task = task_of(model)
    scorers = find_metrics(task.training_metrics if metrics is None else metrics, task.name)
    augment = AUGMENTATIONS.resolve(recipe.augmentation, **recipe.augmentation_options)
    augment = checked(augment, getattr(recipe.augmentation, "__name__", str(recipe.augmentation)))
    hooks = Hooks(more.hooks)
    _check_options(recipe, val, more.save_every, run)
    refuse_sealed([*train, *(val or ())])
    if more.feature_cache is not False:
        _require_fixed_features(model, recipe)
    datasets = {"train": model.dataset(usable(train, more.on_problem), cache=more.cache)}
    task.check_training(datasets["train"].samples)
    if val is not None:
        datasets["val"] = model.dataset(usable(val, more.on_problem), cache=more.cache)
    _require_files(datasets)
    processes = accelerator(device, recipe.precision)
    freezer = Freezer(model, recipe)
    with freezer(), checkpointed(model, recipe.checkpointing), callers_randomness(processes.device):
        model.to(processes.device).to(memory_format=torch.channels_last)
        setup = Setup(model, task, recipe, augment, scorers, datasets, freezer, processes, hooks, more.save_every)
        with closing(Training(setup)) as training:
            training.open(run, resume)
            if more.feature_cache is not False:
                training.feed.cache_features(None if more.feature_cache is True else more.feature_cache)
            training.rehearse()
            training.run()
            gather(None, processes)  # waits until the main process has written everything
    model.load_state_dict(training.state.best)
    model.eval()
    return training.history


def _require_files(datasets: Mapping[str, SliceDataset]) -> None:
    """Raise now, rather than after hours, if an image file is missing."""
    for dataset in datasets.values():
        for sample in dataset.samples:
            if not sample.path.is_file():
                raise FileNotFoundError(f"{sample.path}: there is no such image file: check the path")


def _check_options(
    recipe: Recipe, val: Sequence[Sample] | None, save_every: int | None, run: str | os.PathLike[str] | None
) -> None:
    if recipe.patience is not None and val is None and not recipe.monitor.startswith("train_"):
        raise ValueError(
            f"patience needs {recipe.monitor}, and there are no validation data: pass val, or set "
            'monitor="train_loss" in the recipe'
        )
    if save_every is not None and (run is None or save_every < 1):
        raise ValueError(
            f"save_every is a number of steps from 1 and needs a run folder, got {save_every} and run={run!r}"
        )


def _require_fixed_features(model: Model, recipe: Recipe) -> None:
    epochs = frozen_epochs(model, recipe)
    parts = [name for name in ("backbone", "neck") if getattr(model, name) is not None]
    trained = [n for n, count in epochs.items() if n.split(".")[0] in parts and count < math.inf]
    if trained:
        raise ValueError(
            f"a feature cache needs a backbone that is never trained, and {trained[0]} is: set "
            f"frozen={tuple(parts)!r} in the recipe, or set feature_cache=False"
        )
    if recipe.draws_each_epoch:
        raise ValueError(
            f"a feature cache needs fixed images, and the augmentation {recipe.augmentation!r} changes them in each "
            'epoch: set views=6, for example, in the recipe for six views of each image, or augmentation="none"'
        )
