"""How fast are annotation files read? voc.read and read_voc_folder beside the bare parsers and LabelImg's own reader.

python benchmarks/annotations.py                    # 10,000 files; results go to benchmarks/results/
python benchmarks/annotations.py --files 20 --out d # smoke test

Files are as LabelImg writes them, with three boxes each, in a temporary folder; each has a small PNG of its own, whose
size read_voc_folder looks up. Every reader runs twice and the second run is measured, when the files are in memory.
"""

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import xmltodict
from low_end import describe, write
from PIL import Image

import hccvision as hv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = make(root, args.files)
        rows = [measure(name, reader, args.files) for name, reader in readers(root, files).items()]
    machine = describe()
    name = re.sub(r"[^a-z0-9]+", "-", machine["cpu"].lower()).strip("-")
    result = {"date": str(date.today()), "machine": machine, "rows": rows}
    write(args.out / f"annotations-{name}.json", json.dumps(result, indent=2) + "\n")
    text = page(args.out)
    print(f"{text}\nwritten: {write(args.out / 'annotations.md', text)}")


def make(root: Path, count: int) -> list[Path]:
    """Write XML files beside their images."""
    rng = np.random.default_rng(0)
    files = []
    for number in range(count):
        image = root / f"P{number:05d}_01.png"
        Image.new("L", (300, 300)).save(image)
        low = rng.integers(0, 250, (3, 2))
        boxes = np.concatenate([low, low + rng.integers(5, 50, (3, 2))], axis=1)
        annotation = hv.Annotation(boxes, ("hcc", "hcc", "cyst"), size=(300, 300))
        files.append(hv.voc.write(image.with_suffix(".xml"), annotation, image_path=image))
    return files


def readers(root: Path, files: list[Path]) -> dict[str, Callable[[], int]]:
    """Return functions that read all files and return the number of boxes, by name."""
    known: dict[str, Callable[[], int]] = {
        "xml.etree, tree only": lambda: sum(len(ElementTree.parse(f).getroot().findall("object")) for f in files),
        "xmltodict, dictionary only": lambda: sum(
            len(xmltodict.parse(f.read_bytes())["annotation"]["object"]) for f in files
        ),
        "hv.voc.read": lambda: sum(len(hv.voc.read(f)) for f in files),
        "hv.read_voc_folder, with image sizes": lambda: sum(len(s.names) for s in hv.read_voc_folder(root)),
    }
    try:
        from libs.pascal_voc_io import PascalVocReader
    except ImportError:
        print("LabelImg is not installed: its reader was not measured")
    else:
        known["LabelImg 1.8.6"] = lambda: sum(len(PascalVocReader(str(f)).get_shapes()) for f in files)
    return known


def measure(name: str, reader: Callable[[], int], count: int) -> dict[str, Any]:
    reader()
    start = time.perf_counter()
    boxes = reader()
    seconds = time.perf_counter() - start
    if boxes != 3 * count:
        raise SystemExit(f"{name} read {boxes} boxes of {3 * count}")
    print(f"{name}: {seconds:.2f} s", flush=True)
    return {"reader": name, "files": count, "seconds": round(seconds, 6), "files_per_second": round(count / seconds)}


def page(folder: Path) -> str:
    """Return all results in a folder as one Markdown page."""
    parts = ["# Reading annotation files", "Made by `benchmarks/annotations.py`: LabelImg XML of three boxes each."]
    for path in sorted(folder.glob("annotations-*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        table = [["reader", "files", "s", "files/s"], ["---"] * 4]
        for row in result["rows"]:
            seconds = f"{row['seconds']:.2f}"
            table.append([row["reader"], str(row["files"]), seconds, str(row["files_per_second"])])
        parts.append(f"## {result['machine']['cpu']}, {result['date']}")
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in table))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
