"""Whether an attribute unrelated to the disease, such as the image size, predicts the class."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np


class Shortcut(NamedTuple):
    """How well one attribute alone predicts the class.

    Args:
        accuracy: balanced (the mean over the classes), cross-validated accuracy of the rule "predict the class that has
            the largest share of its images at this value".
        chance: one over the number of classes.
        by_chance: the 99th percentile of the accuracy over shuffles of the values.
        p: share of the shuffles, the data itself included, that reach at least the accuracy.
        images: number of images used.
    """

    accuracy: float
    chance: float
    by_chance: float
    p: float
    images: int

    @property
    def found(self) -> bool:
        """Whether the accuracy is at least 10 points above chance, and p is at most 0.01."""
        return self.accuracy >= self.chance + 0.1 and self.p <= 0.01


def predict_from(
    values: Sequence[Hashable],
    labels: Sequence[str],
    groups: Sequence[Hashable] | None = None,
    *,
    folds: int = 5,
    shuffles: int = 199,
    seed: int = 0,
) -> Shortcut | None:
    """Predict the class of each image from one attribute, in a cross-validation by groups of images.

    All images of a group are in the same fold, and their values move together in a shuffle: the slices of a patient
    share their size, and are not independent evidence.

    Args:
        values: value of the attribute for each image; anything hashable.
        labels: the class of each image.
        groups: the patient of each image; None makes every image a group.
        folds: number of folds of the cross-validation.
        shuffles: number of shuffles of the values among the groups.
        seed: equal seeds give equal results.

    Returns:
        The result; None if the attribute has one value only, or fewer than two classes have ``2 · folds`` groups each.
        Rarer classes are left out.

    Raises:
        ValueError: if the lengths differ.

    Example:
        >>> found = predict_from([512] * 40 + [256] * 40, ["cancer"] * 40 + ["normal"] * 40)
        >>> found.accuracy, found.p, found.found
        (1.0, 0.005, True)
    """
    groups = list(range(len(values))) if groups is None else groups
    if not len(values) == len(labels) == len(groups):
        raise ValueError(
            f"expected a value, a label and a group per image, got {len(values)}, {len(labels)} and {len(groups)}"
        )
    of_class: dict[str, set[Hashable]] = {}
    for label, group in zip(labels, groups, strict=True):
        of_class.setdefault(label, set()).add(group)
    classes = [label for label, members in of_class.items() if len(members) >= 2 * folds]
    kept = [i for i, label in enumerate(labels) if label in classes]
    codes = {value: code for code, value in enumerate(dict.fromkeys(values[i] for i in kept))}
    if len(classes) < 2 or len(codes) < 2:
        return None
    truth = np.array([classes.index(labels[i]) for i in kept])
    value = np.array([codes[values[i]] for i in kept])
    order = {group: code for code, group in enumerate(dict.fromkeys(groups[i] for i in kept))}
    member = np.array([order[groups[i]] for i in kept])
    first = np.array([np.flatnonzero(member == g)[0] for g in range(len(order))])
    rng = np.random.default_rng(seed)
    fold = (rng.permutation(len(order)) % folds)[member]
    sizes = (folds, len(codes), len(classes))

    def accuracy(value: np.ndarray) -> float:
        counts = np.bincount((fold * sizes[1] + value) * sizes[2] + truth, minlength=int(np.prod(sizes)))
        counts = counts.reshape(sizes)
        others = counts.sum(0) - counts
        shares = others / np.maximum(others.sum(1, keepdims=True), 1)
        right = shares.argmax(2)[fold, value] == truth
        return float(np.mean([right[truth == c].mean() for c in range(sizes[2])]))

    own = accuracy(value)
    shuffled = np.array([accuracy(value[first][rng.permutation(len(order))][member]) for _ in range(shuffles)])
    p = (1 + int((shuffled >= own - 1e-12).sum())) / (1 + shuffles)
    return Shortcut(own, 1 / len(classes), float(np.quantile(shuffled, 0.99)), p, len(kept))
