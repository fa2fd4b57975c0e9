"""Random numbers of a training: determined by its seed and the epoch, and saved with the training's state."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from hccvision.generators import TURN


class Randomness:
    """All generators that a training draws from: two of its own, and those of torch, NumPy and Python.

    Example:
        >>> numbers = Randomness()
        >>> numbers.seed(0, epoch=3)
        >>> before = numbers.state()
        >>> first = torch.rand(1, generator=numbers.draws)
        >>> numbers.restore(before)
        >>> bool(first == torch.rand(1, generator=numbers.draws))
        True
    """

    def __init__(self) -> None:
        self.shuffle = torch.Generator()
        self.draws = torch.Generator()

    def seed(self, seed: int, *, epoch: int, process: int = 0) -> None:
        """Seed all generators for an epoch.

        Args:
            seed: of the training.
            epoch: whole epochs before this one.
            process: index of the process. All processes shuffle and augment alike; each has its own dropout.
        """
        start = seed * 1_000_003 + epoch
        self.shuffle.manual_seed(start)
        self.draws.manual_seed(start)
        own = start + process * 2_147_483_647
        torch.random.manual_seed(own)
        np.random.seed(own % 2**32)
        random.seed(own)

    def state(self) -> dict[str, Any]:
        """Return the state of all generators, as tensors and plain values."""
        key = np.random.get_state(legacy=False)
        assert isinstance(key, dict)
        version, words, gauss = random.getstate()
        return {
            "shuffle": self.shuffle.get_state(),
            "draws": self.draws.get_state(),
            "torch": torch.random.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "numpy": {**key, "state": {**key["state"], "key": torch.from_numpy(key["state"]["key"].astype(np.int64))}},
            "python": [version, list(words), gauss],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a state.

        Args:
            state: returned by `state`.
        """
        self.shuffle.set_state(state["shuffle"])
        self.draws.set_state(state["draws"])
        torch.random.set_rng_state(state["torch"])
        if state["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])
        numbers = state["numpy"]
        key = numbers["state"]["key"].numpy().astype(np.uint32)
        np.random.set_state({**numbers, "state": {**numbers["state"], "key": key}})
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words), gauss))


_TRAINING = threading.RLock()  # one training at a time


@contextmanager
def callers_randomness(device: torch.device) -> Iterator[None]:
    """Restore the caller's global random generators at the end; a training in another thread waits until then.

    Args:
        device: whose generator is restored, besides those of the CPU.
    """
    if not _TRAINING.acquire(blocking=False):
        tqdm.write("waiting for the end of the training in another thread: both draw from the global generators")
        _TRAINING.acquire()
    try:
        with ExitStack() as caller:
            with TURN:
                caller.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
                caller.callback(np.random.set_state, np.random.get_state())
                caller.callback(random.setstate, random.getstate())
            try:
                yield
            finally:
                with TURN:
                    caller.close()
    finally:
        _TRAINING.release()
