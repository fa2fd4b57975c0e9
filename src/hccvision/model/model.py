"""A model: backbone, neck and head, with the settings that its input and output depend on."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hccvision import inference
from hccvision.contracts.batches import Loss, Targets
from hccvision.contracts.outputs import Prediction
from hccvision.contracts.samples import Sample
from hccvision.data.dataset import SliceDataset, collate, to_float
from hccvision.documents import MAX_LENGTH
from hccvision.finite import finite_rows
from hccvision.images.placement import POLICIES
from hccvision.images.window import DEFAULT_WINDOW, Window
from hccvision.model import file
from hccvision.model.settings import FILE_FORMAT, MAX_CLASSES, MAX_PIXELS, MAX_SIDE
from hccvision.registry import AUGMENTATIONS
from hccvision.tasks.task import task_of
from hccvision.weights.input_channels import require_normalisation
from hccvision.weights.report import WeightReport


class Model(nn.Module):
    """Normalisation, backbone, neck and head in a row; `forward` returns the raw output.

    Args:
        backbone: computes the feature maps.
        head: built for the maps of that backbone, or neck, at this image size, see `features_of`.
        neck: turns the backbone's maps into others; None: none.
        classes: names, in the order of the class ids.
        positive: the class that means disease; None: the last one.
        image_size: ``(height, width)`` of the input in pixels.
        resize: how images are fitted to that size: ``"stretch"`` or ``"letterbox"``.
        mean: per channel, of images in [0, 1].
        std: per channel, of images in [0, 1].
        window: how grey levels of any depth are mapped to 8 bits.

    Raises:
        ValueError: for class names that are empty or not unique, a ``positive`` that isn't among them, an unknown
            resize policy, an image size beyond the limits, or a mean or std that images can't be normalised by.
        TypeError: if the window is not a `Window`.

    Example:
        >>> from hccvision.model.build import build_model
        >>> model = build_model("mobilenet_v1", "ssd", classes=["tumor"], backbone_options={"width": 0.25})
        >>> model.eval()(torch.zeros(1, 3, 300, 300)).offsets.shape
        torch.Size([1, 3000, 4])
    """

    mean: Tensor
    std: Tensor
    neck: nn.Module | None
    head: Any  # a Head and a torch.nn.Module; Python has no type for both

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        neck: nn.Module | None = None,
        classes: Sequence[str],
        positive: str | None = None,
        image_size: tuple[int, int],
        resize: str = "stretch",
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.5,),
        window: Window = DEFAULT_WINDOW,
    ) -> None:
        super().__init__()
        self.classes = class_names(classes)
        self.positive = self.classes[-1] if positive is None else positive
        if self.positive not in self.classes:
            raise ValueError(f"the positive class {positive!r:.200} is not among the classes {', '.join(self.classes)}")
        if resize not in POLICIES:
            raise ValueError(f"unknown resize policy {resize!r}; known: {', '.join(POLICIES)}")
        if not isinstance(window, Window):
            raise TypeError(f"window is an images.Window, got {window!r}: write hv.images.Window(kind, low, high)")
        require_normalisation(mean, std)
        channels = getattr(backbone, "in_channels", 3)
        if len(mean) not in (1, channels):
            raise ValueError(f"expected one mean and std, or one per channel ({channels}), got {len(mean)}")
        if max(image_size) > MAX_SIDE or math.prod(image_size) > MAX_PIXELS:
            raise ValueError(
                f"expected an image_size of at most {MAX_SIDE} pixels a side and {MAX_PIXELS} in all, got {image_size}"
            )
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.window = window
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.resize = resize
        self.weight_report: WeightReport | None = None
        self.weights: dict[str, str] | None = None
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, -1, 1, 1), persistent=False)

    @property
    def task(self) -> str:
        """Name of the task, as the head states it, such as ``"detection"``."""
        return str(self.head.task)

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return int(getattr(self.backbone, "in_channels", 3))

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.mean.device

    # the network

    def forward(self, images: Tensor) -> Any:
        """Compute the raw output.

        Args:
            images: ``(B, C, H, W) float`` in [0, 1], of the model's image size.

        Returns:
            The head's output: logits ``(B, K)``, or an `SSDOutput`.

        Raises:
            ValueError: for images of another shape.
        """
        return self.head(self.maps(images))

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps, from which the head computes the raw output.

        Args:
            images: as for `forward`.

        Returns:
            The maps of the neck, or of the backbone where there is no neck.

        Raises:
            ValueError: for images of another shape.
        """
        expected = (self.in_channels, *self.image_size)
        if images.dim() != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"expected images (B, {', '.join(map(str, expected))}), got {tuple(images.shape)}; hv.predict resizes"
            )
        maps: tuple[Tensor, ...] = self.backbone((images - self.mean) / self.std)
        return maps if self.neck is None else self.neck(maps)

    def loss(self, output: Any, targets: Targets, *, name: Any = None, **options: Any) -> Loss:
        """Compute the loss of a raw output.

        Args:
            output: of `forward`.
            targets: in pixels of the model's input.
            name: a name in ``LOSSES`` for the head's task, or a loss of your own; None: the head's default.
            options: of the head's ``loss``, such as ``label_smoothing``.

        Returns:
            Sums and count; ``loss["loss"]`` is the normalised total, ``loss.backward()`` its gradient.
        """
        loss: Loss = self.head.loss(output, targets, name=name, **options)
        return loss

    def decode(self, output: Any, **options: Any) -> Any:
        """Decode a raw output.

        Args:
            output: of `forward`.
            options: of the head's ``decode``, such as ``score_threshold``.

        Returns:
            ``(B, K)`` probabilities, or a list of `Detections` in pixels of the model's input.
        """
        return self.head.decode(output, **options)

    # inference

    def prepare(self, device: torch.device) -> None:
        """Move to a device and switch to evaluation mode.

        Args:
            device: target device.
        """
        self.eval().to(device)

    def predict_batch(self, images: Sequence[np.ndarray], **options: Any) -> Iterable[Any]:
        """Decode a batch of images.

        Args:
            images: ``(H, W, C) uint8``, of the model's image size and channels.
            options: of the head's ``decode``.

        Returns:
            One entry per image, as `decode` returns them; a `FloatingPointError` where the raw output isn't finite.
        """
        pixels = torch.from_numpy(np.stack(images)).to(self.device).permute(0, 3, 1, 2)  # channels last in memory
        output = self(pixels.float() / 255)
        finite = finite_rows(output, len(images))
        if not all(finite):
            return inference.answer_finite(self, images, finite, options)
        decoded: Iterable[Any] = self.decode(output, **options)
        return decoded

    def predict(self, inputs: Any, **options: Any) -> list[Prediction]:
        """Predict images, each prepared as the model was trained; see `hv.predict`.

        Args:
            inputs: paths, arrays, tensors, PIL images or samples.
            options: ``batch``, ``device``, ``progress``, and those of the head's ``decode``.

        Returns:
            One prediction per input, in order.
        """
        return list(inference.run(self, inputs, **options))

    # data, for a training loop of your own

    def dataset(self, samples: Sequence[Sample], *, cache: str | os.PathLike[str] | None = None) -> SliceDataset:
        """Return samples as a data set for this model: its image size, channels, window and class ids.

        Args:
            samples: annotated as the task needs them and free of problems, see `usable`.
            cache: a folder for the decoded slices; None: they are kept in memory.

        Returns:
            The data set; `collate` makes batches of its items.

        Raises:
            ValueError: for a sample without ground truth, or of a class that the model doesn't know.
        """
        return SliceDataset(
            samples,
            task=task_of(self),
            image_size=self.image_size,
            resize=self.resize,
            channels=self.in_channels,
            window=self.window,
            cache=cache,
        )

    def loader(
        self,
        samples: Sequence[Sample] | SliceDataset,
        *,
        batch: int = 8,
        augmentation: Any = "none",
        shuffle: bool = True,
        seed: int = 0,
        workers: int = 0,
    ) -> Loader:
        """Return batches of samples for a training loop of your own.

        Args:
            samples: annotated as the task needs them, or a data set of `dataset`.
            batch: images at a time; the last batch may be smaller.
            augmentation: a name in ``AUGMENTATIONS``, or a callable ``(images, targets, generator)``.
            shuffle: draw the samples in a new order in each epoch.
            seed: of the order and the augmentation.
            workers: processes that read images.

        Returns:
            An iterable, with a length, over ``images (B, C, H, W) float32`` in [0, 1] and `Targets`, both on the
            model's device.

        Example:
            >>> import tempfile
            >>> from hccvision import phantom
            >>> from hccvision.annotations.voc_folder import read_voc_folder
            >>> from hccvision.model.build import build_model
            >>> root = phantom.write_dataset(tempfile.mkdtemp() + "/liver", patients=2, slices=2, seed=0)
            >>> model = build_model("mobilenet_v1", "ssd", classes=["hcc"], backbone_options={"width": 0.25})
            >>> for images, targets in model.loader(read_voc_folder(root), batch=4, augmentation="light"):
            ...     model.loss(model(images), targets).backward()
        """
        data = samples if isinstance(samples, SliceDataset) else self.dataset(samples)
        return Loader(self, data, batch, AUGMENTATIONS.resolve(augmentation), shuffle, seed, workers)

    # files

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the weights and all the settings to one safetensors file.

        A part that no registry built can't be named in the file, which then says so: `load_model` asks for it.

        Args:
            path: of the file; an older file there is replaced once the new one is complete.

        Returns:
            The path.
        """
        return file.write(path, self.state_dict(), self.settings())

    def settings(self) -> dict[str, Any]:
        """Return the settings that are saved with the weights.

        Returns:
            Plain values, ready for JSON but for default boxes given as data.
        """
        parts = {kind: part for kind in ("backbone", "neck", "head") if (part := getattr(self, kind)) is not None}
        return {
            "format": FILE_FORMAT,
            **{k: [*p.built_from] if hasattr(p, "built_from") else file.note(p) for k, p in parts.items()},
            "classes": list(self.classes),
            "positive": self.positive,
            "image_size": list(self.image_size),
            "resize": self.resize,
            "window": dataclasses.asdict(self.window),
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "weights": self.weights,
        }


class Loader:
    """Batches of a data set on the model's device, see `Model.loader`."""

    def __init__(
        self, model: Model, data: SliceDataset, batch: int, augment: Any, shuffle: bool, seed: int, workers: int
    ) -> None:
        self.model = model
        self.augment = augment
        self.order, self.draws = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
        self.batches: DataLoader[Any] = DataLoader(
            data, batch, shuffle=shuffle, generator=self.order, collate_fn=collate, num_workers=workers
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Targets]]:
        for images, targets, _ in self.batches:
            images, targets = to_float(images.to(self.model.device)), targets.to(self.model.device)
            yield self.augment(images, targets, self.draws)


def class_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Check class names.

    Args:
        classes: a list of names.

    Returns:
        The names as a tuple.

    Raises:
        ValueError: if they are a single string, empty, not unique, too many or too long.
    """
    if isinstance(classes, str):
        raise ValueError(f"classes is a list of names, got the string {classes!r}; write [{classes!r}]")
    names = tuple(classes)
    if not names or any(not isinstance(n, str) or not n for n in names) or len(set(names)) != len(names):
        raise ValueError(f"classes must be different, non-empty names, got {list(names)}")
    if len(names) > MAX_CLASSES or max(map(len, names)) > MAX_LENGTH:
        raise ValueError(
            f"classes are at most {MAX_CLASSES} names of at most {MAX_LENGTH} characters, got {len(names)} of up to "
            f"{max(map(len, names))}"
        )
    return names
