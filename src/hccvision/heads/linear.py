"""The linear classifier on a backbone's last map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hccvision.contracts import FeatureSpec, Targets
from hccvision.losses import CLASSIFICATION_LOSSES
from hccvision.registry import HEADS


@HEADS.register("linear", task="classification")
class LinearHead(nn.Module):
    """Fully connected layers on the last feature map: the paper's 512-512 classifier, or a single layer.

    Args:
        features: the backbone's statement; the last map is used.
        num_classes: K, at least 2.
        hidden: sizes of the hidden layers, each with ReLU; empty for a single linear layer.
        pool: ``None`` for the flat map (7×7 at 224 px, the paper's), ``"avg"`` or ``"max"`` for one value per channel.
        dropout: share dropped after each hidden layer, in [0, 1); for a single layer, before it.

    Raises:
        ValueError: for fewer than two classes, or an unknown ``pool``.

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
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got {num_classes}")
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
        self.layers = nn.Sequential(*layers, nn.Linear(size, num_classes))

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Compute the logits.

        Args:
            maps: of the backbone.

        Returns:
            ``(B, K)``.
        """
        return self.layers(self.pool(maps[-1]))

    def loss(self, output: Tensor, targets: Targets, *, name: str | None = None) -> dict[str, Tensor]:
        """Score the logits.

        Args:
            output: ``(B, K)`` logits.
            targets: with ``image_labels``.
            name: of `losses.CLASSIFICATION_LOSSES`; None: cross-entropy.

        Returns:
            ``loss`` and its one part, ``classification``.

        Raises:
            ValueError: for an unknown name, or targets without image labels.
        """
        name = name or "cross_entropy"
        if name not in CLASSIFICATION_LOSSES:
            raise ValueError(f"unknown classification loss {name!r}; known: {', '.join(CLASSIFICATION_LOSSES)}")
        if targets.image_labels is None:
            raise ValueError(
                "the linear head learns from image labels, and these targets have none: give samples with class_name"
            )
        loss = CLASSIFICATION_LOSSES[name](output, targets.image_labels)
        return {"loss": loss, "classification": loss}

    def decode(self, output: Tensor) -> Tensor:
        """Turn logits into probabilities.

        Args:
            output: ``(B, K)`` logits.

        Returns:
            ``(B, K) float32`` in [0, 1], each row summing to 1.
        """
        return output.float().softmax(-1)
