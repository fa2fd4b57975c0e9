"""Rules that tell which patient an image is of: a regular expression, a callable or a table."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from hccvision.annotations.names import annotation_stem
from hccvision.annotations.paths import read_text
from hccvision.contracts.samples import Problem, as_text

PatientRule = str | re.Pattern[str] | Callable[[Path], str | None] | Mapping[str, str] | Path
PatientOf = Callable[[Path], str | None]


def patient_rule(rule: PatientRule | None) -> PatientOf | None:
    r"""Build a callable from any of the forms that a patient rule may have.

    Args:
        rule: a regular expression searched for in the file name (the patient is its first group, or the whole match),
            a callable on the path, a table ``{file name: patient}``, or the path of a CSV file with a column
            ``patient`` and one of ``image``, ``file`` or ``path``. None: patients are unknown.

    Returns:
        A callable from an image's path to its patient, None where it finds none; None if patients are unknown.

    Raises:
        FileNotFoundError: if there is no such CSV file.
        ValueError: if the CSV file can't be read, lacks a column or gives one file name two patients; if the pattern is
            no regular expression, or the rule none of these. Python can't bound the time of a search: nested
            repetitions such as ``(a+)+$`` may take for ever.

    Example:
        >>> patient_rule(r"^(P\d+)_")(Path("liver/P007_03.png"))
        'P007'
    """
    if rule is None or (callable(rule) and not isinstance(rule, (str, Path))):
        return rule
    if isinstance(rule, Path) or (isinstance(rule, str) and rule.lower().endswith(".csv")):
        rule = _read_table(Path(rule))
    if isinstance(rule, Mapping):
        table = rule
        return lambda path: next((table[n] for n in _names_in_a_table(path) if n in table), None)
    if not isinstance(rule, (str, re.Pattern)):
        raise ValueError(
            f"expected a regular expression, a callable, a table or the path of a CSV for patients, got {rule!r:.200}"
        )
    return search_names(rule)


def search_names(expression: str | re.Pattern[str]) -> PatientOf:
    r"""Build a callable that searches file names for a regular expression.

    Args:
        expression: as text, or compiled.

    Returns:
        A callable from a path to the first group, or to the whole match; None where there is no match.

    Raises:
        ValueError: if it is no regular expression for text.

    Example:
        >>> search_names(r"^(P\d+)_")(Path("liver/P007_03.png"))
        'P007'
    """
    try:
        pattern = re.compile(expression)
        pattern.search("")
    except (re.error, RecursionError, OverflowError, TypeError) as error:
        raise ValueError(f"{expression!r:.200} is no regular expression for file names: {error}") from error

    def search(path: Path) -> str | None:
        hit = pattern.search(path.name)
        return None if hit is None else hit[1] if pattern.groups else hit[0]

    return search


def find_patient(rule: PatientOf | None, path: Path) -> tuple[str | None, tuple[Problem, ...]]:
    """Apply a patient rule to an image.

    Args:
        rule: a callable of `patient_rule`; None if patients are unknown.
        path: the image file.

    Returns:
        The patient or None, and a ``no_patient`` problem if the rule finds none.
    """
    if rule is None:
        return None, ()
    patient = rule(path)
    if patient is None or patient == "":
        message = "the patient rule finds no patient for this file: correct the rule or the file name"
        return None, (Problem("no_patient", str(path), message),)
    return str(patient), ()


def _names_in_a_table(path: Path) -> tuple[str, ...]:
    """Return what a table may call an image; bytes that are no text are escaped in files, see `files.write_table`."""
    return path.name, as_text(path.name), annotation_stem(path)


def _read_table(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such patient table")
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: not a readable CSV ({error}): save it again") from error
    if any(None in row for row in rows):
        raise ValueError(f"{path}: a row has more cells than the header: correct it")
    columns = list(rows[0]) if rows else []
    image = next((c for c in ("image", "file", "path") if c in columns), None)
    if image is None or "patient" not in columns:
        raise ValueError(
            f"{path}: a patient table needs a column 'patient' and one of 'image', 'file', 'path'; "
            f"this one has: {', '.join(columns)[:500] or 'no rows'}"
        )
    table: dict[str, str] = {}
    for row in rows:
        name, patient = Path(row[image] or "").name, row["patient"] or ""
        if table.setdefault(name, patient) != patient:
            raise ValueError(
                f"{path}: two files are named {name!r}, of the patients {table[name]!r} and {patient!r}: rename one, "
                "or pass patient= a callable on the path"
            )
    return table
