"""Samples of the images that annotation files list, in any layout of their folders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from hccvision.annotations.finding import Finder
from hccvision.annotations.judging import StatedBox, format_size, judge_boxes, judge_image
from hccvision.annotations.left_out import (
    check_unannotated,
    left_aside,
    say_left_out,
    unannotated_sample,
    unread_images,
)
from hccvision.annotations.paths import file_within
from hccvision.annotations.patients import PatientOf, PatientRule, find_patient, patient_rule
from hccvision.annotations.tree import list_files, scan
from hccvision.contracts.samples import Problem, Sample

_TOLD = frozenset(["ambiguous_image", "duplicate_annotation", "duplicate_image", "missing_image"])
_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")  # that Label Studio puts before the names of uploaded files


class ListedImage(NamedTuple):
    """An image as an annotation file lists it.

    Args:
        label: how messages call its entry, such as ``"task 3"``.
        path: of the image as the file states it.
        size: ``(height, width)`` as the file states it; None if it doesn't.
        boxes: that the file states; or, where it states shares of the sides, a callable on the size of the image.
        unread: what it states beside them and can't be read as boxes, one message each.
        unknown: what it states of categories without a name, one message each.
        problems: of the entry, kind and message each; they make the sample unusable.
        is_annotated: whether the file says what the image shows; an image without boxes then shows no lesion.
        class_name: of the whole image, which is read from files that hold no boxes alone.
    """

    label: str
    path: str
    size: tuple[int, int] | None = None
    boxes: Sequence[StatedBox] | Callable[[tuple[int, int] | None], Sequence[StatedBox]] = ()
    unread: Sequence[str] = ()
    unknown: Sequence[str] = ()
    problems: Sequence[tuple[str, str]] = ()
    is_annotated: bool = True
    class_name: str | None = None


def read_listed(
    path: Path,
    files: Sequence[Path],
    parse: Callable[[Path], Iterable[ListedImage]],
    *,
    patient: PatientRule | None = None,
    unannotated: str | None = "problem",
    images: Path | None = None,
    elsewhere: Callable[[], Collection[str]] = tuple,
) -> list[Sample]:
    """Read annotation files and find the images that they list, by the last parts of their paths.

    Args:
        path: the folder of the data set with its subfolders; or the one file, whose folder is searched for images.
        files: the annotation files.
        parse: returns the images that a file lists; raises ValueError or OSError if the file can't be read.
        patient: how to find an image's patient, as in `read_voc_folder`.
        unannotated: what an image is that no file lists, or that is listed as not annotated: a ``"problem"``,
            ``"normal"`` (examined, no lesion), or left out (``"skip"``); None: left aside, a problem.
        images: folder of the images; None: the folder of the data set.
        elsewhere: returns names of images that other files list; they are left out, and printed.

    Returns:
        Samples in the order of the files, then one for each image that none lists and for each file left aside.

    Raises:
        ValueError: if there are no files.
    """
    if unannotated is not None:
        check_unannotated(unannotated)
    root = images or (path if path.is_dir() else path.parent)
    tree, rule = scan(root), patient_rule(patient)
    find = Finder(root, tree.images)
    samples, listed = [], []
    for file in files:
        try:
            listed.append((file, list(parse(file))))
        except (ValueError, OSError) as error:
            message = str(error).removeprefix(f"{file}: ")
            samples.append(Sample(file, problems=(Problem("unreadable_annotation", str(file), message, False),)))
    is_problem = unannotated == "problem" or bool(samples)  # a file that can't be read may list any image
    has_boxes = any(entry.boxes or entry.unread for _, entries in listed for entry in entries)
    taken: set[Path] = set()  # images that a file lists, or may
    bare: list[Path] = []
    for file, entries in listed:
        for entry in entries:
            found = find_image(find, entry.path, file) or (find.by_stem(file) if len(entries) == 1 else [])
            if len(found) == 1 and not entry.is_annotated and not entry.problems:
                bare += found
                continue
            taken.update(found)
            samples.append(listed_sample(file, entry, found, root, rule, has_boxes))
    samples = _with_duplicates(samples)
    bare = [p for p in dict.fromkeys([*bare, *tree.images]) if p not in taken]
    names = set(elsewhere()) if bare else set()
    say_left_out([p for p in bare if p.name in names], "images that other annotation files list")
    bare = [p for p in bare if p.name not in names]
    if unannotated is None:
        samples += unread_images(bare, f"{', '.join(p.name for p in files)[:200]} does not list it; add it")
    elif unannotated == "skip":
        say_left_out(bare, 'images without annotation (unannotated="skip")')
    else:
        samples += [unannotated_sample(p, rule, is_problem, "annotation") for p in bare]
    return samples + (left_aside(tree, files) if path.is_dir() else [])


def files_like(path: Path, suffix: str, is_like: Callable[[Path], bool], most: int | None = None) -> Iterator[Path]:
    """Yield the annotation files of a format.

    Args:
        path: a folder, or one file.
        suffix: of the files, in lower case.
        is_like: whether a file looks like one of the format.
        most: how many files are looked at, those nearest to the folder first; None: all.

    Yields:
        The files.
    """
    files = [path] if path.is_file() else list_files(path)[0] if path.is_dir() else []
    found = [p for p in files if p.suffix.lower() == suffix]
    if most is not None:
        found = sorted(found, key=lambda p: len(p.parts))[:most]
    return (p for p in found if is_like(p))


def has_file_like(path: Path, suffix: str, is_like: Callable[[Path], bool]) -> bool:
    """Return whether a folder holds a file of a format among the 100 nearest of its suffix, or a file is one.

    Args:
        path: a folder, or one file.
        suffix: of the files, in lower case.
        is_like: whether a file looks like one of the format.

    Returns:
        Whether there is one.
    """
    return any(True for _ in files_like(path, suffix, is_like, 100))


def find_image(find: Finder, stated: str, file: Path) -> list[Path]:
    """Return the images that a stated path may be of, by its last parts.

    Args:
        find: the images of the folder; no other is ever looked for.
        stated: the path, also of another computer, or a URL.
        file: that states it.

    Returns:
        The images.
    """
    exact = file_within(find.root, stated)
    if exact is not None and exact.is_file():
        return [exact]
    parts = [part for part in re.split(r"[\\/]+", stated) if part not in ("", ".", "..")]
    if not parts:
        return []
    return find.by_path("/".join(parts), file) or find.by_path(_UPLOAD.sub("", parts[-1]), file)


def listed_sample(
    file: Path, entry: ListedImage, images: Sequence[Path], root: Path, rule: PatientOf | None, has_boxes: bool = True
) -> Sample:
    """Return the sample of an image that a file lists.

    Args:
        file: the annotation file.
        entry: the image as the file lists it.
        images: the images that it may be.
        root: the folder of the data set.
        rule: that finds an image's patient.
        has_boxes: whether the data set is one of boxes, in which classes of whole images are not read.

    Returns:
        The sample.
    """
    problems = [Problem(kind, str(file), f"{entry.label}: {message}", False) for kind, message in entry.problems]
    name = re.split(r"[\\/]", entry.path)[-1]
    path = images[0] if images else file_within(root, name) or root / entry.label
    size, owner = None, None
    if len(images) > 1:
        found = ", ".join(p.relative_to(root).as_posix() for p in images)
        message = f"{entry.label}: its image {entry.path!r:.200} may be any of {found}: keep one, or state its folder"
        problems.append(Problem("ambiguous_image", str(file), message, False))
    elif images:
        size, more = judge_image(path)
        owner, unknown = find_patient(rule, path)
        problems += [*more, *unknown]
    elif not problems:
        message = f"{entry.label}: its image {entry.path!r:.200} is not in {root}: put it there, or remove the entry"
        problems.append(Problem("missing_image", str(file), message, False))
    if size is not None and entry.size is not None and size != entry.size:
        stated = f"says {path.name} is {format_size(entry.size)} pixels, but it is {format_size(size)}"
        problems.append(Problem("size_mismatch", str(file), f"{entry.label} {stated}: annotate this version", False))
    if entry.class_name is not None and not has_boxes:
        return Sample(path, owner, class_name=entry.class_name, problems=tuple(problems))
    unread = [Problem("unread_object", str(file), f"{entry.label}: {message}") for message in entry.unread]
    unread += [Problem("unknown_category", str(file), message) for message in entry.unknown]
    if entry.class_name is not None:
        message = f"{entry.label} is of the class {entry.class_name!r:.200} as a whole; left out: draw a box"
        unread.append(Problem("unread_object", str(file), message))
    boxes = entry.boxes(entry.size or size) if callable(entry.boxes) else entry.boxes
    annotation = judge_boxes(boxes, entry.size or size, path=file, filename=name, problems=unread)
    return Sample(path, owner, annotation=annotation, problems=(*annotation.problems, *problems))


def _with_duplicates(samples: Collection[Sample]) -> list[Sample]:
    """Return the samples, those of one image with a problem each."""
    counts = Counter(s.path for s in samples)
    message = "is annotated more than once: keep one annotation"
    return [
        replace(s, problems=(*s.problems, Problem("duplicate_annotation", str(s.path), message, False)))
        if counts[s.path] > 1 and not any(p.kind in _TOLD for p in s.problems)
        else s
        for s in samples
    ]
