"""Models of other libraries and recorded predictions as predictors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hccvision import inference
from hccvision.contracts.outputs import Prediction
from hccvision.finite import finite_rows
from hccvision.images.window import DEFAULT_WINDOW, Window
from hccvision.model.model import class_names
from hccvision.tasks.task import build_task, task_of
from hccvision.weights.formats import IMAGENET_MEAN, IMAGENET_STD
from hccvision.weights.input_channels import require_normalisation


class WrappedModel:
    """A model of another library as a predictor, see `wrap`."""

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        classes: Sequence[str],
        task: str,
        positive: str | None,
        image_size: tuple[int, int] | None,
        normalisation: tuple[Sequence[float], Sequence[float]] | None,
        decode: Callable[..., Iterable[Any]] | None,
        first_label: int,
    ) -> None:
        self.model = model
        self.classes = class_names(classes)
        self.task = task
        self.positive = self.classes[-1] if positive is None else positive
        self.image_size = image_size
        self.resize = "stretch"
        self.window: Window = DEFAULT_WINDOW
        self.in_channels = 3 if normalisation is None else len(normalisation[0])
        self.normalisation = normalisation
        self.decode = decode
        self.first_label = first_label
        self.device = torch.device("cpu")

    def prepare(self, device: torch.device) -> None:
        """Move to a device and switch to evaluation mode.

        Args:
            device: target device.
        """
        self.device = device
        if isinstance(self.model, nn.Module):
            self.model.eval().to(device)

    def predict_batch(self, images: Sequence[np.ndarray], **options: Any) -> Iterable[Any]:
        """Return the decoded output for a batch of images.

        Args:
            images: ``(H, W, C) uint8``; all of ``image_size``, unless that is None.
            options: ``score_threshold``, the lowest score of a detection, in [0, 1]; with a ``decode`` of your own, its
                keyword arguments.

        Returns:
            One entry per image; a `FloatingPointError` where the model's output isn't finite.
        """
        pixels = [self._tensor(image) for image in images]
        output = self.model(pixels if self.image_size is None else torch.stack(pixels))
        finite = finite_rows(output, len(images))
        if not all(finite):
            return inference.answer_finite(self, images, finite, options)
        if self.decode is not None:
            return self.decode(output, **options)
        return task_of(self).decode(output, first_label=self.first_label, **options)

    def predict(self, inputs: Any, **options: Any) -> list[Prediction]:
        """Predict images; see `hv.predict`.

        Args:
            inputs: paths, arrays, tensors, PIL images or samples.
            options: ``batch``, ``device``, ``progress``, and those of `answer`.

        Returns:
            One prediction per input, in order.
        """
        return list(inference.run(self, inputs, **options))

    def _tensor(self, image: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.array(image)).to(self.device).permute(2, 0, 1).float() / 255
        if self.normalisation is None:
            return tensor
        mean, std = (torch.tensor(v, device=self.device).view(-1, 1, 1) for v in self.normalisation)
        return (tensor - mean) / std


def wrap(
    model: Callable[..., Any],
    *,
    classes: Sequence[str],
    task: str = "detection",
    positive: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
    decode: Callable[..., Iterable[Any]] | None = None,
    first_label: int = 1,
) -> WrappedModel:
    """Turn a torchvision or timm model, or any callable, into a predictor.

    A detector is called with a list of images ``(C, H, W) float32`` in [0, 1], each of its own size, and returns one
    dictionary of ``boxes (N, 4)`` in pixels, ``scores (N,)`` and ``labels (N,)`` per image, as torchvision's do. A
    classifier is called with a normalised batch ``(B, C, H, W)`` and returns logits ``(B, K)``. For any other output,
    pass ``decode``.

    Args:
        model: a module, which is moved to the device and put into evaluation mode, or any callable.
        classes: names, in the order of the model's outputs, without background.
        task: a name in ``TASKS``.
        positive: the class that means disease; None: the last one.
        image_size: side or ``(height, width)`` that images are stretched to, to form a batch; None: 224 for
            classifiers, and each image's own size for detectors.
        normalisation: mean and standard deviation of each channel; None: for classifiers those that a timm model
            states, or ImageNet's; for detectors none, since torchvision's normalise their input themselves.
        decode: turns the model's output for a batch into one entry per image, as a head's ``decode`` does; None: the
            model's output has the form above.
        first_label: a detector's own label of the first class; torchvision counts from 1, 0 being the background.

    Returns:
        A predictor: `evaluate`, `CAD`, `propose` and `predict` take it.

    Raises:
        KeyError: for an unknown task; the message lists the known ones.
        ValueError: for class names that are empty or not unique, a ``positive`` that isn't among them, or a mean or std
            that images can't be normalised by.

    Example:
        >>> def detect_centre(images):
        ...     box = torch.tensor([[8.0, 8.0, 24.0, 24.0]])
        ...     return [{"boxes": box, "scores": torch.tensor([0.9]), "labels": torch.tensor([1])} for _ in images]
        >>> predictor = wrap(detect_centre, classes=["hcc"])
        >>> predictor.predict(np.zeros((32, 32), np.uint8), device="cpu")[0].detections.boxes.tolist()
        [[8.0, 8.0, 24.0, 24.0]]
    """
    described = build_task(task, class_names(classes), positive=positive)
    side = described.wrapped_image_size if image_size is None else image_size
    if normalisation is None and described.wrapped_image_size is not None:
        stated: Any = getattr(model, "pretrained_cfg", None) or {}
        normalisation = stated.get("mean", IMAGENET_MEAN), stated.get("std", IMAGENET_STD)
    if normalisation is not None:
        require_normalisation(*normalisation)
    return WrappedModel(
        model,
        classes=described.classes,
        task=task,
        positive=described.positive,
        image_size=(side, side) if isinstance(side, int) else side,
        normalisation=normalisation,
        decode=decode,
        first_label=first_label,
    )


class RecordedPredictions:
    """A predictor that returns predictions made earlier, such as those read by `read_predictions`.

    Args:
        predictions: with different paths, one per image.
        classes: names, in the order of the class ids.
        task: a name in ``TASKS``.
        positive: the class that means disease; None: the last one.

    Raises:
        KeyError: for an unknown task; the message lists the known ones.
        ValueError: if two predictions have the same path; for class names that are empty or not unique, or a
            ``positive`` that isn't among them.

    Example:
        >>> recorded = RecordedPredictions([Prediction("a/b.png", error="broken")], classes=["hcc"], task="detection")
        >>> [prediction.error for prediction in recorded.predict(["a/b.png"])]
        ['broken']
    """

    def __init__(
        self, predictions: Iterable[Prediction], *, classes: Sequence[str], task: str, positive: str | None = None
    ) -> None:
        described = build_task(task, class_names(classes), positive=positive)
        self.task = task
        self.classes = described.classes
        self.positive = described.positive
        self._by_path: dict[Path, Prediction] = {}
        for prediction in predictions:
            path = Path(os.path.abspath(prediction.path))
            if path in self._by_path:
                raise ValueError(f"{prediction.path}: there are two predictions for this image: keep one")
            self._by_path[path] = prediction

    def predict(self, inputs: Any, **options: Any) -> list[Prediction]:
        """Return the recorded predictions.

        Args:
            inputs: paths or samples of images, or a folder.
            options: ignored; other predictors take ``batch`` and ``device``.

        Returns:
            One prediction per input, in order; an image without a recorded prediction, or one that is not a file, has
            an ``error``.
        """
        found = []
        for number, item in enumerate(inference.list_inputs(inputs)):
            name = inference.name_of(item, number)
            missing = Prediction(name, error=f"{name}: there is no recorded prediction for this image")
            found.append(self._by_path.get(Path(os.path.abspath(name)), missing))
        return found
