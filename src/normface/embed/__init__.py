"""From images to Embeddings: load a model, embed crops or photographs, export to ONNX."""

import warnings
from typing import TYPE_CHECKING, Any

from ..faces.finding import Portrait
from ..lazy import attach
from .embedder import Embedder
from .network import Network, certificate
from .people import FaceGallery
from .seen import FaceRecord, covered, refuse_outside

if TYPE_CHECKING:
    from .grouping import assign_vectors, group_vectors
    from .listed import (
        certify,
        embed_listed,
        embed_pairs,
        embed_photographs,
        embed_videos,
        has_videos,
        keep_certificate,
    )
    from .tracks import Track

__all__ = [
    "Embedder", "FaceGallery", "FaceRecord", "Network", "Portrait", "Track", "assign_vectors", "certificate", "certify",
    "covered", "embed_listed", "embed_pairs", "embed_photographs", "embed_videos", "group_vectors", "has_videos",
    "keep_certificate", "refuse_outside",
]  # fmt: skip

# Loaded on first use: these need protocols or SciPy, or are rarely needed.
_later = attach(
    __name__,
    grouping="assign_vectors group_vectors",
    tracks="Track",
    listed="certify embed_listed embed_pairs embed_photographs embed_videos has_videos keep_certificate",
)


def __getattr__(name: str) -> Any:
    if name == "Seen":
        warnings.warn("normface.embed.Seen is now normface.embed.FaceRecord", DeprecationWarning, stacklevel=2)
        return FaceRecord
    return _later(name)
