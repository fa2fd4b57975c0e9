"""The figure that chooses the best epoch, and its direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hccvision.metrics.metric import Metric


class Monitor:
    """The monitored figure of a training.

    A loss and its parts are best when lowest; a metric states its direction.

    Args:
        name: of a figure of the history, such as ``"val_loss"`` or ``"val_voc_map"``.
        metrics: computed after each epoch.

    Raises:
        ValueError: if the figure is of a metric that doesn't state its direction.

    Example:
        >>> Monitor("val_loss", []).higher_is_better
        False
    """

    def __init__(self, name: str, metrics: Sequence[Metric]) -> None:
        self.name = name
        self.higher_is_better = False
        self._stated = False
        figure = name.removeprefix("val_")
        if figure == "loss" or not name.startswith("val_"):
            self._stated = True
            return
        for metric in metrics:
            direction = metric.direction(figure)
            if direction is not None:
                self.higher_is_better, self._stated = direction, True
                return
            if figure.split("/")[0] == metric.name:
                self._refuse()

    def require(self, row: Mapping[str, float]) -> None:
        """Check that the figure is in a row of the history, and that its direction is known.

        Args:
            row: of an epoch.

        Raises:
            ValueError: if it is not, naming the figures there are; or if nobody states its direction.
        """
        if self.name not in row:
            raise ValueError(
                f"the recipe monitors {self.name!r}, which is not in the history; it has: {', '.join(row)}"
            )
        if not self._stated and f"train_{self.name.removeprefix('val_')}" not in row:  # it is no part of the loss
            self._refuse()

    def _refuse(self) -> None:
        raise ValueError(
            f"the recipe monitors {self.name!r}, and its metric doesn't say whether higher is better: register it with "
            "higher_is_better=True or False, or give hv.Metric(name, function, higher_is_better=…)"
        )
