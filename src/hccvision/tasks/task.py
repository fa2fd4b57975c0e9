"""The base class of tasks: ground truth, targets, predictions, default metrics and the contents of a report."""

from __future__ import annotations

import warnings
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

_MOST = 5  # classes that a warning names


class Task(ABC):
    """A kind of prediction, such as detection, with its classes.

    A subclass is registered in ``TASKS`` under its ``name``, and a head states that name as its ``task``. All that
    training, evaluation, prediction and reports do differently for different tasks is decided here.

    Args:
        classes: names, in the order of the class ids.
        positive: the class that means disease; None: the last one.

    Raises:
        ValueError: if ``positive`` is not among the classes.
    """

    name: ClassVar[str]
    answer: ClassVar[str]  # the field of `Prediction` that is set
    metrics: ClassVar[tuple[str, ...]]  # default metrics of `evaluate`
    training_metrics: ClassVar[tuple[str, ...]]  # default metrics of `fit`, computed after each epoch
    annotates: ClassVar[bool] = False  # whether predictions can be written as annotations, see `annotation`
    wrapped_image_size: ClassVar[int | None] = 224  # default input side of wrapped models; None: images keep their size

    def __init__(self, classes: Sequence[str], *, positive: str | None = None) -> None:
        self.classes = tuple(classes)
        self.positive = self.classes[-1] if positive is None else positive
        if self.positive not in self.classes:
            raise ValueError(f"the positive class {positive!r:.200} is not among the classes {', '.join(self.classes)}")
        self.ids = {name: i for i, name in enumerate(self.classes)}

    # Ground truth

    @abstractmethod
    def labels(self, sample: Sample) -> tuple[str, ...]:
        """Return the class names in the ground truth of a sample.

        Args:
            sample: annotated as the task needs it.

        Returns:
            The names, whether the model knows them or not.

        Raises:
            ValueError: if the sample has no ground truth for this task.
        """

    def check(self, sample: Sample) -> None:
        """Check that a sample has ground truth of known classes.

        Args:
            sample: to train on or to evaluate.

        Raises:
            ValueError: if it has no ground truth, or a class that the model doesn't know.
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
        """Return the ground truth of a sample as metrics read it, in pixels of the original image.

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
            Targets of one image; `Targets.cat` joins those of a batch.
        """

    def check_training(self, samples: Sequence[Sample]) -> None:
        """Warn before a training of what its samples can't teach: classes that none of them shows.

        Args:
            samples: that will be trained on.
        """
        shown = {name for sample in samples for name in self.counted(sample)}
        missing = [name for name in self.classes if name not in shown]
        if samples and missing:
            names = ", ".join(map(repr, missing[:_MOST])) + f" and {len(missing) - _MOST} more" * (len(missing) > _MOST)
            warnings.warn(
                f"none of {len(samples)} training samples, such as {samples[0].path}, shows {names}, which can't be "
                "learned from them: add such samples, or leave the class out of the model",
                stacklevel=3,
            )

    def example_targets(self, count: int, image_size: tuple[int, int]) -> Targets:
        """Return synthetic targets, with which the memory of a training step is measured.

        Args:
            count: number of images.
            image_size: ``(height, width)`` of the model's input.

        Returns:
            Targets of ``count`` images, with one object of the first class in each.
        """
        height, width = image_size
        box = torch.tensor([[0.3 * width, 0.3 * height, 0.6 * width, 0.6 * height]])
        return Targets.pad([box] * count, [torch.zeros(1)] * count)

    # Sampling

    def stratum(self, sample: Sample) -> Hashable:
        """Return the stratum of a sample: balanced sampling draws equally often from each stratum."""
        return self.labels(sample)

    def counted(self, sample: Sample) -> tuple[str, ...]:
        """Return the class names of a sample that count in the balance of classes: by default its `labels`."""
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
        counts = self._require_all(Counter(name for s in samples for name in self.counted(s)))
        total = sum(counts[name] for name in self.classes)
        return [total / (len(self.classes) * counts[name]) for name in self.classes]

    def _require_all(self, counts: Counter[str]) -> Counter[str]:
        missing = [name for name in self.classes if not counts[name]]
        if missing:
            raise ValueError(f"no training sample shows {missing[0]!r}: balanced class weights need one of each class")
        return counts

    # Predictions

    def decode(self, output: Any, *, first_label: int = 0, score_threshold: float = 0.0) -> Iterable[Any]:
        """Decode the output of a model of another library, see `wrap`.

        Args:
            output: for a batch, in the standard form for this task.
            first_label: the model's own id of the first class.
            score_threshold: lowest score of a detection, in [0, 1].

        Returns:
            One entry per image, as a head's ``decode`` returns them.

        Raises:
            ValueError: if the output doesn't have that form.
        """
        raise ValueError(f"models for {self.name} have no standard output: pass a callable, wrap(…, decode=…)")

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
        """Return a prediction as metrics read it.

        Args:
            prediction: without error.

        Returns:
            One entry of ``Comparison(predictions, truths)``.

        Raises:
            ValueError: if the prediction is not one of this task.
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
            The comparison, from which all metrics are computed.

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

    def annotation(self, prediction: Prediction, size: tuple[int, int], *, score_threshold: float = 0.0) -> Annotation:
        """Return a prediction as an annotation for a human to correct; for tasks with ``annotates = True``.

        Args:
            prediction: without error.
            size: ``(height, width)`` of the image.
            score_threshold: lowest score of a box, in [0, 1].

        Returns:
            The annotation, not verified.
        """
        raise NotImplementedError(f"predictions of {self.name} can't be written as annotations")

    # Reports

    @property
    def heading(self) -> str:
        """What the first line of a report says besides the number of images."""
        return f", positive class: {self.positive}"

    def details(self, comparison: Comparison) -> Mapping[str, Any]:
        """Return the contents of a report besides its figures, as plain values ready for JSON."""
        return {}

    def detail_lines(self, details: Mapping[str, Any]) -> list[str]:
        """Return the details as lines of text, printed below the table of figures."""
        return []

    @abstractmethod
    def table(self, predictions: Sequence[Prediction], samples: Sequence[Sample]) -> tuple[list[str], list[list[Any]]]:
        """Return the header and the rows of ``predictions.csv``."""

    def pictures(
        self,
        predictions: Sequence[Prediction],
        samples: Sequence[Sample],
        details: Mapping[str, Any],
        *,
        count: int = 12,
        score_threshold: float = 0.5,
    ) -> dict[str, Any]:
        """Draw the pictures of a report.

        Args:
            predictions: one for each sample.
            samples: those evaluated.
            details: from `details`.
            count: number of images to show.
            score_threshold: lowest score of the detections shown, in [0, 1].

        Returns:
            File name to matplotlib figure.
        """
        return {}

    def curves(self, comparison: Comparison) -> dict[str, Any]:
        """Draw the curves of a report, computed from the comparison alone.

        Args:
            comparison: of all predictions and truths.

        Returns:
            File name to matplotlib figure; by default none.
        """
        return {}


class HasTask(Protocol):
    """An object that states its task and classes, such as a `Predictor` or a `Network`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the class ids."""

    @property
    def task(self) -> str:
        """A name in ``TASKS``."""


def task_of(predictor: HasTask) -> Task:
    """Return the task of a predictor, with its classes.

    Args:
        predictor: states ``task``, ``classes`` and, optionally, ``positive``.

    Returns:
        The task.

    Raises:
        KeyError: for a task that isn't registered; the message lists the known ones.

    Example:
        >>> from types import SimpleNamespace
        >>> task_of(SimpleNamespace(task="detection", classes=("hcc",))).metrics[0]
        'voc_map'
    """
    return build_task(predictor.task, predictor.classes, positive=getattr(predictor, "positive", None))


def build_task(name: str, classes: Sequence[str], *, positive: str | None = None) -> Task:
    """Build a registered task.

    Args:
        name: a name in ``TASKS``.
        classes: names, in the order of the class ids.
        positive: the class that means disease; None: the last one.

    Returns:
        The task.

    Raises:
        KeyError: for a task that isn't registered; the message lists the known ones.
        ValueError: if ``positive`` is not among the classes.
    """
    task: Task = TASKS.get(name)(classes, positive=positive)
    return task
