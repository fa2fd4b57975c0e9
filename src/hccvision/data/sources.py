"""What certainly belongs together: a patient's slices, the copies of one image, files of the same content."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

from hccvision.annotations.names import MARK, copied_from, stem  # noqa: F401 - for those who import it from here
from hccvision.contracts import Sample
from hccvision.data.duplicates import same_content

Tie = tuple[str, Hashable]

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
    """List what a file may have been called before it was augmented, by the habits of common tools.

    Known are ``aug_1_name``, ``name_aug3``, ``name_flipped``, ``name_rot90``, ``name - copy`` and their like,
    Roboflow's ``name_jpg.rf.<hash>``, Keras's ``aug_name_0_4711`` and the names that `expansion.expand_dataset` gives.

    Args:
        name: of the file, without its suffix.

    Returns:
        Itself, then the shorter names; one name alone for a file that isn't called like an augmented one.

    Example:
        >>> family_names("P007_03_aug2"), family_names("P007_03")
        (['P007_03_aug2', 'P007_03'], ['P007_03'])
    """
    names = [name]
    for known in names:  # grows while it is walked
        hits = [pattern.fullmatch(known) for pattern in _AFFIXES]
        names += dict.fromkeys(hit["name"] for hit in hits if hit and hit["name"] not in names)
    return names


def ties(data: Sequence[Sample]) -> list[list[Tie]]:
    """Give what certainly ties each sample to others.

    Args:
        data: samples.

    Returns:
        Keys ``(kind, value)`` of each sample; samples that share one belong together. The kinds: ``"patient"``;
        ``"series"``; ``"file"``, one path, whatever its suffix; ``"content"``, byte for byte; ``"source"``, by
        `Sample.source_id`; ``"name"``, called like an augmented copy of the other, of the same class.

    Example:
        >>> a, b = Sample(Path("a.png")), Sample(Path("b.png"), source_id="a")
        >>> set(ties([a, b])[0]) & set(ties([a, b])[1])
        {('source', 'a')}
    """
    content = {id(s): number for number, same in enumerate(same_content(data)) for s in same}
    sources = {s.source_id for s in data if s.source_id is not None}
    families = [family_names(stem(s.path)) for s in data]
    copied = {(s.class_name, name) for s, names in zip(data, families, strict=True) for name in names[1:]}
    keys: list[list[Tie]] = []
    for s, names in zip(data, families, strict=True):
        own: list[Tie] = [("file", s.path.absolute().parent / names[0]), ("content", content[id(s)])]
        own += [(kind, str(v)) for kind, v in (("patient", s.patient), ("series", s.series)) if v is not None]
        own += [("source", name) for name in sources.intersection([s.source_id, *_tails(s.path)])]
        own += [("name", (s.class_name, name)) for name in names if (s.class_name, name) in copied]
        keys.append(own)
    return keys


def together(keys: Sequence[Iterable[Hashable]]) -> list[list[int]]:
    """Group what shares a key, directly or through others.

    Args:
        keys: of each thing.

    Returns:
        Indices of each group, in the order of their first members.

    Example:
        >>> together([["a"], ["b"], ["a", "c"], ["c"]])
        [[0, 2, 3], [1]]
    """
    root = list(range(len(keys)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    first: dict[Hashable, int] = {}
    for i, own in enumerate(keys):
        for key in own:
            a, b = sorted((find(first.setdefault(key, i)), find(i)))
            root[b] = a
    members: dict[int, list[int]] = {}
    for i in range(len(keys)):
        members.setdefault(find(i), []).append(i)
    return list(members.values())


def _tails(path: Path) -> Iterable[str]:
    """Give ``c.png``, ``c``, ``b/c.png``, ``b/c``, ``a/b/c.png``, ``a/b/c`` and so on."""
    for name in (path.name, stem(path)):
        parts = [*path.parts[:-1], name]
        yield from ("/".join(parts[i:]) for i in range(len(parts)))
