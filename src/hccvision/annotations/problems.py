"""Which samples can be used, and what to do about the problems of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from hccvision.annotations.problem_kinds import kinds_that_skip
from hccvision.contracts.samples import Problem, Sample


def usable(data: Sequence[Sample], on_problem: str = "raise") -> list[Sample]:
    """Return the samples that can be used, or raise if anything is wrong with any of them.

    Args:
        data: samples as the readers return them.
        on_problem: ``"raise"``; ``"skip"`` to print each problem and leave out what it concerns: a degenerate box
            costs only the box, an unreadable file costs the sample, and so does an object that can't be read; or
            ``"keep"`` to keep samples with objects that can't be read, with the boxes that can, if there are any.

    Returns:
        The samples that can be used, in order. The problems of those kept are accepted: they are neither raised nor
        printed again, so that one ``"skip"`` serves for splitting, training and evaluation.

    Raises:
        ValueError: if there are problems and ``on_problem="raise"``, naming the files; if no usable sample is left; or
            if ``on_problem`` is unknown.

    Example:
        >>> from pathlib import Path
        >>> bad = Sample(Path("b.png"), problems=(Problem("unreadable_image", "b.png", "not an image", False),))
        >>> [s.path.name for s in usable([Sample(Path("a.png")), bad], on_problem="skip")]
        skipped: b.png: not an image
        skipped: 1 of 2 samples: unreadable_image in 1
        ['a.png']
    """
    if on_problem not in ("raise", "skip", "keep"):
        raise ValueError(f"unknown on_problem={on_problem!r}; known: 'raise', 'skip', 'keep'")
    problems = [p for s in data for p in s.problems if not p.accepted]
    if problems and on_problem == "raise":
        shown = "\n".join(f"  {p}" for p in problems[:10])
        more = f"\n  … and {len(problems) - 10} more: hv.check(data) shows them all" if len(problems) > 10 else ""
        raise ValueError(
            f"{len(problems)} problems in {len(data)} samples; correct them, or leave out what they concern with "
            f'on_problem="skip":\n{shown}{more}'
        )
    for problem in problems:
        print(f"skipped: {problem}")
    costs = [[p for p in s.problems if p.excludes] for s in data]
    kept = [
        not bad or (on_problem == "keep" and _has_readable_boxes(s, bad)) for s, bad in zip(data, costs, strict=True)
    ]
    _say("skipped", len(data), [bad for bad, keep in zip(costs, kept, strict=True) if not keep])
    _say("kept with their readable boxes", len(data), [b for b, keep in zip(costs, kept, strict=True) if keep and b])
    if not any(kept):
        raise ValueError(f"no usable sample: {len(data)} given, all left out because of their problems")
    return [_accepted(s) for s, keep in zip(data, kept, strict=True) if keep]


def _accepted(sample: Sample) -> Sample:
    """Return a sample whose problems were said and need not be said again."""
    if all(problem.accepted for problem in sample.problems):
        return sample
    return replace(sample, problems=tuple(replace(problem, accepted=True) for problem in sample.problems))


def _has_readable_boxes(sample: Sample, costs: Iterable[Problem]) -> bool:
    """Return whether a sample has boxes, and the problems that cost it are of objects that can't be read alone."""
    if sample.annotation is None or not len(sample.annotation):
        return False
    return {p.kind for p in costs} <= kinds_that_skip("object")


def _say(what: str, total: int, samples: Sequence[Sequence[Problem]]) -> None:
    """Print how many samples something was done with, by the kinds of their problems."""
    if samples:
        counts = Counter(kind for problems in samples for kind in dict.fromkeys(p.kind for p in problems))
        kinds = ", ".join(f"{kind} in {count}" for kind, count in counts.most_common())
        print(f"{what}: {len(samples)} of {total} samples: {kinds}")


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
        was, now = (f"{width}×{height}" for height, width in (stated, size))
        raise ValueError(
            f"{sample.path}: is {now} pixels, and was {was} when its annotation was read: read the data again"
        )
