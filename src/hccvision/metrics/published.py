"""Published figures checked against the counts published with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from hccvision.metrics.confusion import FIGURES, binary_figures
from hccvision.metrics.figure import Figure


@dataclass(frozen=True)
class CheckedFigures:
    """Published figures checked against their counts; prints as a table.

    Args:
        figures: computed from the counts, as `binary_figures`.
        claims: published figures, as shares.
        faults: a sentence for each claim that cannot follow from the counts, by its name.

    Example:
        >>> CheckedFigures(figures={"f1": 0.9611}, claims={"f1": 0.96}, faults={}).consistent
        True
    """

    figures: Mapping[str, float]
    claims: dict[str, float]
    faults: dict[str, str]

    @property
    def consistent(self) -> bool:
        """Whether every claim can follow."""
        return not self.faults

    @property
    def findings(self) -> list[str]:
        """One sentence for each claim that cannot follow."""
        return list(self.faults.values())

    def __str__(self) -> str:
        rows = [("figure", "claimed", "from counts", "can follow")]
        for name, claim in self.claims.items():
            rows.append((name, f"{claim:.4g}", f"{self.figures[name]:.4f}", "no" if name in self.faults else "yes"))
        table = [f"{name:<17} {claim:>8} {figure:>12} {follows:>11}" for name, claim, figure, follows in rows]
        return "\n".join(table + self.findings)


READINGS = ("positive", "macro", "weighted")


def check_report(
    counts: Mapping[str, int], claims: Mapping[str, float], *, decimals: int | None = None, reading: str = "positive"
) -> CheckedFigures:
    """Check which published figures can follow from the published counts, and from one another.

    Each claim is compared with the figure computed from the counts, rounded to the nearest, a tie either way. An F1
    that fails is also compared with the claimed precision and sensitivity, each anywhere within its rounding. A figure
    that is undefined for these counts cannot be claimed.

    Args:
        counts: ``tp``, ``fn``, ``fp`` and ``tn`` of the positive class.
        claims: figures by the names of `FIGURES`, as shares, or in percent where above 1.
        decimals: how many decimals of a share were printed (2 are whole percents); None takes the decimals that each
            claim shows, at least 2.
        reading: what sensitivity, specificity, precision, NPV and F1 stand for: those of the ``"positive"`` class, or
            the ``"macro"`` or ``"weighted"`` mean over both classes.

    Returns:
        The result; print it for a table with a sentence on each claim that fails.

    Raises:
        ValueError: if a count is missing, a claim is unknown or not a finite number, or the reading is unknown.

    Example:
        >>> check = check_report({"tp": 173, "fn": 11, "fp": 3, "tn": 179}, {"precision": 98, "f1": 98})
        >>> print(check)
        figure             claimed  from counts  can follow
        precision             0.98       0.9830         yes
        f1                    0.98       0.9611          no
        f1 is claimed as 0.98, but the counts give 0.9611
        >>> check.consistent
        False
    """
    if set(counts) != {"tp", "fn", "fp", "tn"}:
        raise ValueError(f"expected the counts tp, fn, fp and tn, got {', '.join(map(str, counts)) or 'none'}")
    unknown = [name for name in claims if name not in FIGURES]
    if unknown:
        raise ValueError(f"can't check the claim {unknown[0]!r}: known figures are {', '.join(FIGURES)}")
    if reading not in READINGS:
        raise ValueError(f"unknown reading {reading!r}; known: {', '.join(map(repr, READINGS))}")
    found = _read_as(counts, reading)
    shares = {name: _share(name, claim) for name, claim in claims.items()}
    bounds = {name: _rounding_bounds(share, decimals) for name, share in shares.items()}
    faults = {}
    for name, (low, high) in bounds.items():
        if not found[name].defined:
            faults[name] = f"{name} is claimed as {shares[name]}, but it is undefined here: {found[name].reason}"
        elif not low - 1e-12 <= found[name] <= high + 1e-12:
            faults[name] = f"{name} is claimed as {shares[name]}, but the counts give {found[name]:.4f}"
    if "f1" in faults and reading == "positive" and {"precision", "sensitivity"} <= set(bounds):
        low, high = (max(0.0, m) for m in map(_harmonic_mean, bounds["precision"], bounds["sensitivity"]))
        faults["f1"] += (
            f"; with the claimed precision {shares['precision']} and sensitivity {shares['sensitivity']} "
            f"it lies between {low:.4f} and {high:.4f}, even with the most favourable rounding"
        )
    return CheckedFigures(found, {name: float(share) for name, share in shares.items()}, faults)


def possible_readings(
    counts: Mapping[str, int], claims: Mapping[str, float], *, decimals: int | None = None
) -> list[str]:
    """Return the readings under which all claims can follow from the counts.

    Args:
        counts: as in `check_report`.
        claims: as in `check_report`.
        decimals: as in `check_report`.

    Returns:
        Those of `READINGS`; none if the claims contradict the counts however they are read.

    Raises:
        ValueError: as `check_report`.

    Example:
        >>> possible_readings({"tp": 173, "fn": 11, "fp": 3, "tn": 179}, {"precision": 98, "f1": 98})
        []
    """
    return [r for r in READINGS if check_report(counts, claims, decimals=decimals, reading=r).consistent]


def _read_as(counts: Mapping[str, int], reading: str) -> Mapping[str, Figure]:
    """Return the figures, those of one class as the mean over both classes unless they are of the positive class."""
    found = binary_figures(**counts)
    if reading == "positive":
        return found
    other = binary_figures(tp=counts["tn"], fn=counts["fp"], fp=counts["fn"], tn=counts["tp"])
    positives, negatives = counts["tp"] + counts["fn"], counts["tn"] + counts["fp"]
    weights = (1, 1) if reading == "macro" else (positives, negatives)
    means = {}
    for name in ("sensitivity", "specificity", "precision", "npv", "f1"):
        pair = found[name], other[name]
        counted = [(w, figure) for w, figure in zip(weights, pair, strict=True) if w]
        reason = next((figure.reason for _, figure in counted if not figure.defined), "")
        mean = sum(w * float(figure) for w, figure in counted) / sum(weights)
        means[name] = Figure(mean, count=positives + negatives, reason=reason)
    return {**found, **means}


def _harmonic_mean(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


def _share(name: str, claim: float) -> Decimal:
    """Return a claim as a share, with the digits that it was written with."""
    if not math.isfinite(claim):
        raise ValueError(f"expected {name} as a share or in percent, got {claim}")
    share = Decimal(str(claim))
    return (share / 100 if abs(share) > 1 else share).normalize()


def _rounding_bounds(share: Decimal, decimals: int | None) -> tuple[float, float]:
    """Return the lowest and the highest value that round to a share."""
    shown = max(2, -int(share.as_tuple().exponent)) if decimals is None else decimals
    half_unit = Decimal(5).scaleb(-1 - shown)
    return max(float(share - half_unit), -1.0), min(float(share + half_unit), 1.0)
