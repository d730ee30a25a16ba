"""The bridge from images to Embeddings: load a model, embed crops or photographs, export to ONNX."""

from .embedder import Embedder, certificate
from .listed import certify, embed_listed, embed_pairs, keep_certificate

__all__ = ["Embedder", "certificate", "certify", "embed_listed", "embed_pairs", "keep_certificate"]
