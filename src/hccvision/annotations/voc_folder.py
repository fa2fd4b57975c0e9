"""Folders of LabelImg annotations in Pascal VOC XML, read and written."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence, Set
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from hccvision.annotations import voc
from hccvision.annotations.left_out import check_unannotated, left_aside, say_left_out, unannotated_sample
from hccvision.annotations.listed import has_file_like
from hccvision.annotations.names import annotation_stem, copied_from
from hccvision.annotations.paths import existing_folder, read_text
from hccvision.annotations.patients import PatientRule, patient_rule
from hccvision.annotations.tree import Tree, scan
from hccvision.annotations.voc_images import Images, annotated_sample, with_duplicates
from hccvision.annotations.writing import clipped_boxes
from hccvision.contracts.samples import Annotation, Problem, Sample
from hccvision.registry import ANNOTATION_FORMATS


def read_voc_folder(
    folder: str | os.PathLike[str],
    *,
    subset: str | None = None,
    patient: PatientRule | None = None,
    base: str = "voc",
    unannotated: str = "problem",
) -> list[Sample]:
    r"""Read a folder of LabelImg annotations, with its subfolders in any layout.

    An XML belongs to the image of its name beside it, else in the like folder (``Annotations/P1/a.xml`` and
    ``JPEGImages/P1/a.png``), else anywhere; or to the image that it names inside. Names and suffixes in upper case
    count as those in lower case. Whatever looks like an annotation or an image and is neither read nor left out by the
    arguments is a problem; what is left out by them is printed.

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
    check_unannotated(unannotated)
    voc.check_base(base)
    root = existing_folder(folder)
    tree = scan(root)
    xmls = tree.with_suffix(".xml")
    if not tree.images and not xmls and not tree.odd:
        raise ValueError(
            f"{root}: no annotations and no images found; expected LabelImg's XML files beside their images, or the "
            "folders Annotations/ and JPEGImages/, at any depth"
        )
    known = {p.stem for p in xmls} | {annotation_stem(p) for p in tree.images}
    wanted = sorted(known) if subset is None else _read_list(tree, subset, known)
    rule, find = patient_rule(patient), Images(tree)
    annotated: dict[str, list[Sample]] = defaultdict(list)
    bare: dict[str, list[Path]] = defaultdict(list)
    taken: Counter[Path] = Counter()
    namesakes: set[Path] = set()  # may show what an XML of their name is about
    for xml in xmls:
        if subset is not None and xml.stem not in wanted:
            continue
        beside = find.images.by_stem(xml)
        sample, images = annotated_sample(xml, beside, find, rule, base)
        namesakes.update(beside)
        taken.update(images)
        annotated[xml.stem].append(sample)
    for path in tree.images:
        if path not in taken:
            bare[annotation_stem(path)].append(path)
    samples = []
    for stem in wanted:
        if stem not in known:
            message = f"the list {subset!r} names it, but no image and no XML has that name: correct the list"
            samples.append(Sample(root / stem, problems=(Problem("missing_image", stem, message, False),)))
        samples += [with_duplicates(s, taken) for s in annotated[stem]]
        if unannotated != "skip":
            for path in bare[stem]:
                samples.append(unannotated_sample(path, rule, unannotated == "problem" or path in namesakes, "XML"))
    if unannotated == "skip":
        say_left_out([p for stem in wanted for p in bare[stem]], 'images without XML (unannotated="skip")')
    lists = [p for p in tree.with_suffix(".txt") if "imagesets" in (part.lower() for part in p.parts)]
    samples += left_aside(tree, [*xmls, *lists])
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
        return path.is_dir() and has_file_like(path, ".xml", _is_annotation)

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


def _is_annotation(path: Path) -> bool:
    try:
        with path.open("rb") as file:  # UTF-16 has zeros between the letters
            return re.search(rb"<annotation[\s/>]", file.read(2**16).replace(b"\0", b"")) is not None
    except OSError:
        return False


def _read_list(tree: Tree, subset: str, known: Set[str]) -> list[str]:
    lists = [p for p in tree.with_suffix(".txt") if p.parent.name.lower() == "main"]
    path = next((p for p in lists if p.stem == subset), tree.root / "ImageSets" / "Main" / f"{subset}.txt")
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in lists)) or "none"
        raise FileNotFoundError(f"{path}: no such image list; lists there: {there}")
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path}: the image list is empty: write one file stem per line")
    # VOC's lists of one class state after each stem whether the image shows that class: 1, 0 or -1.
    names = (line if line in known else re.sub(r"\s+(-1|0|1)$", "", line) for line in lines)
    return list(dict.fromkeys(names))
