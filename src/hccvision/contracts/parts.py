"""Protocols of the parts of a model, and of anything that predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from hccvision.contracts.batches import Loss, Targets
from hccvision.contracts.outputs import Prediction


class FeatureSpec(NamedTuple):
    """Feature maps of a backbone or a neck at the model's image size: all that a head needs to know of them.

    Args:
        channels: of each map.
        strides: nominal, input pixels per map cell.
        sizes: ``(height, width)`` of each map, from one dry forward.
        image_size: ``(height, width)`` of the model's input.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    image_size: tuple[int, int]


@runtime_checkable
class Backbone(Protocol):
    """Module that turns images into feature maps, ordered from fine to coarse.

    A backbone is built as ``builder(**options)``. These attributes are optional:

    - ``in_channels``: of the images; 3 if it is missing.
    - ``mean`` and ``std``: per channel, of images in [0, 1], used without pretrained weights; 0.5 if they are missing.
    - ``formats``: `WeightFormat` objects of the files whose weights it reads; none if it is missing.
    - ``hub`` and ``hub_options``: timm's tag of its ImageNet weights, and options of that timm model.
    - ``checkpointing``: settable, turns activation checkpointing on and off.
    - ``check_saved``: static method, raises a ValueError for options that a model file may not give it, such as a place
      to fetch from; of necks and heads likewise.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]  # nominal, input pixels per map cell

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of normalised images ``(B, C, H, W)``."""


@runtime_checkable
class Neck(Protocol):
    """Module between backbone and head that turns feature maps into feature maps.

    A neck is built as ``builder(features: FeatureSpec, **options)`` and states the maps that it returns.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __call__(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Compute the new maps from all maps of the backbone."""


@runtime_checkable
class Head(Protocol):
    """Module that turns feature maps into a raw output, and knows its loss and its decoding.

    A head is built as ``builder(features: FeatureSpec, num_classes: int, **options)``. A recipe with
    ``label_smoothing`` or ``class_weights`` passes them to ``loss``. These attributes are optional:

    - ``default_image_size``: ``(height, width)`` for models built without ``image_size``; 224 × 224 if it is missing.
    - ``evidence(output, label, box)``: returns ``(B,)``, how much speaks for a class, at a box if one is given, for
      `explain` to trace back to the image.
    - ``select(maps)``: returns the part of the maps that the head needs, for a feature cache to store.
    - ``formats``: `WeightFormat` objects of the files whose weights it reads, besides model files of hccvision.
    """

    task: str  # a name in TASKS, such as "classification" or "detection"

    def __call__(self, maps: tuple[Tensor, ...]) -> Any:
        """Compute the raw output from all maps."""

    def loss(self, output: Any, targets: Targets, *, name: Any = None) -> Loss:
        """Compute the summed loss of each part and the count to divide it by.

        ``name`` is a name in ``LOSSES`` for the head's task, a loss itself, or None for the head's default.
        """

    def decode(self, output: Any, *, score_threshold: float = 0.0) -> Any:
        """Decode the raw output into one entry per image, as `Task.prediction` takes it.

        A classifier returns ``(B, K)`` probabilities, a detector one `Detections` per image in pixels of the model's
        input. ``score_threshold`` is the lowest score of a detection; a head without scores ignores it.
        """


@runtime_checkable
class Predictor(Protocol):
    """Anything that predicts: a `Model`, a model wrapped by `wrap`, predictions read from a file, an ensemble.

    Plain attributes serve as ``classes`` and ``task``. A predictor may also have ``positive``, the class that means
    disease, and take ``batch``, ``device`` and ``progress`` in ``predict``.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the class ids."""

    @property
    def task(self) -> str:
        """A name in ``TASKS``."""

    def predict(self, inputs: Any) -> Sequence[Prediction]:
        """Return one prediction per input, in order."""
