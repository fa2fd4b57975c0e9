"""What a row of the history will hold, found out before the first step."""

from __future__ import annotations

import torch

from hccvision.contracts.errors import noted
from hccvision.inference import place_back
from hccvision.metrics.metric import compute_metrics
from hccvision.training.feed import Feed
from hccvision.training.monitoring import Monitor
from hccvision.training.objective import Objective
from hccvision.training.setup import Setup


def require_monitored(monitor: Monitor, setup: Setup, feed: Feed, objective: Objective) -> None:
    """Raise unless the history will have the monitored figure, as far as that can be known before the first step.

    Metrics of the user's own are not computed for a trial: they may depend on how often they are.

    Args:
        monitor: of the training.
        setup: of the training.
        feed: of its batches.
        objective: the loss.

    Raises:
        ValueError: if the figure won't be there, or its metric doesn't state its direction.
    """
    computed = "val" in setup.datasets or not monitor.of_validation
    own = all(getattr(metric.compute, "__module__", "").startswith("hccvision.") for metric in setup.metrics)
    if computed and own and not monitor.is_known:
        monitor.require(rehearse(setup, feed, objective))


@torch.inference_mode()
def rehearse(setup: Setup, feed: Feed, objective: Objective) -> list[str]:
    """Compute the loss of the first image, and the metrics as if all validation images had its prediction.

    Args:
        setup: of the training.
        feed: of its batches.
        objective: the loss.

    Returns:
        The names of the figures in a row of the history.

    Raises:
        Exception: what the model, its loss, its decoding or a metric raise.
    """
    side = "val" if "val" in setup.datasets else "train"
    model, task, dataset = setup.model.eval(), setup.task, setup.datasets[side]
    with noted(lambda: f"while trying the model before the first step, on {dataset.samples[0].path}"):
        (part,) = feed.validation_parts(next(feed.load(side, [[0] * setup.processes.num_processes])))
        output = feed.forward(model, part)
        losses = ["loss", *objective(model, output, part.targets).sums]
        names = ["epoch", "learning_rate", *(f"train_{name}" for name in losses)]
        if side == "train":
            return names
        paths, placements = [str(s.path) for s in dataset.samples], [dataset.placement(i) for i in range(len(dataset))]
        predictions = place_back(task, list(model.decode(output)) * len(paths), paths, placements)
        if predictions[0].error is not None:
            raise FloatingPointError(predictions[0].error)
        figures = compute_metrics(setup.metrics, task.comparison(predictions, dataset.samples))
    return [*names, *(f"val_{name}" for name in (*losses, *figures))]
