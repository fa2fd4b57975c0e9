"""Learning-rate schedules: the factor by which the highest rates are multiplied in each step."""

from __future__ import annotations

import math
from typing import NamedTuple

from hccvision.recipes import Recipe
from hccvision.registry import SCHEDULES

START, END = 1 / 25, 1 / 25e4  # of one cycle, as in torch


class Progress(NamedTuple):
    """Position of a step in a training.

    Args:
        epoch: whole epochs before this one.
        step: number of the step in the epoch, from 0.
        steps: number of steps in an epoch.
        epochs: number of epochs in the training.
    """

    epoch: int
    step: int
    steps: int
    epochs: int


def rate_factor(recipe: Recipe, epoch: int, step: int = 0, steps: int = 1) -> float:
    """Compute the factor by which the highest learning rates are multiplied in a step.

    Args:
        recipe: with the schedule and the warm-up.
        epoch: whole epochs before this one.
        step: number of the step in the epoch, from 0.
        steps: number of steps in an epoch.

    Returns:
        From 0 to 1.

    Example:
        >>> [rate_factor(Recipe(schedule="step", step_epochs=2, step_factor=0.5), epoch) for epoch in range(5)]
        [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    schedule = SCHEDULES.get(recipe.schedule) if isinstance(recipe.schedule, str) else recipe.schedule
    factor: float = schedule(recipe, Progress(epoch, step, steps, recipe.epochs), **recipe.schedule_options)
    if not recipe.warmup:
        return factor
    done = epoch * steps + step + 1
    return factor * min(1.0, done / max(1.0, recipe.warmup * steps))


@SCHEDULES.register("constant")
def constant(recipe: Recipe, progress: Progress) -> float:
    """Return 1: the rates stay as they are."""
    return 1.0


@SCHEDULES.register("cosine")
def cosine(recipe: Recipe, progress: Progress) -> float:
    """Return a factor that falls to 0 along half a cosine, epoch by epoch.

    Source:
        Loshchilov and Hutter 2017, arXiv:1608.03983.
    """
    return (1 + math.cos(math.pi * progress.epoch / progress.epochs)) / 2


@SCHEDULES.register("step")
def step(recipe: Recipe, progress: Progress) -> float:
    """Return a factor that is multiplied by ``step_factor`` after every ``step_epochs`` epochs."""
    return float(recipe.step_factor ** (progress.epoch // recipe.step_epochs))


@SCHEDULES.register("onecycle", warms_up=True)
def onecycle(recipe: Recipe, progress: Progress) -> float:
    """Return a factor that rises from 1/25 to 1 and then falls to nearly 0, each along half a cosine, step by step.

    Source:
        Smith and Topin 2018, arXiv:1708.07120.
    """
    number, total = progress.epoch * progress.steps + progress.step, progress.epochs * progress.steps
    top = recipe.rise * total - 1
    if number < top:
        low, high, part = START, 1.0, number / top
    else:
        low, high, part = 1.0, END, (number - top) / (total - 1 - top)
    return high + (low - high) / 2 * (1 + math.cos(math.pi * part))
