"""The bridge from images to Embeddings: load a model, embed crops or photographs, export to ONNX."""

from .embedder import Embedder
from .listed import certify, embed_listed, embed_pairs, keep_certificate
from .network import Network, certificate
from .seen import Portrait, Seen, covered, refuse_outside

__all__ = [
    "Embedder", "Network", "Portrait", "Seen", "certificate", "certify", "covered", "embed_listed", "embed_pairs",
    "keep_certificate", "refuse_outside",
]  # fmt: skip
