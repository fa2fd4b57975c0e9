"""Wrapped checkpoints: the tensors of a network inside what a training saved around them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import Any

from torch import Tensor

from hccvision.weights.formats import WeightFormat

# Averaged weights first, as timm does: they are the ones that were validated.
STATES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "model")
WRAPPERS = ("_orig_mod.", "module.")  # of torch.compile, and of DataParallel and AveragedModel
_DEPTH = 8


def state_dict_in(content: Any, path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Find the tensors of a network in a checkpoint.

    Args:
        content: of the file: a state dict, or one inside dictionaries, beside the state of an optimiser and other
            values. Averaged weights (``state_dict_ema``, ``model_ema``) are preferred to those of the last step.
        path: of the file, for messages.

    Returns:
        Tensors by key, without the wrappers of DataParallel, torch.compile and AveragedModel.

    Raises:
        ValueError: if there are no tensors, or in several places.

    Example:
        >>> import torch
        >>> averaged = {"n_averaged": torch.tensor(3), "module.weight": torch.ones(2)}
        >>> state_dict_in({"epoch": 3, "net": averaged, "optimizer": {"state": {}, "param_groups": []}}, "a.pth")
        {'weight': tensor([1., 1.])}
    """
    for _ in range(_DEPTH):
        if not isinstance(content, Mapping):
            raise ValueError(f"{path}: expected a dictionary of tensors, got a {type(content).__name__}")
        inner = next((content[name] for name in STATES if _holds_weights(content.get(name))), None)
        if inner is None and not _has_weights(content):
            places = [name for name, value in content.items() if _holds_weights(value)]
            if len(places) > 1:
                raise ValueError(
                    f"{path}: this is a wrapped checkpoint, keys {_some(content)}, with tensors under {_some(places)}: "
                    "save the dictionary of the one that you want"
                )
            inner = content[places[0]] if places else None
        if inner is None:
            break
        content = inner
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(
            f"{path}: there is no tensor in it; expected a state_dict, got a dictionary with the keys {_some(content)}"
        )
    if len(tensors) > 1 and all(key == "n_averaged" or key.startswith("module.") for key in tensors):
        tensors.pop("n_averaged", None)
    while wrapper := next((w for w in WRAPPERS if all(key.startswith(w) for key in tensors)), None):
        tensors = {key.removeprefix(wrapper): value for key, value in tensors.items()}
    return tensors


def unprefixed(
    tensors: Mapping[str, Tensor], formats: Sequence[WeightFormat], own: Container[str]
) -> dict[str, Tensor]:
    """Remove the prefix under which a wrapper, such as a module of Lightning, holds the network.

    Args:
        tensors: by key.
        formats: of the backbone.
        own: keys of the backbone.

    Returns:
        The same tensors; a prefix that at least half of the keys share, such as ``model.`` or ``net.``, is removed if
        more keys belong to the backbone without it.

    Example:
        >>> import torch
        >>> from hccvision.backbones.vgg import VGG
        >>> found = {"net.features.0.weight": torch.zeros(1), "loss.weight": torch.zeros(1)}
        >>> list(unprefixed(found, VGG.formats, VGG().state_dict()))
        ['features.0.weight', 'loss.weight']
    """
    if not formats:
        return dict(tensors)
    shares: Counter[str] = Counter()
    for key in tensors:
        parts = key.split(".")[:-1][:_DEPTH]
        shares.update(".".join(parts[: i + 1]) + "." for i in range(len(parts)))
    # Of a model of ours without its settings it isn't known how its images were normalised: it is left as it is.
    ours = tuple(p for p in shares if p.endswith("backbone.") and f"{p.removesuffix('backbone.')}head." in shares)
    shared = [p for p, count in shares.items() if 2 * count >= len(tensors) and not p.startswith(ours)]
    without = [
        {key.removeprefix(prefix): value for key, value in tensors.items()} for prefix in sorted(shared, key=len)
    ]
    whole = [found for found in without if len(found) == len(tensors)]  # two keys may become one
    return max([dict(tensors), *whole], key=lambda found: _known(found, formats, own))


def _known(tensors: Mapping[str, Tensor], formats: Sequence[WeightFormat], own: Container[str]) -> int:
    return max(sum(fmt.rename(key) in own for key in tensors) for fmt in formats)


def _has_weights(content: Mapping[Any, Any]) -> bool:
    """Return whether tensors other than counters are directly in a dictionary."""
    return any(isinstance(value, Tensor) and value.dim() for value in content.values())


def _holds_weights(value: Any, depth: int = _DEPTH) -> bool:
    """Return whether a value is a dictionary that holds the tensors of a network, at any depth."""
    if not isinstance(value, Mapping) or "param_groups" in value or not depth:  # an optimiser has groups
        return False
    return _has_weights(value) or any(_holds_weights(inner, depth - 1) for inner in value.values())


def _some(keys: Any) -> str:
    names = [repr(key)[:60] for key in keys]
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
