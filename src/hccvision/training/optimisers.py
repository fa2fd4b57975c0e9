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
        group: its parameter group in the optimiser, ``"backbone"`` or ``"head"``; None: it is never trained.
        learning_rate: the highest of its group; 0 if it is never trained.
        frozen_epochs: number of epochs for which it is frozen; infinite if it is never trained.
    """

    name: str
    shape: tuple[int, ...]
    group: str | None
    learning_rate: float
    frozen_epochs: float


class ParameterTable(tuple[ParameterRow, ...]):
    """How each parameter of a model is trained, one row per parameter; ``print(table)`` shows it in columns."""

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
        model: with backbone and head; parameters that don't require gradients stay frozen. A neck is in the group of
            the head.
        recipe: with the learning rates and the frozen parts.

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
        Number of epochs by the names of all modules and parameters; 0: trained from the start, infinite: never trained.

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
            parts = ", ".join(name for name, _ in model.named_children())
            raise ValueError(
                f"the recipe freezes {part!r}, and the model has no such part: name {parts}, or a part of these as in "
                "model.named_parameters()"
            )
    longest = sorted(epochs, key=len, reverse=True)
    names = [name for name, _ in model.named_modules()] + parameters
    return {name: next((epochs[part] for part in longest if _within(name, part)), 0.0) for name in names}


class Freezer:
    """Freezes the parts of a model that a recipe does not train, or does not train yet.

    Used as a context manager, ``with freezer():``, it restores at the end which parameters require gradients.

    Args:
        model: to freeze.
        recipe: with the parts to freeze.

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
        """Put what this epoch trains into training mode, and the rest, with its batch norms, into evaluation mode.

        Args:
            epoch: whole epochs before this one.
        """
        self.model.train()
        for name, module in self.model.named_modules():
            module.training = self.epochs[name] <= epoch
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self.wanted[name] and self.epochs[name] <= epoch)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Restore at the end which parameters require gradients."""
        try:
            yield
        finally:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(self.wanted[name])


def build_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Build a recipe's optimiser with one parameter group for the backbone and one for neck and head.

    Args:
        model: on its device.
        recipe: how to train.

    Returns:
        The optimiser, over all parameters that are ever trained; the ``base_lr`` of each group is its highest learning
        rate. Torch's fused kernels are used where possible.

    Raises:
        ValueError: if nothing is trained.
        TypeError: if a callable given as the optimiser returns something else.
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
    optimiser = build(list(groups.values()), recipe, **recipe.optimiser_options)
    if not isinstance(optimiser, torch.optim.Optimizer):
        raise TypeError(
            f"expected a torch.optim.Optimizer from the optimiser {recipe.optimiser!r}, got {type(optimiser).__name__}"
        )
    for group in optimiser.param_groups:
        group.setdefault("base_lr", group["lr"])
    return optimiser


@OPTIMISERS.register("sgd")
def sgd(groups: list[dict[str, Any]], recipe: Recipe, **options: Any) -> torch.optim.Optimizer:
    """Build SGD with the recipe's momentum and weight decay."""
    # torch's fused SGD reads its momentum from uninitialised memory if a loss scaler skips the first step, and fails if
    # some parameters of a group get gradients later than others.
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
    """Set the learning rate of each group to its highest rate times a factor.

    Args:
        optimiser: returned by `build_optimiser`.
        factor: returned by `rate_factor`.
    """
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor


def _within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")
