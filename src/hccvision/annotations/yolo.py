"""YOLO's text files for detection, to and from samples.

A line is ``class x y width height``: the number of a class, from 0, and the centre and size of its box as shares of
the image sides. Difficulty, truncation and poses have no place in it.

Source: https://docs.ultralytics.com/datasets/detect
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hccvision import images
from hccvision.contracts import Problem, Sample
from hccvision.data.coco import class_list, whole_boxes
from hccvision.data.folders import (
    PatientRule,
    _existing_folder,
    _image_size,
    _judged,
    _patient_rule,
    _read_text,
    _stem,
    _whose,
    _within,
)
from hccvision.data.linter import usable

_MOST_BYTES = 4 * 2**20  # of a label file
_LINE = re.compile(r"\s*\d+(\s+\S+){4}\s*$", re.MULTILINE)


def read_yolo_folder(
    folder: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
    *,
    subset: str | None = None,
    patient: PatientRule | None = None,
    unannotated: str = "problem",
) -> list[Sample]:
    """Read a folder of YOLO labels: ``images/`` and ``labels/``, or text files and images side by side.

    Problems are those of `read_voc_folder`, and: a class number beyond the names (``unknown_category``; the box is
    left out), a line in a list that leads out of the folder (``unsafe_path``).

    Args:
        folder: of the data set.
        classes: names in the order of their numbers; None: the lines of ``classes.txt``, there or in ``labels/``.
        subset: an image list, ``<subset>.txt``, one path relative to the folder a line, or else a folder in
            ``images/``; None: everything.
        patient: whose slice an image is, as in `read_voc_folder`.
        unannotated: an image without text file is a ``"problem"``, or ``"normal"``: looked at, no lesion, or
            ``"skip"``. An empty text file always means: no lesion.

    Returns:
        Samples in the order of the list, or of the paths; then one for each label or line without image.

    Raises:
        FileNotFoundError: if there is no such folder or subset.
        ValueError: if the class names are not known or not unique, or there are no images and no labels in it.

    Example:
        >>> from hccvision import phantom
        >>> from hccvision.data.folders import read_voc_folder
        >>> root = phantom.write_dataset(tempfile.mkdtemp() + "/liver", patients=2, slices=1, seed=0)
        >>> data = read_voc_folder(root)
        >>> again = read_yolo_folder(write_yolo_folder(data, root / "yolo"))
        >>> [s.names for s in again] == [s.names for s in data]
        True
    """
    if unannotated not in ("problem", "normal", "skip"):
        raise ValueError(f"unknown unannotated={unannotated!r}; known: 'problem', 'normal', 'skip'")
    root = _existing_folder(folder)
    pictures = root / "images" if (root / "images").is_dir() else root
    labels = root / "labels" if (root / "labels").is_dir() else pictures
    names = _names(root, labels, classes)
    who = _patient_rule(patient)
    samples = []
    if subset is None or not (root / f"{subset}.txt").is_file():
        where = _within(pictures, subset or ".")
        if where is None or not where.is_dir():
            raise FileNotFoundError(
                f"{root}: neither a list {subset}.txt nor a folder {subset} of images: check the name"
            )
        found = (p for p in sorted(where.rglob("*")) if p.is_file() and p.suffix != ".txt")
        paths = [p for p in found if images.is_image(p)]
        samples += _without_image(where, pictures, labels, paths)
        if not paths and not samples:
            raise ValueError(f"{root}: no images and no labels found; expected the folders images/ and labels/")
    else:
        paths = []
        for number, line in enumerate(_read_text(root / f"{subset}.txt").splitlines(), start=1):
            if not line.strip():
                continue
            path = _within(root, line.strip())
            if path is None or not path.is_file():
                kind, message = "missing_image", f"names {line.strip()!r}, which is not in {root}: mend the list"
                if path is None:
                    kind, message = "unsafe_path", f"leads out of {root} with {line.strip()!r}: name a file in it"
                problem = Problem(kind, str(root / f"{subset}.txt"), f"line {number} {message}", False)
                samples.append(Sample(root / f"line {number}", problems=(problem,)))
            else:
                paths.append(path)
    counts = Counter(p.with_name(_stem(p)) for p in paths)
    read = []
    for path in paths:
        beside = labels / path.relative_to(pictures) if path.is_relative_to(pictures) else path
        label = beside.with_name(f"{_stem(path)}.txt")
        if not label.is_file() and unannotated == "skip":
            continue
        size, problems = _image_size(path)
        owner, more = _whose(who, path)
        problems += more
        if counts[path.with_name(_stem(path))] > 1:
            message = f"several images are named {_stem(path)!r}: it may be for any of them: keep one"
            problems = (*problems, Problem("ambiguous_image", str(label), message, False))
        annotation = None
        if label.is_file():
            try:
                boxes, unknown = _lines(label, names, size)
                annotation = _judged(boxes, size, path=label, filename=path.name, problems=unknown)
            except ValueError as error:
                message = str(error).removeprefix(f"{label}: ")
                problems = (*problems, Problem("unreadable_annotation", str(label), message, False))
        elif unannotated == "normal":
            annotation = _judged([], size, filename=path.name)
        else:
            message = 'no labels for this image: annotate it, or read with unannotated="normal" if it has no lesion'
            problems = (*problems, Problem("missing_annotation", str(path), message, False))
        if annotation is not None:
            problems = (*annotation.problems, *problems)
        read.append(Sample(path, owner, annotation=annotation, problems=problems))
    return read + samples


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
        samples: with annotations, each image of another name.
        folder: to make, or empty.
        classes: names in the order of their numbers, from 0; None: those there are, sorted.
        on_problem: ``"raise"``, or ``"skip"``: leave out what problems spoil, as in `fit`.

    Returns:
        The folder.

    Raises:
        FileExistsError: if the folder is not empty.
        ValueError: if there are problems and ``on_problem="raise"``, a sample has no annotation, two images have one
            name, a box is not finite or empty, or ``classes`` lacks a name or holds one that is not a line of text.

    Example:
        >>> from PIL import Image
        >>> from hccvision.contracts import Annotation
        >>> root = Path(tempfile.mkdtemp())
        >>> Image.new("L", (50, 50)).save(root / "a.png")
        >>> a = Annotation(np.array([[10, 20, 30, 45]]), ("hcc",))
        >>> made = write_yolo_folder([Sample(root / "a.png", annotation=a)], root / "yolo")
        >>> (made / "labels" / "a.txt").read_text()
        '0 0.4 0.65 0.4 0.5\n'
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: exists and is not an empty folder: give a new one")
    kept = usable(samples, on_problem)
    names = class_list(kept, classes)
    bad = [name for name in names if not name.strip() or name != name.strip() or len(name.splitlines()) != 1]
    if bad:
        raise ValueError(f"{folder}: a class name must be one line of text without outer spaces, got {bad}: rename it")
    twice = [stem for stem, count in Counter(_stem(s.path) for s in kept).items() if count > 1]
    if twice:
        raise ValueError(
            f"{folder}: several images are named {', '.join(twice[:5])}: rename them, or write two folders"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name in ("images", "labels"):
            (unfinished / name).mkdir()
        for sample in kept:
            (height, width), boxes = whole_boxes(sample)
            shares = boxes / [width, height, width, height]
            centred = np.concatenate([(shares[:, :2] + shares[:, 2:]) / 2, shares[:, 2:] - shares[:, :2]], axis=1)
            lines = [
                " ".join([str(names.index(name)), *(f"{share:.10g}" for share in row)]) + "\n"
                for name, row in zip(sample.names, centred.tolist(), strict=True)
            ]
            (unfinished / "labels" / f"{_stem(sample.path)}.txt").write_text("".join(lines), encoding="utf-8")
            shutil.copyfile(sample.path, unfinished / "images" / sample.path.name)
        (unfinished / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        unfinished.chmod(0o755)
        if folder.is_dir():
            folder.rmdir()
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _names(root: Path, labels: Path, classes: Sequence[str] | None) -> list[str]:
    if classes is None:
        files = [p for p in (root / "classes.txt", labels / "classes.txt") if p.is_file()]
        if not files:
            raise ValueError(f"{root}: there is no classes.txt: give classes= the names, as data.yaml lists them")
        classes = [line.strip() for line in _read_text(files[0]).rstrip().splitlines()]
    names = list(classes)
    if not names or not all(names) or len(set(names)) < len(names):
        raise ValueError(f"{root}: expected class names that are unique and not empty, got {names}: correct them")
    return names


def _without_image(where: Path, pictures: Path, labels: Path, paths: Sequence[Path]) -> list[Sample]:
    """Give a sample for each label file whose image is missing."""
    known = {p.relative_to(pictures).with_name(_stem(p)) for p in paths}
    place = labels / where.relative_to(pictures)
    found = []
    for label in sorted(place.rglob("*.txt")) if place.is_dir() else []:
        name = label.relative_to(labels).with_suffix("")
        if name in known or label.name == "classes.txt" or label.name.startswith("."):
            continue
        if labels == pictures and not _LINE.match(label.read_bytes()[:200].decode("utf-8", "replace")):
            continue  # a list or a note among the images
        message = f"its image {name.name!r} is not in {pictures}: put it there, or delete the labels"
        found.append(Sample(pictures / name, problems=(Problem("missing_image", str(label), message, False),)))
    return found


def _lines(
    label: Path, names: Sequence[str], size: tuple[int, int] | None
) -> tuple[list[tuple[str, str, list[float], str, bool]], list[Problem]]:
    """Give what `_judged` takes for each line of a label file, and lines of unknown classes as problems."""
    if label.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{label}: expected labels of at most {_MOST_BYTES >> 20} MiB, got more: export them again")
    lines = _read_text(label).splitlines()
    found: list[tuple[str, str, list[float], str, bool]] = []
    problems: list[Problem] = []
    if size is None:  # the image itself is the problem
        return found, problems
    height, width = size
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        word, *rest = line.split()
        if not re.fullmatch(r"[0-9]{1,9}", word) or int(word) >= len(names):
            message = f"line {number} is of the class {word[:20]!r}; left out: it must be from 0 to {len(names) - 1}"
            problems.append(Problem("unknown_category", str(label), message))
            continue
        try:
            x, y, w, h = (float(text) for text in rest)
        except ValueError:
            x = y = w = h = np.nan
        corners = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
        found.append((f"line {number}", names[int(word)], corners, repr(line.strip()[:200]), False))
    return found, problems
