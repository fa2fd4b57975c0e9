"""Prediction with the model's own preprocessing; boxes come back in the pixels of the original image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from hccvision import images as image_functions
from hccvision.boxes import area
from hccvision.contracts import Detections, Prediction
from hccvision.model import Model

Input = str | os.PathLike[str] | np.ndarray | torch.Tensor


def choose_device(device: str = "auto") -> torch.device:
    """Turn a device's name into a device.

    Args:
        device: ``"auto"`` (CUDA if there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Returns:
        The device.

    Raises:
        ValueError: if it isn't there.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}; known: 'auto', 'cpu', 'cuda'") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f'device={device!r}, but torch finds no CUDA device here; use "auto" or "cpu"')
    return chosen


def predict(
    model: Model,
    inputs: Input | Sequence[Input],
    *,
    batch: int = 8,
    device: str = "auto",
    progress: bool = False,
    **options: Any,
) -> list[Prediction]:
    """Predict images, each prepared as the model was trained.

    Args:
        model: classifier or detector; is put into evaluation mode and onto the device.
        inputs: paths of images, or arrays ``(H, W)`` or ``(H, W, C)``, of any size and of 8 or 16 bits; a single one,
            or a folder, will do too. Grey levels come to 8 bits through the model's window; an array of uint8 is taken
            for a picture, all others for raw values, and what can't fit a fixed window is answered by an ``error`` with
            both ranges; see `images.Window`.
        batch: images at a time.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        progress: show a progress bar.
        options: of the head's ``decode``, such as ``score_threshold`` (0.01 unless said; see `Detections.above`).

    Returns:
        One prediction per input, in order. An input that can't be read is answered by its ``error``; the others are
        predicted all the same.

    Raises:
        FileNotFoundError: if a folder given has no images.

    Example:
        >>> from hccvision.model import build_model
        >>> small = {"width": 0.25}
        >>> model = build_model("mobilenet_v1", "linear", classes=["normal", "cancer"], backbone_options=small)
        >>> found = predict(model, [np.zeros((300, 484), np.uint8), "missing.png"], device="cpu")
        >>> found[0].probabilities.shape, found[1].error[:11]
        (torch.Size([2]), 'missing.png')
    """
    where = choose_device(device)
    model.eval().to(where)
    answers: list[Prediction] = []
    items = _listed(inputs)
    starts = range(0, len(items), batch)
    for start in tqdm(starts, desc="predict", disable=None if progress else True):
        chunk = items[start : start + batch]
        loaded = [_load(model, item, start + i) for i, item in enumerate(chunk)]
        good = [entry for entry in loaded if not isinstance(entry, Prediction)]
        decoded = iter(_decode(model, [image for _, image, _ in good], options, where) if good else [])
        for entry in loaded:
            if isinstance(entry, Prediction):
                answers.append(entry)
                continue
            name, _, placement = entry
            answers.append(_answer(name, next(decoded), placement))
    return answers


def to_original(found: Detections, placement: image_functions.Placement) -> Detections:
    """Take detections from the model's input back into the original image.

    Args:
        found: in pixels of the model's input.
        placement: how the image lies in the input.

    Returns:
        On the CPU, boxes in pixels of the original image and cut to its edges; those that lie wholly outside it, as in
        the black bars of a letterbox, are left out.

    Example:
        >>> placement = image_functions.place((300, 600), (300, 300), "letterbox")
        >>> in_the_bar = Detections(torch.tensor([[0.0, 0.0, 50.0, 70.0]]), torch.ones(1), torch.zeros(1).long())
        >>> len(to_original(in_the_bar, placement))
        0
    """
    boxes = placement.to_original(found.boxes.cpu())
    keep = area(boxes) > 0
    return Detections(boxes[keep], found.scores.cpu()[keep], found.labels.cpu()[keep])


def _listed(inputs: Input | Sequence[Input]) -> list[Input]:
    if isinstance(inputs, (np.ndarray, torch.Tensor)):
        return [inputs] if inputs.ndim < 4 else list(inputs)
    if isinstance(inputs, (str, os.PathLike)):
        folder = Path(inputs)
        if not folder.is_dir():
            return [inputs]
        found = sorted(p for p in folder.iterdir() if p.is_file() and image_functions.is_image(p))
        if not found:
            raise FileNotFoundError(f"{folder}: no images in this folder")
        return list(found)
    return list(inputs)


def _load(model: Model, item: Input, number: int) -> tuple[str, np.ndarray, image_functions.Placement] | Prediction:
    name = str(item) if isinstance(item, (str, os.PathLike)) else f"array {number}"
    try:
        if isinstance(item, (str, os.PathLike)):
            image = image_functions.read_image(Path(item), channels=model.in_channels, window=model.window)
        else:
            array = np.asarray(item)
            image = image_functions.from_array(array, channels=model.in_channels, window=model.window)
        return name, *image_functions.resize(image, model.image_size, model.resize)
    except (ValueError, TypeError, OSError, ImportError) as error:
        message = str(error)
        return Prediction(name, error=message if name in message else f"{name}: {message}")


@torch.inference_mode()
def _decode(model: Model, images: list[np.ndarray], options: dict[str, Any], device: torch.device) -> Any:
    pixels = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2)  # already channels last in memory
    return model.decode(model(pixels.float() / 255), **options)


def _answer(name: str, decoded: Any, placement: image_functions.Placement) -> Prediction:
    if isinstance(decoded, Detections):
        return Prediction(name, detections=to_original(decoded, placement))
    return Prediction(name, probabilities=decoded.cpu().clone())
