"""The plan of the demo: which ways of training it compares, how each is configured, and how many epochs fit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data import Reader
from .terminal import err

if TYPE_CHECKING:
    from ..train import TrainConfig

PLAIN, UNSCALED, NORMFACE, GROWING = (
    "plain softmax", "unit vectors, no scale", "NormFace", "NormFace with growing margin",
)  # fmt: skip
# Networks, largest first: the first that can train for enough epochs in the given time is used.
NETWORKS: tuple[dict[str, Any], ...] = (
    {"channels": (16, 64, 128, 256), "units": (1, 1, 2), "stem": 2},
    {"channels": (32, 64, 128), "units": (1, 2), "stem": 4},
    {"channels": (16, 32, 64, 128), "units": (1, 1, 1), "stem": 4},
)


@dataclass(frozen=True)
class Plan:
    """The plan for drawn or for real faces.

    Attributes:
        rows: the ways of training.
        minutes: default duration of the whole demo.
        networks: candidates, largest first.
        batch: images per step.
        angle, scale, growth: for the last row: ArcFace's margin, the final scale, and the share of the run during which
            both grow.
        enough, least, most: minimum epochs for a larger network, and the limits of the epochs.
        each, rest: seconds per row apart from its training steps, and seconds for everything else.
    """

    rows: tuple[str, ...]
    minutes: float
    networks: tuple[dict[str, Any], ...]
    batch: int
    angle: float
    scale: float
    growth: float
    enough: float
    least: float
    most: float
    each: float
    rest: float


PLANS = {
    "drawn": Plan(
        (PLAIN, UNSCALED, NORMFACE, GROWING), 3.25, NETWORKS[-1:], 32, 0.3, 20.0, 0.5, 2, 2, 8, each=4, rest=25
    ),
    "real": Plan((PLAIN, NORMFACE, GROWING), 25.0, NETWORKS, 64, 0.5, 30.0, 1.0, 6, 3, 10, each=40, rest=60),
}


def planned(
    kind: Plan, faces: Reader, minutes: float, epochs: float | None, began: float
) -> tuple[dict[str, Any], float]:
    """Choose the network, and the number of epochs that fit into the remaining time."""
    if epochs is not None:
        return kind.networks[-1], epochs
    from ..train.speed import epochs_in, images_per_second

    say(began, "timing the first training steps …")
    for network in kind.networks:
        speed = images_per_second(configuration(PLAIN, network, kind, 1.0), faces)
        left = 60 * minutes - (time.perf_counter() - began) - kind.rest - kind.each * len(kind.rows)
        fitting = epochs_in(left / len(kind.rows), len(faces), speed)
        if fitting >= kind.enough:
            break
    chosen = round(min(max(fitting, kind.least), kind.most), 1)
    seconds = time.perf_counter() - began + kind.rest
    seconds += len(kind.rows) * (kind.each + chosen * len(faces) / speed)
    say(
        began,
        f"{speed:.0f} images/s here: {len(kind.rows)} trainings of {chosen:g} epochs over {len(faces):,} images, "
        f"about {seconds / 60:.1f} minutes in all (--minutes {minutes:g})",
    )
    return network, chosen


def configuration(name: str, network: dict[str, Any], kind: Plan, epochs: float, seed: int = 0) -> TrainConfig:
    """Return the recipe of a row; only the loss differs between rows."""
    from ..train import load_config

    overrides = [f"optim.epochs={epochs}", f"seed={seed}", "compile=false"]  # compiling takes longer than it saves here
    config = load_config("softmax" if name == PLAIN else "normface", overrides)
    options: dict[str, Any] = config.loss.options
    if name == UNSCALED:
        options = {"normalize": "both", "scale": 1.0, "learn_scale": False}
    elif name == GROWING:
        margin = {"name": "Gradual", "of": {"name": "ArcFace", "angle": kind.angle}, "until": kind.growth}
        options = {"scale": kind.scale, "learn_scale": False, "growth": kind.growth, "margin": margin}
    return config.model_copy(update={
        "model": config.model.model_copy(update={"options": network}),
        "optim": config.optim.model_copy(update={"batch": kind.batch}),
        "loss": config.loss.model_copy(update={"options": options}),
    })  # fmt: skip


def say(began: float, text: str) -> None:
    """Print a progress line with the elapsed time on stderr."""
    err.print(f"[{time.perf_counter() - began:4.0f} s] {text}", soft_wrap=True, markup=False)
