"""Make the figures and tables of the pages, offline: from seeds, and from the slice that comes with pydicom."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageFilter
from pydicom import dcmread, examples

from hccvision import images, phantom, plots
from hccvision.annotations.formats import DatasetWriter
from hccvision.annotations.problem_kinds import KINDS, SKIPPED
from hccvision.files import write_table
from hccvision.registry import ANNOTATION_FORMATS, AUGMENTATIONS, IMAGE_FORMATS

SEED = 6


def real_slice() -> tuple[np.ndarray, float]:
    """Return the real slice and its pixel spacing in mm."""
    path = examples.get_path("overlay")
    return images.read_image(path, channels=1)[..., 0], float(dcmread(path).PixelSpacing[0])


def phantom_slice(seed: int, scanner: str = "A", level: str = "medium", phase: str | None = None) -> phantom.Slice:
    """Return the slice with the largest lesion of the first patient, counting up from a seed, imaged in the phase."""
    while True:
        patient = phantom.draw_patient(seed, cancer=True, scanner=scanner, level=level, slices=3)
        if phase in (None, patient.phase):
            seen = [phantom.render(patient, z) for z in patient.heights]
            return max(seen, key=lambda s: max(s.diameters, default=0))
        seed += 100


def body_of(image: np.ndarray) -> np.ndarray:
    """Return a mask of the body without arms: between the first and last pixels that are not air, by row and column."""
    smooth = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2))) > 8
    empty, middle = np.flatnonzero(~smooth.any(0)), image.shape[1] / 2
    left, right = max(empty[empty < middle], default=-1), min(empty[empty > middle], default=image.shape[1])
    smooth[:, : left + 1] = smooth[:, right:] = False
    across = np.maximum.accumulate(smooth, 1) & np.maximum.accumulate(smooth[:, ::-1], 1)[:, ::-1]
    return across & np.maximum.accumulate(smooth, 0) & np.maximum.accumulate(smooth[::-1], 0)[::-1]


def statistics(image: np.ndarray, spacing: float) -> dict[str, float]:
    """Return grey levels inside the body, their gradient per mm, and the size of the body."""
    body = body_of(image)
    levels = image.astype(float)
    dy, dx = np.gradient(levels, spacing)
    inner = body & ~(np.asarray(Image.fromarray(~body).convert("L").filter(ImageFilter.MaxFilter(9))) > 0)
    height, width = (np.ptp(np.flatnonzero(body.any(axis))) * spacing for axis in (1, 0))
    figures = {f"level at {q} %": float(np.percentile(levels[body], q)) for q in (5, 25, 50, 75, 95)}
    figures["gradient, rms per mm"] = float(np.sqrt((dx**2 + dy**2)[inner].mean()))
    return figures | {"body across, mm": float(width), "body from front to back, mm": float(height)}


def show(ax: plt.Axes, image: np.ndarray, spacing: float, title: str, boxes: np.ndarray | None = None) -> None:
    """Draw a slice with its boxes, at the same scale for all slices."""
    height, width = (side * spacing / 2 for side in image.shape)
    rows, columns = (np.flatnonzero(body_of(image).any(axis)) for axis in (1, 0))
    x, y = columns.mean() * spacing - width, rows.mean() * spacing - height
    ax.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(-width, width, height, -height))
    for x1, y1, x2, y2 in () if boxes is None else boxes * spacing:
        ax.add_patch(plt.Rectangle((x1 - width, y1 - height), x2 - x1, y2 - y1, fill=False, ec="tab:orange", lw=1))
    ax.set(xlim=(x - 180, x + 180), ylim=(y + 125, y - 125), facecolor="black", xticks=[], yticks=[])
    ax.set_title(title, fontsize=9)


def draw_phantom(folder: Path) -> None:
    """Write ``phantom.png``, the phantom beside the real slice, and ``phantom.csv``, the comparison in numbers."""
    image, spacing = real_slice()
    panels = [("a real slice", image, spacing, None)]
    for phase in phantom.PHASES[:2]:
        s = phantom_slice(SEED, phase=phase)
        panels.append((f"phantom, scanner A, {phase}", s.image, phantom.SCANNERS["A"].spacing, s.annotation.boxes))
    for phase in phantom.PHASES:
        s = phantom_slice(SEED + 1, scanner="B", phase=phase)
        panels.append((f"phantom, scanner B, {phase}", s.image, phantom.SCANNERS["B"].spacing, s.annotation.boxes))
    for level in phantom.LEVELS:
        s = phantom_slice(SEED + 2, level=level, phase="portal")
        panels.append((f"phantom, level {level!r}", s.image, phantom.SCANNERS["A"].spacing, s.annotation.boxes))
    figure, axes = plt.subplots(3, 3, figsize=(10.8, 8), layout="constrained")
    for ax, (title, slice_, mm, boxes) in zip(axes.flat, panels, strict=True):
        show(ax, slice_, mm, title, boxes)
    figure.savefig(folder / "phantom.png", dpi=130)
    plt.close(figure)

    real = statistics(image, spacing)
    scanner = phantom.SCANNERS["A"].spacing
    drawn = [statistics(phantom_slice(seed).image, scanner) for seed in range(6)]
    with (folder / "phantom.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["", "real slice", "phantom, mean of 6", "least", "most"])
        for name, value in real.items():
            values = np.array([figures[name] for figures in drawn])
            table.writerow([name, *(f"{v:.1f}" for v in (value, values.mean(), values.min(), values.max()))])


def draw_galleries(folder: Path) -> None:
    """Write ``augmentation-<name>.png``: draws of each preset on the same slice."""
    s = phantom_slice(SEED, level="mild", phase="portal")
    scale = (np.array([300, 300, 300, 300]) / np.tile(s.image.shape[::-1], 2)).astype(np.float32)
    image, _ = images.resize(s.image[..., None], (300, 300), "stretch")
    for name in AUGMENTATIONS.names():
        if name != "none":
            figure = plots.gallery(image, s.annotation.boxes * scale, AUGMENTATIONS.build(name), count=12, seed=1)
            plots.save(figure, folder / f"augmentation-{name}.png")


def write_reading(folder: Path) -> None:
    """Write the tables of what is read: ``image_formats.csv``, ``annotation_formats.csv`` and ``problems.csv``."""
    formats = {name: IMAGE_FORMATS.get(name)() for name in IMAGE_FORMATS.names()}
    suffixes = {name: " ".join(f"``{suffix}``" for suffix in sorted(each.suffixes)) for name, each in formats.items()}
    rows = [
        (f"``{name}``", _first_line(each), suffixes[name] or "none: by its content") for name, each in formats.items()
    ]
    write_table(folder / "image_formats.csv", [("format", "what it is", "suffixes, in any case"), *rows])
    annotations = {name: ANNOTATION_FORMATS.build(name) for name in ANNOTATION_FORMATS.names()}
    rows = [
        (f"``{name}``", _first_line(each), each.looks_for, "yes" if isinstance(each, DatasetWriter) else "no")
        for name, each in annotations.items()
    ]
    header = ("format", "what it is", "what a folder is recognised by", "can be written")
    write_table(folder / "annotation_formats.csv", [header, *rows])
    rows = [(f"``{name}``", kind.meaning, SKIPPED[kind.skipped]) for name, kind in KINDS.items()]
    write_table(folder / "problems.csv", [("problem", "what it means", "skipping leaves out"), *rows])


def _first_line(part: object) -> str:
    return (type(part).__doc__ or "").splitlines()[0]


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    draw_phantom(folder)
    draw_galleries(folder)
    write_reading(folder)
