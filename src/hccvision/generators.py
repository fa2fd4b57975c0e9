"""Torch's global random generators, which all threads share: who seeds or uses them in a row takes a turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

TURN = threading.RLock()


@contextmanager
def borrowed_generators(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators, and restore them at the end; other threads that borrow them wait until then.

    Args:
        seed: for the generators.
        device: a CUDA device whose generator is borrowed as well as the CPU's.

    Example:
        >>> before = torch.get_rng_state()
        >>> with borrowed_generators(0):
        ...     first = torch.rand(3)
        >>> with borrowed_generators(0):
        ...     bool((torch.rand(3) == first).all())
        True
        >>> bool((torch.get_rng_state() == before).all())
        True
    """
    cuda = device is not None and device.type == "cuda"
    with TURN, torch.random.fork_rng([device] if cuda else []):
        if cuda:
            torch.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)
        yield
