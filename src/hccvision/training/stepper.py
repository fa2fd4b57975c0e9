"""One optimisation step: forward and backward of each part of a batch, and the optimiser's step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hccvision.contracts.batches import Loss
from hccvision.contracts.samples import Sample
from hccvision.data.dataset import Batch
from hccvision.training.feed import Feed
from hccvision.training.objective import BatchLoss, Objective
from hccvision.training.processes import average_batch_norms, sum_gradients
from hccvision.training.setup import Setup
from hccvision.training.state import TrainingState

MAX_SKIPPED = 50  # the loss scaler halves its scale at each
UNSET = 1e8  # no gradient in bf16 is larger; memory that was never written may hold anything


class Stepper:
    """Makes the steps of a training.

    Args:
        setup: of the training.
        feed: of its batches.
        objective: the loss.
        state: of the training, with the optimiser.
    """

    def __init__(self, setup: Setup, feed: Feed, objective: Objective, state: TrainingState) -> None:
        self.setup, self.feed, self.objective, self.state = setup, feed, objective, state
        self.skipped = 0  # steps in a row that the loss scaler of fp16 skipped

    def __call__(self, batch: Batch | None, samples: Sequence[Sample]) -> dict[str, float]:
        """Make a step on a batch, of which each process computes its share.

        The loss is normalised once, by the count of the whole batch. That count is known only after the last part, so
        the loss of each part is divided by the count of this process's first part, and the gradients are rescaled at
        the end. Each part is matched once, and a batch in one part gets exactly the gradients of ``loss.backward()``.

        Args:
            batch: of `Feed.load`.
            samples: of the whole batch, for messages.

        Returns:
            The loss of the whole batch and its parts.

        Raises:
            ValueError: if the loss depends on no weight that is trained.
            torch.OutOfMemoryError: if the batch takes too much memory; the message says what to change.
            FloatingPointError: if the loss or a gradient is infinite or NaN; no weight is changed then. In fp16, whose
                loss scaler skips such a step and lowers its scale, only after many skipped steps in a row.
        """
        try:
            return self._step(batch, samples)
        except torch.OutOfMemoryError as error:
            raise torch.OutOfMemoryError(
                f"{error}\na batch of {len(samples)} images takes too much memory: set a larger accumulate or a "
                "smaller batch in the recipe, or let hv.fit_memory choose them"
            ) from error

    def _step(self, batch: Batch | None, samples: Sequence[Sample]) -> dict[str, float]:
        model, processes = self.setup.model, self.setup.processes
        total = BatchLoss(samples, self.state.epoch, processes, step=self.state.step)
        parts = self.feed.training_parts(batch, self.state.random.draws)
        first = None
        for part in parts:
            loss = self.objective(model, self.feed.forward(model, part), part.targets)
            first = loss.divisor if first is None else first
            whole = Loss(loss.sums, first)["loss"]
            if not whole.requires_grad:
                raise ValueError(
                    f"the loss of {type(model.head).__name__} depends on no weight that is trained, so that nothing "
                    "can be learned: don't detach it, and freeze less"
                )
            processes.backward(whole)
            total.add(loss)
        losses, divisor = total.normalised()
        if first is not None:
            self._rescale(float(first), divisor)
        elif processes.scaler is not None:  # a loss scaler must have scaled something before it can step
            processes.scaler.scale(torch.zeros((), device=processes.device))
        sum_gradients(model, processes)
        if processes.scaler is None:
            self._reset_unset_gradients()
            self._require_finite_gradients(samples)
        average_batch_norms(model, sum(len(part.targets) for part in parts), processes)
        if self.setup.recipe.clip_norm is not None:
            processes.clip_grad_norm_(model.parameters(), self.setup.recipe.clip_norm)
        self.state.optimiser.step()
        self.state.optimiser.zero_grad(set_to_none=True)
        if processes.scaler is not None:
            self._count_skipped(samples)
        if self.state.average is not None:
            self.state.average.update_parameters(model)
        return losses

    def _reset_unset_gradients(self) -> None:
        """Set to 0 what torch left unset: in bf16 on a CPU, the gradients of weights that see nothing but padding.

        A divergence is not hidden by this: it makes the next loss infinite or NaN.
        """
        if self.setup.recipe.precision == "bf16":
            for parameter in self.setup.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.masked_fill_(~(parameter.grad.abs() < UNSET), 0.0)

    def _require_finite_gradients(self, samples: Sequence[Sample]) -> None:
        gradients = {n: p.grad for n, p in self.setup.model.named_parameters() if p.grad is not None}
        if bool(torch.nn.utils.get_total_norm(gradients.values()).isfinite()):
            return
        odd = next((n for n, g in gradients.items() if not bool(g.norm().isfinite())), "of all weights together")
        raise FloatingPointError(
            f"the gradient is infinite or NaN ({odd}) in epoch {self.state.epoch + 1}, step {self.state.step + 1}, on "
            f"the batch of {', '.join(str(s.path) for s in samples)}: lower the learning rate, train with "
            'precision="fp32" or larger images, or look at these files with hv.check'
        )

    def _count_skipped(self, samples: Sequence[Sample]) -> None:
        self.skipped = self.skipped + 1 if self.setup.processes.optimizer_step_was_skipped else 0
        if self.skipped >= MAX_SKIPPED:
            raise FloatingPointError(
                f"the gradients were infinite or NaN in {self.skipped} steps in a row, up to epoch "
                f"{self.state.epoch + 1}, step {self.state.step + 1}, on the batch of "
                f'{", ".join(str(s.path) for s in samples)}: train with precision="fp32", or lower the learning rate'
            )

    def _rescale(self, divided_by: float, divisor: float) -> None:
        """Turn gradients of a loss divided by one number into those of the loss divided by another."""
        if divided_by == divisor:
            return
        for parameter in self.setup.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(divided_by / divisor)
