"""Backbones: images in, feature maps out. Importing this registers them."""

from hccvision.backbones import mobilenet, timm_adapter, vgg

__all__ = ["mobilenet", "timm_adapter", "vgg"]
