from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import require
from .terminal import Json, out


def adopt(
    file: Annotated[Path, typer.Argument(help="A state dict: .pt, .pth or .safetensors.")],
    model: Annotated[str, typer.Option(help="Which network it is of: lightcnn_b, lightcnn_29, iresnet18, …")],
    run: Annotated[Path, typer.Option("--out", help="The run folder to make.")],
    as_json: Json = False,
) -> None:
    """Take over weights that others trained, as a run folder.

    `normface export`, `normface evaluate --model RUN` and `normface train … --set start.run=RUN` go on from there.
    Known are the authors' Light CNN (B and 29) and InsightFace's arcface_torch (IResNet). Whose they are, under which
    licence, and the file's SHA-256 go along into all that is made of them. Nothing is downloaded, nothing executed.
    """
    require("torch", "train")
    from ..train import adopt as take

    told = take(file, run, model)
    if as_json:
        out.print_json(json.dumps({"run": str(run), "model": model, **told}))
    else:
        out.print(f"{run}: {model} of {told['name']} ({told['repository']})", soft_wrap=True)
        out.print(f"licence of the weights: {told['licence']}", soft_wrap=True)
