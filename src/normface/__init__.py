"""Train, evaluate and serve face-verification embeddings on the unit hypersphere."""

from importlib import import_module

TYPE_CHECKING = False  # type checkers take it for typing's, which takes longer to import than all of this
if TYPE_CHECKING:
    from . import errors, theory, types
    from .types import Embeddings, InputSpec, OperatingPoint, Result

    __version__: str

__all__ = ["Embeddings", "InputSpec", "OperatingPoint", "Result", "errors", "theory", "types"]


def __getattr__(name: str) -> object:
    """Load a public name at its first use: NumPy alone takes longer than a command line may take to start."""
    if name in ("errors", "theory", "types"):
        return import_module(f"{__name__}.{name}")
    if name == "__version__":  # pyproject.toml's, as it was installed
        found: object = import_module("importlib.metadata").version(__name__)
    elif name in __all__:
        found = getattr(import_module(f"{__name__}.types"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
