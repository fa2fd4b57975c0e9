"""Read folders into samples. Readers are lenient: what is wrong with a file is kept in ``Sample.problems``."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hccvision import images, masks, voc
from hccvision.contracts import Annotation, Problem, Sample
from hccvision.data.sources import copied_from

SNAP = 0.02  # pixels that rounding in a file may carry a box beyond the edge: COCO's two decimals, YOLO's six
PatientRule = str | Callable[[Path], str | None] | Mapping[str, str] | Path


def read_voc_folder(
    folder: str | os.PathLike[str],
    *,
    subset: str | None = None,
    patient: PatientRule | None = None,
    base: str = "voc",
    unannotated: str = "problem",
) -> list[Sample]:
    r"""Read a folder of LabelImg annotations: ``Annotations/`` and ``JPEGImages/``, or XML and images side by side.

    Args:
        folder: of the data set.
        subset: name of an image list, ``ImageSets/Main/<subset>.txt``, one file stem a line; None: everything.
        patient: whose slice an image is: a regular expression on the file name (its first group, or all of it), a
            callable on the path, a table ``{file name: patient}``, or the path of a CSV file with a column
            ``patient`` and one ``image``, ``file`` or ``path``. None: not known.
        base: how the files count pixels: ``"voc"`` or ``"corner"``, see `voc.read`.
        unannotated: an image without XML is a ``"problem"``, or ``"normal"``: looked at, no lesion, or ``"skip"``.

    Returns:
        Samples in the order of the list, or of the file names.

    Raises:
        FileNotFoundError: if there is no such folder or list.
        ValueError: if there are no annotations and no images in it.

    Example:
        >>> import tempfile
        >>> from hccvision import phantom
        >>> root = phantom.write_dataset(tempfile.mkdtemp() + "/liver", patients=2, slices=1, seed=0)
        >>> [s.patient for s in read_voc_folder(root, patient=r"^(P\d+)_")]
        ['P001', 'P002']
    """
    if unannotated not in ("problem", "normal", "skip"):
        raise ValueError(f"unknown unannotated={unannotated!r}; known: 'problem', 'normal', 'skip'")
    if base not in ("voc", "corner"):
        raise ValueError(f"unknown base {base!r}; known: 'voc', 'corner'")
    root = _existing_folder(folder)
    annotations = root / "Annotations" if (root / "Annotations").is_dir() else root
    pictures = next((root / d for d in ("JPEGImages", "images") if (root / d).is_dir()), root)
    files = {p.name: p for p in sorted(pictures.iterdir()) if p.is_file() and images.is_image(p)}
    by_stem: dict[str, list[Path]] = {}
    for p in files.values():
        by_stem.setdefault(_stem(p), []).append(p)
    xmls = {p.stem: p for p in sorted(annotations.glob("*.xml")) if not p.name.startswith(".")}
    known = {*xmls, *by_stem}
    stems = sorted(known) if subset is None else _read_list(root, subset, known)
    if not stems:
        raise ValueError(
            f"{root}: no annotations and no images found; expected LabelImg's XML files beside their images, or the "
            "folders Annotations/ and JPEGImages/"
        )
    who = _patient_rule(patient)
    annotated = {
        stem: _annotated(xmls[stem], files, by_stem.get(stem, []), pictures, who, base)
        for stem in stems
        if stem in xmls
    }
    taken = {s.path for s in annotated.values()}
    samples = []
    for stem in stems:
        if stem in annotated:
            samples.append(annotated[stem])
        elif stem not in by_stem:
            message = (
                f"the list {subset!r} names it, but there is neither an image nor an XML of that name: mend the list"
            )
            samples.append(Sample(pictures / stem, problems=(Problem("missing_image", stem, message, False),)))
        elif unannotated != "skip":
            samples += [_unannotated(p, who, unannotated == "problem") for p in by_stem[stem] if p not in taken]
    return [replace(s, source_id=copied_from(s.path)) for s in samples]


def read_image_folder(
    folder: str | os.PathLike[str],
    classes: Mapping[str, str] | None = None,
    *,
    patient: PatientRule | None = None,
) -> list[Sample]:
    """Read folders of images, one folder a class.

    Args:
        folder: that holds the class folders.
        classes: ``{class name: folder name}``; None: every folder is the class of its own name.
        patient: whose slice an image is, as in `read_voc_folder`.

    Returns:
        Samples, class by class in the order given, by file name.

    Raises:
        FileNotFoundError: if there is no such folder, or one of a class is missing.
        ValueError: if there are no images in one of them.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("no", "yes"):
        ...     (root / name).mkdir()
        ...     Image.new("L", (8, 8)).save(root / name / "a.png")
        >>> [s.class_name for s in read_image_folder(root, {"normal": "no", "cancer": "yes"})]
        ['normal', 'cancer']
    """
    root = _existing_folder(folder)
    if classes is None:
        classes = {d.name: d.name for d in sorted(root.iterdir()) if d.is_dir() and not d.name.startswith(".")}
        if not classes:
            raise ValueError(f"{root}: no class folders in it; expected one folder of images per class")
    who = _patient_rule(patient)
    samples = []
    for name, where in classes.items():
        place = root / where
        if not place.is_dir():
            there = ", ".join(sorted(d.name for d in root.iterdir() if d.is_dir())) or "none"
            raise FileNotFoundError(
                f"{place}: no such folder for the class {name!r}; the folders in {root} are: {there}"
            )
        found = [p for p in sorted(place.iterdir()) if p.is_file() and images.is_image(p)]
        if not found:
            raise ValueError(f"{place}: no images in the folder of the class {name!r}")
        for path in found:
            _, problems = _image_size(path)
            owner, more = _whose(who, path)
            source = copied_from(path)
            source = None if source is None else f"{place.name}/{source}"
            samples.append(Sample(path, owner, class_name=name, problems=(*problems, *more), source_id=source))
    return samples


def read_mask_folder(
    folder: str | os.PathLike[str],
    mask_folder: str | os.PathLike[str],
    *,
    labels: Mapping[int, str] | None = None,
    min_area: int = 1,
    connectivity: int = 8,
    patient: PatientRule | None = None,
) -> list[Sample]:
    """Read a folder of images with the folder of their masks, each of its image's name but for the suffix.

    Args:
        folder: of the images.
        mask_folder: of the masks, another folder; PNG or another lossless kind, or NIfTI of one slice.
        labels: ``{value: class name}``, see `masks.boxes`.
        min_area: pixels that a component needs.
        connectivity: 8 or 4.
        patient: whose slice an image is, as in `read_voc_folder`.

    Returns:
        Samples by file name. A mask without objects is an image without lesions; an image without mask, a mask without
        image, one that can't be read and one of another size are problems.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if both folders are the same, or there are no images and no masks.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name, pixels in (("images", np.zeros((8, 8))), ("masks", np.eye(8))):
        ...     (root / name).mkdir()
        ...     Image.fromarray(pixels.astype(np.uint8)).save(root / name / "P1_01.png")
        >>> (sample,) = read_mask_folder(root / "images", root / "masks", labels={1: "tumor"})
        >>> sample.annotation.names, sample.annotation.boxes.tolist()
        (('tumor',), [[0.0, 0.0, 8.0, 8.0]])
    """
    root, mask_root = _existing_folder(folder), _existing_folder(mask_folder)
    if root.resolve() == mask_root.resolve():
        raise ValueError(f"{root}: images and masks need folders of their own: move the masks to another one")
    found: list[dict[str, list[Path]]] = []
    for place in (root, mask_root):
        by_stem: dict[str, list[Path]] = {}
        for p in sorted(place.iterdir()):
            if p.is_file() and images.is_image(p):
                by_stem.setdefault(_stem(p), []).append(p)
        found.append(by_stem)
    pictures, drawn = found
    if not pictures and not drawn:
        raise ValueError(f"{root}: no images found, and no masks in {mask_root}")
    who = _patient_rule(patient)
    samples = []
    for stem in sorted({*pictures, *drawn}):
        here, there = pictures.get(stem, []), drawn.get(stem, [])
        path = here[0] if here else root / stem
        owner, problems = _whose(who, path)
        annotation = None
        if len(here) > 1 or len(there) > 1:
            names = ", ".join(p.name for p in (*here, *there))
            message = f"expected one image and one mask of this name, got {names}: keep one of each"
            problems = (*problems, Problem("ambiguous_image", str(path), message, False))
        elif not here:
            message = f"the image of this mask is not in {root}: put it there, or delete the mask"
            problems = (*problems, Problem("missing_image", str(there[0]), message, False))
        elif not there:
            message = f"there is no mask of this image in {mask_root}: draw it (empty, if it has no lesion)"
            problems = (*problems, Problem("missing_annotation", str(path), message, False))
        else:
            size, more = _image_size(path)
            problems = (*problems, *more)
            try:
                mask = masks.read(there[0])
                annotation = masks.boxes(mask, labels=labels, min_area=min_area, connectivity=connectivity)
                annotation = replace(annotation, filename=path.name, path=there[0])
            except (ValueError, OSError) as error:
                message = str(error).removeprefix(f"{there[0]}: ")
                problems = (*problems, Problem("unreadable_annotation", str(there[0]), message, False))
            if annotation is not None and size is not None and annotation.size != size:
                message = f"the mask is of another size than {path.name}: {_sides(annotation.size)} and {_sides(size)}"
                problems = (*problems, Problem("size_mismatch", str(there[0]), message, False))
        samples.append(Sample(path, owner, annotation=annotation, problems=problems))
    return samples


def _existing_folder(folder: str | os.PathLike[str]) -> Path:
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    return root


def _stem(path: Path) -> str:
    return path.name[: -len(".nii.gz")] if path.name.lower().endswith(".nii.gz") else path.stem


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8 ({error}): save it again as UTF-8") from error


def _read_list(root: Path, subset: str, known: Set[str]) -> list[str]:
    path = root / "ImageSets" / "Main" / f"{subset}.txt"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
        raise FileNotFoundError(f"{path}: no such image list; lists there: {there}")
    lines = [line.strip() for line in _read_text(path).splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path}: there is no name in this image list")
    # VOC's lists of one class say after each name whether the class is there: 1, 0 or -1.
    names = (line if line in known else re.sub(r"\s+(-1|0|1)$", "", line) for line in lines)
    return list(dict.fromkeys(names))


def _unannotated(image: Path, who: Callable[[Path], str | None] | None, problem: bool) -> Sample:
    size, problems = _image_size(image)
    owner, more = _whose(who, image)
    if problem:
        message = 'no XML for this image: annotate it, or read the folder with unannotated="normal" if it has no lesion'
        more = (*more, Problem("missing_annotation", str(image), message, False))
        return Sample(image, owner, problems=(*problems, *more))
    empty = Annotation(np.zeros((0, 4), np.float32), (), size=size, filename=image.name)
    return Sample(image, owner, annotation=empty, problems=(*problems, *more))


def _annotated(
    xml: Path,
    files: Mapping[str, Path],
    beside: Sequence[Path],
    pictures: Path,
    who: Callable[[Path], str | None] | None,
    base: str,
) -> Sample:
    try:
        annotation = voc.read(xml, base=base)
    except ValueError as error:
        image = beside[0] if beside else xml.with_suffix(".png")
        message = str(error).removeprefix(f"{xml}: ")
        return Sample(image, problems=(Problem("unreadable_annotation", str(xml), message, False),))
    name = annotation.filename.replace("\\", "/").rsplit("/", 1)[-1]
    if ".." in annotation.filename.replace("\\", "/").split("/"):
        message = f"its <filename> {annotation.filename!r} leads out of the folder: name the image alone"
        problem = Problem("unsafe_path", str(xml), message, False)
        path = beside[0] if beside else pictures / xml.stem
        return Sample(path, annotation=annotation, problems=(*annotation.problems, problem))
    named = [files[name]] if name in files else []
    choice = named if named and named[0] in beside else [*beside, *named]
    if len(choice) != 1:
        if choice:
            kind, found = "ambiguous_image", ", ".join(p.name for p in choice)
            message = f"it may be for any of {found}: correct its <filename>, or keep one image of its own name"
        else:
            kind = "missing_image"
            message = f"its image {name or xml.stem!r} is not in {pictures}: put it there, or delete the XML"
        path = choice[0] if choice else pictures / (name or xml.stem)
        problem = Problem(kind, str(xml), message, False)
        return Sample(path, annotation=annotation, problems=(*annotation.problems, problem))
    path = choice[0]
    size, problems = _image_size(path)
    owner, more = _whose(who, path)
    if size is not None and annotation.size is not None and size != annotation.size:
        message = (
            f"says the image is {annotation.size[1]}×{annotation.size[0]} pixels, but {path.name} is "
            f"{size[1]}×{size[0]}: the boxes may be for another version of the image; annotate this one"
        )
        more = (*more, Problem("size_mismatch", str(xml), message, False))
    return Sample(path, owner, annotation=annotation, problems=(*annotation.problems, *problems, *more))


def _image_size(path: Path) -> tuple[tuple[int, int] | None, tuple[Problem, ...]]:
    try:
        return images.image_size(path), ()
    except (ValueError, OSError) as error:
        message = str(error).removeprefix(f"{path}: ")
        return None, (Problem("unreadable_image", str(path), message, False),)


def _whose(who: Callable[[Path], str | None] | None, path: Path) -> tuple[str | None, tuple[Problem, ...]]:
    if who is None:
        return None, ()
    owner = who(path)
    if owner is None or owner == "":
        message = "the patient rule finds no patient for this file: correct the rule or the file name"
        return None, (Problem("no_patient", str(path), message),)
    return str(owner), ()


def _patient_rule(rule: PatientRule | None) -> Callable[[Path], str | None] | None:
    if rule is None or (callable(rule) and not isinstance(rule, (str, Path))):
        return rule
    if isinstance(rule, Path) or (isinstance(rule, str) and rule.lower().endswith(".csv")):
        rule = _patient_table(Path(rule))
    if isinstance(rule, Mapping):
        table = rule
        return lambda path: table.get(path.name, table.get(_stem(path)))
    pattern = re.compile(str(rule))

    def search(path: Path) -> str | None:
        hit = pattern.search(path.name)
        return None if hit is None else hit[1] if pattern.groups else hit[0]

    return search


def _patient_table(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table of patients")
    rows = list(csv.DictReader(io.StringIO(_read_text(path))))
    columns = list(rows[0]) if rows else []
    image = next((c for c in ("image", "file", "path") if c in columns), None)
    if image is None or "patient" not in columns:
        raise ValueError(
            f"{path}: a table of patients has a column 'patient' and one of 'image', 'file', 'path'; "
            f"this one has: {', '.join(columns) or 'no rows'}"
        )
    table: dict[str, str] = {}
    for row in rows:
        name, patient = Path(row[image] or "").name, row["patient"] or ""
        if table.setdefault(name, patient) != patient:
            raise ValueError(
                f"{path}: two files are named {name!r}, of the patients {table[name]!r} and {patient!r}: rename one, "
                "or give patient= a callable on the path"
            )
    return table


def _sides(size: tuple[int, int] | None) -> str:
    return "unknown" if size is None else f"{size[1]}×{size[0]}"


def _within(folder: Path, name: str) -> Path | None:
    """Give the file of that relative name, None if the name leads out of the folder or can't be one."""
    parts = name.replace("\\", "/").split("/")
    if not name.strip() or "\0" in name or ".." in parts or parts[0] == "" or re.match("[A-Za-z]:", parts[0]):
        return None
    if any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in parts) or len(name) > 2000:
        return None
    return folder.joinpath(*parts)


def _judged(
    items: Iterable[tuple[str, str, Sequence[float], str, bool]],
    size: tuple[int, int] | None,
    **fields: Any,
) -> Annotation:
    """Turn boxes that a file states into an annotation, with what is wrong with them as its problems.

    Args:
        items: what to call the object, its class name, its x1, y1, x2, y2 in pixels (NaN where they are no numbers),
            the box in the file's words, and whether it is difficult.
        size: ``(height, width)`` of the image.
        **fields: of the annotation; ``problems`` are those there were before.
    """
    height, width = size or (np.inf, np.inf)
    kept, problems = [], list(fields.pop("problems", ()))
    for what, name, corners, stated, difficult in items:
        box = np.array(corners, np.float64)

        def found(kind: str, message: str, what: str = what, name: str = name) -> None:
            problems.append(Problem(kind, str(fields["path"]), f"{what} ({name!r}) {message}"))

        if not (np.abs(box) <= np.finfo(np.float32).max).all():
            found("bad_box", f"needs four finite numbers, got {stated}; left out: redraw it")
            continue
        edges = np.array([width, height, width, height])
        box = np.where((box < 0) & (box >= -SNAP), 0, np.where((box > edges) & (box <= edges + SNAP), edges, box))
        box = box.astype(np.float32)
        if (box[2:] <= box[:2]).any():
            found("degenerate_box", f"needs a width and a height above 0, got {stated}; left out: redraw or delete it")
            continue
        if (box < 0).any() or (box > edges).any():
            gone = (box[2:] <= 0).any() or (box[:2] >= (width, height)).any()
            end = "entirely; left out" if gone else "; kept, its outer part to be cut off"
            kind = "box_off_image" if gone else "box_outside"
            found(kind, f"reaches outside the image ({_sides(size)}) with {stated} {end}: redraw it")
            if gone:
                continue
        kept.append((box, name, difficult))
    boxes, names, flags = zip(*kept, strict=True) if kept else ((),) * 3
    return Annotation(
        np.array(boxes, np.float32), names, size=size, difficult=flags, problems=tuple(problems), **fields
    )
