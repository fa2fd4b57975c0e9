"""YOLO's data sets for detection: a label file per image, read and written.

Difficulty, truncation and poses have no counterpart in the label files.

Source: https://docs.ultralytics.com/datasets/detect
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hccvision.annotations.judging import judge_boxes, judge_image
from hccvision.annotations.left_out import check_unannotated, left_aside, say_left_out, unannotated_sample
from hccvision.annotations.names import annotation_stem
from hccvision.annotations.paths import existing_folder
from hccvision.annotations.patients import PatientOf, PatientRule, find_patient, patient_rule
from hccvision.annotations.problems import usable
from hccvision.annotations.tree import scan
from hccvision.annotations.writing import class_list, clipped_boxes, write_copies
from hccvision.annotations.yolo_labels import (
    format_labels,
    format_names,
    read_labels,
)
from hccvision.annotations.yolo_layout import images_in_list, images_of_subset, label_files, match_labels
from hccvision.annotations.yolo_names import NAMES_FILE, is_names_file, read_names
from hccvision.contracts.samples import Annotation, Problem, Sample
from hccvision.files import new_folder, refuse_existing, require_empty, write_text
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
    check_unannotated(unannotated)
    root = existing_folder(folder)
    tree = scan(root)
    names = read_names([p for p in tree.files if is_names_file(p)], classes, root)
    rule = patient_rule(patient)
    listed = None if subset is None else root / f"{subset}.txt"
    if listed is not None and listed.is_file():
        paths, lost = images_in_list(root, listed)
    else:
        paths, lost = images_of_subset(tree, subset), []
    labels = [p for p in label_files(tree) if p != listed]
    of_image, ambiguous, more = match_labels(tree, labels, whole=subset is None)
    samples, bare = [], []
    for path in paths:
        shared = ambiguous.get(path, [])
        found = [*shared, *of_image.get(path, [])]
        label = found[0] if found else None
        if label is None and unannotated == "skip":
            bare.append(path)
            continue
        if label is None:
            samples.append(unannotated_sample(path, rule, unannotated == "problem", "labels"))
            continue
        problems: tuple[Problem, ...] = ()
        if shared:
            message = f"several images are named {annotation_stem(path)!r}: it may be for any of them: keep one"
            problems = tuple(Problem("ambiguous_image", str(p), message, False) for p in found)
        elif len(found) > 1:
            message = f"its image {path} has other labels too: keep one of them"
            problems = tuple(Problem("duplicate_annotation", str(p), message, False) for p in found)
        sample = _sample(path, label, names, rule)
        samples.append(replace(sample, problems=(*sample.problems, *problems)))
    say_left_out(bare, 'images without labels (unannotated="skip")')
    return samples + lost + more + left_aside(tree, [*labels, *([] if listed is None else [listed])])


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
        on_problem: ``"raise"``, or ``"skip"`` or ``"keep"`` to leave out what problems affect; see `usable`.

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
        """Return whether a folder has label files, which may be empty in ``labels/``.

        Args:
            path: a folder or file.

        Returns:
            Whether it looks like this format.
        """
        if not path.is_dir():
            return False
        return bool(label_files(scan(path)))

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


def _place(image_path: Path) -> tuple[Path, Path]:
    """Return the folder of the data set that an image is in, and the folder of its label file."""
    for folder in image_path.parents:
        labels = folder.with_name("labels") if folder.name == "images" else folder
        if labels != folder and labels.is_dir():
            return folder.parent, labels / image_path.parent.relative_to(folder)
    return image_path.parent, image_path.parent


def _sample(path: Path, label: Path, names: Sequence[str], rule: PatientOf | None) -> Sample:
    size, problems = judge_image(path)
    owner, more = find_patient(rule, path)
    problems += more
    try:
        boxes, unknown = read_labels(label, names, size)
    except (ValueError, OSError) as error:
        message = str(error).removeprefix(f"{label}: ")
        return Sample(path, owner, problems=(*problems, Problem("unreadable_annotation", str(label), message, False)))
    annotation = judge_boxes(boxes, size, path=label, filename=path.name, problems=unknown)
    return Sample(path, owner, annotation=annotation, problems=(*annotation.problems, *problems))
