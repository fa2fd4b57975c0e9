"""Inference, the one path from inputs to predictions: read, resize, batch, decode, map back to the original."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from hccvision.annotations.left_out import say_left_out
from hccvision.annotations.problems import require_stated_size
from hccvision.annotations.tree import scan
from hccvision.contracts.errors import noted
from hccvision.contracts.outputs import Prediction
from hccvision.contracts.parts import Predictor
from hccvision.contracts.samples import Sample, printable
from hccvision.data.seals import note_opening
from hccvision.finite import is_finite
from hccvision.images.arrays import to_image
from hccvision.images.placement import Placement, place, resize
from hccvision.images.read import read_image
from hccvision.images.window import Window
from hccvision.tasks.task import Task, task_of

Input = str | os.PathLike[str] | np.ndarray | torch.Tensor | Image.Image | Sample
NOT_FINITE = "the model's output is not finite (infinite or NaN): check its weights, mean and std, or train it again"
EXPECTED = "a path, an array, a tensor, a PIL image or a Sample"


class Network(Protocol):
    """What `run` needs of a model: how images are prepared for it, and its decoded output for a batch.

    `Model` and `WrappedModel` are networks.
    """

    window: Window
    resize: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the class ids."""

    @property
    def task(self) -> str:
        """A name in ``TASKS``."""

    @property
    def in_channels(self) -> int:
        """Channels of the images."""

    @property
    def image_size(self) -> tuple[int, int] | None:
        """``(height, width)`` that images are resized to; None: each keeps its own size."""

    def prepare(self, device: torch.device) -> None:
        """Move to a device and switch to evaluation mode."""

    def predict_batch(self, images: Sequence[np.ndarray], **options: Any) -> Iterable[Any]:
        """Return the decoded output for a batch of ``(H, W, C) uint8`` images, one entry per image.

        An entry may be an exception: why there is no answer for that image.
        """


class Tracked(list[Any]):
    """A list that shows a progress bar while it is iterated over.

    Args:
        items: of the list.
        description: shown beside the bar.
    """

    def __init__(self, items: Iterable[Any], description: str) -> None:
        super().__init__(items)
        self.description = description

    def __iter__(self) -> Iterator[Any]:
        return iter(tqdm(super().__iter__(), total=len(self), desc=self.description, disable=None))


class Loaded(NamedTuple):
    """One input, read and resized.

    Args:
        name: of the input.
        image: ``(H, W, C) uint8``, of the model's image size.
        placement: how the original image lies in it.
    """

    name: str
    image: np.ndarray
    placement: Placement


def run(
    model: Network,
    inputs: Input | Iterable[Input],
    *,
    batch: int = 8,
    device: str = "auto",
    progress: bool = False,
    **options: Any,
) -> Iterator[Prediction]:
    """Predict images one batch at a time and yield the predictions of each batch as it is done.

    Args:
        model: a network, such as a `Model`; it is moved to the device and put into evaluation mode.
        inputs: see `predict`; an iterable is read no further ahead than one batch.
        batch: number of images at a time, at least 1.
        device: ``"auto"`` (CUDA if available), ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        progress: show a progress bar.
        options: of the head's ``decode``, such as ``score_threshold``.

    Yields:
        One prediction per input, in order. An input that can't be read has an ``error``; the others are not affected.

    Raises:
        ValueError: for a ``batch`` below 1, or an unknown or unavailable device.
        FileNotFoundError: if a folder given has no images.
        TypeError: for inputs that are neither an image nor an iterable of images.

    Example:
        >>> from hccvision.model.build import build_model
        >>> small = {"width": 0.25}
        >>> model = build_model("mobilenet_v1", "linear", classes=["normal", "cancer"], backbone_options=small)
        >>> slices = (np.full((64, 64), level, np.uint8) for level in (0, 128))
        >>> [prediction.path for prediction in run(model, slices, device="cpu")]
        ['array 0', 'array 1']
    """
    if batch < 1:
        raise ValueError(f"expected a batch of at least 1 image, got batch={batch}")
    return _run(model, list_inputs(inputs), batch, choose_device(device), progress, options)


def _run(
    model: Network,
    items: Iterable[Input],
    batch: int,
    device: torch.device,
    progress: bool,
    options: dict[str, Any],
) -> Iterator[Prediction]:
    task = task_of(model)
    model.prepare(device)
    numbered = enumerate(tqdm(items, desc="predict", disable=None if progress else True))
    opened: set[Path | None] = set()
    while chunk := list(islice(numbered, batch)):
        looked_at = [item for _, item in chunk if isinstance(item, Sample) and item.seal not in opened]
        note_opening(looked_at, "predict", model)
        opened.update(sample.seal for sample in looked_at)
        entries = [load(model, item, number) for number, item in chunk]
        loaded = [entry for entry in entries if isinstance(entry, Loaded)]
        predictions = iter(_predict_batch(model, task, loaded, options))
        for entry in entries:
            yield next(predictions) if isinstance(entry, Loaded) else entry


def _predict_batch(
    model: Network, task: Task, loaded: Sequence[Loaded], options: dict[str, Any]
) -> Sequence[Prediction]:
    if not loaded:
        return []
    with torch.inference_mode(), noted(lambda: f"while predicting {', '.join(entry.name for entry in loaded)}"):
        decoded = list(model.predict_batch([entry.image for entry in loaded], **options))
    return place_back(task, decoded, [entry.name for entry in loaded], [entry.placement for entry in loaded])


def place_back(
    task: Task, decoded: Iterable[Any], names: Sequence[str], placements: Sequence[Placement]
) -> list[Prediction]:
    """Turn the decoded output of a batch into predictions about the original images.

    Args:
        task: of the model.
        decoded: one entry per image, as the head's ``decode`` returns it, or an exception.
        names: of the images.
        placements: how each image lies in the model's input.

    Returns:
        One prediction per image; it has an ``error`` if the entry is an exception, or holds a number that isn't finite.

    Raises:
        ValueError: if the number of decoded entries is not that of the images.
    """
    entries = list(decoded)
    if len(entries) != len(names):
        raise ValueError(
            f"decoding returned {len(entries)} entries for a batch of {len(names)} images: expected one per image"
        )
    rows = zip(names, entries, placements, strict=True)
    return [
        Prediction(name, error=printable(f"{name}: {entry}"))
        if isinstance(entry, Exception)
        else require_finite(task.prediction(name, entry, placement), entry)
        for name, entry, placement in rows
    ]


def answer_finite(
    model: Network, images: Sequence[np.ndarray], finite: Sequence[bool], options: dict[str, Any]
) -> list[Any]:
    """Answer the images of a batch whose raw output is finite, without the others, so that these can't spoil it.

    Args:
        model: a network.
        images: of the batch.
        finite: for each of them, whether its raw output is finite; not all are.
        options: of ``predict_batch``.

    Returns:
        The decoded output of each; a `FloatingPointError` for those whose output isn't finite.
    """
    kept = [image for image, fine in zip(images, finite, strict=True) if fine]
    decoded = iter(model.predict_batch(kept, **options) if kept else ())
    return [next(decoded) if fine else FloatingPointError(NOT_FINITE) for fine in finite]


def require_finite(prediction: Prediction, output: Any = None) -> Prediction:
    """Return a prediction, or one with an error in its place if a number of it is infinite or NaN.

    Args:
        prediction: of any predictor.
        output: from which it was made, to be checked as well.

    Returns:
        The prediction, or one that has only an ``error``: what is not a number says nothing of a lesion.

    Example:
        >>> require_finite(Prediction("a.png", torch.tensor([torch.nan, torch.nan]))).error[-23:]
        ' std, or train it again'
    """
    if is_finite(prediction) and is_finite(output):
        return prediction
    return Prediction(prediction.path, error=printable(f"{prediction.path}: {NOT_FINITE}"))


def predict(model: Predictor, inputs: Input | Iterable[Input], **options: Any) -> list[Prediction]:
    """Predict images, each prepared as the model was trained.

    Args:
        model: a `Model`, or any other predictor; a `Model` is put into evaluation mode and moved to the device.
        inputs: an iterable, such as a list or a generator, of paths, arrays ``(H, W)`` or ``(H, W, C)``, tensors, PIL
            images or `Sample` objects; or a single one of these, a batch of arrays ``(N, H, W, C)``, or a folder: all
            images in it and its subfolders. Grey levels of any depth are mapped to 8 bits by the model's window; an
            array of uint8 counts as a picture, any other as raw values; see `images.Window`.
        options: of the predictor's ``predict``. A `Model` takes ``batch=8``, ``device="auto"``, ``progress=False`` and
            the options of the head's ``decode``, such as ``score_threshold`` (0.01 by default; see `Detections.above`).

    Returns:
        One prediction per input, in order. An input that can't be read has an ``error``; the others are not affected.
        For many inputs, `inference.run` yields the predictions batch by batch instead.

    Raises:
        ValueError: for a ``batch`` below 1, or an unknown or unavailable device.
        FileNotFoundError: if a folder given has no images.
        TypeError: for inputs that are neither an image nor an iterable of images.

    Example:
        >>> from hccvision.model.build import build_model
        >>> small = {"width": 0.25}
        >>> model = build_model("mobilenet_v1", "linear", classes=["normal", "cancer"], backbone_options=small)
        >>> found = predict(model, [np.zeros((300, 484), np.uint8), "missing.png"], device="cpu")
        >>> found[0].probabilities.shape, found[1].error[:11]
        (torch.Size([2]), 'missing.png')
    """
    return [require_finite(prediction) for prediction in model.predict(inputs, **options)]


def choose_device(device: str = "auto") -> torch.device:
    """Return the device of a name.

    Args:
        device: ``"auto"`` (CUDA if available), ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Returns:
        The device.

    Raises:
        ValueError: if it is unknown or unavailable.

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


def list_inputs(inputs: Input | Iterable[Input]) -> Iterable[Input]:
    """Return one input, a batch or a folder with its subfolders as an iterable of single images.

    Args:
        inputs: see `predict`.

    Returns:
        The images; an iterable given is returned as it is, unread.

    Raises:
        FileNotFoundError: if a folder given has no images.
        TypeError: for anything that is neither an image nor iterable.
    """
    if isinstance(inputs, (np.ndarray, torch.Tensor)):
        return [inputs] if inputs.ndim < 4 else list(inputs)
    if isinstance(inputs, (str, os.PathLike)):
        folder = Path(inputs)
        if not folder.is_dir():
            return [inputs]
        tree = scan(folder)
        say_left_out(tree.masks, "masks of other images")
        say_left_out([s.path for s in tree.odd], "entries that are no files")
        if not tree.images:
            raise FileNotFoundError(f"{folder}: no images in this folder or its subfolders")
        return list(tree.images)
    if isinstance(inputs, (Image.Image, Sample)):
        return [inputs]
    if not isinstance(inputs, Iterable):
        raise TypeError(f"expected {EXPECTED}, or an iterable of these, got {type(inputs).__name__}")
    return inputs


def name_of(item: Input, number: int) -> str:
    """Return the name of an input in predictions and messages.

    Args:
        item: a single image.
        number: of the input, from 0.

    Returns:
        The path; for an image that is not a file ``"array 3"``, with its number.

    Example:
        >>> name_of(Sample(Path("a.png")), 0), name_of(np.zeros((8, 8)), 3)
        ('a.png', 'array 3')
    """
    path = item.path if isinstance(item, Sample) else item
    return str(path) if isinstance(path, (str, os.PathLike)) else f"array {number}"


def load(model: Network, item: Input, number: int) -> Loaded | Prediction:
    """Read and resize one input.

    Args:
        model: its image size, resize policy, channels and window are used.
        item: a single image.
        number: of the input, from 0; see `name_of`.

    Returns:
        The input, ready for the model; or a prediction whose ``error`` says why it can't be read.
    """
    name = name_of(item, number)
    path = item.path if isinstance(item, Sample) else item
    try:
        if isinstance(path, (str, os.PathLike)):
            image = read_image(Path(path), channels=model.in_channels, window=model.window)
        elif isinstance(path, Image.Image) or hasattr(path, "__array__"):  # also arrays of other libraries
            image = to_image(path, channels=model.in_channels, window=model.window)
        else:
            raise TypeError(f"expected {EXPECTED}, got {type(path).__name__}")
        if isinstance(item, Sample):
            require_stated_size(item, image.shape[:2])
        if model.image_size is None:
            return Loaded(name, image, place(image.shape[:2], image.shape[:2], "stretch"))
        return Loaded(name, *resize(image, model.image_size, model.resize))
    except Exception as error:  # whatever a decoder raises concerns this input alone
        message = str(error) or type(error).__name__
        return Prediction(name, error=printable(message if name in message else f"{name}: {message}"))
