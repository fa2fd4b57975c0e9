"""Training history: one row of figures per epoch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class History:
    """Training log: one row of figures per epoch.

    Args:
        rows: one dictionary per epoch: ``epoch`` (from 1), ``learning_rate``, ``train_loss`` and ``val_loss`` with
            their parts (``train_regression`` …), and ``val_<metric>``. A metric that is undefined is nan; a loss is a
            sum, which of nothing is 0, such as the regression loss of images without lesions.
        best: index of the row that is best by the recipe's ``monitor``; None before the first epoch.
        run: the run folder, or None.

    Example:
        >>> history = History([{"epoch": 1, "train_loss": 2.0}, {"epoch": 2, "train_loss": 1.5}], best=1)
        >>> history["train_loss"], history.rows[history.best]["epoch"]
        ([2.0, 1.5], 2)
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    best: int | None = None
    run: Path | None = None

    def __getitem__(self, name: str) -> list[float]:
        """Return the values of one figure, one per epoch."""
        return [row[name] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, float]]:
        return iter(self.rows)

    def add(self, row: dict[str, float], monitor: str, *, higher_is_better: bool = False) -> bool:
        """Append an epoch.

        Args:
            row: figures of the epoch.
            monitor: name of the figure that chooses the best epoch. An undefined figure (nan) is never better than
                another one; if the figure is not in the row, the newest epoch is the best.
            higher_is_better: direction of that figure.

        Returns:
            Whether it is the best so far.
        """
        self.rows.append(row)
        if self.best is not None and monitor in row:
            old, new = self.rows[self.best][monitor], row[monitor]
            better = new > old if higher_is_better else new < old
            if not better and not (math.isnan(old) and not math.isnan(new)):
                return False
        self.best = len(self.rows) - 1
        return True


def printed(value: float, spec: str) -> str:
    """Return a figure as text, "–" where it is undefined.

    Args:
        value: a number, nan where it is undefined.
        spec: format of a number.

    Returns:
        The text.

    Example:
        >>> printed(0.5, ".3f"), printed(math.nan, ".3f")
        ('0.500', '–')
    """
    return format(value, spec) if math.isfinite(value) else "–"


class RunningMean:
    """Means of named scalars, weighted by the number of images in each batch."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.count = 0

    def add(self, values: Mapping[str, float], images: int) -> None:
        """Add the values of a batch.

        Args:
            values: means over the batch, by name.
            images: number of images in the batch.
        """
        for name, value in values.items():
            self.sums[name] += value * images
        self.count += images

    def means(self) -> dict[str, float]:
        """Return the means by name."""
        return {name: total / max(1, self.count) for name, total in self.sums.items()}
