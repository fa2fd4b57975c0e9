"""The kinds of problems that readers find: what each means, and what is left out because of it."""

from __future__ import annotations

from typing import NamedTuple

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
