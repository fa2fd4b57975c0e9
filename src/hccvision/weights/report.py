"""Report of the tensors that were loaded from a weights source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WeightReport:
    """Which tensors of a weights source were loaded. Keys of the head begin with ``head.``.

    Args:
        source: the file or hub tag.
        format: name of the format that was recognised.
        matched: keys of the network that were loaded.
        missing: keys of the network that the source doesn't have; they keep their initial values.
        left_over: keys of the source that the network doesn't have, such as the old classifier.
        left_out: keys of the head that have another shape in the source, such as the scores of another number of
            classes, each with both shapes; they keep their initial values.
        sha256: of the file; for the hub, of the tensors (`fingerprint`).

    Example:
        >>> print(WeightReport("a.pth", "pytorch-ssd", ("layers.0.0.weight",), (), ("fc.weight",)))
        a.pth (pytorch-ssd): 1 tensors matched, 0 missing, 1 left over (fc.weight)
    """

    source: str
    format: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    left_over: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    sha256: str = ""

    def __str__(self) -> str:
        def some(keys: tuple[str, ...]) -> str:
            return f" ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})" if keys else ""

        out = f", {len(self.left_out)} left out for their shape{some(self.left_out)}" if self.left_out else ""
        return (
            f"{self.source} ({self.format}): {len(self.matched)} tensors matched, {len(self.missing)} missing"
            f"{some(self.missing)}{out}, {len(self.left_over)} left over{some(self.left_over)}"
        )
