"""Loading of a Network from a run folder, an ONNX file, the catalogue, or the default model."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from ..data.catalogue import fetched, find, listed_as
from ..errors import ConfigError, ModelError, require
from ..inference import Device
from .network import Network
from .session import open_onnx

RunPrecision = Literal["auto", "fp32", "bf16"]
DEFAULT = Path(str(files("normface") / "weights" / "default.onnx"))


def load_network(
    model: str | Path | None = None,
    *,
    certified: bool = True,
    precision: RunPrecision = "fp32",
    device: Device = "auto",
) -> Network:
    """Load a run folder (by PyTorch), an ONNX file or a fetched model by its name (by ONNX Runtime), or the default.

    Options and errors: see `Embedder.load`.
    """
    if precision not in get_args(RunPrecision):
        raise ConfigError(f"precision among {', '.join(get_args(RunPrecision))}", repr(precision), "correct precision")
    path = model_path(model)
    if path.is_dir():
        if precision == "bf16":
            raise ConfigError(
                "--precision bf16 with an ONNX file", f"the run {path}", f"export it: normface export {path} FILE.onnx"
            )
        if device not in ("auto", "cpu"):
            raise ConfigError(f"--device {device} with an ONNX file", f"the run {path}",
                              f"export it: normface export {path} FILE.onnx")  # fmt: skip
        require("torch", "train")
        from .pytorch import open_run

        return open_run(path, certified=certified)
    network = open_onnx(path, certified=certified, device=device)
    if precision == "fp32" or (precision == "auto" and (network.device != "cpu" or find_spec("torch") is None)):
        return network
    require("torch", "train")
    from .bf16 import in_bf16, pays

    return network if precision == "auto" and not pays(path) else in_bf16(network, path, precision)


def model_path(model: str | Path | None) -> Path:
    """Return the path of a model: the default model for None, the fetched file for a name in the catalogue.

    Raises ConfigError for the name of a detector, ModelError if there is no such file.
    """
    if model is None:
        if not DEFAULT.is_file():
            raise ModelError(
                "a model", "none, and no default model ships yet",
                "name one: --model RUN or --model FILE.onnx (train it with: normface train, or: normface demo)",
            )  # fmt: skip
        return DEFAULT
    if listed_as(model):
        return fetched(find(str(model), "recognizer"))
    if not Path(model).exists():
        raise ModelError(
            "an ONNX file, a run folder or a model of the catalogue", f"nothing at {model}",
            "correct the path, train it first, or list the names: normface models",
        )  # fmt: skip
    return Path(model)
