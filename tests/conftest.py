"""Fixtures and markers shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several: each keeps to a core, and so do the programs it starts
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

SHARED = Path(os.environ.get("HCCVISION_SHARED", Path(__file__).parents[1].parent / "shared")).resolve()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    absent = pytest.mark.skip(reason=f"no shared data at {SHARED}: set HCCVISION_SHARED")
    no_cuda = pytest.mark.skip(reason="no CUDA device here")
    slow = pytest.mark.skip(reason="slow: run it with pytest -m slow")
    for item in items:
        if "shared_data" in item.keywords and not (SHARED / "data").is_dir():
            item.add_marker(absent)
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_cuda)
        if "slow" in item.keywords and "slow" not in (config.option.markexpr or ""):
            item.add_marker(slow)


@pytest.fixture
def shared() -> Path:
    """The folder of the shared real data and weights; tests that use it are marked ``shared_data``."""
    return SHARED
