"""A figure of an evaluation: a number with its case count and interval, or the reason why it is undefined."""

from __future__ import annotations

import math
import re
from typing import Any

_PLACEMENT = re.compile(r"(?P<align>(?:.?[<>=^])?)[-+ ]?0?(?P<width>\d*)")


class Figure(float):
    """A float that also holds the number of cases behind it, its interval, and why it is undefined.

    Arithmetic gives plain floats. An undefined figure is nan with a reason, and prints as "–"; counts print without
    decimals, anything else with four. Figures are immutable; see `replace`.

    Args:
        value: the number; nan where it is undefined.
        count: number of cases (images, lesions, calls) that it is computed from; None where that is not stated.
        interval: ``(low, high)``; None where there is none.
        method: how the interval was computed (``"Wilson"``, ``"bootstrap by patient"``), or why there is none.
        reason: why the figure is undefined, for a reader of the report; dropped where ``value`` is not nan.
        successes: for a share, how many of ``count`` cases; see `share`.
        is_count: whether the value is itself a count; see `number`.

    Raises:
        ValueError: for nan without a reason.

    Example:
        >>> f1 = Figure(0.96111, count=366)
        >>> f"{f1}", f"{f1:.1%}", 1 - f1
        ('0.9611', '96.1%', 0.038...)
        >>> precision = Figure.share(0, 0, reason="no case was called cancer")
        >>> f"{precision}", precision.reason
        ('–', 'no case was called cancer')
    """

    __slots__ = ("count", "interval", "is_count", "method", "reason", "successes")

    count: int | None
    interval: tuple[float, float] | None
    method: str
    reason: str
    successes: int | None
    is_count: bool

    def __new__(
        cls,
        value: float,
        *,
        count: int | None = None,
        interval: tuple[float, float] | None = None,
        method: str = "",
        reason: str = "",
        successes: int | None = None,
        is_count: bool = False,
    ) -> Figure:
        """Create a figure; see the class."""
        self = super().__new__(cls, value)
        undefined = math.isnan(self)
        if undefined and not reason:
            raise ValueError("an undefined figure (nan) needs a reason: Figure(nan, reason='no case is cancer')")
        for name, fact in (
            ("count", count),
            ("interval", interval),
            ("method", method),
            ("reason", reason if undefined else ""),
            ("successes", successes),
            ("is_count", is_count),
        ):
            object.__setattr__(self, name, fact)
        return self

    @classmethod
    def share(cls, successes: int, total: int, *, reason: str = "there are no cases to count") -> Figure:
        """Return a share of a count, for which Wilson's interval can be computed.

        Args:
            successes: how many of the cases.
            total: how many cases.
            reason: why the share is undefined, used where ``total`` is 0.

        Returns:
            ``successes / total`` with ``count = total``; nan with the reason where ``total`` is 0.

        Example:
            >>> Figure.share(173, 184)
            Figure(0.940217..., count=184, successes=173)
        """
        value = int(successes) / int(total) if total else math.nan
        return cls(value, count=int(total), reason=reason, successes=int(successes))

    @classmethod
    def ratio(cls, part: float, whole: float, *, reason: str, count: int | None = None) -> Figure:
        """Return a quotient of two numbers; nan with the reason where the denominator is 0.

        Args:
            part: numerator.
            whole: denominator.
            reason: why the ratio is undefined, used where ``whole`` is 0.
            count: number of cases behind it.

        Returns:
            The figure.

        Example:
            >>> Figure.ratio(3.0, 4.0, reason="no case is cancer", count=9)
            Figure(0.75, count=9)
        """
        return cls(part / whole if whole else math.nan, count=count, reason=reason)

    @classmethod
    def number(cls, value: int) -> Figure:
        """Return a count, which prints without decimals and has no interval.

        Args:
            value: the count.

        Returns:
            The figure.

        Example:
            >>> f"{Figure.number(173)}"
            '173'
        """
        return cls(value, is_count=True)

    @classmethod
    def undefined(cls, reason: str, *, count: int | None = None) -> Figure:
        """Return nan with its reason.

        Args:
            reason: why the figure is undefined.
            count: number of cases behind it.

        Returns:
            The figure.
        """
        return cls(math.nan, count=count, reason=reason)

    @property
    def value(self) -> float:
        """The number as a plain float."""
        return float(self)

    @property
    def defined(self) -> bool:
        """Whether it is a number rather than nan."""
        return not math.isnan(self)

    def replace(self, **changes: Any) -> Figure:
        """Return a copy with other facts.

        Args:
            changes: ``value`` and the keyword arguments of the class.

        Returns:
            The new figure.

        Example:
            >>> Figure(0.5).replace(interval=(0.4, 0.6), method="Wilson")
            Figure(0.5, interval=(0.4, 0.6), method='Wilson')
        """
        return type(self)(**{"value": self.value, **self._facts(), **changes})

    def __repr__(self) -> str:
        facts = {k: v for k, v in self._facts().items() if v is not None and v is not False and v != ""}
        return f"Figure({', '.join([float.__repr__(self), *(f'{k}={v!r}' for k, v in facts.items())])})"

    def __str__(self) -> str:
        return format(self, "")

    def __format__(self, spec: str) -> str:
        plain = _PLACEMENT.fullmatch(spec)  # alignment and width without a number format
        if math.isnan(self):
            place = plain or _PLACEMENT.match(spec)
            align, width = place.group("align", "width") if place else ("", "")
            return format("–", f"{(align or '>').replace('=', '>')}{width}")
        return float.__format__(self, spec + (".0f" if self.is_count else ".4f") if plain else spec)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"figures are immutable: use figure.replace({name}=…)")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.value, self._facts())

    def _facts(self) -> dict[str, Any]:
        names = ("count", "interval", "method", "reason", "successes", "is_count")
        return {name: getattr(self, name) for name in names}


def _restore(kind: type[Figure], value: float, facts: dict[str, Any]) -> Figure:
    return kind(value, **facts)
