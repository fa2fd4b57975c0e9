"""Kinds of problems that readers find, which samples can be used, and what to do about the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hccvision.contracts.samples import Problem, Sample

# What on_problem="skip" leaves out because of a problem.
SKIPPED = {
    "object": 'the sample; with ``on_problem="keep"`` the object, if a readable box remains',
    "box": "the box; the sample if no box remains",
    "outside": "the part outside",
    "sample": "the sample",
    "file": "the file",
    "nothing": "nothing",
}


class Kind(NamedTuple):
    """A kind of problem.

    Args:
        meaning: what is wrong, in one sentence.
        skipped: what ``on_problem="skip"`` leaves out, a key of `SKIPPED`.
    """

    meaning: str
    skipped: str


KINDS = {
    "bad_box": Kind("a coordinate is missing or not a number", "object"),
    "missing_name": Kind("an object without a class name, or with one of more than 1000 characters", "object"),
    "unknown_category": Kind("a category or class number without a name", "object"),
    "unread_object": Kind("an object that is no box and encloses none: a brush mask, keypoint, line or tag", "object"),
    "unnamed_value": Kind("a mask holds a value that ``labels=`` does not name, or soft edges", "object"),
    "degenerate_box": Kind("a box without width or height, such as ``xmax <= xmin``", "box"),
    "box_off_image": Kind("no part of a box is inside the image", "box"),
    "box_outside": Kind("a box extends outside the image", "outside"),
    "missing_annotation": Kind("an image without annotation, which may have been forgotten", "sample"),
    "missing_image": Kind("an annotation, or a line in a list, without its image", "sample"),
    "ambiguous_image": Kind("an annotation that could belong to any of several images", "sample"),
    "duplicate_annotation": Kind("two annotations of one image", "sample"),
    "duplicate_image": Kind("COCO: one id or one file for several images", "sample"),
    "unreadable_annotation": Kind("an annotation file of its format can't be read", "sample"),
    "unsafe_path": Kind("a file name in an annotation or a list points outside the folder", "sample"),
    "size_mismatch": Kind("the annotation states another image size", "sample"),
    "unreadable_image": Kind("the image is empty, or cannot be decoded", "sample"),
    "truncated_image": Kind("the image file ends before the last pixel", "sample"),
    "several_frames": Kind("an animation, a volume or a multi-frame file where one image is expected", "sample"),
    "unread_annotation": Kind("a file looks like an annotation or a mask and was not read", "file"),
    "unread_image": Kind("an image that belongs to no class or that the annotation file does not list", "file"),
    "odd_entry": Kind("a folder, pipe, device or broken link has the name of a file", "file"),
    "no_patient": Kind("the patient rule finds no patient; splits then group the image by near duplicates", "nothing"),
}


def kinds_that_skip(skipped: str) -> frozenset[str]:
    """Return the kinds of problems because of which ``on_problem="skip"`` leaves one thing out.

    Args:
        skipped: a key of `SKIPPED`.

    Returns:
        The kinds.

    Example:
        >>> sorted(kinds_that_skip("box"))
        ['box_off_image', 'degenerate_box']
    """
    return frozenset(name for name, kind in KINDS.items() if kind.skipped == skipped)


def usable(data: Sequence[Sample], on_problem: str = "raise") -> list[Sample]:
    """Return the samples that can be used, or raise if anything is wrong with any of them.

    Args:
        data: samples as the readers return them.
        on_problem: ``"raise"``; ``"skip"`` to print each problem and leave out what it concerns: a degenerate box
            costs only the box, an unreadable file costs the sample, and so does an object that can't be read; or
            ``"keep"`` to keep samples with objects that can't be read, with the boxes that can, if there are any.

    Returns:
        The samples that can be used, in order.

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
    costs = [[p for p in s.problems if not p.usable] for s in data]
    kept = [
        not bad or (on_problem == "keep" and _has_readable_boxes(s, bad)) for s, bad in zip(data, costs, strict=True)
    ]
    _say("skipped", len(data), [bad for bad, keep in zip(costs, kept, strict=True) if not keep])
    _say("kept with their readable boxes", len(data), [b for b, keep in zip(costs, kept, strict=True) if keep and b])
    if not any(kept):
        raise ValueError(f"no usable sample: {len(data)} given, all left out because of their problems")
    return [s for s, keep in zip(data, kept, strict=True) if keep]


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
