"""The errors a user can meet; the command line turns each into one line and exit code 2.

    NormfaceError
    ├── InputError          an argument, file or folder is not what it must be   (also a ValueError)
    │   ├── DataError       photographs, archives, protocol lists, embeddings
    │   ├── FaceError       no usable face in a photograph
    │   ├── ConfigError     a recipe, an option, a name that is in no registry
    │   └── ModelError      a checkpoint or an ONNX file that does not fit
    ├── TrainingError       the run cannot go on (its loss or its weights are not finite)
    └── MissingDependency   an optional package is absent                        (also an ImportError)

Every message says what was expected, what was got and what to do.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class NormfaceError(Exception):
    """Base of all errors raised on purpose; its text is `expected …, got …; do …` on one line."""

    def __init__(self, expected: str, got: str, do: str) -> None:
        super().__init__(expected, got, do)
        self.expected, self.got, self.do = expected, got, do

    def __str__(self) -> str:
        return " ".join(f"expected {self.expected}, got {self.got}; {self.do}".split())


class InputError(NormfaceError, ValueError):
    """An argument, file or folder is not what it must be."""


class DataError(InputError):
    """Photographs, archives, protocol lists or embeddings that cannot be used."""


class FaceError(InputError):
    """No usable face in a photograph."""


class ConfigError(InputError):
    """A recipe, an option, or a name that is in no registry."""


class ModelError(InputError):
    """A checkpoint or an ONNX file that does not fit."""


class TrainingError(NormfaceError):
    """The run cannot go on."""


class MissingDependency(NormfaceError, ImportError):
    """An optional package is absent."""


def reason(error: Exception) -> str:
    """What another's exception says, for a message that names the file itself: `no such file or directory`."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "no text in UTF-8" if isinstance(error, UnicodeDecodeError) else f"'{error}'"


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module, or raise MissingDependency naming the extra that installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependency(
            f"the package {module!r}", f"'{error}'", f"install it with: pip install 'normface[{extra}]'"
        ) from error
