"""File names of augmented copies, and the names of the images they were made from."""

from __future__ import annotations

import re

from hccvision.annotations.names import MARK

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
