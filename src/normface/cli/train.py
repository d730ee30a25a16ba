from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import require
from .terminal import Json, Strict, err, open_checked, out, training_progress


def train(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or a recipe that ships: small, normface, …")],
    crops: Annotated[
        Path, typer.Option(help="Aligned crops: a folder of one folder a person, a zip of that, a pack, a .rec, tars.")
    ],
    run: Annotated[Path, typer.Option("--out", help="Folder of the run: checkpoint, configuration, logs.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: --set optim.lr=0.05")
    ] = None,
    unlabelled: Annotated[
        Path | None, typer.Option(help="More crops, for the teacher of a recipe with [distill] alone.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Train an embedding network on labelled faces.

    Ctrl-C saves and stops; the same command with `--resume` goes on to the same numbers.
    On several GPUs, or processes: `torchrun --nproc-per-node 4 --no-python normface train …`; they share batch and
    classes and compute what one would, and `--resume` may use another number.
    Watch it with `tensorboard --logdir RUN`, or read `RUN/metrics.jsonl`.
    """
    require("torch", "train")
    from .. import dist
    from ..train import load_config
    from ..train import train as run_training

    config = load_config(recipe, overrides or ())
    reader = open_checked(crops, strict)
    more = None if unlabelled is None else open_checked(unlabelled, strict)
    with dist.joined(), training_progress("training") as update:
        outcome = run_training(config, reader, run, unlabelled=more, resume=resume, progress=update)
        first = dist.rank() == 0
    figures = {
        "run": str(run), "step": outcome.step, "total": outcome.total, "finished": outcome.finished,
        "loss": outcome.loss, "images_per_second": round(outcome.images_per_second, 1),
    }  # fmt: skip
    if not first:
        raise typer.Exit(0 if outcome.finished else 130)
    if as_json:
        out.print_json(json.dumps(figures))
    elif outcome.loss is None:
        out.print(f"{run}: already finished, all {outcome.total} steps", soft_wrap=True)
    else:
        text = f"{run}: step {outcome.step} of {outcome.total}, loss {outcome.loss:.4f}"
        out.print(f"{text}, {outcome.images_per_second:.0f} images/s", soft_wrap=True)
    if not outcome.finished:
        err.print("normface: stopped early and saved; the same command with --resume goes on", soft_wrap=True)
        raise typer.Exit(130)
