"""File names of augmented copies, and the names of the images they were made from."""

from __future__ import annotations

import re
from pathlib import PurePath

from hccvision import images

MARK = "__aug"  # between a source's name and the number of its copy, as `expansion.expand_dataset` writes it

_COPY = re.compile(rf"(.+?)(?:{MARK}\d+)+")
_AUG = r"aug(?:ment(?:ed|ation)?)?"
_CHANGE = r"[hv]?flip(?:ped)?|mirror(?:ed)?|rot(?:at(?:ed?|ion))?[ _.-]*\d+|nois[ey]|blur(?:red)?|cop(?:y|ie)"
_AFFIXES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?P<name>.+?){MARK}\d+",
        r"(?P<name>.+?)(?:_(?:jpe?g|png|bmp|tiff?))?\.rf\.[0-9a-f]{8,}",  # Roboflow
        rf"{_AUG}[ _.-]*\d*[ _.-]+(?P<name>.+)",
        rf"{_AUG}_(?P<name>.+)_\d+_\d{{3,7}}",  # Keras, save_prefix="aug_" and the name: number and hash at the end
        rf"(?P<name>.+?)[ _.-]+{_AUG}[ _.-]*\d*",
        rf"(?P<name>.+?)[ _.-]+(?:{_CHANGE})[ _.-]*\d*",
        r"copy of (?P<name>.+)",
    )
)


def stem(path: PurePath) -> str:
    """Return a file name without its suffix if that is the suffix of an image format: ``slice.001`` has none.

    Args:
        path: path of the image.

    Returns:
        The name.

    Example:
        >>> from pathlib import Path
        >>> stem(Path("liver/a.nii.gz")), stem(Path("liver/1.2.840.7"))
        ('a', '1.2.840.7')
    """
    suffix = max((s for s in images.SUFFIXES if path.name.lower().endswith(s)), key=len, default="")
    return path.name[: len(path.name) - len(suffix)] or path.name


def copied_from(path: PurePath) -> str | None:
    """Return the name of the image a file was derived from, if `expansion.expand_dataset` wrote the file.

    Args:
        path: path of the image.

    Returns:
        The stem of the source, also for a copy of a copy; None for any other file.

    Example:
        >>> from pathlib import Path
        >>> copied_from(Path("yes/P007_03__aug002.png")), copied_from(Path("yes/P007_03.png"))
        ('P007_03', None)
    """
    hit = _COPY.fullmatch(stem(path))
    return None if hit is None else hit[1]


def family_names(name: str) -> list[str]:
    """List the names a file may have had before it was augmented, by the naming schemes of common tools.

    Recognised are ``aug_1_name``, ``name_aug3``, ``name_flipped``, ``name_rot90``, ``name - copy`` and similar names,
    Roboflow's ``name_jpg.rf.<hash>``, Keras's ``aug_name_0_4711`` and the names that `expansion.expand_dataset` writes.

    Args:
        name: name of the file, without its suffix.

    Returns:
        The name itself, then the shorter ones; the name alone if it follows none of the schemes.

    Example:
        >>> family_names("P007_03_aug2"), family_names("P007_03")
        (['P007_03_aug2', 'P007_03'], ['P007_03'])
    """
    names = [name]
    for known in names:  # names found are looked at in turn
        hits = [pattern.fullmatch(known) for pattern in _AFFIXES]
        names += dict.fromkeys(hit["name"] for hit in hits if hit and hit["name"] not in names)
    return names
