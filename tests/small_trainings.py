"""Slices and models small enough to train in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hccvision.contracts.samples import Annotation, Sample
from hccvision.model.build import build_model
from hccvision.model.model import Model

SIZE = (48, 72)
LESION = (20, 10, 50, 34)


def write_slices(folder: Path, count: int = 7) -> list[Sample]:
    """Write slices of noise; two in three have a bright lesion."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    samples = []
    for i in range(count):
        pixels = rng.integers(0, 60, SIZE, np.uint8)
        boxes = [LESION] if i % 3 else []
        for x1, y1, x2, y2 in boxes:
            pixels[y1:y2, x1:x2] = 230
        path = folder / f"slice_{i}.png"
        Image.fromarray(pixels).save(path)
        annotation = Annotation(np.array(boxes), ("hcc",) * len(boxes), size=SIZE)
        samples.append(Sample(path, f"P{i}", "cancer" if boxes else "normal", annotation))
    return samples


def detector(backbone: Any = "mobilenet_v1", head: Any = "ssd", **options: Any) -> Model:
    """Build a small detector."""
    if isinstance(backbone, str):
        options = {"backbone_options": {"width": 0.1}, **options}
    return build_model(backbone, head, **{"classes": ["hcc"], "image_size": 64, "seed": 0, **options})


def classifier(backbone: Any = "mobilenet_v1", head: Any = "linear", **options: Any) -> Model:
    """Build a small classifier without dropout."""
    if isinstance(backbone, str):
        options = {"backbone_options": {"width": 0.1}, **options}
    if isinstance(head, str):
        options = {"head_options": {"hidden": (8,), "pool": "avg", "dropout": 0.0}, **options}
    return build_model(backbone, head, **{"classes": ["normal", "cancer"], "image_size": 64, "seed": 0, **options})
