"""Exact intervals of shares, and how many cases an interval of a given width needs."""

from __future__ import annotations

from hccvision.metrics.intervals import check_confidence, wilson


def clopper_pearson(successes: int, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Compute the exact interval of a share, which covers the truth at least as often as it says.

    Args:
        successes: how many of the cases, ``0 <= successes <= total``.
        total: how many cases; of none nothing is known, and the interval is ``(0.0, 1.0)``.
        confidence: of the interval, between 0 and 1.

    Returns:
        ``(low, high)`` as shares in [0, 1].

    Raises:
        ValueError: if the counts or the confidence are out of range.

    Example:
        >>> low, high = clopper_pearson(173, 184)
        >>> f"{low:.1%} to {high:.1%}"
        '89.6% to 97.0%'

    Source:
        Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 26 (1934).
    """
    if not 0 <= successes <= total:
        raise ValueError(f"expected 0 <= successes <= total, got {successes} of {total}")
    check_confidence(confidence)
    if total == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest

    found = binomtest(successes, total).proportion_ci(confidence, method="exact")
    return float(found.low), float(found.high)


def sample_size(share: float, width: float, *, confidence: float = 0.95) -> int:
    """Compute how many cases Wilson's interval of a share needs to be at most so wide.

    Cases are independent, such as one per patient; for a sensitivity count the positive ones alone.

    Args:
        share: expected, in [0, 1].
        width: of the whole interval, in (0, 1).
        confidence: of the interval, between 0 and 1.

    Returns:
        The smallest number of cases.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> sample_size(0.9, 0.1)
        141

    Source:
        Wilson, JASA 22 (1927), for the interval.
    """
    if not 0 <= share <= 1 or not 0 < width < 1:
        raise ValueError(f"expected a share in [0, 1] and a width in (0, 1), got share={share} and width={width}")
    check_confidence(confidence)
    low, high = 0, 1
    while _width(share, high, confidence) > width:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _width(share, middle, confidence) > width else (low, middle)
    return high


def _width(share: float, total: int, confidence: float) -> float:
    low, high = wilson(share * total, total, confidence=confidence)
    return high - low
