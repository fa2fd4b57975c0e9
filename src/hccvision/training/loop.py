"""The training loop: steps, epochs, validation, saving."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence, Sized
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils.data import Sampler
from tqdm.auto import tqdm

from hccvision.contracts.errors import noted
from hccvision.contracts.samples import Sample, printable
from hccvision.data.samplers import build_sampler
from hccvision.finite import first_not_finite, require_finite_weights
from hccvision.generators import TURN
from hccvision.training.batches import cut
from hccvision.training.checkpoints import LOCK, Run, is_unused
from hccvision.training.feed import Feed
from hccvision.training.history import History, printed
from hccvision.training.hooks import Hooks
from hccvision.training.interrupts import interruptible
from hccvision.training.monitoring import Monitor
from hccvision.training.objective import Objective
from hccvision.training.optimisers import set_learning_rates
from hccvision.training.processes import broadcast, gather, on_main
from hccvision.training.rehearsal import require_monitored
from hccvision.training.schedules import rate_factor
from hccvision.training.setup import Setup
from hccvision.training.single_images import smallest_batch
from hccvision.training.state import TrainingState
from hccvision.training.stepper import Stepper
from hccvision.training.validation import validate
from hccvision.weights.reading import read_tensors

LOCK_SECONDS = 10.0  # waited for the loaders of a training that was killed just now


class Training:
    """A training in progress: call `open`, then `run`.

    Args:
        setup: what it is built from.

    Raises:
        ValueError: if the recipe doesn't fit the model or the data.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup, self.recipe, self.processes = setup, setup.recipe, setup.processes
        self.state = TrainingState(setup)
        self.feed = Feed(setup)
        self.sampler = self._build_sampler()
        count = self.processes.num_processes
        self.smallest = smallest_batch(setup.model, self.recipe, len(cast(Sized, self.sampler)), count)
        self.objective = Objective(setup)
        self.make_step = Stepper(setup, self.feed, self.objective, self.state)
        self.monitor = Monitor(self.recipe.monitor, setup.metrics)
        self.hooks = setup.hooks if setup.is_main else Hooks(())
        self.folder: Run | None = None  # of the main process only
        self.interrupted = False
        self._lock: FileLock | None = None

    @property
    def history(self) -> History:
        """One row per epoch."""
        return self.state.history

    def open(self, run: str | os.PathLike[str] | None, resume: bool) -> None:
        """Create the run folder, or resume the run in it; only the main process reads and writes there.

        Args:
            run: the folder; None: nothing is written.
            resume: resume the run that is in the folder, instead of refusing it.

        Raises:
            FileExistsError: as `Run`, or if another training is running in the folder.
            ValueError: as `Run`.
            OSError: as `Run`.
        """
        if run is None:
            return
        saved: tuple[Any, Any] | None = None

        def start() -> None:
            nonlocal saved
            self._lock = _locked(Path(run))
            datasets = self.setup.datasets
            self.folder = Run(
                run,
                self.recipe,
                self.setup.model,
                resume=resume,
                parts={name: dataset.samples for name, dataset in datasets.items()},
                hashes={path: digest for dataset in datasets.values() for path, digest in dataset.hashes.items()},
                processes=self.processes.num_processes,
            )
            state = self.folder.load()
            if state is not None:
                saved = state, self._read_best(self.folder.best) if state["history"] else None

        self._on_main(start)
        self.history.run = Path(run)
        saved = broadcast(saved, self.processes)
        if saved is not None:
            try:
                self.state.load_state_dict(*saved)
            except (RuntimeError, KeyError, TypeError, AttributeError, IndexError) as error:
                raise ValueError(
                    f"{Path(run) / 'state.pt'}: not the state of this training ({error}): start again in another folder"
                ) from error
        else:
            state = self.state.state_dict()
            self._on_main(lambda: self._run.rehearse(self.state.validated, state))

    def rehearse(self) -> None:
        """Make sure before the first step that the history will have the monitored figure, as far as can be known.

        Raises:
            ValueError: if it won't, or its metric doesn't state its direction.
        """
        if not self._finished():
            require_monitored(self.monitor, self.setup, self.feed, self.objective)

    def _read_best(self, path: Path) -> dict[str, Tensor]:
        tensors, own = read_tensors(path), self.setup.model.state_dict()
        if {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in own.items()}:
            raise ValueError(f"{path}: its tensors are not those of this run's model: start again in another folder")
        odd = first_not_finite(tensors.items())
        if odd is not None:
            raise ValueError(f"{path}: the tensor {odd} holds infinite numbers or NaN: start again in another folder")
        return tensors

    def close(self) -> None:
        """Let other trainings use the run folder."""
        if self._lock is not None:
            with suppress(OSError):  # Windows keeps a file that is open
                os.unlink(self._lock.lock_file)
            self._lock.release()

    def run(self) -> None:
        """Train from the current state to the end."""
        with interruptible(self._interrupt if self.history.run is not None else None):
            try:
                while not self._finished():
                    self._train_epoch()
                    self._close_epoch()
                self.state.optimiser.zero_grad(set_to_none=True)
            except BaseException as error:
                self.state.optimiser.zero_grad(set_to_none=True)
                if isinstance(error, KeyboardInterrupt):
                    self._print(f"stopped after {self.state.epoch} whole epochs{self._how_to_resume()}")
                self._end_hooks_after(error)
                raise
            self._on_main(self._end_hooks)
        if self.folder is not None:
            self.folder.finish(self.history)
            self._print(f"written to {self.folder.folder}: best.safetensors, last.safetensors, history.csv")

    def _end_hooks(self) -> None:
        self.hooks.on_end(self.history, self.state.validated)

    def _end_hooks_after(self, error: BaseException) -> None:
        """Call the hooks' ``on_end``; where it fails too, the first error is the reason."""
        try:
            self._end_hooks()
        except Exception as second:
            self._print(f"after {type(error).__name__}, on_end failed as well: {type(second).__name__}: {second}")

    def _finished(self) -> bool:
        epoch, best = self.state.epoch, self.history.best
        waited = 0 if best is None else epoch - 1 - best
        if epoch < self.recipe.epochs and waited >= (self.recipe.patience or math.inf):
            self._print(f"stopped early: {self.recipe.monitor} has not improved in {waited} epochs")
            return True
        return epoch >= self.recipe.epochs

    def _train_epoch(self) -> None:
        """Make the remaining steps of this epoch."""
        recipe, state = self.recipe, self.state
        with TURN:
            resumed = state.random.state() if state.step else None
            state.random.seed(recipe.seed, epoch=state.epoch, process=self.processes.process_index)
            self.setup.freezer.train(state.epoch)
            batches = cut(list(self.sampler), recipe.batch, self.smallest)
            loader = iter(self.feed.load("train", batches[state.step :]))
            if resumed is not None:
                state.random.restore(resumed)
        title = f"epoch {state.epoch + 1}/{recipe.epochs}"
        with self._bar(total=len(batches), initial=state.step, desc=title) as bar:
            for numbers in batches[state.step :]:
                samples = [self.feed.samples[i] for i in numbers]
                with noted(partial(self._where, samples)):
                    batch = next(loader)
                    set_learning_rates(state.optimiser, rate_factor(recipe, state.epoch, state.step, len(batches)))
                    with TURN:
                        losses = self.make_step(batch, samples)
                state.totals.add(losses, len(numbers))
                state.step += 1
                steps = state.epoch * len(batches) + state.step
                if self.setup.hooks.has("on_step"):
                    self._on_main(partial(self.hooks.on_step, steps, losses, self.setup.model))
                bar.update()
                bar.set_postfix({name: printed(value, ".3f") for name, value in state.totals.means().items()})
                self._pause(steps, in_epoch=state.step < len(batches))

    def _close_epoch(self) -> None:
        """Validate, compare with the best epoch, and save."""
        state, monitor = self.state, self.monitor
        row: dict[str, float] = {
            "epoch": state.epoch + 1,
            "learning_rate": float(state.optimiser.param_groups[-1]["lr"]),
            **{f"train_{name}": value for name, value in state.totals.means().items()},
        }
        validates = "val" in self.setup.datasets
        if validates:
            found = self._validate()
            row |= {f"val_{name}": value for name, value in found.items()}
        if validates or not monitor.of_validation:
            monitor.require(row)
        self._require_finite_weights()
        is_best = state.add_epoch(row, monitor.name, higher_is_better=monitor.higher_is_better)
        if self.history.run is not None:
            self._on_main(lambda: self._run.save_epoch(state.validated, self.history, is_best=is_best))
        self._save_state()
        figures = "  ".join(f"{name} {printed(value, '.4g')}" for name, value in row.items())
        self._print(figures + "  (best)" * (is_best and validates))
        if is_best and math.isnan(row.get(monitor.name, 0.0)):
            self._print(f"{monitor.name} is undefined: as long as it is, the first epoch counts as the best")
        if self.setup.hooks.has("on_epoch"):
            self._on_main(partial(self.hooks.on_epoch, self.history, state.validated))
        if any(gather(self.interrupted, self.processes)):
            raise KeyboardInterrupt

    def _validate(self) -> dict[str, float]:
        """Validate; if that fails, save the steps of the epoch first, so that they need not be made again."""
        state = self.state
        try:
            return validate(state.validated, self.setup, self.feed, self.objective, epoch=state.epoch)
        except FloatingPointError:
            raise
        except Exception:
            if self.history.run is not None and self.processes.num_processes == 1:
                with suppress(OSError, FloatingPointError):  # the first error is the reason
                    self._require_finite_weights()
                    self._save_state()
                    self._print(f"saved in epoch {state.epoch + 1} after all its steps{self._how_to_resume()}")
            raise

    def _pause(self, steps: int, *, in_epoch: bool) -> None:
        """After a step, save the state if that is due or if the user has pressed Ctrl-C or SIGTERM has come."""
        stop = any(gather(self.interrupted, self.processes))
        due = self.setup.save_every is not None and steps % self.setup.save_every == 0
        if in_epoch and (stop or due):
            self._require_finite_weights()
            self._save_state()
            if stop:
                self._print(f"saved in epoch {self.state.epoch + 1} after {self.state.step} steps")
                raise KeyboardInterrupt

    def _require_finite_weights(self) -> None:
        when = f"in epoch {self.state.epoch + 1}, by step {self.state.step}"
        require_finite_weights(self.setup.model, when)
        if self.state.validated is not self.setup.model:
            require_finite_weights(self.state.validated, when)

    def _save_state(self) -> None:
        if self.history.run is None:
            return
        state = self.state.state_dict()  # in all processes
        self._on_main(lambda: self._run.save_state(state))

    @property
    def _run(self) -> Run:
        """The run folder, of the main process only."""
        assert self.folder is not None
        return self.folder

    def _on_main(self, work: Callable[[], object]) -> None:
        """Do something in the main process; where it fails there, all processes stop."""
        on_main(work, self.processes)

    def _where(self, samples: Sequence[Sample]) -> str:
        files = ", ".join(str(sample.path) for sample in samples)
        return f"in epoch {self.state.epoch + 1}, step {self.state.step + 1}, on the batch of {files}"

    def _build_sampler(self) -> Sampler[int]:
        samples, task = self.feed.samples, self.setup.task
        return build_sampler(
            samples,
            strata=[task.stratum(sample) for sample in samples] if self.recipe.balanced else None,
            per_patient=self.recipe.per_patient,
            generator=self.state.random.shuffle,
        )

    def _interrupt(self) -> None:
        self.interrupted = True

    def _how_to_resume(self) -> str:
        return "" if self.history.run is None else f"; resume with run={str(self.history.run)!r}, resume=True"

    def _bar(self, **options: Any) -> Any:
        return tqdm(leave=False, disable=None if self.setup.is_main else True, **options)

    def _print(self, text: str) -> None:
        if self.setup.is_main:
            encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
            tqdm.write(printable(text).encode(encoding, "backslashreplace").decode(encoding))


def _locked(folder: Path) -> FileLock | None:
    """Lock a run folder, which is created if it doesn't exist; the lock ends with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    if not is_unused(folder) and not (folder / "recipe.json").is_file():
        return None  # `Run` refuses it, and nothing is written there
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise FileExistsError(
            f"{folder}: this run folder is in use, a training is running in it: wait until it has ended, stop it, or "
            "choose another folder"
        ) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, (PermissionError, FileNotFoundError)):
            raise
        warnings.warn(f"{folder}: it can't be locked ({error}): don't start another training in it", stacklevel=2)
    return lock
