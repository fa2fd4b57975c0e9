"""Check a data set: one pass over its files, and everything that looks wrong in it as a report."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from hccvision.contracts.samples import Sample
from hccvision.curation.box_checks import check_boxes
from hccvision.curation.class_checks import check_balance, check_classes
from hccvision.curation.copy_checks import check_copies
from hccvision.curation.duplicates import near_duplicates, same_content
from hccvision.curation.facts import FactCache, Facts, facts_of
from hccvision.curation.report import LEVELS, DataReport, Finding
from hccvision.curation.shortcuts import predict_from
from hccvision.curation.size_checks import check_coverage, check_sizes


def check(
    data: Sequence[Sample],
    *,
    classes: Sequence[str] | None = None,
    attributes: Mapping[str, Callable[[Sample], Hashable]] | None = None,
    facts: FactCache | None = None,
) -> DataReport:
    """Check a data set for problems; never raises for what is wrong in it.

    Every image is decoded to its end. The kinds of findings are explained on the page :doc:`/check`.

    Args:
        data: samples as the readers return them.
        classes: the class names expected; None: names are compared with one another.
        attributes: further attributes that might predict the class, beside image size, format, colours and scanner: by
            name, a callable on the sample.
        facts: where facts about the files are kept; None: the cache that all functions share.

    Returns:
        The report; print it, call its ``to_dict()``, or ``save`` it as a page with thumbnails.

    Example:
        >>> print(check([]))
        0 images, 0 of them without objects
        classes: none
        identical files: 0 surplus copies in 0 groups
        found: nothing
    """
    data = tuple(data)
    known = facts_of(data, cache=facts)
    sizes = [fact.size for fact in known]
    exact = [group for group in same_content(data, facts=known) if len(group) > 1]
    clusters = near_duplicates(data, facts=known)
    near = [
        group for group in clusters if len(group) > 1 and not any(len(group) == len(g) and group[0] in g for g in exact)
    ]
    empty = [s for s in data if s.annotation is not None and len(s.annotation) == 0]
    findings = [
        *_problems(data, known),
        *_odd_images(data, known),
        *(f for s, size in zip(data, sizes, strict=True) for f in check_boxes(s, size)),
        *check_classes(data, classes),
        *check_copies(exact, near),
        *check_balance(data),
        *check_sizes(data, sizes),
        *check_coverage(data, sizes),
        *_shortcuts(data, known, clusters, attributes or {}),
        *(Finding("without_objects", "info", (str(s.path),), "annotated as free of lesions") for s in empty),
    ]
    objects = Counter(name for s in data for name in s.object_names)
    return DataReport(
        images=len(data),
        objects=dict(sorted(objects.items())),
        without_objects=len(empty),
        problems=tuple(p for s in data for p in s.problems),
        duplicates=tuple(tuple(str(s.path) for s in group) for group in exact),
        near_duplicates=tuple(tuple(str(s.path) for s in group) for group in near),
        findings=tuple(sorted(findings, key=lambda f: LEVELS.index(f.level))),
        samples=data,
    )


def _problems(data: Sequence[Sample], facts: Sequence[Facts]) -> Iterator[Finding]:
    """Yield the readers' problems, then images that can't be decoded and were not reported by them."""
    for sample in data:
        for p in sample.problems:
            yield Finding(p.kind, "error", (p.path,), _bare(p.message, p.path, sample.path))
    for sample, known in zip(data, facts, strict=True):
        if known.thumbnail is None:
            kind = "truncated_image" if known.size is not None and "truncated" in known.error else "unreadable_image"
            broken = ("unreadable_image", "truncated_image", "several_frames", "missing_image", "odd_entry")
            told = (*broken, *(() if sample.path.exists() else ("unreadable_annotation",)))
            if not any(p.kind in told for p in sample.problems):
                yield Finding(kind, "error", (str(sample.path),), _bare(known.error, sample.path))


def _odd_images(data: Sequence[Sample], facts: Sequence[Facts]) -> Iterator[Finding]:
    """Yield images of one or two greys, and images with boxes that their EXIF orientation turns."""
    for sample, known in zip(data, facts, strict=True):
        files = (str(sample.path),)
        if known.greys:
            greys = " and ".join(map(str, known.greys))
            message = f"it shows nothing but the grey {greys}: export it again, or leave it out"
            yield Finding("blank_image", "warning", files, message)
        if known.orientation in range(2, 9) and sample.annotation:
            message = (
                f"its EXIF orientation {known.orientation} turns or mirrors the stored pixels, and the boxes are read "
                "as those of the turned image: look whether they were drawn on it, or save the image upright"
            )
            yield Finding("exif_orientation", "warning", files, message)


def _bare(message: str, *paths: str | Path) -> str:
    """Remove the folders of these files from a message: folders may name people."""
    for folder in {str(Path(path).parent) for path in paths} - {".", os.sep}:
        message = message.replace(f"{folder}{os.sep}", "").replace(folder, "its folder")
    return message


def _shortcuts(
    data: Sequence[Sample],
    facts: Sequence[Facts],
    clusters: Sequence[Sequence[Sample]],
    attributes: Mapping[str, Callable[[Sample], Hashable]],
) -> Iterator[Finding]:
    """Yield attributes that predict the class; in detection, the set of classes in the image."""
    rows = [
        (s, known, s.class_name if s.class_name is not None else ", ".join(sorted(set(s.names))) or "no object")
        for s, known in zip(data, facts, strict=True)
        if known.size is not None and (s.class_name is not None or s.annotation is not None)
    ]
    labels = [label for _, _, label in rows]
    if len(set(labels)) < 2:
        return
    by_patient = all(s.patient is not None for s, _, _ in rows)
    cluster = {id(s): number for number, group in enumerate(clusters) for s in group}
    groups = [s.patient if by_patient else cluster[id(s)] for s, _, _ in rows]
    sizes = [known.size or (1, 1) for _, known, _ in rows]
    columns: dict[str, list[Hashable]] = {
        "image size": [*sizes],
        "image size, in steps of √2": [round(float(np.log2(height * width))) for height, width in sizes],
        "file format": [known.format or s.path.suffix.lower() for s, known, _ in rows],
        "colour mode": [known.mode for _, known, _ in rows],
        "scanner": [known.scanner for _, known, _ in rows],
    }
    for name, attribute in attributes.items():
        columns[name] = [attribute(s) for s, _, _ in rows]
    for name, values in columns.items():
        result = predict_from(values, labels, groups)
        if result is not None and result.found:
            message = (
                f"{name} alone predicts the class: {result.accuracy:.0%} of {result.images} images (mean over the "
                f"classes, cross-validated by {'patient' if by_patient else 'image'}; chance {result.chance:.0%}, 99 % "
                f"of shuffles below {result.by_chance:.0%}, p = {result.p:.3f}). A model may learn that instead of the "
                "disease: take all classes from the same sources, and bring the images to one size and format"
            )
            yield Finding("shortcut", "warning", (), message)
