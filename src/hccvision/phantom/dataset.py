"""Synthetic data sets in the layout of LabelImg."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hccvision.annotations import voc
from hccvision.files import new_folder, require_empty, write_table
from hccvision.phantom.drawing import LEVELS, check_name, draw_patient
from hccvision.phantom.patients import Patient
from hccvision.phantom.rendering import render
from hccvision.phantom.scanners import SCANNERS


def write_dataset(
    folder: str | Path,
    *,
    patients: int = 20,
    seed: int = 0,
    slices: int = 6,
    cancer_share: float = 0.5,
    level: str = "medium",
) -> Path:
    r"""Write a data set in the layout of LabelImg, completely or not at all; equal arguments give equal bytes.

    The folder contains ``JPEGImages/P007_03.png`` (8-bit grey: 520 x 520 from scanner A, 320 wide x 260 high from
    scanner B), ``Annotations/P007_03.xml`` (Pascal VOC, class ``hcc``; no objects without HCC) and ``patients.csv``.
    The regular expression ``^(P\d+)_`` finds the patient in a file name. Half of the patients with HCC, and half of
    those without, come from each scanner, so the scanner does not tell the class. The table has one row per slice:

    - ``image``, ``patient``: ``P007_03.png``, ``P007``.
    - ``class``: ``cancer`` if this slice shows an HCC, else ``normal``, even if another slice of the patient shows one.
    - ``scanner``, ``phase``: ``A`` or ``B``, and ``arterial``, ``portal`` or ``delayed``; the same for a whole patient.
    - ``lesions``: number of HCC in the slice, which are the boxes of its XML.
    - ``look_alikes``: number of cysts, haemangiomas and regenerative nodules in the slice, not annotated.
    - ``height_mm``: height of the slice above the liver's hilum.
    - ``spacing_mm``: mm per pixel.

    Args:
        folder: to create; it may exist if it is empty.
        patients: number of patients.
        seed: at least 0.
        slices: number of slices per patient.
        cancer_share: fraction of the patients who have HCC, in [0, 1], rounded to whole patients.
        level: difficulty, ``"mild"``, ``"medium"`` or ``"hard"``, see `hccvision.phantom.LEVELS`.

    Returns:
        The folder.

    Raises:
        FileExistsError: if the folder is not empty, or is a file.
        ValueError: if a number is out of range or the level is unknown.

    Example:
        >>> import tempfile
        >>> folder = write_dataset(Path(tempfile.mkdtemp(), "liver"), patients=2, slices=1)
        >>> sorted(path.name for path in folder.rglob("*.*"))
        ['P001_01.png', 'P001_01.xml', 'P002_01.png', 'P002_01.xml', 'patients.csv']
    """
    check_name("level", level, LEVELS)
    if patients < 1 or slices < 1 or seed < 0 or not 0 <= cancer_share <= 1:
        raise ValueError(
            "expected at least 1 patient and 1 slice, a seed of at least 0 and a cancer share from 0 to 1, "
            f"got patients={patients}, slices={slices}, seed={seed}, cancer_share={cancer_share}"
        )
    folder = require_empty(folder)
    order = np.random.default_rng([seed, 0]).permutation(patients).tolist()
    rank = {number: place for place, number in enumerate(order)}  # lowest ranks have cancer; scanners alternate

    rows = []
    with new_folder(folder) as draft:
        (draft / "JPEGImages").mkdir()
        (draft / "Annotations").mkdir()
        for number in range(patients):
            cancer = rank[number] < round(patients * cancer_share)
            scanner = list(SCANNERS)[rank[number] % len(SCANNERS)]
            patient = draw_patient([seed, 1, number], cancer=cancer, scanner=scanner, level=level, slices=slices)
            rows += _write_slices(draft, f"P{number + 1:03d}", patient)
        write_table(draft / "patients.csv", [list(rows[0]), *(row.values() for row in rows)])
    return folder


def _write_slices(folder: Path, name: str, patient: Patient) -> list[dict[str, Any]]:
    """Write the images and annotations of a patient; return its rows of the table."""
    rows = []
    for place, z in enumerate(patient.heights, start=1):
        image, annotation, _, look_alikes = render(patient, z)
        path = Path("JPEGImages", f"{name}_{place:02d}.png")
        Image.fromarray(image).save(folder / path, compress_level=1)
        voc.write(folder / "Annotations" / f"{path.stem}.xml", annotation, image_path=path)
        rows.append(
            {
                "image": path.name,
                "patient": name,
                "class": "cancer" if len(annotation) else "normal",
                "scanner": patient.scanner,
                "phase": patient.phase,
                "lesions": len(annotation),
                "look_alikes": look_alikes,
                "height_mm": f"{z:.1f}",
                "spacing_mm": SCANNERS[patient.scanner].spacing,
            }
        )
    return rows
