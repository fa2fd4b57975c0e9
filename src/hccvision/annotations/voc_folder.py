"""Folders of LabelImg annotations in Pascal VOC XML, read and written."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from hccvision.annotations import voc
from hccvision.annotations.judging import format_size, judge_image
from hccvision.annotations.names import annotation_stem, copied_from
from hccvision.annotations.paths import by_stem, existing_folder, images_in, read_text
from hccvision.annotations.patients import PatientOf, PatientRule, find_patient, patient_rule
from hccvision.annotations.writing import clipped_boxes
from hccvision.contracts.samples import Annotation, Problem, Sample
from hccvision.registry import ANNOTATION_FORMATS

IMAGE_FOLDERS = ("JPEGImages", "images")  # beside Annotations/


def read_voc_folder(
    folder: str | os.PathLike[str],
    *,
    subset: str | None = None,
    patient: PatientRule | None = None,
    base: str = "voc",
    unannotated: str = "problem",
) -> list[Sample]:
    r"""Read a folder of LabelImg annotations: ``Annotations/`` and ``JPEGImages/``, or XML and images side by side.

    Args:
        folder: of the data set.
        subset: name of an image list, ``ImageSets/Main/<subset>.txt``, with one file stem per line; None: everything.
        patient: how to find an image's patient: a regular expression on the file name (its first group, or the whole
            match), a callable on the path, a table ``{file name: patient}``, or the path of a CSV file with a column
            ``patient`` and one of ``image``, ``file`` or ``path``. None: patients are unknown.
        base: how the files count pixels: ``"voc"`` or ``"corner"``, see `voc.read`.
        unannotated: what an image without XML is: a ``"problem"``, ``"normal"`` (examined, no lesion), or left out
            (``"skip"``).

    Returns:
        Samples in the order of the list, or of the file names.

    Raises:
        FileNotFoundError: if there is no such folder or list.
        ValueError: if there are no annotations and no images in it.

    Example:
        >>> import tempfile
        >>> from hccvision import phantom
        >>> root = phantom.write_dataset(tempfile.mkdtemp() + "/liver", patients=2, slices=1, seed=0)
        >>> [s.patient for s in read_voc_folder(root, patient=r"^(P\d+)_")]
        ['P001', 'P002']
    """
    if unannotated not in ("problem", "normal", "skip"):
        raise ValueError(f"unknown unannotated={unannotated!r}; known: 'problem', 'normal', 'skip'")
    voc.check_base(base)
    root = existing_folder(folder)
    pictures = next((root / d for d in IMAGE_FOLDERS if (root / d).is_dir()), root)
    files = {p.name: p for p in images_in(pictures)}
    stems_of_images = by_stem(files.values())
    xmls = {p.stem: p for p in _xmls(root)}
    known = {*xmls, *stems_of_images}
    stems = sorted(known) if subset is None else _read_list(root, subset, known)
    if not stems:
        raise ValueError(
            f"{root}: no annotations and no images found; expected LabelImg's XML files beside their images, or the "
            "folders Annotations/ and JPEGImages/"
        )
    rule = patient_rule(patient)
    annotated = {
        stem: _annotated(xmls[stem], files, stems_of_images.get(stem, []), pictures, rule, base)
        for stem in stems
        if stem in xmls
    }
    taken = {s.path for s in annotated.values()}
    samples = []
    for stem in stems:
        if stem in annotated:
            samples.append(annotated[stem])
        elif stem not in stems_of_images:
            message = f"the list {subset!r} names it, but no image and no XML has that name: correct the list"
            samples.append(Sample(pictures / stem, problems=(Problem("missing_image", stem, message, False),)))
        elif unannotated != "skip":
            samples += [
                _unannotated(p, rule, unannotated == "problem") for p in stems_of_images[stem] if p not in taken
            ]
    return [replace(s, source_id=copied_from(s.path)) for s in samples]


@ANNOTATION_FORMATS.register("voc")
class VOCFormat:
    """LabelImg's Pascal VOC: one XML per image, in ``Annotations/`` or beside the images.

    Args:
        base: how the files count pixels: ``"voc"`` or ``"corner"``, see `voc.read`.

    Raises:
        ValueError: if the base is unknown.

    Example:
        >>> VOCFormat().annotation_path(Path("new/P007_03.png")).name
        'P007_03.xml'
    """

    looks_for = "LabelImg's XML files, in Annotations/ or beside the images"
    image_folder = "JPEGImages"

    def __init__(self, base: str = "voc") -> None:
        voc.check_base(base)
        self.base = base

    def matches(self, path: Path) -> bool:
        """Return whether a folder has an XML with an ``<annotation>``.

        Args:
            path: a folder or file.

        Returns:
            Whether it looks like this format.
        """
        return path.is_dir() and any(_is_annotation(p) for p in _xmls(path))

    def read(self, path: Path, **options: Any) -> list[Sample]:
        """Read a folder, see `read_voc_folder`.

        Args:
            path: the folder.
            options: of `read_voc_folder`.

        Returns:
            The samples.
        """
        return read_voc_folder(path, **{"base": self.base, **options})

    def write(self, folder: Path, samples: Sequence[Sample], *, classes: Sequence[str] = ()) -> None:
        """Write an XML into ``Annotations/`` for each image in ``JPEGImages/``.

        Boxes are clipped to the image and otherwise written as they are, fractions of pixels too. The XML that an
        annotation was read from is copied byte for byte if it still states the same, without problems; an annotation
        whose ``path`` is None is always written anew.

        Args:
            folder: of the data set.
            samples: its images, each with an annotation.
            classes: not used: the files state names.

        Raises:
            ValueError: if a box is not finite or empty, or XML can't hold a text.
        """
        (folder / "Annotations").mkdir(exist_ok=True)
        for sample in samples:
            path = folder / "Annotations" / f"{annotation_stem(sample.path)}.xml"
            size, boxes = clipped_boxes(sample)
            annotation = sample.annotation
            assert annotation is not None
            if annotation.path is not None and self._is_unchanged(annotation):
                shutil.copyfile(annotation.path, path)
                continue
            annotation = replace(annotation, size=size, boxes=boxes)
            image = sample.path.relative_to(folder)
            voc.write(path, annotation, base=self.base, image_path=image, whole_pixels=False)

    def annotation_path(self, image_path: Path) -> Path:
        """Return the XML beside an image.

        Args:
            image_path: the image.

        Returns:
            The path.
        """
        return image_path.with_name(f"{annotation_stem(image_path)}.xml")

    def write_one(
        self, image_path: Path, annotation: Annotation, *, classes: Sequence[str] = (), overwrite: bool = False
    ) -> Path:
        """Write the XML beside an image, its boxes clipped to the image and in whole pixels, as LabelImg draws them.

        Args:
            image_path: the image.
            annotation: of the image.
            classes: not used: the file states names.
            overwrite: whether an existing XML may be replaced.

        Returns:
            The path written.

        Raises:
            FileExistsError: if the XML exists and ``overwrite`` is False.
            ValueError: if a box is not finite or empty, or XML can't hold a text.
        """
        path = self.annotation_path(image_path)
        size, boxes = clipped_boxes(Sample(image_path, annotation=annotation))
        annotation = replace(annotation, size=size, boxes=boxes)
        return voc.write(path, annotation, base=self.base, image_path=image_path, overwrite=overwrite)

    def _is_unchanged(self, annotation: Annotation) -> bool:
        """Return whether the file that an annotation was read from states exactly this annotation."""
        if annotation.path is None or annotation.path.suffix != ".xml" or annotation.problems:
            return False
        try:
            stated = voc.read(annotation.path, base=self.base)
        except (ValueError, OSError):
            return False
        same = (f.name for f in fields(Annotation) if f.name != "boxes")
        return np.array_equal(stated.boxes, annotation.boxes) and all(
            getattr(stated, name) == getattr(annotation, name) for name in same
        )


def _xmls(root: Path) -> list[Path]:
    place = root / "Annotations" if (root / "Annotations").is_dir() else root
    return [p for p in sorted(place.glob("*.xml")) if not p.name.startswith(".")]


def _is_annotation(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"<annotation" in file.read(2**16).replace(b"\0", b"")  # UTF-16 has zeros between the letters
    except OSError:
        return False


def _read_list(root: Path, subset: str, known: Set[str]) -> list[str]:
    path = root / "ImageSets" / "Main" / f"{subset}.txt"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
        raise FileNotFoundError(f"{path}: no such image list; lists there: {there}")
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path}: the image list is empty: write one file stem per line")
    # VOC's lists of one class state after each stem whether the image shows that class: 1, 0 or -1.
    names = (line if line in known else re.sub(r"\s+(-1|0|1)$", "", line) for line in lines)
    return list(dict.fromkeys(names))


def _unannotated(image: Path, rule: PatientOf | None, problem: bool) -> Sample:
    size, problems = judge_image(image)
    patient, more = find_patient(rule, image)
    if problem:
        message = 'no XML for this image: annotate it, or read the folder with unannotated="normal" if it has no lesion'
        more = (*more, Problem("missing_annotation", str(image), message, False))
        return Sample(image, patient, problems=(*problems, *more))
    empty = Annotation(np.zeros((0, 4), np.float32), (), size=size, filename=image.name)
    return Sample(image, patient, annotation=empty, problems=(*problems, *more))


def _annotated(
    xml: Path,
    files: Mapping[str, Path],
    beside: Sequence[Path],
    pictures: Path,
    rule: PatientOf | None,
    base: str,
) -> Sample:
    """Read an XML and find its image among ``files`` by name, or ``beside`` by stem."""
    try:
        annotation = voc.read(xml, base=base)
    except ValueError as error:
        image = beside[0] if beside else xml.with_suffix(".png")
        message = str(error).removeprefix(f"{xml}: ")
        return Sample(image, problems=(Problem("unreadable_annotation", str(xml), message, False),))
    parts = annotation.filename.replace("\\", "/").split("/")
    name = parts[-1]
    if ".." in parts:
        message = f"its <filename> {annotation.filename!r} points outside the folder: state the file name alone"
        problem = Problem("unsafe_path", str(xml), message, False)
        path = beside[0] if beside else pictures / xml.stem
        return Sample(path, annotation=annotation, problems=(*annotation.problems, problem))
    named = [files[name]] if name in files else []
    choice = named if named and named[0] in beside else [*beside, *named]
    if len(choice) != 1:
        if choice:
            kind, found = "ambiguous_image", ", ".join(p.name for p in choice)
            message = f"its image may be any of {found}: correct its <filename>, or keep only the image with its stem"
        else:
            kind = "missing_image"
            message = f"its image {name or xml.stem!r} is not in {pictures}: put it there, or delete the XML"
        path = choice[0] if choice else pictures / (name or xml.stem)
        problem = Problem(kind, str(xml), message, False)
        return Sample(path, annotation=annotation, problems=(*annotation.problems, problem))
    path = choice[0]
    size, problems = judge_image(path)
    patient, more = find_patient(rule, path)
    if size is not None and annotation.size is not None and size != annotation.size:
        message = (
            f"says the image is {format_size(annotation.size)} pixels, but {path.name} is {format_size(size)}: the "
            "boxes may be for another version of the image; annotate this one"
        )
        more = (*more, Problem("size_mismatch", str(xml), message, False))
    return Sample(path, patient, annotation=annotation, problems=(*annotation.problems, *problems, *more))
