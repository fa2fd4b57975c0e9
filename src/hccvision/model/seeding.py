"""Random weights from a seed, whatever other threads draw meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_BORROWED = threading.Lock()  # torch's global generator, by the few operations that take no other


class _Seeded(TorchDispatchMode):
    """Give every random operation on the CPU of this thread a generator, unless it has one."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, torch's default, imports its compiler at the first operation: seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        is_random = torch.Tag.nondeterministic_seeded in func.tags and kwargs.get("generator") is None
        if not is_random or not _is_on_cpu(args, kwargs):
            return func(*args, **kwargs)
        operation = _with_generator(func)
        if operation is not None:
            return operation(*args, **{**kwargs, "generator": self.generator})
        with _BORROWED:
            before = torch.default_generator.get_state()
            torch.default_generator.set_state(self.generator.get_state())
            try:
                return func(*args, **kwargs)
            finally:
                self.generator.set_state(torch.default_generator.get_state())
                torch.default_generator.set_state(before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw what this thread draws on the CPU from a generator of its own; torch's global one is left alone.

    Args:
        seed: the values are those that the global generator gives after ``torch.manual_seed(seed)``.

    Example:
        >>> with seeded(3):
        ...     drawn = torch.nn.Linear(4, 2).weight
        >>> _ = torch.manual_seed(3)
        >>> bool((drawn == torch.nn.Linear(4, 2).weight).all())
        True
    """
    with _Seeded(Generator().manual_seed(seed)):
        yield


@cache
def _with_generator(func: Any) -> Any:
    """Return the operation itself or its overload that takes a generator; None if there is none."""
    names = _arguments(func)
    if "generator" in names:
        return func
    packet = func.overloadpacket
    overloads = (getattr(packet, name) for name in packet.overloads())
    return next((other for other in overloads if _arguments(other) == names | {"generator"}), None)


def _arguments(func: Any) -> set[str]:
    return {argument.name for argument in func._schema.arguments}


def _is_on_cpu(args: Any, kwargs: Any) -> bool:
    device = kwargs.get("device")
    if device is not None:
        return torch.device(device).type == "cpu"
    tensors = [value for value in args if isinstance(value, Tensor)]
    return all(tensor.device.type == "cpu" for tensor in tensors)
