"""Validation: the loss and the metrics of a model on the validation data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from hccvision.contracts.errors import noted
from hccvision.contracts.outputs import Prediction
from hccvision.contracts.samples import Sample
from hccvision.inference import place_back
from hccvision.metrics.metric import compute_metrics
from hccvision.model.model import Model
from hccvision.training.batches import cut
from hccvision.training.feed import Feed
from hccvision.training.history import RunningMean
from hccvision.training.objective import BatchLoss, Objective
from hccvision.training.processes import gather
from hccvision.training.setup import Setup


@torch.inference_mode()
def validate(model: Model, setup: Setup, feed: Feed, objective: Objective, *, epoch: int) -> dict[str, float]:
    """Compute the loss, its parts and the metrics on the validation data, as `evaluate` computes them.

    Args:
        model: the one being trained, or its average; it is put into evaluation mode.
        setup: of the training.
        feed: of its batches.
        objective: the loss.
        epoch: whole epochs before this one, for messages.

    Returns:
        Figures by name, the same in all processes.

    Raises:
        FloatingPointError: if the loss or an output is infinite or NaN; the message names the files.
    """
    dataset, recipe = setup.datasets["val"], setup.recipe
    model.eval()
    totals = RunningMean()
    predictions: dict[int, Prediction] = {}
    batches = cut(range(len(dataset)), recipe.batch)
    for numbers, batch in zip(batches, feed.load("val", batches), strict=True):
        samples = [dataset.samples[i] for i in numbers]
        total = BatchLoss(samples, epoch, setup.processes)
        with noted(partial(_where, epoch, samples)):
            for part in feed.validation_parts(batch):
                output = feed.forward(model, part)
                total.add(objective(model, output, part.targets))
                own = part.indices.tolist()
                names, placements = [str(dataset.samples[i].path) for i in own], [dataset.placement(i) for i in own]
                predictions |= zip(own, place_back(setup.task, model.decode(output), names, placements), strict=True)
        totals.add(total.normalised()[0], len(numbers))
    for others in gather(predictions, setup.processes):
        predictions |= others
    failed = [prediction.error for prediction in predictions.values() if prediction.error is not None]
    if failed:
        raise FloatingPointError(f"validation in epoch {epoch + 1}: {failed[0]}")
    with noted(f"in the validation of epoch {epoch + 1}"):
        comparison = setup.task.comparison([predictions[i] for i in range(len(dataset))], dataset.samples)
        figures = compute_metrics(setup.metrics, comparison)
    return totals.means() | {name: float(figure) for name, figure in figures.items()}


def _where(epoch: int, samples: Sequence[Sample]) -> str:
    return f"in the validation of epoch {epoch + 1}, on the batch of {', '.join(str(s.path) for s in samples)}"
