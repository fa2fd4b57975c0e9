"""What is wrong with a data set: shown by `check`, acted on by whoever trains, evaluates or splits."""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hccvision import boxes as box_functions
from hccvision import default_boxes, images
from hccvision.annotations.problems import usable  # noqa: F401 - for those who import it from here
from hccvision.contracts import Problem, Sample
from hccvision.data.check_page import page
from hccvision.data.duplicates import near_duplicates, same_content, thumbnail
from hccvision.data.shortcuts import predict_from

LEVELS = ("error", "warning", "info")
TINY = 2  # pixels: a box no wider or higher was hardly meant
SAME_BOX = 0.9  # IoU from which two boxes of an image are one drawn twice
SIMILAR = 0.8  # difflib's ratio from which two class names may be one
RARE = 10  # a spelling this many times rarer than another is likely a mistake
PRESETS = ("ssd300_mobilenet", "lesion")
MOST_BOXES = 1000  # whose coverage is worked out


@dataclass(frozen=True)
class Finding:
    """One thing that `check` found.

    Args:
        kind: a short fixed word to count by.
        level: ``"error"`` (mend it before training), ``"warning"`` (look at it) or ``"info"``.
        files: it is about; empty where it is about all.
        message: what was found, and what to do.
    """

    kind: str
    level: str
    files: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        shown = ", ".join(Path(f).name for f in self.files[:3]) + (", …" if len(self.files) > 3 else "")
        return f"{shown}: {self.message}" if shown else self.message


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    Args:
        images: how many samples there are.
        objects: boxes (or classified images) per class name.
        without_objects: annotated images without any box: information, not a problem.
        problems: what the readers found, for which `hv.fit`, `hv.evaluate` and `hv.split` refuse the data.
        duplicates: groups of files with the same content.
        near_duplicates: groups of files that show the same picture, at least two of them not byte for byte.
        findings: all of it, errors first.
        samples: that were checked.
    """

    images: int
    objects: dict[str, int]
    without_objects: int
    problems: tuple[Problem, ...]
    duplicates: tuple[tuple[str, ...], ...]
    near_duplicates: tuple[tuple[str, ...], ...] = ()
    findings: tuple[Finding, ...] = ()
    samples: tuple[Sample, ...] = field(default=(), repr=False, compare=False)

    def level(self, name: str) -> tuple[Finding, ...]:
        """Give the findings of one level.

        Args:
            name: ``"error"``, ``"warning"`` or ``"info"``.

        Returns:
            The findings.

        Raises:
            ValueError: for another word.
        """
        if name not in LEVELS:
            raise ValueError(f"unknown level {name!r}; known: {', '.join(map(repr, LEVELS))}")
        return tuple(f for f in self.findings if f.level == name)

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain values, ready for JSON.

        Returns:
            The fields by name but the samples; ``problems`` as a list of ``kind, path, message, usable``, ``findings``
            as a list of ``kind, level, files, message``.
        """
        return {
            "images": self.images,
            "objects": dict(self.objects),
            "without_objects": self.without_objects,
            "problems": [dict(vars(p)) for p in self.problems],
            "duplicates": [list(group) for group in self.duplicates],
            "near_duplicates": [list(group) for group in self.near_duplicates],
            "findings": [{**vars(f), "files": list(f.files)} for f in self.findings],
        }

    def __str__(self) -> str:
        return self._text(3)

    def _text(self, most: int | None) -> str:
        """The table, with so many findings of each kind spelt out."""
        surplus, near = (sum(len(g) - 1 for g in groups) for groups in (self.duplicates, self.near_duplicates))
        counts = Counter(f.level for f in self.findings)
        lines = [
            f"{self.images} images, {self.without_objects} of them without objects",
            "classes: " + (", ".join(f"{n} {c}" for n, c in self.objects.items()) or "none"),
            f"identical files: {surplus} surplus copies in {len(self.duplicates)} groups"
            + (f"; near copies: {near} in {len(self.near_duplicates)} groups" if near else ""),
            "found: " + (", ".join(_counted(counts[n], n) for n in LEVELS if counts[n]) or "nothing"),
        ]
        by_kind: dict[tuple[str, str], list[Finding]] = defaultdict(list)
        for finding in self.findings:
            by_kind[finding.level, finding.kind].append(finding)
        width = max((len(kind) for _, kind in by_kind), default=0)
        for (level, kind), found in by_kind.items():
            lines.append(f"{level:<8} {kind:<{width}} {len(found):>5}")
            lines += [f"    {f}" for f in found[:most]]
            if most is not None and len(found) > most:
                lines.append(f"    … and {len(found) - most} more: report.save(folder) lists them all")
        return "\n".join(lines)

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write ``check.json``, ``check.txt`` and ``check.html``, a page of its own with thumbnails and boxes.

        The page and the text name files without their folders; the JSON holds the paths.

        Args:
            folder: to make.
            overwrite: replace an older report there.

        Returns:
            The folder.

        Raises:
            FileExistsError: if there is a report in the folder and ``overwrite`` is False.
        """
        folder = Path(folder)
        if (folder / "check.json").exists() and not overwrite:
            raise FileExistsError(f"{folder}: there is a report here already; give another folder, or overwrite=True")
        folder.mkdir(parents=True, exist_ok=True)
        head = str(self).split("\nfound: ")[0].splitlines()
        texts = {
            "check.json": json.dumps(self.to_dict(), indent=2, ensure_ascii=False),
            "check.txt": f"{self._text(None)}\n",
            "check.html": page(head, [(f.level, f.kind, f.files, f.message) for f in self.findings], self.samples),
        }
        for name, text in texts.items():
            partial = folder / f".{name}.tmp"
            partial.write_text(text, encoding="utf-8", errors="replace", newline="")
            os.replace(partial, folder / name)
        return folder


def check(
    data: Sequence[Sample],
    *,
    classes: Sequence[str] | None = None,
    attributes: Mapping[str, Callable[[Sample], Hashable]] | None = None,
) -> CheckReport:
    """Look a data set over; never raises for what is wrong in it.

    Every image is decoded to its end. The kinds of findings are explained on the page :doc:`/check`.

    Args:
        data: samples, as the readers give them.
        classes: the class names that there should be; None: spellings are compared with one another.
        attributes: more that might give the class away, beside image size, format, colours and scanner: by name, a
            callable on the sample.

    Returns:
        The report; print it, take ``to_dict()``, or ``save`` it as a page with thumbnails.

    Example:
        >>> print(check([]))
        0 images, 0 of them without objects
        classes: none
        identical files: 0 surplus copies in 0 groups
        found: nothing
    """
    data = tuple(data)
    objects = Counter(name for s in data for name in s.names)
    exact = [group for group in same_content(data) if len(group) > 1]
    pictures, sizes, unreadable = _look(data)
    clusters = near_duplicates(data, thumbnails=pictures)
    near = [
        group for group in clusters if len(group) > 1 and not any(len(group) == len(g) and group[0] in g for g in exact)
    ]
    findings = [Finding(p.kind, "error", (p.path,), _bare(p.message, p.path, s.path)) for s in data for p in s.problems]
    findings += unreadable
    findings += [f for s, size in zip(data, sizes, strict=True) for f in _boxes(s, size)]
    findings += _names(objects, data, classes)
    findings += _copies(exact, "identical_images", "the same file byte for byte: keep one of them")
    findings += _copies(
        near, "near_identical_images", "the same picture, changed: keep one of them, or all in one part"
    )
    findings += _contradictions(exact, "error") + _contradictions(near, "warning")
    findings += _balance(objects)
    findings += _sizes_of(data, sizes)
    findings += _coverage(data, sizes)
    findings += _shortcuts(data, sizes, clusters, attributes or {})
    findings += [
        Finding("without_objects", "info", (str(s.path),), "annotated as free of lesions: it trains as such")
        for s in data
        if s.annotation is not None and len(s.annotation) == 0
    ]
    return CheckReport(
        images=len(data),
        objects=dict(sorted(objects.items())),
        without_objects=sum(s.annotation is not None and len(s.annotation) == 0 for s in data),
        problems=tuple(p for s in data for p in s.problems),
        duplicates=tuple(tuple(str(s.path) for s in group) for group in exact),
        near_duplicates=tuple(tuple(str(s.path) for s in group) for group in near),
        findings=tuple(sorted(findings, key=lambda f: LEVELS.index(f.level))),
        samples=data,
    )


def doubled(sample: Sample) -> list[tuple[int, int]]:
    """Find the boxes of a sample that are drawn twice: the same class, and an IoU above 0.9.

    Args:
        sample: with or without an annotation.

    Returns:
        Pairs of indices ``(first, again)`` into its boxes.
    """
    return [(i, j) for i, j in _overlapping(sample) if sample.names[i] == sample.names[j]]


def agree(one: Sample, other: Sample) -> bool:
    """Say whether two annotations of one picture mean the same: each box has one of its class at an IoU of a half.

    Args:
        one: a sample.
        other: another; of other pixels maybe.

    Returns:
        True also if one of them has no annotation.
    """
    a, b = one.annotation, other.annotation
    if a is None or b is None:
        return True
    if Counter(a.names) != Counter(b.names):
        return False
    if len(a) == 0:
        return True
    mine, theirs = (torch.from_numpy(_shares(x.boxes, x.size or (1, 1))) for x in (a, b))
    same = torch.tensor([[n == m for m in b.names] for n in a.names])
    overlap = box_functions.iou(mine, theirs) * same
    return bool((overlap.amax(1) >= 0.5).all() and (overlap.amax(0) >= 0.5).all())


def _overlapping(sample: Sample) -> list[tuple[int, int]]:
    if sample.annotation is None or len(sample.annotation) < 2:
        return []
    boxes = torch.from_numpy(sample.annotation.boxes)
    pairs = torch.nonzero(box_functions.iou(boxes, boxes).triu(1) > SAME_BOX)
    return [(i, j) for i, j in pairs.tolist()]


def _counted(count: int, level: str) -> str:
    return f"{count} {level}{'s' * (count > 1 and level != 'info')}"


def _bare(message: str, *paths: str | Path) -> str:
    """A message without the folders of these files: folders may name people."""
    for folder in {str(Path(path).parent) for path in paths} - {".", os.sep}:
        message = message.replace(f"{folder}{os.sep}", "").replace(folder, "its folder")
    return message


def _look(
    data: Sequence[Sample],
) -> tuple[list[np.ndarray | None], list[tuple[int, int] | None], list[Finding]]:
    """Thumbnail and size of each image, None where it can't be read, and what was found so."""
    pictures: list[np.ndarray | None] = []
    sizes: list[tuple[int, int] | None] = []
    found = []
    for sample in data:
        picture = size = None
        try:
            size = images.image_size(sample.path)
            picture = thumbnail(sample.path)
        except (OSError, ValueError, ImportError) as error:
            kind = "unreadable_image" if size is None else "truncated_image"
            told = ("unreadable_image", "missing_image", *(() if sample.path.exists() else ("unreadable_annotation",)))
            if not any(p.kind in told for p in sample.problems):
                message = _bare(str(error).removeprefix(f"{sample.path}: "), sample.path)
                found.append(Finding(kind, "error", (str(sample.path),), message))
        pictures.append(picture)
        sizes.append(size)
    return pictures, sizes, found


def _boxes(sample: Sample, size: tuple[int, int] | None) -> Iterable[Finding]:
    """Boxes that can be read but are odd."""
    annotation = sample.annotation
    if annotation is None:
        return
    files = (str(annotation.path or sample.path),)
    for number, (x1, y1, x2, y2) in enumerate(annotation.boxes.tolist(), start=1):
        name = annotation.names[number - 1]
        if min(x2 - x1, y2 - y1) <= TINY:
            message = (
                f"box {number} ({name!r}) is {x2 - x1:g}×{y2 - y1:g} pixels, a slip of the mouse? delete or redraw it"
            )
            yield Finding("tiny_box", "warning", files, message)
        outside = size is not None and (x1 < 0 or y1 < 0 or x2 > size[1] or y2 > size[0])
        if outside and not any(p.kind in ("box_outside", "size_mismatch") for p in sample.problems):
            message = f"box {number} ({name!r}) reaches outside the image of {size[1]}×{size[0]} pixels: redraw it"  # type: ignore[index]
            yield Finding("box_outside", "error", files, message)
    for i, j in _overlapping(sample):
        one, other = annotation.names[i], annotation.names[j]
        if one == other:
            message = f"boxes {i + 1} and {j + 1} are both {one!r} in the same place: delete one"
            yield Finding("duplicate_box", "warning", files, message)
        else:
            message = f"boxes {i + 1} and {j + 1} in the same place are {one!r} and {other!r}: delete the wrong one"
            yield Finding("contradicting_box", "warning", files, message)


def _names(objects: Counter[str], data: Sequence[Sample], classes: Sequence[str] | None) -> Iterable[Finding]:
    """Class names that are not known, or that look like another one's misspelling."""
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
            message = f"class {count} may be a misspelt {close!r} ({objects[close]}×): make them one name"
            yield Finding("similar_class", "warning", tuple(files[name]), message)


def _commoner(one: str, other: str, objects: Counter[str]) -> bool:
    return (objects[one], other) > (objects[other], one)


def _alike(one: str, other: str) -> float:
    """How alike two names are, 1 if they differ only in case, spaces and signs."""
    one, other = (re.sub(r"[\W_]+", "", name.casefold()) for name in (one, other))
    return SequenceMatcher(None, one, other).ratio()


def _copies(groups: Iterable[Sequence[Sample]], kind: str, message: str) -> list[Finding]:
    return [
        Finding(kind, "warning", tuple(str(s.path) for s in group), f"{len(group)} files are {message}")
        for group in groups
    ]


def _contradictions(groups: Iterable[Sequence[Sample]], level: str) -> list[Finding]:
    """Copies of one picture that are annotated differently."""
    found = []
    for group in groups:
        named = sorted({s.class_name for s in group if s.class_name is not None})
        if len(named) > 1:
            message = f"copies of one picture are in the classes {', '.join(map(repr, named))}: keep the right one"
        elif not all(agree(group[0], s) for s in group[1:]):
            message = "copies of one picture have other boxes: keep the one that is annotated right"
        else:
            continue
        found.append(Finding("contradicting_copies", level, tuple(str(s.path) for s in group), message))
    return found


def _shares(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return boxes / np.array([width, height, width, height], np.float32)


def _balance(objects: Counter[str]) -> Iterable[Finding]:
    if len(objects) > 1:
        (most, many), (least, few) = objects.most_common()[0], objects.most_common()[-1]
        level = "warning" if many >= 10 * few else "info"
        message = f"{most!r} {many}× to {least!r} {few}×, {many / few:.1f} to 1"
        yield Finding(
            "class_balance", level, (), message + (": find more, or weigh the classes" if level != "info" else "")
        )


def _sizes_of(data: Sequence[Sample], sizes: Sequence[tuple[int, int] | None]) -> Iterable[Finding]:
    known = Counter(size for size in sizes if size is not None)
    if known:
        (height, width), count = known.most_common(1)[0]
        sides = [side for size in known for side in size]
        message = (
            f"{len(known)} image sizes, most often {width}×{height} ({count}×), sides from {min(sides)} to {max(sides)}"
        )
        yield Finding("image_sizes", "info", (), message)
    shares = _all_boxes(data, sizes)
    if len(shares):
        quantiles = np.quantile(np.sqrt(np.prod(shares[:, 2:] - shares[:, :2], axis=1)), [0, 0.25, 0.5, 0.75, 1]) * 100
        message = (
            "√area of the boxes in % of the image side: least {:.1f}, quartiles {:.1f}, {:.1f}, {:.1f}, most {:.1f}"
        )
        yield Finding("box_sizes", "info", (), message.format(*quantiles))


def _all_boxes(data: Sequence[Sample], sizes: Sequence[tuple[int, int] | None]) -> np.ndarray:
    """``(N, 4)`` boxes in shares of their images."""
    parts = [np.zeros((0, 4), np.float32)]
    for sample, size in zip(data, sizes, strict=True):
        if sample.annotation is not None and size is not None and len(sample.annotation):
            parts.append(np.clip(_shares(sample.annotation.boxes, size), 0, 1))
    boxes = np.concatenate(parts)
    return boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]


def _coverage(data: Sequence[Sample], sizes: Sequence[tuple[int, int] | None]) -> Iterable[Finding]:
    boxes = _all_boxes(data, sizes)
    if not len(boxes):
        return
    some = boxes[np.linspace(0, len(boxes) - 1, min(len(boxes), MOST_BOXES)).astype(int)]
    for name in PRESETS:
        result = default_boxes.coverage(default_boxes.generate(name), torch.from_numpy(some))
        low = result.reached < 0.9 * len(some)
        message = f"default boxes {name!r}: {result}" + (
            f", a sample of {len(boxes)}" if len(some) < len(boxes) else ""
        )
        remedy = '; take the set "lesion", or fit one with hv.default_boxes.suggest' if low else ""
        yield Finding("default_boxes", "warning" if low else "info", (), message + remedy)


def _shortcuts(
    data: Sequence[Sample],
    sizes: Sequence[tuple[int, int] | None],
    clusters: Sequence[Sequence[Sample]],
    attributes: Mapping[str, Callable[[Sample], Hashable]],
) -> Iterable[Finding]:
    """Attributes that give the class away; of detection, whether there is anything to find."""
    rows = [
        (s, size, s.class_name if s.class_name is not None else ", ".join(sorted(set(s.names))) or "no object")
        for s, size in zip(data, sizes, strict=True)
        if size is not None and (s.class_name is not None or s.annotation is not None)
    ]
    labels = [label for _, _, label in rows]
    if len(set(labels)) < 2:
        return
    known = all(s.patient is not None for s, _, _ in rows)
    cluster = {id(s): number for number, group in enumerate(clusters) for s in group}
    groups = [s.patient if known else cluster[id(s)] for s, _, _ in rows]
    headers = [_header(s.path) for s, _, _ in rows]
    columns: dict[str, list[Hashable]] = {
        "image size": [size for _, size, _ in rows],
        "image size, in steps of √2": [round(float(np.log2(size[0] * size[1]))) for _, size, _ in rows],
        "file format": [s.path.suffix.lower().replace("jpeg", "jpg") for s, _, _ in rows],
        "colour mode": [mode for mode, _ in headers],
        "scanner": [scanner for _, scanner in headers],
    }
    for name, attribute in attributes.items():
        columns[name] = [attribute(s) for s, _, _ in rows]
    for name, values in columns.items():
        result = predict_from(values, labels, groups)
        if result is not None and result.found:
            message = (
                f"{name} alone predicts the class: {result.accuracy:.0%} of {result.images} images (mean over the "
                f"classes, cross-validated by {'patient' if known else 'image'}; chance {result.chance:.0%}, 99 % of "
                f"shuffles below {result.by_chance:.0%}, p = {result.p:.3f}). A model may learn that in place of the "
                "disease: take the classes from the same sources, and bring the images to one size and format"
            )
            yield Finding("shortcut", "warning", (), message)


def _header(path: Path) -> tuple[str, str]:
    """Colour mode of a picture, and scanner of a medical file; "" where the file doesn't tell."""
    mode = scanner = ""
    with suppress(OSError, ValueError, SyntaxError), Image.open(path) as file:
        mode = file.mode
    with suppress(OSError, ValueError, ImportError):
        scanner = images.read_provenance(path).scanner or ""
    return mode, scanner
