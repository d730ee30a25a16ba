"""Training speed of a configuration on this machine, measured over its first steps, and what fits into a time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from .. import dist
from ..data import Reader
from ..errors import ConfigError
from . import memory
from .config import TrainConfig
from .distill import Distillation, distillation_of
from .loader import Batches, Mixed
from .loop import learn
from .state import State

STEPS, FIRST = 24, 8
SPARE = 0.95  # of a time budget: the rest goes into checkpoints and the start
PART = 0.1  # of a time budget that the first steps may take
_log = logging.getLogger("normface")


def images_per_second(
    config: TrainConfig, images: Reader | Mixed, *, steps: int = STEPS, first: int = FIRST, limit: float = math.inf
) -> float:
    """Measure the training speed of one process in images/s, without checkpoints and logs; writes nothing.

    Excludes the `first` steps, in which memory is allocated and the loader runs ahead of the network. Teachers are
    asked for every view. Ends early, after three steps or more, when `limit` seconds are over.
    """
    memory.keep()
    state = State(config, len(images.identities))
    teacher = _asking(config, images, state)
    spec = teacher.view_spec if teacher else state.model.spec
    batches = Batches(images, spec, config.data, batch=config.optim.batch, seed=config.seed)
    ends = []
    for batch in batches.run(0, steps, state.device):
        loss, _ = learn(state, batch, teacher, 0)
        state.step(0.0)
        loss.item()  # a GPU is still at work until then
        ends.append(time.perf_counter())
        if len(ends) > 2 and ends[-1] - ends[0] > limit:
            break
    first = min(first, len(ends) // 3)
    return config.optim.batch * (len(ends) - first) / (ends[-1] - ends[first - 1])


def seconds_to_ask(config: TrainConfig, images: Reader | Mixed, *, rounds: int = 4) -> float:
    """Measure the seconds per image that the teachers take; 0 without teachers."""
    state = State(config, len(images.identities))
    teacher = _asking(config, images, state)
    if teacher is None:
        return 0.0
    size = teacher.view_spec.height, teacher.view_spec.width
    pixels = torch.full((config.optim.batch, 3, *size), 127.5, device=state.device)
    rows = torch.arange(len(pixels)).numpy()
    ends = []
    for _ in range(rounds):
        _ = [each.sum().item() for each in teacher.embed(pixels, rows, 0)]
        ends.append(time.perf_counter())
    return (ends[-1] - ends[0]) / (rounds - 1) / len(pixels)


def epochs_in(seconds: float, images: int, speed: float, *, views: int = 0, kept_speed: float = 0.0) -> float:
    """Return the number of epochs over so many images that fit into a time, at so many images/s.

    views, kept_speed: epochs after which the teachers' embeddings are on disk, and the speed from then on.
    """
    first = views * images / speed
    if not views or seconds <= first:
        return seconds * speed / images
    return views + (seconds - first) * kept_speed / images


def within(seconds: float) -> Callable[[TrainConfig, Reader | Mixed], TrainConfig]:
    """Return a plan for `train.train`: as many epochs as fit into the time from now, by the first steps' speed.

    The time of the measurement counts; validation does not. Raises ConfigError for less time than that, or on several
    ranks.
    """
    began = time.perf_counter()

    def plan(config: TrainConfig, images: Reader | Mixed) -> TrainConfig:
        if dist.world() > 1:
            raise ConfigError("one rank with a time budget", f"{dist.world()} ranks", "set optim.epochs instead")
        speed, kept, views = images_per_second(config, images, limit=PART * seconds), 0.0, config.distill.views or 0
        if views:
            kept = 1 / max(1 / speed - seconds_to_ask(config, images), 0.05 / speed)
        spent = time.perf_counter() - began
        left = SPARE * seconds - spent
        if left * speed < config.optim.batch:
            raise ConfigError(
                f"a time budget of more than {spent:.0f} s, which the first steps take", f"{seconds:g} s", "give more"
            )
        epochs = round(epochs_in(left, len(images), speed, views=views, kept_speed=kept), 4)
        _log.info("%.0f images/s: %g epochs over %s images in %.0f s", speed, epochs, f"{len(images):,}", left)
        return config.model_copy(update={"optim": config.optim.model_copy(update={"epochs": epochs})})

    return plan


def _asking(config: TrainConfig, images: Reader | Mixed, state: State) -> Distillation | None:
    """The distillation of a configuration, which keeps nothing."""
    asking = config.model_copy(update={"distill": config.distill.model_copy(update={"views": None})})
    teacher = distillation_of(asking, state.model, Path(), images.ids.tolist(), state.device)
    if teacher:
        state.add("distill", teacher.matching)
    return teacher
