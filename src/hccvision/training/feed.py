"""Batches of a training, from images or from cached features."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Generator
from torch.utils.data import DataLoader

from hccvision.contracts.samples import Sample
from hccvision.data.dataset import Batch, to_float
from hccvision.generators import TURN
from hccvision.model.model import Model
from hccvision.training.batches import chunks, join, move, take
from hccvision.training.feature_cache import FeatureCache, Views, augment_views
from hccvision.training.processes import share
from hccvision.training.randomness import callers_randomness
from hccvision.training.setup import Setup


class Feed:
    """Loads and augments the batches of a training, and passes them through the network.

    Args:
        setup: of the training.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.views = {name: Views(dataset) for name, dataset in setup.datasets.items()}
        if setup.recipe.views is not None:
            self.views["train"] = Views(setup.datasets["train"], setup.recipe.views)
        self.features: dict[str, FeatureCache] = {}
        # Every process augments the whole batch and then takes its share, so that the result doesn't depend on their
        # number.
        self._draws_alike = setup.processes.num_processes > 1 and setup.recipe.draws_each_epoch

    @property
    def samples(self) -> list[Sample]:
        """Training samples by number, repeated for each view."""
        return self.views["train"].samples

    def cache_features(self, folder: str | os.PathLike[str] | None) -> None:
        """Compute the frozen backbone's features of all views and of the validation images.

        If there is no room for them on the disk, a warning says so and the images are used instead.

        Args:
            folder: for features that don't fit in memory; None: the system's folder for temporary files.
        """
        setup = self.setup
        setup.freezer.train(0)
        with callers_randomness(setup.processes.device):  # a resumed training has its random numbers already
            try:
                self.features = {name: self._features(name, folder) for name in self.views}
            except OSError as error:
                warnings.warn(f"there is no feature cache ({error}): training without, more slowly", stacklevel=4)

    def _features(self, name: str, folder: str | os.PathLike[str] | None) -> FeatureCache:
        setup, recipe = self.setup, self.setup.recipe
        return FeatureCache(
            setup.model,
            self.views[name],
            setup.augment if name == "train" and recipe.views is not None else None,
            seed=recipe.seed,
            processes=setup.processes,
            folder=folder,
            batch=-(-recipe.batch // recipe.accumulate),
        )

    def load(self, name: str, batches: Sequence[Sequence[int]]) -> Iterator[Batch | None]:
        """Load batches onto this process's device.

        Args:
            name: of the data set, ``"train"`` or ``"val"``.
            batches: the numbers of each whole batch.

        Returns:
            This process's share of each batch, None where it has none; of a training batch that all processes augment
            alike, the whole batch.
        """
        whole = self._draws_alike and name == "train"
        processes = self.setup.processes
        shares = [list(numbers) if whole else share(numbers, processes) for numbers in batches]
        data: Any = self.features[name] if self.features else self.views[name]
        with TURN:
            loader = iter(DataLoader(data, batch_sampler=shares, collate_fn=join))  # draws from torch's generator here
        return (None if batch is None else move(batch, processes.device) for batch in loader)

    def training_parts(self, batch: Batch | None, draws: Generator) -> list[Batch]:
        """Augment a training batch and cut this process's share of it into `Recipe.accumulate` parts.

        Args:
            batch: of `load`.
            draws: generator of the augmentation.

        Returns:
            Parts that pass through the network one after the other; none for a process without a share.
        """
        if batch is None:
            return []
        batch = self._augmented(self._as_floats(batch), draws)
        if self._draws_alike:
            processes = self.setup.processes
            own = torch.arange(len(batch.targets))[processes.process_index :: processes.num_processes]
            if not len(own):
                return []
            batch = take(batch, own)
        return chunks(batch, self.setup.recipe.accumulate)

    def validation_parts(self, batch: Batch | None) -> list[Batch]:
        """Cut this process's share of a validation batch into `Recipe.accumulate` parts.

        Args:
            batch: of `load`.

        Returns:
            Parts that pass through the network one after the other; none for a process without a share.
        """
        parts = [] if batch is None else chunks(batch, self.setup.recipe.accumulate)
        return [self._as_floats(part) for part in parts]

    def forward(self, model: Model, part: Batch) -> Any:
        """Compute the raw output of a part, in the recipe's precision.

        Args:
            model: the one being trained, or its average.
            part: of `training_parts` or `validation_parts`.

        Returns:
            The head's output.
        """
        with self.setup.processes.autocast():
            return model.head(part.images) if self.features else model(part.images)

    def _as_floats(self, batch: Batch) -> Batch:
        return batch if self.features else batch._replace(images=to_float(batch.images))

    def _augmented(self, batch: Batch, draws: Generator) -> Batch:
        if self.features:  # of images that were augmented before
            return batch
        augment, recipe = self.setup.augment, self.setup.recipe
        images, targets = batch.images, batch.targets
        if recipe.views is None:
            images, targets = augment(images, targets, draws)
        else:
            images, targets = augment_views(augment, images, targets, batch.indices.tolist(), seed=recipe.seed)
        return Batch(images, targets, batch.indices)
