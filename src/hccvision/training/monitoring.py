"""The figure that chooses the best epoch, and whether higher is better."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hccvision.metrics.metric import Metric


class Monitor:
    """The monitored figure of a training.

    A loss and its parts are best when lowest; a metric states its direction, see `Metric`.

    Args:
        name: of a figure of the history, such as ``"val_loss"`` or ``"val_voc_map"``.
        metrics: computed after each epoch.

    Raises:
        ValueError: if the figure is that of a metric which doesn't state its direction.

    Example:
        >>> Monitor("val_loss", []).higher_is_better
        False
    """

    def __init__(self, name: str, metrics: Sequence[Metric]) -> None:
        self.name = name
        self.higher_is_better = False
        self._stated = False
        figure = name.removeprefix("val_")
        if figure == "loss" or not self.of_validation:
            self._stated = True
            return
        for metric in metrics:
            direction = metric.direction(figure)
            if direction is not None:
                self.higher_is_better, self._stated = direction, True
                return
            if figure.split("/")[0] == metric.name:
                self._refuse()

    @property
    def is_known(self) -> bool:
        """Whether the history will have it for sure: the loss, or a figure that a metric states by its full name."""
        return self.name in ("train_loss", "val_loss") or (self._stated and self.of_validation and "/" not in self.name)

    @property
    def of_validation(self) -> bool:
        """Whether the figure is computed on the validation data."""
        return self.name.startswith("val_")

    def require(self, row: Collection[str]) -> None:
        """Check that the figure is in a row of the history, and that its direction is known.

        Args:
            row: of an epoch, or the names of its figures.

        Raises:
            ValueError: if it is missing (the message lists the figures of the row), or no metric states its direction.
        """
        if self.name not in row:
            raise ValueError(
                f"the recipe monitors {self.name!r}, which is not in the history; it has: {', '.join(row)}"
            )
        is_loss_part = f"train_{self.name.removeprefix('val_')}" in row
        if not (self._stated or is_loss_part):
            self._refuse()

    def _refuse(self) -> None:
        raise ValueError(
            f"the recipe monitors {self.name!r}, and its metric doesn't state whether higher is better: register it "
            "with higher_is_better=True or False, or pass hv.Metric(name, function, higher_is_better=…)"
        )
