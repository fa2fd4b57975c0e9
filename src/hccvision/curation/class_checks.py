"""Checks of class names: unknown or misspelt ones, and how unequal the classes are."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from hccvision.contracts.samples import Sample
from hccvision.curation.report import Finding

SIMILAR = 0.8  # ratio of difflib from which two class names may be one
RARE = 10  # a spelling this many times rarer than another is likely a mistake


def check_classes(data: Sequence[Sample], classes: Sequence[str] | None) -> Iterator[Finding]:
    """Find class names that are unknown, or that look like a misspelling of another.

    Args:
        data: samples.
        classes: the class names expected; None: names are compared with one another.

    Yields:
        Findings of the kind ``unknown_class`` or, without ``classes``, ``similar_class``.
    """
    objects = Counter(name for s in data for name in s.names)
    files: dict[str, list[str]] = defaultdict(list)
    for s in data:
        for name in dict.fromkeys(s.names):
            files[name].append(str(s.annotation.path or s.path) if s.annotation is not None else str(s.path))
    for name in sorted(objects):
        if classes is not None and name in classes:
            continue
        others = list(classes) if classes is not None else [o for o in objects if _commoner(o, name, objects)]
        close = max(others, key=lambda other: _alike(name, other), default="")
        ratio = _alike(name, close) if close else 0.0
        likely = ratio == 1 or (ratio >= SIMILAR and (classes is not None or objects[name] * RARE <= objects[close]))
        count = f"{name!r} ({objects[name]}×)"
        if classes is not None:
            hint = f"perhaps {close!r}" if likely else f"known: {', '.join(map(repr, classes))}"
            message = f"unknown class {count}, {hint}: rename it, or repair with rename={{{name!r}: …}}"
            yield Finding("unknown_class", "error", tuple(files[name]), message)
        elif likely:
            message = f"class {count} may be a misspelt {close!r} ({objects[close]}×): use one name for both"
            yield Finding("similar_class", "warning", tuple(files[name]), message)


def check_balance(data: Sequence[Sample]) -> Iterator[Finding]:
    """State how many times more frequent the most frequent class is than the rarest.

    Args:
        data: samples.

    Yields:
        A finding of the kind ``class_balance``, if there are several classes.
    """
    objects = Counter(name for s in data for name in s.names)
    if len(objects) > 1:
        (most, many), (least, few) = objects.most_common()[0], objects.most_common()[-1]
        level = "warning" if many >= 10 * few else "info"
        message = f"{most!r} {many}× to {least!r} {few}×, {many / few:.1f} to 1"
        advice = ": find more, or weight the classes" if level != "info" else ""
        yield Finding("class_balance", level, (), message + advice)


def _commoner(one: str, other: str, objects: Counter[str]) -> bool:
    return (objects[one], other) > (objects[other], one)


def _alike(one: str, other: str) -> float:
    """Return how alike two names are; 1 if they differ only in case, spaces and punctuation."""
    one, other = (re.sub(r"[\W_]+", "", name.casefold()) for name in (one, other))
    return SequenceMatcher(None, one, other).ratio()
