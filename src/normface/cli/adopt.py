from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import require
from .terminal import Json, out


def adopt(
    file: Annotated[Path, typer.Argument(help="A state dict: .pt, .pth or .safetensors.")],
    run: Annotated[Path, typer.Option("--out", help="The run folder to make.")],
    model: Annotated[
        str | None,
        typer.Option(help="Which network it is of: lightcnn_b, iresnet18, … Files of `normface fetch` need none."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Take over weights that others trained, as a run folder.

    `normface export`, `normface evaluate --model RUN` and `normface train … --set start.run=RUN` go on from there.
    Known are the authors' Light CNN (B and 29), InsightFace's arcface_torch (IResNet), and the weights that
    `normface fetch` lists, these by their SHA-256. Whose they are, under which licence, and the file's SHA-256 go
    along into all that is made of them. Nothing is executed.

    Example: `normface fetch mobilefacenet-foamliu --accept-terms`, then
    `normface adopt data/mobilefacenet-foamliu.pt --out runs/theirs`
    """
    require("torch", "train")
    from ..train import Checkpoint
    from ..train import adopt as take

    told = take(file, run, model)
    network = Checkpoint.read(run).config["model"]["name"]
    if as_json:
        out.print_json(json.dumps({"run": str(run), "model": network, **told}))
    else:
        out.print(f"{run}: {network} of {told['name']} ({told['repository']})", soft_wrap=True)
        out.print(f"licence of the weights: {told['licence']}", soft_wrap=True)
