from __future__ import annotations

import json
from typing import Annotated

import typer

from .. import theory
from ..errors import ConfigError
from .terminal import Json, out


def bound(
    classes: Annotated[int, typer.Option(help="Number of classes (people) in training.")],
    scale: Annotated[float | None, typer.Option(help="Scale s of the cosines: how low can the loss fall?")] = None,
    probability: Annotated[
        float | None,
        typer.Option(help="Probability a well-classified sample shall reach: which scale does it need?"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Which scale does the softmax on cosines need? (Proposition 2 of the paper.)

    Cosines lie in [-1, 1], so without a large enough scale the loss cannot become small, however good the features.

    Examples: `normface bound --classes 10572 --scale 1`, `normface bound --classes 10572 --probability 0.9999`.
    """
    if (scale is None) == (probability is None):
        raise ConfigError("either --scale or --probability", "both" if scale is not None else "neither", "give one")
    if scale is not None:
        least = theory.loss_lower_bound(classes, scale)
        figures = {"classes": classes, "scale": scale, "loss_lower_bound": least}
        text = f"With {classes:,} classes and scale {scale:g} the loss cannot fall below {least:.4g}."
    else:
        assert probability is not None
        needed = theory.scale_for_probability(classes, probability)
        figures = {"classes": classes, "probability": probability, "scale": needed}
        text = f"With {classes:,} classes a probability of {probability:g} needs a scale of at least {needed:.2f}."
    out.print(json.dumps(figures) if as_json else text, soft_wrap=True)
