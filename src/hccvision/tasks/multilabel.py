"""Multi-label classification: each image shows any number of the classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from hccvision.contracts.batches import Targets
from hccvision.contracts.samples import Sample
from hccvision.metrics.classification import YES
from hccvision.registry import TASKS
from hccvision.tasks.image_classes import ImageClasses


@TASKS.register("multilabel")
class Multilabel(ImageClasses):
    """Each image shows any number of the classes, also none; predictions are one probability for each class.

    The ground truth is the set of classes among the image's boxes.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from hccvision.contracts import Annotation
        >>> seen = Annotation(np.array([[1, 1, 9, 9]]), ("cyst",))
        >>> Multilabel(["hcc", "cyst"]).truth(Sample(Path("a.png"), annotation=seen))
        [0, 1]
    """

    name = "multilabel"
    metrics = ("multilabel_auc", "multilabel_f1", "exact_match")
    training_metrics = ("multilabel_auc",)

    def labels(self, sample: Sample) -> tuple[str, ...]:
        """Return the classes of the image's boxes, each once."""
        if sample.annotation is None:
            raise ValueError(
                f"{sample.path}: the ground truth of multi-label classification is an annotation, and this sample has "
                "none: annotate it, or leave it out"
            )
        return tuple(dict.fromkeys(sample.annotation.names))

    def truth(self, sample: Sample) -> Any:
        """Return K values of 0 or 1: whether the image shows each class."""
        self.check(sample)
        shown = self.labels(sample)
        return [int(name in shown) for name in self.classes]

    def example_targets(self, count: int, image_size: tuple[int, int]) -> Targets:
        """Return targets of no class."""
        labels = torch.zeros(count, len(self.classes), dtype=torch.int64)
        return Targets.pad([torch.zeros(0, 4)] * count, [torch.zeros(0)] * count, labels)

    def stratum(self, sample: Sample) -> Hashable:
        """Return whether the image shows any class."""
        return bool(self.labels(sample))

    def balanced_weights(self, samples: Sequence[Sample]) -> list[float]:
        """Compute, for each class, the number of images without it divided by the number with it."""
        counts = self._require_all(Counter(name for s in samples for name in self.labels(s)))
        return [(len(samples) - counts[name]) / counts[name] for name in self.classes]

    def activation(self, logits: Tensor) -> Tensor:
        """Return the probabilities of logits, independent for each class."""
        return logits.sigmoid()

    @property
    def heading(self) -> str:
        """Empty: no class is the positive one."""
        return ""

    def predicted(self, probabilities: Sequence[float]) -> list[str]:
        """Return the classes of a probability of at least 0.5."""
        return [name for name, p in zip(self.classes, probabilities, strict=True) if p >= YES]
