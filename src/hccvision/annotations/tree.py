"""All files of a data set's folder, in any layout: images, annotations, and entries that can't be read as files."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from hccvision.annotations.names import annotation_stem
from hccvision.annotations.yolo_labels import has_labels
from hccvision.annotations.yolo_names import NAMES_FILE
from hccvision.contracts.samples import Problem, Sample
from hccvision.images.read import is_image, suffixes

ANNOTATION_SUFFIXES = (".xml", ".json", ".txt")

# Folders that say what a file is, not whose; in lower case. An image and its annotation may lie in different ones.
_ROLES = frozenset(
    [
        "images",
        "image",
        "imgs",
        "img",
        "jpegimages",
        "pictures",
        "annotations",
        "annotation",
        "annots",
        "labels",
        "label",
        "xml",
        "xmls",
        "txt",
        "json",
        "masks",
        "mask",
    ]
)
_COMPANIONS = frozenset(["segmentationclass", "segmentationobject"])  # VOC's masks, named like the images
_WORDS = tuple(
    f'"{word}"'.encode() for word in ("annotations", "bbox", "boxes", "label", "points", "regions", "shapes")
)


class Tree(NamedTuple):
    """The files of a folder.

    Args:
        root: the folder.
        files: all files but hidden ones, by path.
        images: those of them that are images.
        odd: a sample with a problem for each entry that is named like an image or an annotation, or can't be listed,
            and is no file.
    """

    root: Path
    files: list[Path]
    images: list[Path]
    odd: list[Sample]

    def with_suffix(self, *endings: str) -> list[Path]:
        """Return the files with one of several suffixes, in lower or upper case.

        Args:
            endings: suffixes in lower case with the dot.

        Returns:
            The files by path.
        """
        return [p for p in self.files if p.suffix.lower() in endings]


class Finder:
    """Finds files by name: those nearest to a place in the folder count.

    The nearest are those beside it, else in the like folder (``images/P1`` and ``labels/P1``), else in a folder above
    or below that.

    Args:
        root: the folder of the data set.
        paths: what to find.

    Example:
        >>> find = Finder(Path("liver"), [Path("liver/JPEGImages/P1/a.png"), Path("liver/JPEGImages/P2/a.png")])
        >>> [p.as_posix() for p in find.by_stem(Path("liver/Annotations/P2/a.xml"))]
        ['liver/JPEGImages/P2/a.png']
    """

    def __init__(self, root: Path, paths: Iterable[Path]) -> None:
        self.root = root
        self._stems: dict[str, list[Path]] = defaultdict(list)
        self._names: dict[str, list[Path]] = defaultdict(list)
        for path in paths:
            self._stems[annotation_stem(path).casefold()].append(path)
            self._names[path.name.casefold()].append(path)

    def by_stem(self, file: Path) -> list[Path]:
        """Return the files with the stem of another.

        Args:
            file: the other file.

        Returns:
            The nearest; several if they are equally near.
        """
        stem = annotation_stem(file)
        return self._nearest([(p, annotation_stem(p)) for p in self._stems.get(stem.casefold(), ())], stem, file)

    def by_name(self, name: str, file: Path) -> list[Path]:
        """Return the files of a name.

        Args:
            name: the file name.
            file: the other file.

        Returns:
            The nearest; several if they are equally near.
        """
        return self._nearest([(p, p.name) for p in self._names.get(name.casefold(), ())], name, file)

    def _nearest(self, found: list[tuple[Path, str]], name: str, file: Path) -> list[Path]:
        exact = [p for p, own in found if own == name] or [p for p, _ in found]
        beside = [p for p in exact if p.parent == file.parent]
        if beside or not exact:
            return beside
        own, places = place_of(file, self.root), [place_of(p, self.root) for p in exact]
        alike = [p for p, place in zip(exact, places, strict=True) if place == own]
        return alike or [p for p, place in zip(exact, places, strict=True) if _is_part(place, own)]


def scan(root: Path) -> Tree:
    """List the files of a folder and its subfolders, without opening anything that is not a file.

    Linked folders are followed once. Hidden files and folders are left out, and the folders of masks that Pascal VOC
    names like the images.

    Args:
        root: an existing folder.

    Returns:
        The files.
    """
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
            if _looks_like_a_file(name):
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
            elif _looks_like_a_file(name):
                report(path, what)
    files.sort()
    return Tree(root, files, [p for p in files if p.suffix.lower() not in ANNOTATION_SUFFIXES and is_image(p)], odd)


def left_aside(tree: Tree, used: Collection[Path]) -> list[Sample]:
    """Return a sample with a problem for each annotation that a reader did not use.

    Args:
        tree: the files of the folder.
        used: the annotations that it used or reported.

    Returns:
        One sample for each XML, each JSON that has words of an annotation or the name of an image, and each text file
        that has lines of numbers or the name of an image; then those of ``tree.odd``.
    """
    own = {str(p) for p in used}
    stems = {annotation_stem(p) for p in tree.images}
    found = []
    for path in tree.with_suffix(*ANNOTATION_SUFFIXES):
        if str(path) not in own and _looks_like_an_annotation(path, stems):
            message = "looks like an annotation and was not read: read its format, or move it out of the folder"
            found.append(Sample(path, problems=(Problem("unread_annotation", str(path), message, False),)))
    return found + tree.odd


def unread_images(paths: Iterable[Path], why: str) -> list[Sample]:
    """Return a sample with a problem for each image that a reader did not use.

    Args:
        paths: the images.
        why: what they lack, and the remedy.

    Returns:
        The samples.
    """
    return [Sample(p, problems=(Problem("unread_image", str(p), f"was not read: {why}", False),)) for p in paths]


def say_left_out(paths: Collection[Path], why: str) -> None:
    """Print which files were left out because the caller chose to.

    Args:
        paths: the files.
        why: what they lack, and the choice.
    """
    if paths:
        names = ", ".join(sorted(str(p) for p in paths)[:5])
        more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
        print(f"left out: {len(paths)} {why}: {names}{more}")


def place_of(path: Path, root: Path) -> tuple[str, ...]:
    """Return the folder of a file without the parts that only say what it is.

    Args:
        path: a file below the root.
        root: the folder of the data set.

    Returns:
        The parts of the folder.

    Example:
        >>> place_of(Path("liver/images/train/a.png"), Path("liver"))
        ('train',)
    """
    return tuple(part for part in path.relative_to(root).parts[:-1] if part.lower() not in _ROLES)


def _is_part(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Return whether the shorter of two places begins or ends the longer."""
    short, long = sorted((one, other), key=len)
    return short in (long[: len(short)], long[len(long) - len(short) :])


def _what_it_is(path: Path) -> str | None:
    """Return what an entry is that is no file; None for a file."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return f"a link that leads nowhere ({error.strerror})" if path.is_symlink() else f"{error.strerror}"
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return None if stat.S_ISREG(mode) else kinds.get(stat.S_IFMT(mode), "something else")


def _looks_like_a_file(name: str) -> bool:
    return name.lower().endswith((*suffixes(), *ANNOTATION_SUFFIXES))


def _looks_like_an_annotation(path: Path, stems: Collection[str]) -> bool:
    if path.suffix.lower() == ".xml" or path.stem in stems:
        return True
    if path.suffix.lower() == ".txt":
        return path.name != NAMES_FILE and has_labels(path)
    try:
        with path.open("rb") as file:
            start = file.read(2**16)
    except OSError:
        return True
    return any(word in start for word in _WORDS)
