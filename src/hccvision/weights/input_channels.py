"""First convolution and preprocessing of a network with another number or order of input channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hccvision.weights.formats import WeightFormat


def first_convolution(weight: Tensor, channels: int, rule: str = "sum") -> Tensor:
    """Adapt the weight of the first convolution to another number of input channels.

    Args:
        weight: ``(out, in, kh, kw)``.
        channels: number of input channels wanted.
        rule: ``"sum"`` keeps the response: a grey image repeated in all new channels has the response that it had in
            all old ones. ``"mean"`` sets each new channel to the mean of the old ones: from three channels to one, the
            response is a third.

    Returns:
        ``(out, channels, kh, kw)``; the weight itself if it has that many channels.

    Raises:
        ValueError: for an unknown rule.

    Example:
        >>> import torch
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


def require_normalisation(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise unless images can be normalised by a mean and a std.

    Args:
        mean: per channel.
        std: per channel.

    Raises:
        ValueError: if there is not one of each per channel, a mean is infinite or NaN, or a std isn't above 0 and
            finite, in float32.
    """
    means, stds = (torch.as_tensor(v, dtype=torch.float32).flatten() for v in (mean, std))
    if not len(means) or len(means) != len(stds):
        raise ValueError(f"expected one mean and one std per channel, got {len(means)} and {len(stds)}")
    if not bool(means.isfinite().all()):
        raise ValueError(f"the mean of each channel is a finite number, got {means.tolist()}")
    if not bool((stds.isfinite() & (stds > 0)).all()):
        raise ValueError(f"the std of each channel is above 0 and finite, got {stds.tolist()}")


def preprocessing(
    mean: Sequence[float], std: Sequence[float], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Adapt mean and std to a number of input channels.

    Args:
        mean: per channel, of the images that the weights were trained with.
        std: per channel, likewise.
        channels: of the input.

    Returns:
        Mean and std unchanged if they have this many values; otherwise one value each, the average over the channels.

    Example:
        >>> from hccvision.weights.formats import IMAGENET_MEAN, IMAGENET_STD
        >>> mean, std = preprocessing(IMAGENET_MEAN, IMAGENET_STD, 1)
        >>> round(mean[0], 3), round(std[0], 3)
        (0.449, 0.226)
    """
    if len(mean) == channels:
        return tuple(mean), tuple(std)
    return (sum(mean) / len(mean),), (sum(std) / len(std),)


def fit_first(
    found: dict[str, Tensor], module: nn.Module, fmt: WeightFormat, rule: str, channel_order: str | None
) -> None:
    """Adapt the first convolution to RGB and to the input channels of the network, with its mean and std.

    Args:
        found: tensors by the keys of the network; changed in place.
        module: the network.
        fmt: format of the tensors.
        rule: ``"sum"`` or ``"mean"``, see `first_convolution`.
        channel_order: ``"rgb"`` or ``"bgr"``; None: that of the format.

    Raises:
        ValueError: for an unknown channel order or rule.
    """
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
    m, s = (v.mean() for v in values)  # of the network, the same for all of its channels
    mean, std = ((v if len(v) == old else v.mean()).expand(old)[:, None, None] for v in values)
    # (x - mean) / std, channel by channel, is (x - m) / s times s / std, plus (m - mean) / std
    found[key] = first_convolution(weight * (s / std), new, rule)
    shift = (weight * ((m - mean) / std)).sum((1, 2, 3)) * (1.0 if rule == "sum" else new / old)
    following = list(own)[list(own).index(key) + 1 :][:3]
    running = next((k for k in following if k.endswith("running_mean")), None)
    if bias in found:
        found[bias] = found[bias] + shift
    elif running in found and found[running].shape == shift.shape:  # of a batch norm that follows directly
        found[running] = found[running] - shift
