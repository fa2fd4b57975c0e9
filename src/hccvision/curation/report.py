"""What `check` returns: findings, and the report that prints and saves them."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hccvision.contracts.samples import Problem, Sample, printable
from hccvision.curation.page import page
from hccvision.files import write_text
from hccvision.replacement import new_files

MOST_CLASSES = 100  # named in the text
LEVELS = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One thing that `check` found.

    Args:
        kind: a short fixed word to count by.
        level: ``"error"`` (correct it before training), ``"warning"`` (look at it) or ``"info"``.
        files: the files concerned; empty where the finding is about the whole data set.
        message: what was found, and what to do.
    """

    kind: str
    level: str
    files: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        shown = ", ".join(Path(f).name for f in self.files[:3]) + (", …" if len(self.files) > 3 else "")
        return printable(f"{shown}: {self.message}" if shown else self.message)


@dataclass(frozen=True)
class DataReport:
    """Report on a data set, as returned by `check`.

    Args:
        images: number of samples.
        objects: number of boxes (or of classified images) per class name.
        without_objects: number of annotated images without any box: information, not a problem.
        problems: what the readers found; `hv.fit`, `hv.evaluate` and `hv.split` refuse data with problems.
        duplicates: groups of files with the same content.
        near_duplicates: groups of files that show the same picture and are not all identical.
        findings: all findings, errors first.
        samples: the samples that were checked.
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
        """Return the findings of one level.

        Args:
            name: ``"error"``, ``"warning"`` or ``"info"``.

        Returns:
            The findings.

        Raises:
            ValueError: if the level is unknown.
        """
        if name not in LEVELS:
            raise ValueError(f"unknown level {name!r}; known: {', '.join(map(repr, LEVELS))}")
        return tuple(f for f in self.findings if f.level == name)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON.

        Returns:
            All fields by name except ``samples``; ``problems`` as a list of ``kind, path, message, usable``,
            ``findings`` as a list of ``kind, level, files, message``.
        """
        return {
            "images": self.images,
            "objects": dict(self.objects),
            "without_objects": self.without_objects,
            "problems": [
                {key: getattr(p, key) for key in ("kind", "path", "message", "usable")} for p in self.problems
            ],
            "duplicates": [list(group) for group in self.duplicates],
            "near_duplicates": [list(group) for group in self.near_duplicates],
            "findings": [{**vars(f), "files": list(f.files)} for f in self.findings],
        }

    def __str__(self) -> str:
        return self._text(3)

    def _text(self, most: int | None) -> str:
        """Return the table, with at most this number of findings of each kind spelt out."""
        surplus, near = (sum(len(g) - 1 for g in groups) for groups in (self.duplicates, self.near_duplicates))
        counts = Counter(f.level for f in self.findings)
        lines = [
            f"{self.images} images, {self.without_objects} of them without objects",
            f"classes: {_classes(self.objects)}",
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
        """Write ``check.json``, ``check.txt`` and ``check.html``, a self-contained page with thumbnails and boxes.

        The page and the text name files without their folders; the JSON holds the paths.

        Args:
            folder: the folder to write to, created if missing.
            overwrite: replace an older report there, all its files together or, if one can't be written, none.

        Returns:
            The folder.

        Raises:
            FileExistsError: if there is a report in the folder and ``overwrite`` is False.
        """
        folder = Path(folder)
        if (folder / "check.json").exists() and not overwrite:
            raise FileExistsError(f"{folder}: there is a report here already; pass another folder, or overwrite=True")
        head = str(self).split("\nfound: ")[0].splitlines()
        texts = {
            "check.json": json.dumps(self.to_dict(), indent=2, ensure_ascii=False),
            "check.txt": f"{self._text(None)}\n",
            "check.html": page(head, [(f.level, f.kind, f.files, f.message) for f in self.findings], self.samples),
        }
        with new_files(folder, last="check.json", overwrite=overwrite) as draft:
            for name, text in texts.items():
                json_escapes = name.endswith(".json")  # file names of any bytes, read back as they are
                write_text(draft / name, text, errors="backslashreplace" if json_escapes else "replace")
        return folder


def _classes(objects: Mapping[str, int]) -> str:
    """Return class names with their counts, at most `MOST_CLASSES` of them."""
    shown = [f"{printable(name):.80} {count}" for name, count in list(objects.items())[:MOST_CLASSES]]
    more = [f"and {len(objects) - MOST_CLASSES} more"] if len(objects) > MOST_CLASSES else []
    return ", ".join([*shown, *more]) or "none"


def _counted(count: int, level: str) -> str:
    return f"{count} {level}{'s' * (count > 1 and level != 'info')}"
