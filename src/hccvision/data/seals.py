"""A sealed test set: every look at it is written down in the manifest of its split."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from hccvision.contracts.samples import Sample
from hccvision.documents import read_document
from hccvision.files import write_text

KEY = "sealed"  # of the manifest: {"part": name, "opened": [one entry per look]}


def openings(path: str | Path) -> list[dict[str, Any]]:
    """Return the looks at the sealed part of a split.

    Args:
        path: a manifest that `save_split` wrote with ``seal=``.

    Returns:
        One entry per look: ``time`` (UTC), ``what`` was called, and ``model``, the SHA-256 of its weights or its type.

    Raises:
        FileNotFoundError: if there is no such manifest.
        ValueError: if it is none, or none of its parts is sealed.
    """
    document = read_document(path)
    sealed = document.get(KEY)
    if not isinstance(sealed, Mapping) or not isinstance(sealed.get("opened"), list):
        raise ValueError(f"{path}: no part of this split is sealed: save it with save_split(parts, path, seal=name)")
    return [dict(entry) for entry in sealed["opened"] if isinstance(entry, Mapping)]


def note_opening(samples: Iterable[Any], what: str, model: Any) -> int:
    """Write a look at sealed samples into the manifests that they are from.

    Args:
        samples: of any kind; only `Sample` objects with a ``seal`` count.
        what: name of the call.
        model: that looks.

    Returns:
        How often these sealed parts have been opened, this time included; 0 if no sample is sealed.

    Raises:
        OSError: if a manifest can't be written: a look that is not written down does not happen.
        ValueError: if it is no manifest of a sealed split any more.
    """
    most = 0
    for path in dict.fromkeys(s.seal for s in samples if isinstance(s, Sample) and s.seal is not None):
        with FileLock(f"{path}.lock"):
            opened = openings(path)
            time = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            opened.append({"time": time, "what": what, "model": fingerprint(model)})
            document = read_document(path)
            document[KEY] = {**document[KEY], "opened": opened}
            write_text(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n", errors="backslashreplace")
        most = max(most, len(opened))
    return most


def refuse_sealed(samples: Iterable[Sample]) -> None:
    """Refuse to train or validate on sealed samples.

    Args:
        samples: for a training.

    Raises:
        ValueError: if one is sealed.
    """
    sealed = next((sample for sample in samples if sample.seal is not None), None)
    if sealed is not None:
        raise ValueError(
            f"{sealed.path}: is of the sealed part of {sealed.seal}, and can't be trained or validated on: take "
            "another part"
        )


def fingerprint(model: Any) -> str:
    """Return the SHA-256 of all weights of a model, the same on any device; for anything else its type.

    Args:
        model: any predictor.

    Returns:
        Hexadecimal digits, or a name.

    Example:
        >>> fingerprint(nn.Linear(2, 1)) == fingerprint(nn.Linear(2, 1)), fingerprint([])
        (False, 'list')
    """
    module = model if isinstance(model, nn.Module) else getattr(model, "model", None)
    if not isinstance(module, nn.Module):
        return type(model).__name__
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
