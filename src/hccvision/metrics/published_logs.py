"""Published loss logs and set sizes checked against themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation


def check_losses(
    totals: Sequence[float | str], parts: Mapping[str, Sequence[float | str]], *, rows: Sequence[object] | None = None
) -> dict[object, str]:
    """Check whether the parts of a published loss add up to its total, row by row.

    Each number lies anywhere within its rounding, so that honest logs pass.

    Args:
        totals: N printed totals; as strings, trailing zeros count as decimals.
        parts: name to N printed values.
        rows: N names of the rows, such as epochs; None: 1 to N.

    Returns:
        A sentence for each row that can't add up, by its name.

    Raises:
        ValueError: for lengths that differ, or values that are not finite numbers.

    Example:
        >>> found = check_losses(["2.9436", "3.2228"], {"reg": ["0.9478", "1.1355"], "cls": ["1.9958", "2.8056"]})
        >>> found
        {2: 'the parts add up to 3.9411, and the total is printed as 3.2228'}
    """
    count = len(totals)
    names = list(range(1, count + 1)) if rows is None else list(rows)
    if not parts or {len(names), *map(len, parts.values())} != {count}:
        raise ValueError(f"expected parts and rows as long as the {count} totals, got {[*map(len, parts.values())]}")
    faults: dict[object, str] = {}
    for number, name in enumerate(names):
        total = _number(totals[number])
        values = [_number(column[number]) for column in parts.values()]
        slack = sum((_half_unit(v) for v in (total, *values)), Decimal(0))
        if abs(sum(values, Decimal(0)) - total) > slack:
            faults[name] = f"the parts add up to {sum(values, Decimal(0))}, and the total is printed as {total}"
    return faults


def check_test_size(test: int, originals: int, *, share: float | None = None) -> str | None:
    """Check whether a test set can consist of original images alone, without augmented copies.

    Args:
        test: number of test images.
        originals: number of images before augmentation.
        share: of the images that are stated to be the test set, in (0, 1); None: not stated.

    Returns:
        A sentence if it can't; None if it can.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> check_test_size(366, 334, share=0.2)
        'a share of 0.2 of 334 images is at most 67, and the test set has 366: it holds augmented copies, whose siblings
        may be in the training set'
    """
    if test < 0 or originals < 1 or (share is not None and not 0 < share < 1):
        raise ValueError(
            f"expected counts and a share in (0, 1), got test={test}, originals={originals}, share={share}"
        )
    most = originals if share is None else int(share * originals) + 1
    if test <= most:
        return None
    what = f"{originals} images were annotated" if share is None else f"a share of {share:g} of {originals} images is"
    limit = "" if share is None else f" at most {most}"
    why = "it holds augmented copies, whose siblings may be in the training set"
    return f"{what}{limit}, and the test set has {test}: {why}"


def _number(value: float | str) -> Decimal:
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite():
        raise ValueError(f"expected printed numbers, got {value!r}")
    return number


def _half_unit(value: Decimal) -> Decimal:
    """Return half of the last printed decimal."""
    return Decimal(5).scaleb(int(value.as_tuple().exponent) - 1)
