"""Pretrained weights: read a file or ask timm's hub, rename the tensors, load them, and report what matched."""

from __future__ import annotations

import difflib
import hashlib
import os
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class WeightFormat:
    r"""One naming of a part's tensors out in the world, and the preprocessing that such weights were trained with.

    Backbones and heads state theirs as ``formats``. A file gives its head too where the head has a format of the same
    name as the one that the backbone reads it by.

    Args:
        name: for reports, and to bring the formats of a backbone and a head together.
        rename: maps a key of the file to a key of the part, or None for a tensor the part has no use for.
        mean: per RGB channel, of images in [0, 1]; values that are stated for 0 … 255 are divided by 255.
        std: per RGB channel, of images in [0, 1]; likewise.
        options: backbone options the weights need, such as their activation.
        channel_order: ``"rgb"`` or ``"bgr"``, of the images they were trained with. The model takes RGB either way:
            loading turns the first convolution around.

    Example:
        >>> caffe = WeightFormat("caffe", prefix(r"vgg\.", "features."), channel_order="bgr")
        >>> caffe.rename("vgg.0.weight")
        'features.0.weight'
    """

    name: str
    rename: Callable[[str], str | None]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    options: Mapping[str, Any] = field(default_factory=dict)
    channel_order: str = "rgb"


@dataclass(frozen=True)
class WeightReport:
    """What became of the tensors of a weights source. Keys of the head begin with ``head.``.

    Args:
        source: the file or hub tag.
        format: the naming that was recognised.
        matched: keys of the network that were loaded.
        missing: keys of the network that the source doesn't have; they keep their fresh values.
        left_over: keys of the source that the network has no use for, such as the old classifier.
        left_out: keys of the head that the source has in another shape, such as the scores of another number of
            classes, each with both shapes; they keep their fresh values.
        sha256: of the file; for the hub, of the tensors (`fingerprint`).

    Example:
        >>> print(WeightReport("a.pth", "pytorch-ssd", ("layers.0.0.weight",), (), ("fc.weight",)))
        a.pth (pytorch-ssd): 1 tensors matched, 0 missing, 1 left over (fc.weight)
    """

    source: str
    format: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    left_over: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    sha256: str = ""

    def __str__(self) -> str:
        def some(keys: tuple[str, ...]) -> str:
            return f" ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})" if keys else ""

        out = f", {len(self.left_out)} left out for their shape{some(self.left_out)}" if self.left_out else ""
        return (
            f"{self.source} ({self.format}): {len(self.matched)} tensors matched, {len(self.missing)} missing"
            f"{some(self.missing)}{out}, {len(self.left_over)} left over{some(self.left_over)}"
        )


def rules(*pairs: tuple[str, str]) -> Callable[[str], str | None]:
    r"""Make a rename rule out of several: the first whose start fits the key is taken; other keys have no use.

    Args:
        pairs: each a regular expression for the start of the key, and what stands there instead, in which ``\1`` is
            the expression's first group.

    Returns:
        The rule.

    Example:
        >>> rename = rules((r"conv(\d+)\.", r"layers.\1.0."), (r"bn(\d+)\.", r"layers.\1.1."))
        >>> rename("conv3.weight"), rename("bn3.bias"), rename("fc.bias")
        ('layers.3.0.weight', 'layers.3.1.bias', None)
    """
    patterns = [(re.compile(old), new) for old, new in pairs]

    def rename(key: str) -> str | None:
        hits = ((pattern.match(key), new) for pattern, new in patterns)
        return next((hit.expand(new) + key[hit.end() :] for hit, new in hits if hit), None)

    return rename


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
    return rules((old, new))


HCCVISION = WeightFormat("hccvision", prefix(r"backbone\.", ""))
HCCVISION_HEAD = WeightFormat("hccvision", prefix(r"head\.", ""))


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors``, ``.pth``, ``.pt`` or ``.pth.tar`` file, without running any code in it.

    Args:
        path: the file; a checkpoint whose tensors lie under ``state_dict`` or ``model`` is unpacked, and the
            ``module.`` or ``_orig_mod.`` that DataParallel or torch.compile puts before each key is taken off.

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
    for wrapper in ("_orig_mod.", "module.", "_orig_mod."):
        if all(k.startswith(wrapper) for k in tensors):
            tensors = {k.removeprefix(wrapper): v for k, v in tensors.items()}
    return tensors


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Give the SHA-256 of a file.

    Args:
        path: the file.

    Returns:
        64 hexadecimal digits, as ``sha256sum`` prints them.
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Give one SHA-256 of names, types, shapes and values, whatever file they lay in and in whatever order.

    Args:
        tensors: by key.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> a, b = torch.zeros(2), torch.ones(2)
        >>> fingerprint({"a": a, "b": b}) == fingerprint({"b": b, "a": a}) != fingerprint({"a": b, "b": a})
        True
    """
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def hub_tensors(tag: str, **options: Any) -> dict[str, Tensor]:
    """Get the tensors of a timm model from the hub, downloading them if they are not in its cache.

    Args:
        tag: timm's model name with its tag, such as ``"vgg16.tv_in1k"``; without one, timm's default tag is taken.
        options: of the timm model that the weights are fitted to, such as ``img_size`` of a vision transformer.

    Returns:
        Tensors by timm's key.

    Raises:
        ValueError: if timm knows no such weights; the message lists those of the model, or similar models.
        RuntimeError: if the hub can't be reached; the message gives the reason and the two other ways.
    """
    import timm

    name = tag.split(".")[0]
    known = timm.list_pretrained(f"{name}.*")
    if ":" not in tag and (not known or (tag != name and tag not in known)):  # hf-hub:… names any repository
        near = ", ".join(known or difflib.get_close_matches(name, timm.list_models(), n=5))
        hint = f"{f'those of {name}' if known else 'similar models'}: {near}" if near else "see timm.list_pretrained()"
        raise ValueError(f"timm has no weights {tag!r}; {hint}")
    try:
        return timm.create_model(tag, pretrained=True, **options).state_dict()
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise RuntimeError(
            f"the weights {tag!r} could not be downloaded: {reason}. Without a network, give weights=<path "
            "of a weights file>, or weights=None to start from random weights"
        ) from error


def hub_preprocessing(tag: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Give the mean and std that timm states for weights of its hub.

    Args:
        tag: timm's model name, with or without a tag.

    Returns:
        Mean and std per RGB channel, of images in [0, 1].

    Example:
        >>> hub_preprocessing("mobilenetv1_100.ra4_e3600_r224_in1k")
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """
    import timm

    config = timm.get_pretrained_cfg(tag, allow_unregistered=True)
    return (tuple(config.mean), tuple(config.std)) if config else (IMAGENET_MEAN, IMAGENET_STD)


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
    best = max((*formats, HCCVISION), key=lambda f: sum(f.rename(k) is not None for k in tensors))
    if not any(best.rename(k) is not None for k in tensors):
        raise ValueError(
            f"{source}: these are the weights of another network: none of its {len(tensors)} tensors "
            f"({', '.join(list(tensors)[:3])}, …) has a place in this backbone, which reads the formats "
            f"{', '.join(f.name for f in (HCCVISION, *formats))}"
        )
    return best


def first_convolution(weight: Tensor, channels: int, rule: str = "sum") -> Tensor:
    """Fit the first convolution's weight to another number of input channels.

    Args:
        weight: ``(out, in, kh, kw)``.
        channels: wanted.
        rule: ``"sum"`` keeps the response: a grey image in all new channels gives what it gave in all old ones.
            ``"mean"`` gives every new channel the mean over the old ones; one channel's response is then a third.

    Returns:
        ``(out, channels, kh, kw)``; the weight itself if it has that many.

    Raises:
        ValueError: for an unknown rule.

    Example:
        >>> first_convolution(torch.ones(8, 3, 3, 3), 1)[0, 0, 0]
        tensor([3., 3., 3.])
        >>> first_convolution(torch.ones(8, 3, 3, 3), 1, "mean")[0, 0, 0]
        tensor([1., 1., 1.])
    """
    if rule not in ("sum", "mean"):
        raise ValueError(f"unknown channel_rule {rule!r}; known: 'sum' (keeps the response), 'mean' (of the channels)")
    old = weight.shape[1]
    if old == channels:
        return weight
    scale = old / channels if rule == "sum" else 1.0
    return (weight.mean(1, keepdim=True) * scale).expand(-1, channels, -1, -1).contiguous()


def preprocessing(
    mean: Sequence[float], std: Sequence[float], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Give the mean and std for a number of input channels.

    Args:
        mean: per channel, as the weights were trained.
        std: per channel.
        channels: of the input.

    Returns:
        The same where there are as many; otherwise one value each, their average over the channels.

    Example:
        >>> mean, std = preprocessing(IMAGENET_MEAN, IMAGENET_STD, 1)
        >>> round(mean[0], 3), round(std[0], 3)
        (0.449, 0.226)
    """
    if len(mean) == channels:
        return tuple(mean), tuple(std)
    return (sum(mean) / len(mean),), (sum(std) / len(std),)


def _fit_first(
    found: dict[str, Tensor], module: nn.Module, fmt: WeightFormat, rule: str, channel_order: str | None
) -> None:
    """Turn the first convolution to RGB, and fit it to the network's channels, mean and std with them."""
    convolutions = (n for n, m in module.named_modules() if isinstance(m, nn.Conv2d))
    name = next(convolutions, "")
    key, bias = f"{name}.weight", f"{name}.bias"
    own = module.state_dict()
    order = channel_order or fmt.channel_order
    if order not in ("rgb", "bgr"):
        raise ValueError(f"unknown channel_order {order!r}; known: 'rgb', 'bgr'")
    if key not in found or found[key].dim() != 4 or found[key].shape[0] != own[key].shape[0]:
        return
    weight = found[key].double()
    old, new = weight.shape[1], own[key].shape[1]
    if order == "bgr" and old == 3:
        weight = weight.flip(1)
    if old == new:
        found[key] = first_convolution(weight, new, rule)
        return
    values = [weight.new_tensor(v) for v in (fmt.mean, fmt.std)]
    m, s = (v.mean() for v in values)  # what the network gets for all of its channels
    mean, std = ((v if len(v) == old else v.mean()).expand(old)[:, None, None] for v in values)
    # (x - mean) / std, channel by channel, is (x - m) / s times s / std, plus (m - mean) / std
    found[key] = first_convolution(weight * (s / std), new, rule)
    shift = (weight * ((m - mean) / std)).sum((1, 2, 3)) * (1.0 if rule == "sum" else new / old)
    behind = list(own)[list(own).index(key) + 1 :][:3]
    running = next((k for k in behind if k.endswith("running_mean")), None)
    if bias in found:
        found[bias] = found[bias] + shift
    elif running in found and found[running].shape == shift.shape:  # of a batch norm right behind
        found[running] = found[running] - shift


def load_into(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    fmt: WeightFormat,
    source: str,
    *,
    partly: bool = False,
    channel_rule: str = "sum",
    channel_order: str | None = None,
) -> WeightReport:
    """Load renamed tensors into a network.

    Args:
        module: the network; a backbone's first convolution may have another number of input channels, and takes the
            difference of mean and std up with it.
        tensors: by the source's keys.
        fmt: the naming they follow.
        source: for messages.
        partly: leave tensors of another shape out and report them, as for a head; None need match.
        channel_rule: ``"sum"`` or ``"mean"``, see `first_convolution`.
        channel_order: ``"rgb"`` or ``"bgr"``, if it isn't the format's.

    Returns:
        What matched, what was missing, left over and left out.

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
    if not found and not partly:
        raise ValueError(
            f"{source}: these are the weights of another network: no tensor matched (it has "
            f"{', '.join(list(tensors)[:3])}, …; this one wants {', '.join(list(own)[:3])}, …)"
        )
    if not partly:
        _fit_first(found, module, fmt, channel_rule, channel_order)
    wrong = [k for k, v in found.items() if v.shape != own[k].shape]
    shapes = [f"{k}: {tuple(found[k].shape)} in the file, {tuple(own[k].shape)} here" for k in wrong]
    if wrong and not partly:
        raise ValueError(
            f"{source}: these are the weights of another network: {len(wrong)} of {len(found)} tensors have another "
            f"shape, first {shapes[0]}; build the backbone with the file's width"
        )
    learnt = {k for k, _ in module.named_parameters()}  # other buffers, such as default boxes, are no weights
    missing = tuple(k for k in own if k not in found and (k in learnt or k.endswith(("running_mean", "running_var"))))
    for key in wrong:
        del found[key]
    module.load_state_dict(found, strict=False)
    return WeightReport(source, fmt.name, tuple(found), missing, tuple(left_over), tuple(shapes))


def load_head(head: nn.Module, tensors: Mapping[str, Tensor], report: WeightReport) -> WeightReport:
    """Load what a whole model's checkpoint has for the head, as far as the shapes agree.

    Args:
        head: states its ``formats``; without any, only files of hccvision give it weights.
        tensors: by the source's keys.
        report: of the backbone; its left-over tensors are tried here.

    Returns:
        The report of both. One of the backbone alone, if there is nothing for the head in the source.
    """
    formats = (*getattr(head, "formats", ()), HCCVISION_HEAD)
    fmt = next((f for f in formats if f.name == report.format), None)
    if fmt is None:
        return report
    rest = {k: tensors[k] for k in report.left_over}
    found = load_into(head, rest, fmt, report.source, partly=True)
    if not found.matched and not found.left_out:
        return report
    matched, missing, left_out = (
        tuple(f"head.{k}" for k in keys) for keys in (found.matched, found.missing, found.left_out)
    )
    return replace(
        report,
        matched=report.matched + matched,
        missing=report.missing + missing,
        left_over=found.left_over,
        left_out=left_out,
    )
