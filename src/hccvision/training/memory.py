"""Memory: an allocator that keeps what it has, and recipes that fit into what there is."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # glibc's malloc.h


def tune_allocator() -> bool:
    """Let the C library keep the memory it is given back, so that large tensors don't fetch it anew each time.

    On two cores a training step of MobileNetV1-SSD300 is then up to twice as fast. The price: the process holds on to
    the most memory it ever took. It concerns the whole process, so nothing in hccvision calls it by itself.

    Returns:
        Whether it was done; False where the C library isn't glibc.

    Example:
        >>> tune_allocator() in (True, False)
        True

    Source:
        mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    most = 2**31 - 1
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, most), mallopt(_MMAP_THRESHOLD, 2**25)])
