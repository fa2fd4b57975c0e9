"""The SSD multibox head, on any backbone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hccvision.boxes import clip, cxcywh_to_xyxy, nms, soft_nms
from hccvision.contracts import Detections, FeatureSpec, SSDOutput, Targets
from hccvision.default_boxes import DefaultBoxSpec, decode, generate, match, matched_targets, preset
from hccvision.losses import multibox
from hccvision.registry import HEADS
from hccvision.weights import WeightFormat, prefix, rules

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
        depthwise: make the extra, class and box convolutions depthwise-separable, as SSDLite does: a tenth of the
            parameters.
        iou_threshold: overlap from which a default box stands for a truth, in [0, 1].
        negative_ratio: negatives for one positive in the classification loss, per image.
        min_negatives: negatives that at least count in each image.
        prior: share of lesions that a fresh head expects among the default boxes, in (0, 1); 0.01 suits the focal
            losses. None: all classes alike.

    Raises:
        ValueError: if the backbone has too few maps for the default boxes, or a prior out of range.

    Example:
        >>> features = FeatureSpec((512, 1024), (16, 32), ((19, 19), (10, 10)), (300, 300))
        >>> head = SSDHead(features, 1)
        >>> sum(p.numel() for p in head.parameters()), tuple(head.default_boxes.shape)
        (3372120, (3000, 4))
        >>> head((torch.zeros(2, 512, 19, 19), torch.zeros(2, 1024, 10, 10))).logits.shape
        torch.Size([2, 3000, 2])

    Source:
        Liu et al. 2016, SSD, section 2; extras and default boxes as in qfgaohao/pytorch-ssd, which the paper
        (Mizouri 2026, section 2.4) builds on. Depthwise-separable: Sandler et al. 2018, MobileNetV2,
        arXiv:1801.04381, section 6.2.
    """

    task = "detection"
    formats = (
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
    default_image_size = (300, 300)
    default_boxes: Tensor

    def __init__(
        self,
        features: FeatureSpec,
        num_classes: int,
        *,
        default_boxes: str | DefaultBoxSpec | Mapping[str, Any] = "ssd300_mobilenet",
        depthwise: bool = False,
        iou_threshold: float = 0.5,
        negative_ratio: float = 3.0,
        min_negatives: int = 3,
        prior: float | None = None,
    ) -> None:
        super().__init__()
        spec = preset(default_boxes)
        self.num_classes = num_classes
        self.iou_threshold = iou_threshold
        self.negative_ratio = negative_ratio
        self.min_negatives = min_negatives
        self.image_size = features.image_size
        count, wanted = len(spec.strides), sorted(set(spec.strides))
        if len(features.strides) < len(wanted) or count > len(spec.maps):
            raise ValueError(
                f"these default boxes stand on {len(wanted)} maps of the backbone (strides {spec.strides}) and have "
                f"{len(spec.maps)} maps in all; the backbone gives {len(features.channels)} (strides "
                f"{features.strides}): choose another set, or a backbone with more maps"
            )
        if all(s in features.strides for s in wanted):
            self.sources = [features.strides.index(s) for s in spec.strides]
        else:
            self.sources = [len(features.strides) - len(wanted) + wanted.index(s) for s in spec.strides]
        channels = [features.channels[i] for i in self.sources]
        sizes = spec.map_sizes([features.sizes[i] for i in self.sources])
        convolution = _separable if depthwise else _convolution
        extras: list[nn.Module] = []
        for index, cells in enumerate(sizes[count:], count):
            squeeze, out = EXTRAS[min(index - count, len(EXTRAS) - 1)]
            halved = spec.halved(index, sizes[index - 1])
            last = convolution(squeeze, out, cells, stride=2 if halved else 1, padding=1 if halved else 0)
            extras.append(
                nn.Sequential(nn.Conv2d(channels[-1], squeeze, 1), nn.ReLU(inplace=True), last, nn.ReLU(inplace=True))
            )
            channels.append(out)
        self.extras = nn.ModuleList(extras)
        places = list(zip(channels, (m.per_cell for m in spec.maps), sizes, strict=True))
        self.class_convs = nn.ModuleList(convolution(c, n * (num_classes + 1), cells) for c, n, cells in places)
        self.box_convs = nn.ModuleList(convolution(c, n * 4, cells) for c, n, cells in places)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if prior is not None:
            if not 0 < prior < 1:
                raise ValueError(f"prior is a share in (0, 1), got {prior}")
            for conv in self.class_convs:
                bias: Any = (conv[-1] if isinstance(conv, nn.Sequential) else conv).bias
                bias.data.view(-1, num_classes + 1)[:, 0] = math.log(num_classes * (1 - prior) / prior)
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

    def select(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Give what the head needs of the maps: those it predicts from; the others come without channels.

        Args:
            maps: of the backbone.

        Returns:
            As many maps, of which `forward` makes the same output.
        """
        return tuple(m if i in self.sources else m[:, :0] for i, m in enumerate(maps))

    def loss(
        self,
        output: SSDOutput,
        targets: Targets,
        *,
        name: str | None = None,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        normaliser: float | None = None,
    ) -> dict[str, Tensor]:
        """Match the truths with the default boxes and score the output.

        Args:
            output: of `forward`.
            targets: in pixels of the model's input.
            name: of `losses.DETECTION_LOSSES`; None: ``"multibox"``.
            label_smoothing: share of each default box's label that is spread evenly over all classes, in [0, 1].
            class_weights: ``(K,)``, factors of the lesions' classification loss, where the background's is 1.
            normaliser: instead of the batch's own, that of a larger one of which this is a part, see `normaliser`.

        Returns:
            ``loss``, and its parts ``regression`` and ``classification``.

        Raises:
            ValueError: for an unknown name.
        """
        classes, offsets = self._matched(targets)
        if class_weights is not None:
            class_weights = torch.cat((torch.ones(1), class_weights.cpu().float())).to(classes.device)
        return multibox(
            output.logits,
            output.offsets,
            classes,
            offsets,
            self.default_boxes,
            name=name or "multibox",
            negative_ratio=self.negative_ratio,
            min_negatives=self.min_negatives,
            label_smoothing=label_smoothing,
            class_weights=class_weights,
            normaliser=normaliser,
        )

    def normaliser(self, targets: Targets, *, class_weights: Tensor | None = None) -> Tensor:
        """Say what the loss of these targets is divided by, so that the parts of a batch add up to the whole.

        Args:
            targets: in pixels of the model's input.
            class_weights: change nothing here.

        Returns:
            A scalar: the number of default boxes that are matched with a truth; the loss takes at least 1.
        """
        return (self._matched(targets)[0] > 0).sum()

    def _matched(self, targets: Targets) -> tuple[Tensor, Tensor]:
        boxes = targets.boxes / self.scale
        truth = match(self.default_boxes, boxes, targets.valid, iou_threshold=self.iou_threshold).truth
        return matched_targets(self.default_boxes, boxes, targets.labels, truth)

    def decode(
        self,
        output: SSDOutput,
        *,
        score_threshold: float = 0.01,
        iou_threshold: float = 0.45,
        candidates: int = 200,
        max_detections: int = 100,
        suppression: str = "hard",
        class_agnostic: bool = False,
    ) -> list[Detections]:
        """Read the output: threshold, decode the survivors, suppress the doubles.

        Args:
            output: of `forward`.
            score_threshold: least score, in [0, 1].
            iou_threshold: of the suppression, in [0, 1].
            candidates: the best so many of each class go into the suppression.
            max_detections: the best so many of each image come out of it.
            suppression: ``"hard"`` (`boxes.nms`), or ``"linear"`` or ``"gaussian"`` (`boxes.soft_nms`), which lower
                the scores of doubles instead of removing them.
            class_agnostic: boxes of different classes are doubles too.

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
            own = None if class_agnostic else k
            if suppression == "hard":
                best = nms(b, s, iou_threshold, labels=own, max_output=max_detections)
                s = s[best]
            else:
                best, s = soft_nms(
                    b, s, method=suppression, iou_threshold=iou_threshold, score_threshold=score_threshold,
                    labels=own, max_output=max_detections,
                )  # fmt: skip
            found.append(Detections(b[best], s, k[best]))
        return found


def _convolution(channels: int, out: int, cells: tuple[int, int], *, stride: int = 1, padding: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, stride, padding)


def _separable(channels: int, out: int, cells: tuple[int, int], *, stride: int = 1, padding: int = 1) -> nn.Sequential:
    """Give a convolution of each channel by itself, then a 1×1 convolution across channels.

    A map of one cell has no batch norm: it could not train on a last batch of one image.
    """
    norm = nn.BatchNorm2d(channels) if cells != (1, 1) else nn.Identity()
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, padding, groups=channels, bias=cells == (1, 1)),
        norm,
        nn.ReLU6(inplace=True),
        nn.Conv2d(channels, out, 1),
    )


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
