"""Activation checkpointing: activations inside a block are recomputed in the backward pass instead of stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def run(block: nn.Module, images: Tensor, *, checkpointing: bool) -> Tensor:
    """Run a block with or without checkpointing; output, gradients and batch-norm statistics are the same.

    Args:
        block: module from one tensor to one tensor that doesn't modify its input in place.
        images: its input.
        checkpointing: store only the input and output of the block.

    Returns:
        Output of the block.

    Example:
        >>> block = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        >>> run(block, torch.zeros(2, 1, 4, 4), checkpointing=True).shape
        torch.Size([2, 2, 2, 2])

    Source:
        Chen et al. 2016, arXiv:1604.06174.
    """
    if not (checkpointing and torch.is_grad_enabled()):
        return block(images)
    from torch.utils.checkpoint import checkpoint

    contexts: Any = partial(_contexts, block)
    return checkpoint(block, images, use_reentrant=False, context_fn=contexts)


def _contexts(block: nn.Module) -> tuple[Any, Any]:
    return nullcontext(), _frozen_statistics(block)


@contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    """Keep batch-norm statistics unchanged while a batch is recomputed."""
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    before = [m.momentum for m in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked -= 1
