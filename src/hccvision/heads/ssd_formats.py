"""Names that other libraries give to the tensors of an SSD head."""

from __future__ import annotations

from hccvision.weights.formats import WeightFormat, prefix, rules

SSD_FORMATS = (
    WeightFormat("hccvision", prefix(r"head\.(?!default_boxes$)", "")),
    WeightFormat(
        "pytorch-ssd detector",
        rules(
            (r"extras\.", "extras."),
            (r"classification_headers\.", "class_convs."),
            (r"regression_headers\.", "box_convs."),
        ),
    ),
    WeightFormat(
        "torchvision detector",
        rules(
            *((rf"backbone\.extra\.{i + 1}\.", f"extras.{i}.") for i in range(5)),
            (r"head\.classification_head\.module_list\.", "class_convs."),
            (r"head\.regression_head\.module_list\.", "box_convs."),
        ),
    ),
    WeightFormat(
        "ssd.pytorch detector",
        rules(
            *((rf"extras\.{i}\.", f"extras.{i // 2}.{i % 2 * 2}.") for i in range(8)),
            (r"conf\.", "class_convs."),
            (r"loc\.", "box_convs."),
        ),
    ),
)
