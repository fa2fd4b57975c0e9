"""The paper's offline augmentation ("dataset generator"): augmented copies on disk that record their source."""

from __future__ import annotations

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

from hccvision.annotations.formats import dataset_writer, read_folder
from hccvision.annotations.names import MARK, stem
from hccvision.annotations.problems import usable
from hccvision.annotations.voc import to_whole_pixels
from hccvision.annotations.writing import class_list
from hccvision.augment.batch import Augmentation
from hccvision.boxes.borders import clip
from hccvision.boxes.overlap import area
from hccvision.contracts.batches import Targets
from hccvision.contracts.samples import Annotation, Sample
from hccvision.files import new_folder, require_empty, write_table
from hccvision.images.read import format_of, read_image, suffixes
from hccvision.registry import AUGMENTATIONS

TABLE = "expanded.csv"


def expand_dataset(
    data: Sequence[Sample],
    folder: str | os.PathLike[str],
    *,
    to: int = 2000,
    augmentation: str | Augmentation = "paper",
    seed: int = 0,
    format: str = "voc",
    on_problem: str = "raise",
) -> list[Sample]:
    """Write a data set with augmented copies of its images, up to a given number, each image at its own size.

    The paper makes 2000 images of 340 this way and splits afterwards, so that nearly every test image has a sibling in
    the training part. Here each copy records its source (`Sample.source_id`), also when the folder is read again, by
    its name ``P007_03__aug002.png``; `splits.split` keeps them together. Augmenting while training (`Recipe`) shows the
    model more variety, and can't leak at all.

    Annotated samples go to the folders of the format (for ``"voc"`` ``JPEGImages/`` and ``Annotations/``), samples with
    a class name only to a folder per class. Plain pictures are copied byte for byte; images of other formats, such as
    DICOM and NIfTI, are written as PNG without their headers. The table ``expanded.csv`` has the columns ``image``,
    ``source_id`` and ``patient``, and can be passed to the readers as ``patient=``.

    Args:
        data: samples, all annotated or all with class names; those without lesions are copied too.
        folder: the folder to create; it appears whole or not at all.
        to: number of images in the new folder, at least that of ``data``; copies are distributed evenly.
        augmentation: name in `AUGMENTATIONS`, or a callable as the builders there return.
        seed: equal seeds give equal files. A copy depends on the seed, its source's name and its own number only.
        format: annotation format to read and write, a name in ``ANNOTATION_FORMATS``: ``"voc"``, ``"coco"``, ….
        on_problem: ``"raise"``, ``"skip"`` or ``"keep"``, see `usable`.

    Returns:
        The samples of the new folder, each image followed by its copies; patient and series are those of the source.

    Raises:
        FileExistsError: if the folder holds anything, or is a file.
        ValueError: if ``to`` is too small, the format is unknown, or samples are neither all annotated nor all
            classified.

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
    root = require_empty(folder)
    writer = dataset_writer(format)
    kept = usable(data, on_problem)
    if to < len(kept):
        raise ValueError(f"{len(kept)} images can't be expanded to {to}: pass a larger number, or fewer samples")
    drawn = all(s.annotation is not None for s in kept)
    odd = [s.path for s in kept if not drawn and (s.annotation is not None or s.class_name is None)]
    if odd:
        raise ValueError(f"expected samples all annotated, or all with class names alone; {odd[0]} is otherwise")
    apply = AUGMENTATIONS.resolve(augmentation)
    places = [Path(writer.image_folder) if drawn else _class_folder(s) for s in kept]
    names = _names(kept, places)
    taken = set(zip(places, names, strict=True))
    each, rest = divmod(to - len(kept), len(kept))
    found: list[Sample] = []
    with new_folder(root) as draft:
        for place in sorted(set(places)):
            (draft / place).mkdir(parents=True)
        for number, (sample, place, name) in enumerate(zip(kept, places, names, strict=True)):
            pixels = _pixels(sample.path)
            annotation = _clipped(sample.annotation, pixels.shape[:2])
            suffix = _plain_suffix(sample.path)
            path = draft / place / f"{name}{suffix or '.png'}"
            if suffix is None:
                _save(pixels, path)
            else:
                shutil.copyfile(sample.path, path)
            original = replace(sample, path=path, annotation=annotation, problems=())
            found.append(original)
            source = sample.source_id or (name if drawn else f"{place.name}/{name}")
            key = "JPEGImages" if drawn else place.name  # so that the format doesn't change the copies
            # numbers that no image has yet: copies may be expanded again
            free = (n for n in count(1) if (place, f"{name}{MARK}{n:03d}") not in taken)
            for copy in islice(free, each + (number < rest)):
                path = draft / place / f"{name}{MARK}{copy:03d}.png"
                augmented, moved = _augmented(pixels, annotation, apply, f"{seed} {key}/{name} {copy}")
                _save(augmented, path)
                found.append(replace(original, path=path, annotation=moved, source_id=source))
        if drawn:
            writer.write(draft, found, classes=class_list(found, None))
            read = {s.path: s.annotation for s in read_folder(draft, format)}
            found = [replace(s, annotation=read[s.path]) for s in found]
        found = [_moved(sample, draft, root) for sample in found]
        rows = [(s.path.relative_to(root).as_posix(), s.source_id or "", s.patient or "") for s in found]
        write_table(draft / TABLE, [("image", "source_id", "patient"), *rows])
    return found


def _moved(sample: Sample, old: Path, new: Path) -> Sample:
    """Return a sample whose files have moved from one folder to another."""
    annotation = sample.annotation
    if annotation is not None and annotation.path is not None:
        annotation = replace(annotation, path=new / annotation.path.relative_to(old))
    return replace(sample, path=new / sample.path.relative_to(old), annotation=annotation)


def _class_folder(sample: Sample) -> Path:
    name = str(sample.class_name)
    if name in ("", ".", "..") or name != Path(name).name or "\\" in name:
        raise ValueError(f"{sample.path}: the class {name!r} can't be the name of a folder: rename it")
    return Path(name)


def _names(data: Sequence[Sample], places: Sequence[Path]) -> list[str]:
    """Return file names without suffix, or with it where two in one folder would be equal: ``Y92_png``."""
    plain = [stem(s.path) for s in data]
    alike = Counter(zip(places, plain, strict=True))
    names = [
        name if alike[place, name] == 1 else s.path.name.replace(".", "_")
        for s, place, name in zip(data, places, plain, strict=True)
    ]
    again = Counter((place, name.lower()) for place, name in zip(places, names, strict=True))
    for s, place, name in zip(data, places, names, strict=True):
        if again[place, name.lower()] > 1:
            raise ValueError(f"{s.path}: several images would be {place / name}: rename one, or expand them separately")
    return names


def _pixels(path: Path) -> np.ndarray:
    """Read ``(H, W, C) uint8``; C is 1 where the image is grey, so that noise stays grey."""
    pixels = read_image(path)
    return pixels[..., :1] if (pixels == pixels[..., :1]).all() else pixels


def _plain_suffix(path: Path) -> str | None:
    """Return the suffix of a file that may be copied as it is, by its content; None if its header must stay here."""
    suffix = path.name[len(stem(path)) :]
    return suffix if format_of(path).is_plain and suffix.lower() in suffixes() else None


def _save(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)


def _clipped(annotation: Annotation | None, size: tuple[int, int]) -> Annotation | None:
    if annotation is None:
        return None
    boxes = clip(torch.from_numpy(annotation.boxes), size)
    return _kept(annotation, boxes, torch.nonzero(area(boxes) > 0)[:, 0].tolist(), size)


def _kept(annotation: Annotation, boxes: Tensor, numbers: Sequence[int], size: tuple[int, int]) -> Annotation:
    """Return the annotation with these boxes only, at new coordinates ``(N, 4)``, given for all boxes."""
    return replace(annotation.keep(numbers), boxes=boxes[list(numbers)].numpy(), size=size, problems=(), path=None)


def _augmented(
    pixels: np.ndarray, annotation: Annotation | None, apply: Augmentation, key: str
) -> tuple[np.ndarray, Annotation | None]:
    """Augment one image with a generator of its own; its boxes are traced by their numbers, passed as labels."""
    seed = int.from_bytes(hashlib.sha256(os.fsencode(key)).digest()[:7], "big")
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
    return made, to_whole_pixels(replace(_kept(annotation, places, left, made.shape[:2]), verified=False))
