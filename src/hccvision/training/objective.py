"""The loss a training minimises: its options, and its sum over the parts of a batch and over processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hccvision.contracts.batches import Loss, Targets
from hccvision.contracts.samples import Sample
from hccvision.model.model import Model
from hccvision.training.processes import add_up, gather
from hccvision.training.setup import Setup


class Objective:
    """The head's loss, with the options that the recipe sets.

    Args:
        setup: of the training.

    Raises:
        ValueError: if the number of class weights is not the number of classes, or a class without any sample should be
            balanced.
    """

    def __init__(self, setup: Setup) -> None:
        self.name = setup.recipe.loss
        self.options = _options(setup)

    def __call__(self, model: Model, output: Any, targets: Targets) -> Loss:
        """Compute the loss of a part of a batch.

        Args:
            model: the one being trained, or its average.
            output: of the model.
            targets: of the same images.

        Returns:
            Sums and count.

        Raises:
            TypeError: if the head returns anything other than a `Loss`.
        """
        loss = model.loss(output, targets, name=self.name, **self.options)
        if not isinstance(loss, Loss):
            raise TypeError(
                f"expected hv.Loss(sums, count) from the loss of {type(model.head).__name__}, got "
                f"{type(loss).__name__}: return the sums over the batch and the count to divide them by"
            )
        scalars = [*loss.sums.values(), loss.count]
        if not loss.sums or not all(isinstance(value, Tensor) and value.numel() == 1 for value in scalars):
            shapes = {name: tuple(getattr(value, "shape", ())) for name, value in loss.sums.items()}
            raise TypeError(
                f"expected one scalar tensor per part and a scalar count in the loss of {type(model.head).__name__}, "
                f"got parts of the shapes {shapes} and the count {loss.count!r:.100}: return sums over the batch"
            )
        return loss


class BatchLoss:
    """Loss of one batch: the sums and counts of its parts, added up over all processes.

    Args:
        samples: of the whole batch, for messages.
        epoch: whole epochs before this one, for messages.
        processes: of `processes.accelerator`.
        step: steps of the epoch before this one, for messages; None: this is no step of a training.
    """

    def __init__(self, samples: Sequence[Sample], epoch: int, processes: Any, *, step: int | None = None) -> None:
        self.samples, self.epoch, self.processes, self.step = samples, epoch, processes, step
        self.sums: dict[str, float] = {}
        self.count = 0.0

    def add(self, loss: Loss) -> None:
        """Add the loss of a part.

        Args:
            loss: of the part.
        """
        self.sums = add_up([self.sums, {name: float(value.detach()) for name, value in loss.sums.items()}])
        self.count += float(loss.count)

    def normalised(self) -> tuple[dict[str, float], float]:
        """Divide the sums by the count of the whole batch.

        Returns:
            ``"loss"`` and its parts, and what they were divided by; the same in all processes.

        Raises:
            FloatingPointError: if the loss is infinite or NaN; the message names the batch's files.
        """
        everyone = gather((self.sums, self.count), self.processes)
        sums, count = add_up([sums for sums, _ in everyone]), sum(count for _, count in everyone)
        divisor = count if count > 0 else 1.0
        losses = {name: value / divisor for name, value in sums.items()}
        total = sum(losses.values())
        if not math.isfinite(total):
            raise FloatingPointError(
                f"the loss became {total} in epoch {self.epoch + 1}{self._where()}, on the batch of "
                f"{', '.join(str(s.path) for s in self.samples)}: look at these files with hv.check, or lower the "
                "learning rate"
            )
        return {"loss": total, **losses}, divisor

    def _where(self) -> str:
        return ", in validation" if self.step is None else f", step {self.step + 1}"


def _options(setup: Setup) -> dict[str, Any]:
    """Return only the options that the recipe sets, because not every head takes the others."""
    recipe = setup.recipe
    options: dict[str, Any] = {}
    if recipe.label_smoothing:
        options["label_smoothing"] = recipe.label_smoothing
    if recipe.class_weights is not None:
        options["class_weights"] = _class_weights(setup)
    return options


def _class_weights(setup: Setup) -> Tensor:
    given, classes = setup.recipe.class_weights, setup.model.classes
    if isinstance(given, str):  # "balanced"
        weights = setup.task.balanced_weights(setup.datasets["train"].samples)
    else:
        weights = [float(weight) for weight in given or ()]
    if len(weights) != len(classes):
        raise ValueError(f"the recipe has {len(weights)} class weights, the model {len(classes)}: {classes}")
    return torch.tensor(weights, device=setup.processes.device)
