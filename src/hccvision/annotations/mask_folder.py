"""Folders of images with folders of their masks."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hccvision.annotations import masks
from hccvision.annotations.finding import MASK_FOLDERS, is_in_mask_folder, mask_name, place_of
from hccvision.annotations.judging import format_size, judge_image
from hccvision.annotations.left_out import left_aside
from hccvision.annotations.names import stem
from hccvision.annotations.paths import existing_folder
from hccvision.annotations.patients import PatientOf, PatientRule, find_patient, patient_rule
from hccvision.annotations.tree import Tree, scan
from hccvision.contracts.samples import Annotation, Problem, Sample
from hccvision.registry import ANNOTATION_FORMATS

Key = tuple[str, ...]  # the place of an image in its folder, and its stem
Labels = Mapping[Any, str | None]  # by value, or by the folder of a structure


class Mask(NamedTuple):
    """A mask of an image.

    Args:
        path: the file.
        part: what its name or folder adds to those of the image, such as ``"mask_1"`` or ``"liver"``; "" for nothing.
        structure: the folder, if that names what the mask shows; "" otherwise.
    """

    path: Path
    part: str = ""
    structure: str = ""


class Rules(NamedTuple):
    """How masks become boxes, see `read_mask_folder`."""

    labels: Labels | None = None
    min_area: int = 1
    connectivity: int = 8


def read_mask_folder(
    folder: str | os.PathLike[str],
    mask_folder: str | os.PathLike[str],
    *,
    labels: Labels | None = None,
    min_area: int = 1,
    connectivity: int = 8,
    patient: PatientRule | None = None,
) -> list[Sample]:
    """Read a folder of images with the folder of their masks, which have the images' names apart from the suffix.

    A name may end in ``_mask``, also with a number: the boxes of such masks of one image are joined. So are those of
    masks in one more folder each, which names what they show, such as ``liver/image_0`` of the image ``image_0``.

    Args:
        folder: of the images.
        mask_folder: of the masks, another folder; PNG or another lossless format, or DICOM or NIfTI of one slice.
        labels: ``{value: class name}``, see `masks.boxes`; None as a name leaves a value out. A value that it lacks is
            an ``unnamed_value`` problem. Where several folders name what masks show, ``{folder: class name}``; without
            ``labels`` they are named by their folders.
        min_area: smallest component kept, in pixels.
        connectivity: 8 or 4.
        patient: how to find an image's patient, as in `read_voc_folder`.

    Returns:
        Samples by file name. An image with an empty mask has no lesions; an image without a mask, a mask without an
        image, an unreadable file and a mask of another size are problems.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if both folders are the same, or there are no images and no masks.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name, pixels in (("images", np.zeros((8, 8))), ("masks", np.eye(8))):
        ...     (root / name).mkdir()
        ...     Image.fromarray(pixels.astype(np.uint8)).save(root / name / "P1_01.png")
        >>> (sample,) = read_mask_folder(root / "images", root / "masks", labels={1: "tumor"})
        >>> sample.annotation.names, sample.annotation.boxes.tolist()
        (('tumor',), [[0.0, 0.0, 8.0, 8.0]])
    """
    root, mask_root = existing_folder(folder), existing_folder(mask_folder)
    if root.resolve() == mask_root.resolve():
        raise ValueError(f"{root}: images and masks need folders of their own: move the masks to another one")
    tree, mask_tree = scan(root), scan(mask_root)
    found = [*mask_tree.images, *mask_tree.masks]
    pictures = [p for p in tree.images if root.is_relative_to(mask_root) or not p.is_relative_to(mask_root)]
    drawn = [p for p in found if mask_root.is_relative_to(root) or not p.is_relative_to(root)]
    if not pictures and not drawn:
        raise ValueError(f"{root}: no images found, and no masks in {mask_root}")
    samples = _samples(root, pictures, mask_root, drawn, Rules(labels, min_area, connectivity), patient)
    unread = {s.path: s for each in (tree, mask_tree) for s in left_aside(each, [*pictures, *drawn])}
    return samples + list(unread.values())


@ANNOTATION_FORMATS.register("masks")
class MaskFormat:
    """Masks of label values, in a folder of masks or named like the images and ``_mask``.

    Example:
        >>> MaskFormat().matches(Path("README.md"))
        False
    """

    looks_for = "masks in masks/ and their images beside it or in images/, or masks named like their images and _mask"

    def matches(self, path: Path) -> bool:
        """Return whether a folder has masks and images.

        Args:
            path: a folder or file.

        Returns:
            Whether it looks like this format.
        """
        return path.is_dir() and all(_images_and_masks(scan(path)))

    def read(
        self,
        path: Path,
        *,
        labels: Labels | None = None,
        min_area: int = 1,
        connectivity: int = 8,
        patient: PatientRule | None = None,
    ) -> list[Sample]:
        """Read a folder that holds the images and the masks, in any layout; see `read_mask_folder`.

        Args:
            path: the folder.
            labels: see `read_mask_folder`.
            min_area: smallest component kept, in pixels.
            connectivity: 8 or 4.
            patient: how to find an image's patient.

        Returns:
            The samples.

        Raises:
            ValueError: if there are no images and no masks.
        """
        tree = scan(existing_folder(path))
        pictures, drawn = _images_and_masks(tree)
        if not pictures and not drawn:
            raise ValueError(f"{path}: no images and no masks found; expected {self.looks_for}")
        rules = Rules(labels, min_area, connectivity)
        return _samples(path, pictures, path, drawn, rules, patient) + left_aside(tree, drawn)


def _images_and_masks(tree: Tree) -> tuple[list[Path], list[Path]]:
    """Return the images of a folder, and the masks, also those without an image."""
    lost = [p for p in tree.images if is_in_mask_folder(p, tree.root)]
    return [p for p in tree.images if p not in set(lost)], tree.masks + lost


def _samples(
    root: Path,
    pictures: Sequence[Path],
    mask_root: Path,
    drawn: Sequence[Path],
    rules: Rules,
    patient: PatientRule | None,
) -> list[Sample]:
    """Return the samples of images below a root, with their masks below another."""
    rule = patient_rule(patient)
    of_key: dict[Key, list[Path]] = defaultdict(list)
    for path in pictures:
        of_key[(*place_of(path, root), stem(path))].append(path)
    of_image, lost = _pair(of_key, mask_root, drawn, rules.labels)
    samples = []
    for key in sorted({*of_key, *lost}):
        here, there = of_key.get(key, []), of_image.get(key, [])
        for path in here:
            samples.append(_sample(path, here, there, mask_root, rules, rule))
        for path in lost.get(key, ()):
            message = f"the image of this mask is not in {root}: put it there, or delete the mask"
            samples.append(Sample(root.joinpath(*key), problems=(Problem("missing_image", str(path), message, False),)))
    return samples


def _pair(
    of_key: Mapping[Key, Sequence[Path]], root: Path, drawn: Iterable[Path], labels: Labels | None
) -> tuple[dict[Key, list[Mask]], dict[Key, list[Path]]]:
    """Return the masks of each image, and those without an image."""
    folded: dict[Key, list[Key]] = defaultdict(list)
    for key in of_key:
        folded[tuple(part.casefold() for part in key)].append(key)
    found: dict[Key, list[Mask]] = defaultdict(list)
    lost: dict[Key, list[Path]] = defaultdict(list)
    structures = {path: _structures(path, root) for path in drawn}
    if labels is not None and not any(isinstance(key, str) for key in labels):
        # names of values alone do not tell the folders apart
        several = len({name for names in structures.values() for name in names}) > 1
        structures = {path: [] if several else names for path, names in structures.items()}
    for path in drawn:
        place, own = place_of(path, root), stem(path)
        name, addition = mask_name(own)
        choices = [((*place, own), Mask(path)), ((*place, name), Mask(path, addition))]
        for structure in structures[path]:  # one folder more than the image has
            cut = place.index(structure)
            outer = place[:cut] + place[cut + 1 :]
            choices.append(((*outer, own), Mask(path, structure, structure)))
            choices.append(((*outer, name), Mask(path, f"{structure}/{addition}", structure)))
        for key, mask in choices:
            keys = [key] if key in of_key else folded.get(tuple(part.casefold() for part in key), [])
            if len(keys) == 1:
                found[keys[0]].append(mask)
                break
        else:
            lost[(*place, own)].append(path)
    return found, lost


def _structures(path: Path, root: Path) -> list[str]:
    """Return the folders of a mask that may name what it shows: those within the folder of masks."""
    parts = path.relative_to(root).parts[:-1]
    start = max((n for n, part in enumerate(parts, start=1) if part.lower() in MASK_FOLDERS), default=0)
    return [part for part in parts[start:] if part in place_of(path, root)]


def _sample(
    path: Path, here: Sequence[Path], there: Sequence[Mask], mask_root: Path, rules: Rules, rule: PatientOf | None
) -> Sample:
    """Return the sample of an image, given all images of its name and all their masks."""
    owner, problems = find_patient(rule, path)
    parts = [mask.part for mask in there]
    if len(here) > 1 or len(set(parts)) < len(parts) or (len(parts) > 1 and "" in parts):
        names = ", ".join(p.name for p in (*here, *(mask.path for mask in there)))
        message = f"expected one image and one mask with this stem, got {names}: keep one of each"
        return Sample(path, owner, problems=(*problems, Problem("ambiguous_image", str(path), message, False)))
    if not there:
        message = f"this image has no mask in {mask_root}: add one (an empty one, if it has no lesion)"
        return Sample(path, owner, problems=(*problems, Problem("missing_annotation", str(path), message, False)))
    size, more = judge_image(path)
    annotation, wrong = _annotation(path, size, there, rules)
    return Sample(path, owner, annotation=annotation, problems=(*problems, *more, *wrong))


def _annotation(
    image: Path, size: tuple[int, int] | None, drawn: Sequence[Mask], rules: Rules
) -> tuple[Annotation | None, list[Problem]]:
    """Return the boxes of an image's masks and what is wrong with them; None if one can't be read."""
    read, problems = [], []
    for path, _, structure in drawn:
        try:
            mask = masks.read(path)
            labels = _labels_of(mask, structure, rules.labels)
            unknown = masks.unnamed_values(mask, labels)
            read.append(masks.boxes(mask, labels=labels, min_area=rules.min_area, connectivity=rules.connectivity))
        except (ValueError, OSError, ImportError) as error:
            message = str(error).removeprefix(f"{path}: ")
            problems.append(Problem("unreadable_annotation", str(path), message, False))
            continue
        if unknown:
            message = f"has {unknown}: name them in labels=, with None for what is no lesion, or redraw it"
            problems.append(Problem("unnamed_value", str(path), message, False))
        if size is not None and read[-1].size != size:
            message = f"the mask is {format_size(read[-1].size)} pixels, but {image.name} is {format_size(size)}"
            remedy = "export the mask of this version of the image"
            problems.append(Problem("size_mismatch", str(path), f"{message}: {remedy}", False))
    if len(read) < len(drawn):
        return None, problems
    boxes, names = np.concatenate([one.boxes for one in read]), sum((one.names for one in read), ())
    return Annotation(boxes, names, size=read[0].size, filename=image.name, path=drawn[0].path), problems


def _labels_of(mask: np.ndarray, structure: str, labels: Labels | None) -> Mapping[int, str | None] | None:
    """Return the names of a mask's values: of its folder, or those that are stated for values."""
    if structure and (labels is None or structure in labels):
        name = structure if labels is None else labels[structure]
        return {int(value): name for value in np.unique(mask) if value != 0}
    return None if labels is None else {value: name for value, name in labels.items() if isinstance(value, int)}
