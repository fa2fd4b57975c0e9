"""Split manifests: which file is in which part, with its SHA-256; loading refuses files that have changed."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hccvision.contracts.samples import Sample, printable
from hccvision.curation.facts import FACTS
from hccvision.curation.sources import ties
from hccvision.data.seals import KEY
from hccvision.documents import kind_of, read_document
from hccvision.files import write_text

_FORMAT = "hccvision split 1"
_KNOWN = ("patient", "series", "source_id", "class_name")


def save_split(
    parts: Sequence[Sequence[Sample]],
    path: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    seed: int | None = None,
    group: str | None = None,
    seal: str | None = None,
) -> Path:
    r"""Save a split as JSON: paths, SHA-256 of images and annotations, patients, counts.

    Paths are relative to the deepest folder that holds all files, so the data set may move. Patients are written as
    they are: samples should hold pseudonyms such as ``P007``, never names. The file appears whole or not at all.

    Args:
        parts: parts as `splits.split` returns them, or a pair of `splits.folds`.
        path: the file to create, or an older manifest to replace.
        names: names of the parts; None: train, (val,) test, or ``part 1`` and so on for more than three.
        seed: seed of the split, for the record.
        group: group of the split, for the record.
        seal: name of a part, such as ``"test"``, at which every look is to be written down in the file: by `evaluate`,
            `score`, and `predict` of its samples. Take that part from `load_split`, whose samples know of the seal.

    Returns:
        The path written.

    Raises:
        FileExistsError: if there is a file that is not a manifest, or a manifest with a sealed part.
        FileNotFoundError: if an image or an annotation is missing.
        ValueError: if two parts share what must be in one, there are no parts, or not as many names as parts.

    Example:
        >>> import tempfile
        >>> from hccvision import phantom
        >>> from hccvision.annotations.voc_folder import read_voc_folder
        >>> from hccvision.data.splits import split
        >>> root = phantom.write_dataset(tempfile.mkdtemp() + "/liver", patients=4, slices=1)
        >>> data = read_voc_folder(root, patient=r"^(P\d+)_")
        >>> parts = split(data, (0.5, 0.5), seed=7)
        >>> load_split(save_split(parts, root / "split.json", seed=7, group="patient"), data) == parts
        True
    """
    if names is None:
        usual = {2: ("train", "test"), 3: ("train", "val", "test")}
        names = usual.get(len(parts), [f"part {i + 1}" for i in range(len(parts))])
    if not parts or len(set(names)) != len(parts):
        raise ValueError(f"expected parts, and a name of its own for each, got {len(parts)} parts named {list(names)}")
    if not any(parts):
        raise ValueError("there is no sample in any part")
    _check_undivided(parts, names)
    if seal is not None and seal not in names:
        raise ValueError(f"expected seal= as the name of a part ({', '.join(names)}), got {seal!r}")
    replaces = _is_there(Path(path))
    document = split_document(dict(zip(names, parts, strict=True)), seed=seed, group=group)
    if seal is not None:
        document[KEY] = {"part": seal, "opened": []}
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    return write_text(path, text, errors="backslashreplace", overwrite=replaces)  # names of any bytes, escaped


def split_document(
    parts: Mapping[str, Sequence[Sample]],
    *,
    seed: int | None = None,
    group: str | None = None,
    known: Mapping[Path, str] | None = None,
) -> dict[str, Any]:
    """Describe parts and their files, without checking whether the parts overlap.

    Args:
        parts: samples by the name of their part; at least one in all.
        seed: seed of the split, for the record.
        group: group of the split, for the record.
        known: SHA-256 of files by absolute path; the other files are read, unless facts about them are known.

    Returns:
        The document that `save_split` writes.

    Raises:
        FileNotFoundError: if an image or an annotation is missing.
    """
    files = [f.absolute() for part in parts.values() for s in part for f in _files(s).values()]
    root = Path(os.path.commonpath([f.parent for f in files]))
    known = known or {}
    hashes = {f: known.get(f) or FACTS.sha256(f) for f in dict.fromkeys(files)}
    contents = {}
    for name, part in parts.items():
        contents[name] = {**_counts(part), "files": [_entry(s, root, hashes) for s in part]}
    return {"format": _FORMAT, "seed": seed, "group": group, "parts": contents}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Compare two splits file by file, in order.

    Args:
        before: a document from `split_document`.
        now: another.

    Returns:
        A sentence for each part or file that differs.

    Example:
        >>> before = {"parts": {"train": {"files": [{"image": "a.png", "sha256": "12"}]}}}
        >>> differences(before, {"parts": {"train": {"files": [{"image": "a.png", "sha256": "34"}]}}})
        ['a.png: has changed']
    """
    faults = []
    for part in dict.fromkeys([*before["parts"], *now["parts"]]):
        old, new = (side["parts"].get(part, {"files": []})["files"] for side in (before, now))
        if len(old) != len(new):
            faults.append(f"{part}: {len(old)} samples then, {len(new)} now")
        for a, b in zip(old, new, strict=False):
            if a["image"] != b["image"]:
                faults.append(f"{a['image']}: its place in {part} is taken by {b['image']}")
            elif a.get("sha256") != b.get("sha256"):
                faults.append(f"{a['image']}: has changed")
            elif a != b:
                keys = [key for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)]
                named = ("its annotation" if key.startswith("annotation") else f"its {key}" for key in keys)
                faults.append(f"{a['image']}: {' and '.join(dict.fromkeys(named))} changed")
    return faults


def load_split(path: str | os.PathLike[str], data: Sequence[Sample]) -> list[list[Sample]]:
    """Load a saved split, and check that nothing has changed since it was saved.

    Args:
        path: the file that `save_split` wrote.
        data: the samples, read again with the same options; the folder may have moved.

    Returns:
        The parts, made of the samples in ``data``, in the order in which they were saved. Samples of a sealed part are
        copies that know of the seal.

    Raises:
        FileNotFoundError: if there is no such manifest.
        ValueError: if the file is not a manifest (see `read_split`); if a file of the data is missing, new, has
            changed, or has another patient, class, series or source, naming the files; or if parts share what must be
            in one.
    """
    path = Path(path)
    document = read_split(path)
    parts = {name: part["files"] for name, part in document["parts"].items()}
    wanted = {entry["image"] for entries in parts.values() for entry in entries}
    places: dict[str, list[Sample]] = {name: [] for name in wanted}
    faults = []
    for sample in data:
        tails = [t for i in range(len(sample.path.parts)) if (t := "/".join(sample.path.parts[i:])) in places]
        if tails:
            places[max(tails, key=len)].append(sample)
        elif not any(p.excludes for p in sample.problems):
            faults.append(f"{sample.path}: is not in the split: leave it out, or split again")
    hashes: dict[Path, str] = {}
    loaded: list[list[Sample]] = []
    for entries in parts.values():
        loaded.append([])
        for entry in entries:
            there = places[str(entry["image"])]
            if len(there) != 1:
                what = "several samples are this image" if there else "no sample is this image any more"
                faults.append(f"{entry['image']}: {what}")
                continue
            loaded[-1].append(there[0])
            faults += _changes(there[0], entry, hashes)
    if faults:
        shown = "\n".join(f"  {printable(fault)}" for fault in faults[:10])
        more = f"\n  … and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise ValueError(
            f"{path}: the data is no longer what was split; restore it, or split again and save:\n{shown}{more}"
        )
    _check_undivided(loaded, list(parts))
    sealed = document.get(KEY)
    if isinstance(sealed, Mapping) and sealed.get("part") in parts:
        number = list(parts).index(sealed["part"])
        loaded[number] = [replace(sample, seal=path.absolute()) for sample in loaded[number]]
    return loaded


def read_split(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a split as `save_split` writes it, without comparing it with any data.

    Args:
        path: of the manifest.

    Returns:
        The document.

    Raises:
        OSError: if the file can't be read.
        ValueError: if it isn't a manifest.
    """
    try:
        document = read_document(path)
        _check_document(document)
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: not a split saved by save_split ({reason}): split the data again") from error
    return document


def _check_document(document: Mapping[str, Any]) -> None:
    if document.get("format") != _FORMAT:
        raise ValueError(f"its format is {kind_of(document.get('format'))}")
    parts = document.get("parts")
    if not isinstance(parts, dict) or not parts:
        raise ValueError(f"expected an object of parts, got {kind_of(parts)}")
    for name, part in parts.items():
        files = part.get("files") if isinstance(part, dict) else None
        if not isinstance(files, list):
            raise ValueError(f"expected a list of files in the part {name!r:.60}, got {kind_of(part)}")
        for entry in files:
            if not isinstance(entry, dict) or not isinstance(entry.get("image"), str) or not entry["image"]:
                raise ValueError(f"expected an entry with its image in the part {name!r:.60}, got {kind_of(entry)}")
            odd = [key for key, value in entry.items() if value is not None and not isinstance(value, str)]
            if odd:
                raise ValueError(f"expected text for {odd[0]!r:.60} of {entry['image']!r:.200}")


def _is_there(path: Path) -> bool:
    """Return whether a manifest is there; any other file raises."""
    if not os.path.lexists(path):
        return False
    start = b""
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(200)
    if re.match(rb'\s*\{\s*"format"\s*:\s*"hccvision split', start) is None:
        raise FileExistsError(
            f"{path}: expected no file or a split saved by save_split, got something else: choose another path, or "
            "delete it first"
        )
    if read_split(path).get(KEY) is not None:
        raise FileExistsError(
            f"{path}: a part of this split is sealed, and the looks at it would be lost: choose another path"
        )
    return True


def _files(sample: Sample) -> dict[str, Path]:
    drawn = None if sample.annotation is None else sample.annotation.path
    return {"image": sample.path} | ({} if drawn is None else {"annotation": Path(drawn)})


def _entry(sample: Sample, root: Path, hashes: dict[Path, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    for kind, file in _files(sample).items():
        entry[kind] = Path(os.path.relpath(file.absolute(), root)).as_posix()
        entry["sha256" if kind == "image" else f"{kind}_sha256"] = hashes[file.absolute()]
    return entry | {key: str(value) for key in _KNOWN if (value := getattr(sample, key)) is not None}


def _changes(sample: Sample, entry: dict[str, Any], hashes: dict[Path, str]) -> list[str]:
    """Return a sentence for everything about a sample that differs from its entry in the manifest."""
    faults = []
    files = _files(sample)
    if ("annotation" in files) != ("annotation" in entry):
        faults.append(f"{sample.path}: its annotation {'is new' if 'annotation' in files else 'is missing'}")
    for kind, file in files.items():
        stated = entry.get("sha256" if kind == "image" else f"{kind}_sha256")
        if file not in hashes:
            hashes[file] = FACTS.sha256(file) if file.is_file() else ""
        if not hashes[file]:
            faults.append(f"{file}: is missing")
        elif stated is not None and hashes[file] != stated:
            faults.append(f"{file}: has changed")
    for key in _KNOWN:
        value = getattr(sample, key)
        if (None if value is None else str(value)) != entry.get(key):
            faults.append(f"{sample.path}: its {key} was {entry.get(key)!r}, and is read as {value!r} now")
    return faults


def _counts(part: Sequence[Sample]) -> dict[str, Any]:
    lesions = Counter(name for s in part if s.annotation is not None for name in s.annotation.object_names)
    classes = Counter(s.class_name for s in part if s.class_name is not None)
    counts: dict[str, Any] = {"images": len(part), "patients": len({s.patient for s in part} - {None})}
    return counts | {"classes": dict(sorted(classes.items())), "lesions": dict(sorted(lesions.items()))}


def _check_undivided(parts: Sequence[Sequence[Sample]], names: Sequence[str]) -> None:
    flat = [(name, s) for name, part in zip(names, parts, strict=True) for s in part]
    first: dict[Any, tuple[str, Sample]] = {}
    for (name, sample), keys in zip(flat, ties([s for _, s in flat]), strict=True):
        for key in keys:
            where, other = first.setdefault(key, (name, sample))
            if where != name:
                raise ValueError(
                    f"{other.path} in {where!r} and {sample.path} in {name!r} must be in one part: the same {key[0]}"
                    f"{f' {key[1]!r}' * isinstance(key[1], str)}; hv.split keeps them together"
                )
