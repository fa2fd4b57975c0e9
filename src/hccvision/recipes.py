"""Recipes: how to train, as plain values; and the paper's own."""

from __future__ import annotations

import math
from dataclasses import dataclass


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
        batch: images in a step.
        schedule: of the learning rates over the epochs: ``"constant"`` or ``"cosine"`` (to 0).
        warmup: epochs, whole or not, over which the learning rates first rise step by step.
        clip_norm: gradients of all parameters together are scaled down to this norm; None: never.
        augmentation: a registered name.
        loss: one of the head's losses by name; None: the head's own.
        frozen: parts of the model that are not trained, by the start of their names, such as ``("backbone",)``; their
            batch norms stay in eval mode.
        balanced: draw training samples, with replacement, so that each class comes as often as any other; for a
            detector or a multi-label classifier the classes are slices with and without lesions.
        per_patient: at most so many different slices of a patient in an epoch, others each time; None: all. `balanced`
            then draws among these, see `PatientSampler`.
        monitor: the figure of the history by which the best epoch is chosen: a loss or a part of it is best when
            lowest, anything else when highest. Without validation data the last epoch counts as the best.
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
    schedule: str = "constant"
    warmup: float = 0.0
    clip_norm: float | None = None
    augmentation: str = "none"
    loss: str | None = None
    frozen: tuple[str, ...] = ()
    balanced: bool = False
    per_patient: int | None = None
    monitor: str = "val_loss"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("optimiser", ("sgd", "adam", "adamw")), ("schedule", ("constant", "cosine"))):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}")
        for name in ("epochs", "batch"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is a whole number from 1, got {value!r}")
        if self.per_patient is not None and (not isinstance(self.per_patient, int) or self.per_patient < 1):
            raise ValueError(f"per_patient is a whole number from 1, or None, got {self.per_patient!r}")
        for name in ("learning_rate", "head_learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is above 0 and finite, got {value}")
        if not 0 <= self.warmup < math.inf:
            raise ValueError(f"warmup is at least 0 and finite, got {self.warmup}")
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise ValueError(f"clip_norm is above 0 and finite, got {self.clip_norm}; None: no clipping")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is in [0, 1), got {self.momentum}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is at least 0 and finite, got {self.weight_decay}")
        if isinstance(self.frozen, str):
            raise ValueError(f"frozen is a tuple of names, got the string {self.frozen!r}; write ({self.frozen!r},)")


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
