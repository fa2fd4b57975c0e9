"""Registries: a part is added by one decorated definition, and found by its name.

The library's own parts are imported at the first look-up, then those of installed packages that declare the
entry-point group ``hccvision.plugins`` (each entry names a module that registers on import).
"""

from __future__ import annotations

import copy
import difflib
import importlib
import warnings
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=Callable[..., Any])

PLUGIN_GROUP = "hccvision.plugins"


class Registry(Generic[T]):
    """Names for builders of one kind.

    Args:
        kind: what is registered, for messages: ``"backbone"``.
        home: the modules whose import registers the library's own parts.

    Example:
        >>> shapes = Registry("shape")
        >>> @shapes.register("square")
        ... def square(side: float = 1.0) -> float:
        ...     return side * side
        >>> shapes.build("square", side=3.0)
        9.0
        >>> shapes.build("sqare")
        Traceback (most recent call last):
        ...
        KeyError: "unknown shape 'sqare'; did you mean 'square'? Known: square"
    """

    _plugins_loaded = False

    def __init__(self, kind: str, home: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self._home = home
        self._home_loaded = False
        self._builders: dict[str, T] = {}
        self._tags: dict[str, dict[str, str]] = {}

    def register(self, name: str, **tags: str) -> Callable[[T], T]:
        """Add a builder under a name, as a decorator.

        Args:
            name: to be found by.
            tags: plain facts to select by, such as ``task="detection"``.

        Returns:
            The decorator, which gives the builder back unchanged.

        Raises:
            ValueError: if the name is taken.
        """

        def add(builder: T) -> T:
            self._load_home()  # so that a name of the library's own is refused here, not found taken later
            taken = self._builders.get(name)
            if taken is not None:
                raise ValueError(
                    f"the {self.kind} name {name!r} is taken by {taken.__module__}.{taken.__qualname__}; "
                    "register yours under another name"
                )
            self._builders[name] = builder
            self._tags[name] = tags
            return builder

        return add

    def names(self, **tags: str) -> list[str]:
        """List what is registered, in alphabetical order.

        Args:
            tags: only those registered with these, such as ``task="detection"``.

        Returns:
            The names.
        """
        self._load()
        return sorted(n for n, t in self._tags.items() if all(t.get(k) == v for k, v in tags.items()))

    def get(self, name: str) -> T:
        """Look a builder up.

        Args:
            name: as registered.

        Returns:
            The builder itself.

        Raises:
            KeyError: if the name is unknown; the message lists the known ones and the nearest.
        """
        self._load()
        if name not in self._builders:
            near = difflib.get_close_matches(str(name), self._builders, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise KeyError(f"unknown {self.kind} {name!r}; {hint}Known: {', '.join(sorted(self._builders)) or 'none'}")
        return self._builders[name]

    def tags(self, name: str) -> dict[str, str]:
        """Give the tags a name was registered with.

        Args:
            name: as registered.

        Returns:
            A copy of the tags.
        """
        self.get(name)
        return dict(self._tags[name])

    def build(self, name: str, *args: Any, **options: Any) -> Any:
        """Build a part by name.

        The part remembers ``built_from = (name, options)`` where it can, so that a model file can name it.

        Args:
            name: as registered.
            args: passed on to the builder.
            options: passed on to the builder.

        Returns:
            What the builder returns.
        """
        part = self.get(name)(*args, **options)
        if hasattr(part, "__dict__"):
            part.built_from = (name, copy.deepcopy(options))
        return part

    def __contains__(self, name: str) -> bool:
        self._load()
        return name in self._builders

    def _load_home(self) -> None:
        if self._home_loaded:
            return
        self._home_loaded = True  # while they load, these modules register
        try:
            for module in self._home:
                importlib.import_module(module)
        except BaseException:
            self._home_loaded = False
            raise

    def _load(self) -> None:
        self._load_home()
        if not Registry._plugins_loaded:
            Registry._plugins_loaded = True
            for entry in entry_points(group=PLUGIN_GROUP):
                try:
                    entry.load()
                except Exception as error:  # a broken plug-in must not take the library down
                    warnings.warn(f"the plug-in {entry.name!r} ({entry.value}) failed to load: {error}", stacklevel=3)


BACKBONES: Registry[Callable[..., Any]] = Registry("backbone", ("hccvision.backbones",))
HEADS: Registry[Callable[..., Any]] = Registry("head", ("hccvision.heads",))
AUGMENTATIONS: Registry[Callable[..., Any]] = Registry("augmentation", ("hccvision.augment",))
METRICS: Registry[Callable[..., dict[str, float]]] = Registry("metric", ("hccvision.metrics",))
