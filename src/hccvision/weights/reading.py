"""Tensors of a weights file, and hashes of files and tensors."""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from hccvision.weights.wrapping import state_dict_in

_MAX_PACKING = 16  # times that an archive may be larger unpacked
_MAX_REPEATED = 2**24  # values of a tensor that repeats others


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors``, ``.pth``, ``.pt`` or ``.pth.tar`` file, without running code from it.

    Args:
        path: the file. A checkpoint with its tensors in a dictionary such as ``state_dict``, ``model`` or ``model_ema``
            is unpacked, and the prefix ``module.`` or ``_orig_mod.`` of DataParallel, AveragedModel or torch.compile is
            removed from the keys.

    Returns:
        Tensors by key, on the CPU.

    Raises:
        FileNotFoundError: if the file doesn't exist.
        ValueError: if it isn't a weights file, is a pickle that could run code, or holds tensors of several networks.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file; pass the path of a .safetensors or .pth file, or None")
    try:
        with path.open("rb") as file:
            start = file.read(9)
            file.seek(0)
            if start[8:] == b"{":  # safetensors: 8 bytes with the length of the header, then the header in JSON
                from safetensors.torch import load_file

                content: Any = load_file(path)
            elif start.startswith((b"PK", b"\x80")):  # PyTorch: a zip archive, or a pickle in the old format
                _require_plausible_zip(file)
                content = torch.load(file, map_location="cpu", weights_only=True)
            else:
                raise ValueError("its first bytes are those of neither format")
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: not loaded: it contains more than plain tensors, and loading these could run code. If you "
            "trust the file, load it yourself and save its state_dict as .safetensors"
        ) from error
    except Exception as error:
        raise ValueError(
            f"{path}: not a readable weights file ({error}); expected .safetensors, or a PyTorch checkpoint"
        ) from error
    tensors = state_dict_in(content, path)
    odd = next((key for key, tensor in tensors.items() if tensor.layout != torch.strided or tensor.is_quantized), None)
    if odd is not None:
        raise ValueError(f"{path}: the tensor {odd} is sparse or quantised: save it as a plain one")
    for key, tensor in tensors.items():
        stored = tensor.untyped_storage().nbytes() // tensor.element_size()
        if tensor.numel() > max(stored, _MAX_REPEATED):
            raise ValueError(f"{path}: the tensor {key} states {tensor.numel()} values, and the file holds {stored}")
    return tensors


def _require_plausible_zip(file: BinaryIO) -> None:
    """Refuse a zip archive that unpacks to far more than its own size; torch packs nothing."""
    length = file.seek(0, os.SEEK_END)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > _MAX_PACKING * length + 2**20:
            raise ValueError(f"its {length} bytes unpack to {unpacked}")
    file.seek(0)


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Compute one SHA-256 of names, dtypes, shapes and values, independent of file format and order.

    Args:
        tensors: by key.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> a, b = torch.zeros(2), torch.ones(2)
        >>> fingerprint({"a": a, "b": b}) == fingerprint({"b": b, "a": a}) != fingerprint({"a": b, "b": a})
        True
    """
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
