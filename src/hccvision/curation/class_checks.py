"""Checks of class names: unknown or misspelt ones, and how unequal the classes are."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from hccvision.contracts.samples import Sample
from hccvision.curation.report import Finding

SIMILAR = 0.8  # ratio of difflib from which two class names may be one
MOST_NAMES = 100  # class names that are compared with one another, or named as unknown
_COMPARED, _LONGEST = 40, 1000  # characters of a name, without and with spaces and punctuation
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
    expected = None if classes is None else dict.fromkeys(classes)
    known = list(objects if expected is None else expected)
    odd = sorted(name for name in objects if expected is None or name not in expected)
    common = sorted(known, key=lambda name: -objects[name])[:MOST_NAMES]
    for name in odd[:MOST_NAMES]:
        others = common if classes is not None else [o for o in common if _commoner(o, name, objects)]
        close = max(others, key=lambda other: _alike(name, other), default="")
        ratio = _alike(name, close) if close else 0.0
        likely = ratio == 1 or (ratio >= SIMILAR and (classes is not None or objects[name] * RARE <= objects[close]))
        count = f"{name!r:.80} ({objects[name]}×)"
        if classes is not None:
            hint = (
                f"perhaps {close!r:.80}"
                if likely
                else f"known: {', '.join(f'{n!r:.80}' for n in known[:20])}{', …' * (len(known) > 20)}"
            )
            message = f"unknown class {count}, {hint}: rename it, or repair with rename={{{name!r:.80}: …}}"
            yield Finding("unknown_class", "error", tuple(files[name]), message)
        elif likely:
            message = f"class {count} may be a misspelt {close!r:.80} ({objects[close]}×): use one name for both"
            yield Finding("similar_class", "warning", tuple(files[name]), message)
    if len(odd) > MOST_NAMES:
        rest = odd[MOST_NAMES:]
        where = tuple(dict.fromkeys(file for name in rest for file in files[name]))
        kind, level, what = (
            ("unknown_class", "error", "unknown class names")
            if classes is not None
            else ("similar_class", "warning", "class names, too many to compare")
        )
        yield Finding(
            kind, level, where, f"and {len(rest)} more {what}, such as {rest[0]!r:.80}: are they class names?"
        )


def check_balance(data: Sequence[Sample]) -> Iterator[Finding]:
    """State how many times more frequent the most frequent class is than the rarest.

    Args:
        data: samples.

    Yields:
        A finding of the kind ``class_balance``, if there are several classes.
    """
    objects = Counter(name for s in data for name in s.object_names)
    if len(objects) > 1:
        (most, many), (least, few) = objects.most_common()[0], objects.most_common()[-1]
        level = "warning" if many >= 10 * few else "info"
        message = f"{most!r:.80} {many}× to {least!r:.80} {few}×, {many / few:.1f} to 1"
        advice = ": find more, or weight the classes" if level != "info" else ""
        yield Finding("class_balance", level, (), message + advice)


def _commoner(one: str, other: str, objects: Counter[str]) -> bool:
    return (objects[one], other) > (objects[other], one)


def _alike(one: str, other: str) -> float:
    """Return how alike two names are; 1 if they differ only in case, spaces and punctuation."""
    one, other = (re.sub(r"[\W_]+", "", name[:_LONGEST].casefold()) for name in (one, other))
    return 1.0 if one == other else SequenceMatcher(None, one[:_COMPARED], other[:_COMPARED]).ratio()
