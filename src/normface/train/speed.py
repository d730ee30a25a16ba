"""Training speed of a configuration on this machine, measured over its first steps."""

from __future__ import annotations

import time

from ..data import Reader
from . import memory
from .config import TrainConfig
from .loader import Batches
from .loop import learn
from .state import State


def images_per_second(config: TrainConfig, reader: Reader, *, steps: int = 24, first: int = 8) -> float:
    """Measure the training speed of one process in images/s, without checkpoints and logs; writes nothing.

    Excludes the `first` steps, in which memory is allocated and the loader runs ahead of the network.
    """
    memory.keep()
    state = State(config, len(reader.identities))
    batches = Batches(reader, state.model.spec, config.data, batch=config.optim.batch, seed=config.seed)
    ends = []
    for batch in batches.run(0, steps, state.device):
        loss, _ = learn(state, batch, None, 0)
        state.step(0.0)
        loss.item()  # a GPU is still at work until then
        ends.append(time.perf_counter())
    return config.optim.batch * (steps - first) / (ends[-1] - ends[first - 1])
