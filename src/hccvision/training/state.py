"""Everything that changes during a training, so that it can be saved and resumed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hccvision.model.model import Model
from hccvision.training.history import History, RunningMean
from hccvision.training.optimisers import build_optimiser
from hccvision.training.processes import gather
from hccvision.training.randomness import Randomness
from hccvision.training.setup import Setup


class TrainingState:
    """Weights, optimiser, averaged weights, random numbers and history of a training.

    Args:
        setup: of the training.
    """

    def __init__(self, setup: Setup) -> None:
        recipe = setup.recipe
        self.model, self.processes = setup.model, setup.processes
        self.optimiser = self.processes.prepare(build_optimiser(self.model, recipe))
        self.average = None
        if recipe.ema is not None:
            self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
        self.random = Randomness()
        self.history = History()
        self.best = copy.deepcopy(self.model.state_dict())  # weights of the best epoch
        self.step = 0  # steps done in the current epoch
        self.totals = RunningMean()  # losses of these steps

    @property
    def epoch(self) -> int:
        """Number of whole epochs done."""
        return len(self.history)

    @property
    def validated(self) -> Model:
        """The model that is validated and saved: the one with averaged weights, if the recipe has `Recipe.ema`."""
        return self.model if self.average is None else cast(Model, self.average.module)

    def add_epoch(self, row: dict[str, float], monitor: str, *, higher_is_better: bool) -> bool:
        """Append an epoch to the history, and keep its weights if it is the best.

        Args:
            row: figures of the epoch.
            monitor: name of the figure that chooses the best epoch.
            higher_is_better: direction of that figure.

        Returns:
            Whether it is the best so far.
        """
        is_best = self.history.add(row, monitor, higher_is_better=higher_is_better)
        if is_best:
            self.best = copy.deepcopy(self.validated.state_dict())
        self.step, self.totals = 0, RunningMean()
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on, but for the weights of the best epoch.

        Returns:
            Tensors on the CPU and plain values. All processes must call this.
        """
        scaler = self.processes.scaler
        return {
            "history": self.history.rows,
            "best": self.history.best,
            "step": self.step,
            "totals": {"sums": dict(self.totals.sums), "count": self.totals.count},
            "model": {k: v.cpu() for k, v in self.model.state_dict().items()},
            "optimiser": self.optimiser.state_dict(),
            "average": None if self.average is None else {k: v.cpu() for k, v in self.average.state_dict().items()},
            "scaler": None if scaler is None else scaler.state_dict(),
            "random": gather(self.random.state(), self.processes),
        }

    def load_state_dict(self, state: Mapping[str, Any], best: dict[str, Tensor] | None) -> None:
        """Restore a saved state.

        Args:
            state: of `state_dict`.
            best: weights of the best epoch; None if there is no whole epoch.

        Raises:
            ValueError: if another number of processes saved it in the middle of an epoch.
        """
        self.history.rows, self.history.best = state["history"], state["best"]
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        if best is not None:
            self.best = best
        self.step = state.get("step", 0)  # early versions saved whole epochs only
        if self.step:
            processes = self.processes
            if len(state["random"]) != processes.num_processes:
                raise ValueError(
                    f"{self.history.run}: {len(state['random'])} processes stopped in the middle of an epoch; resume "
                    f"with as many, not with {processes.num_processes}"
                )
            self.random.restore(state["random"][processes.process_index])
            self.totals.sums.update(state["totals"]["sums"])
            self.totals.count = state["totals"]["count"]
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.processes.scaler is not None and state.get("scaler"):
            self.processes.scaler.load_state_dict(state["scaler"])
