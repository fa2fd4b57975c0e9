"""What a task decides: ground truth, targets, predictions, default metrics, and the contents of a report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch

from hccvision.contracts.batches import Targets
from hccvision.contracts.outputs import Prediction
from hccvision.contracts.samples import Annotation, Sample
from hccvision.images.placement import Placement
from hccvision.metrics.comparison import Comparison
from hccvision.registry import TASKS


class Task(ABC):
    """One kind of question that a model answers, with the classes it answers for.

    A subclass is registered in ``TASKS`` under its ``name``; a head states that name as its ``task``. Training,
    evaluation, prediction and reports ask the task and contain no case distinctions of their own.

    Args:
        classes: names, in the order of the class ids.
        positive: the class that means disease; None: the last one.

    Raises:
        ValueError: if ``positive`` is not among the classes.
    """

    name: ClassVar[str]
    answer: ClassVar[str]  # the field of `Prediction` that holds the answer
    metrics: ClassVar[tuple[str, ...]]  # of `evaluate`, unless others are named
    training_metrics: ClassVar[tuple[str, ...]]  # of `fit`, after each epoch
    monitor: ClassVar[str] = "val_loss"  # the figure that chooses the best epoch

    def __init__(self, classes: Sequence[str], *, positive: str | None = None) -> None:
        self.classes = tuple(classes)
        self.positive = self.classes[-1] if positive is None else positive
        if self.positive not in self.classes:
            raise ValueError(f"the positive class {positive!r} is not among the classes {', '.join(self.classes)}")
        self.ids = {name: i for i, name in enumerate(self.classes)}

    # ground truth

    @abstractmethod
    def labels(self, sample: Sample) -> tuple[str, ...]:
        """Return the class names that are the ground truth of a sample.

        Args:
            sample: annotated as the task needs it.

        Returns:
            Names, of which the model must know every one.

        Raises:
            ValueError: if the sample has no ground truth for this task.
        """

    def check(self, sample: Sample) -> None:
        """Check that a sample has ground truth of known classes.

        Args:
            sample: to train on or to evaluate.

        Raises:
            ValueError: if it has none, or of a class that the model doesn't know.
        """
        for name in self.labels(sample):
            if name not in self.ids:
                annotation = sample.annotation
                file = sample.path if annotation is None or annotation.path is None else annotation.path
                raise ValueError(
                    f"{file}: the class {name!r} is not among the model's classes ({', '.join(self.classes)}): correct "
                    "the annotation, leave the sample out, or build the model with that class"
                )

    @abstractmethod
    def truth(self, sample: Sample) -> Any:
        """Return the ground truth of a sample as metrics take it, in pixels of the original image.

        Args:
            sample: annotated as the task needs it.

        Returns:
            One entry of ``Comparison(predictions, truths)``.

        Raises:
            ValueError: as `check`.
        """

    @abstractmethod
    def target(self, sample: Sample, placement: Placement) -> Targets:
        """Return the training target of a sample, in pixels of the model's input.

        Args:
            sample: annotated as the task needs it.
            placement: how its image lies in the model's input.

        Returns:
            Targets of one image; those of a batch are joined by `Targets.cat`.
        """

    def example_targets(self, count: int, image_size: tuple[int, int]) -> Targets:
        """Return made-up targets of usual size, to measure the memory of a training step with.

        Args:
            count: number of images.
            image_size: ``(height, width)`` of the model's input.

        Returns:
            Targets of that many images, one object of the first class in each.
        """
        height, width = image_size
        box = torch.tensor([[0.3 * width, 0.3 * height, 0.6 * width, 0.6 * height]])
        return Targets.pad([box] * count, [torch.zeros(1)] * count)

    # sampling

    def stratum(self, sample: Sample) -> Hashable:
        """Return the stratum of a sample: balanced training draws from every stratum equally often."""
        return self.labels(sample)

    def balanced_weights(self, samples: Sequence[Sample]) -> list[float]:
        """Compute class weights in inverse proportion to class frequency.

        Args:
            samples: of the training set.

        Returns:
            One weight for each class, in the order of the classes.

        Raises:
            ValueError: if no sample shows one of the classes.
        """
        counts = self._require_all(Counter(name for s in samples for name in self.labels(s)))
        total = sum(counts[name] for name in self.classes)
        return [total / (len(self.classes) * counts[name]) for name in self.classes]

    def _require_all(self, counts: Counter[str]) -> Counter[str]:
        missing = [name for name in self.classes if not counts[name]]
        if missing:
            raise ValueError(f"no training sample shows {missing[0]!r}: balanced class weights need one of each class")
        return counts

    # predictions

    wrapped_image_size: ClassVar[int | None] = 224  # input side of other people's models; None: images keep their size

    def decode(self, output: Any, *, first_label: int = 0, score_threshold: float = 0.0) -> Iterable[Any]:
        """Decode the output of somebody else's model, see `wrap`.

        Args:
            output: for a batch, in the form usual for this task.
            first_label: the model's own id of the first class.
            score_threshold: lowest score of a detection.

        Returns:
            One entry per image, as a head's ``decode`` returns them.

        Raises:
            ValueError: if the output doesn't have that form.
        """
        raise ValueError(f"there is no usual output of models for {self.name}: give wrap(…, decode=a callable)")

    @abstractmethod
    def prediction(self, path: str, decoded: Any, placement: Placement) -> Prediction:
        """Turn the decoded output of one image into a prediction about the original image.

        Args:
            path: name of the image.
            decoded: what the head's ``decode`` returned for this image.
            placement: how the image lies in the model's input.

        Returns:
            The prediction, on the CPU.
        """

    def compared(self, prediction: Prediction) -> Any:
        """Return a prediction as metrics take it.

        Args:
            prediction: without error.

        Returns:
            One entry of ``Comparison(predictions, truths)``.

        Raises:
            ValueError: if the prediction lacks what this task predicts.
        """
        value = getattr(prediction, self.answer)
        if value is None:
            raise ValueError(
                f"{prediction.path}: evaluating {self.name} needs predictions with {self.answer}, and this one has "
                "none: was the model made for another task?"
            )
        return value

    def comparison(self, predictions: Sequence[Prediction], samples: Sequence[Sample]) -> Comparison:
        """Compare predictions with the ground truth of samples.

        Args:
            predictions: one for each sample, in the same order, without errors.
            samples: annotated as the task needs them.

        Returns:
            What every metric reads from.

        Raises:
            ValueError: as `truth` and `compared`.
        """
        truths = [self.truth(sample) for sample in samples]
        return Comparison(
            [self.compared(prediction) for prediction in predictions],
            truths,
            classes=self.classes,
            positive=self.positive,
            patients=[sample.patient for sample in samples],
        )

    def annotation(self, prediction: Prediction, size: tuple[int, int]) -> Annotation:
        """Return a prediction as an annotation for a human to correct.

        Args:
            prediction: without error.
            size: ``(height, width)`` of the image.

        Returns:
            The annotation, not verified.

        Raises:
            ValueError: if this task predicts nothing that can be drawn.
        """
        raise ValueError(f"proposing boxes takes a detector, and this model does {self.name}")

    # reports

    @property
    def heading(self) -> str:
        """What the first line of a report says besides the number of images."""
        return ""

    def details(self, comparison: Comparison) -> Mapping[str, Any]:
        """Return what a report holds besides figures, as plain values ready for JSON."""
        return {}

    def detail_lines(self, details: Mapping[str, Any]) -> list[str]:
        """Return lines of text that show the details under the table of figures."""
        return []

    @abstractmethod
    def table(self, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> tuple[list[str], list[list[Any]]]:
        """Return the header and the rows of ``predictions.csv``."""

    def pictures(
        self,
        samples: Sequence[Sample],
        predictions: Sequence[Prediction],
        details: Mapping[str, Any],
        *,
        count: int = 12,
        score_threshold: float = 0.5,
    ) -> dict[str, Any]:
        """Draw the pictures of a report.

        Args:
            samples: evaluated.
            predictions: one for each sample.
            details: of `details`.
            count: number of images to show.
            score_threshold: lowest score of the detections shown, in [0, 1].

        Returns:
            Matplotlib figures by file name.
        """
        return {}


class Asked(Protocol):
    """What states a task and its classes: a `Predictor`, or a network inside one."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the class ids."""

    @property
    def task(self) -> str:
        """A name in ``TASKS``."""


def task_of(predictor: Asked) -> Task:
    """Return the task of a predictor, with its classes.

    Args:
        predictor: states ``task`` and ``classes``, and maybe ``positive``.

    Returns:
        The task.

    Raises:
        KeyError: for a task that isn't registered; the message lists the known ones.

    Example:
        >>> from types import SimpleNamespace
        >>> task_of(SimpleNamespace(task="detection", classes=("hcc",))).metrics[0]
        'voc_map'
    """
    task: Task = TASKS.get(predictor.task)(predictor.classes, positive=getattr(predictor, "positive", None))
    return task
