"""Feed broken files to the XML, COCO, YOLO and DICOM readers, and count what they do with them.

python benchmarks/fuzz.py --seconds 600                         # each reader; random mutations
python benchmarks/fuzz.py --seconds 600 --readers dicom --seeds slices/   # with your own files as seeds
python benchmarks/fuzz.py --seconds 600 --atheris               # guided by coverage (pip install atheris)

A reader may return samples, with or without problems, or raise ValueError (voc.read, read_coco, read_image: the message
names the file). Anything else is a finding: another exception, a call of more than --hang seconds, a crash of the
process, a box that is infinite, NaN or empty, and an object that is neither read nor named in a problem. Each reader
runs in a process of its own; inputs with findings are kept in --keep.
"""

import argparse
import contextlib
import hashlib
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
from PIL import Image

XML = b"""<?xml version="1.0" encoding="utf-8"?><annotation verified="yes"><folder>liver</folder>
<filename>a.png</filename><path>/x/a.png</path><source><database>Unknown</database></source>
<size><width>60</width><height>50</height><depth>3</depth></size><segmented>0</segmented><!-- note -->
<object><name>hcc</name><pose>Left</pose><truncated>0</truncated><difficult>1</difficult><occluded>1</occluded>
<bndbox><xmin>10</xmin><ymin>11.5</ymin><xmax>30</xmax><ymax>41</ymax></bndbox></object>
<object><name>cyst</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>60</xmax><ymax>50</ymax></bndbox></object></annotation>"""
BOMB = b'<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]><annotation><filename>&y;</filename></annotation>'
COCO = b"""{"images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 50}, {"id": 2, "file_name": "b.png"}],
"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 11.5, 20, 30], "iscrowd": 1},
{"id": 2, "image_id": 2, "category_id": 2, "bbox": [0, 0, 9, 8]}],
"categories": [{"id": 1, "name": "hcc"}, {"id": 2, "name": "cyst"}]}"""
YOLO = b"0 0.5 0.5 0.25 0.1\n1 0.1 0.1 0.05 0.05\n\n0 0.500001 5e-1 1 1\n"
WORDS = [
    b"<object>",
    b"</object>",
    b"<bndbox/>",
    b"nan",
    b"inf",
    b"-1",
    b"1e999",
    b"../",
    b"/etc/passwd",
    b"\0",
    b"]]>",
]
WORDS += [
    b"<!DOCTYPE a>",
    b"&x;",
    b"<![CDATA[",
    b"null",
    b"[]",
    b"{}",
    b'"',
    b"9" * 400,
    b"\xff\xfe",
    b"[" * 3000,
    b"<a>" * 99,
]


class Finding(Exception):
    """What a reader must never do."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for each reader")
    parser.add_argument("--readers", nargs="+", choices=list(READERS), default=list(READERS))
    parser.add_argument("--seeds", type=Path, help="folder of seed files, besides the built-in ones")
    parser.add_argument("--hang", type=float, default=10, help="seconds after which a call counts as hung")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atheris", action="store_true", help="mutate by coverage instead of at random")
    parser.add_argument("--keep", type=Path, default=Path("runs") / "fuzz", help="folder for inputs with findings")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        child(args)
        return
    findings = 0
    for name in args.readers:
        result = in_child(name, args)
        findings += sum(result["findings"].values())
        print(json.dumps(result), flush=True)
    raise SystemExit(1 if findings else 0)


def in_child(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run one reader in a process of its own, which keeps its figures and the current input in files."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        command = [sys.executable, __file__, "--child", json.dumps([name, folder]), "--seconds", str(args.seconds)]
        command += ["--seed", str(args.seed), "--hang", str(args.hang), "--keep", str(args.keep)]
        command += ["--seeds", str(args.seeds)] if args.seeds else []
        command += ["--atheris"] if args.atheris else []
        died = None
        try:
            done = subprocess.run(command, timeout=args.seconds + 60 + 3 * args.hang, capture_output=True, text=True)
            died = f"crash, code {done.returncode}" if done.returncode else None
            noise = done.stderr
        except subprocess.TimeoutExpired:
            died, noise = "hang without end", ""
        figures = work / "figures.json"
        result = json.loads(figures.read_text()) if figures.exists() else {"reader": name, "findings": {}}
        if died is not None:
            result["findings"][died] = 1
            keep(args.keep, name, (work / "input").read_bytes() if (work / "input").exists() else b"")
            print(noise[-2000:], file=sys.stderr)
        return result


def child(args: argparse.Namespace) -> None:
    name, folder = json.loads(args.child)
    work = Path(folder)
    with instrumented() if args.atheris else contextlib.nullcontext():
        reader = READERS[name](work)
    seeds = [
        *SEEDS[name](),
        *([p.read_bytes() for p in sorted(args.seeds.rglob("*")) if p.is_file()] if args.seeds else []),
    ]
    outcomes: Counter[str] = Counter()
    findings: Counter[str] = Counter()
    slowest, start, saved = 0.0, time.monotonic(), 0.0

    def once(data: bytes) -> None:
        nonlocal slowest, saved
        (work / "input").write_bytes(data)
        began = time.monotonic()
        try:
            outcomes[reader(data)] += 1
        except (ValueError, FileNotFoundError) as error:  # FileNotFoundError: the input lists no image
            outcomes[f"refused: {type(error).__name__}"] += 1
        except Exception as error:
            text = re.sub(r"\d+", "n", " ".join(f"{type(error).__name__}: {error}".split()))[:120]
            findings[text] += 1
            keep(args.keep, name, data)
        now = time.monotonic()
        slowest = max(slowest, now - began)
        if now - began > args.hang:
            findings["hang"] += 1
            keep(args.keep, name, data)
        if now - saved > 1:
            saved = now
            save(now)

    def save(now: float) -> None:
        figures = {"reader": name, "mutations": "atheris" if args.atheris else "random", "executions": outcomes.total()}
        figures["executions"] += findings.total()
        figures |= {"seconds": round(now - start, 1), "slowest_s": round(slowest, 3)}
        figures |= {"outcomes": dict(outcomes), "findings": dict(findings)}
        (work / "figures.json").write_text(json.dumps(figures))

    if args.atheris:
        import atheris

        corpus = work / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(seeds):
            (corpus / str(number)).write_bytes(seed)
        import atexit

        atexit.register(lambda: save(time.monotonic()))
        atheris.Setup(
            [
                sys.argv[0],
                str(corpus),
                f"-max_total_time={int(args.seconds)}",
                f"-seed={args.seed + 1}",
                "-max_len=65536",
            ],
            once,
        )
        atheris.Fuzz()
        return
    rng = random.Random(args.seed)
    for seed in seeds:
        once(seed)
    while time.monotonic() - start < args.seconds:
        once(mutate(rng, seeds))
    save(time.monotonic())


@contextlib.contextmanager
def instrumented() -> Iterator[None]:
    """Let atheris trace the branches of our readers and of the parsers written in Python."""
    import atheris

    with atheris.instrument_imports(include=["hccvision", "xmltodict", "json", "pydicom"]):
        yield


def mutate(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Change a seed in a few places: replace bytes or words; move, repeat or delete pieces; insert another seed's."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        end = min(end, at + rng.choice((1, 4, 30, 2000)))
        other = rng.choice(seeds)
        start = rng.randrange(len(other) + 1)
        change = rng.randrange(7)
        if change == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif change == 1:
            del data[at:end]
        elif change == 2:
            data[at:end] = rng.choice(WORDS)
        elif change == 3:
            data[at:at] = data[at:end] * rng.choice((1, 2, 50))
        elif change == 4:
            data[at:end] = other[start : start + (end - at)]
        elif change == 5:
            number = re.compile(rb"\d+").search(data, at)
            if number:
                data[number.start() : number.end()] = str(rng.choice((0, 1, -1, 65535, 2**31, 10**12))).encode()
        elif rng.random() < 0.2:
            del data[at:]
    return bytes(data[: 2**20])


def keep(folder: Path, name: str, data: bytes) -> None:
    """Keep an input for inspection."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)


def sound(sample: Any, folder: Path) -> None:
    """Check what must be true of every sample."""
    if not sample.path.resolve().is_relative_to(folder.resolve()):
        raise Finding(f"a sample's image is outside the folder: {sample.path}")
    boxes = np.zeros((0, 4)) if sample.annotation is None else sample.annotation.boxes
    if not np.isfinite(boxes).all() or (boxes[:, 2:] <= boxes[:, :2]).any():
        raise Finding("a box is infinite, NaN or empty")


def xml(work: Path) -> Callable[[bytes], str]:
    from hccvision.annotations import voc
    from hccvision.annotations.voc_folder import read_voc_folder

    folder = pictures(work)

    def read(data: bytes) -> str:
        (folder / "a.xml").write_bytes(data)
        for sample in read_voc_folder(folder, unannotated="skip"):
            sound(sample, folder)
        annotation = voc.read(folder / "a.xml")
        objects, lost = count_objects(data), sum("left out" in problem.message for problem in annotation.problems)
        if objects != len(annotation) + lost:
            raise Finding(f"{objects} objects, but {len(annotation)} boxes and {lost} left out")
        (folder / "b.xml").unlink(missing_ok=True)
        if annotation.extra:
            again = voc.read(voc.write(folder / "b.xml", annotation))
            (folder / "b.xml").unlink()
            if not np.array_equal(again.boxes, annotation.boxes) or again.names != annotation.names:
                raise Finding("the annotation changes when it is written and read again")
        return "problems" if annotation.problems else "good"

    return read


def count_objects(data: bytes) -> int:
    """Count the elements <object> directly below the root with Python's own parser."""
    depth = count = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, count
        count += depth == 1 and name == "object"
        depth += 1

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1

    parser = expat.ParserCreate()  # without namespaces, which annotations have none of: a:object is just a name
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.Parse(data, True)
    return count


def coco(work: Path) -> Callable[[bytes], str]:
    from hccvision.annotations.coco import read_coco

    folder = pictures(work)

    def read(data: bytes) -> str:
        (folder / "a.json").write_bytes(data)
        samples = read_coco(folder / "a.json")
        for sample in samples:
            sound(sample, folder)
        document = json.loads(data)
        if not any(p.kind in ("missing_image", "unsafe_path", "duplicate_image") for s in samples for p in s.problems):
            lost = sum("left out" in p.message for s in samples for p in s.problems)
            boxes = sum(len(s.annotation) for s in samples)
            if len(document["annotations"]) != boxes + lost:
                raise Finding(f"{len(document['annotations'])} annotations, but {boxes} boxes and {lost} left out")
        return "problems" if any(s.problems for s in samples) else "good"

    return read


def yolo(work: Path) -> Callable[[bytes], str]:
    from hccvision.annotations.yolo import read_yolo_folder

    folder = pictures(work)

    def read(data: bytes) -> str:
        (folder / "a.txt").write_bytes(data)
        samples = read_yolo_folder(folder, ["hcc", "cyst"], unannotated="skip")
        for sample in samples:
            sound(sample, folder)
            if sample.annotation is not None:
                lines = sum(bool(line.strip()) for line in data.decode("utf-8-sig").splitlines())
                lost = sum("left out" in p.message for p in sample.problems)
                if lines != len(sample.annotation) + lost:
                    raise Finding(f"{lines} lines, but {len(sample.annotation)} boxes and {lost} left out")
        (folder / "train.txt").write_bytes(data + b"\nimages/a.png\n")
        for sample in read_yolo_folder(folder, ["hcc", "cyst"], subset="train", unannotated="normal"):
            sound(sample, folder)
        (folder / "train.txt").unlink()
        return "problems" if any(s.problems for s in samples) else "good"

    return read


def dicom(work: Path) -> Callable[[bytes], str]:
    import warnings

    from hccvision.images import image_size, read_image

    warnings.simplefilter("ignore")
    path = work / "a.dcm"

    def read(data: bytes) -> str:
        path.write_bytes(data)
        size = None
        with contextlib.suppress(ValueError):
            size = image_size(path)
        try:
            pixels = read_image(path)
        except ValueError as error:
            if "frames: choose one" not in str(error):
                raise
            pixels = read_image(path, frame=0)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or (size is not None and pixels.shape[:2] != size):
            raise Finding(f"an image {pixels.dtype} of {pixels.ndim} axes, not of the size stated")
        return "good"

    return read


def pictures(work: Path) -> Path:
    folder = work / "images"
    folder.mkdir()
    for name in ("a", "b"):
        Image.new("L", (60, 50)).save(folder / f"{name}.png")
    return folder


def dicom_seeds() -> list[bytes]:
    """Return the DICOM files inside pydicom's package that are smaller than 200 kB (pydicom can download others)."""
    import pydicom.data

    paths = sorted((Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm"))
    return [p.read_bytes() for p in paths if p.stat().st_size < 200_000]


READERS = {"xml": xml, "coco": coco, "yolo": yolo, "dicom": dicom}
SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "xml": lambda: [XML, BOMB, XML.decode().encode("utf-16")],
    "coco": lambda: [COCO],
    "yolo": lambda: [YOLO],
    "dicom": dicom_seeds,
}

if __name__ == "__main__":
    main()
