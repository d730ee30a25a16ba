"""Lazy imports of a package's names on first use (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module


def attach(package: str, **modules: str) -> Callable[[str], object]:
    """Return a `__getattr__` for `package`; `modules` maps each module to its names, separated by spaces."""
    places = {name: module for module, names in modules.items() for name in names.split()}

    def load(name: str) -> object:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found: object = getattr(import_module(f"{package}.{places[name]}"), name)
        setattr(sys.modules[package], name, found)
        return found

    return load
