"""Groups of samples that show the same picture: identical files, or re-encoded, resized and brightened copies.

Neighbouring slices of a patient look alike, and no coarse hash tells them from copies. So the hash only selects pairs
to compare, and the fine detail decides: copies share it, neighbouring slices don't.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from hccvision.contracts.samples import Sample
from hccvision.curation.facts import Facts, facts_of
from hccvision.curation.thumbnails import BITS, gradient_bits
from hccvision.grouping import UnionFind

_ORIENTATIONS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda a: a,
    lambda a: a[:, ::-1],
    lambda a: a[::-1],
    lambda a: a[::-1, ::-1],
    lambda a: a.T,
    lambda a: a.T[:, ::-1],
    lambda a: a.T[::-1],
    lambda a: a.T[::-1, ::-1],
)


def same_content(data: Sequence[Sample], *, facts: Sequence[Facts] | None = None) -> list[list[Sample]]:
    """Group samples whose image files are identical byte for byte.

    Args:
        data: samples; one whose file can't be read is a group of its own.
        facts: facts about the samples' files from `facts.facts_of`, decoded or not; None reads them.

    Returns:
        The groups, in the order of their first samples.

    Raises:
        ValueError: if there are not as many facts as samples.
    """
    groups: dict[str, list[Sample]] = defaultdict(list)
    for key, sample in zip(_contents(_facts(data, facts, decode=False)), data, strict=True):
        groups[key].append(sample)
    return list(groups.values())


def near_duplicates(
    data: Sequence[Sample],
    *,
    distance: int = 150,
    similarity: float = 0.955,
    mirrored: bool = False,
    facts: Sequence[Facts] | None = None,
) -> list[list[Sample]]:
    """Group samples that show the same picture, also re-encoded, resized, or of other brightness.

    Two images are near duplicates if their hashes differ in few bits and their fine detail correlates; copies of copies
    are in one group. Files that are identical byte for byte always are.

    Args:
        data: samples; one whose image can't be decoded is grouped with identical files only.
        distance: largest number of differing bits, of the 512 of `thumbnails.perceptual_hash`.
        similarity: smallest correlation of the detail, in [-1, 1]. At 0.955, copies at half the size are found and
            slices of a patient 3 mm apart are not.
        mirrored: also find copies that are flipped or turned by 90, 180 or 270 degrees.
        facts: facts about the samples' files from `facts.facts_of`, decoded; None reads them.

    Returns:
        The groups, in the order of their first samples. Every sample is in one, most of them alone.

    Raises:
        ValueError: if there are not as many facts as samples.
    """
    known = _facts(data, facts, decode=True)
    union = UnionFind(len(data))
    first: dict[str, int] = {}
    for i, key in enumerate(_contents(known)):
        union.join(first.setdefault(key, i), i)
    members, pictures = [], []
    for i in first.values():
        picture = known[i].thumbnail
        if picture is not None:
            members.append(i)
            pictures.append(picture)
    for rows, columns in _copies(pictures, distance, similarity, _ORIENTATIONS if mirrored else _ORIENTATIONS[:1]):
        _join(union, np.array(members)[rows], np.array(members)[columns])
    return [[data[i] for i in group] for group in union.groups()]


def _facts(data: Sequence[Sample], facts: Sequence[Facts] | None, *, decode: bool) -> Sequence[Facts]:
    if facts is None:
        return facts_of(data, decode=decode)
    if len(facts) != len(data):
        raise ValueError(f"expected facts about each of {len(data)} samples, got {len(facts)}: use facts_of(data)")
    return facts


def _contents(facts: Sequence[Facts]) -> list[str]:
    """Return a key for the content of each file, unique for one that can't be read."""
    return [known.sha256 or f"unreadable {number}" for number, known in enumerate(facts)]


def _copies(
    pictures: Sequence[np.ndarray],
    distance: int,
    similarity: float,
    orientations: Sequence[Callable[[np.ndarray], np.ndarray]],
    block: int = 512,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of indices of thumbnails that are copies, in blocks so that memory stays small."""
    signs = [np.stack([gradient_bits(p) for p in pictures[a : a + block]]) for a in range(0, len(pictures), block)]
    signs = [s.astype(np.float32) * 2 - 1 for s in signs]
    details = [_detail(np.stack(pictures[a : a + block])) for a in range(0, len(pictures), block)]
    for second, start in enumerate(range(0, len(pictures), block)):
        for turn in orientations:
            turned = [np.ascontiguousarray(turn(p)) for p in pictures[start : start + block]]
            plain = turn is orientations[0]
            others = signs[second] if plain else np.stack([gradient_bits(p) for p in turned]).astype(np.float32) * 2 - 1
            fine = details[second] if plain else _detail(np.stack(turned))
            for one in range(second + 1):
                differing = (BITS - signs[one] @ others.T) / 2
                rows, columns = np.nonzero(differing <= distance)
                ordered = one * block + rows < start + columns
                rows, columns = rows[ordered], columns[ordered]
                if len(rows) > block:  # comparing all with all is faster than picking the pairs
                    alike = (details[one] @ fine.T)[rows, columns] >= similarity
                else:
                    alike = np.einsum("nd,nd->n", details[one][rows], fine[columns]) >= similarity
                yield one * block + rows[alike], start + columns[alike]


def _join(union: UnionFind, ones: np.ndarray, others: np.ndarray, block: int = 512) -> None:
    """Join pairs, but not those that are in one group by then: of n alike there are n² pairs, and n - 1 to join."""
    while len(ones):
        for one, other in zip(ones[:block].tolist(), others[:block].tolist(), strict=True):
            union.join(one, other)
        ones, others = ones[block:], others[block:]
        numbers, place = np.unique(np.concatenate([ones, others]), return_inverse=True)
        groups = np.array([union.find(number) for number in numbers.tolist()], np.int64)[place]
        apart = groups[: len(ones)] != groups[len(ones) :]
        ones, others = ones[apart], others[apart]


def _detail(pictures: np.ndarray) -> np.ndarray:
    """Return what differs from each 3 × 3 mean, ``(N, 80·80) float32`` of length 1, or 0 for a flat picture."""
    padded = np.pad(pictures.astype(np.float32), ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    fine = padded[:, 1:-1, 1:-1] - (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9
    fine = (fine - fine.mean((1, 2), keepdims=True)).reshape(len(pictures), -1)
    length = np.linalg.norm(fine, axis=1, keepdims=True)
    return np.divide(fine, length, out=np.zeros_like(fine), where=length > 1e-3)
