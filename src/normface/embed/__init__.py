"""The bridge from images to Embeddings: load a model, embed crops or photographs, export to ONNX."""

from typing import TYPE_CHECKING

from ..lazy import attach
from .embedder import Embedder
from .network import Network, certificate
from .seen import Portrait, Seen, covered, refuse_outside

if TYPE_CHECKING:
    from .listed import certify, embed_listed, embed_pairs, embed_photographs, keep_certificate

__all__ = [
    "Embedder", "Network", "Portrait", "Seen", "certificate", "certify", "covered", "embed_listed", "embed_pairs",
    "embed_photographs", "keep_certificate", "refuse_outside",
]  # fmt: skip

__getattr__ = attach(
    __name__, listed="certify embed_listed embed_pairs embed_photographs keep_certificate"
)  # these need protocols
