"""Which image an XML of a LabelImg folder belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hccvision.annotations import voc
from hccvision.annotations.finding import Finder
from hccvision.annotations.judging import format_size, judge_image
from hccvision.annotations.patients import PatientOf, find_patient
from hccvision.annotations.tree import Tree
from hccvision.contracts.samples import Problem, Sample


class Images:
    """Finds the images of a folder, and its other files for messages.

    Args:
        tree: the files of the folder.
    """

    def __init__(self, tree: Tree) -> None:
        self.root, self.files = tree.root, tree.files
        self.images = Finder(tree.root, tree.images)

    def missing(self, xml: Path, name: str) -> str:
        """Return what to say of an XML without an image.

        Args:
            xml: the file.
            name: of the image, as it states it.

        Returns:
            The message.
        """
        alike = (p for p in self.files if p.name.casefold() == name.casefold())
        there = Finder(self.root, alike).by_name(name, xml) if name else []
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


def annotated_sample(
    xml: Path, beside: list[Path], find: Images, rule: PatientOf | None, base: str
) -> tuple[Sample, list[Path]]:
    """Read an XML and find its image by its name or by that which it states.

    Args:
        xml: the file.
        beside: the images of its name.
        find: all images.
        rule: that finds the patient of an image.
        base: see `voc.read`.

    Returns:
        The sample, and all images that the XML may be for.
    """
    try:
        annotation = voc.read(xml, base=base)
    except (ValueError, OSError) as error:
        image = beside[0] if beside else xml.with_suffix(".png")
        message = str(error).removeprefix(f"{xml}: ")
        return Sample(image, problems=(Problem("unreadable_annotation", str(xml), message, False),)), beside[:1]
    parts = annotation.filename.replace("\\", "/").split("/")
    name = parts[-1]
    if ".." in parts:
        message = f"its <filename> {annotation.filename!r} points outside the folder: state the file name alone"
        problem = Problem("unsafe_path", str(xml), message, False)
        path = beside[0] if beside else find.root / xml.stem
        return Sample(path, annotation=annotation, problems=(*annotation.problems, problem)), beside[:1]
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
