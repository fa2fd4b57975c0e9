"""Where an error happened, added to it on its way."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def noted(where: str | Callable[[], str]) -> Iterator[None]:
    """Add to an error that passes where it happened, as a note; its type and what it says stay as they are.

    Args:
        where: such as ``"in epoch 1, step 3"``, or a function that returns it; left out if the error says so already.

    Example:
        >>> try:
        ...     with noted("while reading a.png"):
        ...         raise ValueError("no pixels")
        ... except ValueError as error:
        ...     "while reading a.png" in str([error, *getattr(error, "__notes__", ())])
        True
    """
    try:
        yield
    except Exception as error:
        text = where if isinstance(where, str) else where()
        if text not in "\n".join([str(error), *getattr(error, "__notes__", ())]):
            _add(error, text)
        raise


def _add(error: Exception, text: str) -> None:
    if sys.version_info >= (3, 11):
        error.add_note(text)
    elif len(error.args) == 1 and isinstance(error.args[0], str):  # Python 3.10 knows no notes
        error.args = (f"{error.args[0]}\n{text}",)
