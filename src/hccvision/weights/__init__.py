"""Pretrained weights: read a file or query timm's hub, rename the tensors, load them, and report what matched."""

from hccvision.weights.formats import (
    HCCVISION,
    HCCVISION_HEAD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    WeightFormat,
    prefix,
    recognise,
    rules,
)
from hccvision.weights.hub import hub_preprocessing, hub_tensors
from hccvision.weights.input_channels import first_convolution, preprocessing
from hccvision.weights.loading import load_head, load_into
from hccvision.weights.reading import fingerprint, read_tensors
from hccvision.weights.report import WeightReport

__all__ = [
    "HCCVISION", "HCCVISION_HEAD", "IMAGENET_MEAN", "IMAGENET_STD", "WeightFormat", "WeightReport",
    "fingerprint", "first_convolution", "hub_preprocessing", "hub_tensors", "load_head", "load_into", "prefix",
    "preprocessing", "read_tensors", "recognise", "rules",
]  # fmt: skip
