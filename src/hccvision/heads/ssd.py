"""The SSD multibox head, on any backbone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hccvision.boxes import clip, cxcywh_to_xyxy, nms
from hccvision.contracts import Detections, FeatureSpec, SSDOutput, Targets
from hccvision.default_boxes import DefaultBoxSpec, decode, generate, match, matched_targets, preset
from hccvision.losses import multibox
from hccvision.registry import HEADS

# Channels of each pair of extra convolutions: 1×1, then 3×3 with stride 2. The last pair repeats.
EXTRAS = ((256, 512), (128, 256), (128, 256), (128, 256))


@HEADS.register("ssd", task="detection")
class SSDHead(nn.Module):
    """Class scores and box offsets for every default box, from backbone maps and the paper's extra convolutions.

    Args:
        features: the backbone's statement.
        num_classes: K, without background.
        default_boxes: a name of `default_boxes.PRESETS`, or a `DefaultBoxSpec`. Its ``strides`` say which maps of the
            backbone are used; where the backbone has no such strides, its last ones are.
        iou_threshold: overlap from which a default box stands for a truth, in [0, 1].
        min_negatives: negatives that at least count in each image.

    Raises:
        ValueError: if the backbone has too few maps for the default boxes.

    Example:
        >>> features = FeatureSpec((512, 1024), (16, 32), ((19, 19), (10, 10)), (300, 300))
        >>> head = SSDHead(features, 1)
        >>> sum(p.numel() for p in head.parameters()), tuple(head.default_boxes.shape)
        (3372120, (3000, 4))
        >>> head((torch.zeros(2, 512, 19, 19), torch.zeros(2, 1024, 10, 10))).logits.shape
        torch.Size([2, 3000, 2])

    Source:
        Liu et al. 2016, SSD, section 2; extras and default boxes as in qfgaohao/pytorch-ssd, which the paper
        (Mizouri 2026, section 2.4) builds on.
    """

    task = "detection"
    default_image_size = (300, 300)
    default_boxes: Tensor

    def __init__(
        self,
        features: FeatureSpec,
        num_classes: int,
        *,
        default_boxes: str | DefaultBoxSpec | Mapping[str, Any] = "ssd300_mobilenet",
        iou_threshold: float = 0.5,
        min_negatives: int = 3,
    ) -> None:
        super().__init__()
        spec = preset(default_boxes)
        self.num_classes = num_classes
        self.iou_threshold = iou_threshold
        self.min_negatives = min_negatives
        self.image_size = features.image_size
        count = len(spec.strides)
        if len(features.channels) < count or count > len(spec.maps):
            raise ValueError(
                f"these default boxes stand on {count} maps of the backbone (strides {spec.strides}) and have "
                f"{len(spec.maps)} maps in all; the backbone gives {len(features.channels)} (strides "
                f"{features.strides}): choose another set, or a backbone with more maps"
            )
        if all(s in features.strides for s in spec.strides):
            self.sources = [features.strides.index(s) for s in spec.strides]
        else:
            self.sources = list(range(len(features.strides)))[-count:]
        channels = [features.channels[i] for i in self.sources]
        sizes = [features.sizes[i] for i in self.sources]
        extras: list[nn.Module] = []
        for index in range(len(spec.maps) - count):
            squeeze, out = EXTRAS[min(index, len(EXTRAS) - 1)]
            extras.append(
                nn.Sequential(
                    nn.Conv2d(channels[-1], squeeze, 1),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(squeeze, out, 3, stride=2, padding=1),
                    nn.ReLU(inplace=True),
                )
            )
            channels.append(out)
            height, width = sizes[-1]
            sizes.append(((height + 1) // 2, (width + 1) // 2))
        self.extras = nn.ModuleList(extras)
        per_cell = [m.per_cell for m in spec.maps]
        self.class_convs = nn.ModuleList(
            nn.Conv2d(c, n * (num_classes + 1), 3, padding=1) for c, n in zip(channels, per_cell, strict=True)
        )
        self.box_convs = nn.ModuleList(
            nn.Conv2d(c, n * 4, 3, padding=1) for c, n in zip(channels, per_cell, strict=True)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        self.register_buffer("default_boxes", generate(spec, features.image_size, sizes))
        height, width = features.image_size
        self.register_buffer(
            "scale", torch.tensor([width, height, width, height], dtype=torch.float32), persistent=False
        )

    scale: Tensor

    def forward(self, maps: tuple[Tensor, ...]) -> SSDOutput:
        """Compute the raw output.

        Args:
            maps: of the backbone.

        Returns:
            Logits ``(B, A, K + 1)`` and offsets ``(B, A, 4)``.
        """
        chosen = [maps[i] for i in self.sources]
        for extra in self.extras:
            chosen.append(extra(chosen[-1]))
        logits = [_per_box(conv(m), self.num_classes + 1) for conv, m in zip(self.class_convs, chosen, strict=True)]
        offsets = [_per_box(conv(m), 4) for conv, m in zip(self.box_convs, chosen, strict=True)]
        return SSDOutput(torch.cat(logits, 1), torch.cat(offsets, 1))

    def loss(self, output: SSDOutput, targets: Targets, *, name: str | None = None) -> dict[str, Tensor]:
        """Match the truths with the default boxes and score the output.

        Args:
            output: of `forward`.
            targets: in pixels of the model's input.
            name: ``"multibox"``, or None for the same.

        Returns:
            ``loss``, and its parts ``regression`` and ``classification``.

        Raises:
            ValueError: for another name.
        """
        if name not in (None, "multibox"):
            raise ValueError(f"unknown detection loss {name!r}; known: multibox")
        boxes = targets.boxes / self.scale
        truth = match(self.default_boxes, boxes, targets.valid, iou_threshold=self.iou_threshold).truth
        classes, offsets = matched_targets(self.default_boxes, boxes, targets.labels, truth)
        return multibox(output.logits, output.offsets, classes, offsets, min_negatives=self.min_negatives)

    def decode(
        self,
        output: SSDOutput,
        *,
        score_threshold: float = 0.01,
        iou_threshold: float = 0.45,
        candidates: int = 200,
        max_detections: int = 100,
    ) -> list[Detections]:
        """Read the output: threshold, decode the survivors, suppress the doubles class by class.

        Args:
            output: of `forward`.
            score_threshold: least score, in [0, 1].
            iou_threshold: of the suppression, in [0, 1].
            candidates: the best so many of each class go into the suppression.
            max_detections: the best so many of each image come out of it.

        Returns:
            One `Detections` per image, in pixels of the model's input, cut to its edges; boxes wholly outside are left
            out.
        """
        logits, offsets = output.logits.float(), output.offsets.float()
        # A score is at most what its class has against the background alone: for most boxes that is too little.
        odds = max(score_threshold, 1e-300) / max(1 - score_threshold, 1e-300)
        hopeful = logits[..., 1:].amax(-1) - logits[..., 0] > math.log(odds) - 1e-3
        image, box = hopeful.nonzero(as_tuple=True)
        scores = logits[image, box].softmax(-1)[:, 1:]
        row, label = (scores > score_threshold).nonzero(as_tuple=True)
        image, box, score = image[row], box[row], scores[row, label]
        if len(score) > candidates:
            best = _best_of_each(image * self.num_classes + label, score, candidates)
            image, box, score, label = image[best], box[best], score[best], label[best]
        boxes = cxcywh_to_xyxy(decode(offsets[image, box], self.default_boxes[box])) * self.scale
        boxes = clip(boxes, self.image_size)
        inside = (boxes[:, 2:] > boxes[:, :2]).all(1).nonzero().squeeze(1)
        counts = image[inside].bincount(minlength=len(logits)).tolist()
        found = []
        for b, s, k in zip(*(t[inside].split(counts) for t in (boxes, score, label)), strict=True):
            best = nms(b, s, iou_threshold, labels=k, max_output=max_detections)
            found.append(Detections(b[best], s[best], k[best]))
        return found


def _best_of_each(group: Tensor, score: Tensor, most: int) -> Tensor:
    """Give the indices, ascending, of the ``most`` best scores of each group; the first of equals."""
    order = score.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]  # group by group, in each by score
    ordered = group[order]
    rank = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
    return order[rank < most].sort().values


def _per_box(values: Tensor, size: int) -> Tensor:
    """``(B, boxes · size, h, w)`` to ``(B, h · w · boxes, size)``, cell by cell."""
    return values.permute(0, 2, 3, 1).reshape(len(values), -1, size)
