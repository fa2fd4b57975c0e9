"""What is trained, from when on and how fast: parameter groups, freezing, schedules of the learning rates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from hccvision.recipes import Recipe


class ParameterRow(NamedTuple):
    """How one parameter is trained.

    Args:
        name: in the model.
        shape: of the parameter.
        group: ``"backbone"`` or ``"head"``, the group of the optimiser that it is in; None: it is never trained.
        learning_rate: the highest of its group; 0 if it is never trained.
        frozen_epochs: it is trained after so many epochs; infinite if never.
    """

    name: str
    shape: tuple[int, ...]
    group: str | None
    learning_rate: float
    frozen_epochs: float


class ParameterTable(tuple[ParameterRow, ...]):
    """One row per parameter of a model; print it to read it."""

    def __str__(self) -> str:
        names = [row.name for row in self]
        width = max(map(len, names), default=0)
        lines = []
        for row in self:
            size = "×".join(map(str, row.shape)) or "1"
            if row.group is None:
                how = "frozen"
            else:
                how = f"{row.group:<8}  {row.learning_rate:g}"
                how += f"  from epoch {row.frozen_epochs + 1:g} on" if row.frozen_epochs else ""
            lines.append(f"{row.name:<{width}}  {size:>15}  {how}")
        trained = sum(math.prod(row.shape) for row in self if row.group is not None)
        lines.append(f"{trained:,} of {sum(math.prod(row.shape) for row in self):,} numbers are trained")
        return "\n".join(lines)


def parameter_table(model: nn.Module, recipe: Recipe) -> ParameterTable:
    """Say which parameter a recipe trains, in which group, how fast and from when on.

    Args:
        model: whose parameters are the backbone's and the head's; those that don't require gradients stay frozen.
        recipe: with the rates, and the parts frozen.

    Returns:
        A row for each parameter, in the model's order.

    Raises:
        ValueError: if the recipe freezes or thaws a part that the model doesn't have, or the same one twice.

    Example:
        >>> from hccvision.model import build_model
        >>> head = {"pool": "avg", "hidden": ()}
        >>> model = build_model("mobilenet_v1", "linear", classes=["normal", "cancer"], head_options=head)
        >>> recipe = Recipe(learning_rate=1e-4, head_learning_rate=1e-3, frozen=("backbone.layers.0",))
        >>> table = parameter_table(model, recipe)
        >>> print(*str(table).splitlines()[-4:], sep=chr(10))
        backbone.layers.13.4.bias               1024  backbone  0.0001
        head.layers.1.weight                  2×1024  head      0.001
        head.layers.1.bias                         2  head      0.001
        3,208,098 of 3,209,026 numbers are trained
    """
    frozen = frozen_epochs(model, recipe)
    rates = {"backbone": recipe.learning_rate, "head": recipe.head_learning_rate or recipe.learning_rate}
    rows = []
    for name, parameter in model.named_parameters():
        group = "head" if name.split(".")[0] == "head" else "backbone"
        if not parameter.requires_grad or frozen[name] == math.inf:
            rows.append(ParameterRow(name, tuple(parameter.shape), None, 0.0, math.inf))
        else:
            rows.append(ParameterRow(name, tuple(parameter.shape), group, rates[group], frozen[name]))
    return ParameterTable(rows)


def frozen_epochs(model: nn.Module, recipe: Recipe) -> dict[str, float]:
    """Say for how many epochs each part of a model is frozen.

    Args:
        model: with the parts that the recipe names.
        recipe: of whose ``frozen`` and ``thaw`` the longest name that a part's begins with decides.

    Returns:
        Epochs by the names of all modules and parameters; 0: trained from the start, infinite: never.

    Raises:
        ValueError: if the model has no such part, or one is named twice.
    """
    entries = [(part, math.inf) for part in recipe.frozen] + [(part, float(epochs)) for epochs, part in recipe.thaw]
    epochs = dict(entries)
    if len(epochs) < len(entries):
        raise ValueError(f"the recipe's frozen and thaw name a part twice: {', '.join(part for part, _ in entries)}")
    parameters = [name for name, _ in model.named_parameters()]
    for part in epochs:
        if not any(_within(name, part) for name in parameters):
            raise ValueError(
                f"the recipe freezes {part!r}, and the model has no such part; parts are backbone, head, …"
            )
    longest = sorted(epochs, key=len, reverse=True)
    names = [name for name, _ in model.named_modules()] + parameters
    return {name: next((epochs[part] for part in longest if _within(name, part)), 0.0) for name in names}


class Freezer:
    """Freezes the parts of a model that a recipe does not train yet.

    Args:
        model: to freeze.
        recipe: with the parts.

    Raises:
        ValueError: if the model has no such part, or nothing would be trained in the first epoch.
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.model = model
        self.epochs = frozen_epochs(model, recipe)
        self.wanted = {name: p.requires_grad for name, p in model.named_parameters()}
        if not any(wanted and self.epochs[name] == 0 for name, wanted in self.wanted.items()):
            raise ValueError("the recipe freezes every parameter: nothing is left to train")

    def train(self, epoch: int) -> None:
        """Put into training mode what an epoch trains, and the batch norms of the rest into eval mode.

        Args:
            epoch: whole epochs before it.
        """
        self.model.train()
        for name, module in self.model.named_modules():
            module.training = self.epochs[name] <= epoch
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self.wanted[name] and self.epochs[name] <= epoch)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Leave the model, in the end, requiring the gradients that it did."""
        try:
            yield
        finally:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(self.wanted[name])


def build_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Build a recipe's optimiser with a group for the backbone and one for the head, fused where torch can.

    Args:
        model: on its device.
        recipe: how to train.

    Returns:
        torch's optimiser, over what is ever trained; each group knows its ``base_lr``.

    Raises:
        ValueError: if nothing is trained.
    """
    parameters = dict(model.named_parameters())
    groups: dict[str, dict[str, Any]] = {}
    for row in parameter_table(model, recipe):
        if row.group is not None:
            rate = row.learning_rate
            group = groups.setdefault(row.group, {"params": [], "lr": rate, "base_lr": rate})
            group["params"].append(parameters[row.name])
    if not groups:
        raise ValueError("the recipe freezes every parameter: nothing is left to train")
    options: dict[str, Any] = {"weight_decay": recipe.weight_decay}
    if all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters.values()):
        # torch's fused SGD makes its momentum of unset memory where a loss scaler skips the first step, and fails where
        # some parameters of a group start later than others
        options["fused"] = recipe.optimiser != "sgd" or not (recipe.precision == "fp16" or recipe.thaw)
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(list(groups.values()), momentum=recipe.momentum, **options)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimiser]
    return kind(list(groups.values()), **options)


def rate_factor(recipe: Recipe, epoch: int, step: int = 0, steps: int = 1) -> float:
    """Give the share of the highest learning rates at which a step is made.

    Args:
        recipe: with the schedule.
        epoch: whole epochs before.
        step: of the epoch, from 0.
        steps: in an epoch.

    Returns:
        From 0 to 1.

    Example:
        >>> [rate_factor(Recipe(schedule="step", step_epochs=2, step_factor=0.5), epoch) for epoch in range(5)]
        [1.0, 1.0, 0.5, 0.5, 0.25]

    Source:
        The cosine of Loshchilov and Hutter 2017, arXiv:1608.03983; one cycle of Smith and Topin 2018, arXiv:1708.07120.
    """
    if recipe.schedule == "onecycle":
        return _one_cycle(recipe, epoch * steps + step, recipe.epochs * steps)
    if recipe.schedule == "cosine":
        factor = (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2
    elif recipe.schedule == "step":
        factor = recipe.step_factor ** (epoch // recipe.step_epochs)
    else:
        factor = 1.0
    done = epoch * steps + step + 1
    return factor * min(1.0, done / max(1.0, recipe.warmup * steps))


def set_learning_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Give each group its highest rate times a factor.

    Args:
        optimiser: of `build_optimiser`.
        factor: of `rate_factor`.
    """
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor


START, END = 1 / 25, 1 / 25e4  # of one cycle, as torch has them


def _one_cycle(recipe: Recipe, step: int, total: int) -> float:
    top = recipe.rise * total - 1
    if step < top:
        low, high, part = START, 1.0, step / top
    else:
        low, high, part = 1.0, END, (step - top) / (total - 1 - top)
    return high + (low - high) / 2 * (1 + math.cos(math.pi * part))


def _within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")
