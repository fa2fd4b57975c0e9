"""Samplers: which samples an epoch uses, and in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

import torch
from torch.utils.data import RandomSampler, Sampler, WeightedRandomSampler

from hccvision.contracts.samples import Sample


class PatientSampler(Sampler[int]):
    """Draws at most ``per_patient`` slices of each patient, new ones every epoch, so that no long series dominates.

    With ``classes``, the slices drawn are then resampled so that the class counts differ by at most one: slices of a
    rare class are repeated, some of a common class may be left out. The length of the epoch stays the same, and a
    patient still has at most ``per_patient`` different slices in it.

    Args:
        patients: patient of each sample.
        per_patient: maximum number of slices of a patient in an epoch, at least 1.
        classes: class of each sample, to balance by; None: each slice drawn is used once.
        generator: of the draws; None: torch's default one.

    Raises:
        ValueError: if ``per_patient`` is less than 1, or classes and patients differ in number.

    Example:
        >>> epoch = list(PatientSampler(["a", "a", "a", "b"], 1, generator=torch.Generator().manual_seed(0)))
        >>> len(epoch), 3 in epoch
        (2, True)
    """

    def __init__(
        self,
        patients: Sequence[Hashable],
        per_patient: int,
        *,
        classes: Sequence[Hashable] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if per_patient < 1:
            raise ValueError(f"per_patient is a whole number from 1, got {per_patient}")
        if classes is not None and len(classes) != len(patients):
            raise ValueError(f"expected a class for each of {len(patients)} samples, got {len(classes)}")
        self.per_patient = per_patient
        self.classes = classes
        self.generator = generator
        self._slices = list(_groups(range(len(patients)), patients).values())

    def __len__(self) -> int:
        return sum(min(self.per_patient, len(slices)) for slices in self._slices)

    def __iter__(self) -> Iterator[int]:
        drawn = [i for slices in self._slices for i in self._shuffled(slices)[: self.per_patient]]
        if self.classes is None:
            return iter(self._shuffled(drawn))
        groups = self._shuffled(list(_groups(drawn, self.classes).values()))
        epoch = []
        for number, group in enumerate(groups):
            share = len(drawn) // len(groups) + (number < len(drawn) % len(groups))
            whole, rest = divmod(share, len(group))
            epoch += group * whole + self._shuffled(group)[:rest]
        return iter(self._shuffled(epoch))

    def _shuffled(self, values: list) -> list:
        return [values[i] for i in torch.randperm(len(values), generator=self.generator).tolist()]


def build_sampler(
    samples: Sequence[Sample],
    *,
    strata: Sequence[Hashable] | None = None,
    per_patient: int | None = None,
    generator: torch.Generator | None = None,
) -> Sampler[int]:
    """Build the sampler of a training set.

    Args:
        samples: of the training set.
        strata: stratum of each sample; all strata are drawn equally often, with replacement. None: each sample is drawn
            once.
        per_patient: maximum number of different slices of a patient in an epoch; None: all.
        generator: of the draws; None: torch's default one.

    Returns:
        The sampler.

    Raises:
        ValueError: if ``per_patient`` is given and the patient of a sample is unknown.

    Example:
        >>> from pathlib import Path
        >>> samples = [Sample(Path(f"{i}.png"), "P1" if i else "P2") for i in range(5)]
        >>> len(build_sampler(samples)), len(build_sampler(samples, per_patient=2))
        (5, 3)
    """
    if per_patient is not None:
        unknown = [str(s.path) for s in samples if s.patient is None]
        if unknown:
            raise ValueError(
                f"{unknown[0]}: the recipe's per_patient needs the patient of each slice, and this one's is unknown: "
                "read the folder with patient=, or set per_patient=None"
            )
        return PatientSampler([s.patient for s in samples], per_patient, classes=strata, generator=generator)
    if strata is None:
        return RandomSampler(samples, generator=generator)
    counts = Counter(strata)
    return WeightedRandomSampler([1 / counts[s] for s in strata], len(strata), generator=generator)


def _groups(numbers: Sequence[int], names: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for number in numbers:
        groups.setdefault(names[number], []).append(number)
    return groups
