"""VGG-16, with and without batch norm."""

from __future__ import annotations

from torch import Tensor, nn

from hccvision.registry import BACKBONES
from hccvision.weights import IMAGENET_MEAN, IMAGENET_STD, WeightFormat, prefix

# Channels of the 3×3 convolutions of each stage; a 2×2 max pooling ends the stage.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nn.Module):
    """VGG-16's convolutions as feature maps: conv3_3, conv4_3, conv5_3 at strides 4, 8, 16, and pool5 at 32.

    Args:
        in_channels: 1, 3 or any other number.
        batch_norm: after each convolution.

    Example:
        >>> import torch
        >>> [tuple(m.shape[1:]) for m in VGG()(torch.zeros(1, 3, 64, 32))]
        [(256, 16, 8), (512, 8, 4), (512, 4, 2), (512, 2, 1)]

    Source:
        Simonyan and Zisserman 2015, arXiv:1409.1556, table 1, column D.
    """

    channels = (256, 512, 512, 512)
    strides = (4, 8, 16, 32)
    formats = (WeightFormat("torchvision and timm", prefix(r"features\.", "features.")),)
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    hub = "vgg16.tv_in1k"

    def __init__(self, *, in_channels: int = 3, batch_norm: bool = False) -> None:
        super().__init__()
        self.in_channels = in_channels
        layers: list[nn.Module] = []
        self.taps: list[int] = []  # the layer whose output is a map
        channels = in_channels
        for stage, widths in enumerate(STAGES):
            for out in widths:
                layers.append(nn.Conv2d(channels, out, 3, padding=1))
                layers += [nn.BatchNorm2d(out)] if batch_norm else []
                layers.append(nn.ReLU(inplace=True))
                channels = out
            if stage >= 2:
                self.taps.append(len(layers) - 1)
            layers.append(nn.MaxPool2d(2))
        self.taps.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            images: ``(B, in_channels, H, W) float``, normalised, sides of at least 32.

        Returns:
            Four maps ``(B, channels[i], ⌊H / strides[i]⌋, ⌊W / strides[i]⌋)``.
        """
        maps = []
        for index, layer in enumerate(self.features):
            images = layer(images)
            if index in self.taps:
                maps.append(images)
        return tuple(maps)


@BACKBONES.register("vgg16")
def vgg16(*, in_channels: int = 3) -> VGG:
    """Give VGG-16 without batch norm, the paper's classifier.

    Args:
        in_channels: 1, 3 or any other number.

    Returns:
        The backbone.

    Example:
        >>> sum(p.numel() for p in vgg16().parameters())
        14714688
    """
    return VGG(in_channels=in_channels)


@BACKBONES.register("vgg16_bn")
def vgg16_bn(*, in_channels: int = 3) -> VGG:
    """Give VGG-16 with batch norm.

    Args:
        in_channels: 1, 3 or any other number.

    Returns:
        The backbone.

    Example:
        >>> sum(p.numel() for p in vgg16_bn().parameters())
        14723136
    """
    backbone = VGG(in_channels=in_channels, batch_norm=True)
    backbone.hub = "vgg16_bn.tv_in1k"
    return backbone
