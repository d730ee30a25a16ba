"""The command `normface adopt`: convert weights of others to an ONNX model with its input specification."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError, require
from .terminal import Json, out


def adopt(
    file: Annotated[Path, typer.Argument(help="State dict: .pt, .pth or .safetensors.")],
    run: Annotated[Path, typer.Option("--out", help="Run folder to create.")],
    model: Annotated[
        str | None,
        typer.Option(help="Network of the weights, such as iresnet18. Not needed for files of `normface fetch`."),
    ] = None,
    dim: Annotated[
        int | None, typer.Option(min=1, help="Length of the embeddings, if not the network's usual.")
    ] = None,
    order: Annotated[
        str | None, typer.Option(help="Color channels of the network, RGB or BGR, if its weights do not tell.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Import pretrained weights from other projects as a run folder.

    Use the folder with `normface export`, `normface evaluate --model RUN` or `normface train … --set start.run=RUN`.
    Opens whole checkpoints (`state_dict_backbone` and others), and removes the prefixes that wrappers add to names.
    Supports the authors' Light CNN (B and 29), InsightFace's arcface_torch (IResNet and transformers), AdaFace, CVLface
    and MagFace, each known by the names in the file, and the weights that `normface fetch` lists, known by their
    SHA-256. Every model made from the file records its origin, license
    and SHA-256. Reading the file executes no code.

    Example: `normface fetch mobilefacenet-foamliu --accept-terms`, then
    `normface adopt data/mobilefacenet-foamliu.pt --out runs/theirs`
    """
    require("torch", "train")
    from ..train import Checkpoint
    from ..train import adopt as take

    options = {key: value for key, value in (("dim", dim), ("order", order)) if value is not None}
    if options and model is None:
        raise ConfigError(
            f"--model with --{next(iter(options))}", "no --model", "add --model with the network of the weights"
        )
    told = take(file, run, model, **options)
    network = Checkpoint.read(run).config["model"]["name"]
    if as_json:
        out.print_json(json.dumps({"run": str(run), "model": network, **told}))
    else:
        out.print(f"{run}: {network} of {told['name']} ({told['repository']})", soft_wrap=True)
        out.print(f"license of the weights: {told['licence']}", soft_wrap=True)
