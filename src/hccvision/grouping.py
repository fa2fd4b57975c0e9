"""Grouping of what is connected, by union-find."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence


class UnionFind:
    """Disjoint groups of the numbers ``0 … count - 1``, which are joined pair by pair.

    Args:
        count: how many numbers there are; each is a group of its own at first.

    Example:
        >>> groups = UnionFind(4)
        >>> groups.join(3, 1)
        >>> groups.groups()
        [[0], [1, 3], [2]]
    """

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def find(self, number: int) -> int:
        """Return the smallest member of a number's group.

        Args:
            number: a member.

        Returns:
            The smallest member, the same for all of the group.
        """
        parents = self._parents
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    def join(self, one: int, other: int) -> None:
        """Merge the groups of two numbers.

        Args:
            one: a number.
            other: another.
        """
        low, high = sorted((self.find(one), self.find(other)))
        self._parents[high] = low

    def groups(self) -> list[list[int]]:
        """Return all groups.

        Returns:
            The members of each group in ascending order; groups in the order of their first members.
        """
        members: dict[int, list[int]] = {}
        for number in range(len(self._parents)):
            members.setdefault(self.find(number), []).append(number)
        return list(members.values())


def together(keys: Sequence[Iterable[Hashable]]) -> list[list[int]]:
    """Group items that share a key, directly or through other items.

    Args:
        keys: the keys of each item.

    Returns:
        Indices of the items of each group, groups in the order of their first members.

    Example:
        >>> together([["a"], ["b"], ["a", "c"], ["c"]])
        [[0, 2, 3], [1]]
    """
    union = UnionFind(len(keys))
    first: dict[Hashable, int] = {}
    for number, own in enumerate(keys):
        for key in own:
            union.join(first.setdefault(key, number), number)
    return union.groups()
