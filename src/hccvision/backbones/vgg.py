"""VGG-16, with and without batch norm, and as modified in the SSD paper."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from hccvision.backbones.checkpointing import run
from hccvision.registry import BACKBONES
from hccvision.weights.formats import IMAGENET_MEAN, IMAGENET_STD, WeightFormat, prefix, rules

# Channels of the 3×3 convolutions of each stage; a 2×2 max pooling ends the stage.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nn.Module):
    """Convolutions of VGG-16 as feature maps: conv3_3, conv4_3, conv5_3 at strides 4, 8, 16, and pool5 at 32.

    Args:
        in_channels: 1, 3 or any other number.
        batch_norm: add batch norm after each convolution.

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
        self.taps: list[int] = []  # layers whose output is a map
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
        self.starts = [0, *(i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d))]  # of the blocks
        self.checkpointing = False
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
        for start, end in zip(self.starts, [*self.starts[1:], len(self.features)], strict=True):
            images = run(self.features[start:end], images, checkpointing=self.checkpointing)
            if end - 1 in self.taps:
                maps.append(images)
        return tuple(maps)


@BACKBONES.register("vgg16")
def vgg16(*, in_channels: int = 3) -> VGG:
    """Build VGG-16 without batch norm, the backbone of the paper's classifier.

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
    """Build VGG-16 with batch norm.

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


class ScaledL2Norm(nn.Module):
    """Normalise each cell of a map to length 1 across the channels, times a learned scale per channel.

    Args:
        channels: of the map.
        scale: initial value of all channels.

    Example:
        >>> ScaledL2Norm(2)(torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)).flatten().tolist()
        [12.0, 16.0]

    Source:
        Liu et al. 2016, SSD, section 3.1; Liu, Rabinovich and Berg 2016, ParseNet, arXiv:1506.04579, section 3.3.
    """

    def __init__(self, channels: int, scale: float = 20.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, images: Tensor) -> Tensor:
        """Compute the map.

        Args:
            images: ``(B, channels, H, W) float``.

        Returns:
            A map of the same shape.
        """
        return normalize(images, dim=1) * self.scale[:, None, None]


NORMS: dict[str, Any] = {"l2": ScaledL2Norm, "batch": nn.BatchNorm2d}
# RGB means of images in 0 … 255, without division by a std
CAFFE: dict[str, Any] = {"mean": (123 / 255, 117 / 255, 104 / 255), "std": (1 / 255,) * 3}
_PLAIN = r"(?=\d+\.(?:weight|bias)$)"  # keys of a flat list of layers
# torchvision's extra.0: pool4 to conv5_3, then pool5, fc6, fc7
_EXTRA = [(rf"backbone\.extra\.0\.{i}\.(?!\d)", f"features.{23 + i}.") for i in range(7)]


@BACKBONES.register("vgg16_ssd")
class VGGSSD(nn.Module):
    """VGG-16 as modified in the SSD paper: normalised conv4_3 at stride 8, and fc7 as a convolution at stride 16.

    The third pooling rounds up, so that maps of a 300 × 300 image are 38 × 38 and 19 × 19; the fifth keeps the size;
    fc6 is dilated. Weights of the VGG-16 classifier initialise conv1_1 to conv5_3; fc6 and fc7 are then random, as in
    torchvision.

    Args:
        in_channels: 1, 3 or any other number.
        norm: of conv4_3: ``"l2"`` (the paper, torchvision) or ``"batch"`` (pytorch-ssd). None: that of the
            pretrained weights, or l2.

    Raises:
        ValueError: for an unknown norm.

    Example:
        >>> [tuple(m.shape[1:]) for m in VGGSSD()(torch.zeros(1, 3, 300, 300))]
        [(512, 38, 38), (1024, 19, 19)]

    Source:
        Liu et al. 2016, SSD, sections 3 and 3.1.
    """

    channels = (512, 1024)
    strides = (8, 16)
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    hub = "vgg16.tv_in1k"
    formats = (
        WeightFormat("torchvision and timm", prefix(r"features\.", "features.")),
        WeightFormat(
            "pytorch-ssd detector",
            rules((rf"base_net\.{_PLAIN}", "features."), (r"source_layer_add_ons\.0\.", "norm.")),
            **CAFFE,
            options={"norm": "batch"},
        ),
        WeightFormat(
            "torchvision detector",
            rules(
                (r"backbone\.features\.", "features."),
                (r"backbone\.scale_weight$", "norm.scale"),
                (r"backbone\.extra\.0\.7\.1\.", "features.31."),
                (r"backbone\.extra\.0\.7\.3\.", "features.33."),
                *_EXTRA,
                (r"backbone\.extra\.", "extra."),  # part of the head
            ),
            mean=(0.48235, 0.45882, 0.40784),
            std=(1 / 255,) * 3,
            options={"norm": "l2"},
        ),
        WeightFormat(
            "ssd.pytorch detector",
            rules((rf"vgg\.{_PLAIN}", "features."), (r"L2Norm\.weight$", "norm.scale")),
            **CAFFE,
            options={"norm": "l2"},
        ),
        # vgg16_reducedfc.pth, Liu's Caffe file with its fc6 and fc7
        WeightFormat("ssd.pytorch base net", prefix(_PLAIN, "features."), **CAFFE, channel_order="bgr"),
    )

    def __init__(self, *, in_channels: int = 3, norm: str | None = None) -> None:
        super().__init__()
        norm = norm or "l2"
        if norm not in NORMS:
            raise ValueError(f"unknown norm {norm!r}; known: {', '.join(NORMS)}")
        self.in_channels = in_channels
        layers = list(VGG(in_channels=in_channels).features)[:-1]
        layers[16] = nn.MaxPool2d(2, ceil_mode=True)
        fc6, fc7 = nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.Conv2d(1024, 1024, 1)
        for layer in (fc6, fc7):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        layers += [nn.MaxPool2d(3, stride=1, padding=1), fc6, nn.ReLU(inplace=True), fc7, nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.norm = NORMS[norm](512)
        self.checkpointing = False

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            images: ``(B, in_channels, H, W) float``, normalised, sides of at least 8.

        Returns:
            Two maps, ``(B, 512, h, w)`` and ``(B, 1024, ⌊h / 2⌋, ⌊w / 2⌋)``, h = ⌈⌊⌊H / 2⌋ / 2⌋ / 2⌉.
        """
        for start, end in ((0, 4), (4, 9), (9, 16), (16, 23)):
            images = run(self.features[start:end], images, checkpointing=self.checkpointing)
        return self.norm(images), run(self.features[23:], images, checkpointing=self.checkpointing)
