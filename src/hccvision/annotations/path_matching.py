"""Match the image paths that a file states to samples, also after the data has moved."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from hccvision.contracts.samples import Sample, as_text


class PathMatcher:
    """Matches the image paths that a file states to samples: an equal path, or else the unique longest tail.

    Args:
        file: the file, for messages.
        samples: what its paths may stand for.

    Raises:
        ValueError: if two samples have one path.

    Example:
        >>> match = PathMatcher(Path("predictions.csv"), [Sample(Path("x/a.png")), Sample(Path("y/a.png"))])
        >>> match("old/y/a.png", "row 2")
        1
    """

    def __init__(self, file: Path, samples: Sequence[Sample]) -> None:
        self.file = file
        self.samples = samples
        self._equal = {as_text(str(s.path)): number for number, s in enumerate(samples)}
        if len(self._equal) < len(samples):
            raise ValueError(
                f"{file}: expected samples with paths of their own, got {len(samples)} samples with "
                f"{len(self._equal)} paths: leave out the repeated ones"
            )
        self._by_name: dict[str, list[tuple[list[str], int]]] = defaultdict(list)
        for number, sample in enumerate(samples):
            parts = _parts(as_text(str(sample.path)))  # as `Report.save` writes them
            self._by_name[parts[-1]].append((parts, number))
        self._found: dict[str, int] = {}
        self._stated: dict[int, str] = {}

    def __call__(self, stated: str, row: str) -> int:
        r"""Return the number of the sample that a path stands for.

        Args:
            stated: the path as the file states it, with ``/`` or ``\\``.
            row: where the file states it, for messages.

        Returns:
            The index of the sample.

        Raises:
            ValueError: if no sample or several match, or another path was matched to the same sample.
        """
        if stated not in self._found:
            number = self._equal.get(stated)
            self._found[stated] = self._by_tail(stated, row) if number is None else number
        number = self._found[stated]
        if self._stated.setdefault(number, stated) != stated:
            raise ValueError(
                f"{self.file}: {row} names {stated!r}, and another row names {self._stated[number]!r}, for the one "
                f"sample {self.samples[number].path}: correct the paths"
            )
        return number

    def _by_tail(self, stated: str, row: str) -> int:
        parts = _parts(stated)
        alike = [(_shared_tail(parts, own), number) for own, number in self._by_name.get(parts[-1], [])]
        longest = max((length for length, _ in alike), default=0)
        best = [number for length, number in alike if length == longest]
        if not best:
            raise ValueError(
                f"{self.file}: {row} is of the image {stated!r}, which is not among the {len(self.samples)} samples: "
                "pass its sample, or remove the row"
            )
        if len(best) > 1:
            got = ", ".join(str(self.samples[number].path) for number in best[:3])
            raise ValueError(
                f"{self.file}: {row} is of the image {stated!r}, which may be any of {got}: state more of its path"
            )
        return best[0]


def _parts(path: str) -> list[str]:
    return re.split(r"[\\/]+", path)


def _shared_tail(one: Sequence[str], other: Sequence[str]) -> int:
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
