"""A model: a backbone and a head with all that is needed to use them right, in one object and one file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hccvision.contracts import Backbone, FeatureSpec, Head, Targets
from hccvision.images import DEFAULT_WINDOW, POLICIES, Window
from hccvision.registry import BACKBONES, HEADS
from hccvision.weights import (
    HCCVISION,
    WeightReport,
    file_sha256,
    fingerprint,
    hub_preprocessing,
    hub_tensors,
    load_head,
    load_into,
    preprocessing,
    read_tensors,
    recognise,
)

FILE_FORMAT = 1


class Model(nn.Module):
    """Normalisation, backbone and head in a row; `forward` gives the raw output.

    Args:
        backbone: gives the feature maps.
        head: built for that backbone at this image size.
        classes: names, in the order of the class ids.
        image_size: ``(height, width)`` of the input in pixels.
        resize: ``"stretch"`` or ``"letterbox"``, how images come to that size.
        mean: per channel, of images in [0, 1].
        std: per channel, of images in [0, 1].
        positive: the class that means disease; None: the last one.
        window: how grey levels of any depth come to 8 bits.

    Raises:
        ValueError: for class names that are empty or twice there, a ``positive`` that isn't among them, or an unknown
            resize policy.
        TypeError: if the window is none.

    Example:
        >>> model = build_model("mobilenet_v1", "ssd", classes=["tumor"], backbone_options={"width": 0.25})
        >>> model.eval()(torch.zeros(1, 3, 300, 300)).offsets.shape
        torch.Size([1, 3000, 4])
    """

    mean: Tensor
    std: Tensor
    head: Any  # a Head and a torch.nn.Module; Python has no type for both

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        classes: Sequence[str],
        image_size: tuple[int, int],
        resize: str = "stretch",
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.5,),
        positive: str | None = None,
        window: Window = DEFAULT_WINDOW,
    ) -> None:
        super().__init__()
        self.classes = _class_names(classes)
        self.positive = self.classes[-1] if positive is None else positive
        if self.positive not in self.classes:
            raise ValueError(f"the positive class {positive!r} is not among the classes {', '.join(self.classes)}")
        if resize not in POLICIES:
            raise ValueError(f"unknown resize policy {resize!r}; known: {', '.join(POLICIES)}")
        if not isinstance(window, Window):
            raise TypeError(f"window is an images.Window, got {window!r}: write hv.images.Window(kind, low, high)")
        self.backbone = backbone
        self.head = head
        self.window = window
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.resize = resize
        self.weight_report: WeightReport | None = None
        self.weights: dict[str, str] | None = None
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, -1, 1, 1), persistent=False)

    @property
    def task(self) -> str:
        """``"classification"`` or ``"detection"``, as the head says."""
        return str(self.head.task)

    @property
    def multilabel(self) -> bool:
        """Whether it classifies and an image may show several classes, or none, as the head says."""
        return bool(getattr(self.head, "multilabel", False))

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return int(getattr(self.backbone, "in_channels", 3))

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.mean.device

    def forward(self, images: Tensor) -> Any:
        """Compute the raw output.

        Args:
            images: ``(B, C, H, W) float`` in [0, 1], of the model's image size.

        Returns:
            What the head gives: logits ``(B, K)``, or an `SSDOutput`.

        Raises:
            ValueError: for images of another shape.
        """
        return self.head(self.maps(images))

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps, of which the head makes the raw output.

        Args:
            images: as for `forward`.

        Returns:
            The backbone's maps.

        Raises:
            ValueError: for images of another shape.
        """
        expected = (self.in_channels, *self.image_size)
        if images.dim() != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"expected images (B, {', '.join(map(str, expected))}), got {tuple(images.shape)}; hv.predict resizes"
            )
        return self.backbone((images - self.mean) / self.std)

    def loss(self, output: Any, targets: Targets, *, name: str | None = None, **options: Any) -> dict[str, Tensor]:
        """Score a raw output.

        Args:
            output: of `forward`.
            targets: in pixels of the model's input.
            name: of one of the head's losses; None: its own default.
            options: of the head's ``loss``, such as ``label_smoothing``.

        Returns:
            ``loss`` and its parts, scalars.
        """
        return self.head.loss(output, targets, name=name, **options)

    def decode(self, output: Any, **options: Any) -> Any:
        """Read a raw output.

        Args:
            output: of `forward`.
            options: of the head's ``decode``, such as ``score_threshold``.

        Returns:
            ``(B, K)`` probabilities, or a list of `Detections` in pixels of the model's input.
        """
        return self.head.decode(output, **options)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the weights and all the settings to one safetensors file.

        Args:
            path: where to; an older file there is replaced once the new one is complete.

        Returns:
            The path.

        Raises:
            ValueError: if a part was not built by its registered name, so that the file could not name it.
        """
        from safetensors.torch import save

        settings = json.dumps(self.settings(), default=dataclasses.asdict)
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            partial.write_bytes(save(tensors, {"hccvision": settings}))
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    def settings(self) -> dict[str, Any]:
        """Give all that a file must say besides the weights.

        Returns:
            Plain values, ready for JSON but for a set of default boxes given as data.

        Raises:
            ValueError: if a part was not built by its registered name, so that the file could not name it.
        """
        parts = {}
        for kind in ("backbone", "head"):
            part: Any = getattr(self, kind)
            if not hasattr(part, "built_from"):
                raise ValueError(
                    f"this {kind}, a {type(part).__name__}, was not built by name, so a file could not say how to "
                    f"build it again: register it, and build it with hv.{kind.upper()}S.build(name, …)"
                )
            parts[kind] = [*part.built_from]
        return {
            "format": FILE_FORMAT,
            **parts,
            "classes": list(self.classes),
            "positive": self.positive,
            "image_size": list(self.image_size),
            "resize": self.resize,
            "window": dataclasses.asdict(self.window),
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "weights": self.weights,
        }


def _class_names(classes: Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, str):
        raise ValueError(f"classes is a list of names, got the string {classes!r}; write [{classes!r}]")
    names = tuple(classes)
    if not names or any(not isinstance(n, str) or not n for n in names) or len(set(names)) != len(names):
        raise ValueError(f"classes must be different, non-empty names, got {list(names)}")
    return names


def _assemble(
    backbone: nn.Module,
    head: str,
    head_options: Mapping[str, Any],
    *,
    classes: tuple[str, ...],
    image_size: tuple[int, int],
    **settings: Any,
) -> Model:
    """Build the head from the maps of one dry forward, and put both together."""
    if not isinstance(backbone, Backbone):
        raise TypeError(f"a backbone states its channels and strides; {type(backbone).__name__} doesn't")
    training = backbone.training
    with torch.no_grad():
        probe = torch.zeros(1, getattr(backbone, "in_channels", 3), *image_size)
        try:
            maps = backbone.eval()(probe)
        except Exception as error:
            raise ValueError(f"this backbone can't take images of {image_size} pixels: {error}") from error
    backbone.train(training)
    features = FeatureSpec(
        tuple(m.shape[1] for m in maps),
        tuple(backbone.strides),
        tuple((m.shape[2], m.shape[3]) for m in maps),
        image_size,
    )
    if features.channels != tuple(backbone.channels) or len(features.strides) != len(features.channels):
        raise ValueError(
            f"{type(backbone).__name__} states maps of {tuple(backbone.channels)} channels at strides "
            f"{features.strides}, and gives maps of {features.channels} channels"
        )
    part = HEADS.build(head, features, len(classes), **head_options)
    if not isinstance(part, Head):
        raise TypeError(f"a head has a task, a loss and a decode; {type(part).__name__} doesn't")
    assert isinstance(part, nn.Module)
    return Model(backbone, part, classes=classes, image_size=image_size, **settings)


def build_model(
    backbone: str | nn.Module,
    head: str,
    *,
    classes: Sequence[str],
    weights: str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    resize: str = "stretch",
    positive: str | None = None,
    window: Window | None = None,
    backbone_options: Mapping[str, Any] | None = None,
    head_options: Mapping[str, Any] | None = None,
    weight_options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Model:
    """Build a model from registered parts.

    Args:
        backbone: a registered name, or a backbone of your own.
        head: a registered name: ``"linear"`` or ``"ssd"``.
        classes: names, in the order of the class ids.
        weights: a file, ``"imagenet"`` or ``"timm:<model>.<tag>"`` (timm's hub; downloads if need be), or None for
            random ones. Mean, std, channel order and activation come with them; with a model file of hccvision, all
            options of its backbone. A file of a whole detector or model fills the head too, where shapes agree.
        image_size: side or ``(height, width)`` in pixels; None: the head's own, 224 to classify, 300 to detect.
        resize: ``"stretch"`` (the paper's) or ``"letterbox"``.
        positive: the class that means disease; None: the last one.
        window: how grey levels of any depth come to 8 bits, in training and in prediction, such as
            ``hv.images.Window("fixed", 0, 1500)``; None: that of a model file of hccvision given as weights, else the
            file's own way.
        backbone_options: such as ``{"width": 0.25, "in_channels": 1}``.
        head_options: such as ``{"default_boxes": "lesion"}``.
        weight_options: of `load_into`: ``{"channel_rule": "mean"}`` for a first convolution of other channels,
            ``{"channel_order": "bgr"}`` for weights that were trained so and whose file doesn't show it.
        seed: of the random weights; torch's global generator is left alone.

    Returns:
        The model, in training mode; ``model.weight_report`` says what was loaded, and ``model.weights``, which is
        saved with it, where from.

    Raises:
        KeyError: for an unknown name; the message lists the known ones.
        ValueError: for settings or weights that don't fit.
        RuntimeError: if the hub can't be reached.

    Example:
        >>> model = build_model("mobilenet_v1", "linear", classes=["normal", "cancer"], head_options={"pool": "avg"})
        >>> model.task, model.positive, model.image_size
        ('classification', 'cancer', (224, 224))
    """
    names = _class_names(classes)
    options = dict(backbone_options or {})
    odd = [k for k in weight_options or {} if k not in ("channel_rule", "channel_order")]
    if odd or (weight_options and weights is None):
        raise ValueError(
            f"weight_options are channel_rule and channel_order, for weights that are given; got "
            f"{', '.join(map(repr, odd)) or 'them with weights=None'}"
        )
    if image_size is None:
        image_size = getattr(HEADS.get(head), "default_image_size", (224, 224))
    elif isinstance(image_size, int):
        image_size = (image_size, image_size)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        tensors = saved = None
        hub = str(weights) == "imagenet" or str(weights).startswith("timm:")
        if weights is not None and not hub:
            tensors, saved = read_tensors(weights), _saved_settings(weights)
        if isinstance(backbone, nn.Module):
            body = backbone
        else:
            formats = getattr(BACKBONES.get(backbone), "formats", ())
            if saved is not None:
                options = {**(saved["backbone"][1] if saved["backbone"][0] == backbone else {}), **options}
            elif tensors is not None and formats:
                options = {**recognise(tensors, formats, str(weights)).options, **options}
            body = BACKBONES.build(backbone, **options)
        report = None
        mean, std = getattr(body, "mean", (0.5,)), getattr(body, "std", (0.5,))
        if weights is not None:
            source, tag = str(weights), ""
            if tensors is None:
                source = tag = _hub_tag(str(weights), body)
                tensors = hub_tensors(tag, **getattr(body, "hub_options", {}))
            fmt = HCCVISION if saved else recognise(tensors, getattr(body, "formats", ()), source)
            if saved is not None:
                mean, std = saved["mean"], saved["std"]
                window = window or Window(**saved["window"])
            elif fmt is HCCVISION:
                raise ValueError(
                    f"{weights}: it has the tensors of a model of hccvision without its settings: give the file that "
                    "model.save wrote"
                )
            else:
                mean, std = hub_preprocessing(tag) if tag else (fmt.mean, fmt.std)
            fmt = dataclasses.replace(fmt, mean=tuple(mean), std=tuple(std))
            report = load_into(body, tensors, fmt, source, **(weight_options or {}))
            report = dataclasses.replace(report, sha256=fingerprint(tensors) if tag else file_sha256(source))
        mean, std = preprocessing(mean, std, getattr(body, "in_channels", 3))
        model = _assemble(
            body, head, head_options or {}, classes=names, image_size=tuple(image_size), resize=resize,
            mean=mean, std=std, positive=positive, window=window or DEFAULT_WINDOW,
        )  # fmt: skip
        if report is not None:
            assert tensors is not None
            model.weight_report = report = load_head(model.head, tensors, report)
            model.weights = {"source": Path(report.source).name, "format": report.format, "sha256": report.sha256}
    return model


def _hub_tag(weights: str, backbone: nn.Module) -> str:
    if weights.startswith("timm:"):
        return weights.removeprefix("timm:")
    tag = getattr(backbone, "hub", None)
    if tag is None:
        raise ValueError(
            f"{type(backbone).__name__} states no hub tag, so it has no ImageNet weights there; give weights="
            "'timm:<model>.<tag>', a path, or None"
        )
    return str(tag)


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the settings of a model file.

    Args:
        path: a file that `Model.save` wrote.

    Returns:
        Names and options of the parts, classes, positive class, image size, resize policy, window, mean and std.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it isn't a model file of hccvision.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such model file")
    settings = _saved_settings(path)
    if settings is None:
        raise ValueError(
            f"{path}: not a model file of hccvision; to start from weights of other origin, give "
            f"build_model(…, weights={str(path)!r})"
        )
    return settings


def _saved_settings(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Give the settings in a model file, None for a file that isn't one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("hccvision")
    except SafetensorError:
        return None
    if text is None:
        return None
    settings: dict[str, Any] = json.loads(text)
    if settings.get("format") != FILE_FORMAT:
        raise ValueError(
            f"{path}: a model file of format {settings.get('format')}, and this version of hccvision reads "
            f"{FILE_FORMAT}: update hccvision"
        )
    return {"window": dataclasses.asdict(DEFAULT_WINDOW), **settings}  # older files have none


def load_model(path: str | os.PathLike[str]) -> Model:
    """Load a model as it was saved, on the CPU and in evaluation mode.

    Args:
        path: a file that `Model.save` wrote.

    Returns:
        The model: same classes, image size, resize policy, window and preprocessing, so prediction can't differ from
        training.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it isn't a model file of hccvision, or its tensors don't fit.
        KeyError: if it names a part that isn't registered here.
    """
    settings = read_settings(path)
    (backbone, backbone_options), (head, head_options) = settings["backbone"], settings["head"]
    with torch.random.fork_rng(devices=[]):
        model = _assemble(
            BACKBONES.build(backbone, **backbone_options),
            head,
            head_options,
            classes=tuple(settings["classes"]),
            image_size=tuple(settings["image_size"]),
            resize=settings["resize"],
            mean=settings["mean"],
            std=settings["std"],
            positive=settings["positive"],
            window=Window(**settings["window"]),
        )
    model.weights = settings.get("weights")
    try:
        model.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        raise ValueError(f"{path}: its tensors don't fit the parts that it names: {error}") from error
    return model.eval()
