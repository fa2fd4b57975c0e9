"""YOLO's data sets for detection: a label file per image, read and written.

Difficulty, truncation and poses have no counterpart in the label files.

Source: https://docs.ultralytics.com/datasets/detect
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hccvision.annotations.judging import judge_boxes, judge_image
from hccvision.annotations.names import annotation_stem
from hccvision.annotations.paths import existing_folder, file_within, read_text
from hccvision.annotations.patients import PatientOf, PatientRule, find_patient, patient_rule
from hccvision.annotations.problems import usable
from hccvision.annotations.writing import class_list, clipped_boxes, write_copies
from hccvision.annotations.yolo_labels import (
    NAMES_FILE,
    format_labels,
    format_names,
    has_labels,
    read_labels,
    read_names,
)
from hccvision.contracts.samples import Annotation, Problem, Sample
from hccvision.files import new_folder, refuse_existing, require_empty, write_text
from hccvision.images.read import is_image
from hccvision.registry import ANNOTATION_FORMATS


def read_yolo_folder(
    folder: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
    *,
    subset: str | None = None,
    patient: PatientRule | None = None,
    unannotated: str = "problem",
) -> list[Sample]:
    """Read a folder of YOLO labels: ``images/`` and ``labels/``, or text files and images side by side.

    Problems are those of `read_voc_folder`, and: a class number without a name (``unknown_category``; the box is left
    out), a line in a list that points outside the folder (``unsafe_path``).

    Args:
        folder: of the data set.
        classes: names in the order of their numbers; None: the lines of ``classes.txt``, in the folder or in
            ``labels/``.
        subset: an image list, ``<subset>.txt``, with one path relative to the folder per line, or else a folder in
            ``images/``; None: everything.
        patient: how to find an image's patient, as in `read_voc_folder`.
        unannotated: what an image without a label file is: a ``"problem"``, ``"normal"`` (examined, no lesion), or
            left out (``"skip"``). An empty label file always means: no lesion.

    Returns:
        Samples in the order of the list, or of the paths; then one for each label file or line without an image.

    Raises:
        FileNotFoundError: if there is no such folder or subset.
        ValueError: if the class names are unknown or not unique, or there are no images and no labels in it.

    Example:
        >>> import tempfile
        >>> from hccvision import phantom
        >>> from hccvision.annotations.voc_folder import read_voc_folder
        >>> root = phantom.write_dataset(tempfile.mkdtemp() + "/liver", patients=2, slices=1, seed=0)
        >>> data = read_voc_folder(root)
        >>> again = read_yolo_folder(write_yolo_folder(data, root / "yolo"))
        >>> [s.names for s in again] == [s.names for s in data]
        True
    """
    if unannotated not in ("problem", "normal", "skip"):
        raise ValueError(f"unknown unannotated={unannotated!r}; known: 'problem', 'normal', 'skip'")
    root = existing_folder(folder)
    pictures, labels = _layout(root)
    names = read_names([root / NAMES_FILE, labels / NAMES_FILE], classes, root)
    rule = patient_rule(patient)
    if subset is not None and (root / f"{subset}.txt").is_file():
        paths, lost = _listed(root, subset)
    else:
        paths, lost = _found(root, subset, pictures, labels)
    stems = Counter(p.with_name(annotation_stem(p)) for p in paths)
    samples = []
    for path in paths:
        label = _label_of(path, pictures, labels)
        if not label.is_file() and unannotated == "skip":
            continue
        sample = _sample(path, label, names, rule, unannotated)
        if stems[path.with_name(annotation_stem(path))] > 1:
            message = f"several images are named {annotation_stem(path)!r}: it may be for any of them: keep one"
            problem = Problem("ambiguous_image", str(label), message, False)
            sample = replace(sample, problems=(*sample.problems, problem))
        samples.append(sample)
    return samples + lost


def write_yolo_folder(
    samples: Sequence[Sample],
    folder: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    on_problem: str = "raise",
) -> Path:
    r"""Write samples as a YOLO data set: copies in ``images/``, ``labels/`` and ``classes.txt``.

    The folder appears whole or not at all.

    Args:
        samples: with annotations, each image with a name of its own.
        folder: to create; it may exist if it is empty.
        classes: names in the order of their numbers, from 0; None: the names there are, sorted.
        on_problem: ``"raise"``, or ``"skip"`` to leave out what problems affect; see `usable`.

    Returns:
        The folder.

    Raises:
        FileExistsError: if the folder is not empty.
        ValueError: if there are problems and ``on_problem="raise"``, a sample has no annotation, two images have one
            name, a box is not finite or empty, or ``classes`` lacks a name or contains one that is not a line of text.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> Image.new("L", (50, 50)).save(root / "a.png")
        >>> a = Annotation(np.array([[10, 20, 30, 45]]), ("hcc",))
        >>> made = write_yolo_folder([Sample(root / "a.png", annotation=a)], root / "yolo")
        >>> (made / "labels" / "a.txt").read_text()
        '0 0.4 0.65 0.4 0.5\n'
    """
    require_empty(folder)
    kept = usable(samples, on_problem)
    names = class_list(kept, classes)
    with new_folder(folder) as draft:
        write_copies(draft, kept, YOLOFormat(), classes=names)
    return Path(folder)


@ANNOTATION_FORMATS.register("yolo")
class YOLOFormat:
    """YOLO's detection format: one label file per image, in ``labels/`` or beside the images.

    Example:
        >>> YOLOFormat().annotation_path(Path("new/P007_03.png")).name
        'P007_03.txt'
    """

    looks_for = "label files of five numbers per line, in labels/ or beside the images"
    image_folder = "images"

    def matches(self, path: Path) -> bool:
        """Return whether a folder has label files, or is one of them empty in ``labels/``.

        Args:
            path: a folder or file.

        Returns:
            Whether it looks like this format.
        """
        if not path.is_dir():
            return False
        pictures, labels = _layout(path)
        texts = [p for p in labels.rglob("*.txt") if p.name != NAMES_FILE and not p.name.startswith(".")]
        return (labels != pictures and bool(texts)) or any(p.is_file() and has_labels(p) for p in texts)

    def read(self, path: Path, **options: Any) -> list[Sample]:
        """Read a folder, see `read_yolo_folder`.

        Args:
            path: the folder.
            options: of `read_yolo_folder`.

        Returns:
            The samples.
        """
        return read_yolo_folder(path, **options)

    def write(self, folder: Path, samples: Sequence[Sample], *, classes: Sequence[str]) -> None:
        """Write ``labels/`` and ``classes.txt`` for the images in ``images/``.

        Args:
            folder: of the data set.
            samples: its images, each with an annotation.
            classes: names in the order of their numbers, from 0.

        Raises:
            ValueError: if a box is not finite or empty, or a class name is not one line of text.
        """
        names = list(classes)
        text = format_names(names, folder)
        (folder / "labels").mkdir(exist_ok=True)
        for sample in samples:
            size, boxes = clipped_boxes(sample)
            numbers = [names.index(name) for name in sample.names]
            write_text(folder / "labels" / f"{annotation_stem(sample.path)}.txt", format_labels(boxes, numbers, size))
        write_text(folder / NAMES_FILE, text)

    def annotation_path(self, image_path: Path) -> Path:
        """Return the label file of an image: in ``labels/`` if that is beside the ``images/`` it is in, or beside it.

        Args:
            image_path: the image.

        Returns:
            The path.
        """
        return _place(image_path)[1] / f"{annotation_stem(image_path)}.txt"

    def write_one(
        self, image_path: Path, annotation: Annotation, *, classes: Sequence[str], overwrite: bool = False
    ) -> Path:
        """Write the label file of an image, and the data set's ``classes.txt`` if there is none yet.

        Args:
            image_path: the image.
            annotation: of the image.
            classes: names in the order of their numbers, from 0.
            overwrite: whether existing labels may be replaced.

        Returns:
            The path written.

        Raises:
            FileExistsError: if the label file exists and ``overwrite`` is False.
            ValueError: if a ``classes.txt`` lists other classes, or these don't include all names, or a box is not
                finite or empty.
        """
        path = self.annotation_path(image_path)
        refuse_existing(path, overwrite=overwrite)
        sample = Sample(image_path, annotation=annotation)
        names = class_list([sample], classes)
        text = format_names(names, path)
        size, boxes = clipped_boxes(sample)
        root, labels = _place(image_path)
        if not (root / NAMES_FILE).is_file() and not (labels / NAMES_FILE).is_file():
            with suppress(FileExistsError):  # written by another process meanwhile, and compared below
                write_text(root / NAMES_FILE, text, overwrite=False)
        listed = next((p for p in (root / NAMES_FILE, labels / NAMES_FILE) if p.is_file()), root / NAMES_FILE)
        if read_names([listed], None, root) != names:
            raise ValueError(f"{listed}: lists other classes than {names}: pass classes= in its order, or move it")
        content = format_labels(boxes, [names.index(name) for name in annotation.names], size)
        return write_text(path, content, overwrite=overwrite)


def _layout(root: Path) -> tuple[Path, Path]:
    """Return the folders of the images and of the labels."""
    pictures = root / "images" if (root / "images").is_dir() else root
    return pictures, root / "labels" if (root / "labels").is_dir() else pictures


def _place(image_path: Path) -> tuple[Path, Path]:
    """Return the folder of the data set that an image is in, and the folder of its label file."""
    for folder in image_path.parents:
        labels = folder.with_name("labels") if folder.name == "images" else folder
        if labels != folder and labels.is_dir():
            return folder.parent, labels / image_path.parent.relative_to(folder)
    return image_path.parent, image_path.parent


def _label_of(path: Path, pictures: Path, labels: Path) -> Path:
    beside = labels / path.relative_to(pictures) if path.is_relative_to(pictures) else path
    return beside.with_name(f"{annotation_stem(path)}.txt")


def _sample(path: Path, label: Path, names: Sequence[str], rule: PatientOf | None, unannotated: str) -> Sample:
    size, problems = judge_image(path)
    owner, more = find_patient(rule, path)
    problems += more
    annotation = None
    if label.is_file():
        try:
            boxes, unknown = read_labels(label, names, size)
            annotation = judge_boxes(boxes, size, path=label, filename=path.name, problems=unknown)
        except ValueError as error:
            message = str(error).removeprefix(f"{label}: ")
            problems = (*problems, Problem("unreadable_annotation", str(label), message, False))
    elif unannotated == "normal":
        annotation = judge_boxes([], size, filename=path.name)
    else:
        message = 'no labels for this image: annotate it, or read with unannotated="normal" if it has no lesion'
        problems = (*problems, Problem("missing_annotation", str(path), message, False))
    if annotation is not None:
        problems = (*annotation.problems, *problems)
    return Sample(path, owner, annotation=annotation, problems=problems)


def _listed(root: Path, subset: str) -> tuple[list[Path], list[Sample]]:
    """Return the images of a list, and a sample for each line without one."""
    paths, lost = [], []
    for number, line in enumerate(read_text(root / f"{subset}.txt").splitlines(), start=1):
        if not line.strip():
            continue
        path = file_within(root, line.strip())
        if path is None or not path.is_file():
            kind, message = "missing_image", f"names {line.strip()!r}, which is not in {root}: correct the list"
            if path is None:
                kind, message = "unsafe_path", f"names {line.strip()!r}, which is outside {root}: name a file in it"
            problem = Problem(kind, str(root / f"{subset}.txt"), f"line {number} {message}", False)
            lost.append(Sample(root / f"line {number}", problems=(problem,)))
        else:
            paths.append(path)
    return paths, lost


def _found(root: Path, subset: str | None, pictures: Path, labels: Path) -> tuple[list[Path], list[Sample]]:
    """Return the images of a folder, and a sample for each label file without one."""
    where = file_within(pictures, subset or ".")
    if where is None or not where.is_dir():
        raise FileNotFoundError(
            f"{root}: there is neither a list {subset}.txt nor a folder {subset} of images: check the name"
        )
    candidates = (p for p in sorted(where.rglob("*")) if p.is_file() and p.suffix != ".txt")
    paths = [p for p in candidates if is_image(p)]
    lost = _labels_without_image(where, pictures, labels, paths)
    if not paths and not lost:
        raise ValueError(f"{root}: no images and no labels found; expected the folders images/ and labels/")
    return paths, lost


def _labels_without_image(where: Path, pictures: Path, labels: Path, paths: Sequence[Path]) -> list[Sample]:
    known = {p.relative_to(pictures).with_name(annotation_stem(p)) for p in paths}
    place = labels / where.relative_to(pictures)
    found = []
    for label in sorted(place.rglob("*.txt")) if place.is_dir() else []:
        name = label.relative_to(labels).with_suffix("")
        if name in known or label.name == NAMES_FILE or label.name.startswith("."):
            continue
        if labels == pictures and not has_labels(label):
            continue  # a list or a note among the images
        message = f"its image {name.name!r} is not in {pictures}: put it there, or delete the labels"
        found.append(Sample(pictures / name, problems=(Problem("missing_image", str(label), message, False),)))
    return found
