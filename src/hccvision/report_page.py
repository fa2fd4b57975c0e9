"""The page of a report: one HTML file without links to anything outside, for screens and for print."""

from __future__ import annotations

import base64
import importlib.metadata
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hccvision.contracts.samples import Sample, printable
from hccvision.metrics.figure import Figure

OPEN_ITEMS = (
    "Study design, and where and when the images were acquired",
    "Ethics approval and consent",
    "Eligibility of patients, and how they were selected",
    "Scanner, field strength, sequence and contrast phase",
    "Reference standard: who annotated, with which experience, and how disagreement was settled",
    "Sample size and how it was determined",
    "External validation",
    "Intended use, and consequences of a missed lesion and of a false alarm",
    "Funding, conflicts of interest, availability of data and code",
)

_HEADLINES = 4  # figures shown large
_BROAD = 1.6  # width over height from which a picture takes the whole row


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Args:
        title: for readers who can't see it.
        data: PNG, in base64.
        broad: whether it takes a whole row.
    """

    title: str
    data: str
    broad: bool


def page(
    *,
    task: str,
    figures: Mapping[str, Figure],
    samples: Sequence[Sample],
    summary: str,
    opened: str | None,
    details: Sequence[str],
    pictures: Sequence[Path],
    about: Mapping[str, Any],
    verification: str,
) -> str:
    """Build the page. Files and patients are not named, and all text is escaped.

    Args:
        task: a name in ``TASKS``.
        figures: of the report.
        samples: those evaluated.
        summary: one line below the title.
        opened: how often the sealed test set was opened; None: it is not sealed.
        details: lines of text, such as the confusion matrix.
        pictures: PNG files.
        about: facts about the model, shown as they are.
        verification: how the figures can be checked.

    Returns:
        The HTML.
    """
    import jinja2

    source = resources.files("hccvision").joinpath("report_page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    methods = dict.fromkeys(f.method for f in figures.values() if f.interval is not None)
    plain = {printable(name): figure for name, figure in figures.items()}
    headline = [(n, f) for n, f in plain.items() if f.defined and not f.is_count and "/" not in n][:_HEADLINES]
    return environment.from_string(source).render(
        title=f"Evaluation: {task}",
        summary=printable(summary),
        headline=headline,
        cards={
            "Test data": {**_data_card(samples), "test set opened": opened or "not sealed"},
            **({"Model": {k: _shown(v) for k, v in about.items()}} if about else {}),
        },
        figures=plain,
        methods=f"95 % intervals: {', '.join(methods)}." if methods else "Without intervals.",
        details="\n".join(printable(line) for line in details),
        pictures=[_picture(path) for path in pictures],
        limits=_limits(samples, figures),
        open_items=OPEN_ITEMS,
        version=version_of("hccvision"),
        verification=verification,
        interval=_interval,
        note=lambda figure: "" if figure.method in methods or figure.is_count else figure.method,
    )


def version_of(package: str) -> str:
    """Return the version of an installed package.

    Args:
        package: its name.

    Returns:
        The version; "of a checkout" if it is used without being installed.
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "of a checkout"


def _interval(figure: Figure) -> str:
    return "" if figure.interval is None else f"{figure.interval[0]:.4f} to {figure.interval[1]:.4f}"


def _shown(value: Any) -> str | None:
    return None if value is None else printable(str(value))


def _data_card(samples: Sequence[Sample]) -> dict[str, str | None]:
    """Return what the samples state of themselves."""
    patients = {s.patient for s in samples}
    names = Counter(name for s in samples for name in s.names)
    card: dict[str, str | None] = {
        "images": str(len(samples)),
        "patients": None if None in patients or not patients else str(len(patients)),
        "objects by class" if any(s.annotation is not None for s in samples) else "images by class": ", ".join(
            f"{printable(name)} {count}" for name, count in sorted(names.items())
        )
        or "none",
    }
    boxed = [s.annotation for s in samples if s.annotation is not None]
    if boxed:
        card["images without objects"] = str(sum(len(a) == 0 for a in boxed))
        sides = [
            np.sqrt((a.boxes[:, 2:] - a.boxes[:, :2]).prod(1) / np.prod(a.size)) for a in boxed if a.size and len(a)
        ]
        if sides:
            low, middle, high = np.percentile(np.concatenate(sides) * 100, (5, 50, 95))
            card["size of objects"] = f"median {middle:.0f} % of the image's side, 90 % from {low:.0f} to {high:.0f} %"
        difficult = sum(sum(a.difficult) for a in boxed)
        if difficult:
            card["marked difficult"] = str(difficult)
    return card


def _limits(samples: Sequence[Sample], figures: Mapping[str, Figure]) -> list[str]:
    limits = []
    patients = {s.patient for s in samples}
    if None in patients:
        limits.append(
            "Not all patients are known. Intervals regard images as independent; slices of one patient are not, so the "
            "true intervals are wider, and the test set may share patients with the training set."
        )
    elif len(patients) < 30:
        limits.append(f"The test set is of {len(patients)} patients; intervals of so few are rough.")
    undefined = [name for name, figure in figures.items() if not figure.defined]
    if undefined:
        limits.append(f"Undefined here: {', '.join(map(printable, undefined))}.")
    limits.append(
        "The figures hold for images like these, from the same scanners and the same way of selecting patients. They "
        "say nothing of benefit to patients."
    )
    return limits


def _picture(path: Path) -> Picture:
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        broad = image.width / image.height > _BROAD
    return Picture(path.stem.replace("_", " "), base64.b64encode(content).decode("ascii"), broad)
