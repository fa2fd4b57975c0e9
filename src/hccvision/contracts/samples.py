"""Samples and annotations: what is known about an image file.

Boxes are ``(..., 4) float32``, ``xyxy``, pixels, 0-based, half-open: the box of pixel columns 0 to 9 is
``x1 = 0, x2 = 10``. Sizes are ``(height, width)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hccvision.documents import MAX_LENGTH


def printable(text: str) -> str:
    r"""Return a text with its control characters, and what else a terminal can't print, as escapes.

    Args:
        text: such as a file name, which may hold line breaks and terminal commands.

    Returns:
        The text in one line.

    Example:
        >>> print(printable("Läsion\n\x1b[2J"))
        Läsion\n\x1b[2J
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def as_text(name: str) -> str:
    r"""Return the name of a file as `write_table` writes it: bytes that are no text as ``\udcff``.

    Args:
        name: as Python decodes it.

    Returns:
        Text that UTF-8 can hold.

    Example:
        >>> print(as_text("P1_\udcff.png"))
        P1_\udcff.png
    """
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True)
class Problem:
    """One problem of a file; readers collect these, and nothing is dropped silently.

    Args:
        kind: a fixed identifier, such as ``"degenerate_box"`` or ``"missing_image"``.
        path: the file with the problem.
        message: what was expected, what was found, and what to do.
        usable: whether the sample can be used without the affected part; False excludes the whole sample.
        accepted: whether the user has said to use the sample all the same, see `usable`; it is then said no more.

    Example:
        >>> print(Problem("missing_image", "a.xml", "there is no image beside it: add a.png or delete a.xml", False))
        a.xml: there is no image beside it: add a.png or delete a.xml
    """

    kind: str
    path: str
    message: str
    usable: bool = True
    accepted: bool = False

    @property
    def excludes(self) -> bool:
        """Whether the sample can't be used as it is."""
        return not self.usable and not self.accepted

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.message}")


@dataclass(frozen=True, eq=False)
class Annotation:
    """Boxes annotated in one image, in pixels of that image.

    Args:
        boxes: ``(N, 4) float32``, xyxy pixels, 0-based, half-open.
        names: N class names, in the order of the boxes.
        size: ``(height, width)`` as the annotation file states it; None if it doesn't.
        difficult: N flags; difficult objects are trained on, and ignored by the VOC metrics. Empty means all False.
        truncated: N flags. Empty means all False.
        poses: N free texts. Empty means ``"Unspecified"``.
        filename: the image's file name as the annotation file states it.
        verified: whether a human has confirmed the whole annotation.
        path: the annotation file.
        problems: found while reading; the boxes left out because of them are not in ``boxes``.
        extra: fields of the annotation file other than its objects, as plain dictionaries, lists and strings, which
            `voc.write` writes back. Empty means LabelImg's usual fields.
        object_extras: N dictionaries with the fields of each object that are not the usual ones. Empty means none.
        crowd: N flags; a crowd is a region with an uncounted group of objects. In training it is neither lesion nor
            background, and any number of detections inside it is ignored in evaluation. Empty means all False.

    Example:
        >>> a = Annotation(np.array([[10, 20, 30, 40]], np.float32), ("tumor",), size=(300, 484))
        >>> len(a), a.difficult
        (1, (False,))
    """

    boxes: np.ndarray
    names: tuple[str, ...]
    size: tuple[int, int] | None = None
    difficult: tuple[bool, ...] = ()
    truncated: tuple[bool, ...] = ()
    poses: tuple[str, ...] = ()
    filename: str = ""
    verified: bool = False
    path: Path | None = None
    problems: tuple[Problem, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    object_extras: tuple[Mapping[str, Any], ...] = ()
    crowd: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, np.float32).reshape(-1, 4)
        n = len(boxes)
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "names", tuple(self.names))
        defaults = {"difficult": False, "truncated": False, "poses": "Unspecified", "object_extras": {}, "crowd": False}
        for name, default in defaults.items():
            object.__setattr__(self, name, tuple(getattr(self, name)) or (default,) * n)
        _require_short(self.names)
        for name in ("names", *defaults):
            if len(getattr(self, name)) != n:
                raise ValueError(f"an Annotation of {n} boxes needs {n} {name}, got {len(getattr(self, name))}")

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def object_names(self) -> tuple[str, ...]:
        """Class names of the boxes that are one object each: all but the crowds."""
        return tuple(name for name, crowd in zip(self.names, self.crowd, strict=True) if not crowd)

    def keep(self, numbers: Sequence[int]) -> Annotation:
        """Return the annotation with some of its boxes and their fields.

        Args:
            numbers: indices of the boxes, in the order wanted.

        Returns:
            A new annotation.

        Example:
            >>> a = Annotation(np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32), ("hcc", "cyst"))
            >>> a.keep([1]).names
            ('cyst',)
        """
        chosen = list(numbers)
        return replace(
            self,
            boxes=self.boxes[chosen],
            names=tuple(self.names[i] for i in chosen),
            difficult=tuple(self.difficult[i] for i in chosen),
            truncated=tuple(self.truncated[i] for i in chosen),
            poses=tuple(self.poses[i] for i in chosen),
            object_extras=tuple(self.object_extras[i] for i in chosen),
            crowd=tuple(self.crowd[i] for i in chosen),
        )


@dataclass(frozen=True, eq=False)
class Sample:
    """One image file and its metadata: a class name or an annotation, and the patient.

    Args:
        path: the image file.
        patient: pseudonym of the patient; None if unknown.
        class_name: the image's class, for classification.
        annotation: its boxes, for detection; an annotation without boxes means that the image shows no lesion.
        problems: what is wrong with its files.
        source_id: the image this one was derived from: its path, or the last parts of it, without the suffix; None for
            an original.
        series: identifier of the acquisition; None if unknown.
        seal: the manifest in which looks at the sample are written down, see `save_split`; None: none are.

    Example:
        >>> Sample(Path("liver/P007_03.png"), patient="P007", class_name="cancer").class_name
        'cancer'
    """

    path: Path
    patient: str | None = None
    class_name: str | None = None
    annotation: Annotation | None = None
    problems: tuple[Problem, ...] = ()
    source_id: str | None = None
    series: str | None = None
    seal: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        _require_short(() if self.class_name is None else (self.class_name,))

    @property
    def names(self) -> tuple[str, ...]:
        """All class names of the sample: its own, or those of its boxes."""
        if self.class_name is not None:
            return (self.class_name,)
        return self.annotation.names if self.annotation is not None else ()

    @property
    def object_names(self) -> tuple[str, ...]:
        """As `names`, without those of crowds, which are neither learned nor counted in evaluation."""
        if self.class_name is not None or self.annotation is None:
            return self.names
        return self.annotation.object_names


def _require_short(names: Sequence[str]) -> None:
    longest = max((len(name) for name in names if isinstance(name, str)), default=0)
    if longest > MAX_LENGTH:
        raise ValueError(f"expected class names of at most {MAX_LENGTH} characters, got one of {longest}: shorten it")
