"""A corrected copy of a data set, and a list of what was changed in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hccvision.annotations.formats import DatasetWriter, dataset_writer
from hccvision.annotations.names import annotation_stem
from hccvision.annotations.voc import check_base
from hccvision.annotations.writing import class_list
from hccvision.contracts.samples import Sample
from hccvision.curation.box_checks import agree, duplicate_boxes
from hccvision.curation.duplicates import same_content
from hccvision.curation.facts import Facts, facts_of
from hccvision.files import new_folder, require_empty, write_table, write_text

BOX_LEFT_OUT = ("bad_box", "box_off_image", "degenerate_box", "missing_name", "unknown_category")  # kinds of problems
REPAIRABLE = ("size_mismatch",)  # kinds that leave a sample unusable until repaired


@dataclass(frozen=True)
class Change:
    """One difference between a data set and its corrected copy.

    Args:
        file: name of the image or annotation in the source.
        kind: kind of the problem, as in `check`.
        change: what was done about it.
        written: path of the image in the new folder, "" where the sample was left out.
    """

    file: str
    kind: str
    change: str
    written: str


def repair(
    data: Sequence[Sample],
    folder: str | os.PathLike[str],
    *,
    rename: Mapping[str, str] | None = None,
    format: str | DatasetWriter = "voc",
    base: str = "voc",
) -> list[Change]:
    """Write a corrected copy of a data set to a new folder; the source is not changed.

    Corrected is what needs no human: degenerate and duplicate boxes are dropped, boxes cut at the image's edge, and
    size tags corrected where all boxes fit in the image. Samples that can't be used, and all but the first of identical
    files, are left out; identical files that are annotated differently are all left out, as nobody can say which is
    right. Near copies and odd boxes stay. Images are copied byte for byte, as are annotation files that need no change
    and are in the format written. All changes are listed in ``changes.csv`` and ``changes.json``.

    Args:
        data: samples as the readers return them.
        folder: the folder to create; it appears whole or not at all. Annotated samples go to the folders of the format
            (for ``"voc"`` ``JPEGImages/`` and ``Annotations/``) and samples with a class name to a folder of that name;
            patients, if known, to ``patients.csv``.
        rename: ``{wrong class name: right one}``; other names stay as they are.
        format: annotation format to write, a name in ``ANNOTATION_FORMATS`` or a writer: ``"voc"``, ``"coco"``, ….
        base: how VOC files count pixels, the same as they were read with: ``"voc"`` or ``"corner"``.

    Returns:
        The changes, in the order of the samples.

    Raises:
        FileExistsError: if the folder holds anything, or is a file.
        ValueError: if no sample is left, or the format or the base is unknown.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in "ab":
        ...     Image.new("L", (8, 8)).save(root / f"{name}.png")
        >>> data = [Sample(root / f"{name}.png", class_name="normal") for name in "ab"]
        >>> for change in repair(data, root / "repaired"):
        ...     print(f"{change.file}: {change.change}")
        b.png: left out, the same file as a.png
    """
    require_empty(folder)
    check_base(base)
    writer = dataset_writer(format, **({} if base == "voc" else {"base": base}))
    renamed = [_renamed(sample, rename or {}) for sample in data]
    facts = facts_of(data)
    surplus = _surplus(renamed, facts)
    changes: list[Change] = []
    patients: list[tuple[str, str]] = []
    taken: set[tuple[str, str]] = set()
    annotated: list[Sample] = []
    with new_folder(folder) as draft:
        for number, (before, sample) in enumerate(zip(data, renamed, strict=True)):
            refused = surplus.get(number) or _unusable(sample, facts[number])
            if refused is not None:
                changes.append(Change(sample.path.name, refused[0], f"left out, {refused[1]}", ""))
                continue
            repaired, done = _repaired(sample, facts[number])
            if repaired is None:
                changes += [Change(file, kind, change, "") for file, kind, change in done]
                continue
            where = writer.image_folder if repaired.class_name is None else _folder_name(repaired.class_name)
            name = _free(repaired.path, where, taken)
            written = Path(where, name)
            (draft / where).mkdir(exist_ok=True)
            shutil.copyfile(repaired.path, draft / written)
            if name != repaired.path.name:
                done.append((repaired.path.name, "same_name", f"written as {name}: another image has its name"))
            if before.names != sample.names:
                pairs = {o: n for o, n in zip(before.names, sample.names, strict=True) if o != n}
                done.append(
                    (sample.path.name, "unknown_class", ", ".join(f"{o!r} renamed {n!r}" for o, n in pairs.items()))
                )
            if repaired.annotation is not None:
                annotation = repaired.annotation
                if name != repaired.path.name:
                    annotation = replace(annotation, filename=name)
                annotated.append(replace(repaired, path=draft / written, annotation=annotation))
            if repaired.patient is not None:
                patients.append((name, repaired.patient))
            changes += [Change(file, kind, change, written.as_posix()) for file, kind, change in done]
        if not taken:
            raise ValueError(f"no sample is left of {len(data)}: {'; '.join(c.change for c in changes[:3])}")
        if annotated:
            writer.write(draft, annotated, classes=class_list(annotated, None))
        if patients:
            write_table(draft / "patients.csv", [("image", "patient"), *patients])
        rows = [vars(c) for c in changes]
        write_table(draft / "changes.csv", [tuple(Change.__dataclass_fields__), *(tuple(r.values()) for r in rows)])
        text = json.dumps(rows, indent=2, ensure_ascii=False)
        write_text(draft / "changes.json", text, errors="backslashreplace")  # file names of any bytes
    return changes


def _renamed(sample: Sample, rename: Mapping[str, str]) -> Sample:
    annotation = sample.annotation
    if annotation is not None:
        annotation = replace(annotation, names=tuple(rename.get(n, n) for n in annotation.names))
    name = sample.class_name if sample.class_name is None else rename.get(sample.class_name, sample.class_name)
    return replace(sample, annotation=annotation, class_name=name)


def _surplus(data: Sequence[Sample], facts: Sequence[Facts]) -> dict[int, tuple[str, str]]:
    """Return kind and reason for each sample that is left out because of identical files."""
    number = {id(s): i for i, s in enumerate(data)}
    found: dict[int, tuple[str, str]] = {}
    for group in same_content(data, facts=facts):
        group = [s for s in group if _unusable(s) is None]
        if len({s.class_name for s in group}) > 1 or not all(agree(group[0], s) for s in group[1:]):
            names = ", ".join(s.path.name for s in group)
            reason = f"copies of one picture are annotated differently ({names}): annotate it again"
            found |= {number[id(s)]: ("contradicting_copies", reason) for s in group}
        else:
            reason = f"the same file as {group[0].path.name}" if group else ""
            found |= {number[id(s)]: ("identical_images", reason) for s in group[1:]}
    return found


def _unusable(sample: Sample, facts: Facts | None = None) -> tuple[str, str] | None:
    """Return kind and reason if a sample can't be repaired, also by the facts about its image if they are given."""
    for problem in sample.problems:
        if not problem.usable and problem.kind not in REPAIRABLE:
            return problem.kind, problem.message
    if sample.annotation is None and sample.class_name is None:
        return "missing_annotation", "neither a class nor an annotation"
    if facts is not None and facts.thumbnail is None:
        return "truncated_image" if "truncated" in facts.error else "unreadable_image", facts.error
    return None


def _repaired(sample: Sample, facts: Facts) -> tuple[Sample | None, list[tuple[str, str, str]]]:
    """Return the corrected sample, None where that is impossible, and file, kind and change of each step."""
    annotation = sample.annotation
    if annotation is None:
        return sample, []
    file = annotation.path.name if annotation.path is not None else sample.path.name
    done = [(file, p.kind, "box left out") for p in annotation.problems if p.kind in BOX_LEFT_OUT]
    assert facts.size is not None
    height, width = size = facts.size
    boxes = np.clip(annotation.boxes, 0, np.array([width, height, width, height], np.float32))
    moved = (boxes != annotation.boxes).any(axis=1)
    if annotation.size != size:
        stated = "nothing" if annotation.size is None else "×".join(map(str, annotation.size[::-1]))
        if annotation.size is not None and moved.any():
            message = f"left out: states {stated}, is {width}×{height}, and boxes do not fit: annotate this image"
            return None, [*done, (file, "size_mismatch", message)]
        done.append((file, "size_mismatch", f"size corrected from {stated} to {width}×{height}"))
    done += [(file, "box_outside", f"box {i + 1} cut at the image's edge") for i in np.flatnonzero(moved)]
    drop = {int(i) for i in np.flatnonzero(~(boxes[:, 2:] > boxes[:, :2]).all(axis=1))}
    done += [(file, "box_outside", f"box {i + 1} left out, no part of it is inside") for i in sorted(drop)]
    again = {j: i for i, j in reversed(duplicate_boxes(sample))}
    done += [
        (file, "duplicate_box", f"box {j + 1} left out, the same as box {i + 1}") for j, i in sorted(again.items())
    ]
    keep = [i for i in range(len(annotation)) if i not in drop and i not in again]
    return replace(sample, annotation=replace(annotation.keep(keep), boxes=boxes[keep], size=size)), done


def _folder_name(class_name: str) -> str:
    """Return a class name as the name of one folder."""
    name = class_name.replace("/", "_").replace("\\", "_")
    return f"_{name}" if name.startswith(".") or not name else name


def _free(path: Path, where: str, taken: set[tuple[str, str]]) -> str:
    """Return a file name whose stem no other image of the folder has: annotation files are matched by stem."""
    first = annotation_stem(path)
    ending = path.name[len(first) :]
    name, number = first, 1
    while (where, name) in taken:
        number += 1
        name = f"{first}_{number}"
    taken.add((where, name))
    return f"{name}{ending}"
