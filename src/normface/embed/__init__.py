"""The bridge from images to Embeddings: load a model, embed crops or photographs, export to ONNX."""

from .embedder import Embedder, certificate

__all__ = ["Embedder", "certificate"]
