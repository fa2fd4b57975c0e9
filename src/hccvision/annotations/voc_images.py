"""Which image an XML of a LabelImg folder belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from hccvision.annotations import voc
from hccvision.annotations.judging import format_size, judge_image
from hccvision.annotations.patients import PatientOf, find_patient
from hccvision.annotations.tree import Finder, Tree
from hccvision.contracts.samples import Annotation, Problem, Sample


def unannotated_sample(image: Path, rule: PatientOf | None, problem: bool) -> Sample:
    """Return the sample of an image without XML.

    Args:
        image: the image file.
        rule: that finds its patient.
        problem: whether the missing XML is a problem; otherwise the image has no lesion.

    Returns:
        The sample.
    """
    size, problems = judge_image(image)
    patient, more = find_patient(rule, image)
    if problem:
        message = 'no XML for this image: annotate it, or read the folder with unannotated="normal" if it has no lesion'
        more = (*more, Problem("missing_annotation", str(image), message, False))
        return Sample(image, patient, problems=(*problems, *more))
    empty = Annotation(np.zeros((0, 4), np.float32), (), size=size, filename=image.name)
    return Sample(image, patient, annotation=empty, problems=(*problems, *more))


class Images:
    """Finds the images of a folder, and its other files for messages.

    Args:
        tree: the files of the folder.
    """

    def __init__(self, tree: Tree) -> None:
        self.root = tree.root
        self.images, self.files = Finder(tree.root, tree.images), Finder(tree.root, tree.files)

    def missing(self, xml: Path, name: str) -> str:
        """Return what to say of an XML without an image.

        Args:
            xml: the file.
            name: of the image, as it states it.

        Returns:
            The message.
        """
        there = self.files.by_name(name, xml) if name else []
        if there and there[0] != xml:
            return f"its image {there[0]} is in no image format that is read: save it as PNG, or delete the XML"
        return f"its image {name or xml.stem!r} is not in {self.root}: put it there, or delete the XML"


def with_duplicates(sample: Sample, taken: Mapping[Path, int]) -> Sample:
    """Return a sample with a problem if its image has another XML too.

    Args:
        sample: of an XML.
        taken: how many XML files each image has.

    Returns:
        The sample.
    """
    if taken.get(sample.path, 0) < 2 or any(p.kind == "ambiguous_image" for p in sample.problems):
        return sample
    xml = sample.annotation.path if sample.annotation is not None else sample.path
    message = f"its image {sample.path} has another XML too: keep one of them"
    problem = Problem("duplicate_annotation", str(xml), message, False)
    return replace(sample, problems=(*sample.problems, problem))


def annotated_sample(xml: Path, find: Images, rule: PatientOf | None, base: str) -> tuple[Sample, list[Path]]:
    """Read an XML and find its image by its name or by that which it states.

    Args:
        xml: the file.
        find: the images.
        rule: that finds the patient of an image.
        base: see `voc.read`.

    Returns:
        The sample, and all images that the XML may be for.
    """
    beside = find.images.by_stem(xml)
    try:
        annotation = voc.read(xml, base=base)
    except (ValueError, OSError) as error:
        image = beside[0] if beside else xml.with_suffix(".png")
        message = str(error).removeprefix(f"{xml}: ")
        return Sample(image, problems=(Problem("unreadable_annotation", str(xml), message, False),)), beside
    parts = annotation.filename.replace("\\", "/").split("/")
    name = parts[-1]
    if ".." in parts:
        message = f"its <filename> {annotation.filename!r} points outside the folder: state the file name alone"
        problem = Problem("unsafe_path", str(xml), message, False)
        path = beside[0] if beside else find.root / xml.stem
        return Sample(path, annotation=annotation, problems=(*annotation.problems, problem)), beside
    named = find.images.by_name(name, xml) if name else []
    both = [p for p in named if p in beside]
    choice = both if len(both) == 1 else list(dict.fromkeys([*beside, *named]))
    if len(choice) != 1:
        if choice:
            kind, found = "ambiguous_image", ", ".join(p.relative_to(find.root).as_posix() for p in choice)
            message = f"its image may be any of {found}: correct its <filename>, or keep only the image with its stem"
        else:
            kind, message = "missing_image", find.missing(xml, name)
        path = choice[0] if choice else find.root / (name or xml.stem)
        problem = Problem(kind, str(xml), message, False)
        return Sample(path, annotation=annotation, problems=(*annotation.problems, problem)), choice
    path = choice[0]
    size, problems = judge_image(path)
    patient, more = find_patient(rule, path)
    if size is not None and annotation.size is not None and size != annotation.size:
        message = (
            f"says the image is {format_size(annotation.size)} pixels, but {path.name} is {format_size(size)}: the "
            "boxes may be for another version of the image; annotate this one"
        )
        more = (*more, Problem("size_mismatch", str(xml), message, False))
    return Sample(path, patient, annotation=annotation, problems=(*annotation.problems, *problems, *more)), choice
