"""hccvision finds liver cancer in MRI slices: backbones, heads, augmentation and metrics to compose in a few lines.

Everything here is imported at its first use, so that ``import hccvision`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = (
    "augment",
    "boxes",
    "contracts",
    "default_boxes",
    "images",
    "losses",
    "masks",
    "metrics",
    "phantom",
    "plots",
    "recipes",
    "registry",
    "voc",
    "weights",
)

_NAMES = {
    "AUGMENTATIONS": "registry",
    "BACKBONES": "registry",
    "HEADS": "registry",
    "METRICS": "registry",
    "Annotation": "contracts",
    "Detections": "contracts",
    "FeatureSpec": "contracts",
    "Prediction": "contracts",
    "Problem": "contracts",
    "SSDOutput": "contracts",
    "Sample": "contracts",
    "Targets": "contracts",
    "Model": "model",
    "build_model": "model",
    "load_model": "model",
    "read_image_folder": "data.folders",
    "read_mask_folder": "data.folders",
    "read_voc_folder": "data.folders",
    "read_coco": "data.coco",
    "write_coco": "data.coco",
    "read_yolo_folder": "data.yolo",
    "write_yolo_folder": "data.yolo",
    "check": "curation.checks",
    "repair": "curation.repair",
    "expand_dataset": "curation.expansion",
    "folds": "data.splits",
    "leakage": "curation.leakage",
    "load_split": "data.manifest",
    "nested_folds": "data.splits",
    "save_split": "data.manifest",
    "split": "data.splits",
    "Recipe": "recipes",
    "fit": "training.engine",
    "History": "training.checkpoints",
    "fit_memory": "training.memory",
    "parameter_table": "training.optimisers",
    "evaluate": "evaluation",
    "Report": "reporting",
    "predict": "prediction",
    "CAD": "pipeline",
    "propose": "pipeline",
    "check_report": "metrics.classification",
}

if TYPE_CHECKING:
    from hccvision import (
        augment,
        boxes,
        contracts,
        default_boxes,
        images,
        losses,
        masks,
        metrics,
        phantom,
        plots,
        recipes,
        registry,
        voc,
        weights,
    )
    from hccvision.contracts import (
        Annotation,
        Detections,
        FeatureSpec,
        Prediction,
        Problem,
        Sample,
        SSDOutput,
        Targets,
    )
    from hccvision.curation.checks import check
    from hccvision.curation.expansion import expand_dataset
    from hccvision.curation.leakage import leakage
    from hccvision.curation.repair import repair
    from hccvision.data.coco import read_coco, write_coco
    from hccvision.data.folders import read_image_folder, read_mask_folder, read_voc_folder
    from hccvision.data.manifest import load_split, save_split
    from hccvision.data.splits import folds, nested_folds, split
    from hccvision.data.yolo import read_yolo_folder, write_yolo_folder
    from hccvision.evaluation import evaluate
    from hccvision.metrics.classification import check_report
    from hccvision.model import Model, build_model, load_model
    from hccvision.pipeline import CAD, propose
    from hccvision.prediction import predict
    from hccvision.recipes import Recipe
    from hccvision.registry import AUGMENTATIONS, BACKBONES, HEADS, METRICS
    from hccvision.reporting import Report
    from hccvision.training.checkpoints import History
    from hccvision.training.engine import fit
    from hccvision.training.memory import fit_memory
    from hccvision.training.optimisers import parameter_table

__all__ = [
    "AUGMENTATIONS",
    "BACKBONES",
    "CAD",
    "HEADS",
    "METRICS",
    "Annotation",
    "Detections",
    "FeatureSpec",
    "History",
    "Model",
    "Prediction",
    "Problem",
    "Recipe",
    "Report",
    "SSDOutput",
    "Sample",
    "Targets",
    "augment",
    "boxes",
    "build_model",
    "check",
    "check_report",
    "contracts",
    "default_boxes",
    "evaluate",
    "expand_dataset",
    "fit",
    "fit_memory",
    "folds",
    "images",
    "leakage",
    "load_model",
    "load_split",
    "losses",
    "masks",
    "metrics",
    "nested_folds",
    "parameter_table",
    "phantom",
    "plots",
    "predict",
    "propose",
    "read_coco",
    "read_image_folder",
    "read_mask_folder",
    "read_voc_folder",
    "read_yolo_folder",
    "recipes",
    "registry",
    "repair",
    "save_split",
    "split",
    "voc",
    "weights",
    "write_coco",
    "write_yolo_folder",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"hccvision.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"hccvision.{_NAMES[name]}"), name)
    raise AttributeError(f"hccvision has no {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
