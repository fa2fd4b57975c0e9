"""Hooks: what a user's code does during a training, such as tracking or pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from hccvision.training.history import History

METHODS = ("on_step", "on_epoch", "on_end")


class Hook:
    """Base class of hooks: override what you need.

    A hook may be any object that has one of these methods. An exception in a hook ends the training, whose run folder
    can be resumed: that is how a search prunes it. In distributed training only the main process calls hooks.

    Example:
        >>> class Stopwatch(Hook):
        ...     def on_epoch(self, history, model):
        ...         print(history.rows[-1]["train_loss"])
        >>> Stopwatch().on_epoch(History([{"epoch": 1, "train_loss": 0.5}]), None)
        0.5
    """

    def on_step(self, step: int, losses: Mapping[str, float], model: nn.Module) -> None:
        """Act after a step.

        Args:
            step: number of steps done in the whole training.
            losses: of its batch: ``"loss"`` and its parts.
            model: being trained.
        """

    def on_epoch(self, history: History, model: nn.Module) -> None:
        """Act after an epoch has been validated and saved.

        Args:
            history: including this epoch.
            model: the one that was validated.
        """

    def on_end(self, history: History, model: nn.Module) -> None:
        """Act at the end of the training, also if it was interrupted or failed.

        Args:
            history: up to the last whole epoch.
            model: the one that is validated.
        """


class Hooks(Hook):
    """Several hooks, called in order.

    Args:
        hooks: objects with at least one of the methods of `Hook`.

    Raises:
        TypeError: for an object that has none of them.
    """

    def __init__(self, hooks: Sequence[Any]) -> None:
        for hook in hooks:
            if not any(callable(getattr(hook, name, None)) for name in METHODS):
                raise TypeError(f"a hook has one of the methods {', '.join(METHODS)}, and {hook!r} has none")
        self.hooks = tuple(hooks)

    def on_step(self, step: int, losses: Mapping[str, float], model: nn.Module) -> None:
        """Call every hook's ``on_step``."""
        self._call("on_step", step, losses, model)

    def on_epoch(self, history: History, model: nn.Module) -> None:
        """Call every hook's ``on_epoch``."""
        self._call("on_epoch", history, model)

    def on_end(self, history: History, model: nn.Module) -> None:
        """Call every hook's ``on_end``."""
        self._call("on_end", history, model)

    def _call(self, name: str, *args: Any) -> None:
        for hook in self.hooks:
            method = getattr(hook, name, None)
            if method is not None:
                method(*args)
