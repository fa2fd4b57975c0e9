"""Ties between samples that must stay in one part: a patient's slices, copies of one image, identical files."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

from hccvision.annotations.names import stem
from hccvision.contracts.samples import Sample
from hccvision.curation.copies import family_names
from hccvision.curation.duplicates import same_content
from hccvision.curation.facts import Facts

Tie = tuple[str, Hashable]


def ties(data: Sequence[Sample], *, facts: Sequence[Facts] | None = None) -> list[list[Tie]]:
    """Return keys that connect each sample with those it must not be separated from.

    Args:
        data: samples.
        facts: facts about the samples' files from `facts.facts_of`, decoded or not; None reads them.

    Returns:
        Keys ``(kind, value)`` of each sample; samples that share one belong together. The kinds: ``"patient"``;
        ``"series"``; ``"file"``, the same path but for the suffix; ``"content"``, identical byte for byte;
        ``"source"``, by `Sample.source_id`; ``"name"``, one is named like an augmented copy of the other, and both are
        of the same class.

    Example:
        >>> a, b = Sample(Path("a.png")), Sample(Path("b.png"), source_id="a")
        >>> set(ties([a, b])[0]) & set(ties([a, b])[1])
        {('source', 'a')}
    """
    content = {id(s): number for number, same in enumerate(same_content(data, facts=facts)) for s in same}
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


def _tails(path: Path) -> Iterable[str]:
    """Yield ``c.png``, ``b/c.png``, ``a/b/c.png`` and so on, with and without the suffix."""
    for name in (path.name, stem(path)):
        parts = [*path.parts[:-1], name]
        yield from ("/".join(parts[i:]) for i in range(len(parts)))
