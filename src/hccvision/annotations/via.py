"""VGG Image Annotator (VIA), versions 1 to 3: its projects and exports in JSON and CSV.

Rectangles, circles, ellipses and polygons are read; coordinates are corner points. Points and lines are problems, as
are regions of a video. The class of a region is one of its attributes; the others are not read. An image without
regions has no lesion, also where VIA only lists it; a file that has attributes of images and no region at all gives
the classes of images.

Source: https://gitlab.com/vgg/via, ``via-2.x.y/src/via.js`` and ``via-3.x.y/src/js/_via_metadata.js``
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hccvision.annotations.judging import StatedBox
from hccvision.annotations.listed import ListedImage, files_like, has_file_like, read_listed
from hccvision.annotations.paths import read_json, read_text, words_in
from hccvision.annotations.patients import PatientRule
from hccvision.annotations.shapes import box_of_ellipse, box_of_points, box_of_rectangle, numbers
from hccvision.contracts.samples import Sample
from hccvision.registry import ANNOTATION_FORMATS

_COLUMNS = {"region_shape_attributes", "region_attributes", "region_count"}  # and filename, or #filename in version 1
_COLUMNS_3 = "metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata"
_NAMES_3 = {1: "point", 2: "rect", 3: "circle", 4: "ellipse", 5: "line", 6: "polyline", 7: "polygon"}


class Region(NamedTuple):
    """A region of an image: its shape and its attributes, as VIA states them."""

    shape: Any
    attributes: Any


class Regions(NamedTuple):
    """An image with its regions, the attributes of the whole image, and what else is wrong with the entry."""

    path: str
    regions: list[Region]
    attributes: Any = None
    wrong: Sequence[str] = ()


@ANNOTATION_FORMATS.register("via")
class VIAFormat:
    """VGG Image Annotator's JSON and CSV.

    Example:
        >>> VIAFormat().matches(Path("README.md"))
        False
    """

    looks_for = "VGG Image Annotator's JSON or CSV, such as via_region_data.json, and its images at any depth"

    def matches(self, path: Path) -> bool:
        """Return whether a file is VIA's, or a folder contains one.

        Args:
            path: a folder or file.

        Returns:
            Whether it looks like this format.
        """
        return has_file_like(path, ".json", _is_document) or has_file_like(path, ".csv", _is_table)

    def read(
        self,
        path: Path,
        *,
        attribute: str | None = None,
        patient: PatientRule | None = None,
        unannotated: str = "problem",
    ) -> list[Sample]:
        """Read all files of a folder, or one file.

        Args:
            path: the folder of the data set, or the file.
            attribute: of the regions, whose value is the class; None: the only one that they have.
            patient: how to find an image's patient, as in `read_voc_folder`.
            unannotated: what an image is that no file lists: a ``"problem"``, ``"normal"`` or left out (``"skip"``).

        Returns:
            The samples.

        Raises:
            ValueError: if there is no such file. Several attributes and ``attribute=None`` are a problem of the file.
        """
        files = _files(path)
        if not files:
            raise ValueError(f"{path}: expected {self.looks_for}, got none: check the path")
        return read_listed(path, files, partial(parse, attribute=attribute), patient=patient, unannotated=unannotated)


def parse(path: Path, *, attribute: str | None = None) -> list[ListedImage]:
    """Return the images that a file lists.

    Args:
        path: the file.
        attribute: of the regions, whose value is the class; None: the only one that they have.

    Returns:
        The images.

    Raises:
        ValueError: if it is not VIA's, or its regions have several attributes and none is chosen.
    """
    try:
        images = list(_regions_of_table(path) if path.suffix.lower() == ".csv" else _regions_of_document(path))
    except (csv.Error, RecursionError) as error:
        raise ValueError(f"{path}: not a readable file of VIA ({error}): export it again") from error
    known = dict.fromkeys(key for image in images for r in image.regions for key in _dict(r.attributes))
    if attribute is None and len(known) > 1:
        raise ValueError(f"{path}: its regions have the attributes {', '.join(known)}: pass attribute= the class's")
    of_images = dict.fromkeys(key for image in images for key in _dict(image.attributes))
    chosen, of_image = attribute or next(iter(known), ""), next(iter(of_images), "") if len(of_images) == 1 else ""
    return [_image(number, image, chosen, of_image) for number, image in enumerate(images, start=1)]


def _image(number: int, image: Regions, attribute: str, of_image: str) -> ListedImage:
    boxes, unread = [], list(image.wrong)
    for place, (shape, attributes) in enumerate(image.regions, start=1):
        name, shape = _value(_dict(attributes).get(attribute)), _dict(shape)
        corners = _corners(shape)
        if corners is None:
            kind = shape.get("name")
            unread.append(f"region {place} ({name!r:.200}) is a {kind!r:.50}, no box; left out: draw a box")
        else:
            boxes.append(StatedBox(f"region {place} of {image.path!r:.200}", name, corners, json.dumps(shape)[:200]))
    class_name = None if image.regions else _value(_dict(image.attributes).get(of_image)) or None
    return ListedImage(f"image {number}", image.path, None, boxes, unread, class_name=class_name)


def _files(path: Path) -> list[Path]:
    return [*files_like(path, ".json", _is_document), *files_like(path, ".csv", _is_table)]


def _is_document(path: Path) -> bool:
    words = ('"shape_attributes"', '"region_attributes"', '"file_attributes"', '"_via_img_metadata"', '"vid_list"')
    found = words_in(path, words)
    return "{" in found and bool(found - {"{"})


def _is_table(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(2**16)
    except OSError:
        return False
    return _COLUMNS_3.encode() in start or all(column.encode() in start for column in _COLUMNS)


def _regions_of_document(path: Path) -> Iterator[Regions]:
    document = read_json(path)
    if isinstance(document, dict) and isinstance(document.get("view"), dict) and "metadata" in document:
        yield from _regions_of_project_3(document)
        return
    entries = document.get("_via_img_metadata", document) if isinstance(document, dict) else None
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: expected a JSON object of images: export it from VIA again")
    for entry in map(_dict, entries.values()):
        regions = entry.get("regions")
        items = regions.values() if isinstance(regions, dict) else regions if isinstance(regions, list) else []
        wrong = [] if isinstance(regions, (dict, list)) else ["needs a list of regions; left out: export it again"]
        found = [Region(_dict(r).get("shape_attributes"), _dict(r).get("region_attributes")) for r in items]
        yield Regions(_text(entry.get("filename")), found, entry.get("file_attributes"), wrong)


def _regions_of_project_3(document: Mapping[str, Any]) -> Iterator[Regions]:
    """Return the images of a project of version 3, each a view of one file."""
    attributes, files = _dict(document.get("attribute")), _dict(document.get("file"))
    of_view = defaultdict(list)
    for item in map(_dict, _dict(document.get("metadata")).values()):
        of_view[_text(item.get("vid"))].append(item)
    for key, view in _dict(document.get("view")).items():
        numbered = _dict(view).get("fid_list")
        shown = [_dict(files.get(str(f))) for f in (numbered if isinstance(numbered, list) else [])]
        names = [_text(file.get("fname")) or _text(file.get("src")) for file in shown]
        rows = [(item.get("z"), item.get("xy"), item.get("av")) for item in of_view.pop(key, [])]
        yield _image_3(names, rows, attributes)
    for items in of_view.values():
        yield Regions("", [], None, [f"has {len(items)} regions of a view that the file lacks: export it again"])


def _image_3(names: Sequence[str], rows: Sequence[tuple[Any, Any, Any]], attributes: Mapping[str, Any]) -> Regions:
    """Return an image of version 3 with its regions, given their temporal and spatial coordinates and attributes."""
    regions, wrong = [], []
    of_image: dict[str, Any] = {}
    for times, shape, values in rows:
        named = {_text(_dict(attributes.get(k)).get("aname")) or k: v for k, v in _options(attributes, values)}
        if times:
            wrong.append("has a region of a video or sound; left out: annotate images")
        elif shape:
            regions.append(Region(_shape_3(shape), named))
        else:
            of_image |= named
    if len(names) != 1:
        wrong.append(f"is a view of {len(names)} files; left out: annotate single images")
    return Regions(names[0] if names else "", regions, of_image, wrong)


def _options(attributes: Mapping[str, Any], values: Any) -> Iterator[tuple[str, Any]]:
    """Return the attributes that are set, each with the text of its option, or its value if it has no options."""
    for key, value in _dict(values).items():
        options = _dict(_dict(attributes.get(key)).get("options"))
        yield key, options.get(value, value) if isinstance(value, str) else value


def _shape_3(shape: Any) -> dict[str, Any]:
    """Return a shape of version 3, a list of numbers, as version 2 states it."""
    kind, *rest = shape if isinstance(shape, list) else [None]
    name = _NAMES_3.get(kind, "unknown") if isinstance(kind, int) else "unknown"
    keys = {"rect": ("x", "y", "width", "height"), "circle": ("cx", "cy", "r"), "ellipse": ("cx", "cy", "rx", "ry")}
    if name == "polygon":
        return {"name": name, "all_points_x": rest[::2], "all_points_y": rest[1::2]}
    return {"name": name, **dict(zip(keys.get(name, ()), rest, strict=False))}


def _regions_of_table(path: Path) -> Iterator[Regions]:
    lines = read_text(path).splitlines()
    if any(_COLUMNS_3 in line for line in lines):
        yield from _regions_of_table_3(lines)
        return
    found: dict[str, list[Region]] = defaultdict(list)
    stated: dict[str, tuple[str, Any]] = {}
    reader = csv.DictReader(lines)
    if not _COLUMNS.issubset(reader.fieldnames or ()):
        raise ValueError(f"{path}: expected the columns of VIA's CSV, got {reader.fieldnames}: export it again")
    for number, row in enumerate(reader, start=2):
        if None in row or None in row.values():
            raise ValueError(f"{path}: line {number} has more or fewer columns than the first: correct it")
        name = row.get("filename") or row.get("#filename") or ""
        shape, attributes = (_loaded(path, number, row[f"region_{key}attributes"]) for key in ("shape_", ""))
        stated[name] = row["region_count"], _loaded(path, number, row.get("file_attributes") or "{}")
        found[name] += [Region(shape, attributes)] if shape else []
    for name, (count, attributes) in stated.items():
        regions, wrong = found[name], []
        if count != str(len(regions)):
            wrong.append(f"has {len(regions)} regions, and says {count!r:.20}; left out: export it again")
        yield Regions(name, regions, attributes, wrong)


def _regions_of_table_3(lines: Sequence[str]) -> Iterator[Regions]:
    marked = next((line for line in lines if line.startswith("# ATTRIBUTE = ")), "# ATTRIBUTE = {}")
    attributes = json.loads(marked.removeprefix("# ATTRIBUTE = "))
    rows: dict[str, list[tuple[Any, Any, Any]]] = defaultdict(list)
    for row in csv.reader(line for line in lines if line and not line.startswith("#")):
        _, files, _, times, shape, values = row
        rows[files].append((json.loads(times), json.loads(shape), json.loads(values)))
    for files, found in rows.items():
        names = json.loads(files)
        yield _image_3([_text(n) for n in (names if isinstance(names, list) else [names])], found, _dict(attributes))


def _loaded(path: Path, number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: line {number} holds no readable JSON ({error}): export it again") from error


def _corners(shape: Mapping[str, Any]) -> Sequence[float] | None:
    """Return the corners of the box that encloses a shape; None if it is none that has an inside."""
    get, name = shape.get, shape.get("name")
    if name == "rect":
        return box_of_rectangle((get("x"), get("y")), (get("width"), get("height")))
    if name == "circle":
        return box_of_ellipse((get("cx"), get("cy")), (get("r"), get("r")))
    if name == "ellipse":
        (theta,) = numbers([get("theta", 0)])
        return box_of_ellipse((get("cx"), get("cy")), (get("rx"), get("ry")), np.degrees(theta))
    if name == "polygon":
        xs, ys = get("all_points_x"), get("all_points_y")
        return box_of_points(xs if isinstance(xs, list) else [], ys if isinstance(ys, list) else [])
    return None


def _value(value: Any) -> str:
    """Return the value of an attribute as a class name; of boxes to tick, the one that is ticked."""
    if isinstance(value, dict):
        ticked = [key for key, is_ticked in value.items() if is_ticked is True]
        return ticked[0] if len(ticked) == 1 else ""
    return str(value).strip() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
