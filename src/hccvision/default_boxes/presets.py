"""Known sets of default boxes, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hccvision.default_boxes.spec import DefaultBoxSpec, MapSpec, ssd_shapes


def _steps(rows: Sequence[tuple[int, int, float, float, tuple[float, ...]]]) -> tuple[MapSpec, ...]:
    return tuple(MapSpec(ssd_shapes(low, high, ratios), size, step / 300) for size, step, low, high, ratios in rows)


PRESETS: dict[str, DefaultBoxSpec] = {
    # qfgaohao/pytorch-ssd, vision/ssd/config/mobilenetv1_ssd_config.py: the set of the paper
    "ssd300_mobilenet": DefaultBoxSpec(
        _steps(
            [
                (19, 16, 60, 105, (2, 3)),
                (10, 32, 105, 150, (2, 3)),
                (5, 64, 150, 195, (2, 3)),
                (3, 100, 195, 240, (2, 3)),
                (2, 150, 240, 285, (2, 3)),
                (1, 300, 285, 330, (2, 3)),
            ]
        ),
        clip=True,
    ),
    # chuanqi305/MobileNet-SSD, train.prototxt
    "ssd300_caffe": DefaultBoxSpec(
        (
            MapSpec(ssd_shapes(60, None, (2,)), 19),
            MapSpec(ssd_shapes(105, 150, (2, 3)), 10),
            MapSpec(ssd_shapes(150, 195, (2, 3)), 5),
            MapSpec(ssd_shapes(195, 240, (2, 3)), 3),
            MapSpec(ssd_shapes(240, 285, (2, 3)), 2),
            MapSpec(ssd_shapes(285, 300, (2, 3)), 1),
        )
    ),
    # qfgaohao/pytorch-ssd, vision/ssd/config/vgg_ssd_config.py; for the backbone vgg16_ssd
    "ssd300_vgg": DefaultBoxSpec(
        _steps(
            [
                (38, 8, 30, 60, (2,)),
                (19, 16, 60, 111, (2, 3)),
                (10, 32, 111, 162, (2, 3)),
                (5, 64, 162, 213, (2, 3)),
                (3, 100, 213, 264, (2,)),
                (1, 300, 264, 315, (2,)),
            ]
        ),
        strides=(8, 16),
        clip=True,
        unpadded=2,
    ),
    # torchvision, models/detection/ssd.py: scales are fractions of the image, shapes (not centres) are clipped at 1
    "ssd300_torchvision": DefaultBoxSpec(
        tuple(
            MapSpec(tuple((min(w, 1.0), min(h, 1.0)) for w, h in ssd_shapes(low, high, ratios, 1)), size, step / 300)
            for size, step, low, high, ratios in (
                (38, 8, 0.07, 0.15, (2,)),
                (19, 16, 0.15, 0.33, (2, 3)),
                (10, 32, 0.33, 0.51, (2, 3)),
                (5, 64, 0.51, 0.69, (2, 3)),
                (3, 100, 0.69, 0.87, (2,)),
                (1, 300, 0.87, 1.05, (2,)),
            )
        ),
        strides=(8, 16),
        unpadded=2,
    ),
    # Liu et al. 2016: its Caffe code, examples/ssd/ssd_pascal_512.py; for images of 512 pixels
    "ssd512": DefaultBoxSpec(
        tuple(
            MapSpec(ssd_shapes(low, high, ratios, 512), size)
            for size, low, high, ratios in (
                (64, 35.84, 76.8, (2,)),
                (32, 76.8, 153.6, (2, 3)),
                (16, 153.6, 230.4, (2, 3)),
                (8, 230.4, 307.2, (2, 3)),
                (4, 307.2, 384.0, (2, 3)),
                (2, 384.0, 460.8, (2,)),
                (1, 460.8, 537.6, (2,)),
            )
        ),
        strides=(8, 16),
    ),
    # Our own: squares from 4 % of the image side, each at least three strides wide, so that neighbours overlap by half
    "lesion": DefaultBoxSpec(
        (
            MapSpec(ssd_shapes(12, 24, ()), 75),
            MapSpec(ssd_shapes(24, 48, (2,)), 38),
            MapSpec(ssd_shapes(48, 96, (2,)), 19),
            MapSpec(ssd_shapes(96, 150, (2, 3)), 10),
            MapSpec(ssd_shapes(150, 195, (2, 3)), 5),
            MapSpec(ssd_shapes(195, 240, (2, 3)), 3),
            MapSpec(ssd_shapes(240, 285, (2, 3)), 2),
            MapSpec(ssd_shapes(285, 330, (2, 3)), 1),
        ),
        strides=(4, 8, 16, 32),
    ),
}


def preset(spec: str | DefaultBoxSpec | Mapping[str, Any]) -> DefaultBoxSpec:
    """Look up a set of default boxes by name; return a set given as data as it is.

    Args:
        spec: a name in ``PRESETS``, a set, or a set as a dictionary, as model files store it.

    Returns:
        The set.

    Raises:
        KeyError: if the name is unknown; the message lists the known ones.

    Example:
        >>> sum(m.per_cell * m.size**2 for m in preset("ssd300_mobilenet").maps)
        3000
    """
    if isinstance(spec, DefaultBoxSpec):
        return spec
    if isinstance(spec, Mapping):
        maps = tuple(MapSpec(**{**m, "shapes": tuple(map(tuple, m["shapes"]))}) for m in spec["maps"])
        return DefaultBoxSpec(maps, tuple(spec["strides"]), spec["clip"], spec.get("unpadded", 0))
    if spec not in PRESETS:
        raise KeyError(
            f"unknown set of default boxes {spec!r}; known: {', '.join(PRESETS)}, or a DefaultBoxSpec of your own"
        )
    return PRESETS[spec]
