"""Predictions that were saved to a file: the CSV of a report, or COCO's JSON of results."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from hccvision.annotations import coco_document
from hccvision.annotations.coco_document import file_name_of, id_of
from hccvision.annotations.path_matching import PathMatcher
from hccvision.annotations.paths import read_json, read_text
from hccvision.contracts.outputs import Detections, Prediction
from hccvision.contracts.samples import Sample

DETECTION_COLUMNS = ("path", "class", "score", "x1", "y1", "x2", "y2")

Detection = tuple[float, int, tuple[float, ...]]  # score, class id, box


def read_predictions(
    path: str | os.PathLike[str],
    samples: Sequence[Sample],
    *,
    classes: Sequence[str],
    coco: str | os.PathLike[str] | None = None,
) -> list[Prediction]:
    r"""Read the predictions for samples from a file, to evaluate, compare or report them like a model's own.

    Two kinds of files are read:

    - A CSV as `Report.save` writes it. Of a detector: ``path, class, score, x1, y1, x2, y2``, one row per detection.
      Of a classifier: ``path`` and one column ``p(name)`` per class, one row per image. Other columns are ignored.
    - COCO's JSON of results: a list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``.

    An image without rows in a classifier's CSV is an error. In a detector's CSV or in COCO's results it is an image
    without detections: neither file has a row for an image in which nothing was detected.

    Args:
        path: the file, ``.csv`` or ``.json``.
        samples: the images that predictions are wanted for.
        classes: names in the order of the class ids.
        coco: for COCO's results, the COCO file whose images and categories the ids are of.

    Returns:
        One prediction per sample, in the samples' order. A path in the file stands for the sample with an equal path,
        or else for the one that shares the most trailing parts with it; so the data may have moved.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a row is malformed or appears twice, or is of a class or an image that is unknown or can't be
            told from others; the message names the file and the row. Also if an image is missing in a classifier's
            CSV, two samples have one path, or ``coco`` is missing.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "predictions.csv")
        >>> _ = path.write_text("path,class,score,x1,y1,x2,y2\nold/a.png,hcc,0.9,10,20,30,45\n")
        >>> found = read_predictions(path, [Sample(Path("a.png")), Sample(Path("b.png"))], classes=["hcc"])
        >>> [p.detections.boxes.tolist() for p in found]
        [[[10.0, 20.0, 30.0, 45.0]], []]
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of predictions: check the path")
    names = list(classes)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"expected class names that are unique, got {names}: correct classes=")
    match = PathMatcher(path, samples)
    if path.suffix.lower() == ".json":
        return _detections(path, match, _results(path, names, coco), unique=True)
    if path.suffix.lower() != ".csv":
        raise ValueError(f"{path}: expected predictions in a .csv or a .json file: rename or convert it")
    header, rows = _table(path)
    if set(DETECTION_COLUMNS) <= set(header):
        return _detections(path, match, _detection_rows(path, names, rows), unique=False)  # rounding makes rows equal
    return _probabilities(path, match, names, header, rows)


def _detections(
    path: Path, match: PathMatcher, rows: Iterable[tuple[str, str, Detection]], *, unique: bool
) -> list[Prediction]:
    """Build a detector's predictions from rows of ``(label for messages, image, detection)``."""
    found: dict[int, list[Detection]] = defaultdict(list)
    seen: dict[tuple[int, Detection], str] = {}
    for row, image, detection in rows:
        number = match(image, row)
        first = seen.setdefault((number, detection), row)
        if unique and first != row:
            raise ValueError(f"{path}: {row} is the same detection as {first}: keep one of them")
        found[number].append(detection)
    predictions = []
    for number, sample in enumerate(match.samples):
        own = sorted(found[number], key=lambda detection: -detection[0])
        detections = Detections(
            torch.tensor([box for _, _, box in own], dtype=torch.float32).reshape(-1, 4),
            torch.tensor([score for score, _, _ in own], dtype=torch.float32),
            torch.tensor([label for _, label, _ in own], dtype=torch.int64),
        )
        predictions.append(Prediction(str(sample.path), detections=detections))
    return predictions


def _probabilities(
    path: Path, match: PathMatcher, names: list[str], header: list[str], rows: list[tuple[str, dict[str, str]]]
) -> list[Prediction]:
    """Build a classifier's predictions."""
    columns = {hit[1]: name for name in header if (hit := re.fullmatch(r"p\((.*)\)", name, re.DOTALL))}
    if "path" not in header or not columns:
        raise ValueError(
            f"{path}: expected the columns {', '.join(DETECTION_COLUMNS)} of a detector, or path and p(name) for each "
            f"class of a classifier, got {', '.join(header)}"
        )
    if set(columns) != set(names):
        raise ValueError(
            f"{path}: row 1 has probabilities of the classes {sorted(columns)}, expected those of {sorted(names)}: "
            "pass the classes of the model that made it"
        )
    found: dict[int, tuple[str, list[float]]] = {}
    for row, cells in rows:
        number = match(cells["path"], row)
        if number in found:
            raise ValueError(f"{path}: {row} is of the same image as {found[number][0]}: keep one of them")
        values = [_number(path, row, columns[name], cells[columns[name]]) for name in names]
        for name, value in zip(names, values, strict=True):
            _require_share(path, row, columns[name], value)
        found[number] = row, values
    missing = [str(s.path) for number, s in enumerate(match.samples) if number not in found]
    if missing:
        more = ", …" if len(missing) > 3 else ""
        raise ValueError(
            f"{path}: has no row for {len(missing)} of {len(match.samples)} samples ({', '.join(missing[:3])}{more}): "
            "leave them out, or predict them too"
        )
    return [
        Prediction(str(sample.path), torch.tensor(found[number][1], dtype=torch.float32))
        for number, sample in enumerate(match.samples)
    ]


def _table(path: Path) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """Return the header of a CSV, and its rows with what messages call them."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows = []
    try:
        header = next(reader, [])
        if len(set(header)) < len(header) or not header:
            raise ValueError(f"{path}: row 1: expected column names that are unique, got {', '.join(header) or 'none'}")
        for number, cells in enumerate(reader, start=2):
            if not cells:
                continue
            if len(cells) != len(header):
                raise ValueError(f"{path}: row {number}: expected {len(header)} cells, got {len(cells)}: correct it")
            rows.append((f"row {number}", dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: not a readable CSV ({error}): save it again") from error
    return header, rows


def _detection_rows(
    path: Path, names: list[str], rows: list[tuple[str, dict[str, str]]]
) -> Iterator[tuple[str, str, Detection]]:
    for row, cells in rows:
        if cells["class"] not in names:
            raise ValueError(
                f"{path}: {row} is of the class {cells['class']!r}, which is not one of {names}: correct it or classes="
            )
        score, *box = (_number(path, row, key, cells[key]) for key in DETECTION_COLUMNS[2:])
        yield row, cells["path"], _detection(path, row, score, names.index(cells["class"]), box)


def _results(path: Path, names: list[str], coco: str | os.PathLike[str] | None) -> Iterator[tuple[str, str, Detection]]:
    """Yield label, image and detection of each of COCO's results."""
    if coco is None:
        raise ValueError(f"{path}: COCO's results have ids only: pass coco= the COCO file with the images' names")
    document = coco_document.load(Path(coco))
    used = {id_of(item, "category_id") for item in document["annotations"]}
    categories = coco_document.category_names(document["categories"], Path(coco), used)
    files: dict[int | str | None, str] = {}
    for entry in document["images"]:
        known, name = id_of(entry, "id"), file_name_of(entry)
        if known in files or known is None or not name:
            raise ValueError(f"{coco}: an image needs an id of its own and a file_name, got {entry!r:.200}: correct it")
        files[known] = name
    files, categories = _by_text(files), _by_text(categories)
    results = read_json(path)
    if not isinstance(results, list):
        raise ValueError(
            f"{path}: expected a list of results, got {type(results).__name__}: pass COCO's results, not "
            "its annotations"
        )
    for number, entry in enumerate(results, start=1):
        row = f"entry {number}"
        image = _known(path, row, entry, "image_id", files, f"an image of {coco}")
        category = _known(path, row, entry, "category_id", categories, f"a category of {coco}")
        if category not in names:
            raise ValueError(
                f"{path}: {row} is of the class {category!r}, which is not one of {names}: correct classes="
            )
        x1, y1, x2, y2 = coco_document.corners_of(entry.get("bbox"))
        score = entry.get("score")
        if type(score) not in (int, float) or not math.isfinite(x1):
            raise ValueError(
                f"{path}: {row}: expected a score and a bbox [x, y, width, height] of numbers, got "
                f"{entry!r:.200}: correct it"
            )
        yield row, image, _detection(path, row, score, names.index(category), [x1, y1, x2, y2])


def _by_text(table: dict[int | str | None, str]) -> dict[int | str | None, str]:
    """Return a table of ids with those of integers under their texts too: ``7`` and ``"7"`` are one id."""
    return {**{str(known): value for known, value in table.items()}, **table}


def _known(path: Path, row: str, entry: Any, key: str, table: dict[int | str | None, str], what: str) -> str:
    """Return what an id stands for in a table of `_by_text`."""
    known = id_of(entry, key)
    found = table.get(known, table.get(str(known)))
    if known is None or found is None:
        got = entry.get(key) if isinstance(entry, dict) else entry
        raise ValueError(f"{path}: {row}: its {key} is not {what}, got {got!r:.200}: correct it")
    return found


def _number(path: Path, row: str, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{path}: {row}: expected a finite number in the column {column!r}, got {text!r}: correct it")
    return value


def _require_share(path: Path, row: str, column: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{path}: {row}: expected {column!r} in [0, 1], got {value}: correct it")


def _detection(path: Path, row: str, score: float, label: int, box: Sequence[float]) -> Detection:
    """Return a detection, checked; a box may have lost its width or height to rounding."""
    _require_share(path, row, "score", score)
    if not all(abs(side) <= torch.finfo(torch.float32).max for side in box) or box[2] < box[0] or box[3] < box[1]:
        raise ValueError(f"{path}: {row}: expected a box of finite x1 <= x2 and y1 <= y2, got {list(box)}: correct it")
    return score, label, tuple(box)
