"""Ctrl-C or SIGTERM during a training: the first one stops after the current step, the second one at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_SECOND: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


@contextmanager
def interruptible(act: Callable[[], None] | None) -> Iterator[None]:
    """Call a function at the first Ctrl-C or SIGTERM; the second one ends the training at once.

    SIGTERM, which batch systems send before they kill, is left alone where the caller handles it.

    Args:
        act: the function; None: both signals act as usual. Outside the main thread they always do.
    """
    if act is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SECOND}
    if before[signal.SIGTERM] != signal.SIG_DFL:
        del before[signal.SIGTERM]

    def first(number: int, _: Any) -> None:
        for each in before:
            signal.signal(each, _SECOND[each])
        again = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        os.write(2, f"\nstopping after this step, or after validation; {again} again stops at once\n".encode())
        act()

    for number in before:
        signal.signal(number, first)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
