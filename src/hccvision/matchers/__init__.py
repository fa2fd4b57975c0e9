"""Matchers: assign ground truth to default boxes. Importing this registers them."""

from hccvision.matchers.assignment import Match, Matcher
from hccvision.matchers.bipartite import BipartiteMatcher, match

__all__ = ["BipartiteMatcher", "Match", "Matcher", "match"]
