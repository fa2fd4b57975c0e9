"""Shared data types and protocols."""

from hccvision.contracts.batches import Loss, Targets
from hccvision.contracts.outputs import Detections, Prediction, SSDOutput
from hccvision.contracts.parts import Backbone, FeatureSpec, Head, Neck, Predictor
from hccvision.contracts.samples import Annotation, Problem, Sample

__all__ = [
    "Annotation", "Backbone", "Detections", "FeatureSpec", "Head", "Loss", "Neck", "Prediction", "Predictor",
    "Problem", "SSDOutput", "Sample", "Targets",
]  # fmt: skip
