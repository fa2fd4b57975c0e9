"""Registries: a part is added by one decorated definition and looked up by its name.

The library's own parts are imported at the first look-up, then those of installed packages that declare the
entry-point group ``hccvision.plugins`` (each entry names a module that registers on import).
"""

from __future__ import annotations

import copy
import difflib
import importlib
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=Callable[..., Any])

PLUGIN_GROUP = "hccvision.plugins"
_FAULTS: list[str] = []  # of plug-ins, to be said once


class _Once:
    """Run an action once in the process; other threads wait for its end, the thread that runs it passes through."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._owner: int | None = None
        self._done = False

    def run(self, action: Callable[[], None], *, wait: bool = True) -> None:
        """Run an action, or wait until another thread has; after a failure the next call runs it again."""
        if self._done:
            return
        with self._changed:
            while not self._done and self._owner not in (None, threading.get_ident()) and wait:
                self._changed.wait()
            if self._done or self._owner is not None:
                return
            self._owner = threading.get_ident()
        done = False
        try:
            action()
            done = True
        finally:
            with self._changed:
                self._owner, self._done = None, done
                self._changed.notify_all()


class Registry(Generic[T]):
    """Builders of one kind of part, by name.

    Args:
        kind: what is registered, for messages: ``"backbone"``.
        home: modules whose import registers the library's own parts.
        scope: a tag within which names are unique: with ``scope="task"`` one name may be registered for each task.
            None: names are unique.

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

    _plugins_loaded = _Once()

    def __init__(self, kind: str, home: tuple[str, ...] = (), *, scope: str | None = None) -> None:
        self.kind = kind
        self.scope = scope
        self._home = home
        self._home_loaded = _Once()
        self._builders: dict[str, T] = {}
        self._tags: dict[str, dict[str, Any]] = {}
        self._imports: dict[str, Any] = {}

    def register(self, name: str, **tags: Any) -> Callable[[T], T]:
        """Return a decorator that registers a builder.

        Args:
            name: name of the builder.
            tags: plain facts to select by, such as ``task="detection"``.

        Returns:
            The decorator, which returns the builder unchanged.

        Raises:
            ValueError: if the name is taken; but a definition that is run again in a notebook, or in a module that is
                imported again, replaces itself.
        """
        if not isinstance(name, str) or not name:
            raise TypeError(f'expected the name of a {self.kind}, got {name!r}: write @….register("name")')

        def add(builder: T) -> T:
            # Load, so that a name of the library's own is refused here. Waiting for another thread that loads could
            # deadlock: this one may hold the import lock of a module that the other imports.
            self._home_loaded.run(self._import_home, wait=False)
            key = self._key(name, tags.get(self.scope or ""))
            taken: Any = self._builders.get(key)
            if taken is not None and not _is_rerun(taken, builder, self._imports[key]):
                by = f"{taken.__module__}.{getattr(taken, '__qualname__', type(taken).__qualname__)}"
                raise ValueError(f"the {self.kind} name {name!r} is taken by {by}; register yours under another name")
            self._builders[key] = builder
            self._tags[key] = tags
            self._imports[key] = _import_of(builder)
            return builder

        return add

    def remove(self, name: str, **tags: Any) -> None:
        """Remove a builder.

        Args:
            name: a registered name.
            tags: as in `get`.

        Raises:
            KeyError: if the name is unknown.
        """
        key = self._find(name, tags)
        del self._builders[key], self._tags[key], self._imports[key]

    def names(self, **tags: Any) -> list[str]:
        """Return the registered names in alphabetical order.

        Args:
            tags: select those registered with these tags, such as ``task="detection"``.

        Returns:
            The names.
        """
        self._load()
        found = (key for key, own in self._tags.items() if all(own.get(k) == v for k, v in tags.items()))
        return sorted({self._name(key) for key in found})

    def get(self, name: str, **tags: Any) -> T:
        """Look up a builder.

        Args:
            name: a registered name.
            tags: in a registry with a scope, the tag that selects among entries of one name: ``task="detection"``.

        Returns:
            The builder.

        Raises:
            KeyError: if the name is unknown; the message lists the known ones and the nearest.
        """
        return self._builders[self._find(name, tags)]

    def tags(self, name: str, **tags: Any) -> dict[str, Any]:
        """Return the tags a name was registered with.

        Args:
            name: a registered name.
            tags: as in `get`.

        Returns:
            A copy of the tags.
        """
        return dict(self._tags[self._find(name, tags)])

    def build(self, name: str, *args: Any, **options: Any) -> Any:
        """Build a part by name.

        The part remembers ``built_from = (name, options)`` where it can, so that a model file can name it.

        Args:
            name: a registered name.
            args: passed to the builder.
            options: passed to the builder.

        Returns:
            What the builder returns.
        """
        part = self.get(name)(*args, **options)
        with suppress(AttributeError, TypeError):  # a frozen or built-in object can't remember it
            part.built_from = (name, copy.deepcopy(options))
        return part

    def resolve(self, part: Any, *args: Any, **options: Any) -> Any:
        """Build a part given by name; return anything else as it is.

        Args:
            part: a registered name, or the part itself.
            args: passed to the builder.
            options: passed to the builder.

        Returns:
            The part.

        Raises:
            TypeError: for options beside a part that is built already.

        Example:
            >>> shapes = Registry("shape")
            >>> _ = shapes.register("square")(lambda side=1.0: side * side)
            >>> shapes.resolve("square", side=2.0), shapes.resolve(7.0)
            (4.0, 7.0)
        """
        if isinstance(part, str):
            return self.build(part, *args, **options)
        if options:
            raise TypeError(
                f"options ({', '.join(options)}) are for {_article(self.kind)} given by name, and this one is a "
                f"{type(part).__name__}: set them when building it"
            )
        return part

    def __contains__(self, name: str) -> bool:
        return name in self.names()

    def _key(self, name: str, scope: Any) -> str:
        return f"{scope}/{name}" if self.scope else name

    def _name(self, key: str) -> str:
        return key.split("/", 1)[1] if self.scope else key

    def _find(self, name: Any, tags: dict[str, Any]) -> str:
        """Return the key of the one entry of this name and these tags."""
        self._load()
        keys = [
            key
            for key, own in self._tags.items()
            if self._name(key) == name and all(own.get(k) == v for k, v in tags.items())
        ]
        if len(keys) == 1:
            return keys[0]
        known = self.names(**{k: v for k, v in tags.items() if k == self.scope})
        if keys:
            raise KeyError(f"several {self.kind} entries are named {name!r}: say which by {self.scope}=")
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        of = f" for {tags[self.scope]}" if self.scope in tags else ""
        raise KeyError(f"unknown {self.kind} {name!r}{of}; {hint}Known: {', '.join(known) or 'none'}")

    def _load(self) -> None:
        self._home_loaded.run(self._import_home)
        Registry._plugins_loaded.run(_load_plugins)
        while _FAULTS:  # after all are loaded, since a warning may be an error
            warnings.warn(_FAULTS.pop(0), stacklevel=4)

    def _import_home(self) -> None:
        for module in self._home:
            importlib.import_module(module)


def _load_plugins() -> None:
    for entry in entry_points(group=PLUGIN_GROUP):
        try:
            entry.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a broken plug-in, also one that exits, must not take the library down
            _FAULTS.append(f"the plug-in {entry.name!r} ({entry.value}) failed to load: {_said(error)}")


def _said(error: BaseException) -> str:
    """Return the message of an error, or its type where it has none or raises another one."""
    text = ""
    with suppress(BaseException):
        text = ascii(str(error)[:500])[1:-1]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _import_of(builder: Any) -> Any:
    """Return what identifies the import of a builder's module: its spec, a new one after a reload."""
    return getattr(sys.modules.get(getattr(builder, "__module__", None) or ""), "__spec__", None)


def _is_rerun(old: Any, new: Any, imported: Any) -> bool:
    """Return whether a builder is the same definition as another, run once more in a notebook or a reloaded module."""
    names = [(getattr(b, "__module__", ""), getattr(b, "__qualname__", "")) for b in (old, new)]
    return names[0] == names[1] and (names[0][0] == "__main__" or _import_of(new) is not imported)


BACKBONES: Registry[Callable[..., Any]] = Registry("backbone", ("hccvision.backbones",))
NECKS: Registry[Callable[..., Any]] = Registry("neck", ("hccvision.necks",))
HEADS: Registry[Callable[..., Any]] = Registry("head", ("hccvision.heads",))
TASKS: Registry[Callable[..., Any]] = Registry("task", ("hccvision.tasks",))
MATCHERS: Registry[Callable[..., Any]] = Registry("matcher", ("hccvision.matchers",))
LOSSES: Registry[Callable[..., Any]] = Registry("loss", ("hccvision.losses",), scope="task")
AUGMENTATIONS: Registry[Callable[..., Any]] = Registry("augmentation", ("hccvision.augment",))
METRICS: Registry[Callable[..., Any]] = Registry("metric", ("hccvision.metrics",))
OPTIMISERS: Registry[Callable[..., Any]] = Registry("optimiser", ("hccvision.training.optimisers",))
SCHEDULES: Registry[Callable[..., Any]] = Registry("schedule", ("hccvision.training.schedules",))
IMAGE_FORMATS: Registry[Callable[..., Any]] = Registry("image format", ("hccvision.images.formats",))
ANNOTATION_FORMATS: Registry[Callable[..., Any]] = Registry("annotation format", ("hccvision.annotations",))
EXPORTERS: Registry[Callable[..., Any]] = Registry("exporter", ("hccvision.export",))
