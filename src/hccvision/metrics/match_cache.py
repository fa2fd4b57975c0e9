"""Matches kept by rule, each rule matched once for all IoU thresholds that are known to be needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hccvision.metrics.matches import Matches
from hccvision.metrics.matching import Matching


class MatchCache:
    """Matches of one set of images.

    Args:
        match: called at most once per rule if all IoU thresholds were announced by `plan`.

    Example:
        >>> from hccvision.metrics.matching import match
        >>> images = [{"boxes": [], "scores": [], "labels": []}]
        >>> cache = MatchCache(lambda how: match(images, images, iou_thresholds=how.iou_thresholds))
        >>> cache.plan(Matching((0.3,)))
        >>> cache.get(Matching((0.5,))).iou_thresholds, cache.get(Matching((0.3,))).iou_thresholds
        ((0.5,), (0.3,))
    """

    def __init__(self, match: Callable[[Matching], Matches]) -> None:
        self._match = match
        self._planned: dict[Matching, tuple[float, ...]] = {}
        self._kept: dict[Matching, Matches] = {}

    def plan(self, how: Matching) -> None:
        """Announce a matching, so that its IoU thresholds are matched along with the others of its rule.

        Args:
            how: the matching that will be asked for.
        """
        rule = _rule(how)
        self._planned[rule] = tuple(dict.fromkeys([*self._planned.get(rule, ()), *how.iou_thresholds]))

    def get(self, how: Matching) -> Matches:
        """Return the matches, matching only what has not been matched.

        Args:
            how: rule and IoU thresholds.

        Returns:
            The matches at these thresholds.
        """
        rule = _rule(how)
        kept = self._kept.get(rule)
        if kept is None or not set(how.iou_thresholds) <= set(kept.iou_thresholds):
            self.plan(how)
            kept = self._kept[rule] = self._match(replace(how, iou_thresholds=self._planned[rule]))
        return kept.at(how.iou_thresholds)

    def take(self, match: Callable[[Matching], Matches]) -> MatchCache:
        """Return the cache of a resample, which shares what is planned.

        Args:
            match: returns the matches of the resample.

        Returns:
            The new cache.
        """
        taken = MatchCache(match)
        taken._planned = self._planned
        return taken


def _rule(how: Matching) -> Matching:
    """Return the key of matchings that differ in IoU thresholds only."""
    return replace(how, iou_thresholds=(1.0,))
