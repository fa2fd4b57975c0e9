"""A run folder: recipe, history, best and last model, and the state to go on from. All files are written atomically."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hccvision.model import Model, read_settings
from hccvision.recipes import Recipe


@dataclass
class History:
    """What a training gave, epoch by epoch.

    Args:
        rows: one dictionary per epoch: ``epoch`` (from 1), ``learning_rate``, ``train_loss`` and ``val_loss`` with
            their parts (``train_regression`` …), and ``val_<metric>``.
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
        return [row[name] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, float]]:
        return iter(self.rows)

    def add(self, row: dict[str, float], monitor: str) -> bool:
        """Append an epoch.

        Args:
            row: of the epoch.
            monitor: name of the figure to choose the best by: a loss or a part of it lowest, anything else highest;
                without it in the row the newest is the best.

        Returns:
            Whether it is the best so far.
        """
        self.rows.append(row)
        if self.best is not None and monitor in row:
            old, new = self.rows[self.best][monitor], row[monitor]
            # Only the loss and its parts are computed on the training set too; metrics are not.
            lowest = monitor.endswith("loss") or f"train_{monitor.removeprefix('val_')}" in row
            if not (new < old if lowest else new > old):
                return False
        self.best = len(self.rows) - 1
        return True


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file under a temporary name, then give it its own: readers see the old file or the new one whole.

    Args:
        path: of the file.
        write: writes to the path it is given.

    Returns:
        The path.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


class Run:
    """The folder of one training.

    Args:
        folder: to make; its parents are made too.
        recipe: of the training.
        model: to be trained.
        resume: go on with what is there, instead of refusing it.

    Raises:
        FileExistsError: if the folder has something in it and ``resume`` is False.
        ValueError: if it holds a run of another recipe or another model, or the model can't be saved.
    """

    def __init__(self, folder: str | os.PathLike[str], recipe: Recipe, model: Model, *, resume: bool = False) -> None:
        self.folder = Path(folder)
        recipe_file = self.folder / "recipe.json"
        settings = _plain(model.settings())
        plain = _plain(dataclasses.asdict(recipe))
        if self.folder.exists() and any(self.folder.iterdir()):
            if not resume:
                raise FileExistsError(
                    f"{self.folder}: there is a run in this folder already; give another folder, or go on with it by "
                    "resume=True"
                )
            if not recipe_file.is_file():
                raise ValueError(f"{self.folder}: not a run folder: there is no recipe.json in it")
            before = json.loads(recipe_file.read_text(encoding="utf-8"))
            self._require_same("recipe", before, plain)
            if self.last.is_file():
                self._require_same("model", read_settings(self.last), settings)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_text("recipe.json", json.dumps(plain, indent=2))

    @property
    def best(self) -> Path:
        """The best epoch's model file."""
        return self.folder / "best.safetensors"

    @property
    def last(self) -> Path:
        """The last epoch's model file."""
        return self.folder / "last.safetensors"

    def load(self) -> dict[str, Any] | None:
        """Read the state to go on from.

        Returns:
            ``history``, ``best``, ``model`` and ``optimiser``, or None if no epoch was completed.
        """
        path = self.folder / "state.pt"
        return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None

    def save(self, model: Model, history: History, optimiser: Mapping[str, Any], *, is_best: bool) -> None:
        """Write the epoch just finished.

        The state is written last: should the machine stop in between, the run goes on from the epoch before.

        Args:
            model: as it is now.
            history: up to now.
            optimiser: its state.
            is_best: write the best model too.
        """
        columns = list(dict.fromkeys(k for row in history for k in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(history.rows)
        self._write_text("history.csv", text.getvalue())
        self._write_text("history.json", json.dumps({"best": history.best, "epochs": history.rows}, indent=2))
        if is_best:
            model.save(self.best)
        model.save(self.last)
        state = {
            "history": history.rows,
            "best": history.best,
            "model": {k: v.cpu() for k, v in model.state_dict().items()},
            "optimiser": dict(optimiser),
        }
        write_atomically(self.folder / "state.pt", lambda p: torch.save(state, p))

    def _require_same(self, kind: str, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        for key, value in now.items():
            if there.get(key) != value:
                raise ValueError(
                    f"{self.folder}: this run has another {kind} ({key}: {there.get(key)!r} there, {value!r} now); "
                    "resume it with its own, or start in another folder"
                )

    def _write_text(self, name: str, text: str) -> None:
        write_atomically(self.folder / name, lambda p: p.write_text(text, encoding="utf-8", newline=""))


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give settings as they come back from a JSON file."""
    return json.loads(json.dumps(settings, default=dataclasses.asdict))
