"""Recipes: how to train, as plain values; and the paper's own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a model is trained, but for the model and the data.

    Args:
        optimiser: ``"sgd"``, ``"adam"`` or ``"adamw"``.
        learning_rate: of the backbone.
        head_learning_rate: of the head; None: the same.
        momentum: of SGD.
        weight_decay: of all trained parameters.
        epochs: passes over the training set.
        batch: images in a step, those of all processes together.
        accumulate: parts in which a step's images go through the network, one after the other, to save memory. The
            gradient is that of the whole batch, as long as batch norms are frozen: those that are trained see each part
            by itself.
        schedule: of the learning rates: ``"constant"``, ``"cosine"`` (by epoch, to 0), ``"step"`` (by epoch) or
            ``"onecycle"`` (by step: from a 25th of the rates up to them and down to next to nothing, each along half a
            cosine; the momentum stays as it is).
        step_epochs: of ``"step"``: epochs after which the rates fall, again and again.
        step_factor: of ``"step"``: by which they are then multiplied.
        rise: of ``"onecycle"``: share of the steps over which the rates rise.
        warmup: epochs, whole or not, over which the learning rates first rise step by step.
        clip_norm: gradients of all parameters together are scaled down to this norm; None: never.
        augmentation: a registered name.
        views: so many augmented views of each training image are drawn once and stay the same in all epochs; an epoch
            has all of them, as with the paper's 2000 images made of 334. None: each epoch draws anew.
        loss: one of the head's losses by name; None: the head's own.
        label_smoothing: share of each label that is spread evenly over all classes, in [0, 1).
        class_weights: how much each of the model's classes counts in the classification loss: numbers in their order,
            or ``"balanced"``, in inverse proportion to their frequency among training images, or among lesions for a
            detector; None: all alike.
        frozen: parts of the model that are not trained, by the start of their names, such as ``("backbone",)``; their
            batch norms stay in eval mode.
        thaw: parts that are frozen at first, each with the number of epochs: ``((3, "backbone"), (1,
            "backbone.layers.13"))`` trains the last layer from the second epoch on and the rest from the fourth. Where
            names of `frozen` and `thaw` overlap the longest decides.
        ema: decay of a moving average of the weights, taken after each step, such as 0.999; it is this average that is
            then validated and kept as best and last model. None: the weights themselves are.
        checkpointing: keep less of the backbone's activations and compute the rest again on the way back, which saves
            memory and costs a third more time.
        precision: of the network: ``"fp32"``, or with less memory and time ``"bf16"``, or ``"fp16"`` on CUDA. Weights,
            loss and decoding are fp32 all the same.
        balanced: draw training samples, with replacement, so that each class comes as often as any other; for a
            detector or a multi-label classifier the classes are slices with and without lesions.
        per_patient: at most so many different slices of a patient in an epoch, others each time; None: all. `balanced`
            then draws among these, see `PatientSampler`.
        monitor: the figure of the history by which the best epoch is chosen: a loss or a part of it is best when
            lowest, anything else when highest. Without validation data the last epoch counts as the best.
        patience: stop after so many epochs in a row without a better `monitor`; None: never.
        seed: of shuffling, augmentation and dropout.

    Raises:
        ValueError: for a value out of its range.

    Example:
        >>> from dataclasses import replace
        >>> replace(paper_ssd(), epochs=5).head_learning_rate
        0.01
    """

    optimiser: str = "adamw"
    learning_rate: float = 1e-3
    head_learning_rate: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    epochs: int = 20
    batch: int = 8
    accumulate: int = 1
    schedule: str = "constant"
    step_epochs: int = 10
    step_factor: float = 0.1
    rise: float = 0.3
    warmup: float = 0.0
    clip_norm: float | None = None
    augmentation: str = "none"
    views: int | None = None
    loss: str | None = None
    label_smoothing: float = 0.0
    class_weights: str | tuple[float, ...] | None = None
    frozen: tuple[str, ...] = ()
    thaw: tuple[tuple[int, str], ...] = ()
    ema: float | None = None
    checkpointing: bool = False
    precision: str = "fp32"
    balanced: bool = False
    per_patient: int | None = None
    monitor: str = "val_loss"
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.frozen, str):
            raise ValueError(f"frozen is a tuple of names, got the string {self.frozen!r}; write ({self.frozen!r},)")
        object.__setattr__(self, "frozen", tuple(self.frozen))  # from JSON it comes as a list
        object.__setattr__(self, "thaw", _thaw(self.thaw))
        if self.class_weights is not None and not isinstance(self.class_weights, str):
            object.__setattr__(self, "class_weights", tuple(self.class_weights))
        for name, known in _KNOWN.items():
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}")
        for name in ("epochs", "batch", "accumulate", "step_epochs", "views", "per_patient", "patience"):
            value, optional = getattr(self, name), name in ("views", "per_patient", "patience")
            if not (optional and value is None) and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} is a whole number from 1{', or None' * optional}, got {value!r}")
        for name in ("learning_rate", "head_learning_rate", "step_factor"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is above 0 and finite, got {value}")
        for name in ("warmup", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is at least 0 and finite, got {getattr(self, name)}")
        for name in ("momentum", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is in [0, 1), got {getattr(self, name)}")
        for name in ("rise", "ema"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name} is between 0 and 1, got {value}")
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise ValueError(f"clip_norm is above 0 and finite, got {self.clip_norm}; None: no clipping")
        if self.accumulate > self.batch:
            raise ValueError(f"a batch of {self.batch} can't be cut into {self.accumulate} parts: lower accumulate")
        if self.schedule == "onecycle" and self.warmup:
            raise ValueError("the schedule 'onecycle' rises by itself: leave warmup at 0, and see rise")
        self._check_class_weights()

    def _check_class_weights(self) -> None:
        weights = self.class_weights
        if isinstance(weights, str):
            if weights != "balanced":
                raise ValueError(f"class_weights are 'balanced', a tuple of numbers, or None, got {weights!r}")
        elif weights is not None and (not weights or not all(0 < w < math.inf for w in weights)):
            raise ValueError(f"class_weights are above 0 and finite, got {weights}")


_KNOWN = {
    "optimiser": ("sgd", "adam", "adamw"),
    "schedule": ("constant", "cosine", "step", "onecycle"),
    "precision": ("fp32", "bf16", "fp16"),
}


def _thaw(entries: Iterable[Sequence[Any]]) -> tuple[tuple[int, str], ...]:
    pairs = []
    for entry in entries:
        match entry:
            case (int(epochs), str(part)) if epochs >= 1:
                pairs.append((epochs, part))
            case _:
                raise ValueError(
                    f"thaw holds pairs of epochs from 1 and a name, as in ((3, 'backbone'),), got {entry!r}"
                )
    return tuple(pairs)


def paper_vgg16() -> Recipe:
    """Give the paper's recipe for its VGG-16 classifier: Adam 0.001, batch 8, 100 epochs.

    What the paper leaves open: whether the convolutions are trained. They are frozen here, as is usual in transfer
    learning on a few hundred images, and as the paper's laptop suggests; ``replace(paper_vgg16(), frozen=())`` trains
    them. Nor does it state a schedule (constant here) or how the best epoch is chosen (by the validation loss).

    Returns:
        The recipe.

    Source:
        Mizouri 2026, tables 2 and 3.
    """
    return Recipe(optimiser="adam", learning_rate=1e-3, epochs=100, batch=8, augmentation="paper", frozen=("backbone",))


def paper_ssd() -> Recipe:
    """Give the paper's recipe for its MobileNetV1-SSD, but with light augmentation: SGD 0.001, head 0.01, batch 5.

    The augmentation is ours, chosen by evidence: on 46 brain MR slices whose lesions have a median side of 17 % of the
    image, five-fold, mAP@0.5 was 0.75 with ``light`` and 0.53 with ``paper`` (``benchmarks/results/lesion_sizes.md``).
    The paper's own is ``replace(paper_ssd(), augmentation="paper")``.

    What the paper leaves open: momentum 0.9, weight decay 5e-4 and the cosine schedule are those of
    qfgaohao/pytorch-ssd, which it builds on. The first epoch's warm-up and the clipping at a norm of 100 are ours: with
    a lesion or two in an image few default boxes share the loss, gradients are at first a hundred times those of a
    trained network, and at these rates they would undo the pretrained backbone. Other data never meet that norm.

    Returns:
        The recipe.

    Source:
        Mizouri 2026, tables 2 and 3.
    """
    return Recipe(
        optimiser="sgd",
        learning_rate=1e-3,
        head_learning_rate=1e-2,
        momentum=0.9,
        weight_decay=5e-4,
        epochs=50,
        batch=5,
        schedule="cosine",
        warmup=1.0,
        clip_norm=100.0,
        augmentation="light",
    )


def quick() -> Recipe:
    """Give a recipe for small machines: AdamW with a cosine schedule over few epochs, light augmentation.

    Returns:
        The recipe; it suits classifiers and detectors alike.
    """
    return Recipe(
        optimiser="adamw",
        learning_rate=5e-4,
        head_learning_rate=1e-3,
        weight_decay=1e-2,
        epochs=12,
        batch=8,
        schedule="cosine",
        augmentation="light",
    )
