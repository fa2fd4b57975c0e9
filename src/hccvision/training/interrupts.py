"""Ctrl-C during a training: the first one finishes and saves the step, the second one stops at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interruptible(act: Callable[[], None] | None) -> Iterator[None]:
    """Let the first Ctrl-C only call a function.

    Args:
        act: the function; None: Ctrl-C stops at once, as usual. So it does outside the main thread.
    """
    if act is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def first(*_: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(2, b"\nstopping after this step, or after validation; Ctrl-C again stops at once\n")
        act()

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
