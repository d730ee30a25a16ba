"""Import of pretrained weights into a run folder, for export, evaluation or further training."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from torch import Tensor

from .. import models
from ..checkpoint import ORIGIN, check_fit, finished, write
from ..data import fetch
from ..errors import ConfigError, ModelError
from ..models import Model, Origin
from .config import TrainConfig

WITHIN = ("state_dict_backbone", "state_dict", "model_state_dict", "backbone", "model", "net")  # of checkpoints
PREFIXES = ("module.", "model.", "backbone.", "features.module.", "_orig_mod.", "net.")  # of wrappers, removed


def adopt(file: str | Path, run: Path, name: str | None = None, **options: Any) -> dict[str, str]:
    """Create a run folder from a pretrained state dict for the model called `name`.

    Opens checkpoints that hold the state dict beside other things, and removes the prefixes of wrappers (`module.`,
    `backbone.` and the like). Executes no code in the file: reads only tensors (`torch.load(weights_only=True)`, or
    safetensors). Knows by the names whose weights they are (`Model.origins`), translates them and drops the classifier.
    Without a name, the file must be one of `normface fetch`, recognized by its SHA-256.

    Returns:
        The origin for checkpoints and ONNX metadata: name, repository, license, SHA-256 of the file.

    Raises:
        ConfigError: a model without known pretrained weights, an option that the weights do not tell, an unknown file
            without a name, or an existing run.
        ModelError: a missing file, other contents than tensors, weights that are not finite, or other names and shapes
            than the model's.
    """
    data = _bytes(Path(file))
    sha256 = hashlib.sha256(data).hexdigest()
    if name is None:
        name, options = _known(sha256)
    theirs = _tensors(data, Path(file))
    origin, options = origin_of(name, theirs, options)
    if finished(run):
        raise ConfigError("a new folder for the run", f"{run} with a checkpoint", "give another --out")
    with torch.device("meta"):
        model = models.build(name, **options)
    state = translate(model, theirs, origin)
    if broken := [key for key, t in state.items() if not t.isfinite().all()]:
        raise ModelError("finite weights", f"NaN or infinity in {', '.join(broken[:3])}", "get the file again")
    config = TrainConfig.model_validate({"model": {"name": name, "options": options}})
    told = describe(origin, sha256)
    write(run, {f"model.{key}": t for key, t in state.items()}, config=config.model_dump(mode="json"), step=0,
          facts={"classes": 0, "images": 0, ORIGIN: told})  # fmt: skip
    return told


def _known(sha256: str) -> tuple[str, dict[str, Any]]:
    """The network, with its options, of a file that is pinned."""
    if sha256 not in fetch.weights():
        names = ", ".join(name for name, entry in fetch.ENTRIES.items() if isinstance(entry, fetch.Weights))
        raise ConfigError(
            "--model, or a file of normface fetch", f"a file with SHA-256 {sha256}",
            f"add --model with its network, or fetch one of {names}",
        )  # fmt: skip
    entry = fetch.weights()[sha256]
    return entry.model, dict(entry.options)


def describe(origin: Origin, sha256: str) -> dict[str, str]:
    """Convert an origin to JSON values."""
    return {"name": origin.name, "repository": origin.repository, "licence": origin.licence, "sha256": sha256}


def origin_of(name: str, theirs: Mapping[str, Tensor], options: Mapping[str, Any]) -> tuple[Origin, dict[str, Any]]:
    """Find whose weights these are, by the names of modules, and the options of the network that they need.

    Raises ConfigError for a network without known weights, or if the user must name an option.
    """
    with torch.device("meta"):
        model = models.build(name, **options)
    if not model.origins:
        raise ConfigError(
            "--model with known pretrained weights (lightcnn_b, lightcnn_29, iresnet…, vit_…)", repr(name),
            "give another --model, or use an ONNX file of the weights as --model of other commands",
        )  # fmt: skip
    origin = max(model.origins, key=lambda each: _unwrapped(theirs, _names(model, each).values())[1])
    for option in origin.asks:
        if option not in options:
            raise ConfigError(
                f"--{option} with weights of {origin.name}", f"no --{option}",
                f"give --{option} as in the YAML file beside them (there color_space)",
            )  # fmt: skip
    return origin, {**origin.options, **options}


def translate(model: Model, theirs: Mapping[str, Tensor], origin: Origin | None = None) -> dict[str, Tensor]:
    """Translate a state dict to the model's names. Raises ModelError if it does not fit.

    origin: whose it is; default: the model's first.
    """
    origin = origin or model.origin
    assert origin is not None
    names = _names(model, origin)
    given = _unwrapped(theirs, names.values())[0]
    given = {key: t for key, t in given.items() if not key.startswith(origin.left)} if origin.left else given
    shapes = {names[key]: t.shape for key, t in model.state_dict().items()}
    for key in shapes.keys() - given.keys():
        if key.endswith("num_batches_tracked"):  # older files lack this count, which inference does not use
            given[key] = torch.zeros((), dtype=torch.int64)
        for end, value in origin.constants.items():
            if key.endswith(end):
                given[key] = torch.full(shapes[key], value)
    check_fit(f"network ({origin.name} of {origin.repository})", shapes, {key: t.shape for key, t in given.items()})
    return {ours: given[name] for ours, name in names.items()}


def _unwrapped(theirs: Mapping[str, Tensor], wanted: Iterable[str]) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """Remove the prefixes of up to three wrappers if more names then are wanted ones; drop what lacks the prefixes.

    Returns the tensors, and how well they fit: how many names are wanted ones, and prefixes removed (less than 0).
    """
    wanted = set(wanted)
    best, fits = dict(theirs), (-1, 0)
    for depth in range(4):
        for prefixes in product(PREFIXES, repeat=depth):
            prefix = "".join(prefixes)
            inner = {key[len(prefix) :]: t for key, t in theirs.items() if key.startswith(prefix)}
            known = len(wanted & inner.keys())
            if known > fits[0]:
                best, fits = inner, (known, -depth)
    outer = {name.partition(".")[0] for name in wanted}
    if len(outer) == 1:  # a network within something else
        best = {key: t for key, t in best.items() if key.partition(".")[0] in outer}
    return best, fits


def _names(model: Model, origin: Origin) -> dict[str, str]:
    """The names of a network's tensors, here → there."""
    return {ours: _theirs(ours, origin) for ours in model.state_dict()}


def _theirs(ours: str, origin: Origin) -> str:
    """The longest module of ours that begins the name decides; a parameter of the network itself is named whole."""
    module = max((m for m in origin.modules if f"{ours}.".startswith(f"{m}.")), key=len)
    return origin.modules[module] + ours[len(module) :]


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        do = f"first: normface fetch {file}" if str(file) in fetch.ENTRIES else "correct the path"
        raise ModelError(f"a state dict at {file}", f"'{error.strerror}'", do) from error


def _tensors(data: bytes, file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of PyTorch's own, by name."""
    try:
        found = from_safetensors(data) if file.suffix == ".safetensors" else torch.load(
            io.BytesIO(data), map_location="cpu", weights_only=True
        )  # fmt: skip
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ModelError(
            "a state dict with tensors only, from torch.save or safetensors",
            f"{file} ('{str(error).splitlines()[0] if str(error) else type(error).__name__}')",
            "save it again: torch.save(model.state_dict(), FILE)",
        ) from error
    if isinstance(found, dict):  # a whole checkpoint
        found = next((found[key] for key in WITHIN if isinstance(found.get(key), dict)), found)
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise ModelError("a mapping of names to tensors", f"{type(found).__name__} in {file}", "save the state dict")
    return dict(found)
