"""What is wrong with a data set: shown by `check`, acted on by whoever trains, evaluates or splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hccvision.contracts import Problem, Sample
from hccvision.data.duplicates import same_content


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    Args:
        images: how many samples there are.
        objects: boxes (or classified images) per class name.
        without_objects: annotated images without any box: information, not a problem.
        problems: everything wrong.
        duplicates: groups of files with the same content.
    """

    images: int
    objects: dict[str, int]
    without_objects: int
    problems: tuple[Problem, ...]
    duplicates: tuple[tuple[str, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain values, ready for JSON.

        Returns:
            The fields by name; ``problems`` as a list of ``kind, path, message, usable``.
        """
        return {
            "images": self.images,
            "objects": dict(self.objects),
            "without_objects": self.without_objects,
            "problems": [dict(vars(p)) for p in self.problems],
            "duplicates": [list(group) for group in self.duplicates],
        }

    def __str__(self) -> str:
        kinds = Counter(p.kind for p in self.problems)
        surplus = sum(len(g) - 1 for g in self.duplicates)
        lines = [
            f"{self.images} images, {self.without_objects} of them without objects",
            "classes: " + (", ".join(f"{n} {c}" for n, c in self.objects.items()) or "none"),
            f"identical files: {surplus} surplus copies in {len(self.duplicates)} groups",
            "problems: " + (", ".join(f"{k} {c}" for k, c in kinds.most_common()) or "none"),
        ]
        return "\n".join(lines + [f"  {p}" for p in self.problems])


def check(data: Sequence[Sample]) -> CheckReport:
    """Look a data set over; never raises for what is wrong in it.

    Args:
        data: samples, as the readers give them.

    Returns:
        The report; print it, or take ``to_dict()``.

    Example:
        >>> print(check([]))
        0 images, 0 of them without objects
        classes: none
        identical files: 0 surplus copies in 0 groups
        problems: none
    """
    objects = Counter(name for s in data for name in s.names)
    return CheckReport(
        images=len(data),
        objects=dict(sorted(objects.items())),
        without_objects=sum(s.annotation is not None and len(s.annotation) == 0 for s in data),
        problems=tuple(p for s in data for p in s.problems),
        duplicates=tuple(tuple(str(s.path) for s in group) for group in same_content(data) if len(group) > 1),
    )


def usable(data: Sequence[Sample], on_problem: str = "raise") -> list[Sample]:
    """Take the samples that can be used, or stop at the first look if something is wrong.

    Args:
        data: samples, as the readers give them.
        on_problem: ``"raise"``, or ``"skip"``: print each problem, leave out what it spoils, and go on. A degenerate
            box costs only itself; an unreadable file costs the sample.

    Returns:
        The samples that can be used, in order.

    Raises:
        ValueError: if there are problems and ``on_problem="raise"``; the message names the files. Also if nothing
            usable is left, or for another word.

    Example:
        >>> from pathlib import Path
        >>> bad = Sample(Path("b.png"), problems=(Problem("unreadable_image", "b.png", "not an image", False),))
        >>> [s.path.name for s in usable([Sample(Path("a.png")), bad], on_problem="skip")]
        skipped: b.png: not an image
        ['a.png']
    """
    if on_problem not in ("raise", "skip"):
        raise ValueError(f"unknown on_problem={on_problem!r}; known: 'raise', 'skip'")
    problems = [p for s in data for p in s.problems]
    if problems and on_problem == "raise":
        shown = "\n".join(f"  {p}" for p in problems[:10])
        more = f"\n  … and {len(problems) - 10} more: hv.check(data) shows them all" if len(problems) > 10 else ""
        raise ValueError(
            f"{len(problems)} problems in {len(data)} samples; mend them, or go on without the parts concerned by "
            f'on_problem="skip":\n{shown}{more}'
        )
    for problem in problems:
        print(f"skipped: {problem}")
    kept = [s for s in data if all(p.usable for p in s.problems)]
    if not kept:
        raise ValueError(f"no usable sample: {len(data)} given, all left out because of their problems")
    return kept
