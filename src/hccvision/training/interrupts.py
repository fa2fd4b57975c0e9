"""Ctrl-C during a training: the first one stops after the current step, the second one at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interruptible(act: Callable[[], None] | None) -> Iterator[None]:
    """Call a function at the first Ctrl-C instead of raising `KeyboardInterrupt`; the second one raises it.

    Args:
        act: the function; None: Ctrl-C raises at once, as usual. Outside the main thread it always does.
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
