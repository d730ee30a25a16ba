"""Errors for users; the command line prints each as one line and exits with code 2.

    NormfaceError
    ├── InputError          an invalid argument, file or folder                  (also a ValueError)
    │   ├── DataError       photographs, archives, protocol lists, embeddings
    │   ├── FaceError       no usable face in a photograph
    │   ├── ConfigError     a recipe, an option, an unknown name
    │   └── ModelError      a checkpoint or an ONNX file that does not fit
    ├── TrainingError       the run cannot continue (its loss or weights are not finite)
    └── MissingDependency   an optional package is not installed                 (also an ImportError)

Every message says what was expected, what was found and what to do: `expected …, got …; do …`.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class NormfaceError(Exception):
    """Base class of all errors of this package; its text is `expected …, got …; do …` on one line."""

    def __init__(self, expected: str, got: str, do: str) -> None:
        super().__init__(expected, got, do)
        self.expected, self.got, self.do = expected, got, do

    def __str__(self) -> str:
        return " ".join(f"expected {self.expected}, got {self.got}; {self.do}".split())


class InputError(NormfaceError, ValueError):
    """An invalid argument, file or folder."""


class DataError(InputError):
    """Unusable photographs, archives, protocol lists or embeddings."""


class FaceError(InputError):
    """No usable face in a photograph."""


class ConfigError(InputError):
    """An invalid recipe or option, or an unknown name."""


class ModelError(InputError):
    """A checkpoint or an ONNX file that does not fit."""


class TrainingError(NormfaceError):
    """A training run that cannot continue."""


class MissingDependency(NormfaceError, ImportError):
    """An optional package that is not installed."""


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: `1 template`, `2,000 templates`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def reason(error: Exception) -> str:
    """Return an exception's text for a message that names the file itself: `no such file or directory`."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "text that is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"'{error}'"


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module. Raises MissingDependency with the command that installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependency(
            f"the package {module!r}", f"'{error}'", f"install it with: pip install 'normface[{extra}]'"
        ) from error
