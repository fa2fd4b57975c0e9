"""Samples to batches: decode and resize once, keep as uint8, pad the targets."""

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

from hccvision import boxes as box_functions
from hccvision import images
from hccvision.contracts import Sample, Targets
from hccvision.data.cache import ImageCache, hash_file, key

CACHE_LIMIT = 4 * 2**30


class Item(NamedTuple):
    """One sample, loaded.

    Args:
        image: ``(C, H, W) uint8``, of the model's image size.
        boxes: ``(n, 4) float32``, xyxy pixels of the model's input, clipped, none without area.
        labels: ``(n,) int64``.
        image_label: class id of the whole image, ``(K,) int64`` of 0 and 1 if multi-label; −1 in detection.
        number: of the sample in the data set.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    image_label: int | Tensor
    number: int


class Batch(NamedTuple):
    """Samples side by side.

    Args:
        images: ``(B, C, H, W) uint8``; from a feature cache the backbone's maps, ``(B, …) float32`` each.
        targets: padded, in pixels of the model's input.
        indices: ``(B,) int64``, in the data set.
    """

    images: Any
    targets: Targets
    indices: Tensor


class SliceDataset(Dataset[Item]):
    """Samples as a model wants them: its image size, resize policy, channels and class ids.

    Each image file is decoded and resized once and then kept as uint8: in memory, as long as all of them fit in 4 GiB,
    or in a folder. Files are looked at for changes when the data set is made.

    Args:
        samples: with class names for a classifier, with annotations for a detector or a multi-label classifier; free
            of problems, see `linter.usable`.
        task: ``"classification"`` or ``"detection"``.
        classes: the model's names, in the order of its class ids.
        image_size: ``(height, width)`` of the model's input.
        resize: ``"stretch"`` or ``"letterbox"``.
        channels: of the model's input.
        multilabel: in classification, whether an image may show several classes or none: those of its boxes.
        window: the model's, how grey levels of any depth come to 8 bits.
        cache: a folder for the decoded slices, which all workers, processes and later runs share, see `ImageCache`;
            None: this process's memory.

    Raises:
        FileNotFoundError: with a cache folder, if an image file is missing.
        ValueError: if a sample lacks what the task needs, or bears a class that the model doesn't know, or the cache's
            limit is too small.

    Example:
        >>> len(SliceDataset([], task="detection", classes=["hcc"], image_size=(300, 300)))
        0
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        task: str,
        classes: Sequence[str],
        image_size: tuple[int, int],
        resize: str = "stretch",
        channels: int = 3,
        multilabel: bool = False,
        window: images.Window = images.DEFAULT_WINDOW,
        cache: str | os.PathLike[str] | ImageCache | None = None,
    ) -> None:
        self.samples = list(samples)
        self.task = task
        self.multilabel = multilabel
        self.by_boxes = task == "detection" or multilabel
        self.image_size = image_size
        self.resize = resize
        self.channels = channels
        self.window = window
        self._ids = {name: i for i, name in enumerate(classes)}
        for sample in self.samples:
            self._check(sample)
        self._shape = channels, *image_size
        size = channels * image_size[0] * image_size[1]
        fits = len(self.samples) * size <= CACHE_LIMIT and cache is None
        self._cache: dict[int, tuple[Tensor, images.Placement]] | None = {} if fits else None
        self._folder = ImageCache(cache) if isinstance(cache, (str, os.PathLike)) else cache
        if self._folder is not None:
            self._hashes = self._folder.hashes(sample.path for sample in self.samples)
            self._folder.reserve([self._key(digest) for digest in self._hashes], size)

    def _check(self, sample: Sample) -> None:
        if not self.by_boxes and sample.class_name is None:
            raise ValueError(f"{sample.path}: a classifier learns from class names, and this sample has none")
        if self.by_boxes and sample.annotation is None:
            kind = "multi-label classifier" if self.multilabel else "detector"
            raise ValueError(f"{sample.path}: a {kind} learns from annotations, and this sample has none")
        annotation = sample.annotation if self.by_boxes else None
        names = (sample.class_name,) if annotation is None else annotation.names
        unknown = [name for name in names if name not in self._ids]
        if unknown:
            where = sample.annotation.path if sample.annotation is not None and sample.annotation.path else sample.path
            raise ValueError(
                f"{where}: the class {unknown[0]!r} is not among the model's classes ({', '.join(self._ids)}): correct "
                "the annotation, or build the model with that class"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        sample = self.samples[index]
        image, placement = self._image(index)
        if self.task == "classification":
            none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
            return Item(image, *none, self._image_label(sample), index)
        assert sample.annotation is not None
        labels = torch.tensor([self._ids[n] for n in sample.annotation.names], dtype=torch.int64)
        boxes = box_functions.clip(torch.from_numpy(sample.annotation.boxes), placement.original_size)
        boxes = placement.to_input(boxes)
        keep = box_functions.area(boxes) > 0
        return Item(image, boxes[keep], labels[keep], -1, index)

    def _image_label(self, sample: Sample) -> int | Tensor:
        if self.multilabel:
            assert sample.annotation is not None
            return torch.tensor([int(name in sample.annotation.names) for name in self._ids])
        assert sample.class_name is not None
        return self._ids[sample.class_name]

    @property
    def hashes(self) -> dict[Path, str]:
        """SHA-256 of the image files by absolute path, as far as a cache folder knows them."""
        if self._folder is None:
            return {}
        return {s.path.absolute(): digest for s, digest in zip(self.samples, self._hashes, strict=True)}

    def placement(self, index: int) -> images.Placement:
        """Say how a sample's image lies in the model's input.

        Args:
            index: of the sample.

        Returns:
            The placement, to take boxes there and back.
        """
        if self._folder is not None or (self._cache is not None and index in self._cache):
            return self._image(index)[1]
        return images.place(images.image_size(self.samples[index].path), self.image_size, self.resize)

    def _image(self, index: int) -> tuple[Tensor, images.Placement]:
        if self._folder is not None:
            return self._mapped(self._folder, index)
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        entry = self._read(index)
        if self._cache is not None:
            self._cache[index] = entry
        return entry

    def _mapped(self, folder: ImageCache, index: int) -> tuple[Tensor, images.Placement]:
        """Map a slice from the folder; put it there first if it isn't."""
        entry = folder.load(self._key(self._hashes[index]), self._shape)
        if entry is None:
            path = self.samples[index].path
            before = hash_file(path)
            entry = self._read(index)
            if hash_file(path) != before:
                raise OSError(f"{path}: changes while it is read: wait until it is written")
            self._hashes[index] = before[1]
            folder.store(self._key(before[1]), *entry)
        return entry

    def _settings(self) -> dict[str, Any]:
        """Give all that decides the pixels of a slice besides its file."""
        shape = {"image_size": self.image_size, "resize": self.resize, "channels": self.channels}
        return {**shape, "window": dataclasses.asdict(self.window)}

    def _key(self, digest: str) -> str:
        return key(digest, self._settings())

    def _read(self, index: int) -> tuple[Tensor, images.Placement]:
        image = images.read_image(self.samples[index].path, channels=self.channels, window=self.window)
        image, placement = images.resize(image, self.image_size, self.resize)
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), placement


def collate(items: Sequence[Item]) -> Batch:
    """Put loaded samples side by side and pad their targets.

    Args:
        items: of one data set.

    Returns:
        The batch; targets have image labels in classification only.

    Example:
        >>> item = Item(torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0).long(), 1, 0)
        >>> collate([item, item]).targets.image_labels
        tensor([1, 1])
    """
    labels = torch.stack([torch.as_tensor(i.image_label) for i in items])
    targets = Targets.pad([i.boxes for i in items], [i.labels for i in items], labels if (labels >= 0).any() else None)
    return Batch(torch.stack([i.image for i in items]), targets, torch.tensor([i.number for i in items]))


def to_float(images: Tensor) -> Tensor:
    """Turn a uint8 batch into what the model takes.

    Args:
        images: ``(B, C, H, W) uint8``.

    Returns:
        ``(B, C, H, W) float32`` in [0, 1], channels last in memory.

    Example:
        >>> to_float(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)).max()
        tensor(1.)
    """
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)
