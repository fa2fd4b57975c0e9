"""Controls: the same training on labels that mean nothing shows whether a split leaks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hccvision.annotations.problems import usable
from hccvision.contracts.samples import Sample
from hccvision.curation.facts import FactCache
from hccvision.data.seals import note_opening
from hccvision.data.splits import Group, groups_of
from hccvision.inference import predict
from hccvision.metrics.figure import Figure
from hccvision.metrics.intervals import percentiles
from hccvision.metrics.metric import find_metrics
from hccvision.model.model import Model
from hccvision.scoring import match_by_path
from hccvision.tasks.task import task_of
from hccvision.training.engine import fit


@dataclass(frozen=True)
class NullControl:
    """What a training on permuted labels reaches on its test set, and what chance allows.

    Args:
        figure: what it reached; its interval is what chance allows.
        name: of the figure.

    Example:
        >>> print(NullControl(Figure(0.93, interval=(0.4, 0.61)), "balanced_accuracy"))
        balanced_accuracy 0.9300 on permuted labels; chance allows 0.4000 to 0.6100: the test set leaks
    """

    figure: Figure
    name: str

    @property
    def leaks(self) -> bool:
        """Whether it reached more than chance allows."""
        return self.figure.interval is not None and bool(self.figure > self.figure.interval[1])

    def __str__(self) -> str:
        if self.figure.interval is None:
            return f"{self.name} is undefined on permuted labels ({self.figure.reason})"
        low, high = self.figure.interval
        verdict = "the test set leaks" if self.leaks else "no sign of a leak"
        return f"{self.name} {self.figure} on permuted labels; chance allows {low:.4f} to {high:.4f}: {verdict}"


def null_control(
    model: Model,
    train: Sequence[Sample],
    test: Sequence[Sample],
    *,
    metric: str = "balanced_accuracy",
    group: Group = "patient",
    permutations: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    on_problem: str = "raise",
    facts: FactCache | None = None,
    **options: Any,
) -> NullControl:
    """Train a classifier on permuted labels and test whether it still finds them in the test set.

    Labels are exchanged between patients of both parts together: each patient gets those of another. Whatever the
    model then finds in the test set beyond chance, it remembers from slices of the same patients, or copies of the same
    images, in the training set.

    Args:
        model: an untrained classifier, trained in place as the real one is.
        train: samples with class names.
        test: the test set of the same split.
        metric: a registered metric of classification with one figure.
        group: what labels are exchanged between, as in `split`.
        permutations: number of random exchanges of the test labels, for what chance allows.
        confidence: of the interval, between 0 and 1.
        seed: of the exchanges.
        on_problem: as in `score`.
        facts: as in `split`.
        options: of `fit`, such as ``recipe=`` and ``device=``.

    Returns:
        The result; ``leaks`` tells whether the figure is above the interval.

    Raises:
        ValueError: for samples without class names or of unknown classes, fewer than two groups, or a metric of several
            figures; and as `fit`.
    """
    task = task_of(model)
    (scorer,) = find_metrics(metric, task.name)
    parts = [usable(part, on_problem) for part in (train, test)]
    both = [sample for part in parts for sample in part]
    for sample in both:
        if sample.class_name is None:
            raise ValueError(f"{sample.path}: expected a class_name, which can be exchanged: label it, or leave it out")
        task.check(sample)
    groups = groups_of(both, group, facts)
    if len(groups) < 2 or not all(parts):
        raise ValueError(f"expected samples in both parts and at least two groups, got {len(groups)} groups")
    generator = random.Random(seed)
    names = _exchanged([str(s.class_name) for s in both], groups, generator)
    relabelled = [replace(sample, class_name=name) for sample, name in zip(both, names, strict=True)]
    note_opening(parts[1], "null_control", model)
    fit(model, relabelled[: len(parts[0])], **options)

    device = {key: options[key] for key in ("device",) if key in options}
    tested = relabelled[len(parts[0]) :]
    predictions = match_by_path(predict(model, [s.path for s in tested], **device), tested)
    place = {index: i for i, index in enumerate(range(len(parts[0]), len(both)))}
    inside = [[place[i] for i in members if i in place] for members in groups]
    inside = [members for members in inside if members]

    def value(labels: Sequence[str]) -> float:
        samples = [replace(s, class_name=label) for s, label in zip(tested, labels, strict=True)]
        found = scorer(task.comparison(predictions, samples))
        if len(found) != 1:
            raise ValueError(f"expected a metric of one figure, got {', '.join(found)} of {metric!r}")
        return float(next(iter(found.values())))

    labels = [str(s.class_name) for s in tested]
    chance = np.array([value(_exchanged(labels, inside, generator)) for _ in range(permutations)])
    chance = chance[np.isfinite(chance)]
    reached = value(labels)
    interval = percentiles(chance, confidence) if len(chance) and np.isfinite(reached) else None
    reason = "the metric is undefined for the permuted labels"
    figure = Figure(reached, count=len(tested), interval=interval, method="labels exchanged by group", reason=reason)
    return NullControl(figure, metric)


def _exchanged(labels: Sequence[str], groups: Sequence[Sequence[int]], generator: random.Random) -> list[str]:
    """Give each group the labels of another, repeated or cut to its own number of samples."""
    order = list(groups)
    generator.shuffle(order)
    found = list(labels)
    for members, giver in zip(order, order[1:] + order[:1], strict=True):  # none gives to itself
        start = generator.randrange(len(giver))
        for n, index in enumerate(members):
            found[index] = labels[giver[(start + n) % len(giver)]]
    return found
