"""Default boxes of SSD: specified, generated, fitted to a data set, and used to encode and decode boxes.

Default boxes are ``(A, 4) float32`` as ``cx, cy, w, h`` in fractions of the image sides. Their order is fixed: map by
map from fine to coarse, row by row, column by column, the shapes of a cell in the order of its `MapSpec`.
"""

from hccvision.default_boxes.coding import VARIANCES, decode, encode, matched_targets
from hccvision.default_boxes.grid import generate
from hccvision.default_boxes.presets import PRESETS, preset
from hccvision.default_boxes.reach import Coverage, coverage, reachable
from hccvision.default_boxes.spec import DefaultBoxSpec, MapSpec, ssd_shapes
from hccvision.default_boxes.suggestion import Suggestion, suggest
from hccvision.matchers.assignment import Match
from hccvision.matchers.bipartite import match

__all__ = [
    "PRESETS", "VARIANCES", "Coverage", "DefaultBoxSpec", "MapSpec", "Match", "Suggestion", "coverage", "decode",
    "encode", "generate", "match", "matched_targets", "preset", "reachable", "ssd_shapes", "suggest",
]  # fmt: skip
