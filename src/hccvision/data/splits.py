"""Splits that keep what belongs together on one side: a patient's slices, or copies of one file."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hccvision.contracts import Sample
from hccvision.data.linter import same_content, usable


def split(
    data: Sequence[Sample],
    shares: Sequence[float] = (0.7, 0.1, 0.2),
    *,
    group: str = "patient",
    seed: int = 0,
    on_problem: str = "raise",
) -> list[list[Sample]]:
    """Split samples into parts, stratified by class, no group in two of them.

    Args:
        data: samples.
        shares: of the parts, summing to 1; two, three or more.
        group: what must stay together: ``"patient"``, ``"duplicate"`` (files of the same content) or ``"none"``.
        seed: same seed, same split.
        on_problem: ``"raise"`` or ``"skip"``, see `linter.usable`.

    Returns:
        One list of samples per share, none empty, in the order of ``data``.

    Raises:
        ValueError: for shares that don't sum to 1, samples without a patient, or fewer groups than parts.

    Example:
        >>> from pathlib import Path
        >>> data = [Sample(Path(f"P{i // 3}_{i}.png"), patient=f"P{i // 3}", class_name="cancer") for i in range(30)]
        >>> [len(part) for part in split(data, (0.7, 0.1, 0.2))]
        [21, 3, 6]
    """
    if len(shares) < 2 or not all(s > 0 for s in shares) or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"shares are two or more numbers above 0 that sum to 1, got {tuple(shares)}")
    kept = usable(data, on_problem)
    parts = _allocate(kept, _groups(kept, group), shares, seed)
    return [[s for s, p in zip(kept, parts, strict=True) if p == i] for i in range(len(shares))]


def folds(
    data: Sequence[Sample],
    count: int = 5,
    *,
    group: str = "patient",
    seed: int = 0,
    on_problem: str = "raise",
) -> list[tuple[list[Sample], list[Sample]]]:
    """Make the pairs of a k-fold cross-validation, stratified by class, no group on both sides.

    Args:
        data: samples.
        count: number of folds, at least 2.
        group: what must stay together, as in `split`.
        seed: same seed, same folds.
        on_problem: ``"raise"`` or ``"skip"``, see `linter.usable`.

    Returns:
        ``count`` pairs (train, test); each sample is in one test part.

    Raises:
        ValueError: for fewer than two folds, samples without a patient, or fewer groups than folds.

    Example:
        >>> from pathlib import Path
        >>> data = [Sample(Path(f"{i}.png"), class_name="ab"[i % 2]) for i in range(10)]
        >>> [(len(a), len(b)) for a, b in folds(data, 5, group="none")]
        [(8, 2), (8, 2), (8, 2), (8, 2), (8, 2)]
    """
    if count < 2:
        raise ValueError(f"cross-validation needs at least 2 folds, got {count}")
    kept = usable(data, on_problem)
    parts = _allocate(kept, _groups(kept, group), [1 / count] * count, seed)
    pairs = []
    for i in range(count):
        train = [s for s, p in zip(kept, parts, strict=True) if p != i]
        pairs.append((train, [s for s, p in zip(kept, parts, strict=True) if p == i]))
    return pairs


def _groups(data: Sequence[Sample], group: str) -> list[list[int]]:
    """Indices of the samples of each group."""
    index = {id(s): i for i, s in enumerate(data)}
    if len(index) != len(data):
        raise ValueError("the same sample is in the data more than once: its copies could come into two parts")
    if group == "none":
        return [[i] for i in range(len(data))]
    if group == "duplicate":
        return [[index[id(s)] for s in same] for same in same_content(data)]
    if group != "patient":
        raise ValueError(f"unknown group {group!r}; known: 'patient', 'duplicate', 'none'")
    unknown = [s for s in data if s.patient is None]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(data)} samples have no patient, first {unknown[0].path}: read the folder with "
            'patient=<regex, callable or table>, or, knowing that patients may then leak, split with group="duplicate"'
        )
    members: dict[str, list[int]] = {}
    for i, s in enumerate(data):
        members.setdefault(str(s.patient), []).append(i)
    return list(members.values())


def _strata(sample: Sample) -> set[str]:
    return set(sample.names) or {""}


def _allocate(data: Sequence[Sample], groups: list[list[int]], shares: Sequence[float], seed: int) -> list[int]:
    """Give each sample's part: largest groups first, each to the part that lacks its classes most."""
    parts = range(len(shares))
    if len(groups) < len(shares):
        raise ValueError(f"{len(groups)} groups can't fill {len(shares)} parts without being torn apart")
    counts = [Counter(name for i in g for name in _strata(data[i])) for g in groups]
    total: Counter[str] = sum(counts, Counter())
    missing = [{name: share * n for name, n in total.items()} for share in shares]
    free = [share * len(data) for share in shares]
    order = list(range(len(groups)))
    random.Random(seed).shuffle(order)
    order.sort(key=lambda g: -len(groups[g]))
    part_of = [0] * len(data)
    empty = set(parts)
    for position, g in enumerate(order):
        # What a part still lacks of each class, rare classes weighing as much as common ones; then of samples at all.
        def need(p: int, g: int = g) -> tuple[float, float]:
            return sum(n * missing[p][name] / total[name] for name, n in counts[g].items()), free[p]

        candidates = sorted(empty) if len(order) - position == len(empty) else parts
        best = max(candidates, key=need)
        empty.discard(best)
        free[best] -= len(groups[g])
        for name, n in counts[g].items():
            missing[best][name] -= n
        for i in groups[g]:
            part_of[i] = best
    return part_of


@dataclass(frozen=True)
class Leakage:
    """What two sets share.

    Args:
        patients: in both.
        duplicates: pairs of files (first set, second set) of the same content.
    """

    patients: tuple[str, ...]
    duplicates: tuple[tuple[str, str], ...]

    @property
    def clean(self) -> bool:
        """Whether nothing is shared."""
        return not self.patients and not self.duplicates

    def __str__(self) -> str:
        if self.clean:
            return "no shared patient, no shared file"
        return (
            f"{len(self.patients)} shared patients ({', '.join(self.patients[:5])}), "
            f"{len(self.duplicates)} pairs of identical files"
        )


def leakage(train: Sequence[Sample], test: Sequence[Sample]) -> Leakage:
    """Audit two sets of samples, however they were made, for what they share.

    Args:
        train: samples.
        test: samples.

    Returns:
        Shared patients, and pairs of identical files.

    Example:
        >>> from pathlib import Path
        >>> leakage([Sample(Path("a.png"), patient="P1")], [Sample(Path("b.png"), patient="P1")]).patients
        ('P1',)
    """
    patients = {s.patient for s in train} & {s.patient for s in test} - {None}
    ours, theirs = set(train), set(test)
    pairs = []
    for group in same_content(list(dict.fromkeys([*train, *test]))):
        pairs += [(str(a.path), str(b.path)) for a in group if a in ours for b in group if b in theirs]
    return Leakage(tuple(sorted(str(p) for p in patients)), tuple(pairs))
