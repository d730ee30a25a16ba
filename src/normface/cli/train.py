"""The command `normface train`: train a model by a recipe."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError, require
from .terminal import Json, LabelColumn, Strict, err, open_checked, out, training_progress


def train(
    recipe: Annotated[str, typer.Argument(help="TOML file, or a built-in recipe such as small or normface.")],
    crops: Annotated[Path, typer.Option(help="Aligned crops in any format that `normface pack` reads.")],
    run: Annotated[Path, typer.Option("--out", help="Run folder for checkpoint, configuration and logs.")],
    start: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Run folder to start from, or `default`: the built-in model. Sets start.run."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override the recipe: --set optim.lr=0.05")
    ] = None,
    unlabelled: Annotated[
        Path | None, typer.Option(help="Additional crops without labels, for recipes with [distill].")
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="Teacher for recipes with [distill]: FILE.onnx or a name of `normface models`. Repeat "
            "for several (recipe ensemble).",
        ),
    ] = None,
    time_budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Train as many epochs as fit into this time (9m, 8h, 1h30m), by the speed of the first steps. With "
            "--resume, the plan of the run stays.",
        ),
    ] = None,
    label_column: LabelColumn = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint in --out.")] = False,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Train an embedding network on labeled faces.

    Ctrl-C saves a checkpoint and stops; the same command with `--resume` continues to the same result as an
    uninterrupted run. To use several GPUs or processes: `torchrun --nproc-per-node 4 --no-python normface train …`.
    They split batch and classes and compute the same as one process; `--resume` may use a different number of them.
    Watch the run with `tensorboard --logdir RUN`, or read `RUN/metrics.jsonl`.

    For `--time-budget 24h` over three nights, stop each night's part with `timeout -s INT 8h normface train …` and
    continue with the same command and `--resume`.

    Examples: `normface train small --crops crops --out runs/small`,
    `normface train finetune --start default --crops crops --out runs/tuned`.
    """
    require("torch", "train")
    from .. import dist
    from ..train import load_config
    from ..train import train as run_training
    from ..train.speed import within

    began = [] if start is None else [f"start.run={json.dumps(start)}"]
    taught = [f"distill.teacher={json.dumps(teacher[0] if len(teacher) == 1 else teacher)}"] if teacher else []
    plan = None if time_budget is None else within(seconds_of(time_budget))
    config = load_config(recipe, [*began, *taught, *(overrides or ())])
    reader = open_checked(crops, strict, label=label_column)
    more = None if unlabelled is None else open_checked(unlabelled, strict)
    with dist.joined(), training_progress("training") as update:
        outcome = run_training(config, reader, run, unlabelled=more, resume=resume, plan=plan, progress=update)
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
        err.print("normface: stopped and saved; run the same command with --resume to continue", soft_wrap=True)
        raise typer.Exit(130)


def seconds_of(text: str) -> float:
    """Convert a time such as 90s, 9m, 8h or 1h30m to seconds. Raises ConfigError for any other text."""
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s)?", text.strip())
    parts = found.groups("0") if found else ()
    seconds = sum(unit * float(part) for unit, part in zip((3600, 60, 1), parts, strict=False))
    if not seconds:
        raise ConfigError("a time such as 90s, 9m, 8h or 1h30m", repr(text), "correct --time-budget")
    return seconds
