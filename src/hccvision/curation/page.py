"""The page that `DataReport.save` writes: findings with thumbnails, in one self-contained HTML file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hccvision.contracts.samples import Sample, printable
from hccvision.images.read import read_image

SIDE = 180  # pixels of a thumbnail
MOST = 12  # findings of a kind that are shown with thumbnails
MOST_FILES = 6  # files shown of a finding

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#1a1a1a;background:#fff;max-width:1180px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em}h2{font-size:1.1em;margin:2em 0 .3em;border-top:1px solid #ddd;padding-top:.8em}
table{border-collapse:collapse}td,th{text-align:left;padding:.25em .9em .25em 0;border-bottom:1px solid #eee}
td.n{text-align:right}a{color:inherit}
.error{color:#b00020}.warning{color:#8a5a00}.info{color:#3a5a7a}.level{font-weight:600}
.finding{margin:.9em 0}.finding p{margin:.2em 0}
figure{display:inline-block;margin:.3em .6em .3em 0;vertical-align:top;width:180px}
figcaption{font-size:12px;color:#555;overflow-wrap:anywhere}img{display:block;background:#eee}
.none{width:180px;height:60px;background:#f2f2f2;color:#777;font-size:12px;display:flex;align-items:center;
justify-content:center}
"""


def page(
    head: Sequence[str], findings: Sequence[tuple[str, str, Sequence[str], str]], samples: Sequence[Sample]
) -> str:
    """Build the page. Files are named without their folders, and all text is escaped.

    Args:
        head: lines about the whole data set.
        findings: ``level, kind, files, message`` of each finding, sorted by level.
        samples: the samples whose files the findings are about.

    Returns:
        The HTML.
    """
    sample_of: dict[str, Sample] = {}
    for sample in samples:
        problems = [*sample.problems, *(sample.annotation.problems if sample.annotation is not None else ())]
        own = [sample.annotation.path] if sample.annotation is not None else []
        for path in (sample.path, *own, *(p.path for p in problems)):
            sample_of.setdefault(str(path), sample)
    kinds: dict[tuple[str, str], list[tuple[Sequence[str], str]]] = {}
    for level, kind, files, message in findings:
        kinds.setdefault((level, kind), []).append((files, message))
    rows = "".join(
        f'<tr><td class="level {level}">{level}</td><td><a href="#{level}-{escape(kind)}">{escape(kind)}</a></td>'
        f'<td class="n">{len(found)}</td></tr>'
        for (level, kind), found in kinds.items()
    )
    drawn: dict[str, str] = {}
    sections = []
    for (level, kind), found in kinds.items():
        parts = []
        for number, (files, message) in enumerate(found):
            names = "" if number < MOST else _shown(", ".join(Path(f).name for f in files[:MOST_FILES])) + ": "
            pictures = "".join(_figure(f, sample_of.get(f), drawn) for f in files[:MOST_FILES]) if number < MOST else ""
            more = f"<p>… and {len(files) - MOST_FILES} more files</p>" if len(files) > MOST_FILES else ""
            parts.append(f'<div class="finding"><p>{names}{_shown(message)}</p>{pictures}{more}</div>')
        sections.append(
            f'<h2 id="{level}-{escape(kind)}"><span class="{level}">{level}</span> {escape(kind)} ({len(found)})</h2>'
            + "".join(parts)
        )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>hccvision: check</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head><body>'
        f"<h1>Check of the data set</h1>{''.join(f'<p>{escape(line)}</p>' for line in head)}"
        f"<table><tr><th>level</th><th>kind</th><th>count</th></tr>{rows}</table>{''.join(sections)}</body></html>\n"
    )


def _shown(text: str) -> str:
    return escape(printable(text))


def _figure(file: str, sample: Sample | None, drawn: dict[str, str]) -> str:
    """Return a captioned thumbnail; ``drawn`` holds those made already, so that each image is read once."""
    if sample is None:
        return f'<figure><div class="none">no image</div><figcaption>{_shown(Path(file).name)}</figcaption></figure>'
    key = str(sample.path)
    if key not in drawn:
        try:
            drawn[key] = f'<img alt="" src="data:image/jpeg;base64,{_thumbnail(sample)}">'
        except (OSError, ValueError, ImportError, MemoryError):
            drawn[key] = '<div class="none">can’t be read</div>'
    label = f" ({sample.class_name})" if sample.class_name is not None else ""
    caption = _shown(sample.path.name + label)
    return f"<figure>{drawn[key]}<figcaption>{caption}</figcaption></figure>"


def _thumbnail(sample: Sample) -> str:
    pixels = read_image(sample.path)
    picture = Image.fromarray(pixels)
    scale = SIDE / max(picture.size)
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    if sample.annotation is not None:
        pen = ImageDraw.Draw(picture)
        for box in (np.asarray(sample.annotation.boxes, float) * scale).clip(-10, SIDE + 10).tolist():
            x1, y1, x2, y2 = box
            pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=(255, 200, 0))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=75)
    return base64.b64encode(stream.getvalue()).decode("ascii")
