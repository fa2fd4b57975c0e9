"""The SSD multibox head, for any backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hccvision.boxes.borders import clip
from hccvision.boxes.formats import cxcywh_to_xyxy
from hccvision.boxes.overlap import iou, share_inside
from hccvision.contracts.batches import Loss, Targets
from hccvision.contracts.outputs import Detections, SSDOutput
from hccvision.contracts.parts import FeatureSpec
from hccvision.default_boxes.coding import decode, matched_targets
from hccvision.default_boxes.grid import generate
from hccvision.default_boxes.presets import preset
from hccvision.default_boxes.spec import DefaultBoxSpec
from hccvision.heads.ssd_decoding import select_candidates, suppress_duplicates
from hccvision.heads.ssd_formats import SSD_FORMATS
from hccvision.heads.ssd_layers import (
    EXTRAS,
    convolution,
    extra_layer,
    initialise,
    per_box,
    separable_convolution,
    set_prior,
)
from hccvision.losses.box_targets import BoxTargets
from hccvision.losses.mining import HardNegatives
from hccvision.matchers.assignment import Matcher
from hccvision.registry import HEADS, LOSSES, MATCHERS

IN_CROWD = 0.5  # share of a default box in a crowd from which it is ignored, as a detection is at this IoU threshold


@HEADS.register("ssd", task="detection")
class SSDHead(nn.Module):
    """Class scores and box offsets for every default box, from feature maps and the paper's extra convolutions.

    Args:
        features: feature maps of the backbone or neck.
        num_classes: K, without background.
        default_boxes: a name in `default_boxes.PRESETS`, or a `DefaultBoxSpec`. Its ``strides`` select the feature
            maps; if the backbone doesn't have these strides, its last maps are used.
        depthwise: make the extra, class and box convolutions depthwise-separable, as SSDLite does, which takes a tenth
            of the parameters.
        matcher: name of a registered matcher, or a `matchers.Matcher`.
        negative_ratio: negatives per positive in the classification loss, in each image.
        min_negatives: lowest number of negatives in the classification loss, in each image.
        prior: probability of a lesion that a fresh head predicts at each default box, in (0, 1); 0.01 suits the focal
            losses. None: equal probabilities for all classes.
        matcher_options: options of a matcher given by name. ``iou_threshold``, of ``"bipartite"``, is the IoU from
            which a default box is matched with a truth, in [0, 1], 0.5 by default.

    Raises:
        ValueError: if the backbone has too few maps for the default boxes, or for a prior out of range.

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
    formats = SSD_FORMATS
    default_image_size = (300, 300)
    default_boxes: Tensor
    scale: Tensor

    def __init__(
        self,
        features: FeatureSpec,
        num_classes: int,
        *,
        default_boxes: str | DefaultBoxSpec | Mapping[str, Any] = "ssd300_mobilenet",
        depthwise: bool = False,
        matcher: str | Matcher = "bipartite",
        negative_ratio: float = 3.0,
        min_negatives: int = 3,
        prior: float | None = None,
        **matcher_options: Any,
    ) -> None:
        super().__init__()
        spec = preset(default_boxes)
        self.num_classes = num_classes
        self.matcher: Matcher = MATCHERS.resolve(matcher, **matcher_options)
        self.negatives = HardNegatives(negative_ratio, min_negatives)
        self.image_size = features.image_size
        self.sources = _sources(spec, features)
        count = len(self.sources)
        channels = [features.channels[i] for i in self.sources]
        sizes = spec.map_sizes([features.sizes[i] for i in self.sources])
        convolve = separable_convolution if depthwise else convolution
        extras: list[nn.Module] = []
        for index, cells in enumerate(sizes[count:]):
            halved = spec.halved(count + index, sizes[count + index - 1])
            extras.append(extra_layer(convolve, channels[-1], index, cells, halved=halved))
            channels.append(EXTRAS[min(index, len(EXTRAS) - 1)][1])
        self.extras = nn.ModuleList(extras)
        places = list(zip(channels, (m.per_cell for m in spec.maps), sizes, strict=True))
        self.class_convs = nn.ModuleList(convolve(c, n * (num_classes + 1), cells) for c, n, cells in places)
        self.box_convs = nn.ModuleList(convolve(c, n * 4, cells) for c, n, cells in places)
        initialise(self)
        if prior is not None:
            set_prior(self.class_convs, num_classes, prior)
        self.levels = tuple(n * height * width for _, n, (height, width) in places)
        self.register_buffer("default_boxes", generate(spec, features.image_size, sizes))
        height, width = features.image_size
        self.register_buffer(
            "scale", torch.tensor([width, height, width, height], dtype=torch.float32), persistent=False
        )

    def forward(self, maps: tuple[Tensor, ...]) -> SSDOutput:
        """Compute the raw output.

        Args:
            maps: feature maps of the backbone or neck.

        Returns:
            Logits ``(B, A, K + 1)`` and offsets ``(B, A, 4)``.
        """
        chosen = [maps[i] for i in self.sources]
        for extra in self.extras:
            chosen.append(extra(chosen[-1]))
        logits = [per_box(conv(m), self.num_classes + 1) for conv, m in zip(self.class_convs, chosen, strict=True)]
        offsets = [per_box(conv(m), 4) for conv, m in zip(self.box_convs, chosen, strict=True)]
        return SSDOutput(torch.cat(logits, 1), torch.cat(offsets, 1))

    def select(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the part of the maps that the head needs: maps it doesn't use are returned without channels.

        Args:
            maps: feature maps of the backbone or neck.

        Returns:
            The same number of maps, for which `forward` computes the same output.
        """
        return tuple(m if i in self.sources else m[:, :0] for i, m in enumerate(maps))

    def loss(
        self,
        output: SSDOutput,
        targets: Targets,
        *,
        name: str | Callable[..., Loss] | None = None,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> Loss:
        """Match the ground truth with the default boxes and compute the summed loss.

        Args:
            output: of `forward`.
            targets: in pixels of the model's input.
            name: of a loss registered for detection; or such a loss itself, called as ``loss(output, targets)`` with an
                `SSDOutput`, `losses.BoxTargets` and the options that are set. None: ``"multibox"``.
            label_smoothing: fraction of the label of each default box that is spread evenly over all classes, in
                [0, 1].
            class_weights: ``(K,)``, factors of the classification loss of the lesions; the background has 1.

        Returns:
            Parts ``regression`` and ``classification``. The count is the number of default boxes matched with a lesion.

        Raises:
            KeyError: for an unknown name.
        """
        chosen = name or "multibox"
        loss = LOSSES.get(chosen, task=self.task) if isinstance(chosen, str) else chosen
        options: dict[str, Any] = {"label_smoothing": label_smoothing} if label_smoothing else {}
        if class_weights is not None:
            device = output.logits.device
            options["class_weights"] = torch.cat((torch.ones(1), class_weights.cpu().float())).to(device)
        return loss(output, self.box_targets(output, targets), **options)

    def box_targets(self, output: SSDOutput, targets: Targets) -> BoxTargets:
        """Match the ground truth with the default boxes.

        Args:
            output: of `forward`, for matchers that depend on it.
            targets: in pixels of the model's input.

        Returns:
            The targets of the default boxes.
        """
        truths = targets.boxes / self.scale
        raw = SSDOutput(output.logits.detach(), output.offsets.detach())
        found = self.matcher(self.default_boxes, truths, targets.labels, targets.valid, output=raw, levels=self.levels)
        classes, offsets = matched_targets(self.default_boxes, truths, targets.labels, found.truth)
        ignored = None if targets.crowds is None else self._in_crowd(targets.crowds / self.scale) & (classes == 0)
        return BoxTargets(classes, offsets, self.default_boxes, found.weights, self.negatives, ignored)

    def _in_crowd(self, crowds: Tensor) -> Tensor:
        """Return ``(B, A) bool``, the default boxes of which a large part lies in a crowd ``(B, M, 4)``."""
        default_boxes = clip(cxcywh_to_xyxy(self.default_boxes), (1, 1))
        return (share_inside(default_boxes, crowds) >= IN_CROWD).any(-1)

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
        """Select scores above the threshold, decode their boxes, and suppress duplicate detections.

        Args:
            output: of `forward`.
            score_threshold: in [0, 1]; the score of a detection exceeds it.
            iou_threshold: of the suppression, in [0, 1].
            candidates: at most this many of highest score per class and image enter the suppression.
            max_detections: at most this many of highest score per image are returned.
            suppression: ``"hard"`` (`boxes.nms`), or ``"linear"`` or ``"gaussian"`` (`boxes.soft_nms`), which lower
                the scores of duplicates instead of removing them.
            class_agnostic: boxes of different classes suppress each other as well.

        Returns:
            One `Detections` per image, in pixels of the model's input, clipped to it, without boxes outside of it.
        """
        logits, offsets = output.logits.float(), output.offsets.float()
        found = select_candidates(logits, score_threshold, candidates)
        boxes = cxcywh_to_xyxy(decode(offsets[found.image, found.box], self.default_boxes[found.box])) * self.scale
        boxes = clip(boxes, self.image_size)
        inside = (boxes[:, 2:] > boxes[:, :2]).all(1).nonzero().squeeze(1)
        counts = found.image[inside].bincount(minlength=len(logits)).tolist()
        per_image = zip(*(t[inside].split(counts) for t in (boxes, found.score, found.label)), strict=True)
        return [
            suppress_duplicates(
                b, s, k, method=suppression, iou_threshold=iou_threshold, score_threshold=score_threshold,
                max_detections=max_detections, class_agnostic=class_agnostic,
            )
            for b, s, k in per_image
        ]  # fmt: skip

    def evidence(self, output: SSDOutput, label: int, box: Tensor | None = None) -> Tensor:
        """Return how much speaks for a class: the highest log-odds against the background of boxes at a place.

        Args:
            output: of `forward`.
            label: the class id.
            box: ``(4,)`` the place, in pixels of the model's input; None: anywhere.

        Returns:
            ``(B,)``: over the boxes whose IoU with the place is at least 0.5, or else over the nearest.
        """
        odds = output.logits[..., label + 1] - output.logits[..., 0]
        if box is None:
            return odds.amax(1)
        with torch.no_grad():
            boxes = cxcywh_to_xyxy(decode(output.offsets, self.default_boxes)) * self.scale
            overlap = iou(boxes.reshape(-1, 4), box.to(boxes)[None]).reshape(odds.shape)
            there = overlap >= overlap.amax(1, keepdim=True).clamp(max=0.5)
        return odds.masked_fill(~there, -torch.inf).amax(1)


def _sources(spec: DefaultBoxSpec, features: FeatureSpec) -> list[int]:
    """Return the index of the feature map for each of the strides of a set of default boxes."""
    wanted = sorted(set(spec.strides))
    if len(features.strides) < len(wanted) or len(spec.strides) > len(spec.maps):
        raise ValueError(
            f"these default boxes need {len(wanted)} maps of the backbone (strides {spec.strides}) and have "
            f"{len(spec.maps)} maps in total; the backbone has {len(features.channels)} (strides "
            f"{features.strides}): choose another set, or a backbone with more maps"
        )
    if all(s in features.strides for s in wanted):
        return [features.strides.index(s) for s in spec.strides]
    return [len(features.strides) - len(wanted) + wanted.index(s) for s in spec.strides]
