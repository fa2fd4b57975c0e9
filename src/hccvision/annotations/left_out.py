"""Samples of what readers of folders did not use, so that nothing is left out in silence."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from hccvision.annotations.judging import judge_image
from hccvision.annotations.names import stems
from hccvision.annotations.paths import words_in
from hccvision.annotations.patients import PatientOf, find_patient
from hccvision.annotations.tree import ANNOTATION_SUFFIXES, Tree
from hccvision.annotations.yolo_labels import has_labels
from hccvision.annotations.yolo_names import NAMES_FILE
from hccvision.contracts.samples import Annotation, Problem, Sample
from hccvision.images.read import suffixes

_JSON_WORDS = {
    f'"{word}"'
    for word in (
        "annotations",
        "bbox",
        "bboxes",
        "boxes",
        "label",
        "labels",
        "objects",
        "points",
        "regions",
        "result",
        "shapes",
    )
}
_TABLE_WORDS = (b"region_shape_attributes", b"spatial_coordinates", b"xmin", b"bbox")  # of their first lines


def left_aside(tree: Tree, used: Collection[Path]) -> list[Sample]:
    """Return a sample with a problem for each annotation that a reader did not use.

    Args:
        tree: the files of the folder.
        used: the annotations that it used or reported.

    Returns:
        One sample for each XML, each JSON or table that has words of an annotation or the name of an image, each text
        file that has lines of numbers or the name of an image, and each mask; then those of ``tree.odd``.
    """
    own = {str(p) for p in used}
    known = suffixes()
    names = {stem.casefold() for p in tree.images for stem in stems(p, known)}
    found = [p for p in tree.with_suffix(*ANNOTATION_SUFFIXES) if str(p) not in own and _is_annotation(p, names)]
    message = "looks like an annotation and was not read: read its format, or move it out of the folder"
    samples = [Sample(p, problems=(Problem("unread_annotation", str(p), message, False),)) for p in found]
    message = 'looks like a mask and was not read: read the folder with format="masks", or move it out of the folder'
    drawn = (p for p in tree.masks if str(p) not in own)
    samples += [Sample(p, problems=(Problem("unread_annotation", str(p), message, False),)) for p in drawn]
    return samples + tree.odd


def unread_images(paths: Iterable[Path], why: str) -> list[Sample]:
    """Return a sample with a problem for each image that a reader did not use.

    Args:
        paths: the images.
        why: what they lack, and the remedy.

    Returns:
        The samples.
    """
    return [Sample(p, problems=(Problem("unread_image", str(p), f"was not read: {why}", False),)) for p in paths]


def check_unannotated(choice: str) -> None:
    """Raise if a reader does not know what an image without annotation is to be.

    Args:
        choice: ``"problem"``, ``"normal"`` or ``"skip"``.

    Raises:
        ValueError: if it is another.
    """
    if choice not in ("problem", "normal", "skip"):
        raise ValueError(f"unknown unannotated={choice!r}; known: 'problem', 'normal', 'skip'")


def unannotated_sample(image: Path, rule: PatientOf | None, problem: bool, what: str) -> Sample:
    """Return the sample of an image without annotation.

    Args:
        image: the image file.
        rule: that finds its patient.
        problem: whether the missing annotation is a problem; otherwise the image has no lesion.
        what: what is missing, for the message: ``"XML"``.

    Returns:
        The sample.
    """
    size, problems = judge_image(image)
    patient, more = find_patient(rule, image)
    if problem:
        remedy = 'annotate it, or read the folder with unannotated="normal" if it has no lesion'
        missing = Problem("missing_annotation", str(image), f"no {what} for this image: {remedy}", False)
        return Sample(image, patient, problems=(*problems, *more, missing))
    empty = Annotation(np.zeros((0, 4), np.float32), (), size=size, filename=image.name)
    return Sample(image, patient, annotation=empty, problems=(*problems, *more))


def say_left_out(paths: Collection[Path], why: str) -> None:
    """Print which files were left out because the caller chose to.

    Args:
        paths: the files.
        why: what they lack, and the choice.
    """
    if paths:
        names = ", ".join(sorted(str(p) for p in paths)[:5])
        more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
        print(f"left out: {len(paths)} {why}: {names}{more}")


def _is_annotation(path: Path, names: Collection[str]) -> bool:
    suffix = path.suffix.lower()
    if suffix == ".xml" or path.stem.casefold() in names:
        return True
    try:
        if suffix == ".txt":
            return path.name != NAMES_FILE and has_labels(path)
        if suffix == ".csv":
            with path.open("rb") as file:
                start = file.read(2**16)
            return any(word in start for word in _TABLE_WORDS)
    except OSError:
        return True
    return bool(words_in(path, _JSON_WORDS) & _JSON_WORDS)
