"""Training: a typed configuration and labelled crops in, a run folder out."""

from pathlib import Path

from ..embed import Embedder
from ..embed.network import network
from .checkpoint import Checkpoint, load_model, operating_point
from .config import TrainConfig, load_config
from .loop import Outcome, train

__all__ = [
    "Checkpoint", "Outcome", "TrainConfig", "embedder", "load_config", "load_model", "operating_point", "train",
]  # fmt: skip


def embedder(run: str | Path) -> Embedder:
    """The Embedder of a run folder, by PyTorch in float32. Raises ModelError for anything else."""
    model, sha256 = load_model(run)
    name = Path(run).name
    return Embedder(network(model), model.spec, sha256=sha256, operating_point=operating_point(run), name=name)
