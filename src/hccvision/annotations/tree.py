"""All files of a data set's folder, in any layout: images, annotations, and entries that can't be read as files."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hccvision.annotations.finding import is_in_mask_folder, mask_name
from hccvision.annotations.names import stem
from hccvision.contracts.samples import Problem, Sample
from hccvision.images.read import is_image, suffixes

ANNOTATION_SUFFIXES = (".xml", ".json", ".jsonl", ".ndjson", ".txt", ".csv")

_COMPANIONS = frozenset(["segmentationclass", "segmentationobject"])  # VOC's masks, named like the images


class Tree(NamedTuple):
    """The files of a folder.

    Args:
        root: the folder.
        files: all files but hidden ones, by path.
        images: those of them that are images, without masks of others.
        masks: those that are masks of other images, in a folder of masks or named so.
        odd: a sample with a problem for each entry that is named like an image or an annotation, or can't be listed,
            and is no file.
    """

    root: Path
    files: list[Path]
    images: list[Path]
    masks: list[Path]
    odd: list[Sample]

    def with_suffix(self, *endings: str) -> list[Path]:
        """Return the files with one of several suffixes, in lower or upper case.

        Args:
            endings: suffixes in lower case with the dot.

        Returns:
            The files by path.
        """
        return [p for p in self.files if p.suffix.lower() in endings]


def scan(root: Path) -> Tree:
    """List the files of a folder and its subfolders, without opening anything that is not a file.

    Linked folders are followed once. Hidden files and folders are left out, and the folders of masks that Pascal VOC
    names like the images.

    Args:
        root: an existing folder.

    Returns:
        The files.
    """
    files, odd = list_files(root)
    known = suffixes()
    images, masks = _without_masks([p for p in files if _is_image(p, known)], root, known)
    return Tree(root, files, images, masks, odd)


def list_files(root: Path) -> tuple[list[Path], list[Sample]]:
    """List the files of a folder and its subfolders as `scan` does, without telling images from others.

    Args:
        root: an existing folder.

    Returns:
        The files by path, and a sample for each odd entry.
    """
    known = suffixes()
    files: list[Path] = []
    odd: list[Sample] = []
    seen = {os.path.realpath(root)}

    def report(path: Path, what: str) -> None:
        problem = Problem("odd_entry", str(path), f"expected a file, got {what}: remove or rename it", False)
        odd.append(Sample(path, problems=(problem,)))

    def unlisted(error: OSError) -> None:
        report(Path(error.filename), f"a folder that can't be listed ({error.strerror})")

    for place, folders, names in os.walk(root, followlinks=True, onerror=unlisted):
        inner = []
        for name in sorted(folders):
            path = Path(place, name)
            real = os.path.realpath(path)
            if name.startswith((".", "__MACOSX")) or name.lower() in _COMPANIONS:
                continue
            if real in seen:
                report(path, "a link to a folder that is read already")
                continue
            if _looks_like_a_file(name, known):
                report(path, "a folder")
            seen.add(real)
            inner.append(name)
        folders[:] = inner
        for name in sorted(names):
            path = Path(place, name)
            if name.startswith("."):
                continue
            what = _what_it_is(path)
            if what is None:
                files.append(path)
            elif _looks_like_a_file(name, known) or not path.suffix[1:].isalpha():  # DICOM's names may have no suffix
                report(path, what)
    return sorted(files), odd


def _without_masks(pictures: Sequence[Path], root: Path, known: tuple[str, ...]) -> tuple[list[Path], list[Path]]:
    """Separate images from their masks.

    A mask is in a folder of masks and named like an image elsewhere, or is named like an image beside it and
    ``_mask``.
    """
    places = [os.path.dirname(p) for p in pictures]
    stems = [stem(p, known).casefold() for p in pictures]
    drawn = {place for place in set(places) if is_in_mask_folder(Path(place, "a"), root)}
    outside = {own for own, place in zip(stems, places, strict=True) if place not in drawn}
    beside = set(zip(places, stems, strict=True))
    images: list[Path] = []
    masks: list[Path] = []
    for path, place, own in zip(pictures, places, stems, strict=True):
        name, addition = mask_name(own)
        is_mask = own in outside or name in outside if place in drawn else addition and (place, name) in beside
        (masks if is_mask else images).append(path)
    return images, masks


def _is_image(path: Path, known: tuple[str, ...]) -> bool:
    if path.suffix.lower() in ANNOTATION_SUFFIXES:
        return False
    return path.name.lower().endswith(known) or is_image(path)


def _what_it_is(path: Path) -> str | None:
    """Return what an entry is that is no file; None for a file."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return f"a link that leads nowhere ({error.strerror})" if path.is_symlink() else f"{error.strerror}"
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return None if stat.S_ISREG(mode) else kinds.get(stat.S_IFMT(mode), "something else")


def _looks_like_a_file(name: str, known: tuple[str, ...]) -> bool:
    return name.lower().endswith((*known, *ANNOTATION_SUFFIXES))
