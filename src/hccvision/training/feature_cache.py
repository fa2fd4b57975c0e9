"""Feature cache: compute the features of a frozen backbone once and train the head on them."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from hccvision.augment.batch import Augmentation
from hccvision.contracts.batches import Targets
from hccvision.contracts.samples import Sample
from hccvision.data.dataset import Batch, Item, SliceDataset, collate, to_float
from hccvision.drafts import delete, new_draft_folder
from hccvision.model.model import Model

LIMIT = 2 * 2**30  # bytes of features that are kept in memory, in float32


class Views(Dataset[Item]):
    """Data set with several views of every image, each augmented differently.

    Args:
        dataset: of the images.
        views: number of views of each image, at least 1. View ``v`` of image ``i`` has the number
            ``v * len(dataset) + i``.
    """

    def __init__(self, dataset: SliceDataset, views: int = 1) -> None:
        self.dataset = dataset
        self.samples: list[Sample] = dataset.samples * views

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Item:
        return self.dataset[number % len(self.dataset)]._replace(number=number)


def augment_views(
    augment: Augmentation, images: Tensor, targets: Targets, numbers: Sequence[int], *, seed: int
) -> tuple[Tensor, Targets]:
    """Augment each image with a seed of its own, so that the result doesn't depend on the batch it is in.

    Args:
        augment: an augmentation.
        images: ``(B, C, H, W) float`` in [0, 1].
        targets: of these images.
        numbers: B numbers of the views, see `Views`.
        seed: of the training.

    Returns:
        Images and targets, as ``augment`` returns them.

    Example:
        >>> from hccvision.augment import paper
        >>> images, targets = torch.rand(2, 3, 8, 8), Targets(torch.zeros(2, 0, 4), torch.zeros(2, 0).long())
        >>> both, _ = augment_views(paper(), images, targets, [4, 7], seed=0)
        >>> second, _ = augment_views(paper(), images[1:], targets.take(torch.tensor([1])), [7], seed=0)
        >>> bool((both[1] == second[0]).all())
        True
    """
    parts = []
    for row, number in enumerate(numbers):
        one = torch.tensor([row], device=images.device)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        parts.append(augment(images[one], targets.take(one), generator))
    return torch.cat([image for image, _ in parts]), Targets.cat([moved for _, moved in parts])


class FeatureCache(Dataset[Batch]):
    """Features of the views of a data set, with their targets; a list of numbers is loaded as one `Batch`.

    They are kept in memory in float32 or, if that takes more than ``limit``, in float16 in a temporary file that is
    deleted with the cache.

    Args:
        model: its backbone and neck don't change and are in evaluation mode.
        dataset: of the images.
        augment: of the views; None: the images are not augmented.
        seed: of the views.
        batch: number of images that pass through the backbone at a time.
        processes: returned by `processes.accelerator`.
        limit: maximum number of bytes to keep in memory.
        folder: for the temporary file; None: the system's folder for temporary files.

    Raises:
        ValueError: if a feature is infinite or NaN, or too large for float16; the message names the files.
        OSError: if there is not enough disk space for the file.
    """

    maps: tuple[Tensor, ...]
    targets: Targets

    def __init__(
        self,
        model: Model,
        dataset: Views,
        augment: Augmentation | None,
        *,
        seed: int,
        processes: Any,
        batch: int = 32,
        limit: int = LIMIT,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self.samples = dataset.samples
        self.path: Path | None = None
        select = getattr(model.head, "select", None)
        found: list[Targets] = []
        done = 0
        loader = DataLoader(dataset, batch, collate_fn=collate, generator=torch.Generator())  # not the global one
        with torch.no_grad(), tqdm(total=len(dataset), desc="features", leave=False, disable=_quiet(processes)) as bar:
            for images, targets, indices in loader:
                numbers = indices.tolist()
                images, targets = to_float(images.to(processes.device)), targets.to(processes.device)
                if augment is not None:
                    images, targets = augment_views(augment, images, targets, numbers, seed=seed)
                with processes.autocast():
                    maps = model.maps(images)
                    maps = maps if select is None else select(maps)
                if not done:
                    self.maps = self._allocate(maps, len(dataset), limit, folder)
                for kept, new in zip(self.maps, maps, strict=True):
                    kept[done : done + len(new)] = new.to(kept)
                    if not kept[done : done + len(new)].isfinite().all():
                        raise ValueError(
                            f"{self.samples[done].path} and the {len(new) - 1} images after it: the features reach "
                            f"{float(new.abs().max()):g}, which {str(kept.dtype).removeprefix('torch.')} can't hold: "
                            "train without the feature cache"
                        )
                found.append(targets.to("cpu"))
                done += len(numbers)
                bar.update(len(numbers))
        self.targets = Targets.cat(found)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, numbers: list[int]) -> Batch:
        rows = torch.tensor(numbers, dtype=torch.int64)
        return Batch(tuple(m[rows].float() for m in self.maps), self.targets.take(rows), rows)

    def _allocate(
        self, maps: tuple[Tensor, ...], count: int, limit: int, folder: str | os.PathLike[str] | None
    ) -> tuple[Tensor, ...]:
        shapes = [(count, *m.shape[1:]) for m in maps]
        sizes = [math.prod(shape) for shape in shapes]
        if 4 * sum(sizes) <= limit:
            return tuple(torch.empty(shape) for shape in shapes)
        own = new_draft_folder(Path(tempfile.gettempdir() if folder is None else folder))
        weakref.finalize(self, delete, own)
        self.path = own / "features.f16"
        free = shutil.disk_usage(own).free
        if 2 * sum(sizes) > free:
            raise OSError(
                f"{own.parent}: the features of {count} images take {2 * sum(sizes):,} bytes, and {free:,} are free: "
                "choose another folder, or a head with pooling"
            )
        with self.path.open("wb") as file:  # takes the room now: without it, a full disk would end the process later
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, 2 * sum(sizes))
        mapped = torch.from_file(str(self.path), shared=True, size=sum(sizes), dtype=torch.float16)
        return tuple(part.view(shape) for part, shape in zip(mapped.split(sizes), shapes, strict=True))


def _quiet(processes: Any) -> bool | None:
    return None if processes.is_main_process else True
