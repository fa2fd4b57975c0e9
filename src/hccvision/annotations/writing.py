"""Write samples as a new data set in any annotation format, and what the writers share."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hccvision.annotations.formats import DatasetWriter, dataset_writer
from hccvision.annotations.names import MOST_LETTERS, annotation_stem
from hccvision.annotations.problems import usable
from hccvision.contracts.samples import Sample
from hccvision.files import new_folder, require_empty, write_table
from hccvision.images.read import image_size


def write_folder(
    samples: Sequence[Sample],
    folder: str | os.PathLike[str],
    *,
    format: str | DatasetWriter = "voc",
    classes: Sequence[str] | None = None,
    on_problem: str = "raise",
    **options: Any,
) -> Path:
    r"""Write samples as a new data set: copies of their images, and their annotations.

    The folder appears whole or not at all. If patients are known, they are written to ``patients.csv``, which
    ``patient=`` of the readers takes.

    Args:
        samples: with annotations, each image with a name of its own.
        folder: to create; it may exist if it is empty.
        format: a name in `ANNOTATION_FORMATS` (``"voc"``, ``"coco"``, ``"yolo"``), or an object that can write.
        classes: names in the order of the ids; None: the names there are, sorted.
        on_problem: ``"raise"``, or ``"skip"`` or ``"keep"`` to leave out what problems affect; see `usable`.
        options: of the format, such as ``base="corner"`` for ``"voc"``.

    Returns:
        The folder.

    Raises:
        FileExistsError: if the folder is not empty.
        KeyError: if the format is unknown.
        ValueError: if there are problems and ``on_problem="raise"``, a sample has no annotation, two images have one
            name, ``classes`` lacks a name, or the format can't write or can't express a box or a name.

    Example:
        >>> import tempfile
        >>> from hccvision import phantom
        >>> from hccvision.annotations.formats import read_folder
        >>> root = phantom.write_dataset(tempfile.mkdtemp() + "/liver", patients=2, slices=1, seed=0)
        >>> data = read_folder(root, patient=r"^(P\d+)_")
        >>> made = write_folder(data, root.with_name("yolo"), format="yolo")
        >>> again = read_folder(made, patient=made / "patients.csv")
        >>> [(s.names, s.patient) for s in again] == [(s.names, s.patient) for s in data]
        True
    """
    writer = dataset_writer(format, **options)
    require_empty(folder)
    kept = usable(samples, on_problem)
    names = class_list(kept, classes)
    rows = [(s.path.name, s.patient) for s in kept if s.patient is not None]
    with new_folder(folder) as draft:
        write_copies(draft, kept, writer, classes=names)
        if rows:
            write_table(draft / "patients.csv", [("image", "patient"), *rows])
    return Path(folder)


def write_copies(
    folder: Path, samples: Sequence[Sample], writer: DatasetWriter, *, classes: Sequence[str]
) -> list[Sample]:
    """Copy the images of samples into a data set's folder and write their annotations there.

    Args:
        folder: of the new data set; it exists.
        samples: with annotations, each image with a name of its own.
        writer: the format.
        classes: names in the order of the ids; every name is among them.

    Returns:
        The samples with the paths of their copies.

    Raises:
        ValueError: if a sample has no annotation, two images have one name, or the format can't express a box or name.
    """
    twice = [stem for stem, count in Counter(annotation_stem(s.path) for s in samples).items() if count > 1]
    if twice:
        raise ValueError(
            f"{folder}: several images are named {', '.join(twice[:5])}: rename them, or write two folders"
        )
    for sample in samples:
        clipped_boxes(sample)  # raises before images are copied
    place = folder / writer.image_folder
    place.mkdir(exist_ok=True)
    copies = [replace(sample, path=place / sample.path.name) for sample in samples]
    for sample, copy in zip(samples, copies, strict=True):
        shutil.copyfile(sample.path, copy.path)
    writer.write(folder, copies, classes=classes)
    return copies


def class_list(samples: Sequence[Sample], classes: Sequence[str] | None) -> list[str]:
    """Return the class names in the order in which a file is to number them.

    Args:
        samples: what is to be written.
        classes: the order; None: the names there are, sorted.

    Returns:
        The names.

    Raises:
        ValueError: if ``classes`` is not unique or lacks a name of a sample.
    """
    found = sorted({name for s in samples for name in s.names})
    names = found if classes is None else list(classes)
    if any(isinstance(name, str) and len(name) > MOST_LETTERS for name in names):
        raise ValueError(f"expected class names of at most {MOST_LETTERS} characters, got more: shorten them")
    if len(set(names)) < len(names) or not set(found) <= set(names):
        raise ValueError(f"expected classes to contain each of {found} once, got {names}: correct the list")
    return names


def clipped_boxes(sample: Sample) -> tuple[tuple[int, int], np.ndarray]:
    """Return the size of a sample's image and its boxes, clipped to the image.

    Args:
        sample: with an annotation.

    Returns:
        ``(height, width)`` as annotated or else of the image file; ``(N, 4) float64``, xyxy pixels.

    Raises:
        ValueError: if it has no annotation, or a box is not finite or has no part inside the image.
    """
    if sample.annotation is None:
        raise ValueError(f"{sample.path}: has no annotation: leave it out, or add one (empty, if it has no lesion)")
    size = sample.annotation.size or image_size(sample.path)
    boxes = sample.annotation.boxes.astype(np.float64)
    clipped = np.clip(boxes, 0, [size[1], size[0]] * 2)
    bad = np.flatnonzero(~(np.isfinite(boxes).all(axis=1) & (clipped[:, 2:] > clipped[:, :2]).all(axis=1)))
    if len(bad):
        got = sample.annotation.boxes[bad[0]].tolist()
        raise ValueError(
            f"{sample.path}: box {bad[0]} needs finite x1 < x2 and y1 < y2 inside the image, got {got}: leave it out"
        )
    return size, clipped
