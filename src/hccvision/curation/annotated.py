"""Writers of annotations, one for each format that `repair` and `expand_dataset` can write.

The images are written before, to the folder that the format expects; a writer adds the annotation files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hccvision.annotations import voc
from hccvision.annotations.coco import read_coco, write_coco
from hccvision.annotations.names import copied_from, stem
from hccvision.annotations.yolo import read_yolo_folder, write_yolo_folder
from hccvision.contracts.samples import Annotation, Sample


class AnnotatedFolder(NamedTuple):
    """How a data set of one annotation format is laid out, and how its annotations are written.

    Args:
        images: name of the folder of the images.
        write: called once per data set as ``write(samples, folder, base=…, originals=…)``, with annotated samples whose
            images are in the new folder already, and for each sample an annotation file that says the same and may be
            copied, or None. Returns the annotations in the order of the samples, as the format's reader returns them.
    """

    images: str
    write: Callable[..., list[Annotation]]


def annotated_folder(format: str) -> AnnotatedFolder:
    """Look up an annotation format.

    Args:
        format: name of the format, such as ``"voc"``.

    Returns:
        Its layout and writer.

    Raises:
        ValueError: if there is no writer for the format.

    Example:
        >>> annotated_folder("voc").images
        'JPEGImages'
    """
    if format not in _FORMATS:
        raise ValueError(f"unknown format {format!r} to write annotations in; known: {', '.join(map(repr, _FORMATS))}")
    return _FORMATS[format]


def _write_voc(
    samples: Sequence[Sample], folder: Path, *, base: str = "voc", originals: Sequence[Path | None] = ()
) -> list[Annotation]:
    """Write ``Annotations/<image>.xml``; boxes of augmented copies in whole pixels, others as they are."""
    (folder / "Annotations").mkdir(exist_ok=True)
    written = []
    for sample, original in zip(samples, originals or [None] * len(samples), strict=True):
        path = folder / "Annotations" / f"{stem(sample.path)}.xml"
        annotation = _annotation(sample)
        if original is not None and original.suffix == path.suffix:
            shutil.copyfile(original, path)
        else:
            whole = copied_from(sample.path) is not None or bool((annotation.boxes == np.rint(annotation.boxes)).all())
            image = sample.path.relative_to(folder)
            voc.write(path, annotation, base=base, image_path=image, whole_pixels=whole)
        written.append(voc.read(path, base=base))
    return written


def _write_coco(
    samples: Sequence[Sample], folder: Path, *, base: str = "voc", originals: Sequence[Path | None] = ()
) -> list[Annotation]:
    """Write ``annotations.json``, whose file names are relative to ``images/``."""
    path = write_coco(samples, folder / "annotations.json", images=folder / "images")
    return [_annotation(sample) for sample in read_coco(path, folder / "images")]


def _write_yolo(
    samples: Sequence[Sample], folder: Path, *, base: str = "voc", originals: Sequence[Path | None] = ()
) -> list[Annotation]:
    """Write ``labels/`` and ``classes.txt``."""
    made = write_yolo_folder(samples, folder / ".yolo")
    for name in ("labels", "classes.txt"):
        (made / name).rename(folder / name)
    shutil.rmtree(made)  # second copies of the images
    read = {sample.path.name: _annotation(sample) for sample in read_yolo_folder(folder)}
    return [read[sample.path.name] for sample in samples]


def _annotation(sample: Sample) -> Annotation:
    assert sample.annotation is not None
    return sample.annotation


_FORMATS = {
    "voc": AnnotatedFolder("JPEGImages", _write_voc),
    "coco": AnnotatedFolder("images", _write_coco),
    "yolo": AnnotatedFolder("images", _write_yolo),
}
