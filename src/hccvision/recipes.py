"""Recipes: how to train, as plain values; and the paper's own recipes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any

from hccvision.registry import AUGMENTATIONS, OPTIMISERS, SCHEDULES


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a training, apart from the model and the data.

    Files hold names and plain values only. Of an optimiser, schedule, augmentation or loss given as an object the run
    folder notes its module and name; resuming needs the same object again.

    Args:
        optimiser: a name in ``OPTIMISERS``, such as ``"sgd"``, ``"adam"`` or ``"adamw"``, or a callable
            ``(groups, recipe, **optimiser_options) -> torch.optim.Optimizer``.
        learning_rate: of the backbone.
        head_learning_rate: of the head; None: the same.
        momentum: of SGD.
        weight_decay: of all trained parameters.
        epochs: number of passes over the training set.
        batch: number of images in a step, over all processes.
        accumulate: number of parts in which the images of a step pass through the network one after the other, to save
            memory. The gradient is that of the whole batch if batch norms are frozen; trained batch norms use the
            statistics of each part.
        schedule: of the learning rates: a name in ``SCHEDULES``, such as ``"constant"``, ``"cosine"`` (per epoch, to
            0), ``"step"`` (per epoch) or ``"onecycle"`` (per step: from 1/25 of the rates up to them and down to nearly
            0, each along half a cosine; momentum is not changed); or a callable
            ``(recipe, progress, **schedule_options) -> factor`` with a `schedules.Progress`.
        step_epochs: of ``"step"``: the rates fall after every ``step_epochs`` epochs.
        step_factor: of ``"step"``: factor by which the rates are multiplied then.
        rise: of ``"onecycle"``: share of the steps over which the rates rise, in (0, 1).
        warmup: number of epochs, possibly fractional, over which the learning rates rise linearly, step by step.
        clip_norm: maximum norm of the gradients of all parameters together; larger ones are scaled down. None: no
            clipping.
        augmentation: a name in ``AUGMENTATIONS``, or a callable ``(images, targets, generator) -> (images, targets)``.
        views: number of fixed augmented views of each training image, drawn once; every epoch uses all of them, as with
            the paper's 2000 images made of 334. None: each epoch draws new ones.
        loss: a name in ``LOSSES`` for the head's task, or a loss of your own; None: the head's default.
        label_smoothing: share of each label that is spread evenly over all classes, in [0, 1).
        class_weights: weight of each of the model's classes in the classification loss: numbers in the order of the
            classes, or ``"balanced"``, in inverse proportion to their frequency among training images, or among lesions
            for a detector; None: all weigh 1.
        frozen: parts of the model that are not trained, by prefixes of their names, such as ``("backbone",)``; their
            batch norms stay in evaluation mode.
        thaw: parts that are frozen for a number of epochs: ``((3, "backbone"), (1, "backbone.layers.13"))`` trains the
            last layer from the second epoch on and the rest of the backbone from the fourth. Where names in `frozen`
            and `thaw` overlap, the longest decides.
        ema: decay of an exponential moving average of the weights, updated after each step, such as 0.999. The averaged
            weights are validated and saved as best and last model. None: no average.
        checkpointing: activation checkpointing of the backbone: activations are recomputed in the backward pass, which
            saves memory and costs a third more time.
        precision: of the network: ``"fp32"``, or, for less memory and time, ``"bf16"`` or on CUDA ``"fp16"``. Weights,
            loss and decoding are always fp32.
        balanced: draw training samples, with replacement, so that all classes are equally frequent; for a detector or a
            multi-label classifier the classes are slices with and without lesions.
        per_patient: maximum number of different slices of a patient in an epoch, drawn anew in each epoch; None: all.
            `balanced` then draws among these, see `PatientSampler`.
        monitor: name of the figure in the history that chooses the best epoch. The lowest loss or part of it is the
            best; a metric states its direction. Without validation data the last epoch is the best.
        patience: stop after this many epochs in a row without a better `monitor`; None: never.
        seed: of shuffling, augmentation and dropout.
        optimiser_options: keyword arguments of the optimiser, such as ``{"nesterov": True}``.
        schedule_options: keyword arguments of the schedule.
        augmentation_options: keyword arguments of the builder of an augmentation given by name.

    Raises:
        ValueError: for a value out of its range, or an unknown optimiser or schedule.

    Example:
        >>> from dataclasses import replace
        >>> replace(paper_ssd(), epochs=5).head_learning_rate
        0.01
    """

    optimiser: str | Callable[..., Any] = "adamw"
    learning_rate: float = 1e-3
    head_learning_rate: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    epochs: int = 20
    batch: int = 8
    accumulate: int = 1
    schedule: str | Callable[..., float] = "constant"
    step_epochs: int = 10
    step_factor: float = 0.1
    rise: float = 0.3
    warmup: float = 0.0
    clip_norm: float | None = None
    augmentation: str | Callable[..., Any] = "none"
    views: int | None = None
    loss: str | Callable[..., Any] | None = None
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
    optimiser_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    schedule_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    augmentation_options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def draws_each_epoch(self) -> bool:
        """Whether every epoch augments the images anew, by random draws."""
        tags = AUGMENTATIONS.tags(self.augmentation) if isinstance(self.augmentation, str) else {}
        return self.views is None and bool(tags.get("random", True))

    def __post_init__(self) -> None:
        self._check_kinds()
        if isinstance(self.frozen, str):
            raise ValueError(f"frozen is a tuple of names, got the string {self.frozen!r}; write ({self.frozen!r},)")
        if not isinstance(self.frozen, Sequence) or not all(isinstance(name, str) for name in self.frozen):
            raise ValueError(f"frozen is a tuple of names, got {self.frozen!r:.200}")
        object.__setattr__(self, "frozen", tuple(self.frozen))  # a list if read from JSON
        object.__setattr__(self, "thaw", _thaw(self.thaw))
        if self.class_weights is not None and not isinstance(self.class_weights, str):
            if not isinstance(self.class_weights, Sequence) or not all(map(_is_number, self.class_weights)):
                raise ValueError(
                    f"class_weights are 'balanced', a tuple of numbers, or None, got {self.class_weights!r}"
                )
            object.__setattr__(self, "class_weights", tuple(self.class_weights))
        for name, registry in {"optimiser": OPTIMISERS, "schedule": SCHEDULES}.items():
            value = getattr(self, name)
            if isinstance(value, str) and value not in registry:
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(registry.names())}")
        for name in ("optimiser", "schedule", "augmentation", "loss"):
            self._check_part(name)
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; known: {', '.join(PRECISIONS)}")
        for name in ("epochs", "batch", "accumulate", "step_epochs", "views", "per_patient", "patience"):
            value, optional = getattr(self, name), name in ("views", "per_patient", "patience")
            if not (optional and value is None) and (type(value) is not int or not 1 <= value < _LARGEST):
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
        if self.warmup and isinstance(self.schedule, str) and SCHEDULES.tags(self.schedule).get("warms_up"):
            raise ValueError(f"the schedule {self.schedule!r} has its own warm-up: set warmup=0, and see rise")
        self._check_class_weights()

    def _check_kinds(self) -> None:
        """Check the types of values, as a recipe may come from a file."""
        for entry in fields(self):
            value, kind = getattr(self, entry.name), str(entry.type).removesuffix(" | None")
            if kind not in _KINDS or (value is None and kind != entry.type):
                continue
            noun, right = _KINDS[kind]
            if not right(value):
                raise ValueError(f"{entry.name} is {noun}{', or None' * (kind != entry.type)}, got {value!r:.200}")
        if type(self.seed) is not int or not -_LARGEST <= self.seed < _LARGEST:
            raise ValueError(f"seed is a whole number of at most 63 bits, got {self.seed!r:.200}")

    def _check_part(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, str) or callable(value) or (name == "loss" and value is None):
            return
        if isinstance(value, Mapping) and "object" in value:  # as recipe.json notes it
            raise ValueError(
                f"the {name} of this recipe was given as the object {value['object']}, which a file can't hold: pass "
                "the object itself"
            )
        raise ValueError(f"{name} is a registered name or a callable, got {value!r}")

    def _check_class_weights(self) -> None:
        weights = self.class_weights
        if isinstance(weights, str):
            if weights != "balanced":
                raise ValueError(f"class_weights are 'balanced', a tuple of numbers, or None, got {weights!r}")
        elif weights is not None and (not weights or not all(0 < w < math.inf for w in weights)):
            raise ValueError(f"class_weights are above 0 and finite, got {weights}")


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, Real) and not isinstance(value, bool) and not (type(value) is int and abs(value) >= _LARGEST)
    )


_LARGEST = 2**63
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "float": ("a number", _is_number),
    "bool": ("True or False", lambda value: isinstance(value, bool)),
    "str": ("a text", lambda value: isinstance(value, str)),
    "Mapping[str, Any]": ("a dictionary of options by name", lambda value: isinstance(value, Mapping)),
}
PRECISIONS = ("fp32", "bf16", "fp16")


def _thaw(entries: Iterable[Sequence[Any]]) -> tuple[tuple[int, str], ...]:
    pairs = []
    if not isinstance(entries, Sequence):
        raise ValueError(
            f"thaw holds pairs of epochs from 1 and a name, as in ((3, 'backbone'),), got {entries!r:.200}"
        )
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
    """Return the paper's recipe for its VGG-16 classifier: Adam 0.001, batch 8, 100 epochs.

    The paper doesn't state whether the convolutions are trained. They are frozen here, as is usual in transfer learning
    on a few hundred images and plausible on the paper's laptop; ``replace(paper_vgg16(), frozen=())`` trains them. Nor
    does it state a schedule (constant here) or how the best epoch is chosen (by the validation loss here).

    Returns:
        The recipe.

    Source:
        Mizouri 2026, tables 2 and 3.
    """
    return Recipe(optimiser="adam", learning_rate=1e-3, epochs=100, batch=8, augmentation="paper", frozen=("backbone",))


def paper_ssd() -> Recipe:
    """Return the paper's recipe for its MobileNetV1-SSD, but with light augmentation: SGD 0.001, head 0.01, batch 5.

    We chose the augmentation by an experiment: on 46 brain MR slices whose lesions have a median side of 17 % of the
    image, in five-fold cross-validation, mAP@0.5 was 0.75 with ``light`` and 0.53 with ``paper``
    (``benchmarks/results/lesion_sizes.md``). The paper's own is ``replace(paper_ssd(), augmentation="paper")``.

    The paper doesn't state momentum, weight decay and schedule; 0.9, 5e-4 and cosine are those of
    qfgaohao/pytorch-ssd, which it builds on. The warm-up in the first epoch and the clipping at a norm of 100 are our
    choice: with one or two lesions per image the loss is divided by few default boxes, so gradients are at first a
    hundred times those of a trained network, and at these rates they would destroy the pretrained weights. Gradients of
    other data stay below that norm.

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
    """Return a recipe for small machines: AdamW with a cosine schedule over few epochs, light augmentation.

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
