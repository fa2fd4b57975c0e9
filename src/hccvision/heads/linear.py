"""The linear classifier on the last feature map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hccvision.contracts.batches import Loss, Targets
from hccvision.contracts.parts import FeatureSpec
from hccvision.heads.linear_outputs import OUTPUTS
from hccvision.registry import HEADS, LOSSES


@HEADS.register("linear", task="classification")
class LinearHead(nn.Module):
    """Fully connected layers on the last feature map: the paper's 512-512 classifier, or a single layer.

    Args:
        features: feature maps of the backbone or neck; the last one is used.
        num_classes: K, at least 2; for ``"multilabel"`` at least 1.
        hidden: sizes of the hidden layers, each with ReLU; empty for a single linear layer.
        pool: ``None`` for the flat map (7×7 at 224 px, as in the paper), ``"avg"`` or ``"max"`` for one value per
            channel.
        dropout: probability of dropout after each hidden layer, in [0, 1); with a single layer, before it.
        output: ``"softmax"``: one of K classes. ``"sigmoid"``: one of two classes, by a single logit, that of the last
            class. ``"multilabel"``: any number of K classes, each by its own sigmoid; the head's ``task`` is then
            ``"multilabel"``, else ``"classification"``.

    Raises:
        ValueError: for too few classes, more than two with ``"sigmoid"``, or an unknown ``pool`` or ``output``.

    Example:
        >>> import torch
        >>> head = LinearHead(FeatureSpec((512,), (32,), ((7, 7),), (224, 224)), 2)
        >>> sum(p.numel() for p in head.parameters())
        13109250
        >>> head.decode(head((torch.zeros(3, 512, 7, 7),))).shape
        torch.Size([3, 2])

    Source:
        Mizouri 2026, section 2.3 and table 3. The paper doesn't state the dropout; 0.5 is that of VGG (Simonyan and
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
        logits = OUTPUTS[output].logits(num_classes)
        self.task = OUTPUTS[output].task
        self.output = output
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
        self.layers = nn.Sequential(*layers, nn.Linear(size, logits))

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Compute the logits.

        Args:
            maps: feature maps of the backbone or neck.

        Returns:
            ``(B, K)``, or ``(B, 1)`` for ``"sigmoid"``.
        """
        return self.layers(self.pool(maps[-1]))

    def select(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the part of the maps that the head needs: the last map, pooled if the head pools.

        Args:
            maps: feature maps of the backbone or neck.

        Returns:
            One map, for which `forward` computes the same logits.
        """
        return (self.pool[0](maps[-1]),)

    def loss(
        self,
        output: Tensor,
        targets: Targets,
        *,
        name: str | Callable[..., Loss] | None = None,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> Loss:
        """Compute the summed loss of the logits.

        Args:
            output: logits of `forward`.
            targets: with ``image_labels``: ``(B,)`` class ids, or for ``"multilabel"`` ``(B, K)`` of 0 and 1.
            name: of a loss registered for classification, for the sigmoids for multilabel; or such a loss itself,
                called as ``loss(logits, labels)`` with the options that are set. None: ``"cross_entropy"``.
            label_smoothing: fraction of each label that is spread evenly, in [0, 1].
            class_weights: ``(K,)``, weight of an image by its class; for ``"multilabel"`` weight of a 1, where a 0
                weighs 1. None: all weigh 1.

        Returns:
            One part, ``classification``. The count is the number of images, for ``"multilabel"`` of labels, or the sum
            of their weights.

        Raises:
            KeyError: for an unknown name.
            ValueError: for targets without image labels of the right shape.
        """
        kind = OUTPUTS[self.output]
        chosen = name or "cross_entropy"
        loss = LOSSES.get(chosen, task=kind.losses) if isinstance(chosen, str) else chosen
        labels = targets.image_labels
        if labels is None:
            raise ValueError(
                "the linear head learns from image labels, and these targets have none: train on samples with "
                f"{kind.labels_from}"
            )
        expected = kind.label_shape(output)
        if labels.shape != expected:
            raise ValueError(
                f"with output={self.output!r} the linear head needs image labels {expected}, got {tuple(labels.shape)}"
            )
        options: dict[str, Any] = {"label_smoothing": label_smoothing} if label_smoothing else {}
        labels, weights = kind.loss_inputs(labels, class_weights)
        return loss(output, labels, **options, **weights)

    def decode(self, output: Tensor, *, score_threshold: float = 0.0) -> Tensor:
        """Compute probabilities.

        Args:
            output: logits of `forward`.
            score_threshold: ignored: a classifier has no detections to drop.

        Returns:
            ``(B, K) float32`` in [0, 1]; each row sums to 1, except for ``"multilabel"``.
        """
        return OUTPUTS[self.output].probabilities(output.float())

    def evidence(self, output: Tensor, label: int, box: Tensor | None = None) -> Tensor:
        """Return how much speaks for a class: its logit, which `explain` traces back to the image.

        Args:
            output: logits of `forward`.
            label: the class id.
            box: not used.

        Returns:
            ``(B,)``.
        """
        logits = output if output.shape[1] > 1 or self.output != "sigmoid" else torch.cat([-output, output], 1)
        return logits[:, label]
