"""Any timm model that returns feature maps, as a backbone."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from hccvision.registry import BACKBONES
from hccvision.weights.formats import WeightFormat
from hccvision.weights.hub import hub_preprocessing


@BACKBONES.register("timm")
class TimmBackbone(nn.Module):
    """A timm model as a backbone.

    Args:
        model_name: timm's name, with or without a tag: ``"resnet18"``, ``"convnext_tiny.fb_in22k"``.
        in_channels: 1, 3 or any other number.
        image_size: ``(height, width)``, for models built for a single size, such as vision transformers.
        maps: which of the model's maps, by timm's index; None: all of them.

    Raises:
        ValueError: if timm has no such model, or the model can't return feature maps.

    Example:
        >>> backbone = TimmBackbone(model_name="mobilenetv3_small_050")
        >>> backbone.strides
        (2, 4, 8, 16, 32)
    """

    def __init__(
        self,
        *,
        model_name: str = "resnet18",
        in_channels: int = 3,
        image_size: tuple[int, int] | None = None,
        maps: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        import timm

        options: dict[str, Any] = {} if image_size is None else {"img_size": tuple(image_size)}
        if maps is not None:
            options["out_indices"] = tuple(maps)
        try:
            body: Any = timm.create_model(model_name, features_only=True, in_chans=in_channels, **options)
        except Exception as error:
            near = difflib.get_close_matches(model_name.split(".")[0], timm.list_models(), n=5)
            raise ValueError(
                f"timm has no feature maps for model_name={model_name!r} ({error}); "
                f"{'similar names: ' + ', '.join(near) if near else 'see timm.list_models()'}"
            ) from error
        self.body = body
        self._checkpointing = False
        self.in_channels = in_channels
        self.channels = tuple(body.feature_info.channels())
        self.strides = tuple(body.feature_info.reduction())
        self.hub = model_name
        self.hub_options = {k: v for k, v in options.items() if k == "img_size"}
        self.mean, self.std = hub_preprocessing(model_name)
        own = frozenset(body.state_dict())

        def rename(key: str) -> str | None:  # features_only renames "stages.0" to "stages_0", or wraps the whole model
            names = (key, key.replace(".", "_", 1), f"model.{key}")
            return next((f"body.{name}" for name in names if name in own), None)

        self.formats = (WeightFormat("timm", rename, self.mean, self.std),)

    @staticmethod
    def check_saved(options: Mapping[str, Any]) -> None:
        """Raise for a model name that timm would fetch or look for in a folder: a file may only name timm's own models.

        Args:
            options: of a backbone in a model file.

        Raises:
            ValueError: for a name with a place, such as ``"hf-hub:…"`` or ``"local-dir:…"``.
        """
        name = options.get("model_name", "resnet18")
        if not isinstance(name, str) or re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?", name) is None:
            raise ValueError(
                f"expected the name of a model of timm, got model_name={str(name)[:200]!r}: a file may not say where "
                "to look for a model"
            )

    @property
    def checkpointing(self) -> bool:
        """Whether timm recomputes activations in the backward pass; batch-norm statistics then count a batch twice."""
        return self._checkpointing

    @checkpointing.setter
    def checkpointing(self, on: bool) -> None:
        self._checkpointing = on
        for module in self.body.children():  # older versions of timm checkpoint a stem's activation, too
            if getattr(module, "inplace", False) is True:
                module.inplace = False
        self.body.set_grad_checkpointing(on)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            images: ``(B, in_channels, H, W) float``, normalised.

        Returns:
            One map ``(B, channels[i], h, w)`` per stage.
        """
        maps = self.body(images)
        if getattr(self.body, "output_fmt", None) == "NHWC":  # such as Swin
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        return tuple(maps)
