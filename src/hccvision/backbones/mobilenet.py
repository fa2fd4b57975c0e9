"""MobileNetV1: a plain stack of depthwise-separable convolutions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from hccvision.backbones.checkpointing import run
from hccvision.registry import BACKBONES
from hccvision.weights.formats import WeightFormat, prefix, rules

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu6": partial(nn.ReLU6, inplace=True),
    "relu": partial(nn.ReLU, inplace=True),
    "leaky_relu": partial(nn.LeakyReLU, 0.1, inplace=True),
}

# Channels and stride of each layer: one full convolution, then thirteen depthwise-separable ones.
LAYERS = (
    (32, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip
MAPS = {3: 4, 5: 8, 11: 16, 13: 32}  # layer that ends a stage -> its stride


def convolution(channels: int, out: int, stride: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Build a full 3×3 convolution with batch norm.

    Args:
        channels: of the input.
        out: channels of the output.
        stride: 1 or 2.
        activation: builder of the activation.

    Returns:
        The layer.
    """
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(out),
        activation(),
    )


def depthwise_separable(channels: int, out: int, stride: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Build a depthwise 3×3 convolution followed by a 1×1 convolution across channels.

    Args:
        channels: of the input.
        out: channels of the output.
        stride: of the depthwise convolution, 1 or 2.
        activation: builder of the activation.

    Returns:
        The layer.

    Source:
        Howard et al. 2017, MobileNets, arXiv:1704.04861, section 3.1 and figure 3.
    """
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        activation(),
        nn.Conv2d(channels, out, 1, bias=False),
        nn.BatchNorm2d(out),
        activation(),
    )


# Retinaface's MobileNetV1 0.25: stage1.0 … stage1.5, stage2.0 … stage2.5, stage3.0, stage3.1
_STAGES = [(rf"stage{1 + i // 6}\.{i % 6}\.", f"layers.{i}.") for i in range(len(LAYERS))]
# timm's mobilenetv1_100 and its variants: conv_stem, bn1, blocks.<stage>.<block>.<part>
_BLOCKS = [(stage, block) for stage, depth in enumerate((1, 2, 2, 6, 2)) for block in range(depth)]
_TIMM = [(r"conv_stem\.", "layers.0.0."), (r"bn1\.", "layers.0.1.")] + [
    (rf"blocks\.{stage}\.{block}\.{part}\.", f"layers.{layer}.{index}.")
    for layer, (stage, block) in enumerate(_BLOCKS, 1)
    for part, index in (("conv_dw", 0), ("bn1", 1), ("conv_pw", 3), ("bn2", 4))
]

HALF = (0.5, 0.5, 0.5)
PYTORCH_SSD: dict[str, Any] = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3, "options": {"activation": "relu"}}


@BACKBONES.register("mobilenet_v1")
class MobileNetV1(nn.Module):
    """MobileNetV1 as feature maps at strides 4, 8, 16 and 32.

    Args:
        width: multiplier of all channels, above 0: 1.0, 0.75, 0.5 and 0.25 are those of the paper; with any other,
            channels are rounded down, to at least 8.
        in_channels: 1, 3 or any other number.
        activation: ``"relu6"``, ``"relu"`` or ``"leaky_relu"`` (slope 0.1). None: that of the pretrained
            weights, or relu6.

    Raises:
        ValueError: for an unknown activation or a width that isn't above 0.

    Example:
        >>> import torch
        >>> maps = MobileNetV1(width=0.25)(torch.zeros(1, 3, 96, 64))
        >>> [tuple(m.shape[1:]) for m in maps]
        [(32, 24, 16), (64, 12, 8), (128, 6, 4), (256, 3, 2)]

    Source:
        Howard et al. 2017, MobileNets, arXiv:1704.04861, table 1.
    """

    strides = tuple(MAPS.values())
    hub = "mobilenetv1_100.ra4_e3600_r224_in1k"
    formats = (
        WeightFormat("pytorch-ssd", prefix(r"model\.", "layers."), HALF, HALF, {"activation": "relu6"}),
        WeightFormat("pytorch-ssd base net", prefix(r"(\d+)\.(?=\d+\.)", r"layers.\1."), **PYTORCH_SSD),
        WeightFormat("pytorch-ssd detector", prefix(r"base_net\.(?=\d+\.\d+\.)", "layers."), **PYTORCH_SSD),
        WeightFormat("retinaface", rules(*_STAGES), options={"activation": "leaky_relu"}),
        WeightFormat("timm", rules(*_TIMM), HALF, HALF, {"activation": "relu6"}),
    )
    mean = std = HALF

    def __init__(self, *, width: float = 1.0, in_channels: int = 3, activation: str | None = None) -> None:
        super().__init__()
        if width == 1.25:
            self.hub = "mobilenetv1_125.ra4_e3600_r224_in1k"
        activation = activation or "relu6"
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}; known: {', '.join(ACTIVATIONS)}")
        if not width > 0:
            raise ValueError(f"width is a multiplier above 0, got {width}")
        self.in_channels = in_channels
        layers: list[nn.Sequential] = []
        channels = in_channels
        for index, (out, stride) in enumerate(LAYERS):
            out = max(8, int(out * width))
            layer = depthwise_separable if index else convolution
            layers.append(layer(channels, out, stride, ACTIVATIONS[activation]))
            channels = out
        self.layers = nn.ModuleList(layers)
        self.checkpointing = False
        self.channels = tuple(max(8, int(LAYERS[i][0] * width)) for i in MAPS)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            images: ``(B, in_channels, H, W) float``, normalised.

        Returns:
            Four maps ``(B, channels[i], ⌈H / strides[i]⌉, ⌈W / strides[i]⌉)``.
        """
        maps = []
        for index, layer in enumerate(self.layers):
            images = run(layer, images, checkpointing=self.checkpointing)
            if index in MAPS:
                maps.append(images)
        return tuple(maps)
