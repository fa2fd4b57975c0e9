"""Which samples can be used, and what to do about the problems of the others."""

from __future__ import annotations

from collections.abc import Sequence

from hccvision.annotations.judging import format_size
from hccvision.contracts.samples import Sample


def usable(data: Sequence[Sample], on_problem: str = "raise") -> list[Sample]:
    """Return the samples that can be used, or raise if anything is wrong with any of them.

    Args:
        data: samples as the readers return them.
        on_problem: ``"raise"``, or ``"skip"`` to print each problem and leave out what it concerns: a degenerate box
            costs only the box, an unreadable file costs the sample.

    Returns:
        The samples that can be used, in order.

    Raises:
        ValueError: if there are problems and ``on_problem="raise"``, naming the files; if no usable sample is left; or
            if ``on_problem`` is unknown.

    Example:
        >>> from pathlib import Path
        >>> from hccvision.contracts.samples import Problem
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
            f"{len(problems)} problems in {len(data)} samples; correct them, or leave out what they concern with "
            f'on_problem="skip":\n{shown}{more}'
        )
    for problem in problems:
        print(f"skipped: {problem}")
    kept = [s for s in data if all(p.usable for p in s.problems)]
    if not kept:
        raise ValueError(f"no usable sample: {len(data)} given, all left out because of their problems")
    return kept


def require_stated_size(sample: Sample, size: tuple[int, int]) -> None:
    """Refuse an image that has another size than when its annotation was read: its boxes would lie elsewhere.

    Args:
        sample: with or without an annotation.
        size: ``(height, width)`` of its image, decoded.

    Raises:
        ValueError: if the sizes differ.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from hccvision.contracts.samples import Annotation
        >>> boxes = Annotation(np.array([[1, 2, 3, 4]]), ("hcc",), size=(50, 60))
        >>> require_stated_size(Sample(Path("a.png"), annotation=boxes), (60, 50))
        Traceback (most recent call last):
        ...
        ValueError: a.png: is 50×60 pixels, and was 60×50 when its annotation was read: read the data again
    """
    stated = None if sample.annotation is None else sample.annotation.size
    if stated is not None and tuple(stated) != tuple(size):
        was, now = format_size(stated), format_size(size)
        raise ValueError(
            f"{sample.path}: is {now} pixels, and was {was} when its annotation was read: read the data again"
        )
