"""Protocols: Embeddings in, a Result out, with intervals; never a model, never an image."""

from ..registry import Registry
from ..types import Result

__all__ = [
    "PROTOCOLS", "blufr", "compare", "gate", "lfw", "lfw_view1", "operating_point", "read_blufr", "read_lfw_pairs",
    "scores",
]  # fmt: skip

PROTOCOLS: Registry[Result] = Registry("protocol", __name__)

from .blufr import blufr, read_blufr  # noqa: E402 - they register themselves above
from .compare import compare  # noqa: E402
from .gate import gate  # noqa: E402
from .operating_point import operating_point  # noqa: E402
from .pairs import lfw, lfw_view1, read_lfw_pairs, scores  # noqa: E402
