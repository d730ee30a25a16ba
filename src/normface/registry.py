"""Registries of named factories: `@LOSSES.register` adds one, `LOSSES.build(name, ...)` calls it.

Plug-ins add to the same registries: an entry point of the group `normface.plugins` names a module that registers
something when it is imported. The entry point's name is the registry's kind, such as `loss`, or begins with it
(`loss.circle`); only registries of that kind import the module (docs/plugins.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import cache, partial
from importlib import import_module
from itertools import chain
from pkgutil import iter_modules
from threading import RLock
from typing import Any, Generic, TypeVar

from .errors import ConfigError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
GROUP = "normface.plugins"
NEAR = 0.65  # difflib's similarity from which a name may be a typing error
REGISTRY_KINDS = ("detector", "figure", "gallery", "loss", "margin", "model", "protocol", "reader")
_log = logging.getLogger("normface")


class Registry(Generic[T]):
    """Factories of one kind, from the modules of `package` and from plug-ins, imported on first look-up."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._entries: dict[str, Callable[..., T]] = {}
        self._pending: Iterator[Callable[[], object]] = chain([self._modules], [self._plugins])
        self._loading = RLock()  # a second thread waits for the first thread's look-up

    def register(self, factory: F) -> F:
        """Register a factory under its `__name__` (a decorator). Raises ConfigError if the name is taken."""
        name = factory.__name__
        known = self._entries.get(name)
        if known is not None and known.__module__ != factory.__module__:
            raise ConfigError(
                f"an unused name for the {self.kind} of {factory.__module__}", f"{name!r} of {known.__module__}",
                "rename it",
            )  # fmt: skip
        self._entries[name] = factory
        return factory

    def __contains__(self, name: object) -> bool:
        self._import(lambda: name in self._entries)
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._import(lambda: False)
        return iter(sorted(self._entries))

    def __getitem__(self, name: str) -> Callable[..., T]:
        """Return the factory called `name`. Raises ConfigError for an unknown name."""
        if name not in self:
            raise ConfigError(f"a {self.kind} among {', '.join(self)}", repr(name), meant(name, self._entries))
        return self._entries[name]

    def about(self, name: str) -> str:
        """Return the first line of a factory's docstring, or an empty string."""
        return (self[name].__doc__ or "").strip().partition("\n")[0]

    def build(self, name: str, *args: Any, **kwargs: Any) -> T:
        """Call the factory called `name`. Raises ConfigError for an unknown name or argument."""
        from inspect import signature

        factory = self[name]
        try:
            signature(factory).bind(*args, **kwargs)
        except TypeError as error:
            raise ConfigError(f"arguments of {name}{signature(factory)}", f"'{error}'", "correct them") from error
        return factory(*args, **kwargs)

    def _import(self, enough: Callable[[], bool]) -> None:
        """Import modules that may have entries until there are `enough`.

        Plug-ins are imported only for names that the package lacks.
        """
        with self._loading:
            while not enough() and (step := next(self._pending, None)):
                step()

    def _modules(self) -> None:
        """Put the package's modules, one at a time, before the pending ones."""
        modules = iter_modules(import_module(self.package).__path__, self.package + ".")
        self._pending = chain([partial(import_module, module.name) for module in modules], self._pending)

    def _plugins(self) -> None:
        for point in _entry_points():
            if point.name.partition(".")[0] == self.kind:
                try:
                    point.load()
                except Exception as error:  # foreign code may raise any error; continue without it
                    _log.warning("plug-in %s (%s) skipped: %r", point.name, point.value, error)


def meant(name: str, known: Any) -> str:
    """Suggest what to do about an unknown name: the nearest name among `known`, if one is near."""
    nearest = get_close_matches(name, known, n=1, cutoff=NEAR)
    return f"did you mean {nearest[0]!r}?" if nearest else "choose one of them"


@cache
def _entry_points() -> tuple[Any, ...]:
    """The installed plug-ins."""
    from importlib.metadata import entry_points

    found = tuple(entry_points(group=GROUP))
    for point in found:
        if point.name.partition(".")[0] not in REGISTRY_KINDS:
            _log.warning(
                "plug-in %s (%s) skipped: its name must begin with one of %s",
                point.name, point.value, ", ".join(REGISTRY_KINDS),
            )  # fmt: skip
    return found
