"""Training: a typed configuration and labelled crops in, a run folder out."""

from pathlib import Path

from ..embed import Embedder
from ..embed.network import network
from .adopt import adopt
from .checkpoint import Checkpoint, load_model, operating_point
from .config import TrainConfig, load_config
from .doctor import Diagnosis, Run, diagnose
from .loop import Outcome, train
from .sgd import RowSGD

__all__ = [
    "Checkpoint", "Diagnosis", "Outcome", "RowSGD", "Run", "TrainConfig", "adopt", "diagnose", "embedder",
    "load_config", "load_model", "operating_point", "train",
]  # fmt: skip


def embedder(run: str | Path, *, certified: bool = True) -> Embedder:
    """The Embedder of a run folder, by PyTorch in float32; `certified` as in `Embedder.load`.

    Raises ModelError for anything else, or a certificate of other weights.
    """
    model, sha256 = load_model(run)
    name, point = Path(run).name, operating_point(run) if certified else None
    return Embedder(network(model), model.spec, sha256=sha256, operating_point=point, name=name)
