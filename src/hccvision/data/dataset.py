"""Samples to batches: images are decoded and resized once and kept as uint8, targets are padded."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hccvision.annotations.problems import require_stated_size
from hccvision.contracts.batches import Targets
from hccvision.contracts.errors import noted
from hccvision.contracts.samples import Sample
from hccvision.curation.facts import FACTS, require_unchanged
from hccvision.data.cache import ImageCache, hash_file, key
from hccvision.images.placement import Placement, place, resize
from hccvision.images.read import image_size, read_image
from hccvision.images.window import DEFAULT_WINDOW, Window
from hccvision.tasks.task import Task, build_task

CACHE_LIMIT = 4 * 2**30  # bytes of images kept in memory


class Item(NamedTuple):
    """One sample, loaded.

    Args:
        image: ``(C, H, W) uint8``, of the model's image size.
        targets: of this one image, in pixels of the model's input.
        number: index of the sample in the data set.
    """

    image: Tensor
    targets: Targets
    number: int


class Batch(NamedTuple):
    """Samples of a data set, stacked.

    Args:
        images: ``(B, C, H, W) uint8``; from a feature cache the backbone's maps, ``(B, …) float32`` each.
        targets: padded, in pixels of the model's input.
        indices: ``(B,) int64``, in the data set.
    """

    images: Any
    targets: Targets
    indices: Tensor


class SliceDataset(Dataset[Item]):
    """Samples prepared for a model: with its image size, resize policy, channels and class ids.

    Each image file is decoded and resized once and then kept as uint8: in a folder if ``cache`` is given, otherwise in
    memory if all images take no more than 4 GiB. A file that has changed since the data set was made, or whose image
    has another size than its annotation states, is refused when it is decoded.

    Args:
        samples: annotated as the task needs them and free of problems, see `usable`.
        task: a name in ``TASKS``, or the task with its classes.
        classes: names in the order of the class ids; needed for a task given by name.
        image_size: ``(height, width)`` of the model's input.
        resize: ``"stretch"`` or ``"letterbox"``.
        channels: of the model's input.
        window: how grey levels of any depth are mapped to 8 bits.
        cache: a folder for the decoded images, shared by all workers, processes and later runs, see `ImageCache`; None,
            or if it is full or read-only: the memory of this process.

    Raises:
        FileNotFoundError: with a cache folder, if an image file is missing.
        KeyError: for an unknown task; the message lists the known ones.
        ValueError: if a sample has a problem that makes it unusable, lacks the ground truth that the task needs, or has
            a class that the model doesn't know; if the images exceed the limit of the cache; or for a task given by
            name without ``classes``.

    Example:
        >>> len(SliceDataset([], task="detection", classes=["hcc"], image_size=(300, 300)))
        0
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        task: str | Task,
        classes: Sequence[str] | None = None,
        image_size: tuple[int, int],
        resize: str = "stretch",
        channels: int = 3,
        window: Window = DEFAULT_WINDOW,
        cache: str | os.PathLike[str] | ImageCache | None = None,
    ) -> None:
        if isinstance(task, str) and classes is None:
            raise ValueError(f"the task {task!r} is given by name: pass the names of its classes too")
        self.samples = list(samples)
        self.task: Task = build_task(task, classes or ()) if isinstance(task, str) else task
        self.image_size = image_size
        self.resize = resize
        self.channels = channels
        self.window = window
        for sample in self.samples:
            unusable = next((problem for problem in sample.problems if problem.excludes), None)
            if unusable is not None:
                raise ValueError(f"{unusable}; correct it, or leave the sample out: usable(samples, on_problem='skip')")
            self.task.check(sample)
        self._shape = channels, *image_size
        size = channels * image_size[0] * image_size[1]
        fits = len(self.samples) * size <= CACHE_LIMIT
        self._memory: dict[int, tuple[Tensor, Placement]] | None = {} if fits else None
        self._seen = [FACTS.seen(sample.path) for sample in self.samples]
        self._folder = ImageCache(cache) if isinstance(cache, (str, os.PathLike)) else cache
        if self._folder is not None:
            self._hashes = self._folder.hashes(sample.path for sample in self.samples)
            self._folder.reserve([self._key(digest) for digest in self._hashes], size)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        with noted(lambda: str(self.samples[index].path)):
            image, placement = self._image(index)
            require_stated_size(self.samples[index], placement.original_size)
            return Item(image, self.task.target(self.samples[index], placement), index)

    @property
    def hashes(self) -> dict[Path, str]:
        """Absolute path of each image file to its SHA-256; empty without a cache folder."""
        if self._folder is None:
            return {}
        return {s.path.absolute(): digest for s, digest in zip(self.samples, self._hashes, strict=True)}

    def placement(self, index: int) -> Placement:
        """Return how a sample's image lies in the model's input.

        Args:
            index: of the sample.

        Returns:
            The placement, which maps boxes both ways.
        """
        if self._folder is not None or (self._memory is not None and index in self._memory):
            return self._image(index)[1]
        return place(image_size(self.samples[index].path), self.image_size, self.resize)

    def _image(self, index: int) -> tuple[Tensor, Placement]:
        if self._memory is not None and index in self._memory:
            return self._memory[index]
        if self._folder is not None:
            return self._mapped(self._folder, index)
        entry = self._read(index)
        if self._memory is not None:
            self._memory[index] = entry
        return entry

    def _mapped(self, folder: ImageCache, index: int) -> tuple[Tensor, Placement]:
        """Map an image from the folder into memory; read its file and write it there first if it is missing."""
        entry = folder.load(self._key(self._hashes[index]), self._shape)
        if entry is None:
            path = self.samples[index].path
            before = hash_file(path)
            if before[1] != (was := self._hashes[index]):
                raise ValueError(
                    f"{path}: has changed since it was read: its SHA-256 was {was}, and is {before[1]}: read the data "
                    "again"
                )
            entry = self._read(index)
            if hash_file(path) != before:
                raise OSError(f"{path}: it changed while it was read: wait until it is written completely")
            if not folder.store(self._key(was), *entry) and self._memory is not None:
                self._memory[index] = entry
        return entry

    def _settings(self) -> dict[str, Any]:
        """Return the settings that determine the pixels of an image, besides its file."""
        shape = {"image_size": self.image_size, "resize": self.resize, "channels": self.channels}
        return {**shape, "window": dataclasses.asdict(self.window)}

    def _key(self, digest: str) -> str:
        return key(digest, self._settings())

    def _read(self, index: int) -> tuple[Tensor, Placement]:
        path, seen = self.samples[index].path, self._seen[index]
        if seen is not None and path.exists():
            require_unchanged(path, seen)
        image = read_image(path, channels=self.channels, window=self.window)
        image, placement = resize(image, self.image_size, self.resize)
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), placement


def collate(items: Sequence[Item]) -> Batch:
    """Stack loaded samples and pad their targets.

    Args:
        items: of one data set.

    Returns:
        The batch.

    Example:
        >>> none = torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64)
        >>> item = Item(torch.zeros(3, 8, 8, dtype=torch.uint8), Targets(*none, torch.tensor([1])), 0)
        >>> collate([item, item]).targets.image_labels
        tensor([1, 1])
    """
    images = torch.stack([item.image for item in items])
    return Batch(images, Targets.cat([item.targets for item in items]), torch.tensor([item.number for item in items]))


def to_float(images: Tensor) -> Tensor:
    """Convert a uint8 batch to the float32 input of a model.

    Args:
        images: ``(B, C, H, W) uint8``.

    Returns:
        ``(B, C, H, W) float32`` in [0, 1], channels last in memory.

    Example:
        >>> to_float(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)).max()
        tensor(1.)
    """
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)
