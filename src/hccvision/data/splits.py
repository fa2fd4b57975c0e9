"""Splits and folds that keep what belongs together in one part: a patient's slices, or copies of one image."""

from __future__ import annotations

import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hccvision.annotations.patients import search_names
from hccvision.annotations.problems import usable
from hccvision.contracts.samples import Sample
from hccvision.curation.duplicates import near_duplicates
from hccvision.curation.facts import FactCache, facts_of
from hccvision.curation.sources import ties
from hccvision.grouping import together

Group = str | re.Pattern[str] | Callable[[Path], str | None]

_WORDS = ("patient", "duplicate", "none")
_SIDES = ("training", "test")
_MOST = 5  # parts, and classes of a part, that a warning spells out


class NestedFold(NamedTuple):
    """One outer fold of `nested_folds`.

    Args:
        train: the whole training part, for the final fit.
        test: the test part.
        inner: pairs (train, validation) made from ``train``, to choose settings by.
    """

    train: list[Sample]
    test: list[Sample]
    inner: list[tuple[list[Sample], list[Sample]]]


def split(
    data: Sequence[Sample],
    shares: Sequence[float] = (0.7, 0.1, 0.2),
    *,
    group: Group = "patient",
    seed: int = 0,
    on_problem: str = "raise",
    facts: FactCache | None = None,
) -> list[list[Sample]]:
    r"""Split samples into parts, stratified by class and number of lesions, without dividing a group.

    Whatever the group, samples that share a patient, a series, a source (see `Sample.source_id`) or their content are
    always in one part. ``group`` states what else must stay together:

    - ``"patient"``: every sample needs a patient. Those without one are grouped by near-duplicate pictures, which is
      weaker and gives a warning.
    - ``"duplicate"``: near-duplicate pictures.
    - ``"none"``: nothing else.
    - a regular expression on the file name (its first group, or the whole match) or a callable on the path: samples
      with the same result.

    Args:
        data: samples.
        shares: shares of the parts, summing to 1; two, three or more.
        group: what must stay together.
        seed: equal seeds give equal splits.
        on_problem: ``"raise"``, ``"skip"`` or ``"keep"``, see `usable`.
        facts: where facts about the files are kept; None: the cache that all functions share.

    Returns:
        One list of samples per share, none empty, in the order of ``data``. A warning names parts without a class.

    Raises:
        ValueError: if the shares don't sum to 1, the rule finds no group for a file, or there are fewer groups than
            parts.

    Example:
        >>> data = [Sample(Path(f"P{i // 3}_{i}.png"), patient=f"P{i // 3}", class_name="cancer") for i in range(30)]
        >>> [len(part) for part in split(data, (0.7, 0.1, 0.2))]
        [21, 3, 6]
    """
    if len(shares) < 2 or not all(s > 0 for s in shares) or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"shares are two or more numbers above 0 that sum to 1, got {tuple(shares)}")
    kept = usable(data, on_problem)
    numbers = _allocate(kept, groups_of(kept, group, facts), shares, seed)
    parts = [[s for s, p in zip(kept, numbers, strict=True) if p == i] for i in range(len(shares))]
    _warn_of_missing({f"part {i}": part for i, part in enumerate(parts, start=1)}, kept)
    return parts


def folds(
    data: Sequence[Sample],
    count: int = 5,
    *,
    group: Group = "patient",
    seed: int = 0,
    on_problem: str = "raise",
    facts: FactCache | None = None,
) -> list[tuple[list[Sample], list[Sample]]]:
    """Return the pairs of a k-fold cross-validation, stratified like `split`, without dividing a group.

    Args:
        data: samples.
        count: number of folds, at least 2.
        group: what must stay together, as in `split`.
        seed: equal seeds give equal folds.
        on_problem: ``"raise"``, ``"skip"`` or ``"keep"``, see `usable`.
        facts: where facts about the files are kept; None: the cache that all functions share.

    Returns:
        ``count`` pairs (train, test); each sample is in one test part.

    Raises:
        ValueError: if there are fewer than two folds, the rule finds no group for a file, or there are fewer groups
            than folds.

    Example:
        >>> data = [Sample(Path(f"{i}.png"), class_name="ab"[i % 2]) for i in range(10)]
        >>> [(len(a), len(b)) for a, b in folds(data, 5, group="none")]
        [(8, 2), (8, 2), (8, 2), (8, 2), (8, 2)]
    """
    _check_count(count)
    kept = usable(data, on_problem)
    pairs = _pairs(kept, groups_of(kept, group, facts), count, seed)
    _warn_of_missing(_sides(pairs), kept)
    return pairs


def nested_folds(
    data: Sequence[Sample],
    outer: int = 5,
    inner: int = 4,
    *,
    group: Group = "patient",
    seed: int = 0,
    on_problem: str = "raise",
    facts: FactCache | None = None,
) -> list[NestedFold]:
    """Return a nested cross-validation: the training part of each fold is divided into folds by the same groups.

    Settings are chosen on the inner pairs and evaluated on the outer test part, which took no part in the choice. The
    outer folds are those of `folds`.

    Args:
        data: samples.
        outer: number of folds, at least 2.
        inner: number of folds in each training part, at least 2.
        group: what must stay together, as in `split`.
        seed: equal seeds give equal folds.
        on_problem: ``"raise"``, ``"skip"`` or ``"keep"``, see `usable`.
        facts: where facts about the files are kept; None: the cache that all functions share.

    Returns:
        ``outer`` folds; each sample is in one test part, and in one validation part of every other fold.

    Raises:
        ValueError: as `folds`; also if a training part has fewer groups than inner folds.

    Example:
        >>> data = [Sample(Path(f"{i}.png"), patient=f"P{i // 2}", class_name="cancer") for i in range(20)]
        >>> fold = nested_folds(data, 5, 4)[0]
        >>> len(fold.train), len(fold.test), [len(val) for _, val in fold.inner]
        (16, 4, [4, 4, 4, 4])
    """
    _check_count(outer)
    _check_count(inner)
    kept = usable(data, on_problem)
    groups = groups_of(kept, group, facts)
    found = []
    pairs = _pairs(kept, groups, outer, seed)
    sides = _sides(pairs)
    for number, (train, test) in enumerate(pairs):
        place = {id(s): i for i, s in enumerate(train)}
        inside = [[place[id(kept[i])] for i in g] for g in groups if id(kept[g[0]]) in place]
        found.append(NestedFold(train, test, _pairs(train, inside, inner, seed + 1 + number)))
        sides |= _sides(found[-1].inner, f"inner fold {number + 1}.")
    _warn_of_missing(sides, kept)
    return found


def _check_count(count: int) -> None:
    if count < 2:
        raise ValueError(f"cross-validation needs at least 2 folds, got {count}")


def _pairs(
    data: Sequence[Sample], groups: list[list[int]], count: int, seed: int
) -> list[tuple[list[Sample], list[Sample]]]:
    parts = _allocate(data, groups, [1 / count] * count, seed)
    pairs = []
    for i in range(count):
        train = [s for s, p in zip(data, parts, strict=True) if p != i]
        pairs.append((train, [s for s, p in zip(data, parts, strict=True) if p == i]))
    return pairs


def _sides(pairs: Sequence[tuple[list[Sample], list[Sample]]], fold: str = "fold ") -> dict[str, list[Sample]]:
    """Return both sides of each fold by name."""
    return {f"{fold}{i}, {side}": p for i, pair in enumerate(pairs, 1) for side, p in zip(_SIDES, pair, strict=True)}


def _warn_of_missing(parts: Mapping[str, Sequence[Sample]], data: Sequence[Sample]) -> None:
    """Warn of parts that lack a class of the data."""
    names = {name for s in data for name in s.object_names}
    lacking = {part: names - {name for s in samples for name in s.object_names} for part, samples in parts.items()}
    told = [
        f"{part} ({len(parts[part])} images): no lesion at all"
        if missing == names and any(s.annotation is not None for s in parts[part])
        else f"{part} ({len(parts[part])} images): no {', '.join(map(repr, sorted(missing)[:_MOST]))}"
        + (f" and {len(missing) - _MOST} more classes" if len(missing) > _MOST else "")
        for part, missing in lacking.items()
        if missing
    ]
    if told:
        more = f"; and {len(told) - _MOST} more" if len(told) > _MOST else ""
        warnings.warn(
            f"classes are missing from parts of the data. {'; '.join(told[:_MOST])}{more}. Without a class its "
            "figures are undefined, or it can't be learnt: take more of its patients, larger parts, fewer folds or "
            "another seed",
            stacklevel=3,
        )


def groups_of(data: Sequence[Sample], group: Group = "patient", facts: FactCache | None = None) -> list[list[int]]:
    """Return the indices of the samples of each group that `split` keeps together.

    Args:
        data: samples that can be used.
        group: as in `split`.
        facts: as in `split`.

    Returns:
        The indices of each group.

    Raises:
        ValueError: as `split`.
    """
    if isinstance(group, str) and (group.isalpha() or not group) and group not in _WORDS:
        known = ", ".join(map(repr, _WORDS))
        raise ValueError(f"unknown group {group!r}; known: {known}, or a regular expression, or a callable")
    if len({id(s) for s in data}) != len(data):
        raise ValueError("the same sample is in the data more than once, and could come into two parts: remove one")
    alone = {"patient": [s for s in data if s.patient is None], "duplicate": list(data)}.get(str(group), [])
    found = facts_of(data, decode=bool(alone), cache=facts)
    keys = ties(data, facts=found)
    if group not in _WORDS:
        for s, own in zip(data, keys, strict=True):
            own.append(("group", _answer(group, s.path)))
    if not alone:
        return together(keys)
    if group == "patient":
        warnings.warn(
            f"{len(alone)} of {len(data)} samples have no patient, first {alone[0].path}: they are grouped by "
            "near-duplicate pictures instead. Slices of one patient that look different may then be on both sides, "
            "which makes results too good: read the folder with patient=<regex, callable or table>, or pass "
            'group="duplicate" to split without patients.',
            stacklevel=3,
        )
    lost = {id(s) for s in alone}
    index = {id(s): i for i, s in enumerate(data)}
    for number, similar in enumerate(near_duplicates(data, facts=found)):
        if any(id(s) in lost for s in similar):
            for s in similar:
                keys[index[id(s)]].append(("near", number))
    return together(keys)


def _answer(group: Group, path: Path) -> str:
    answer = (group if callable(group) else search_names(group))(path)
    if answer is None or answer == "":
        raise ValueError(f"{path}: the rule given as group finds no group for this file: correct the rule or the name")
    return str(answer)


def _strata(sample: Sample) -> set[Hashable]:
    """Return the classes and, for annotated images, a code for the number of boxes: 0, 1, 2-3, 4-7 and so on."""
    drawn = () if sample.annotation is None else (len(sample.annotation.object_names).bit_length(),)
    return {*sample.object_names, *drawn} or {""}


def _allocate(data: Sequence[Sample], groups: list[list[int]], shares: Sequence[float], seed: int) -> list[int]:
    """Return the part of each sample: largest groups first, each to the part that lacks most of its strata."""
    parts = range(len(shares))
    if len(groups) < len(shares):
        raise ValueError(f"{len(groups)} groups can't fill {len(shares)} parts without being divided")
    counts = [Counter(name for i in g for name in _strata(data[i])) for g in groups]
    total: Counter[Hashable] = sum(counts, Counter())
    missing = [{name: share * n for name, n in total.items()} for share in shares]
    free = [share * len(data) for share in shares]
    order = list(range(len(groups)))
    random.Random(seed).shuffle(order)
    order.sort(key=lambda g: -len(groups[g]))
    part_of = [0] * len(data)
    empty = set(parts)
    for position, g in enumerate(order):
        # what a part still lacks of each stratum, rare and common ones weighted alike; then of samples
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
