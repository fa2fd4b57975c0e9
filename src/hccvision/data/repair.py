"""A mended copy of a data set, and a list of what was changed in it."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hccvision import images
from hccvision.annotations import voc
from hccvision.annotations.names import annotation_stem as _stem
from hccvision.contracts import Annotation, Sample
from hccvision.data.duplicates import same_content, thumbnail
from hccvision.data.linter import agree, doubled


@dataclass(frozen=True)
class Change:
    """One difference between a data set and its mended copy.

    Args:
        file: name of the image or annotation, in the source.
        kind: of what was wrong, as in `check`.
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
    base: str = "voc",
) -> list[Change]:
    """Write a new folder without what can be mended without a human; the source is not touched.

    Images are copied byte for byte, and annotations that need no change too. Degenerate and doubled boxes are dropped,
    boxes cut at the image's edge, and size tags corrected where all boxes fit in the image. Samples that can't be used,
    and all but the first of identical files, are left out; of identical files annotated differently all are, as nobody
    can say which is right. Near copies and odd boxes stay. All of it is listed in ``changes.csv`` and ``changes.json``.

    Args:
        data: samples, as the readers give them.
        folder: to make; all of it is written or nothing. Samples with annotations go to ``JPEGImages/`` and
            ``Annotations/`` (and their patients to ``patients.csv``), those with a class name to a folder of that name.
        rename: ``{wrong class name: right one}``; other names stay as they are.
        base: how the annotations count pixels, as they were read: ``"voc"`` or ``"corner"``.

    Returns:
        The changes, in the order of the samples.

    Raises:
        FileExistsError: if the folder holds anything, or is a file.
        ValueError: if nothing is left, or the base is unknown.

    Example:
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in "ab":
        ...     Image.new("L", (8, 8)).save(root / f"{name}.png")
        >>> data = [Sample(root / f"{name}.png", class_name="normal") for name in "ab"]
        >>> for change in repair(data, root / "mended"):
        ...     print(f"{change.file}: {change.change}")
        b.png: left out, the same file as a.png
    """
    target = Path(folder)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise FileExistsError(f"{target}: expected a new or empty folder: choose another, or delete this one first")
    if base not in ("voc", "corner"):
        raise ValueError(f"unknown base {base!r}; known: 'voc', 'corner'")
    renamed = [_renamed(sample, rename or {}) for sample in data]
    surplus = _surplus(renamed)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        draft = Path(scratch, target.name)
        draft.mkdir()
        changes: list[Change] = []
        patients: list[tuple[str, str]] = []
        taken: set[tuple[str, str]] = set()
        for number, (before, sample) in enumerate(zip(data, renamed, strict=True)):
            refused = surplus.get(number) or _unusable(sample)
            if refused is not None:
                changes.append(Change(sample.path.name, refused[0], f"left out, {refused[1]}", ""))
                continue
            mended, done = _mended(sample)
            if mended is None:
                changes += [Change(file, kind, change, "") for file, kind, change in done]
                continue
            where = "JPEGImages" if mended.class_name is None else _folder_name(mended.class_name)
            name = _free(mended.path, where, taken)
            written = Path(where, name)
            (draft / where).mkdir(exist_ok=True)
            shutil.copyfile(mended.path, draft / written)
            if name != mended.path.name:
                done.append((mended.path.name, "same_name", f"written as {name}: another image has its name"))
            if before.names != sample.names:
                pairs = {o: n for o, n in zip(before.names, sample.names, strict=True) if o != n}
                done.append(
                    (sample.path.name, "unknown_class", ", ".join(f"{o!r} renamed {n!r}" for o, n in pairs.items()))
                )
            if mended.annotation is not None:
                _write_annotation(mended, draft, written, base, changed=bool(done))
            if mended.patient is not None:
                patients.append((name, mended.patient))
            changes += [Change(file, kind, change, written.as_posix()) for file, kind, change in done]
        if not taken:
            raise ValueError(f"no sample is left of {len(data)}: {'; '.join(c.change for c in changes[:3])}")
        if patients:
            _write_table(draft / "patients.csv", [("image", "patient"), *patients])
        rows = [vars(c) for c in changes]
        _write_table(draft / "changes.csv", [tuple(Change.__dataclass_fields__), *(tuple(r.values()) for r in rows)])
        (draft / "changes.json").write_text(json.dumps(rows, indent=2, ensure_ascii=False), encoding="utf-8")
        if target.is_dir():
            target.rmdir()
        draft.rename(target)
    return changes


def _renamed(sample: Sample, rename: Mapping[str, str]) -> Sample:
    annotation = sample.annotation
    if annotation is not None:
        annotation = replace(annotation, names=tuple(rename.get(n, n) for n in annotation.names))
    name = sample.class_name if sample.class_name is None else rename.get(sample.class_name, sample.class_name)
    return replace(sample, annotation=annotation, class_name=name)


def _surplus(data: Sequence[Sample]) -> dict[int, tuple[str, str]]:
    """Kind and reason for each sample that is left out because of its identical files."""
    number = {id(s): i for i, s in enumerate(data)}
    found: dict[int, tuple[str, str]] = {}
    for group in same_content(data):
        group = [s for s in group if _unusable(s, decode=False) is None]
        if len({s.class_name for s in group}) > 1 or not all(agree(group[0], s) for s in group[1:]):
            names = ", ".join(s.path.name for s in group)
            reason = f"copies of one picture are annotated differently ({names}): annotate it anew"
            found |= {number[id(s)]: ("contradicting_copies", reason) for s in group}
        else:
            reason = f"the same file as {group[0].path.name}" if group else ""
            found |= {number[id(s)]: ("identical_images", reason) for s in group[1:]}
    return found


def _unusable(sample: Sample, decode: bool = True) -> tuple[str, str] | None:
    """Kind and reason if there is no mending a sample; a wrong size tag may be mended."""
    for problem in sample.problems:
        if not problem.usable and problem.kind != "size_mismatch":
            return problem.kind, problem.message
    if sample.annotation is None and sample.class_name is None:
        return "missing_annotation", "neither a class nor an annotation"
    if decode:
        try:
            thumbnail(sample.path)
        except (OSError, ValueError, ImportError) as error:
            return "truncated_image", str(error).removeprefix(f"{sample.path}: ")
    return None


def _mended(sample: Sample) -> tuple[Sample | None, list[tuple[str, str, str]]]:
    """The sample as it should be, None where it can't, and file, kind and change of each step."""
    annotation = sample.annotation
    if annotation is None:
        return sample, []
    file = annotation.path.name if annotation.path is not None else sample.path.name
    done = [(file, p.kind, "box left out") for p in annotation.problems if "left out" in p.message]
    height, width = size = images.image_size(sample.path)
    boxes = np.clip(annotation.boxes, 0, np.array([width, height, width, height], np.float32))
    moved = (boxes != annotation.boxes).any(axis=1)
    if annotation.size != size:
        stated = "nothing" if annotation.size is None else "×".join(map(str, annotation.size[::-1]))
        if annotation.size is not None and moved.any():
            message = f"left out: states {stated}, is {width}×{height}, and boxes do not fit in: annotate this image"
            return None, [*done, (file, "size_mismatch", message)]
        done.append((file, "size_mismatch", f"size corrected from {stated} to {width}×{height}"))
    done += [(file, "box_outside", f"box {i + 1} cut at the image's edge") for i in np.flatnonzero(moved)]
    drop = {int(i) for i in np.flatnonzero(~(boxes[:, 2:] > boxes[:, :2]).all(axis=1))}
    done += [(file, "box_outside", f"box {i + 1} left out, no part of it is inside") for i in sorted(drop)]
    again = {j: i for i, j in reversed(doubled(sample))}
    done += [
        (file, "duplicate_box", f"box {j + 1} left out, the same as box {i + 1}") for j, i in sorted(again.items())
    ]
    keep = [i for i in range(len(annotation)) if i not in drop and i not in again]
    return replace(sample, annotation=replace(annotation.keep(keep), boxes=boxes[keep], size=size)), done


def _write_annotation(sample: Sample, draft: Path, written: Path, base: str, changed: bool) -> None:
    annotation = sample.annotation
    assert annotation is not None
    (draft / "Annotations").mkdir(exist_ok=True)
    stem = _stem(written)
    path = draft / "Annotations" / f"{stem}.xml"
    if annotation.path is not None and not changed:
        shutil.copyfile(annotation.path, path)
    else:
        whole = bool((annotation.boxes == np.rint(annotation.boxes)).all())
        clean: Annotation = replace(annotation, filename=written.name)
        voc.write(path, clean, base=base, image_path=written, whole_pixels=whole)


def _folder_name(class_name: str) -> str:
    """A class name as the name of one folder."""
    name = class_name.replace("/", "_").replace("\\", "_")
    return f"_{name}" if name.startswith(".") or not name else name


def _free(path: Path, where: str, taken: set[tuple[str, str]]) -> str:
    """A name whose stem no other image of the folder has: an XML belongs to a stem."""
    stem = _stem(path)
    ending = path.name[len(stem) :]
    name, number = stem, 1
    while (where, name) in taken:
        number += 1
        name = f"{stem}_{number}"
    taken.add((where, name))
    return f"{name}{ending}"


def _write_table(path: Path, rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")
