"""Feed broken files to the readers of annotations, images, models and splits, and count what they do with them.

python benchmarks/fuzz.py --seconds 600                         # each reader; random mutations
python benchmarks/fuzz.py --seconds 600 --out benchmarks/results          # and record the figures
python benchmarks/fuzz.py --seconds 600 --readers dicom --seeds slices/   # with your own files as seeds
python benchmarks/fuzz.py --seconds 600 --atheris               # guided by coverage (pip install atheris)

A reader may return samples, with or without problems, or raise ValueError (voc.read, read_coco, read_image: the message
names the file). Anything else is a finding: another exception, a call of more than --hang seconds or that needs more
than --memory, a crash of the process, a box that is infinite, NaN or empty, and an object that is neither read nor
named in a problem. Each reader runs in a process of its own; inputs with findings are kept in --keep.
"""

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import random
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
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
    parser.add_argument("--memory", type=float, default=8, help="GB that the process may take (address space)")
    parser.add_argument("--out", type=Path, help="folder for the results; without it they are printed only")
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
        if args.out is not None:
            record(args.out, result)
    raise SystemExit(1 if findings else 0)


def record(folder: Path, result: dict[str, Any]) -> None:
    """Keep the newest figures of each reader in fuzz.json, and all as a page in fuzz.md."""
    path = folder / "fuzz.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known[result["reader"]] = {"date": str(date.today()), **result}
    path.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    table = [["reader", "date", "mutations", "inputs", "s", "slowest, s", "outcomes", "findings"], ["---"] * 8]
    for name in sorted(known):
        row = known[name]
        kinds = (", ".join(f"{k} {n}" for k, n in sorted(row[key].items())) for key in ("outcomes", "findings"))
        figures = (str(row[key]) for key in ("date", "mutations", "executions", "seconds", "slowest_s"))
        table.append([name, *figures, *(kind or "none" for kind in kinds)])
    rows = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    text = f"# Broken files\n\nMade by `benchmarks/fuzz.py`.\n\n{rows}\n"
    (folder / "fuzz.md").write_text(text, encoding="utf-8")


def in_child(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run one reader in a process of its own, which keeps its figures and the current input in files."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        command = [sys.executable, __file__, "--child", json.dumps([name, folder]), "--seconds", str(args.seconds)]
        command += ["--seed", str(args.seed), "--hang", str(args.hang), "--keep", str(args.keep)]
        command += ["--seeds", str(args.seeds)] if args.seeds else []
        command += ["--memory", str(args.memory)]
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
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (int(args.memory * 2**30),) * 2)
    warnings.simplefilter("ignore")
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
    from hccvision.images import image_size, read_image

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


def picture(work: Path) -> Callable[[bytes], str]:
    """Pictures: what is called whole decodes, to the size and the frames that the header states."""
    from hccvision.annotations.judging import judge_image
    from hccvision.images import frame_count, image_size, read_image, read_labels

    path = work / "a.png"  # the content decides

    def read(data: bytes) -> str:
        path.write_bytes(data)
        stated, problems = judge_image(path)
        with contextlib.suppress(ValueError):
            read_labels(path, frame=0)
        size = image_size(path)
        if size != stated:
            raise Finding("two sizes of one file")
        pixels = read_image(path, frame=frame_count(path) - 1)
        if pixels.dtype != np.uint8 or pixels.ndim != 3:
            raise Finding(f"an image {pixels.dtype} of {pixels.ndim} axes")
        if frame_count(path) == 1 and pixels.shape[:2] != size:
            raise Finding("an image that is not of the size stated")
        if any(problem.kind == "truncated_image" for problem in problems):
            raise Finding("an image that can be read was called truncated")
        return "problems" if problems else "good"

    return read


def nifti(work: Path) -> Callable[[bytes], str]:
    """NIfTI as images, along all axes."""
    from hccvision.images import AXES, frame_count, image_size, read_image, read_provenance

    def read(data: bytes) -> str:
        path = work / ("a.nii.gz" if data.startswith(b"\x1f\x8b") else "a.nii")
        path.write_bytes(data)
        for axis in (None, *AXES):
            count, size = frame_count(path, axis=axis), image_size(path, axis=axis)
            pixels = read_image(path, frame=count - 1, axis=axis)
            if pixels.dtype != np.uint8 or pixels.shape[:2] != size:
                raise Finding(f"an image {pixels.dtype} {pixels.shape}, stated as {size}")
            read_provenance(path, frame=0, axis=axis)
        return "good"

    return read


def mask(work: Path) -> Callable[[bytes], str]:
    """NIfTI as masks: every pixel of a label lies in a box of its name, and every box in the slice."""
    from hccvision.annotations import masks

    def read(data: bytes) -> str:
        path = work / ("a.nii.gz" if data.startswith(b"\x1f\x8b") else "a.nii")
        path.write_bytes(data)
        values = masks.read(path)
        labels: dict[int, str | None] = {5: "liver", 1: "hcc"}
        annotation = masks.boxes(values, labels=labels)
        height, width = values.shape
        if len(annotation) and not ((annotation.boxes >= 0) & (annotation.boxes <= [width, height] * 2)).all():
            raise Finding("a box is outside its mask")
        for label, name in labels.items():
            covered = np.zeros(values.shape, bool)
            for (x1, y1, x2, y2), own in zip(annotation.boxes.astype(int).tolist(), annotation.names, strict=True):
                covered[y1:y2, x1:x2] |= own == name
            if ((values == label) & ~covered).any():
                raise Finding(f"pixels of {name} are in no box")
        return "good"

    return read


def model(work: Path) -> Callable[[bytes], str]:
    """Headers of model files: a model or one error, and no number in its answer that is not finite."""
    import hccvision as hv

    path = work / "a.safetensors"
    pixels = np.zeros((32, 32), np.uint8)
    _, tensors = model_parts()

    def read(data: bytes) -> str:
        path.write_bytes(len(data).to_bytes(8, "little") + data + tensors)
        (found,) = hv.load_model(path).predict(pixels, device="cpu")
        scores = found.probabilities if found.detections is None else found.detections.scores
        if found.error is None and not bool(scores.isfinite().all()):
            raise Finding("an answer that is not finite, without an error")
        return "good" if found.error is None else "error in the prediction"

    return read


def weights(work: Path) -> Callable[[bytes], str]:
    """Checkpoints of PyTorch: plain tensors or one error."""
    from hccvision.weights.reading import read_tensors

    def read(data: bytes) -> str:
        (work / "a.pth").write_bytes(data)
        tensors = read_tensors(work / "a.pth")
        if sum(tensor.numel() for tensor in tensors.values()) > 2**24:
            raise Finding("more values than the file can hold")
        return "good"

    return read


def manifest(work: Path) -> Callable[[bytes], str]:
    """Split manifests: all samples in the parts that the file states, or one error."""
    from hccvision.contracts.samples import Sample
    from hccvision.data.manifest import load_split

    folder = pictures(work)
    samples = [Sample(folder / f"{name}.png", patient=name, class_name="hcc") for name in "ab"]

    def read(data: bytes) -> str:
        (work / "split.json").write_bytes(data)
        parts = load_split(work / "split.json", samples)
        stated = [len(part["files"]) for part in json.loads(data)["parts"].values()]
        if [len(part) for part in parts] != stated or sum(stated) != len(samples):
            raise Finding(f"parts of {stated} samples were read as {[len(part) for part in parts]}")
        return "good"

    return read


def pictures(work: Path) -> Path:
    folder = work / "images"
    folder.mkdir()
    for name in ("a", "b"):
        Image.new("L", (60, 50), ord(name)).save(folder / f"{name}.png")
    return folder


def dicom_seeds() -> list[bytes]:
    """Return the DICOM files inside pydicom's package that are smaller than 200 kB (pydicom can download others)."""
    import pydicom.data

    paths = sorted((Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm"))
    return [p.read_bytes() for p in paths if p.stat().st_size < 200_000]


def picture_seeds() -> list[bytes]:
    """Return small pictures of all formats and depths, turned, with alpha, of several frames and of many scans."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    colour, exif = Image.fromarray(noise), Image.Exif()
    exif[0x0112] = 6
    grey, deep = colour.convert("L"), Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    frames: dict[str, Any] = {"save_all": True, "append_images": [colour.rotate(90)]}
    made: list[tuple[Image.Image, str, dict[str, Any]]] = [
        *((image, "PNG", {}) for image in (grey, colour, deep, colour.convert("P"), colour.convert("RGBA"))),
        *((image, "TIFF", {}) for image in (grey, colour, deep, colour.convert("CMYK"), grey.convert("F"))),
        *((colour, kind, {}) for kind in ("JPEG", "BMP", "GIF", "WEBP", "JPEG2000", "PPM", "TGA", "PCX", "ICO", "SGI")),
        *((colour, kind, frames) for kind in ("GIF", "WEBP", "PNG", "TIFF", "MPO")),
        *((colour, kind, {"exif": exif}) for kind in ("PNG", "JPEG", "TIFF", "WEBP")),
        *((colour, "TIFF", {"compression": packed}) for packed in ("tiff_lzw", "jpeg", "tiff_adobe_deflate")),
        (colour, "JPEG", {"progressive": True}),
    ]
    seeds = []
    for image, kind, options in made:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        seeds.append(stream.getvalue())
    with contextlib.suppress(ImportError):
        import imagecodecs
        import tifffile

        colours = noise.astype(np.uint16) * 257
        seeds += [imagecodecs.png_encode(colours), imagecodecs.jpeg2k_encode(colours, level=0)]
        for pixels in (colours, colours / 7, colours.astype(np.float32)):
            stream = io.BytesIO()
            tifffile.imwrite(stream, pixels, photometric="rgb", compression="deflate")
            seeds.append(stream.getvalue())
    return seeds


def nifti_seeds(slices: int = 4) -> list[bytes]:
    """Return small volumes of NIfTI-1 and NIfTI-2, plain and packed, straight and oblique."""
    import nibabel

    values = np.zeros((12, 9, slices), np.int16)
    values[3:8, 2:6] = 5
    oblique = np.array([[-2, 0.3, 0, 9], [0.2, 2, 0, 5], [0, 0, 3, -4], [0, 0, 0, 1.0]])
    seeds = []
    for kind, affine, dtype in (
        (nibabel.Nifti1Image, np.diag([2, 2, 3, 1.0]), np.int16),
        (nibabel.Nifti2Image, oblique, np.float32),
        (nibabel.Nifti1Image, oblique, np.uint8),
    ):
        volume = kind(values.astype(dtype), affine).to_bytes()
        seeds += [volume, gzip.compress(volume, mtime=0)]
    return seeds


def model_parts() -> tuple[bytes, bytes]:
    """Return the header of a small model file, and its tensors."""
    import hccvision as hv

    small: dict[str, Any] = {"image_size": 32, "backbone_options": {"width": 0.05}}
    with tempfile.TemporaryDirectory() as folder:
        saved = hv.build_model("mobilenet_v1", "linear", classes=["normal", "cancer"], seed=0, **small)
        saved.save(Path(folder) / "a.safetensors")
        content = (Path(folder) / "a.safetensors").read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end], content[end:]


def weight_seeds() -> list[bytes]:
    """Return small checkpoints in PyTorch's two formats."""
    import torch

    tensors = {"module.a.weight": torch.ones(3, 4), "module.a.bias": torch.zeros(3)}
    seeds = []
    for content in (tensors, {"state_dict": tensors, "epoch": 3}):
        for is_new in (True, False):
            stream = io.BytesIO()
            torch.save(content, stream, _use_new_zipfile_serialization=is_new)
            seeds.append(stream.getvalue())
    return seeds


def manifest_seeds() -> list[bytes]:
    """Return the manifest of a split."""
    from hccvision.contracts.samples import Sample
    from hccvision.data.manifest import save_split

    with tempfile.TemporaryDirectory() as folder:
        images = pictures(Path(folder))
        parts = [[Sample(images / f"{name}.png", patient=name, class_name="hcc")] for name in "ab"]
        return [save_split(parts, Path(folder) / "split.json", seed=7, group="patient").read_bytes()]


READERS = {
    "xml": xml,
    "coco": coco,
    "yolo": yolo,
    "dicom": dicom,
    "picture": picture,
    "nifti": nifti,
    "mask": mask,
    "model": model,
    "weights": weights,
    "manifest": manifest,
}
SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "xml": lambda: [XML, BOMB, XML.decode().encode("utf-16")],
    "coco": lambda: [COCO],
    "yolo": lambda: [YOLO],
    "dicom": dicom_seeds,
    "picture": picture_seeds,
    "nifti": nifti_seeds,
    "mask": lambda: nifti_seeds(slices=1),
    "model": lambda: [model_parts()[0]],
    "weights": weight_seeds,
    "manifest": manifest_seeds,
}

if __name__ == "__main__":
    main()
