"""Label Studio's JSON and JSON-MIN: a list of tasks, each an image with its annotations.

Rectangles, also turned ones, ellipses and polygons are read; coordinates are percent of the image's sides. Brushes,
keypoints, texts and relations are problems, as are choices beside regions; a file of choices alone gives the classes of
images. A task that nobody has annotated, or that was skipped, is an image without annotation. Predictions are not read.

Source: https://labelstud.io/guide/task_format and ``converter/converter.py`` of label-studio-sdk 2.1
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from hccvision.annotations.judging import StatedBox
from hccvision.annotations.listed import ListedImage, files_like, has_file_like, read_listed
from hccvision.annotations.paths import read_json, words_in
from hccvision.annotations.patients import PatientRule
from hccvision.annotations.shapes import NO_BOX, box_of_ellipse, box_of_points, box_of_rectangle, numbers, size_of
from hccvision.contracts.samples import Sample
from hccvision.images.read import suffixes
from hccvision.registry import ANNOTATION_FORMATS

Result = Mapping[str, Any]

_BOXED = ("rectangle", "ellipse", "polygon")
_OF_REGION = ("choices", "taxonomy", "textarea", "rating", "number", "datetime", "pairwise")  # attributes of one
_ABOUT_TASK = frozenset(["id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time"])  # in JSON-MIN


@ANNOTATION_FORMATS.register("label_studio")
class LabelStudioFormat:
    """Label Studio's JSON.

    Example:
        >>> LabelStudioFormat().matches(Path("README.md"))
        False
    """

    looks_for = "Label Studio's JSON or JSON-MIN, a list of tasks, and its images at any depth"

    def matches(self, path: Path) -> bool:
        """Return whether a file is Label Studio's JSON, or a folder contains one.

        Args:
            path: a folder or file.

        Returns:
            Whether it looks like this format.
        """
        return has_file_like(path, ".json", _is_label_studio)

    def read(self, path: Path, *, patient: PatientRule | None = None, unannotated: str = "problem") -> list[Sample]:
        """Read all files of a folder, or one file.

        Images are found by the last parts of the paths and URLs in the file; the eight letters that an upload puts
        before a name are ignored where no image has them.

        Args:
            path: the folder of the data set, or the file.
            patient: how to find an image's patient, as in `read_voc_folder`.
            unannotated: what an image is that has no annotation: a ``"problem"``, ``"normal"`` (examined, no lesion),
                or left out (``"skip"``). An annotation without regions always means: no lesion.

        Returns:
            The samples.

        Raises:
            ValueError: if there is no such file.
        """
        files = list(files_like(path, ".json", _is_label_studio))
        if not files:
            raise ValueError(f"{path}: expected {self.looks_for}, got none: check the path")
        return read_listed(path, files, parse, patient=patient, unannotated=unannotated)


def parse(path: Path) -> list[ListedImage]:
    """Return the images that a file lists.

    Args:
        path: the file.

    Returns:
        The images.

    Raises:
        ValueError: if it is not a list of tasks.
    """
    document = read_json(path)
    if isinstance(document, dict):  # one task, or one annotation as cloud storage keeps it
        is_stored = isinstance(document.get("task"), dict)
        document = [{**document["task"], "annotations": [document]} if is_stored else document]
    if not isinstance(document, list) or not all(isinstance(task, dict) for task in document):
        raise ValueError(f"{path}: expected a list of tasks: export it from Label Studio as JSON")
    return [_image(number, task) for number, task in enumerate(document, start=1)]


def _is_label_studio(path: Path) -> bool:
    lists = {'"annotations"', '"completions"'}
    found = words_in(path, {*lists, '"result"', '"data"', '"annotation_id"', '"original_width"'})
    if found >= {"[", '"annotation_id"'} or found >= {"[", '"original_width"'}:  # JSON-MIN
        return True
    return '"data"' in found and bool(found & lists or '"result"' in found)


def _image(number: int, task: Mapping[str, Any]) -> ListedImage:
    label = f"task {task.get('id', number)!r:.50}"
    data = task.get("data")
    if not isinstance(data, dict):
        return _annotated(label, _path_of(task), _results_of_minimal(task))
    path = _path_of(data)
    stated = task.get("annotations", task.get("completions"))
    annotations = [a for a in stated if isinstance(a, dict)] if isinstance(stated, list) else []
    done = [a for a in annotations if not a.get("was_cancelled")]
    agreed = [a for a in done if a.get("ground_truth") is True]
    chosen = agreed if len(agreed) == 1 else done
    if len(chosen) > 1:
        message = f"its image has {len(chosen)} annotations: keep one, or mark one as ground truth"
        return ListedImage(label, path, problems=[("duplicate_annotation", message)])
    if not chosen:
        return ListedImage(label, path, is_annotated=False)
    results = chosen[0].get("result")
    if not isinstance(results, list):
        return ListedImage(label, path, problems=[("unreadable_annotation", "expected a list result: export it again")])
    return _annotated(label, path, [r if isinstance(r, dict) else {} for r in results])


def _annotated(label: str, path: str, results: Sequence[Result]) -> ListedImage:
    """Return the image of a task with the results of its one annotation."""
    regions: dict[str, list[Result]] = defaultdict(list)
    for number, result in enumerate(results):
        regions[str(result.get("id", f"result {number}"))].append(result)
    drawn, unread, choices = [], [], []
    sizes: list[tuple[int, int] | None] = []
    for region in regions.values():
        shape = next((r for r in region if _kind(r) in _BOXED), None)
        if shape is not None:
            names = dict.fromkeys(name for r in region for name in _labels(r))
            drawn.append((shape, next(iter(names), "")))
            sizes.append(size_of(shape.get("original_height"), shape.get("original_width")))
            if len(names) > 1:
                unread.append(f"a region has the labels {', '.join(names)!r:.200}: keep one")
            unread += [_unread(r) for r in region if _kind(r) not in (*_BOXED, *_OF_REGION, "")]
        elif len(region) == 1 and region[0].get("type") == "choices":
            choices += _choices(region[0])
        else:
            unread += map(_unread, region)
        if any(r.get("image_rotation") for r in region):
            unread.append("its image was turned in Label Studio: turn the file, and annotate that")
    if len({repr(shape.get("to_name")) for shape, _ in drawn}) > 1:
        unread.append("has regions of several images: annotate single images")
    if len(choices) > 1:
        unread += [f"has the choice {choice!r:.200} for the whole image; left out: draw a box" for choice in choices]
    size = sizes[0] if len(set(sizes)) == 1 else None
    boxes = partial(_boxes, label, drawn) if drawn else ()
    class_name = choices[0] if len(choices) == 1 else None
    return ListedImage(label, path, size, boxes, unread, class_name=class_name)


def _boxes(label: str, drawn: Sequence[tuple[Result, str]], size: tuple[int, int] | None) -> list[StatedBox]:
    return [
        StatedBox(f"region {number} of {label}", name, _corners(shape, size), repr(shape.get("value"))[:200])
        for number, (shape, name) in enumerate(drawn, start=1)
    ]


def _corners(shape: Result, size: tuple[int, int] | None) -> Sequence[float]:
    """Return the corners, in pixels, of the box that encloses a region in percent of the image's sides."""
    value = shape.get("value")
    if size is None or not isinstance(value, dict):
        return NO_BOX
    across, down = size[1] / 100, size[0] / 100
    x, y, width, height, a, b = numbers(value.get(k) for k in ("x", "y", "width", "height", "radiusX", "radiusY"))
    turned = value.get("rotation", 0)
    if _kind(shape) == "rectangle":  # x and y are those of the corner after it was turned
        return box_of_rectangle((x * across, y * down), (width * across, height * down), turned, about_centre=False)
    if _kind(shape) == "ellipse":
        return box_of_ellipse((x * across, y * down), (a * across, b * down), turned)
    points = value.get("points")
    pairs = [numbers(p) if isinstance(p, list) and len(p) == 2 else [np.nan] * 2 for p in points or ()]
    return box_of_points((x * across for x, _ in pairs), (y * down for _, y in pairs))


def _kind(result: Result) -> str:
    """Return what a result is: ``"rectangle"`` of ``rectanglelabels`` and of ``rectangle``; "" of labels alone."""
    kind = result.get("type")
    return kind.removesuffix("labels") if isinstance(kind, str) else "unknown"


def _labels(result: Result) -> list[str]:
    value, kind = result.get("value"), result.get("type")
    found = value.get(kind) if isinstance(value, dict) and str(kind).endswith("labels") else None
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _choices(result: Result) -> list[str]:
    value = result.get("value")
    found = value.get("choices") if isinstance(value, dict) else None
    return [found] if isinstance(found, str) else [str(name) for name in found] if isinstance(found, list) else []


def _unread(result: Result) -> str:
    return f"has a result of the type {result.get('type')!r:.50}, no box; left out: draw a box, or remove it"


def _path_of(data: Mapping[str, Any]) -> str:
    """Return the path of the image of a task: the only one of its texts that names an image, or that called image."""
    texts = {key: _file_of(value) for key, value in data.items() if isinstance(value, str)}
    images = [text for text in texts.values() if text.lower().endswith(suffixes())]
    return images[0] if len(images) == 1 else texts.get("image", "")


def _file_of(text: str) -> str:
    """Return the path in a URL, also of local files, ``/data/local-files/?d=liver/a.png``."""
    parts = urlsplit(text)
    stated = parse_qs(parts.query).get("d", [])
    return stated[0] if stated else unquote(parts.path) if parts.scheme else text


def _results_of_minimal(task: Mapping[str, Any]) -> list[Result]:
    """Return the results of a task in JSON-MIN as JSON states them."""
    return [result for key, value in task.items() if key not in _ABOUT_TASK for result in _minimal(key, value)]


def _minimal(key: str, value: Any) -> Iterator[Result]:
    if isinstance(value, str) and key in ("choice", "choices", "class"):
        yield {"id": key, "type": "choices", "value": {"choices": value}}
    elif isinstance(value, dict):
        kind = "choices" if "choices" in value else next(iter(value), "unknown")
        yield {"id": key, "type": kind, "value": value}
    for number, item in enumerate(value if isinstance(value, list) else []):
        if isinstance(item, dict):
            kind = next((k for k in item if k.endswith("labels")), None) or _shape_of(item)
            yield {**item, "id": f"{key} {number}", "type": kind, "value": item}


def _shape_of(item: Mapping[str, Any]) -> str:
    keys = {"radiusX": "ellipse", "points": "polygon", "width": "rectangle", "choices": "choices"}
    return next((kind for key, kind in keys.items() if key in item), "unknown")
