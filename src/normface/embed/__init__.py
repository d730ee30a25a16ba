"""The bridge from images to Embeddings: load a model, embed crops or photographs, export to ONNX."""

from .embedder import Embedder
from .listed import certify, embed_listed, embed_pairs, keep_certificate
from .network import Network, certificate

__all__ = ["Embedder", "Network", "certificate", "certify", "embed_listed", "embed_pairs", "keep_certificate"]
