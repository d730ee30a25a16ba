"""The command `normface bound`: say what the scale of a softmax allows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from .. import theory
from ..errors import ConfigError
from .terminal import Json, out

USUAL = (0.9, 0.99, 0.9999)


def bound(
    classes: Annotated[int, typer.Option(help="Number of classes (people) in training.")],
    scale: Annotated[
        float | None, typer.Option(help="Scale s of the cosines: print the lowest loss it allows.")
    ] = None,
    probability: Annotated[
        float | None,
        typer.Option(help="Probability that a well-classified sample should reach: print the scale it needs."),
    ] = None,
    dim: Annotated[int, typer.Option(help="Dimensions of the embedding; they determine the initial loss.")] = 512,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Plot the loss against the scale: FILE.svg or FILE.png.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the scale that a softmax on cosines needs, and the loss it can reach (Proposition 2 of the paper).

    Cosines lie in [-1, 1], so the loss cannot become small unless the scale is large enough, however good the features.
    Without `--scale` and `--probability`: prints a table of the usual choices.

    Examples: `normface bound --classes 10572`, `normface bound --classes 10572 --scale 1 --plot bound.svg`,
    `normface bound --classes 10572 --probability 0.9999`.
    """
    if scale is not None and probability is not None:
        raise ConfigError("--scale or --probability", "both", "give one, or neither for a table")
    asked = probability
    if asked is not None:
        scale = theory.scale_for_probability(classes, asked)
    if plot is not None:
        from ..report import plots

        plots.save(plots.bound(classes, dim, scale), plot, f"Loss bound against the scale for {classes} classes")
    usual = {p: theory.scale_for_probability(classes, p) for p in USUAL}
    if as_json:
        figures = {
            "classes": classes, "dim": dim, **(at_scale(classes, scale, dim) if scale is not None else {}),
            "adacos_scale": theory.adacos_scale(classes) if classes > 2 else None,
            "scale_for_probability": {f"{p:g}": s for p, s in usual.items()},
        }  # fmt: skip
        out.print_json(json.dumps(figures))
    elif scale is None:
        out.print(overview(classes, dim))
    else:
        found = at_scale(classes, scale, dim)
        least, start, best = (found[key] for key in ("loss_lower_bound", "initial_loss", "probability"))
        if asked is not None:
            text = f"With {classes:,} classes a probability of {asked:g} needs a scale of at least {scale:.2f}"
            reached = f": the loss starts near {start:.4g} and cannot fall below {least:.4g}."
            text += reached if asked * classes > 1 else " (any scale)."
        else:
            text = f"With {classes:,} classes and scale {scale:g} the loss cannot fall below {least:.4g} "
            text += f"(it starts near {start:.4g}); a sample can reach probability {_probability(best, least)} at best"
            text += f"; use a scale of at least {usual[0.9999]:.1f} for 99.99 %." if best < 0.9999 else "."
        out.print(text, soft_wrap=True)


def at_scale(classes: int, scale: float, dim: int) -> dict[str, float]:
    """Return the initial loss, the lower bound and the best probability at a scale."""
    if scale == 0:  # sufficient for a probability of at most 1/n: all classes stay equally likely
        least = start = math.log(classes)
    else:
        least, start = theory.loss_lower_bound(classes, scale), theory.initial_loss(classes, scale, dim)
    return {"scale": scale, "initial_loss": start, "loss_lower_bound": least, "probability": math.exp(-least)}


def overview(classes: int, dim: int) -> Table:
    """Return a table of the scales for the usual probabilities, of AdaCos and of other losses."""
    table = Table("scale", "chosen for", "best probability", "initial loss", "lowest loss")
    table.title = f"{classes:,} classes, {dim} dimensions"
    chosen = {f"{100 * p:g} %": theory.scale_for_probability(classes, p) for p in USUAL}
    chosen |= {"plain cosines": 1.0, "AM-Softmax": 30.0, "CosFace, ArcFace": 64.0}
    if classes > 2:  # for two classes it is 0
        chosen["AdaCos"] = theory.adacos_scale(classes)
    for name, scale in sorted(chosen.items(), key=lambda item: item[1]):
        found = at_scale(classes, scale, dim)
        table.add_row(
            f"{scale:.2f}", name, _probability(found["probability"], found["loss_lower_bound"]),
            f"{found['initial_loss']:.2f}", f"{found['loss_lower_bound']:.2g}",
        )  # fmt: skip
    return table


def _probability(value: float, least: float) -> str:
    """Format a probability so that a value below 1 is not rounded to 1."""
    return f"{value:.4g}" if value < 0.99995 or not least else f"1 - {-math.expm1(-least):.1e}"
