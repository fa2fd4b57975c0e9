"""Whether something that says nothing about the disease, such as the image size, gives the class away."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np


class Shortcut(NamedTuple):
    """How well one attribute alone predicts the class.

    Args:
        accuracy: balanced (the mean over the classes), cross-validated, of the rule "the class that has the largest
            share of its images at this value".
        chance: one over the number of classes.
        by_chance: the accuracy that 99 % of the shuffles stay below.
        p: share of the shuffles, and of the data itself, that do at least as well.
        images: how many were used.
    """

    accuracy: float
    chance: float
    by_chance: float
    p: float
    images: int

    @property
    def found(self) -> bool:
        """Whether it does at least 10 points better than chance, and p is at most 0.01."""
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
    """Predict each image's class from one attribute, by what other groups of images say of that value.

    The images of a group are all on one side of a fold, and its values move together in a shuffle: a patient's slices
    share their size, and are no independent evidence.

    Args:
        values: of the attribute, one per image; anything hashable.
        labels: the class of each image.
        groups: the patient of each image; None takes every image alone.
        folds: of the cross-validation.
        shuffles: of the values among the groups.
        seed: the same seed gives the same answer.

    Returns:
        The figures; None where nothing can be said: one value only, or fewer than two classes with ``2 · folds``
        groups each. Rarer classes are left out.

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
