"""Find files by name in a data set's folder: the nearest to a place in it."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from hccvision.annotations.names import annotation_stem, stems
from hccvision.images.read import suffixes

MASK_FOLDERS = frozenset(
    ("mask", "masks", "masks_dicom", "segmentation", "segmentations", "groundtruth", "ground_truth")
)
# Folders that say what a file is, not whose; in lower case. An image and its annotation may lie in different ones.
_ROLES = MASK_FOLDERS | {
    "images", "image", "imgs", "img", "jpegimages", "pictures", "patient_dicom", "annotations", "annotation", "annots",
    "ann", "labels", "label", "xml", "xmls", "txt", "json", "jsons",
}  # fmt: skip
_MASK_NAME = re.compile(r"(.+?)[ _.-]((?:mask|seg|segmentation|label|gt)(?:[ _-]?\d+)?)", re.IGNORECASE)


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
        self._places: dict[str, tuple[str, ...]] = {}  # by folder
        self._known = suffixes()
        for path in paths:
            for stem in {stem.casefold() for stem in stems(path, self._known)}:
                self._stems[stem].append(path)
            self._names[path.name.casefold()].append(path)

    def by_stem(self, file: Path) -> list[Path]:
        """Return the files with the stem of another.

        Args:
            file: the other file.

        Returns:
            The nearest; several if they are equally near.
        """
        stem = annotation_stem(file)
        found = self._stems.get(stem.casefold(), ())
        if len(found) > 1:
            found = [p for p in found if stem in stems(p, self._known)] or found  # in upper and lower case as it is
        return self._nearest(found, file)

    def by_name(self, name: str, file: Path) -> list[Path]:
        """Return the files of a name.

        Args:
            name: the file name.
            file: the other file.

        Returns:
            The nearest; several if they are equally near.
        """
        found = self._names.get(name.casefold(), ())
        return self._nearest([p for p in found if p.name == name] or found, file)

    def by_path(self, stated: str, file: Path) -> list[Path]:
        r"""Return the files that a stated path may be of: those that share most of its last parts.

        Args:
            stated: the path, with ``/`` or ``\\``; its first parts may be of another computer.
            file: that states it.

        Returns:
            The files; of several that share as many parts those at the very path below the folder, else those in a
            folder that the file is named after, else the nearest.
        """
        parts = [part.casefold() for part in re.split(r"[\\/]+", stated) if part not in ("", ".")]
        if not parts:
            return []
        shared = {p: _shared_tail(parts, p) for p in self._names.get(parts[-1], ())}
        best = [p for p, length in shared.items() if length == max(shared.values())]
        if len(best) == 1:
            return best
        whole = [p for p in best if len(p.relative_to(self.root).parts) == len(parts) == shared[p]]
        words = set(re.split(r"[^a-z0-9]+", file.stem.casefold()))  # instances_train.json is of the folder train
        whole = whole or [p for p in best if words.intersection(map(str.casefold, place_of(p, self.root)))]
        exact = [p for p in best if p.name == re.split(r"[\\/]+", stated)[-1]]
        return whole or self._nearest(exact or best, file) or best

    def _nearest(self, found: Sequence[Path], file: Path) -> list[Path]:
        folder = os.path.dirname(file)
        beside = [p for p in found if os.path.dirname(p) == folder]
        if beside or not found:
            return beside
        own, places = self._place_of(file), [self._place_of(p) for p in found]
        alike = [p for p, place in zip(found, places, strict=True) if place == own]
        return alike or [p for p, place in zip(found, places, strict=True) if _is_part(place, own)]

    def _place_of(self, file: Path) -> tuple[str, ...]:
        folder = os.path.dirname(file)
        if folder not in self._places:
            self._places[folder] = place_of(file, self.root)
        return self._places[folder]


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


def is_in_mask_folder(path: Path, root: Path) -> bool:
    """Return whether a file is in a folder of masks, by the folder's name.

    Args:
        path: a file below the root.
        root: the folder of the data set.

    Returns:
        Whether one of its folders is named so.
    """
    return any(part.lower() in MASK_FOLDERS for part in path.relative_to(root).parts[:-1])


def mask_name(stem: str) -> tuple[str, str]:
    """Return the name of the image that a mask is of, and what is added to it.

    Args:
        stem: of the mask.

    Returns:
        The name, the whole stem if nothing is added, and the addition.

    Example:
        >>> mask_name("P1_03_mask"), mask_name("P1_03_mask_2"), mask_name("P1_03")
        (('P1_03', 'mask'), ('P1_03', 'mask_2'), ('P1_03', ''))
    """
    hit = _MASK_NAME.fullmatch(stem)
    return (stem, "") if hit is None else (hit[1], hit[2])


def _shared_tail(parts: Sequence[str], path: Path) -> int:
    """Return how many of the last parts of a path in lower case another shares."""
    pairs = zip(reversed(parts), reversed(path.parts), strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other.casefold()), len(parts))


def _is_part(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Return whether the shorter of two places begins or ends the longer."""
    short, long = sorted((one, other), key=len)
    return short in (long[: len(short)], long[len(long) - len(short) :])
