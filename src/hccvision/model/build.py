"""Models from parts: by name, from objects, and from files."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hccvision.contracts.parts import Head
from hccvision.files import file_sha256
from hccvision.finite import first_not_finite
from hccvision.generators import borrowed_generators
from hccvision.images.window import DEFAULT_WINDOW, Window
from hccvision.model.features import features_of
from hccvision.model.file import read_settings, saved_settings
from hccvision.model.model import Model, class_names
from hccvision.model.settings import REGISTRIES, check_saved_options, window_of
from hccvision.registry import BACKBONES, HEADS, NECKS
from hccvision.weights.formats import HCCVISION, recognise
from hccvision.weights.hub import hub_preprocessing, hub_tensors
from hccvision.weights.input_channels import preprocessing
from hccvision.weights.loading import load_head, load_into
from hccvision.weights.reading import fingerprint, read_tensors
from hccvision.weights.report import WeightReport
from hccvision.weights.wrapping import unprefixed

SPARE_PARAMETERS = 10_000_000  # of parts that are built and replaced


@dataclass(frozen=True)
class ModelOptions:
    """Further options of `build_model`.

    Args:
        backbone_options: of a backbone given by name, such as ``{"width": 0.25, "in_channels": 1}``.
        neck_options: of a neck given by name.
        head_options: of a head given by name, such as ``{"default_boxes": "lesion"}``.
        weight_options: of `load_into`: ``{"channel_rule": "mean"}`` for a first convolution with another number of
            channels, ``{"channel_order": "bgr"}`` for weights trained on BGR images whose file doesn't show it.
        window: how grey levels of any depth are mapped to 8 bits, in training and in prediction, such as
            ``hv.images.Window("fixed", 0, 1500)``; None: that of a model file of hccvision given as weights, else the
            image file's own way.
        seed: of the random weights; torch's global generator is left alone.
    """

    backbone_options: Mapping[str, Any] | None = None
    neck_options: Mapping[str, Any] | None = None
    head_options: Mapping[str, Any] | None = None
    weight_options: Mapping[str, Any] | None = None
    window: Window | None = None
    seed: int = 0


def build_model(
    backbone: str | nn.Module,
    head: Any,
    *,
    neck: Any = None,
    classes: Sequence[str],
    weights: str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    resize: str = "stretch",
    positive: str | None = None,
    **options: Any,
) -> Model:
    """Build a model from parts, each given by its registered name or as an object.

    Args:
        backbone: a name in ``BACKBONES``, or a backbone of your own.
        head: a name in ``HEADS``, such as ``"linear"`` or ``"ssd"``, or a head of your own, built for the maps of
            `features_of`.
        neck: a name in ``NECKS``, or a neck of your own; None: none.
        classes: names, in the order of the class ids.
        weights: a file, ``"imagenet"`` or ``"timm:<model>.<tag>"`` (timm's hub; downloaded if not cached), or None for
            random weights. Mean, std, channel order and activation come with them; with a model file of hccvision, all
            options of its backbone. A file of a whole detector or model fills the head too, where shapes agree.
        image_size: side or ``(height, width)`` in pixels; None: the head's own, 224 to classify, 300 to detect.
        resize: ``"stretch"`` (the paper's) or ``"letterbox"``.
        positive: the class that means disease; None: the last one.
        options: see `ModelOptions`: ``backbone_options``, ``neck_options``, ``head_options``, ``weight_options``,
            ``window`` and ``seed``.

    Returns:
        The model, in training mode; ``model.weight_report`` says what was loaded, and ``model.weights``, which is
        saved with it, where from.

    Raises:
        KeyError: for an unknown name; the message lists the known ones.
        ValueError: for settings or weights that don't fit.
        TypeError: for an unknown option, options of a part given as an object, or a part that lacks what it must have.
        RuntimeError: if the hub can't be reached.

    Example:
        >>> model = build_model("mobilenet_v1", "linear", classes=["normal", "cancer"], head_options={"pool": "avg"})
        >>> model.task, model.positive, model.image_size
        ('classification', 'cancer', (224, 224))
    """
    names, more = class_names(classes), ModelOptions(**options)
    odd = [k for k in more.weight_options or {} if k not in ("channel_rule", "channel_order")]
    if odd or (more.weight_options and weights is None):
        raise ValueError(
            f"weight_options are channel_rule and channel_order, for weights that are given; got "
            f"{', '.join(map(repr, odd)) or 'them with weights=None'}"
        )
    with borrowed_generators(more.seed):
        source = _Source.open(weights)
        body = source.backbone(backbone, dict(more.backbone_options or {}))
        source.load(body, dict(more.weight_options or {}))
        mean, std = preprocessing(source.mean, source.std, getattr(body, "in_channels", 3))
        model = assemble(
            body,
            head,
            neck,
            head_options=more.head_options or {},
            neck_options=more.neck_options or {},
            settings={
                "classes": names,
                "image_size": image_size,
                "resize": resize,
                "positive": positive,
                "mean": mean,
                "std": std,
                "window": more.window or source.window or DEFAULT_WINDOW,
            },
        )
        source.load_head(model)
    return model


def assemble(
    backbone: nn.Module,
    head: Any,
    neck: Any = None,
    *,
    head_options: Mapping[str, Any],
    neck_options: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Model:
    """Build neck and head for the maps of a backbone and put all three together.

    Args:
        backbone: a module.
        head: a name, or a head built for these maps.
        neck: a name, a neck, or None.
        head_options: of a head given by name.
        neck_options: of a neck given by name.
        settings: other arguments of `Model`; an ``image_size`` of None stands for the head's own.

    Returns:
        The model.

    Raises:
        TypeError: if the head lacks what a head must have.
        ValueError: as `features_of`.
    """
    size = settings["image_size"]
    if size is None:
        size = getattr(HEADS.get(head) if isinstance(head, str) else head, "default_image_size", (224, 224))
    size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    features = features_of(backbone, size)
    between = None if neck is None else NECKS.resolve(neck, features, **neck_options)
    if between is not None:
        features = features_of(backbone, size, neck=between)
    part = HEADS.resolve(head, features, len(settings["classes"]), **head_options)
    if not isinstance(part, Head):
        missing = [name for name in ("task", "loss", "decode") if not hasattr(part, name)]
        raise TypeError(
            f"a head has a task, a loss and a decode; {type(part).__name__} lacks {', '.join(missing) or '__call__'}: "
            "see hccvision.contracts.Head"
        )
    assert isinstance(part, nn.Module)
    return Model(backbone, part, neck=between, **{**settings, "image_size": size})


def load_model(
    path: str | os.PathLike[str],
    *,
    backbone: nn.Module | None = None,
    neck: nn.Module | None = None,
    head: nn.Module | None = None,
) -> Model:
    """Load a model as it was saved, on the CPU and in evaluation mode.

    Args:
        path: a file that `Model.save` wrote.
        backbone: for a file whose backbone was given as an object: an object of the same kind.
        neck: likewise.
        head: likewise.

    Returns:
        The model: same classes, image size, resize policy, window and preprocessing, so prediction can't differ from
        training.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it isn't a model file of hccvision, its tensors don't fit, or it needs a part that was not given.
        UnknownPart: a ValueError, if it names a part that isn't registered here.
    """
    settings = read_settings(path)
    parts: dict[str, Any] = {}
    part_options: dict[str, Mapping[str, Any]] = {}
    for kind, given in (("backbone", backbone), ("neck", neck), ("head", head)):
        parts[kind], part_options[kind] = _saved_part(path, kind, settings.get(kind), given)
    names = ("classes", "resize", "mean", "std", "positive")
    tensors = read_tensors(path)
    with borrowed_generators(0), _as_large_as(tensors):
        try:
            model = assemble(
                BACKBONES.resolve(parts["backbone"], **part_options["backbone"]),
                parts["head"],
                parts["neck"],
                head_options=part_options["head"],
                neck_options=part_options["neck"],
                settings={
                    **{name: settings[name] for name in names},
                    "image_size": tuple(settings["image_size"]),
                    "window": window_of(settings["window"]),
                },
            )
        except Exception as error:  # whatever a builder raises for the options of a file
            raise ValueError(f"{path}: no model can be built from its settings: {error}") from error
    model.weights = settings["weights"]
    own = model.state_dict()
    odd = first_not_finite((k, v.to(own[k].dtype)) for k, v in tensors.items() if k in own)
    if odd is not None:
        raise ValueError(f"{path}: the tensor {odd} holds infinite numbers or NaN: use another file")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path}: its tensors don't fit the parts that it names: {error}") from error
    return model.eval()


@contextmanager
def _as_large_as(tensors: Mapping[str, Tensor], path: str = "") -> Iterator[None]:
    """Refuse to build parts far larger than the tensors that they are for, before their memory is written to."""
    thread, most = threading.get_ident(), 2 * sum(t.numel() for t in tensors.values()) + SPARE_PARAMETERS
    built = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal built
        built += parameter.numel() if threading.get_ident() == thread else 0
        if built > most:
            raise ValueError(f"{path}its parts have {built:,} parameters or more, and its tensors not half as many")

    hook = nn.modules.module.register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


class UnknownPart(ValueError, KeyError):
    """A file names a part that isn't registered here."""

    __str__ = Exception.__str__


def _saved_part(
    path: str | os.PathLike[str], kind: str, saved: Any, given: nn.Module | None
) -> tuple[Any, Mapping[str, Any]]:
    """Return a part of a saved model, by name or as the object that was given, and its options."""
    if given is not None:
        return given, {}
    if isinstance(saved, dict):
        raise ValueError(
            f"{path}: its {kind} was given as an object of {saved['object']}, which a file can't name: build one and "
            f"load with load_model({str(path)!r}, {kind}=…), or register it and build it by name"
        )
    if saved is None:
        return None, {}
    try:
        REGISTRIES[kind].get(saved[0])
    except KeyError as error:
        raise UnknownPart(f"{path}: {error.args[0]}") from error
    _check_saved(path, kind, saved)
    return saved[0], saved[1]


def _check_saved(path: str | os.PathLike[str], kind: str, saved: Any) -> None:
    try:
        check_saved_options(kind, saved)
    except ValueError as error:
        raise ValueError(
            f"{path}: its {kind}: {error}; if you trust it, build that {kind} yourself and load with "
            f"load_model({str(path)!r}, {kind}=…)"
        ) from error


@dataclass
class _Source:
    """Where the weights of a new model come from, and what they say about their use."""

    weights: str | None = None
    tensors: dict[str, Tensor] | None = None
    saved: dict[str, Any] | None = None
    window: Window | None = None
    mean: Sequence[float] = (0.5,)
    std: Sequence[float] = (0.5,)
    report: WeightReport | None = field(default=None)

    @classmethod
    def open(cls, weights: str | os.PathLike[str] | None) -> _Source:
        if weights is None or str(weights) == "imagenet" or str(weights).startswith("timm:"):
            return cls(None if weights is None else str(weights))
        return cls(str(weights), read_tensors(weights), saved_settings(weights))

    def backbone(self, backbone: str | nn.Module, options: dict[str, Any]) -> nn.Module:
        """Build the backbone that the weights are for."""
        limit: AbstractContextManager[None] = nullcontext()
        if isinstance(backbone, str):
            formats = getattr(BACKBONES.get(backbone), "formats", ())
            if self.saved is not None:
                own = self.saved["backbone"]
                if isinstance(own, list) and own[0] == backbone:
                    saved = {key: value for key, value in own[1].items() if key not in options}
                    _check_saved(str(self.weights), "backbone", [backbone, saved])
                    options = {**saved, **options}
                    limit = _as_large_as(self.tensors or {}, f"{self.weights}: ")
            elif self.tensors is not None and formats:
                self.tensors = unprefixed(self.tensors, formats, _keys(backbone, options))
                options = {**recognise(self.tensors, formats, str(self.weights)).options, **options}
        with limit:
            body: nn.Module = BACKBONES.resolve(backbone, **options)
        self.mean, self.std = getattr(body, "mean", (0.5,)), getattr(body, "std", (0.5,))
        return body

    def load(self, body: nn.Module, options: dict[str, Any]) -> None:
        """Load the weights into the backbone, with the preprocessing that belongs to them."""
        if self.weights is None:
            return
        source, tag = self.weights, ""
        if self.tensors is None:
            source = tag = _hub_tag(self.weights, body)
            self.tensors = hub_tensors(tag, **getattr(body, "hub_options", {}))
        if self.saved is None:
            self.tensors = unprefixed(self.tensors, getattr(body, "formats", ()), body.state_dict())
        fmt = HCCVISION if self.saved else recognise(self.tensors, getattr(body, "formats", ()), source)
        if self.saved is not None:
            self.mean, self.std = self.saved["mean"], self.saved["std"]
            self.window = window_of(self.saved["window"])
        elif fmt is HCCVISION:
            raise ValueError(
                f"{self.weights}: it has the tensors of a model of hccvision without its settings: pass the file that "
                "model.save wrote"
            )
        else:
            self.mean, self.std = hub_preprocessing(tag) if tag else (fmt.mean, fmt.std)
        fmt = dataclasses.replace(fmt, mean=tuple(self.mean), std=tuple(self.std))
        report = load_into(body, self.tensors, fmt, source, **options)
        digest = fingerprint(self.tensors) if tag else file_sha256(Path(source))
        self.report = dataclasses.replace(report, sha256=digest)

    def load_head(self, model: Model) -> None:
        """Load what the weights hold of the head, and note in the model where they come from."""
        if self.report is None:
            return
        assert self.tensors is not None
        model.weight_report = report = load_head(model.head, self.tensors, self.report)
        model.weights = {"source": Path(report.source).name, "format": report.format, "sha256": report.sha256}


def _keys(backbone: str, options: Mapping[str, Any]) -> Container[str]:
    """Return the keys of a backbone's tensors, without making these."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        body: nn.Module = BACKBONES.build(backbone, **options)
    return body.state_dict().keys()


def _hub_tag(weights: str, backbone: nn.Module) -> str:
    if weights.startswith("timm:"):
        return weights.removeprefix("timm:")
    tag = getattr(backbone, "hub", None)
    if tag is None:
        raise ValueError(
            f"{type(backbone).__name__} states no hub tag, so it has no ImageNet weights there; pass weights="
            "'timm:<model>.<tag>', a path, or None"
        )
    return str(tag)
