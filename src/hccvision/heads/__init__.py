"""Heads: feature maps in, raw output out, with the loss and the decoding of it. Importing this registers them."""

from hccvision.heads import linear, ssd

__all__ = ["linear", "ssd"]
