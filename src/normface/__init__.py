"""Train, evaluate and serve face-verification embeddings on the unit hypersphere.

```python
import normface

match = normface.verify("examples/photographs/ann-1.jpg", "examples/photographs/ann-2.jpg")
print(match.decision)
```

```text
True
```
"""

from importlib import import_module

TYPE_CHECKING = False  # same name as typing's, whose import would take longer than this module
if TYPE_CHECKING:
    from . import errors, theory, types
    from .data import read_image
    from .embed import Embedder
    from .embed.embedder import verify
    from .gallery import open_gallery
    from .types import Embeddings, InputSpec, OperatingPoint, Result

    __version__: str

__all__ = [
    "Embedder", "Embeddings", "InputSpec", "OperatingPoint", "Result", "errors", "open_gallery", "read_image",
    "theory", "types", "verify",
]  # fmt: skip

_PLACES = {  # module of each name; modules are listed as themselves
    "Embedder": "embed", "verify": "embed.embedder", "open_gallery": "gallery", "read_image": "data",
    **dict.fromkeys(("Embeddings", "InputSpec", "OperatingPoint", "Result"), "types"),
}  # fmt: skip


def __getattr__(name: str) -> object:
    """Load a public name at its first use: NumPy alone takes longer than a command line may take to start."""
    if name == "__version__":  # the version in pyproject.toml at installation
        found: object = import_module("importlib.metadata").version(__name__)
    elif name in _PLACES:
        found = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    elif name in __all__:
        return import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
