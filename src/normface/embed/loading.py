"""Loading of a Network from a run folder, an ONNX file, or the default model."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from ..errors import ConfigError, ModelError, require
from .network import Network
from .session import open_onnx

RunPrecision = Literal["auto", "fp32", "bf16"]
DEFAULT = Path(str(files("normface") / "weights" / "default.onnx"))


def load_network(
    model: str | Path | None = None, *, certified: bool = True, precision: RunPrecision = "fp32"
) -> Network:
    """Load a run folder (by PyTorch), an ONNX file (by ONNX Runtime) or, with None, the default model.

    Options and errors: see `Embedder.load`.
    """
    if precision not in get_args(RunPrecision):
        raise ConfigError(f"precision among {', '.join(get_args(RunPrecision))}", repr(precision), "correct precision")
    if model is None and not DEFAULT.is_file():
        raise ModelError(
            "a model", "none, and no default model ships yet",
            "name one: --model RUN or --model FILE.onnx (train it with: normface train, or: normface demo)",
        )  # fmt: skip
    path = DEFAULT if model is None else Path(model)
    if path.is_dir():
        if precision == "bf16":
            raise ConfigError(
                "--precision bf16 with an ONNX file", f"the run {path}", f"export it: normface export {path} FILE.onnx"
            )
        require("torch", "train")
        from .pytorch import open_run

        return open_run(path, certified=certified)
    network = open_onnx(path, certified=certified)
    if precision == "fp32" or (precision == "auto" and (network.device == "gpu" or find_spec("torch") is None)):
        return network
    require("torch", "train")
    from .bf16 import in_bf16, pays

    return network if precision == "auto" and not pays(path) else in_bf16(network, path, precision)
