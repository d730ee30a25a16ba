"""Names for interchangeable parts: `@LOSSES.register` over a factory, `LOSSES.build(name, ...)` to use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from pkgutil import iter_modules
from threading import RLock
from typing import Any, Generic, TypeVar

from .errors import ConfigError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Registry(Generic[T]):
    """Factories of one kind, found in the modules of `package`, which the first look-up imports."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._entries: dict[str, Callable[..., T]] = {}
        self._loaded = False
        self._loading = RLock()  # a second thread waits for the first one's look-up

    def register(self, factory: F) -> F:
        """Decorate a factory; its `__name__` is the public name."""
        self._entries[factory.__name__] = factory
        return factory

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._entries))

    def __getitem__(self, name: str) -> Callable[..., T]:
        """The factory called `name`. Raises ConfigError for a name it does not have."""
        self._load()
        if name not in self._entries:
            nearest = get_close_matches(name, self._entries, n=1, cutoff=0)
            raise ConfigError(f"a {self.kind} among {', '.join(self)}", repr(name), f"did you mean {nearest[0]!r}?")
        return self._entries[name]

    def build(self, name: str, *args: Any, **kwargs: Any) -> T:
        """Call the factory called `name`. Raises ConfigError for a name or an argument it does not have."""
        factory = self[name]
        try:
            signature(factory).bind(*args, **kwargs)
        except TypeError as error:
            raise ConfigError(f"arguments of {name}{signature(factory)}", f"'{error}'", "correct them") from error
        return factory(*args, **kwargs)

    def _load(self) -> None:
        with self._loading:
            if not self._loaded:
                self._loaded = True
                for module in iter_modules(import_module(self.package).__path__, self.package + "."):
                    import_module(module.name)
