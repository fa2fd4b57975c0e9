"""Run folders: recipe, data, history, best and last model, and the state to resume from."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import math
import os
import platform
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from hccvision.contracts.samples import Sample, printable
from hccvision.data.manifest import differences, read_split, split_document
from hccvision.documents import kind_of, read_document
from hccvision.drafts import is_draft, sweep
from hccvision.files import write_atomically
from hccvision.model.file import plain, read_settings
from hccvision.model.model import Model
from hccvision.plots.curves import training_curves
from hccvision.plots.saving import save
from hccvision.recipes import Recipe
from hccvision.training.history import History

LOCK = ".lock"  # file in a run folder, locked while a training is running there


class Run:
    """Folder of one training; each file in it is written completely or not at all.

    Args:
        folder: of the run; it is created, with its parents, if it doesn't exist.
        recipe: of the training.
        model: to be trained.
        resume: resume the run that is in the folder, instead of refusing it.
        parts: samples by ``"train"`` and ``"val"``; their files are listed in ``split.json`` and compared when a run is
            resumed.
        hashes: SHA-256 of image files by absolute path, as far as they are known.
        processes: number of processes in distributed training.

    Raises:
        FileExistsError: if the folder isn't empty and ``resume`` is False.
        ValueError: if it holds no run, or one of another recipe, model or data.
        OSError: if it can't be written to.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        recipe: Recipe,
        model: Model,
        *,
        resume: bool = False,
        parts: Mapping[str, Sequence[Sample]] | None = None,
        hashes: Mapping[Path, str] | None = None,
        processes: int = 1,
    ) -> None:
        self.folder = Path(folder)
        self.made_by: dict[str, Any] = {
            "recipe": recipe_values(recipe),
            "model": _plain(model.settings()),
            "libraries": _libraries(),
            "machine": _machine(),
            "processes": processes,
        }
        split = split_document(parts, known=hashes) if parts else None
        if not is_unused(self.folder):
            if not resume:
                raise FileExistsError(
                    f"{self.folder}: this folder is not empty; choose another one, or resume the run in it with "
                    "resume=True"
                )
            self._compare(split)
        sweep(self.folder, pause=0)  # nobody else writes here
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_json("recipe.json", self.made_by["recipe"])
        self._write_json("run.json", {key: self.made_by[key] for key in ("model", "libraries", "machine", "processes")})
        if split is not None:
            self.made_by["data"] = hashlib.sha256(self._write_json("split.json", split)).hexdigest()
        self._board: Any = None
        with _optional("TensorBoard"):
            self._board = _tensorboard(self.folder)

    @property
    def best(self) -> Path:
        """File of the best epoch's model."""
        return self.folder / "best.safetensors"

    @property
    def last(self) -> Path:
        """File of the last epoch's model."""
        return self.folder / "last.safetensors"

    @property
    def state(self) -> Path:
        """File of the state to resume from."""
        return self.folder / "state.pt"

    @property
    def previous(self) -> Path:
        """File of the state before that one, in case that one can't be read."""
        return self.folder / "state.previous.pt"

    def load(self) -> dict[str, Any] | None:
        """Load the newest readable state; print a warning if that is not the newest one.

        Returns:
            The state as `save_state` wrote it, or None if nothing was saved yet.

        Raises:
            ValueError: if states were saved and none can be read.
        """
        faults = []
        for path in (self.state, self.previous):
            if not path.is_file():
                continue
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
                _check_state(state)
            except Exception as error:  # a damaged file can raise anything
                faults.append(f"{path}: can't be read ({str(error).splitlines()[0] if str(error) else error!r})")
                continue
            if path == self.previous:
                why = faults[0] if faults else f"{self.state}: missing"
                tqdm.write(printable(f"{why}; resuming from the state before it, {path.name}"))
            return state
        if faults:
            raise ValueError(
                f"{'; '.join(faults)}: start again in another folder, for example from the weights in {self.best.name}"
            )
        return None

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Write the state to resume from, and keep the one before it.

        Args:
            state: tensors and plain values.

        Raises:
            OSError: if it can't be written; the files of the earlier states remain.
        """
        self._write(self.state, lambda path: _save(dict(state) | {"made_by": self.made_by}, path), keep=self.previous)

    def rehearse(self, model: Model, state: Mapping[str, Any]) -> None:
        """Write a state and a model for a trial, and delete them: what can't be saved is said before the first step.

        Args:
            model: as it will be saved.
            state: as it will be saved.

        Raises:
            OSError: if there is no room, or no permission.
            ValueError: if the state can't be read back.
        """
        trial = self.folder / f".{uuid.uuid4().hex}.tmp"
        try:
            self._write(trial, lambda path: _save(dict(state) | {"made_by": self.made_by}, path))
            try:
                _check_state(torch.load(trial, map_location="cpu", weights_only=True))
            except Exception as error:  # whatever a part given as an object keeps in its state
                raise ValueError(
                    f"{self.folder}: the state of this training can't be read back ({error!r:.500}): keep tensors and "
                    "plain values only in the optimiser"
                ) from error
            self._write(trial, model.save)
        finally:
            trial.unlink(missing_ok=True)

    def save_epoch(self, model: Model, history: History, *, is_best: bool) -> None:
        """Write history and models after an epoch.

        `save_state` is called after this, so that a run which is killed in between repeats the epoch.

        Args:
            model: after the epoch.
            history: including the epoch.
            is_best: write the best model too.

        Raises:
            OSError: if a file can't be written; its earlier version remains.
        """
        columns = list(dict.fromkeys(k for row in history for k in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(history.rows)
        self._write_text("history.csv", text.getvalue())
        rows = [{k: v if math.isfinite(v) else None for k, v in row.items()} for row in history.rows]
        self._write_json("history.json", {"best": history.best, "epochs": rows})
        board, self._board = self._board, None  # given up where it fails
        with _optional("TensorBoard"):
            if board is not None:
                for name, value in history.rows[-1].items():
                    board.add_scalar(name.replace("_", "/", 1), value, len(history))
                board.flush()
            self._board = board
        if is_best:
            self._write(self.best, model.save)
        self._write(self.last, model.save)

    def finish(self, history: History) -> None:
        """Plot the training curves, if matplotlib is installed; print a warning if that fails.

        Args:
            history: of the whole training.
        """
        with _optional("TensorBoard"):
            if self._board is not None:
                self._board.close()
        if importlib.util.find_spec("matplotlib") is None or not len(history):
            return
        with _optional(str(self.folder / "curves.png")):
            save(training_curves(history.rows, best=history.best), self.folder / "curves.png")

    def _compare(self, split: dict[str, Any] | None) -> None:
        """Raise unless recipe, model and data are those of the run in the folder."""
        recipe_file, run_file, split_file = (self.folder / f"{name}.json" for name in ("recipe", "run", "split"))
        if not recipe_file.is_file():
            raise ValueError(f"{self.folder}: not a run folder: it has no recipe.json")
        defaults = recipe_values(Recipe())
        self._require_same("recipe", defaults | _read_json(recipe_file), self.made_by["recipe"])
        if run_file.is_file():
            before = _read_json(run_file)
            for key in ("model", "libraries"):
                if not isinstance(before.get(key), dict):
                    raise ValueError(f"{run_file}: expected an object {key!r} in it, got {kind_of(before.get(key))}")
            self._require_same("model", before["model"], self.made_by["model"])
            now, then = ({**made_by["libraries"], **made_by.get("machine", {})} for made_by in (self.made_by, before))
            changed = [f"{k} {v} then, {now.get(k)} now" for k, v in then.items() if now.get(k) != v]
            if changed:
                text = f"{self.folder}: {'; '.join(changed)}: the run may end with slightly different weights"
                tqdm.write(printable(text))
        elif self.last.is_file():  # a run of hccvision 0.1
            self._require_same("model", read_settings(self.last), self.made_by["model"])
        if split is not None and split_file.is_file():
            faults = differences(read_split(split_file), split)
            if faults:
                named = printable("; ".join(faults[:3])) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
                raise ValueError(
                    f"{self.folder}: this run has other data ({named}); resume it with the same "
                    "data, or start in another folder"
                )

    def _require_same(self, kind: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        for key, value in now.items():
            if before.get(key) != value:
                raise ValueError(
                    f"{self.folder}: this run has another {kind} ({key}: {before.get(key)!r:.500} then, {value!r:.500} "
                    f"now); resume it with the same {kind}, or start in another folder"
                )

    def _write(self, path: Path, write: Callable[[Path], object], *, keep: Path | None = None) -> None:
        try:
            write_atomically(path, write, keep=keep)
        except (OSError, RuntimeError) as error:
            remedy = "free disk space" if _lacks_room(error) else "mend the cause"
            raise OSError(
                f"{path}: could not be written ({error}); the files of the run are as before: {remedy}, then resume it "
                "with resume=True"
            ) from error

    def _write_text(self, name: str, text: str) -> bytes:
        content = text.encode("utf-8", "backslashreplace")  # file names of any bytes, as JSON escapes them
        self._write(self.folder / name, lambda p: p.write_bytes(content))
        return content

    def _write_json(self, name: str, value: Any) -> bytes:
        return self._write_text(name, json.dumps(value, indent=2, ensure_ascii=False))


def is_unused(folder: Path) -> bool:
    """Return whether a folder is missing, empty, or holds only the lock and drafts of a run that was killed at once.

    Args:
        folder: for a run.

    Returns:
        Whether it is.

    Example:
        >>> import tempfile
        >>> is_unused(Path(tempfile.mkdtemp()))
        True
    """
    return not folder.exists() or all(is_draft(path) or path.name == LOCK for path in folder.iterdir())


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """Return the values of a recipe as ``recipe.json`` holds them.

    Args:
        recipe: of a training.

    Returns:
        Plain values by name; for a part given as an object, ``{"object": "module.qualname"}``.
    """
    return _plain({field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)})


def _save(state: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(state, file)


def _lacks_room(error: BaseException) -> bool:
    """Return whether a disk, a quota or a limit of file sizes is full; also where torch hides the reason."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return error.__context__ is not None and _lacks_room(error.__context__)


@contextlib.contextmanager
def _optional(what: str) -> Iterator[None]:
    """Warn of an error instead of raising it: nothing that a training can do without may end it."""
    try:
        yield
    except Exception as error:
        text = f"{what} could not be written ({type(error).__name__}: {error}); the training is not affected"
        warnings.warn(text, stacklevel=4)


def _libraries() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("hccvision", "torch", "torchvision", "kornia", "accelerate", "numpy", "pillow"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _machine() -> dict[str, Any]:
    """Return what the order of sums depends on: the processor and the number of threads."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {"CPU": name, "instructions": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}


def _tensorboard(folder: Path) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))


def _read_json(path: Path) -> dict[str, Any]:
    return read_document(path)


def _check_state(state: Any) -> None:
    """Raise for anything other than a state as `TrainingState.state_dict` returns it."""
    if not isinstance(state, dict):
        raise ValueError(f"expected a state of a training, got a {type(state).__name__}")
    kinds = {"model": dict, "optimiser": dict, "history": list, "random": list}
    odd = [key for key, kind in kinds.items() if not isinstance(state.get(key), kind)]
    rows = state.get("history")
    if not odd and not all(isinstance(row, dict) and all(map(_is_real, row.values())) for row in rows or ()):
        odd = ["history"]
    best, step, totals = state.get("best"), state.get("step", 0), state.get("totals", {})
    if best is not None and (type(best) is not int or not 0 <= best < len(rows or ())):
        odd.append("best")
    if type(step) is not int or step < 0:
        odd.append("step")
    elif step and not (isinstance(totals, dict) and isinstance(totals.get("sums"), dict) and "count" in totals):
        odd.append("totals")
    if odd:
        raise ValueError(f"its {odd[0]!r} is not that of a state of a training")


def _is_real(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they are read back from a JSON file."""
    return json.loads(json.dumps(settings, default=plain))
