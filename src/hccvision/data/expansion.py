"""The paper's offline augmentation ("dataset generator"): `expand_dataset` writes copies that know their source."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hccvision import boxes as box_functions
from hccvision import images
from hccvision.annotations import voc
from hccvision.augment import Augmentation
from hccvision.contracts import Annotation, Sample, Targets
from hccvision.data.linter import usable
from hccvision.data.sources import MARK, stem
from hccvision.registry import AUGMENTATIONS

TABLE = "expanded.csv"
_MEDICAL = (".dcm", ".nii", ".nii.gz")


def expand_dataset(
    data: Sequence[Sample],
    folder: str | os.PathLike[str],
    *,
    to: int = 2000,
    augmentation: str | Augmentation = "paper",
    seed: int = 0,
    on_problem: str = "raise",
) -> list[Sample]:
    """Write a data set out with augmented copies beside its images, as many as it takes, each at its own size.

    The paper makes 2000 images of 340 so, and splits afterwards: then nearly every test image has a sibling in the
    training part. Here each copy knows its source (`Sample.source_id`), also when the folder is read again, by its
    name ``P007_03__aug002.png``; `splits.split` keeps them together. Augmenting while training (`Recipe`) shows the
    model more variety, and can't leak at all.

    Annotated samples come to ``JPEGImages/`` and ``Annotations/`` (XML, base ``"voc"``), samples with a class name
    alone to a folder per class. An image is copied as it is, DICOM and NIfTI as PNG, so that no header goes along. The
    table ``expanded.csv`` says ``image``, ``source_id`` and ``patient``, and is what ``patient=`` of the readers takes.

    Args:
        data: samples, all annotated or all with class names; those without lesions are copied too.
        folder: to make; it may exist if it is empty.
        to: how many images there are to be in all, at least as many as there are; copies are dealt out evenly.
        augmentation: name in `AUGMENTATIONS`, or a callable as `augment` builds them.
        seed: equal seeds, equal files. A copy depends on it, its source's name and its own number alone.
        on_problem: ``"raise"`` or ``"skip"``, see `linter.usable`.

    Returns:
        The samples of the new folder, each image followed by its copies; patient and series are those of the source.

    Raises:
        FileExistsError: if the folder holds anything, or is a file.
        ValueError: if ``to`` is too small, or samples are neither all annotated nor all classified.

    Example:
        >>> import tempfile
        >>> from hccvision import phantom
        >>> from hccvision.annotations.voc_folder import read_voc_folder
        >>> root = Path(tempfile.mkdtemp())
        >>> data = read_voc_folder(phantom.write_dataset(root / "liver", patients=2, slices=1))
        >>> [(s.path.name, s.source_id) for s in expand_dataset(data, root / "more", to=3)]
        [('P001_01.png', None), ('P001_01__aug001.png', 'P001_01'), ('P002_01.png', None)]

    Source:
        Mizouri 2026, section 3.2 and table 2.
    """
    root = Path(folder)
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        raise FileExistsError(f"{root}: expected a new or empty folder: choose another, or delete this one first")
    kept = usable(data, on_problem)
    if to < len(kept):
        raise ValueError(f"{len(kept)} images can't be expanded to {to}: give a larger number, or fewer samples")
    drawn = all(s.annotation is not None for s in kept)
    odd = [s.path for s in kept if not drawn and (s.annotation is not None or s.class_name is None)]
    if odd:
        raise ValueError(f"expected samples all annotated, or all with class names alone; {odd[0]} is otherwise")
    apply = AUGMENTATIONS.build(augmentation) if isinstance(augmentation, str) else augmentation
    places = [Path("JPEGImages") if drawn else _class_folder(s) for s in kept]
    names = _names(kept, places)
    for place in sorted({*places, *([Path("Annotations")] if drawn else [])}):
        (root / place).mkdir(parents=True, exist_ok=True)
    taken = set(zip(places, names, strict=True))
    few, more = divmod(to - len(kept), len(kept))
    found = []
    for number, (sample, place, name) in enumerate(zip(kept, places, names, strict=True)):
        pixels = _pixels(sample.path)
        annotation = _clipped(sample.annotation, pixels.shape[:2])
        path = root / place / f"{name}{_suffix(sample.path)}"
        if _suffix(sample.path) == sample.path.name[len(stem(sample.path)) :]:
            shutil.copyfile(sample.path, path)
        else:
            _save(pixels, path)
        found.append(replace(sample, path=path, annotation=_write(annotation, root, path), problems=()))
        source = sample.source_id or (name if drawn else f"{place.name}/{name}")
        free = (
            n for n in count(1) if (place, f"{name}{MARK}{n:03d}") not in taken
        )  # of copies that are expanded again
        for copy in islice(free, few + (number < more)):
            path = root / place / f"{name}{MARK}{copy:03d}.png"
            made, moved = _augmented(pixels, annotation, apply, f"{seed} {place.name}/{name} {copy}")
            _save(made, path)
            found.append(replace(found[-1], path=path, annotation=_write(moved, root, path), source_id=source))
    with (root / TABLE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image", "source_id", "patient"])
        for s in found:
            table.writerow([s.path.relative_to(root).as_posix(), s.source_id or "", s.patient or ""])
    return found


def _class_folder(sample: Sample) -> Path:
    name = str(sample.class_name)
    if name in ("", ".", "..") or name != Path(name).name or "\\" in name:
        raise ValueError(f"{sample.path}: the class {name!r} can't be the name of a folder: rename it")
    return Path(name)


def _names(data: Sequence[Sample], places: Sequence[Path]) -> list[str]:
    """The files' names without suffix; where two in one folder are alike, with it: ``Y92_png``."""
    plain = [stem(s.path) for s in data]
    alike = Counter(zip(places, plain, strict=True))
    names = [
        name if alike[place, name] == 1 else s.path.name.replace(".", "_")
        for s, place, name in zip(data, places, plain, strict=True)
    ]
    again = Counter((place, name.lower()) for place, name in zip(places, names, strict=True))
    for s, place, name in zip(data, places, names, strict=True):
        if again[place, name.lower()] > 1:
            raise ValueError(f"{s.path}: several images would be {place / name}: rename one, or expand them apart")
    return names


def _pixels(path: Path) -> np.ndarray:
    """``(H, W, C) uint8``, C is 1 where the image is grey, so that noise stays grey."""
    pixels = images.read_image(path)
    return pixels[..., :1] if (pixels == pixels[..., :1]).all() else pixels


def _suffix(path: Path) -> str:
    """Give the suffix that an original keeps; a medical file's header must not go along."""
    suffix = path.name[len(stem(path)) :]
    return ".png" if not suffix or suffix.lower() in _MEDICAL else suffix


def _save(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)


def _write(annotation: Annotation | None, root: Path, image: Path) -> Annotation | None:
    """Write the XML, if there are boxes to write, and give it as the reader will."""
    if annotation is None:
        return None
    path = root / "Annotations" / f"{stem(image)}.xml"
    whole = MARK in image.name  # what a human has drawn stays as it is
    voc.write(path, annotation, image_path=image.relative_to(root), whole_pixels=whole)
    return voc.read(path)


def _clipped(annotation: Annotation | None, size: tuple[int, int]) -> Annotation | None:
    if annotation is None:
        return None
    boxes = box_functions.clip(torch.from_numpy(annotation.boxes), size)
    return _kept(annotation, boxes, torch.nonzero(box_functions.area(boxes) > 0)[:, 0].tolist(), size)


def _kept(annotation: Annotation, boxes: Tensor, numbers: Sequence[int], size: tuple[int, int]) -> Annotation:
    """Give the annotation of these boxes alone, at the places given for all of them."""
    return replace(annotation.keep(numbers), boxes=boxes[list(numbers)].numpy(), size=size, problems=())


def _augmented(
    pixels: np.ndarray, annotation: Annotation | None, apply: Augmentation, key: str
) -> tuple[np.ndarray, Annotation | None]:
    """Augment one image by a generator of its own; the labels that go along are the numbers of its boxes."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
    batch = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].float() / 255
    boxes = torch.zeros(0, 4) if annotation is None else torch.from_numpy(annotation.boxes)
    targets = Targets.pad([boxes], [torch.arange(len(boxes))])
    moved, targets = apply(batch, targets, torch.Generator().manual_seed(seed))
    made = (moved[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    if annotation is None:
        return made, None
    left = targets.labels[0][targets.valid[0]].tolist()
    places = torch.zeros(len(boxes), 4)
    places[left] = targets.boxes[0][targets.valid[0]]
    return made, replace(_kept(annotation, places, left, made.shape[:2]), verified=False)
