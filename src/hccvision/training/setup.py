"""Everything a training is built from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hccvision.augment.batch import Augmentation
from hccvision.data.dataset import SliceDataset
from hccvision.metrics.metric import Metric
from hccvision.model.model import Model
from hccvision.recipes import Recipe
from hccvision.tasks.task import Task
from hccvision.training.hooks import Hooks
from hccvision.training.optimisers import Freezer


@dataclass(frozen=True)
class Setup:
    """Everything a training is built from; none of it is replaced during the training.

    Args:
        model: to be trained, on its device.
        task: of the model.
        recipe: how to train.
        augment: built from the recipe.
        metrics: computed after each epoch.
        datasets: ``"train"``, and ``"val"`` if there are validation data.
        freezer: of the model.
        processes: of `processes.accelerator`.
        hooks: of the user.
        save_every: number of steps between two saved states; None: the state is saved after each epoch only.
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

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes, prints and calls hooks."""
        return bool(self.processes.is_main_process)
