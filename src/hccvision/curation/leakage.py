"""What two sets of samples share, however they were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hccvision.contracts.samples import Sample
from hccvision.curation.duplicates import near_duplicates
from hccvision.curation.facts import FactCache, facts_of
from hccvision.curation.sources import Tie, ties

Pairs = tuple[tuple[str, str], ...]

_PAIRS = {
    "files": "the same file, or two formats of it",
    "duplicates": "identical files",
    "near_duplicates": "near-duplicate pictures",
    "siblings": "augmented siblings",
}


@dataclass(frozen=True)
class Leakage:
    """What two sets share, as found by `leakage`.

    Pairs of files are ``(first set, second set)``, and there is one pair for each image of the second set that has
    counterparts in the first.

    Args:
        patients: patients in both sets.
        series: series in both sets.
        files: pairs of the same file, or of one name in one folder with different suffixes.
        duplicates: pairs of files with the same content.
        near_duplicates: pairs that show the same picture, also mirrored or turned by 90 degrees, but are not identical;
            see `duplicates.near_duplicates`.
        siblings: pairs of augmented copies of one image, or of a copy and its image: by `Sample.source_id`, or by
            their names, see `copies.family_names`.
        images: number of images in the second set.
        touched: number of them that share anything with the first.
    """

    patients: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    files: Pairs = ()
    duplicates: Pairs = ()
    near_duplicates: Pairs = ()
    siblings: Pairs = ()
    images: int = 0
    touched: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing is shared."""
        return not (self.patients or self.series or any(getattr(self, kind) for kind in _PAIRS))

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values, ready for JSON.

        Returns:
            The fields by name, and ``clean``.
        """
        lists = {kind: [list(pair) for pair in getattr(self, kind)] for kind in _PAIRS}
        shared = {"patients": list(self.patients), "series": list(self.series)}
        return {"clean": self.clean, "images": self.images, "touched": self.touched, **shared, **lists}

    def __str__(self) -> str:
        if self.clean:
            return "no shared patient, series or source, no duplicate, no augmented sibling"
        lines = [f"{self.touched} of {self.images} images of the second set share something with the first:"]
        for kind, names in (("patients", self.patients), ("series", self.series)):
            if names:
                lines.append(f"  shared {kind}: {len(names)} ({', '.join(names[:5])}{' …' * (len(names) > 5)})")
        for kind, meaning in _PAIRS.items():
            pairs = getattr(self, kind)
            if pairs:
                shown = ", ".join(f"{a} and {b}" for a, b in pairs[:2])
                lines.append(f"  {meaning}: {len(pairs)} images ({shown}{' …' * (len(pairs) > 2)})")
        return "\n".join(lines)


def leakage(train: Sequence[Sample], test: Sequence[Sample], *, facts: FactCache | None = None) -> Leakage:
    """Find what two sets of samples share, however they were made.

    Args:
        train: samples of the first set.
        test: samples of the second set.
        facts: where facts about the files are kept; None: the cache that all functions share.

    Returns:
        Shared patients and series, and for each image of ``test`` its counterparts in ``train``: the same file, the
        same content, the same picture, an augmented copy of the same source. A file that can't be read is
        compared by its name alone. Print it, or call its ``to_dict()``.

    Example:
        >>> from pathlib import Path
        >>> ours = [Sample(Path("P1_1.png"), patient="P1"), Sample(Path("P2_1.png"), patient="P2")]
        >>> print(leakage(ours, [Sample(Path("aug_1_P2_1.png")), Sample(Path("P1_2.png"), patient="P1")]))
        2 of 2 images of the second set share something with the first:
          shared patients: 1 (P1)
          augmented siblings: 1 images (P2_1.png and aug_1_P2_1.png)
    """
    both = list(dict.fromkeys([*train, *test]))
    known = facts_of(both, cache=facts)
    keys = {id(s): set(own) for s, own in zip(both, ties(both, facts=known), strict=True)}
    for number, alike in enumerate(near_duplicates(both, mirrored=True, facts=known)):
        for s in alike:
            keys[id(s)].add(("near", number))
    ours, theirs = [keys[id(s)] for s in train], [keys[id(s)] for s in test]
    common = set().union(*ours) & set().union(*theirs)

    first: dict[Tie, str] = {}
    for sample, own in zip(train, ours, strict=True):
        for key in own & common:
            first.setdefault(key, str(sample.path))

    def names(wanted: str) -> tuple[str, ...]:
        return tuple(sorted(str(value) for kind, value in common if kind == wanted))

    def pairs(*wanted: str, unless: str = "") -> Pairs:
        found = []
        for sample, own in zip(test, theirs, strict=True):
            shared = own & common
            partners = [first[key] for key in shared if key[0] in wanted]
            if partners and unless not in {kind for kind, _ in shared}:
                found.append((min(partners), str(sample.path)))
        return tuple(found)

    return Leakage(
        patients=names("patient"),
        series=names("series"),
        files=pairs("file"),
        duplicates=pairs("content"),
        near_duplicates=pairs("near", unless="content"),
        siblings=pairs("source", "name"),
        images=len(test),
        touched=sum(bool(own & common) for own in theirs),
    )
