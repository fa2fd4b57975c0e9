"""Settings of a model file: data of unknown origin until they are checked."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

from hccvision.documents import MAX_LENGTH, is_name, is_number, kind_of, parse_document
from hccvision.images.placement import POLICIES
from hccvision.images.window import DEFAULT_WINDOW, Window
from hccvision.registry import BACKBONES, HEADS, NECKS
from hccvision.weights.input_channels import require_normalisation

FILE_FORMAT = 1
MAX_TEXT = 10_000_000  # characters of all settings
MAX_NUMBER = 2**53  # of an option of a part
MAX_SIDE = 4096  # pixels
MAX_PIXELS = 2048 * 2048
MAX_CHANNELS = 1000
MAX_CLASSES = 10_000
MAX_VALUES = 2**27  # of an image, all channels
REGISTRIES = {"backbone": BACKBONES, "neck": NECKS, "head": HEADS}


def parse_settings(text: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Parse and check the settings of a model file.

    Args:
        text: in JSON.
        path: of the file, for messages.

    Returns:
        The settings; keys that this version doesn't know are kept as they are.

    Raises:
        ValueError: if they aren't those of a model of this version, or out of bounds; the message names the file.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"{path}: expected settings of at most {MAX_TEXT} characters, got {len(text)}")
    settings = parse_document(text, path)
    if settings.get("format") is True or settings.get("format") != FILE_FORMAT:
        raise ValueError(
            f"{path}: a model file of format {kind_of(settings.get('format'))}, and this version of hccvision reads "
            f"{FILE_FORMAT}: update hccvision"
        )
    settings = {"window": dataclasses.asdict(DEFAULT_WINDOW), "weights": None, **settings}  # early files lack these
    for name, check in _CHECKS.items():
        try:
            check(settings.get(name))
        except ValueError as error:
            raise ValueError(f"{path}: its {name}: {error}") from error
    backbone, (height, width) = settings["backbone"], settings["image_size"]
    channels = backbone[1].get("in_channels", 3) if isinstance(backbone, list) else 3
    if channels * height * width > MAX_VALUES:
        raise ValueError(f"{path}: its images have {channels} channels of {height} by {width} pixels: too large to try")
    if settings["positive"] not in settings["classes"]:
        raise ValueError(f"{path}: its positive: {kind_of(settings['positive'])} is not among its classes")
    return settings


def check_saved_options(kind: str, part: Any) -> None:
    """Raise for a part that a file names with options that only its user may give, such as a place on the network.

    A builder states these as ``check_saved``, see `contracts.Backbone`.

    Args:
        kind: ``"backbone"``, ``"neck"`` or ``"head"``.
        part: its entry in the settings.

    Raises:
        ValueError: as the builder's ``check_saved``.
    """
    if not isinstance(part, list) or part[0] not in REGISTRIES[kind]:
        return
    check = getattr(REGISTRIES[kind].get(part[0]), "check_saved", None)
    if check is not None:
        check(part[1])


def _part(value: Any) -> None:
    match value:
        case {"object": str(name)} if is_name(name):
            return
        case [str(name), dict(options)] if is_name(name):
            for option in _leaves(options):
                if isinstance(option, str) and len(option) > MAX_LENGTH:
                    raise ValueError(f"an option is a text of {len(option)} characters, more than {MAX_LENGTH}")
                if isinstance(option, int) and abs(option) > MAX_NUMBER:
                    raise ValueError(f"an option is {kind_of(option)}, more than {MAX_NUMBER}")
            channels = options.get("in_channels", 3)
            if type(channels) is not int or not 1 <= channels <= MAX_CHANNELS:
                raise ValueError(f"expected 1 to {MAX_CHANNELS} in_channels, got {kind_of(channels)}")
        case _:
            raise ValueError(f'expected ["name", {{options}}] or {{"object": "name"}}, got {kind_of(value)}')


def _optional_part(value: Any) -> None:
    if value is not None:
        _part(value)


def _classes(value: Any) -> None:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_CLASSES or not all(map(is_name, value)):
        raise ValueError(
            f"expected 1 to {MAX_CLASSES} names of at most {MAX_LENGTH} characters, got {kind_of(value)}"
            + (f" of {len(value)}" if isinstance(value, list) else "")
        )
    if len(set(value)) != len(value):
        raise ValueError("expected different names, got one of them twice")


def _positive(value: Any) -> None:
    if not is_name(value):
        raise ValueError(f"expected a name, got {kind_of(value)}")


def _image_size(value: Any) -> None:
    match value:
        case [int(height), int(width)] if not isinstance(height, bool) and not isinstance(width, bool):
            if min(height, width) >= 1 and max(height, width) <= MAX_SIDE and height * width <= MAX_PIXELS:
                return
    raise ValueError(
        f"expected [height, width] of 1 to {MAX_SIDE} pixels each and at most {MAX_PIXELS} together, got {value!s:.60}"
    )


def _resize(value: Any) -> None:
    if not isinstance(value, str) or value not in POLICIES:
        raise ValueError(f"expected one of {', '.join(POLICIES)}, got {kind_of(value)}")


def _window(value: Any) -> None:
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise ValueError(f"expected an object with a kind, got {kind_of(value)}")
    for bound in (value.get("low"), value.get("high")):
        if bound is not None and not is_number(bound):
            raise ValueError(f"expected a finite number or null as bound, got {kind_of(bound)}")
    window_of(value)


def window_of(saved: dict[str, Any]) -> Window:
    """Return the window of settings.

    Args:
        saved: its kind and bounds; other keys are ignored.

    Returns:
        The window.

    Raises:
        ValueError: as `Window`.
    """
    return Window(saved["kind"], saved.get("low"), saved.get("high"))


def _per_channel(value: Any) -> None:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_CHANNELS or not all(map(is_number, value)):
        raise ValueError(f"expected a list of 1 to {MAX_CHANNELS} finite numbers, got {value!s:.60}")


def _mean(value: Any) -> None:
    _per_channel(value)
    require_normalisation([float(v) for v in value], [1.0] * len(value))


def _std(value: Any) -> None:
    _per_channel(value)
    require_normalisation([0.0] * len(value), [float(v) for v in value])


def _weights(value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, dict) or not all(text in (None, "") or is_name(text) for text in value.values()):
        raise ValueError(f"expected null or an object of texts of at most {MAX_LENGTH} characters")


def _leaves(value: Any) -> Iterator[Any]:
    items = value.values() if isinstance(value, dict) else value
    for item in items:
        if isinstance(item, (dict, list)):
            yield from _leaves(item)
        else:
            yield item


_CHECKS: dict[str, Callable[[Any], None]] = {
    "backbone": _part,
    "neck": _optional_part,
    "head": _part,
    "classes": _classes,
    "positive": _positive,
    "image_size": _image_size,
    "resize": _resize,
    "window": _window,
    "mean": _mean,
    "std": _std,
    "weights": _weights,
}
