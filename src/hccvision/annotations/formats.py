"""Annotation formats: recognise one, read any of them, write any of them.

A format is one definition, registered in `ANNOTATION_FORMATS`: a class that recognises its files, reads them and, if
it can, writes them. `read_folder` and `write_folder` take its name or an object of it.

Example:
    >>> import json
    >>> from hccvision.annotations.judging import StatedBox, judge_boxes, judge_image
    >>> class Lines:  # registered with @ANNOTATION_FORMATS.register("lines")
    ...     looks_for = "boxes.jsonl beside the images, one line per image"
    ...
    ...     def matches(self, path):
    ...         return (path / "boxes.jsonl").is_file()
    ...
    ...     def read(self, path):
    ...         samples = []
    ...         for line in (path / "boxes.jsonl").read_text(encoding="utf-8").splitlines():
    ...             entry = json.loads(line)
    ...             size, problems = judge_image(path / entry["image"])
    ...             boxes = [StatedBox(entry["image"], name, box, str(box)) for name, *box in entry["boxes"]]
    ...             annotation = judge_boxes(boxes, size, path=path / "boxes.jsonl")
    ...             problems += annotation.problems
    ...             samples.append(Sample(path / entry["image"], annotation=annotation, problems=problems))
    ...         return samples
    >>> import tempfile
    >>> from PIL import Image
    >>> root = Path(tempfile.mkdtemp())
    >>> Image.new("L", (60, 50)).save(root / "a.png")
    >>> _ = (root / "boxes.jsonl").write_text('{"image": "a.png", "boxes": [["hcc", 10, 20, 30, 45]]}')
    >>> [s.names for s in read_folder(root, Lines())]
    [('hcc',)]
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from hccvision.contracts.samples import Annotation, Sample
from hccvision.registry import ANNOTATION_FORMATS


class AnnotationFormat(Protocol):
    """A format that can be recognised and read.

    Args:
        looks_for: what `matches` looks for, in a few words, for messages.
    """

    looks_for: str

    def matches(self, path: Path) -> bool:
        """Return whether a folder or file looks like this format; fast, and never raises for what is in it.

        Args:
            path: an existing folder or file.

        Returns:
            Whether `read` should be tried.
        """

    def read(self, path: Path, **options: Any) -> list[Sample]:
        """Read a folder or file.

        Args:
            path: an existing folder or file.
            options: of the reader, such as ``patient=``.

        Returns:
            The samples; what is wrong with the files is in their problems.
        """


@runtime_checkable
class DatasetWriter(Protocol):
    """A format that can write the annotations of a whole data set.

    Args:
        image_folder: the folder of the images, relative to the data set's: ``"JPEGImages"``; "" for the same.
    """

    image_folder: str

    def write(self, folder: Path, samples: Sequence[Sample], *, classes: Sequence[str]) -> None:
        """Write the annotations of images that are in the data set's folder already.

        Args:
            folder: of the data set; it exists, and its images are in ``folder / image_folder``.
            samples: the images there, each with an annotation; problems are ignored. All file names are written
                relative to ``folder``, which may be renamed afterwards.
            classes: names in the order of the ids, for formats that number classes; every name is among them.

        Raises:
            ValueError: if the format can't express a sample or a class name.
        """


@runtime_checkable
class ImageWriter(Protocol):
    """A format that can write the annotation of one image in a file of its own."""

    def annotation_path(self, image_path: Path) -> Path:
        """Return the annotation file of an image in a folder of images.

        Args:
            image_path: the image.

        Returns:
            The path; the file need not exist.
        """

    def write_one(
        self, image_path: Path, annotation: Annotation, *, classes: Sequence[str], overwrite: bool = False
    ) -> Path:
        """Write the annotation of one image to `annotation_path`; the file appears whole or not at all.

        Args:
            image_path: the image.
            annotation: of the image; its size is read from the image if it is unknown.
            classes: names in the order of the ids, for formats that number classes.
            overwrite: whether an existing annotation may be replaced.

        Returns:
            The path written.

        Raises:
            FileExistsError: if the file exists and ``overwrite`` is False.
            ValueError: if the format can't express the annotation or a class name.
        """


def read_folder(
    path: str | os.PathLike[str], format: str | AnnotationFormat | None = None, **options: Any
) -> list[Sample]:
    r"""Read a data set in any annotation format, recognised by its files or given.

    Args:
        path: the folder of the data set, or the file for formats of one file.
        format: a name in `ANNOTATION_FORMATS`, or an object with ``read``; None: the one format that matches.
        options: passed to the format's reader, such as ``patient=r"^(P\d+)_"``, which every format of the library
            takes.

    Returns:
        Samples; what is wrong with their files is kept in ``Sample.problems``.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ValueError: if no format matches, or several; also what the reader raises.

    Example:
        >>> import tempfile
        >>> from hccvision import phantom
        >>> root = phantom.write_dataset(tempfile.mkdtemp() + "/liver", patients=2, slices=1, seed=0)
        >>> [s.patient for s in read_folder(root, patient=r"^(P\d+)_")]
        ['P001', 'P002']
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder or file")
    if format is None:
        format = detect(path)
    samples: list[Sample] = ANNOTATION_FORMATS.resolve(format).read(path, **options)
    return samples


def detect(path: str | os.PathLike[str]) -> str:
    """Return the name of the one annotation format that matches a folder or file.

    Args:
        path: the folder of a data set, or a file.

    Returns:
        A name in `ANNOTATION_FORMATS`.

    Raises:
        ValueError: if no format matches, or several; the message names what each looks for.

    Example:
        >>> import tempfile
        >>> from hccvision import phantom
        >>> detect(phantom.write_dataset(tempfile.mkdtemp() + "/liver", patients=1, slices=1))
        'voc'
    """
    path = Path(path)
    formats = {name: ANNOTATION_FORMATS.build(name) for name in ANNOTATION_FORMATS.names()}
    found = [name for name, each in formats.items() if each.matches(path)]
    if len(found) == 1:
        return found[0]
    listed = "".join(f"\n  {name}: {formats[name].looks_for}" for name in found or formats)
    if found:
        raise ValueError(
            f"{path}: several annotation formats match; pass format= one of {', '.join(map(repr, found))}:{listed}"
        )
    raise ValueError(
        f"{path}: no annotation format matches; check the path, or pass format= and what its reader needs. "
        f"Looked for:{listed}"
    )


def dataset_writer(format: str | DatasetWriter, **options: Any) -> DatasetWriter:
    """Return a format that writes whole data sets.

    Args:
        format: a name in `ANNOTATION_FORMATS`, or an object with ``image_folder`` and ``write``.
        options: of the format, such as ``base="corner"`` for ``"voc"``.

    Returns:
        The format.

    Raises:
        KeyError: if the name is unknown.
        ValueError: if the format can't write data sets.

    Example:
        >>> dataset_writer("voc", base="corner").image_folder
        'JPEGImages'
    """
    writer = ANNOTATION_FORMATS.resolve(format, **options)
    if not isinstance(writer, DatasetWriter):
        raise ValueError(
            f"the annotation format {_name(writer)} has no writer; formats with one: {_able(DatasetWriter)}"
        )
    return writer


def image_writer(format: str | ImageWriter, **options: Any) -> ImageWriter:
    """Return a format that writes the annotation of one image beside it.

    Args:
        format: a name in `ANNOTATION_FORMATS`, or an object with ``annotation_path`` and ``write_one``.
        options: of the format, such as ``base="corner"`` for ``"voc"``.

    Returns:
        The format.

    Raises:
        KeyError: if the name is unknown.
        ValueError: if the format has no annotation file for each image.

    Example:
        >>> image_writer("coco")
        Traceback (most recent call last):
        ...
        ValueError: the annotation format 'coco' does not write one file per image; formats that do: 'voc', 'yolo'
    """
    writer = ANNOTATION_FORMATS.resolve(format, **options)
    if not isinstance(writer, ImageWriter):
        raise ValueError(
            f"the annotation format {_name(writer)} does not write one file per image; formats that do: "
            f"{_able(ImageWriter)}"
        )
    return writer


def _name(part: Any) -> str:
    return repr(part.built_from[0]) if hasattr(part, "built_from") else type(part).__name__


def _able(protocol: type) -> str:
    names = [name for name in ANNOTATION_FORMATS.names() if isinstance(ANNOTATION_FORMATS.build(name), protocol)]
    return ", ".join(map(repr, names))
