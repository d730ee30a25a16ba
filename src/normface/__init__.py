"""Train, evaluate and serve face-verification embeddings on the unit hypersphere."""

from importlib.metadata import version

from . import errors, theory, types
from .types import Embeddings, InputSpec, OperatingPoint, Result

__version__ = version("normface")
__all__ = ["Embeddings", "InputSpec", "OperatingPoint", "Result", "errors", "theory", "types"]
