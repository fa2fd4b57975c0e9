"""Optimisers, their parameter groups, and freezing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from hccvision.recipes import Recipe
from hccvision.registry import OPTIMISERS


class ParameterRow(NamedTuple):
    """How one parameter is trained.

    Args:
        name: in the model.
        shape: of the parameter.
        group: ``"backbone"`` or ``"head"``, the group of the optimiser that it is in; None: it is never trained.
        learning_rate: the highest of its group; 0 if it is never trained.
        frozen_epochs: number of epochs before it is trained; infinite if it never is.
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
    """List which parameters a recipe trains, in which group, at which rate and from which epoch.

    Args:
        model: with backbone and head; parameters that don't require gradients stay frozen.
        recipe: with the rates, and the parts frozen.

    Returns:
        A row for each parameter, in the model's order.

    Raises:
        ValueError: if the recipe freezes or thaws a part that the model doesn't have, or the same one twice.

    Example:
        >>> from hccvision.model.build import build_model
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
        group = "head" if name.split(".")[0] in ("neck", "head") else "backbone"
        if not parameter.requires_grad or frozen[name] == math.inf:
            rows.append(ParameterRow(name, tuple(parameter.shape), None, 0.0, math.inf))
        else:
            rows.append(ParameterRow(name, tuple(parameter.shape), group, rates[group], frozen[name]))
    return ParameterTable(rows)


def frozen_epochs(model: nn.Module, recipe: Recipe) -> dict[str, float]:
    """Compute for how many epochs each part of a model is frozen.

    Args:
        model: with the parts that the recipe names.
        recipe: for each part, the longest matching name in its ``frozen`` and ``thaw`` decides.

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
        """Switch what an epoch trains to training mode, and the batch norms of the rest to evaluation mode.

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
        """Restore, at the end, which parameters require gradients."""
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
        The optimiser, over everything that is ever trained; each group has its ``base_lr``.

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
    build = OPTIMISERS.get(recipe.optimiser) if isinstance(recipe.optimiser, str) else recipe.optimiser
    optimiser: torch.optim.Optimizer = build(list(groups.values()), recipe, **recipe.optimiser_options)
    return optimiser


@OPTIMISERS.register("sgd")
def sgd(groups: list[dict[str, Any]], recipe: Recipe, **options: Any) -> torch.optim.Optimizer:
    """Build SGD with the recipe's momentum and weight decay."""
    # torch's fused SGD takes its momentum from uninitialised memory where a loss scaler skips the first step, and fails
    # where some parameters of a group start later than others
    safe = not (recipe.precision == "fp16" or recipe.thaw)
    return torch.optim.SGD(groups, **{"momentum": recipe.momentum, **_settings(groups, recipe, fused=safe), **options})


@OPTIMISERS.register("adam")
def adam(groups: list[dict[str, Any]], recipe: Recipe, **options: Any) -> torch.optim.Optimizer:
    """Build Adam with the recipe's weight decay."""
    return torch.optim.Adam(groups, **{**_settings(groups, recipe), **options})


@OPTIMISERS.register("adamw")
def adamw(groups: list[dict[str, Any]], recipe: Recipe, **options: Any) -> torch.optim.Optimizer:
    """Build AdamW with the recipe's weight decay."""
    return torch.optim.AdamW(groups, **{**_settings(groups, recipe), **options})


def _settings(groups: list[dict[str, Any]], recipe: Recipe, *, fused: bool = True) -> dict[str, Any]:
    """Return the options that torch's optimisers share."""
    parameters = [p for group in groups for p in group["params"]]
    can_fuse = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return {"weight_decay": recipe.weight_decay, **({"fused": fused} if can_fuse else {})}


def set_learning_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Set the rate of each group to its highest rate times a factor.

    Args:
        optimiser: of `build_optimiser`.
        factor: of `rate_factor`.
    """
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor


def _within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")
