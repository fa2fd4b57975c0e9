"""Hooks: user code that is called during a training, for experiment tracking or pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from hccvision.contracts.errors import noted
from hccvision.training.history import History

METHODS = ("on_step", "on_epoch", "on_end")


class Hook:
    """Base class of hooks: override the methods you need.

    Any object with at least one of these methods is a hook. An exception raised by a hook ends the training, and its
    run folder can be resumed: a hyperparameter search prunes a training this way. In distributed training only the main
    process calls hooks.

    Example:
        >>> class Stopwatch(Hook):
        ...     def on_epoch(self, history, model):
        ...         print(history.rows[-1]["train_loss"])
        >>> Stopwatch().on_epoch(History([{"epoch": 1, "train_loss": 0.5}]), None)
        0.5
    """

    def on_step(self, step: int, losses: Mapping[str, float], model: nn.Module) -> None:
        """Called after each optimisation step.

        Args:
            step: number of steps done in the whole training, from 1.
            losses: of the batch: ``"loss"`` and its parts.
            model: the model being trained.
        """

    def on_epoch(self, history: History, model: nn.Module) -> None:
        """Called after each epoch, when it has been validated and saved.

        Args:
            history: including this epoch.
            model: the model that was validated: the averaged one, if the recipe has ``ema``.
        """

    def on_end(self, history: History, model: nn.Module) -> None:
        """Called at the end of the training, also if it was interrupted or an error ended it.

        Args:
            history: up to the last whole epoch.
            model: the model that is validated, with its last weights; `fit` then loads those of the best epoch.
        """


class Hooks(Hook):
    """Several hooks, called in order.

    Args:
        hooks: objects, each with at least one of the methods of `Hook`.

    Raises:
        TypeError: for an object with none of them, or for a class.
    """

    def __init__(self, hooks: Sequence[Any]) -> None:
        for hook in hooks:
            if isinstance(hook, type):
                raise TypeError(f"expected a hook object, got the class {hook.__name__}: write {hook.__name__}()")
            if not any(callable(getattr(hook, name, None)) for name in METHODS):
                raise TypeError(f"expected a hook with one of the methods {', '.join(METHODS)}, got {hook!r}")
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

    def has(self, name: str) -> bool:
        """Return whether any hook has a method of this name."""
        return any(getattr(hook, name, None) is not None for hook in self.hooks)

    def _call(self, name: str, *args: Any) -> None:
        for hook in self.hooks:
            method = getattr(hook, name, None)
            if method is not None:
                with noted(f"in {name} of the hook {type(hook).__name__}"):
                    method(*args)
