"""Connected components of a binary mask.

Source: Rosenfeld and Pfaltz 1966, "Sequential operations in digital picture processing", J. ACM 13(4).
"""

from __future__ import annotations

import numpy as np

from hccvision.grouping import UnionFind


def components(inside: np.ndarray, *, connectivity: int = 8) -> list[tuple[tuple[int, int, int, int], int]]:
    """Compute bounding box and area of each connected component.

    Args:
        inside: ``(H, W)`` bool.
        connectivity: 8 joins pixels that touch at a corner, 4 does not.

    Returns:
        ``(x1, y1, x2, y2)`` in pixels, half-open, and the number of pixels of each component, by its first pixel from
        top to bottom, left to right.

    Example:
        >>> components(np.array([[True, False], [False, True]]), connectivity=4)
        [((0, 0, 1, 1), 1), ((1, 1, 2, 2), 1)]
    """
    reach = connectivity == 8  # pixels beyond the end of a run at which one in the next row still touches it
    padded = np.zeros((inside.shape[0], inside.shape[1] + 2), np.int8)
    padded[:, 1:-1] = inside
    change = np.diff(padded, axis=1)
    rows, starts = np.nonzero(change == 1)
    stops = np.nonzero(change == -1)[1]
    runs = list(zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True))
    union = UnionFind(len(runs))
    above = 0
    for run, (row, start, stop) in enumerate(runs):
        while runs[above][0] < row - 1 or (runs[above][0] == row - 1 and runs[above][2] + reach <= start):
            above += 1
        other = above
        while runs[other][0] == row - 1 and runs[other][1] < stop + reach:
            union.join(run, other)
            other += 1
    found = []
    for group in union.groups():
        numbers = rows[group], starts[group], stops[group]
        y1, x1, x2 = numbers[0].min(), numbers[1].min(), numbers[2].max()
        box = int(x1), int(y1), int(x2), int(numbers[0].max()) + 1
        found.append((box, int((numbers[2] - numbers[1]).sum())))
    return found
