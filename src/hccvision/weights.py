"""Pretrained weights: read a file or ask timm's hub, rename the tensors, load them, and report what matched."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class WeightFormat:
    """One naming of a backbone's tensors out in the world, and the preprocessing that such weights were trained with.

    Args:
        name: for reports.
        rename: maps a key of the file to a key of the backbone, or None for a tensor the backbone has no use for.
        mean: per RGB channel, of images in [0, 1].
        std: per RGB channel, of images in [0, 1].
        options: backbone options the weights need, such as their activation.
    """

    name: str
    rename: Callable[[str], str | None]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WeightReport:
    """What became of the tensors of a weights source.

    Args:
        source: the file or hub tag.
        format: the naming that was recognised.
        matched: keys of the network that were loaded.
        missing: keys of the network that the source doesn't have; they keep their fresh values.
        left_over: keys of the source that the network has no use for, such as the old classifier.

    Example:
        >>> print(WeightReport("a.pth", "pytorch-ssd", ("layers.0.0.weight",), (), ("fc.weight",)))
        a.pth (pytorch-ssd): 1 tensors matched, 0 missing, 1 left over (fc.weight)
    """

    source: str
    format: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    left_over: tuple[str, ...]

    def __str__(self) -> str:
        def some(keys: tuple[str, ...]) -> str:
            return f" ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})" if keys else ""

        return (
            f"{self.source} ({self.format}): {len(self.matched)} tensors matched, "
            f"{len(self.missing)} missing{some(self.missing)}, {len(self.left_over)} left over{some(self.left_over)}"
        )


def prefix(old: str, new: str) -> Callable[[str], str | None]:
    r"""Make a rename rule that swaps one prefix for another, and has no use for other keys.

    Args:
        old: a regular expression for the start of the key.
        new: what stands there instead.

    Returns:
        The rule.

    Example:
        >>> prefix(r"backbone\.", "")("backbone.layers.0.weight"), prefix(r"backbone\.", "")("head.bias")
        ('layers.0.weight', None)
    """
    pattern = re.compile(old)

    def rename(key: str) -> str | None:
        hit = pattern.match(key)
        return new + key[hit.end() :] if hit else None

    return rename


HCCVISION = WeightFormat("hccvision", prefix(r"backbone\.", ""))


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors``, ``.pth``, ``.pt`` or ``.pth.tar`` file, without running any code in it.

    Args:
        path: the file; a checkpoint whose tensors lie under ``state_dict`` or ``model`` is unpacked, and the
            ``module.`` that DataParallel puts before each key is taken off.

    Returns:
        Tensors by key, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it isn't a weights file, or is a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file; give the path of a .safetensors or .pth file, or None")
    try:
        with path.open("rb") as file:
            start = file.read(9)
            file.seek(0)
            if start[8:] == b"{":  # safetensors: the length of the header in 8 bytes, then the header in JSON
                from safetensors.torch import load_file

                content: Any = load_file(path)
            elif start.startswith((b"PK", b"\x80")):  # PyTorch: a zip archive, or the pickle of old
                content = torch.load(file, map_location="cpu", weights_only=True)
            else:
                raise ValueError("its first bytes are those of neither kind")
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: not loaded: it holds more than plain tensors, and loading those could run code in it. If you "
            "trust it, open it yourself and save its state_dict as .safetensors"
        ) from error
    except Exception as error:
        raise ValueError(
            f"{path}: not a readable weights file ({error}); expected .safetensors, or a PyTorch checkpoint"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dictionary of tensors, got a {type(content).__name__}")
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        raise ValueError(f"{path}: there is no tensor in it; expected a state_dict")
    if all(k.startswith("module.") for k in tensors):
        tensors = {k.removeprefix("module."): v for k, v in tensors.items()}
    return tensors


def hub_tensors(tag: str) -> dict[str, Tensor]:
    """Get the tensors of a timm model from the hub, downloading them if they are not in its cache.

    Args:
        tag: timm's model name with its tag, such as ``"vgg16.tv_in1k"``.

    Returns:
        Tensors by timm's key.

    Raises:
        RuntimeError: if the hub can't be reached; the message gives the reason and the two other ways.
    """
    import timm

    try:
        return timm.create_model(tag, pretrained=True).state_dict()
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise RuntimeError(
            f"the ImageNet weights {tag!r} could not be downloaded: {reason}. Without a network, give weights=<path "
            "of a weights file>, or weights=None to start from random weights"
        ) from error


def recognise(tensors: Mapping[str, Tensor], formats: Sequence[WeightFormat], source: str) -> WeightFormat:
    """Find out which of a backbone's namings a file follows.

    Args:
        tensors: of the file.
        formats: the backbone's; the library's own is always among the candidates.
        source: for the message.

    Returns:
        The one that has a use for the most tensors.

    Raises:
        ValueError: if none has a use for any.
    """
    best = max((HCCVISION, *formats), key=lambda f: sum(f.rename(k) is not None for k in tensors))
    if not any(best.rename(k) is not None for k in tensors):
        raise ValueError(
            f"{source}: these are the weights of another network: none of its {len(tensors)} tensors "
            f"({', '.join(list(tensors)[:3])}, …) has a place in this backbone, which reads the formats "
            f"{', '.join(f.name for f in (HCCVISION, *formats))}"
        )
    return best


def first_convolution(weight: Tensor, channels: int) -> Tensor:
    """Fit the first convolution's weight to another number of input channels.

    Args:
        weight: ``(out, in, kh, kw)``.
        channels: wanted.

    Returns:
        ``(out, channels, kh, kw)``: summed for one channel, so that a grey image gives what it gave when repeated as
        RGB; otherwise the mean over the input channels, scaled to keep the size of the response.

    Example:
        >>> first_convolution(torch.ones(8, 3, 3, 3), 1)[0, 0, 0]
        tensor([3., 3., 3.])
    """
    old = weight.shape[1]
    if old == channels:
        return weight
    return (weight.mean(1, keepdim=True) * (old / channels)).expand(-1, channels, -1, -1).contiguous()


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], fmt: WeightFormat, source: str) -> WeightReport:
    """Load renamed tensors into a network.

    Args:
        module: the network; its first convolution may have another number of input channels.
        tensors: by the source's keys.
        fmt: the naming they follow.
        source: for messages.

    Returns:
        What matched, what was missing and what was left over.

    Raises:
        ValueError: if nothing matches, or a tensor that matches by name has another shape.
    """
    own = module.state_dict()
    found: dict[str, Tensor] = {}
    left_over = []
    for key, tensor in tensors.items():
        name = fmt.rename(key)
        if name in own:
            found[name] = tensor
        else:
            left_over.append(key)
    if not found:
        raise ValueError(
            f"{source}: these are the weights of another network: no tensor matched (it has "
            f"{', '.join(list(tensors)[:3])}, …; this one wants {', '.join(list(own)[:3])}, …)"
        )
    first = next(iter(own))
    if first in found and found[first].dim() == 4 and found[first].shape[0] == own[first].shape[0]:
        found[first] = first_convolution(found[first], own[first].shape[1])
    wrong = [k for k, v in found.items() if v.shape != own[k].shape]
    if wrong:
        k = wrong[0]
        raise ValueError(
            f"{source}: these are the weights of another network: {len(wrong)} of {len(found)} tensors have another "
            f"shape, first {k}: {tuple(found[k].shape)} in the file, {tuple(own[k].shape)} here; build the backbone "
            "with the file's width"
        )
    module.load_state_dict(found, strict=False)
    missing = tuple(k for k in own if k not in found and not k.endswith("num_batches_tracked"))
    return WeightReport(source, fmt.name, tuple(found), missing, tuple(left_over))
