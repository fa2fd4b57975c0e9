"""The linear classifier on a backbone's last map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hccvision.contracts import FeatureSpec, Targets
from hccvision.losses import BINARY_LOSSES, CLASSIFICATION_LOSSES, image_weights
from hccvision.registry import HEADS

OUTPUTS = ("softmax", "sigmoid", "multilabel")


@HEADS.register("linear", task="classification")
class LinearHead(nn.Module):
    """Fully connected layers on the last feature map: the paper's 512-512 classifier, or a single layer.

    Args:
        features: the backbone's statement; the last map is used.
        num_classes: K, at least 2; for ``"multilabel"`` at least 1.
        hidden: sizes of the hidden layers, each with ReLU; empty for a single linear layer.
        pool: ``None`` for the flat map (7×7 at 224 px, the paper's), ``"avg"`` or ``"max"`` for one value per channel.
        dropout: share dropped after each hidden layer, in [0, 1); for a single layer, before it.
        output: ``"softmax"``: one of K classes. ``"sigmoid"``: one of two, by a single logit, that of the last class.
            ``"multilabel"``: any of K classes, each by itself, so that an image may show several or none.

    Raises:
        ValueError: for too few classes, other than two of them with ``"sigmoid"``, or an unknown ``pool`` or
            ``output``.

    Example:
        >>> import torch
        >>> head = LinearHead(FeatureSpec((512,), (32,), ((7, 7),), (224, 224)), 2)
        >>> sum(p.numel() for p in head.parameters())
        13109250
        >>> head.decode(head((torch.zeros(3, 512, 7, 7),))).shape
        torch.Size([3, 2])

    Source:
        Mizouri 2026, section 2.3 and table 3. The paper doesn't state a dropout; 0.5 is VGG's own (Simonyan and
        Zisserman 2015, section 3.1).
    """

    task = "classification"
    default_image_size = (224, 224)

    def __init__(
        self,
        features: FeatureSpec,
        num_classes: int,
        *,
        hidden: Sequence[int] = (512, 512),
        pool: str | None = None,
        dropout: float = 0.5,
        output: str = "softmax",
    ) -> None:
        super().__init__()
        if output not in OUTPUTS:
            raise ValueError(f"unknown output {output!r}; known: {', '.join(map(repr, OUTPUTS))}")
        if num_classes < 2 and output != "multilabel":
            raise ValueError(
                f"a classifier needs at least 2 classes, got {num_classes}; to ask for one thing alone, give it "
                'output="multilabel"'
            )
        if num_classes != 2 and output == "sigmoid":
            raise ValueError(f'a single sigmoid tells 2 classes apart, got {num_classes}: take output="softmax"')
        pools = {"avg": nn.AdaptiveAvgPool2d(1), "max": nn.AdaptiveMaxPool2d(1), None: nn.Identity()}
        if pool not in pools:
            raise ValueError(f"unknown pool {pool!r}; known: None (the flat map), 'avg', 'max'")
        self.pool = nn.Sequential(pools[pool], nn.Flatten())
        height, width = features.sizes[-1]
        size = features.channels[-1] * (1 if pool else height * width)
        layers: list[nn.Module] = []
        for out in hidden:
            layers += [nn.Linear(size, out), nn.ReLU(inplace=True), nn.Dropout(dropout)]
            size = out
        if not hidden and dropout:
            layers.append(nn.Dropout(dropout))
        self.output = output
        self.layers = nn.Sequential(*layers, nn.Linear(size, 1 if output == "sigmoid" else num_classes))

    @property
    def multilabel(self) -> bool:
        """Whether an image may show several classes, or none."""
        return self.output == "multilabel"

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Compute the logits.

        Args:
            maps: of the backbone.

        Returns:
            ``(B, K)``, or ``(B, 1)`` for ``"sigmoid"``.
        """
        return self.layers(self.pool(maps[-1]))

    def select(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Give what the head needs of the maps: the last one, pooled if the head pools.

        Args:
            maps: of the backbone.

        Returns:
            One map, of which `forward` makes the same logits.
        """
        return (self.pool[0](maps[-1]),)

    def loss(
        self,
        output: Tensor,
        targets: Targets,
        *,
        name: str | None = None,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        normaliser: float | None = None,
    ) -> dict[str, Tensor]:
        """Score the logits.

        Args:
            output: logits of `forward`.
            targets: with ``image_labels``: ``(B,)`` class ids, or for ``"multilabel"`` ``(B, K)`` of 0 and 1.
            name: of `losses.CLASSIFICATION_LOSSES`, whose binary forms the sigmoids take; None: cross-entropy.
            label_smoothing: share of each label that is spread evenly, in [0, 1].
            class_weights: ``(K,)``: how much an image counts by its class, or for ``"multilabel"`` how much a yes does,
                where a no counts 1; None: all alike.
            normaliser: instead of the batch's own, that of a larger one of which this is a part, see `normaliser`.

        Returns:
            ``loss`` and its one part, ``classification``.

        Raises:
            ValueError: for an unknown name, or targets without image labels of that shape.
        """
        name = name or "cross_entropy"
        losses = CLASSIFICATION_LOSSES if self.output == "softmax" else BINARY_LOSSES
        if name not in losses:
            raise ValueError(f"unknown classification loss {name!r}; known: {', '.join(losses)}")
        labels = self._labels(targets)
        expected = tuple(output.shape) if self.multilabel else (len(output),)
        if labels.shape != expected:
            raise ValueError(
                f"with output={self.output!r} the linear head learns from image labels {expected}, got "
                f"{tuple(labels.shape)}"
            )
        options: dict[str, Any] = {"label_smoothing": label_smoothing, "normaliser": normaliser}
        if self.output == "softmax":
            options["class_weights"] = class_weights
        else:
            weights = self._weights(labels, class_weights)
            options["weights"] = weights if weights is None or self.multilabel else weights[:, None]
        loss = losses[name](output, labels[:, None] if self.output == "sigmoid" else labels, **options)
        return {"loss": loss, "classification": loss}

    def normaliser(self, targets: Targets, *, class_weights: Tensor | None = None) -> Tensor:
        """Say what the loss of these targets is divided by, so that the parts of a batch add up to the whole.

        Args:
            targets: as for `loss`.
            class_weights: as for `loss`.

        Returns:
            A scalar: the number of images, or of answers for ``"multilabel"``, or the sum of their weights.
        """
        labels = self._labels(targets)
        weights = self._weights(labels, class_weights)
        return torch.tensor(float(labels.numel())) if weights is None else weights.sum()

    def _weights(self, labels: Tensor, class_weights: Tensor | None) -> Tensor | None:
        if class_weights is None or not self.multilabel:
            return image_weights(labels, class_weights)
        return torch.where(labels > 0, class_weights.to(labels.device), 1.0)

    def _labels(self, targets: Targets) -> Tensor:
        labels = targets.image_labels
        if labels is None:
            raise ValueError(
                "the linear head learns from image labels, and these targets have none: give samples with "
                + ("annotations" if self.multilabel else "class_name")
            )
        return labels

    def decode(self, output: Tensor) -> Tensor:
        """Turn logits into probabilities.

        Args:
            output: logits of `forward`.

        Returns:
            ``(B, K) float32`` in [0, 1], each row summing to 1, but for ``"multilabel"``.
        """
        logits = output.float()
        if self.output == "softmax":
            return logits.softmax(-1)
        if self.output == "sigmoid":
            logits = torch.cat((-logits, logits), -1)
        return logits.sigmoid()
